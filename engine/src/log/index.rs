//! Where the messages of one batch are, and which route each took.
//!
//! Made once, when a batch is sealed (or read again at recovery), and never changed. Until the
//! segment has its footer this is the only index of the batch; the footer is these, joined.

use fanlog_segment_format::{
    BatchNumber, Offset, RouteId, SegmentId, footer::FooterBuilder, record::RecordHead,
};

/// Messages of one route in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteCount {
    pub(crate) route: RouteId,
    pub(crate) messages: u32,
    /// Their payload bytes.
    pub(crate) bytes: u64,
    /// Start of its list in `numbers`; unused if it holds every message of the batch.
    list: u32,
}

/// One message as noted while its batch is walked.
#[derive(Debug, Clone, Copy)]
struct Noted {
    position: u32,
    route: RouteId,
    payload_bytes: u32,
    time_us: u64,
}

/// A due or expiry time of a message in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due {
    pub(crate) time_us: u64,
    pub(crate) number: u32,
    pub(crate) expiry: bool,
}

/// The index of one batch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BatchIndex {
    pub(crate) number: BatchNumber,
    pub(crate) segment: SegmentId,
    /// Where the batch starts in its segment's file.
    pub(crate) position: u64,
    /// Its bytes in the file: header, records, mark and padding.
    pub(crate) total_bytes: u32,
    pub(crate) first_offset: Offset,
    /// Of each message: its record's start within the batch.
    positions: Box<[u32]>,
    payload_bytes: Box<[u32]>,
    /// In order of route.
    routes: Box<[RouteCount]>,
    /// Message numbers, route after route, where there is more than one route.
    numbers: Box<[u32]>,
    /// Of each control record: its start within the batch.
    pub(crate) controls: Box<[u32]>,
    pub(crate) times_us: (u64, u64),
    /// Due and expiry times, increasing.
    dues: Box<[Due]>,
    /// Of each message; empty if all are 0.
    priorities: Box<[u8]>,
}

/// Gathers a batch's index while its records are walked. Reused from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    noted: Vec<Noted>,
    controls: Vec<u32>,
    dues: Vec<Due>,
    /// Of each message, up to the last that has one.
    priorities: Vec<u8>,
}

impl IndexBuilder {
    /// Notes a message record.
    pub(crate) fn message(&mut self, position: u32, head: &RecordHead, time_us: u64) {
        let payload_bytes = head.payload_bytes;
        if head.due_us.is_some() || head.expiry_us.is_some() || head.priority > 0 {
            self.list(head);
        }
        self.noted.push(Noted { position, route: head.route, payload_bytes, time_us });
    }

    /// Notes what few messages have: times and a priority.
    fn list(&mut self, head: &RecordHead) {
        let number = count(self.noted.len());
        let due = head.due_us.map(|time_us| Due { time_us, number, expiry: false });
        let expiry = head.expiry_us.map(|time_us| Due { time_us, number, expiry: true });
        self.dues.extend(due.into_iter().chain(expiry));
        if head.priority > 0 {
            self.priorities.resize(self.noted.len(), 0);
            self.priorities.push(head.priority);
        }
    }

    /// Notes a control record.
    pub(crate) fn control(&mut self, position: u32) {
        self.controls.push(position);
    }

    /// The index of what was noted; the builder is empty afterwards.
    pub(crate) fn build(
        &mut self,
        number: BatchNumber,
        segment: SegmentId,
        position: u64,
        total_bytes: u32,
        first_offset: Offset,
    ) -> BatchIndex {
        let (routes, numbers) = group(&self.noted);
        let times_us = self.noted.iter().fold((u64::MAX, 0), |(low, high), noted| {
            (noted.time_us.min(low), noted.time_us.max(high))
        });
        self.dues.sort_unstable();
        if !self.priorities.is_empty() {
            self.priorities.resize(self.noted.len(), 0);
        }
        let index = BatchIndex {
            number,
            segment,
            position,
            total_bytes,
            first_offset,
            positions: self.noted.iter().map(|noted| noted.position).collect(),
            payload_bytes: self.noted.iter().map(|noted| noted.payload_bytes).collect(),
            routes,
            numbers,
            controls: self.controls.as_slice().into(),
            times_us,
            dues: self.dues.as_slice().into(),
            priorities: self.priorities.as_slice().into(),
        };
        self.noted.clear();
        self.controls.clear();
        self.dues.clear();
        self.priorities.clear();
        index
    }
}

/// Groups messages by route, each group's message numbers in order.
fn group(noted: &[Noted]) -> (Box<[RouteCount]>, Box<[u32]>) {
    let Some(first) = noted.first() else { return (Box::default(), Box::default()) };
    if noted.iter().all(|message| message.route == first.route) {
        let bytes = noted.iter().map(|message| u64::from(message.payload_bytes)).sum();
        let messages = count(noted.len());
        return ([RouteCount { route: first.route, messages, bytes, list: 0 }].into(), [].into());
    }
    let mut numbers: Vec<u32> = (0..count(noted.len())).collect();
    // Stable: numbers stay in order within a route.
    numbers.sort_by_key(|&number| noted[number as usize].route);
    let mut routes: Vec<RouteCount> = Vec::new();
    for (at, &number) in numbers.iter().enumerate() {
        let message = &noted[number as usize];
        let bytes = u64::from(message.payload_bytes);
        match routes.last_mut() {
            Some(last) if last.route == message.route => {
                last.messages += 1;
                last.bytes += bytes;
            }
            _ => routes.push(RouteCount {
                route: message.route,
                messages: 1,
                bytes,
                list: count(at),
            }),
        }
    }
    (routes.into(), numbers.into())
}

/// Lists a due or expiry time in a footer.
fn list_due(footer: &mut FooterBuilder, time_us: u64, message: u32, expiry: bool) {
    if expiry {
        footer.expiry(time_us, message);
    } else {
        footer.due(time_us, message);
    }
}

/// Lists the message that was listed last with the times and the priority that its head has.
pub(crate) fn list_extras(footer: &mut FooterBuilder, head: &RecordHead) {
    let message = footer.messages().saturating_sub(1);
    footer.priority(head.priority);
    if let Some(time_us) = head.due_us {
        footer.due(time_us, message);
    }
    if let Some(time_us) = head.expiry_us {
        footer.expiry(time_us, message);
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).expect("a batch's bytes fit u32, so its messages do")
}

impl BatchIndex {
    pub(crate) fn messages(&self) -> u32 {
        count(self.positions.len())
    }

    pub(crate) fn end_offset(&self) -> Offset {
        Offset(self.first_offset.0 + self.positions.len() as u64)
    }

    /// Where the record of message `number` starts, within the batch.
    pub(crate) fn position_of(&self, number: u32) -> u32 {
        self.positions[number as usize]
    }

    pub(crate) fn payload_bytes_of(&self, number: u32) -> u64 {
        u64::from(self.payload_bytes[number as usize])
    }

    pub(crate) fn routes(&self) -> &[RouteCount] {
        &self.routes
    }

    /// The `nth` message of the `route`-th route.
    pub(crate) fn route_message(&self, route: u32, nth: u32) -> u32 {
        if self.routes.len() == 1 {
            return nth;
        }
        self.numbers[(self.routes[route as usize].list + nth) as usize]
    }

    /// Due and expiry times, increasing.
    pub(crate) fn dues(&self) -> &[Due] {
        &self.dues
    }

    /// The routes of the messages that expire.
    pub(crate) fn expiring_routes(&self) -> Vec<RouteId> {
        let expiring = self.dues.iter().filter(|due| due.expiry).map(|due| due.number);
        let mut numbers: Vec<u32> = expiring.collect();
        if numbers.is_empty() {
            return Vec::new();
        }
        numbers.sort_unstable();
        let expires = |route: u32, count: &RouteCount| {
            let mut messages = (0..count.messages).map(|nth| self.route_message(route, nth));
            messages.any(|number| numbers.binary_search(&number).is_ok())
        };
        let routes = (0..).zip(&*self.routes).filter(|(at, count)| expires(*at, count));
        routes.map(|(_, count)| count.route).collect()
    }

    /// Whether a message has a priority other than 0.
    pub(crate) fn has_priorities(&self) -> bool {
        !self.priorities.is_empty()
    }

    /// The priority of message `number`.
    pub(crate) fn priority_of(&self, number: u32) -> u8 {
        self.priorities.get(number as usize).copied().unwrap_or(0)
    }

    /// Heap and struct, in bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of::<Self>()
            + 4 * (self.positions.len()
                + self.payload_bytes.len()
                + self.numbers.len()
                + self.controls.len())
            + size_of_val(&*self.routes)
            + size_of_val(&*self.dues)
            + self.priorities.len()
    }

    /// Adds this batch to its segment's footer. `first_message` messages came before it.
    pub(crate) fn add_to(&self, footer: &mut FooterBuilder, first_message: u32) {
        let start = u32::try_from(self.position).expect("a segment is at most 1 GiB");
        footer.batch(start, self.total_bytes, first_message, self.number);
        let mut route_of = vec![RouteId(0); self.positions.len()];
        for (k, route) in (0_u32..).zip(&*self.routes) {
            for nth in 0..route.messages {
                route_of[self.route_message(k, nth) as usize] = route.route;
            }
        }
        let messages = self.positions.iter().zip(&*self.payload_bytes).zip(route_of);
        for (number, ((&position, &payload_bytes), route)) in (0_u32..).zip(messages) {
            let offset = Offset(self.first_offset.0 + u64::from(number));
            // The footer keeps the range of times only; both ends of the batch's are in it.
            let time_us = if number == 0 { self.times_us.0 } else { self.times_us.1 };
            footer.message(offset, start + position, route, payload_bytes, time_us);
            footer.priority(self.priority_of(number));
        }
        for due in &self.dues {
            list_due(footer, due.time_us, first_message + due.number, due.expiry);
        }
        for &control in &self.controls {
            footer.control(start + control);
        }
    }
}
