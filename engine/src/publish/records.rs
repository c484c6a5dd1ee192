//! The records of messages that are placed as one: how much room they need, and their place.
//!
//! In: messages with their routes, and ack records. Out: offsets, and the batch that they are in.

use std::sync::{Arc, MutexGuard};

use fanlog_segment_format::{
    BatchNumber, Epoch, GroupId, Offset, RouteId, U32List,
    control::Control,
    layout::{RECORD_ALIGN, align_up},
    record::{DurabilityMode, MessageRecord},
};

use crate::{
    Durability, Message, Result,
    append::{Appender, COPY_OUTSIDE_MIN, Extras, Need, SEQUENCE_BYTES, arena::Loan},
    core::Core,
    gate::{self, Gate},
    named::Known,
    route::Routed,
    supply::Promise,
};

/// Where messages of one publish were placed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    /// `None`: there was nothing to place.
    pub(super) batch: Option<BatchNumber>,
    pub(super) first: Offset,
    pub(super) messages: u32,
    /// The message was placed by an earlier publish.
    pub(super) repeat: bool,
    /// The caller commits it: nobody else was woken.
    pub(super) lead: bool,
}

impl Placed {
    /// Nothing: what comes next gets the offset `first`.
    pub(super) fn nothing(first: Offset) -> Self {
        Self { batch: None, first, messages: 0, repeat: false, lead: false }
    }
}

/// What is placed as one.
#[derive(Clone, Copy)]
pub(super) struct Whole<'a> {
    /// What it is called where it is too large.
    pub(super) what: &'static str,
    /// Ack records that go with the messages.
    pub(super) acks: &'a [u8],
    /// Whose message it is, and its number there.
    pub(super) numbered: Option<(&'a Known, u64)>,
    /// Its batch is synced, whatever the messages ask for.
    pub(super) sync: bool,
    /// It may go to some of its queues alone.
    pub(super) divisible: bool,
}

pub(super) const ALONE: Whole<'_> =
    Whole { what: "message", acks: &[], numbered: None, sync: false, divisible: true };
pub(super) const BATCH: Whole<'_> = Whole { what: "batch", divisible: false, ..ALONE };

pub(super) enum Routes {
    One(Option<Routed>),
    Many(Vec<Option<Routed>>),
}

impl Routes {
    /// The route of a message; none if it is dropped.
    pub(super) fn of(&self, at: usize) -> Option<&Routed> {
        match self {
            Self::One(routed) => routed.as_ref(),
            Self::Many(list) => list[at].as_ref(),
        }
    }

    /// The queues that have no room for what comes to them of all messages together.
    pub(super) fn full(&self, core: &Core, messages: &[Message<'_>]) -> Vec<Arc<Gate>> {
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
pub(super) struct Records<'a> {
    pub(super) messages: &'a [Message<'a>],
    pub(super) routed: &'a Routes,
    pub(super) whole: Whole<'a>,
    pub(super) time_us: u64,
    pub(super) epoch: Epoch,
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

    pub(super) fn need(&self) -> Need {
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
    pub(super) fn place(
        &self,
        core: &Core,
        mut state: MutexGuard<'_, Appender>,
        need: Need,
        promise: Option<Promise>,
        blocking: bool,
    ) -> Placed {
        let lead = blocking && core.may_lead(&state);
        state.make_room(core.append.pool(), need);
        state.note_call();
        state.promised(promise);
        let placed = Placed {
            batch: Some(state.open_number()),
            first: state.next_offset(),
            messages: need.messages,
            repeat: false,
            lead,
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
        state.note_published(need.messages, payload_bytes);
        drop(state);
        let lent = !loans.is_empty();
        for (mut loan, payload) in loans {
            let (copy, padding) = loan.as_mut().split_at_mut(payload.len());
            copy.copy_from_slice(payload);
            padding.fill(0);
        }
        for (at, message) in self.messages.iter().enumerate() {
            let Some(routed) = self.routed.of(at) else { continue };
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
        placed
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
    let promise = core.supply.promise_large(core, need.bytes)?;
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
    Ok(records.place(core, state, need, promise, false).batch)
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
