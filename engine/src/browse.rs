//! Looking through a queue without taking anything.

use std::{collections::VecDeque, fmt, sync::Arc};

use fanlog_segment_format::Offset;

use crate::{
    Damage, Payload, Result,
    core::Core,
    deliver::{Fields, Guard, Part},
    log::{Sought, view::View},
    queue::Queue,
};

/// A message as [`Engine::browse`](crate::Engine::browse) shows it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Browsed {
    /// Its place in the log.
    pub offset: Offset,
    /// The queue has acked it, durably; its bytes are still stored.
    pub acked: bool,
    /// The routing key that it was published with.
    pub routing_key: Vec<u8>,
    /// Its bytes; empty if they are damaged.
    pub payload: Payload,
    /// Where its bytes are damaged, if they are.
    pub damage: Option<Damage>,
}

/// Messages of a queue, acked or not, in the order of offsets. Shows what is stored when it gets
/// there.
pub struct Browser {
    core: Arc<Core>,
    queue: Arc<Queue>,
    next: Offset,
    place: Option<(View, Arc<Guard>, VecDeque<u32>)>,
    failed: bool,
}

impl fmt::Debug for Browser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Browser")
            .field("queue", &self.queue.name)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl Browser {
    pub(crate) fn new(core: Arc<Core>, queue: Arc<Queue>) -> Self {
        Self { core, queue, next: Offset(0), place: None, failed: false }
    }

    fn advance(&mut self) -> Result<Option<Browsed>> {
        loop {
            if let Some((view, guard, numbers)) = &mut self.place {
                if let Some(number) = numbers.pop_front() {
                    return Ok(Some(show(&self.queue, view, guard, number)));
                }
                self.next = view.end_offset().max(self.next.next());
                self.place = None;
            }
            let Sought::View(view) = self.core.log.seek(self.next, &|_| true)? else {
                return Ok(None);
            };
            let numbers = own_messages(&self.core, &self.queue, &view, self.next);
            let guard = Arc::new(Guard::View(view.clone()));
            self.place = Some((view, guard, numbers));
        }
    }
}

/// Numbers of the view's messages at or past `from` that were routed to the queue, in order.
///
/// A view may begin before `from`: the batches that were read one by one so far are one view once
/// their segment is sealed.
fn own_messages(core: &Core, queue: &Queue, view: &View, from: Offset) -> VecDeque<u32> {
    let mut numbers = Vec::new();
    for at in 0..view.routes() {
        let route = view.route(at);
        let Some(groups) = core.log.route_groups(route.route) else { continue };
        let ranges = queue.ledger().ranges(&groups);
        let first = view.route_lower_bound(at, from);
        numbers.extend((first..route.messages).map(|nth| view.route_message(at, nth)).filter(
            |&number| {
                let offset = view.offset_of(number);
                ranges.iter().any(|&(from, to)| from <= offset && offset < to)
            },
        ));
    }
    numbers.sort_unstable();
    numbers.into()
}

fn show(queue: &Queue, view: &View, guard: &Arc<Guard>, number: u32) -> Browsed {
    let offset = view.offset_of(number);
    let acked = queue.ledger().acks.contains(offset.0);
    match view.message(number) {
        Ok(record) => {
            let fields = Fields::of(&record, view.bytes());
            let routing_key = record.key.to_vec();
            let payload = Payload::new(Arc::clone(guard), fields);
            Browsed { offset, acked, routing_key, payload, damage: None }
        }
        Err(damage) => {
            let fields = Fields { payload: Part::default(), ..Fields::default() };
            let payload = Payload::new(Arc::clone(guard), fields);
            Browsed { offset, acked, routing_key: Vec::new(), payload, damage: Some(damage) }
        }
    }
}

impl Iterator for Browser {
    type Item = Result<Browsed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}
