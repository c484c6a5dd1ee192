//! Publishing: admits a message, routes it, gives it its place in the log.
//!
//! In: messages. Out: tickets. Everything is checked before the append lock is taken; under it a
//! message is placed whole or not at all.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fanlog_segment_format::{
    BatchNumber, GroupId, Offset, RouteId, U32List,
    control::Control,
    layout::{RECORD_ALIGN, align_up},
    record::{DurabilityMode, MessageRecord},
};

use crate::{
    Durability, Error, Message, Result,
    append::{Appender, COPY_OUTSIDE_MIN, Extras, Need, SEQUENCE_BYTES, arena::Loan},
    core::Core,
    dead_letter,
    gate::{self, Gate},
    message::within,
    named::Known,
    route::{RouteCache, Routed},
};

/// Publishes messages. Cheap to clone; one clone per thread is fastest.
pub struct Publisher {
    shared: Arc<Shared>,
}

/// What a publisher's tickets hold on to: one line of memory per publisher, so that tickets of
/// different publishers do not disturb one another.
struct Shared {
    core: Arc<Core>,
    cache: Mutex<RouteCache>,
    /// Likewise for transient messages.
    transient_cache: Mutex<RouteCache>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publisher")
    }
}

impl Clone for Publisher {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared.core))
    }
}

/// Where messages of one publish were placed.
#[derive(Debug, Clone, Copy)]
struct Placed {
    /// `None`: there was nothing to place.
    batch: Option<BatchNumber>,
    first: Offset,
    messages: u32,
    /// The message was placed by an earlier publish.
    repeat: bool,
}

/// What a confirmed publish was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirm {
    /// The offset of the first message; the others follow without gaps.
    pub first_offset: Offset,
    /// How many messages.
    pub messages: u32,
}

impl Publisher {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            shared: Arc::new(Shared {
                core,
                cache: Mutex::default(),
                transient_cache: Mutex::default(),
            }),
        }
    }

    /// Appends a message and returns a ticket to wait for its confirm.
    ///
    /// On return the message has its place in the log, in memory. It is stored once its ticket is
    /// confirmed. Where buffers are full it waits, or fails, as
    /// [`when_full`](crate::Config::when_full) says.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`]: no such exchange.
    /// - [`Error::Unroutable`]: no queue would get it. An [optional](Message::optional) message is
    ///   dropped then, and its ticket is confirmed at once.
    /// - [`Error::QueueFull`]: all of its queues are full, and
    ///   [refuse](crate::Overflow::RejectPublish) it, an optional one too. If others take it, or it
    ///   is dead-lettered instead, the ticket says so.
    /// - [`Error::Refused`]: the exchange is internal.
    /// - [`Error::Headers`]: it comes to a headers exchange, and its headers are no table.
    /// - [`Error::TooLarge`], [`Error::Name`]: over a limit.
    /// - [`Error::BeyondTime`]: a delay beyond the end of time.
    /// - [`Error::Full`], [`Error::OutOfSpace`]: only with `WhenFull::Fail`.
    /// - [`Error::Poisoned`], [`Error::Closed`], [`Error::ReadOnly`].
    ///
    /// Nothing was stored, in each of these cases.
    pub fn publish(&self, message: &Message<'_>) -> Result<Ticket> {
        let messages = std::slice::from_ref(message);
        Ok(self.append(messages, ALONE, false, Wait::AsConfigured)?.0)
    }

    /// Like [`Publisher::publish`], but where buffers are full it waits without a thread of its own,
    /// whatever [`when_full`](crate::Config::when_full) says. Dropping the future before it is
    /// ready publishes nothing.
    ///
    /// # Errors
    ///
    /// As [`Publisher::publish`], without [`Error::Full`] and [`Error::OutOfSpace`].
    pub async fn publish_async(&self, message: &Message<'_>) -> Result<Ticket> {
        loop {
            let space = self.shared.core.append.space_event.listen();
            match self.append(std::slice::from_ref(message), ALONE, false, Wait::Never) {
                Err(Error::Full { .. } | Error::OutOfSpace { .. }) => space.await,
                other => return Ok(other?.0),
            }
        }
    }

    /// Publishes a message and waits for its confirm. A caller that is alone writes it by itself,
    /// without waking a thread.
    ///
    /// # Errors
    ///
    /// As [`Publisher::publish`] and [`Ticket::wait`].
    pub fn publish_confirmed(&self, message: &Message<'_>) -> Result<Confirm> {
        self.lead(message)?.wait()
    }

    /// Like [`Publisher::publish_confirmed`], but waits for the confirm for at most `timeout`. What
    /// it does not cover is a write of the caller's own that hangs, and waiting for room.
    ///
    /// # Errors
    ///
    /// As [`Publisher::publish_confirmed`], and [`Error::Timeout`]: the message is in doubt, and may
    /// still be stored.
    pub fn publish_confirmed_timeout(
        &self,
        message: &Message<'_>,
        timeout: Duration,
    ) -> Result<Confirm> {
        self.lead(message)?.wait_timeout(timeout)
    }

    /// Publishes a message, and writes it in this thread if the caller is alone.
    fn lead(&self, message: &Message<'_>) -> Result<Ticket> {
        let messages = std::slice::from_ref(message);
        let (ticket, lead) = self.append(messages, ALONE, true, Wait::AsConfigured)?;
        if lead {
            self.shared.core.lead();
        }
        Ok(ticket)
    }

    /// Appends messages as one: all are stored or none, behind one ticket, side by side in the log.
    /// An empty list is confirmed at once.
    ///
    /// # Errors
    ///
    /// As [`Publisher::publish`] for any of them: nothing was stored then. [`Error::QueueFull`] if a
    /// queue that [refuses](crate::Overflow::RejectPublish) what it has no room for does not have it
    /// for all that comes to it, although others may. [`Error::TooLarge`] if
    /// together they are over [`transaction_bytes_max`](crate::Config::transaction_bytes_max).
    pub fn publish_batch(&self, messages: &[Message<'_>]) -> Result<Ticket> {
        if messages.is_empty() {
            let first = self.shared.core.append.lock().next_offset();
            return Ok(self.ticket(Placed { batch: None, first, messages: 0, repeat: false }));
        }
        Ok(self.append(messages, BATCH, false, Wait::AsConfigured)?.0)
    }

    /// Appends messages and ack records, either perhaps none, as one.
    pub(crate) fn publish_with(&self, messages: &[Message<'_>], acks: &[u8]) -> Result<Ticket> {
        let whole = Whole { what: "transaction", acks, sync: true, ..BATCH };
        Ok(self.append(messages, whole, false, Wait::AsConfigured)?.0)
    }

    /// Appends a message of a named publisher.
    pub(crate) fn publish_numbered(
        &self,
        message: &Message<'_>,
        known: &Known,
        sequence: u64,
    ) -> Result<Ticket> {
        let whole = Whole { numbered: Some((known, sequence)), ..ALONE };
        let messages = std::slice::from_ref(message);
        Ok(self.append(messages, whole, false, Wait::AsConfigured)?.0)
    }

    /// The ticket of a message that was placed before, in this batch, if it is not confirmed.
    pub(crate) fn repeat(&self, batch: Option<u64>) -> Ticket {
        let first = self.shared.core.append.lock().next_offset();
        let batch = batch.map(BatchNumber);
        self.ticket(Placed { batch, first, messages: 0, repeat: true })
    }

    /// Whether a message could be published now: the size of its record, and the limit for records
    /// that are placed as one.
    pub(crate) fn admit(&self, message: &Message<'_>) -> Result<(usize, usize)> {
        let core = &*self.shared.core;
        core.check_writable()?;
        let time_us = core.clock.wall_us();
        message.validate(core.config.message_bytes_max, time_us)?;
        let routed = Routes::One(self.route(message)?.0);
        let messages = std::slice::from_ref(message);
        let epoch = core.epoch;
        let records = Records { messages, routed: &routed, whole: ALONE, time_us, epoch };
        Ok((records.need().bytes, core.config.batch_bytes_max()))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.shared.core
    }

    fn ticket(&self, placed: Placed) -> Ticket {
        Ticket { shared: Arc::clone(&self.shared), placed, refused_by: None }
    }

    fn append(
        &self,
        messages: &[Message<'_>],
        whole: Whole<'_>,
        blocking: bool,
        wait: Wait,
    ) -> Result<(Ticket, bool)> {
        let core = &*self.shared.core;
        core.check_writable()?;
        let time_us = core.clock.wall_us();
        for message in messages {
            message.validate(core.config.message_bytes_max, time_us)?;
        }
        let epoch = core.epoch;
        loop {
            let (mut routed, mut version) = self.route_all(messages)?;
            let full = routed.full(core, messages);
            let mut letters = Vec::new();
            if !full.is_empty() {
                (routed, version) = self.route_past(messages, whole, &full, &mut letters)?;
            }
            let beside: Vec<Message<'_>>;
            let messages = if letters.is_empty() {
                messages
            } else {
                let copies = letters.iter().map(|letter| letter.message(&messages[0]));
                beside = std::iter::once(messages[0]).chain(copies).collect();
                &beside
            };
            let records = Records { messages, routed: &routed, whole, time_us, epoch };
            let need = records.need();
            if messages.len() + whole.acks.len() > 1 {
                within(whole.what, need.bytes, core.config.batch_bytes_max())?;
            }
            within("message", need.bytes, core.config.store_share())?;
            let state = core.append.lock();
            let state = match wait {
                Wait::AsConfigured => core.wait_for_room(state, need)?,
                Wait::Never => {
                    let mut state = state;
                    if let Some(end) = &state.end {
                        return Err(end.clone());
                    }
                    if !core.append.has_room(&state, need) {
                        core.append.wake_committer(&mut state);
                        return Err(core.append.full(&state));
                    }
                    state
                }
            };
            if version.is_some_and(|version| version != state.version) {
                continue;
            }
            if let Some((known, _)) = whole.numbered {
                known.check()?;
            }
            let dropped = messages.len() - need.messages as usize;
            if dropped > 0 && full.is_empty() {
                core.stats.unroutable_dropped(dropped);
                if need.bytes == 0 {
                    let first = state.next_offset();
                    let placed = Placed { batch: None, first, messages: 0, repeat: false };
                    return Ok((self.ticket(placed), false));
                }
            }
            let (placed, lead) = records.place(core, state, need, blocking);
            let mut ticket = self.ticket(placed);
            if !full.is_empty() {
                core.stats.refused(full.len());
                core.stats.dead_lettered(letters.len() as u64);
                // Its copies are dead letters like any other.
                ticket.placed.messages = u32::from(routed.of(0).is_some());
                ticket.refused_by = Some(gate::names(&full).into());
            }
            return Ok((ticket, lead));
        }
    }

    /// The route of a message to all of its queues but those that are full, and those of the copies
    /// that are made for them.
    ///
    /// # Errors
    ///
    /// [`Error::QueueFull`] if there is neither, or if it is not alone.
    fn route_past<'a>(
        &self,
        messages: &[Message<'a>],
        whole: Whole<'_>,
        full: &'a [Arc<Gate>],
        letters: &mut Vec<dead_letter::Refused<'a>>,
    ) -> Result<(Routes, Option<u64>)> {
        let core = &*self.shared.core;
        let refused = || {
            core.stats.refused(full.len());
            gate::refused(full)
        };
        let ([message], true) = (messages, whole.divisible) else { return Err(refused()) };
        let transient = message.durability == Durability::Transient;
        let (exchange, key, headers) = (message.exchange, message.routing_key, message.headers);
        // Should the topology change meanwhile, ids of queues still mean the same, or nothing.
        let routed = core.route_without(exchange, key, headers, transient, |_| {
            full.iter().map(|gate| gate.id).collect()
        })?;
        for gate in full {
            letters.extend(dead_letter::Refused::of(core, gate, message)?);
        }
        let mut all = vec![routed];
        all.extend(letters.iter().map(|letter| Some(letter.routed.clone())));
        // Of several versions one is not that of now, and then they are routed again.
        let version = all.iter().flatten().map(|routed| routed.version).min();
        Ok((Routes::Many(all), Some(version.ok_or_else(refused)?)))
    }

    /// Routes of all messages, under one version of the topology, if there are any.
    fn route_all(&self, messages: &[Message<'_>]) -> Result<(Routes, Option<u64>)> {
        if let [message] = messages {
            let (routed, version) = self.route(message)?;
            return Ok((Routes::One(routed), Some(version)));
        }
        'again: loop {
            let mut list = Vec::with_capacity(messages.len());
            let mut all_of = None;
            for message in messages {
                let (routed, version) = self.route(message)?;
                if *all_of.get_or_insert(version) != version {
                    self.forget();
                    continue 'again;
                }
                list.push(routed);
            }
            return Ok((Routes::Many(list), all_of));
        }
    }

    /// The route of a message, `None` if it is to be dropped, and the version of the topology under
    /// which that is so.
    fn route(&self, message: &Message<'_>) -> Result<(Option<Routed>, u64)> {
        let core = &*self.shared.core;
        let (exchange, key) = (message.exchange, message.routing_key);
        let version = core.topology_version();
        let transient = message.durability == Durability::Transient;
        let shared = &self.shared;
        let cache = if transient { &shared.transient_cache } else { &shared.cache };
        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(routed) = cache.find(exchange, key).filter(|found| found.version == version) {
            return Ok((Some(routed), version));
        }
        match core.route(exchange, key, message.headers, transient) {
            Ok(routed) => {
                if routed.by_key {
                    cache.remember(exchange, key, routed.clone());
                }
                let version = routed.version;
                Ok((Some(routed), version))
            }
            Err(Error::Unroutable { .. }) if !message.mandatory => Ok((None, version)),
            Err(error) => {
                if matches!(error, Error::Unroutable { .. }) {
                    core.stats.unroutable();
                }
                Err(error)
            }
        }
    }

    fn forget(&self) {
        for cache in [&self.shared.cache, &self.shared.transient_cache] {
            *cache.lock().unwrap_or_else(PoisonError::into_inner) = RouteCache::default();
        }
    }
}

/// What is placed as one.
#[derive(Clone, Copy)]
struct Whole<'a> {
    /// What it is called where it is too large.
    what: &'static str,
    /// Ack records that go with the messages.
    acks: &'a [u8],
    /// Whose message it is, and its number there.
    numbered: Option<(&'a Known, u64)>,
    /// Its batch is synced, whatever the messages ask for.
    sync: bool,
    /// It may go to some of its queues alone.
    divisible: bool,
}

const ALONE: Whole<'_> =
    Whole { what: "message", acks: &[], numbered: None, sync: false, divisible: true };
const BATCH: Whole<'_> = Whole { what: "batch", divisible: false, ..ALONE };

/// What to do where there is no room.
#[derive(Clone, Copy, PartialEq)]
enum Wait {
    AsConfigured,
    Never,
}

enum Routes {
    One(Option<Routed>),
    Many(Vec<Option<Routed>>),
}

impl Routes {
    /// The route of a message; none if it is dropped.
    fn of(&self, at: usize) -> Option<&Routed> {
        match self {
            Self::One(routed) => routed.as_ref(),
            Self::Many(list) => list[at].as_ref(),
        }
    }

    /// The queues that have no room for what comes to them of all messages together.
    fn full(&self, core: &Core, messages: &[Message<'_>]) -> Vec<Arc<Gate>> {
        let routed = messages.iter().enumerate();
        let routed = routed.filter_map(|(at, message)| Some((self.of(at)?, message)));
        gate::full(
            core,
            routed.filter_map(|(routed, message)| {
                Some((routed.gates.as_ref()?, message.payload.len()))
            }),
        )
    }
}

/// Messages with their routes, about to be placed.
struct Records<'a> {
    messages: &'a [Message<'a>],
    routed: &'a Routes,
    whole: Whole<'a>,
    time_us: u64,
    epoch: fanlog_segment_format::Epoch,
}

impl<'a> Records<'a> {
    /// The records of all messages but those that are dropped.
    fn records(&self) -> impl Iterator<Item = MessageRecord<'a>> {
        (0..self.messages.len()).filter_map(|at| self.record(at))
    }

    fn record(&self, at: usize) -> Option<MessageRecord<'a>> {
        let message = &self.messages[at];
        let &Routed { route, exchange, .. } = self.routed.of(at)?;
        Some(MessageRecord {
            offset: Offset(0),
            route,
            exchange,
            epoch: self.epoch,
            time_us: self.time_us,
            priority: message.priority,
            mode: match message.durability {
                Durability::Synced => DurabilityMode::Synced,
                Durability::Buffered => DurabilityMode::Buffered,
                Durability::Transient => DurabilityMode::Transient,
            },
            due_us: message.due_us(self.time_us).unwrap_or_default(),
            expiry_us: message.expiry_us(self.time_us),
            publisher: self
                .whole
                .numbered
                .filter(|_| at == 0)
                .map(|(known, sequence)| (known.id.0.into(), sequence)),
            groups: None,
            key: message.routing_key.as_bytes(),
            properties: message.properties,
            headers: message.headers,
            payload: message.payload,
        })
    }

    fn need(&self) -> Need {
        let control = if self.whole.numbered.is_some() { SEQUENCE_BYTES } else { 0 };
        let mut need = Need { bytes: self.whole.acks.len() + control, messages: 0 };
        for record in self.records() {
            need.bytes += align_up(record.encoded_bytes(), RECORD_ALIGN);
            need.messages += 1;
        }
        need
    }

    /// Gives every message its offset and copies it: small ones here, large ones once the lock is
    /// given back.
    fn place(
        &self,
        core: &Core,
        mut state: MutexGuard<'_, Appender>,
        need: Need,
        blocking: bool,
    ) -> (Placed, bool) {
        let lead = blocking && core.may_lead(&state);
        state.make_room(core.append.pool(), need);
        let placed = Placed {
            batch: Some(state.open_number()),
            first: state.next_offset(),
            messages: need.messages,
            repeat: false,
        };
        if !self.whole.acks.is_empty() {
            state.acks(self.whole.acks);
        }
        if self.whole.sync {
            state.sync_open();
        }
        if let Some((known, sequence)) = self.whole.numbered {
            state.reach(known.id, sequence, self.time_us);
        }
        let mut loans: Vec<(Loan, &[u8])> = Vec::new();
        let mut payload_bytes = 0;
        for mut record in self.records() {
            let payload = record.payload;
            let sync = record.mode == DurabilityMode::Synced;
            record.offset = state.place(sync);
            let times = usize::from(record.due_us.is_some() || record.expiry_us.is_some());
            if record.priority > 0 || times > 0 {
                let times =
                    times + usize::from(record.due_us.is_some() && record.expiry_us.is_some());
                state.note_extras(Extras { times, prioritised: record.priority > 0 });
            }
            payload_bytes += payload.len() as u64;
            let padded = align_up(record.encoded_bytes(), RECORD_ALIGN);
            if payload.len() < COPY_OUTSIDE_MIN {
                record.encode(state.extend(padded));
            } else {
                let head = record.head_bytes();
                record.encode_head(payload.len(), state.extend(head));
                loans.push((state.extend_loan(padded - head), payload));
            }
        }
        let wake = if lead {
            state.leading = true;
            false
        } else {
            state.should_wake()
        };
        drop(state);
        let lent = !loans.is_empty();
        for (mut loan, payload) in loans {
            let (copy, padding) = loan.as_mut().split_at_mut(payload.len());
            copy.copy_from_slice(payload);
            padding.fill(0);
        }
        core.stats.published(u64::from(need.messages), payload_bytes);
        for (at, message) in self.messages.iter().enumerate() {
            let Some(routed) = self.routed.of(at) else { continue };
            if let (Some(batch), Some(_)) = (placed.batch, message.ttl) {
                core.limits.expires(routed.route, batch);
            }
            for gate in routed.gates.iter().flat_map(|gates| gates.iter()) {
                gate.count(message.payload.len());
            }
        }
        if wake {
            core.append.work.notify_one();
        }
        if lent {
            core.loan_filled();
        }
        (placed, lead)
    }
}

/// A publish on its way. Dropping it gives nothing up: the message is stored all the same.
pub struct Ticket {
    shared: Arc<Shared>,
    placed: Placed,
    /// Full queues that did not get the message.
    refused_by: Option<Arc<[String]>>,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Placed { batch, messages, .. } = self.placed;
        write!(f, "Ticket({messages} messages in batch {batch:?})")
    }
}

impl Ticket {
    fn outcome(&self, outcome: Result<()>) -> Result<Confirm> {
        outcome?;
        let confirm = Confirm { first_offset: self.placed.first, messages: self.placed.messages };
        match &self.refused_by {
            None => Ok(confirm),
            Some(queues) => {
                let stored = (confirm.messages > 0).then_some(confirm);
                Err(Error::QueueFull { queues: queues.to_vec(), stored })
            }
        }
    }

    /// The message was published before by the same [named publisher](crate::NamedPublisher): it is
    /// not stored again, and confirmed when the original is.
    pub fn is_repeat(&self) -> bool {
        self.placed.repeat
    }

    /// The number of the batch whose confirm this ticket waits for; none for an empty list.
    pub(crate) fn number(&self) -> Option<u64> {
        self.placed.batch.map(|batch| batch.0)
    }

    /// Waits for the confirm. On return the message survives a power cut (a `Buffered` one: the
    /// death of the process).
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] or [`Error::Closed`]: the publish is in doubt; after the store is opened
    /// again the message may be there or not. [`Error::OutOfSpace`], only with `WhenFull::Fail`: it
    /// is still on its way, and goes on when there is space; wait again. [`Error::QueueFull`]: full
    /// queues [refused](crate::Overflow::RejectPublish) it, and all others have it, as durably as
    /// if it was confirmed, and so have dead-letter exchanges; published again, they get it again.
    pub fn wait(&self) -> Result<Confirm> {
        let Some(number) = self.number() else { return self.outcome(Ok(())) };
        let core = &*self.shared.core;
        self.outcome(core.wait_for(&core.confirms, number, None))
    }

    /// Waits for the confirm, for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Ticket::wait`], and [`Error::Timeout`]: still in doubt; wait again.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Confirm> {
        let Some(number) = self.number() else { return self.outcome(Ok(())) };
        let core = &*self.shared.core;
        self.outcome(core.wait_for(&core.confirms, number, Some(timeout)))
    }

    /// The outcome, if there is one yet.
    pub fn try_wait(&self) -> Option<Result<Confirm>> {
        let outcome = match self.number() {
            None => Some(Ok(())),
            Some(number) => self.shared.core.confirms.outcome(number),
        };
        outcome.map(|outcome| self.outcome(outcome))
    }

    /// Waits for the confirm without a thread of its own, on any runtime. Dropping the future gives
    /// nothing up: the ticket can be waited on again.
    ///
    /// # Errors
    ///
    /// As [`Ticket::wait`].
    pub async fn confirmed(&self) -> Result<Confirm> {
        let Some(number) = self.number() else { return self.outcome(Ok(())) };
        self.outcome(self.shared.core.confirms.wait_async(number).await)
    }
}

/// Places messages that were routed, and ack records, as one: in the batch that is returned; `None` if
/// the topology has changed since. Waits for nothing.
///
/// # Errors
///
/// [`Error::Full`], [`Error::OutOfSpace`], or what the engine ended with: nothing was placed.
pub(crate) fn place_routed(
    core: &Core,
    messages: &[Message<'_>],
    routed: Vec<Routed>,
    acks: &[u8],
) -> Result<Option<BatchNumber>> {
    let (time_us, epoch) = (core.clock.wall_us(), core.epoch);
    let version = routed.first().map(|first| first.version);
    let same = routed.iter().all(|routed| Some(routed.version) == version);
    let routed = Routes::Many(routed.into_iter().map(Some).collect());
    let whole = Whole { what: "dead letter", acks, sync: true, ..BATCH };
    let records = Records { messages, routed: &routed, whole, time_us, epoch };
    let need = records.need();
    let mut state = core.append.lock();
    if let Some(end) = &state.end {
        return Err(end.clone());
    }
    if !core.append.has_room(&state, need) {
        core.append.wake_committer(&mut state);
        return Err(core.append.full(&state));
    }
    if !same || version.is_some_and(|version| version != state.version) {
        return Ok(None);
    }
    Ok(records.place(core, state, need, false).0.batch)
}

/// The record that defines a route, encoded.
pub(crate) fn route_definition(route: RouteId, groups: &[GroupId], transient: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let groups: Vec<u32> = groups.iter().map(|group| group.0).collect();
    let groups = U32List::from_slice(&groups);
    if transient {
        Control::TransientRouteDefine { route, groups }.encode(&mut bytes);
    } else {
        Control::RouteDefine { route, groups }.encode(&mut bytes);
    }
    bytes
}
