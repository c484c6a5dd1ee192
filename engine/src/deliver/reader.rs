//! A queue's place in the log: walks its own messages, view after view.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use fanlog_segment_format::{ExchangeId, Offset, RouteId, record::MessageRecord};

use super::{Claim, Earlier};
use crate::{
    Result,
    core::Core,
    log::{
        Sought,
        view::{Damage, View},
    },
    queue::Queue,
};

/// What deliveries of one queue out of one view share: it keeps the bytes.
#[derive(Debug)]
pub(crate) enum Guard {
    View(View),
    /// Copied, because readers hold on to too much memory.
    Copy(Box<[u8]>),
}

impl Guard {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::View(view) => view.bytes(),
            Self::Copy(bytes) => bytes,
        }
    }
}

/// A part of the bytes behind a [`Guard`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Part {
    start: u32,
    bytes: u32,
}

impl Part {
    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..(self.start + self.bytes) as usize]
    }

    fn within(whole: &[u8], part: &[u8]) -> Self {
        let start = part.as_ptr().addr() - whole.as_ptr().addr();
        let fits = |n| u32::try_from(n).expect("a segment is at most 1 GiB");
        Self { start: fits(start), bytes: fits(part.len()) }
    }
}

/// Where the fields of a message are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fields {
    pub(crate) exchange: ExchangeId,
    pub(crate) priority: u8,
    pub(crate) time_us: u64,
    pub(crate) key: Part,
    pub(crate) properties: Part,
    pub(crate) headers: Part,
    pub(crate) payload: Part,
}

impl Fields {
    pub(crate) fn of(record: &MessageRecord<'_>, whole: &[u8]) -> Self {
        Self {
            exchange: record.exchange,
            priority: record.priority,
            time_us: record.time_us,
            key: Part::within(whole, record.key),
            properties: Part::within(whole, record.properties),
            headers: Part::within(whole, record.headers),
            payload: Part::within(whole, record.payload),
        }
    }
}

/// A message on its way to a consumer.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub(crate) offset: Offset,
    /// Its ack covers `from..=offset`: what lies between is not this queue's.
    pub(crate) from: u64,
    pub(crate) earlier: Earlier,
    pub(crate) guard: Arc<Guard>,
    pub(crate) fields: Fields,
    pub(crate) damage: Option<Arc<Damage>>,
}

impl Ready {
    /// What is known of it without its bytes.
    pub(super) fn claim(&self) -> Claim {
        let Self { offset, from, earlier, .. } = *self;
        let bytes = self.fields.payload.bytes;
        Claim { offset, from, bytes, earlier, in_transaction: false }
    }
}

/// One route's messages in the view, from where the queue reads.
#[derive(Debug)]
struct List {
    at: u32,
    nth: u32,
    messages: u32,
    /// Offsets in which the queue was a member.
    ranges: Vec<(Offset, Offset)>,
}

/// The view that a queue reads, and where in it.
#[derive(Debug)]
struct Place {
    view: View,
    guard: Arc<Guard>,
    copy: bool,
    lists: Vec<List>,
    /// Next message number of each list, where there is more than one.
    heap: BinaryHeap<Reverse<(u32, usize)>>,
}

/// Walks the messages of one queue.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Everything below it was read, or is not this queue's.
    pub(crate) cursor: Offset,
    /// One past the last message read: where the next one's ack begins.
    after_last: u64,
    /// Only below it can a message at or past the cursor be acked: by what recovery found.
    acked_end: Offset,
    /// Apart: most queues read nothing.
    place: Option<Box<Place>>,
}

impl Reader {
    /// A reader that starts at the queue's ack floor.
    pub(crate) fn new(queue: &Queue) -> Self {
        let ledger = queue.ledger();
        let floor = ledger.floor();
        let acked_end = Offset(ledger.acks.end());
        Self { cursor: floor, after_last: floor.0, acked_end, place: None }
    }

    /// Another one, that goes on where this one is.
    pub(super) fn fork(&self) -> Self {
        Self { place: None, ..*self }
    }

    /// The offset of the next message that is routed to the queue and not acked.
    ///
    /// # Errors
    ///
    /// If the log could not be read there.
    pub(crate) fn peek(&mut self, core: &Core, queue: &Queue) -> Result<Option<Offset>> {
        loop {
            if let Some(place) = &mut self.place {
                while let Some(number) = place.first() {
                    let offset = place.view.offset_of(number);
                    if offset >= self.acked_end || !queue.ledger().acks.contains(offset.0) {
                        return Ok(Some(offset));
                    }
                    let missing = queue.ledger().acks.first_missing(offset.0);
                    self.cursor = Offset(missing);
                    self.after_last = missing;
                    place.skip_to(self.cursor);
                }
                self.cursor = self.cursor.max(place.view.end_offset());
                self.place = None;
            }
            let wanted = |route| routed_to(core, queue, route);
            match core.log.seek(self.cursor, &wanted)? {
                Sought::View(view) => {
                    self.place = Some(Box::new(Place::new(core, queue, view, self.cursor)));
                }
                Sought::Nothing(end) => {
                    self.cursor = end;
                    return Ok(None);
                }
            }
        }
    }

    /// Goes on at `offset`, if it is not there yet: what lies before it was dropped.
    pub(crate) fn skip_to(&mut self, offset: Offset) {
        if self.cursor < offset {
            *self = Self { cursor: offset, after_last: offset.0, place: None, ..*self };
        }
    }

    /// Nobody reads on for now: the view, and the memory or the map behind it, is given up.
    pub(crate) fn rest(&mut self) {
        self.place = None;
    }

    /// Takes the message that [`Reader::peek`] showed.
    pub(crate) fn take(&mut self, queue: &Queue) -> Option<Ready> {
        let place = self.place.as_mut()?;
        let number = place.first()?;
        let offset = place.view.offset_of(number);
        let from = self.after_last;
        let earlier = if queue.was_handed_out(offset) {
            Earlier::before_opening(queue.delivery_count(offset))
        } else {
            Earlier::default()
        };
        let Place { view, guard, copy, .. } = &mut **place;
        let ready = ready_in(view, guard, *copy, number, from, earlier);
        place.advance();
        self.cursor = offset.next();
        self.after_last = self.cursor.0;
        Some(ready)
    }
}

impl Place {
    fn new(core: &Core, queue: &Queue, view: View, cursor: Offset) -> Self {
        let mut lists = Vec::new();
        for at in 0..view.routes() {
            let route = view.route(at);
            let Some(groups) = core.log.route_groups(route.route) else { continue };
            let ranges = queue.ledger().ranges(&groups);
            if ranges.is_empty() {
                continue;
            }
            let nth = view.route_lower_bound(at, cursor);
            let mut list = List { at, nth, messages: route.messages, ranges };
            list.settle(&view);
            if list.nth < list.messages {
                lists.push(list);
            }
        }
        let heap = heap_of(&view, &lists);
        let copy = core.readers_hold_too_much();
        let guard = Arc::new(Guard::View(view.clone()));
        Self { view, guard, copy, lists, heap }
    }

    /// The number of the queue's next message in the view.
    fn first(&self) -> Option<u32> {
        if let Some(Reverse((number, _))) = self.heap.peek() {
            return Some(*number);
        }
        // One list needs no heap; of several, an empty heap says that all are at their end.
        match self.lists.as_slice() {
            [list] if list.nth < list.messages => Some(self.view.route_message(list.at, list.nth)),
            _ => None,
        }
    }

    fn advance(&mut self) {
        if let Some(Reverse((_, which))) = self.heap.pop() {
            let list = &mut self.lists[which];
            list.nth += 1;
            list.settle(&self.view);
            if list.nth < list.messages {
                let number = self.view.route_message(list.at, list.nth);
                self.heap.push(Reverse((number, which)));
            }
        } else if let [list] = self.lists.as_mut_slice() {
            list.nth += 1;
            list.settle(&self.view);
        }
    }

    /// Goes on at the first message at or past `offset`.
    fn skip_to(&mut self, offset: Offset) {
        for list in &mut self.lists {
            list.nth = self.view.route_lower_bound(list.at, offset).max(list.nth);
            list.settle(&self.view);
        }
        self.lists.retain(|list| list.nth < list.messages);
        self.heap = heap_of(&self.view, &self.lists);
    }
}

/// Message `number` of a view, on its way to a consumer.
pub(super) fn ready_in(
    view: &View,
    guard: &Arc<Guard>,
    copy: bool,
    number: u32,
    from: u64,
    earlier: Earlier,
) -> Ready {
    let offset = view.offset_of(number);
    let (guard, fields, damage) = match view.message(number) {
        Ok(record) if copy => copied(&record),
        Ok(record) => (Arc::clone(guard), Fields::of(&record, view.bytes()), None),
        Err(damage) => (Arc::clone(guard), Fields::default(), Some(Arc::new(damage))),
    };
    Ready { offset, from, earlier, guard, fields, damage }
}

/// Whether messages of a route ever went to the queue.
fn routed_to(core: &Core, queue: &Queue, route: RouteId) -> bool {
    let groups = core.log.route_groups(route);
    groups.is_some_and(|groups| !queue.ledger().ranges(&groups).is_empty())
}

/// The lists by their next message; empty where one alone needs no order.
fn heap_of(view: &View, lists: &[List]) -> BinaryHeap<Reverse<(u32, usize)>> {
    if lists.len() < 2 {
        return BinaryHeap::new();
    }
    let next =
        |(which, list): (usize, &List)| Reverse((view.route_message(list.at, list.nth), which));
    lists.iter().enumerate().map(next).collect()
}

/// The record's variable parts, in memory of their own.
fn copied(record: &MessageRecord<'_>) -> (Arc<Guard>, Fields, Option<Arc<Damage>>) {
    let parts = [record.key, record.properties, record.headers, record.payload];
    let bytes: Box<[u8]> = parts.concat().into();
    let mut rest: &[u8] = &bytes;
    let [key, properties, headers, payload] = parts.map(|part| {
        let (copy, after) = rest.split_at(part.len());
        rest = after;
        copy
    });
    let copy = MessageRecord { key, properties, headers, payload, ..*record };
    let fields = Fields::of(&copy, &bytes);
    (Arc::new(Guard::Copy(bytes)), fields, None)
}

impl List {
    /// Skips messages that were routed while the queue was no member.
    fn settle(&mut self, view: &View) {
        if let [(from, to)] = *self.ranges.as_slice()
            && from == Offset(0)
            && to == Offset(u64::MAX)
        {
            return;
        }
        while self.nth < self.messages {
            let offset = view.offset_of(view.route_message(self.at, self.nth));
            if self.ranges.iter().any(|&(from, to)| from <= offset && offset < to) {
                return;
            }
            let later = self.ranges.iter().map(|&(from, _)| from).filter(|&from| from > offset);
            match later.min() {
                Some(from) => self.nth = view.route_lower_bound(self.at, from).max(self.nth + 1),
                None => self.nth = self.messages,
            }
        }
    }
}
