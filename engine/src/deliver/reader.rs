//! A queue's place in the log: walks its own messages, view after view.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use fanlog_segment_format::{
    ExchangeId, Offset, RouteId,
    record::{DurabilityMode, MessageRecord},
};

use super::{
    Claim, Earlier, Level,
    delayed::{Delayed, NotDue, earlier_of},
};
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
    /// It ends with this opening of the store.
    pub(crate) transient: bool,
    pub(crate) time_us: u64,
    /// From when on it could be delivered.
    pub(crate) ready_us: u64,
    /// When its own time is over.
    pub(crate) expiry_us: Option<u64>,
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
            transient: record.mode == DurabilityMode::Transient,
            time_us: record.time_us,
            ready_us: record.due_us.unwrap_or(record.time_us),
            expiry_us: record.expiry_us,
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
    pub(crate) priority: u8,
    pub(crate) guard: Arc<Guard>,
    pub(crate) fields: Fields,
    pub(crate) damage: Option<Arc<Damage>>,
}

impl Ready {
    /// What is known of it without its bytes.
    pub(super) fn claim(&self) -> Claim {
        let Self { offset, from, earlier, priority, .. } = *self;
        let bytes = self.fields.payload.bytes;
        Claim { offset, from, bytes, earlier, priority, in_transaction: false }
    }
}

/// One route's messages in the view, from where the queue reads.
#[derive(Debug)]
pub(super) struct List {
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
    /// Messages that are passed by, if there are any.
    not_due: Option<Box<NotDue>>,
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
    /// What was passed by.
    delayed: Option<Box<Delayed>>,
    /// Of what the cursor has passed all that was due after it was left out.
    judged_us: u64,
    /// It passes by messages of all others.
    level: Level,
    /// It takes what is not due, too.
    all: bool,
}

impl Reader {
    /// Readers that start at the queue's ack floor, one for each level, the lowest first. That of a
    /// history passes by nothing: it is acked in the order of the log.
    pub(super) fn of_levels(queue: &Queue) -> Box<[Self]> {
        let all = queue.is_history();
        Level::all(queue).map(|level| Self { level, all, ..Self::new(queue) }).collect()
    }

    /// A reader that starts at the queue's ack floor, and takes messages of every priority.
    fn new(queue: &Queue) -> Self {
        let ledger = queue.ledger();
        let floor = ledger.floor();
        let acked_end = Offset(ledger.acks.end());
        Self { cursor: floor, after_last: floor.0, acked_end, ..Self::default() }
    }

    /// One that passes by nothing, due or not.
    pub(crate) fn of_all(queue: &Queue) -> Self {
        Self { all: true, ..Self::new(queue) }
    }

    /// Another one, that goes on where this one is.
    pub(super) fn fork(&self) -> Self {
        let delayed = self.delayed.as_ref().map(|delayed| Box::new(delayed.fork(self.cursor)));
        Self { place: None, delayed, ..*self }
    }

    /// The offset of the next message that was passed by and is due now.
    ///
    /// # Errors
    ///
    /// If the log could not be read there.
    pub(crate) fn peek_due(&mut self, core: &Core, queue: &Queue) -> Result<Option<Offset>> {
        let Some(delayed) = &mut self.delayed else { return Ok(None) };
        let now_us = core.clock.wall_us();
        while let Some(until_us) = delayed.fell_due(now_us) {
            self.judged_us = self.judged_us.max(until_us);
            if let Some(Place { view, not_due: Some(not_due), .. }) = self.place.as_deref_mut() {
                not_due.until(view, until_us);
            }
            let due = delayed.peek(core, queue, self.level, self.cursor)?;
            // What was under way may be from a time when others were not due yet.
            if due.is_some() || until_us >= now_us {
                return Ok(due);
            }
        }
        Ok(None)
    }

    /// Takes the message that [`Reader::peek_due`] showed.
    pub(crate) fn take_due(&mut self, core: &Core, queue: &Queue) -> Option<Ready> {
        self.delayed.as_mut()?.take(core, queue)
    }

    /// The message whose place [`Reader::peek_due`] showed; it stays the next.
    pub(crate) fn show_due(&mut self, core: &Core, queue: &Queue) -> Option<Ready> {
        self.delayed.as_mut()?.show(core, queue)
    }

    /// When the next message is due that was passed by.
    pub(crate) fn next_due_us(&self) -> Option<u64> {
        self.delayed.as_ref()?.next_us()
    }

    /// Messages that were passed by and are not due yet.
    pub(crate) fn delayed(&self) -> u64 {
        self.delayed.as_ref().map_or(0, |delayed| delayed.messages())
    }

    /// The offset of the next message that is routed to the queue, due and not acked.
    ///
    /// # Errors
    ///
    /// If the log could not be read there.
    pub(crate) fn peek(&mut self, core: &Core, queue: &Queue) -> Result<Option<Offset>> {
        loop {
            if let Some(place) = &mut self.place {
                while let Some(number) = place.first() {
                    let offset = place.view.offset_of(number);
                    if !self.level.has(&place.view, number) {
                        place.advance();
                        self.cursor = offset.next();
                        self.after_last = self.cursor.0;
                        continue;
                    }
                    if offset >= self.acked_end || !queue.ledger().acks.contains(offset.0) {
                        let Some(not_due) = &mut place.not_due else { return Ok(Some(offset)) };
                        let holds = not_due.holds(&place.view, number, &*core.clock);
                        self.judged_us = self.judged_us.max(not_due.until_us());
                        if !holds {
                            return Ok(Some(offset));
                        }
                        let delayed = self.delayed.get_or_insert_default();
                        delayed.passed();
                        if let Some((start, stretch)) = not_due.note(&place.view) {
                            delayed.begin(core, start, stretch, self.judged_us);
                        }
                        place.advance();
                        self.cursor = offset.next();
                        self.after_last = self.cursor.0;
                        continue;
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
                    let mut place = Place::new(core, queue, view, self.cursor);
                    if !self.level.may_be_in(&place.view) {
                        self.after_last = place.own_end().map_or(self.after_last, |end| end.0);
                        self.cursor = self.cursor.max(place.view.end_offset());
                        continue;
                    }
                    if place.view.dues() > 0 && !self.all {
                        let (view, now_us) = (&place.view, core.clock.wall_us());
                        let not_due = NotDue::in_view(view, self.cursor, self.after_last, now_us);
                        place.not_due = not_due.map(Box::new);
                        self.judged_us = self.judged_us.max(now_us);
                    }
                    self.place = Some(Box::new(place));
                }
                Sought::Nothing(end) => {
                    self.cursor = end;
                    return Ok(None);
                }
            }
        }
    }

    /// One past the last message read: where the ack of the next one begins.
    pub(super) fn ack_from(&self) -> Offset {
        Offset(self.after_last)
    }

    /// Goes on at `offset`, if it is not there yet: what lies before it was dropped.
    pub(crate) fn skip_to(&mut self, offset: Offset) {
        self.delayed = None;
        if self.cursor < offset {
            (self.cursor, self.after_last, self.place) = (offset, offset.0, None);
        }
    }

    /// Nobody reads on for now: the view, and the memory or the map behind it, is given up.
    pub(crate) fn rest(&mut self) {
        self.place = None;
        if let Some(delayed) = &mut self.delayed {
            delayed.rest(self.cursor);
        }
    }

    /// Takes the message that [`Reader::peek`] showed.
    pub(crate) fn take(&mut self, core: &Core, queue: &Queue) -> Option<Ready> {
        let ready = self.show(core, queue)?;
        self.place.as_mut()?.advance();
        self.cursor = ready.offset.next();
        self.after_last = self.cursor.0;
        Some(ready)
    }

    /// The message that [`Reader::peek`] showed; it stays the next.
    pub(crate) fn show(&self, core: &Core, queue: &Queue) -> Option<Ready> {
        let Place { view, guard, copy, .. } = self.place.as_deref()?;
        let number = self.place.as_ref()?.first()?;
        let earlier = earlier_of(core, queue, view, number);
        Some(ready_in(view, guard, *copy, number, self.after_last, earlier))
    }
}

impl Place {
    fn new(core: &Core, queue: &Queue, view: View, cursor: Offset) -> Self {
        let lists = own_lists(core, queue, &view, cursor);
        let heap = heap_of(&view, &lists);
        let copy = core.hands_out_copies(&view);
        let guard = Arc::new(Guard::View(view.clone()));
        Self { view, guard, copy, lists, heap, not_due: None }
    }

    /// One past the queue's last message in the view.
    fn own_end(&self) -> Option<Offset> {
        let last = self.lists.iter().filter_map(|list| list.before(&self.view, u32::MAX)).max();
        last.map(|number| self.view.offset_of(number).next())
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

/// The queue's messages in a view, at or past `from`, route by route.
pub(super) fn own_lists(core: &Core, queue: &Queue, view: &View, from: Offset) -> Vec<List> {
    let mut lists = Vec::new();
    for at in 0..view.routes() {
        let route = view.route(at);
        let Some(groups) = core.log.route_groups(route.route) else { continue };
        let ranges = queue.ledger().ranges(&groups);
        if ranges.is_empty() {
            continue;
        }
        let nth = view.route_lower_bound(at, from);
        let mut list = List { at, nth, messages: route.messages, ranges };
        list.settle(view);
        if list.nth < list.messages {
            lists.push(list);
        }
    }
    lists
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
    let priority = view.priority_of(number);
    Ready { offset, from, earlier, priority, guard, fields, damage }
}

/// Whether messages of a route ever went to the queue.
pub(super) fn routed_to(core: &Core, queue: &Queue, route: RouteId) -> bool {
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
    /// The place in the route's list of the first message that is not before `number`.
    fn place_of(&self, view: &View, number: u32) -> u32 {
        let (mut low, mut high) = (self.nth, self.messages);
        while low < high {
            let middle = low + (high - low) / 2;
            if view.route_message(self.at, middle) < number {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn in_ranges(&self, offset: Offset) -> bool {
        self.ranges.iter().any(|&(from, to)| from <= offset && offset < to)
    }

    /// Whether message `number` is among those from here on.
    pub(super) fn has(&self, view: &View, number: u32) -> bool {
        let nth = self.place_of(view, number);
        nth < self.messages
            && view.route_message(self.at, nth) == number
            && self.in_ranges(view.offset_of(number))
    }

    /// The last of those from here on that is before message `number`.
    pub(super) fn before(&self, view: &View, number: u32) -> Option<u32> {
        let before = (self.nth..self.place_of(view, number)).rev();
        before
            .map(|nth| view.route_message(self.at, nth))
            .find(|&number| self.in_ranges(view.offset_of(number)))
    }

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
            if self.in_ranges(offset) {
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
