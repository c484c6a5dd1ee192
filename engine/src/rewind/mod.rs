//! Brings messages of the past into a queue: binds it from there, or rewinds it.
//!
//! In: the name of a queue, a binding, where to begin. Out: one record that says what comes into the
//! queue, in one batch with the binding.
//!
//! 1. Hold the queue still, and the histories that are read: what consumers had goes back, their acks
//!    are in the log. So no history gives back what is looked at.
//! 2. Look through the histories, without any lock, up to the end of the log.
//! 3. Hold up publishers for one commit, look at what came meanwhile, place the record.
//!
//! Until the record is in the log nothing is changed: whatever fails or ends before, the queue goes on
//! as it was.
//!
//! T1. What is brought is held by a history until the record is in the log, and by the queue from
//!     then on.
//! T2. What is brought was acked by the queue or not its own; that stays so, as it is held still.

mod gather;

use std::{
    sync::{Arc, PoisonError, RwLockWriteGuard},
    time::{Duration, SystemTime},
};

use fanlog_segment_format::{AckBytes, Offset, QueueId, RowList, control::Control};

use self::gather::{Found, Gatherer, Wanted, first_since};
use crate::{
    Change, Error, Result,
    core::Core,
    deliver, lifetime,
    message::within,
    queue::Queue,
    route::{Rewindable, Tables},
};

/// How long to wait at most for what was placed before to be confirmed.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Publishers are held up only once no more than so many messages are left to be looked at.
const REST_MAX: u64 = 4096;
/// Or after so many attempts to come closer to the end of the log.
const LOOKS_MAX: u32 = 8;

/// Where in an exchange's history a queue begins, for [`Engine::bind_from`](crate::Engine::bind_from)
/// and [`Engine::rewind`](crate::Engine::rewind).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartAt {
    /// With what is published from now on.
    Latest,
    /// With the oldest message that is kept.
    Earliest,
    /// With the first message of this offset or a later one.
    Offset(Offset),
    /// With the first message that was published at this time or later, by the clock of the store's
    /// machine.
    Time(SystemTime),
}

/// Where a queue begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landed {
    /// Messages that are kept begin here for it: of several exchanges, for that of which most is.
    pub offset: Offset,
    /// Less is kept than was asked for, or the log does not go so far.
    pub clamped: bool,
    /// Messages that were brought into the queue.
    pub messages: u64,
}

/// What is to be done.
#[derive(Clone, Copy)]
pub(crate) enum Bring<'a> {
    /// This binding, which is made.
    Binding(Change<'a>),
    /// All that the queue has.
    Bindings,
}

impl Bring<'_> {
    fn plan(self, tables: &Tables, name: &str) -> Result<Rewindable> {
        match self {
            Self::Binding(binding) => tables.past_of_binding(&binding),
            Self::Bindings => tables.past_of_queue(name),
        }
    }

    fn changes(&self) -> &[Change<'_>] {
        match self {
            Self::Binding(binding) => std::slice::from_ref(binding),
            Self::Bindings => &[],
        }
    }
}

/// Queues that are held still, until this goes.
struct Held {
    queues: Vec<Arc<Queue>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.queues.iter().for_each(|queue| deliver::release(queue));
    }
}

/// Brings messages of the past into a queue; into an exclusive one, if it is `owned`. On return that is
/// durable.
///
/// # Errors
///
/// As for [`Engine::bind_from`](crate::Engine::bind_from) and
/// [`Engine::rewind`](crate::Engine::rewind).
pub(crate) fn bring(
    core: &Arc<Core>,
    name: &str,
    bring: Bring<'_>,
    at: StartAt,
    owned: Option<QueueId>,
) -> Result<Landed> {
    core.check_writable()?;
    let estimate = bring.changes().iter().map(Change::record_bytes_max).sum();
    within("change", estimate, core.config.batch_bytes_max())?;
    if at == StartAt::Latest {
        return from_now(core, name, bring);
    }
    let _only = core.rewinding.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let tables = core.tables.read().unwrap_or_else(PoisonError::into_inner);
        let plan = bring.plan(&tables, name)?;
        drop(tables);
        if owned.is_some_and(|id| id != plan.queue) {
            return Err(Error::NotFound { what: "queue", name: name.to_owned() });
        }
        if let Some(landed) = attempt(core, name, bring, at, (plan, owned.is_some()))? {
            return Ok(landed);
        }
    }
}

/// Brings nothing, as there is nothing yet.
fn from_now(core: &Core, name: &str, bring: Bring<'_>) -> Result<Landed> {
    match bring {
        Bring::Binding(_) => core.change_if(bring.changes(), |_| Ok(()))?,
        Bring::Bindings => {
            let tables = core.tables.read().unwrap_or_else(PoisonError::into_inner);
            bring.plan(&tables, name)?;
        }
    }
    Ok(Landed { offset: core.log.visible(), clamped: false, messages: 0 })
}

/// One attempt; `None` if the queue's bindings changed meanwhile.
fn attempt(
    core: &Arc<Core>,
    name: &str,
    bring: Bring<'_>,
    at: StartAt,
    (plan, is_owned): (Rewindable, bool),
) -> Result<Option<Landed>> {
    // Whatever of it was declared just now is in the ledger then.
    settle(core)?;
    let queue_of = |id| {
        let not_found = || Error::NotFound { what: "queue", name: name.to_owned() };
        core.ledger().queue(id).ok_or_else(not_found)
    };
    let queue = queue_of(plan.queue)?;
    if !is_owned {
        lifetime::check_shared(&queue, "rewind")?;
    }
    let (gate, id) = (plan.gate.clone(), plan.queue);
    let mut held = Held { queues: Vec::new() };
    let handed_out = hold(core, &mut held, &queue)?;
    let mut wanted = Vec::new();
    let mut clamped = false;
    for past in plan.pasts {
        let history = queue_of(past.history)?;
        hold(core, &mut held, &history)?;
        let (from, is_clamped) = start(core, &history, at)?;
        clamped |= is_clamped;
        wanted.push(Wanted { past, from });
    }
    let begin = wanted.iter().map(|wanted| wanted.from).min().unwrap_or_default();
    let members = queue.ledger().members.clone();
    let again = matches!(bring, Bring::Bindings);
    let found = Found::default();
    let mut gatherer = Gatherer { core, queue: &queue, wanted, members, again, found };
    let mut looked = begin;
    for _ in 0..LOOKS_MAX {
        let end = core.log.visible();
        if end.0.saturating_sub(looked.0) <= REST_MAX {
            break;
        }
        gatherer.look(looked, end)?;
        looked = end;
    }
    let mut tables = core.tables.write().unwrap_or_else(PoisonError::into_inner);
    core.hold_publishers(&mut tables, WAIT_MAX)?;
    let still = bring.plan(&tables, name)?;
    let same = still.queue == id
        && still.pasts.iter().map(|past| past.group).eq(gatherer.wanted.iter().map(Wanted::group))
        && queue.ledger().members == gatherer.members;
    if !same {
        return Ok(None);
    }
    let to = core.append.lock().next_offset();
    gatherer.look(looked, to)?;
    let Gatherer { wanted, found, .. } = gatherer;
    let landed = Landed { offset: begin.min(to), clamped, messages: found.amount.messages };
    let record = record(&queue, &wanted, &found, to, handed_out);
    within("rewind", record.len(), core.config.batch_bytes_max())?;
    let number = place(core, tables, bring, &record)?;
    if !record.is_empty() {
        if let Some(gate) = gate {
            gate.brought(found.amount);
        }
        // They go on once the record is in the log.
        held.queues.clear();
    }
    drop(held);
    number.map_or(Ok(()), |number| core.wait_for(&core.confirms, number, None))?;
    // Some of it may have a time of its own.
    core.limits.watch(core, queue);
    Ok(Some(landed))
}

fn place(
    core: &Core,
    mut tables: RwLockWriteGuard<'_, Tables>,
    bring: Bring<'_>,
    record: &[u8],
) -> Result<Option<u64>> {
    core.place_changes_with(&mut tables, bring.changes(), record)
}

/// Waits until all that was placed is in the ledger.
fn settle(core: &Core) -> Result<()> {
    let last = core.append.lock().last_placed();
    core.hurry(false);
    last.map_or(Ok(()), |last| core.wait_for(&core.confirms, last, Some(WAIT_MAX)))
}

/// Holds a queue still, until `held` goes. Returns up to where it may have handed out messages.
fn hold(core: &Arc<Core>, held: &mut Held, queue: &Arc<Queue>) -> Result<Offset> {
    held.queues.push(Arc::clone(queue));
    deliver::hold(core, queue, WAIT_MAX)
}

/// Where to begin in a history, and whether that is not where it was asked for.
fn start(core: &Arc<Core>, history: &Queue, at: StartAt) -> Result<(Offset, bool)> {
    // It is acked in the order of the log.
    let (floor, end) = (Offset(history.ledger().acks.end()), core.log.visible());
    let floor = floor.min(end);
    Ok(match at {
        StartAt::Latest => (end, false),
        StartAt::Earliest => (floor, false),
        StartAt::Offset(offset) => (offset.clamp(floor, end), offset < floor || offset > end),
        StartAt::Time(time) => {
            let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let time_us = u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX);
            let first = first_since(core, Offset(0), time_us)?.unwrap_or(end);
            (first.clamp(floor, end), first < floor)
        }
    })
}

/// The record of what was found; empty if that is nothing. Below `handed_out` the queue may have handed
/// out what it has not acked.
fn record(
    queue: &Queue,
    wanted: &[Wanted],
    found: &Found,
    to: Offset,
    handed_out: Offset,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let Some(first) = found.first else { return bytes };
    let floor = queue.ledger().floor().min(first);
    let members: Vec<[u64; 2]> =
        wanted.iter().map(|wanted| [u64::from(wanted.group().0), wanted.from.0]).collect();
    let segments: Vec<[u64; 5]> = found
        .segments
        .iter()
        .map(|(first, there)| {
            let (brought, joined) = (there.brought, there.joined);
            [first.0, brought.messages, brought.bytes, joined.messages, joined.bytes]
        })
        .collect();
    let (mut brought, mut passed) = (Vec::new(), Vec::new());
    found.brought.encode(&mut brought);
    found.passed.encode(&mut passed);
    Control::Rewind {
        queue: queue.id,
        to,
        mark: floor.max(handed_out),
        members: RowList::from_slice(&members),
        segments: RowList::from_slice(&segments),
        brought: AckBytes(&brought),
        passed: AckBytes(&passed),
    }
    .encode(&mut bytes);
    bytes
}
