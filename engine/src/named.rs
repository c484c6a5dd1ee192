//! Named publishers: a message that is published again, after a reconnect or a crash, is stored once.
//!
//! A publisher numbers its messages. The engine knows how far each got, and takes what is not beyond
//! that for a repeat. Owns who is known, and what of theirs is on its way; what is durable of it is the
//! ledger's (`ledger/named.rs`).
//!
//! U1. A message and the record of its sequence are in one batch (`append/state.rs`).
//! U2. How far a publisher is grows under its lock and the append lock: of two who publish the same
//!     number at the same time one is the first.
//! U3. Who is forgotten publishes nothing more: that is seen under the append lock, under which it is
//!     forgotten. So nobody comes back and is taken for new without being told.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fanlog_segment_format::{Control, PublisherId};

use crate::{
    Error, Message, Result, Ticket, core::Core, ledger::Ledger, publish::Publisher,
    route::check_name,
};

/// How far a publisher is.
#[derive(Debug, Default)]
struct Progress {
    /// The highest number that it has used; 0 if none.
    last: u64,
    /// The highest of which the batch is confirmed.
    confirmed: u64,
    /// The highest number in each batch that is not confirmed, and the batch.
    in_flight: VecDeque<(u64, u64)>,
}

impl Progress {
    /// Forgets batches below `finished`.
    fn confirmed(&mut self, finished: u64) {
        while let Some(&(highest, _)) = self.in_flight.front().filter(|one| one.1 < finished) {
            self.confirmed = highest;
            self.in_flight.pop_front();
        }
    }

    /// The batch that a number not above the last one is in, if it is not confirmed.
    fn batch_of(&self, sequence: u64) -> Option<u64> {
        let mut left = self.in_flight.iter().filter(|_| sequence > self.confirmed);
        left.find(|&&(highest, _)| sequence <= highest).map(|&(_, batch)| batch)
    }

    fn placed(&mut self, sequence: u64, batch: u64) {
        self.last = sequence;
        match self.in_flight.back_mut().filter(|(_, last)| *last == batch) {
            Some((highest, _)) => *highest = sequence,
            None => self.in_flight.push_back((sequence, batch)),
        }
    }
}

/// A publisher that is known by its name.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) id: PublisherId,
    name: Box<str>,
    /// The batch that declared it; `None`: before the store was opened.
    declared: Option<u64>,
    /// Set under the append lock (U3).
    evicted: AtomicBool,
    /// When it published last, or was declared.
    used_us: AtomicU64,
    progress: Mutex<Progress>,
}

impl Known {
    fn new(id: PublisherId, name: &str, declared: Option<u64>, used_us: u64, last: u64) -> Self {
        Self {
            id,
            name: name.into(),
            declared,
            evicted: AtomicBool::new(false),
            used_us: AtomicU64::new(used_us),
            progress: Mutex::new(Progress { last, confirmed: last, in_flight: VecDeque::new() }),
        }
    }

    /// Whether it may publish. To be asked under the append lock.
    pub(crate) fn check(&self) -> Result<()> {
        if self.evicted.load(Ordering::Acquire) {
            return Err(Error::PublisherEvicted { name: self.name.to_string() });
        }
        Ok(())
    }

    fn idle(&self, now_us: u64) -> Duration {
        Duration::from_micros(now_us.saturating_sub(self.used_us.load(Ordering::Relaxed)))
    }
}

/// All that are known.
#[derive(Debug, Default)]
struct Table {
    by_name: HashMap<Box<str>, Arc<Known>>,
    next: u32,
}

/// Named publishers of an open store.
#[derive(Debug, Default)]
pub(crate) struct NamedPublishers {
    table: Mutex<Table>,
}

impl NamedPublishers {
    /// Those that recovery found.
    pub(crate) fn of(ledger: &Ledger) -> Self {
        let known = ledger.named().entries().map(|entry| {
            let known = Known::new(entry.id, &entry.name, None, entry.time_us, entry.sequence);
            (entry.name.as_str().into(), Arc::new(known))
        });
        let table = Table { by_name: known.collect(), next: ledger.named().next() };
        Self { table: Mutex::new(table) }
    }
}

impl Table {
    /// Who has to go so that one more can be known: who was idle for too long, then who was idle the
    /// longest.
    fn superfluous(&self, core: &Core, now_us: u64) -> Vec<Arc<Known>> {
        let mut all: Vec<&Arc<Known>> = self.by_name.values().collect();
        all.sort_by_cached_key(|known| (known.used_us.load(Ordering::Relaxed), known.id));
        let old = all.partition_point(|known| known.idle(now_us) > core.config.publisher_age_max);
        let over = (all.len() + 1).saturating_sub(core.config.publishers_max);
        all.into_iter().take(old.max(over)).cloned().collect()
    }
}

/// The publisher of that name, made known if it is not.
pub(crate) fn declare(core: &Arc<Core>, name: &str) -> Result<NamedPublisher> {
    core.check_writable()?;
    check_name("publisher", name)?;
    let mut table = core.publishers.table.lock().unwrap_or_else(PoisonError::into_inner);
    let known = match table.by_name.get(name) {
        Some(known) => Arc::clone(known),
        None => make_known(core, &mut table, name)?,
    };
    drop(table);
    if let Some(declared) = known.declared {
        core.wait_for(&core.confirms, declared, None)?;
    }
    Ok(NamedPublisher::new(core, known))
}

/// The publisher of that name.
pub(crate) fn find(core: &Arc<Core>, name: &str) -> Result<NamedPublisher> {
    check_name("publisher", name)?;
    let table = core.publishers.table.lock().unwrap_or_else(PoisonError::into_inner);
    let known = table.by_name.get(name).cloned();
    let not_found = || Error::NotFound { what: "publisher", name: name.to_owned() };
    Ok(NamedPublisher::new(core, known.ok_or_else(not_found)?))
}

fn make_known(core: &Core, table: &mut Table, name: &str) -> Result<Arc<Known>> {
    let now_us = core.clock.wall_us();
    let id = PublisherId(table.next);
    let next = table.next.checked_add(1).ok_or(Error::Exhausted { what: "publisher" })?;
    let superfluous = table.superfluous(core, now_us);
    let mut records = Vec::new();
    for known in &superfluous {
        Control::PublisherForget { publisher: known.id }.encode(&mut records);
    }
    Control::PublisherDeclare { publisher: id, time_us: now_us, name }.encode(&mut records);
    let mut state = core.append.lock();
    if let Some(end) = &state.end {
        return Err(end.clone());
    }
    for known in &superfluous {
        known.evicted.store(true, Ordering::Release);
        table.by_name.remove(&known.name);
    }
    state.control(core.append.pool(), &records, false);
    state.sync_open();
    let declared = Some(state.open_number().0);
    core.append.wake_committer(&mut state);
    drop(state);
    core.stats.publishers_evicted(superfluous.len() as u64);
    let known = Arc::new(Known::new(id, name, declared, now_us, 0));
    table.by_name.insert(name.into(), Arc::clone(&known));
    table.next = next;
    Ok(known)
}

/// Publishes messages that are numbered by whoever publishes them, each stored once, however often it
/// is published: a repeat is confirmed with the original.
///
/// Made by [`Engine::declare_publisher`](crate::Engine::declare_publisher) and
/// [`Engine::named_publisher`](crate::Engine::named_publisher). Cheap to clone; handles of the same
/// name are one publisher, and know of each other's numbers.
///
/// # Example
///
/// ```
/// # use fanlog::{Config, Engine, Message};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path(), Config::default())?;
/// # engine.declare_queue("readings")?;
/// let meter = engine.declare_publisher("meter 7")?;
/// meter.publish(1, &Message::new("", "readings", b"230 V"))?.wait()?;
/// // The confirm got lost, so it is published again: not stored, and confirmed.
/// let again = meter.publish(1, &Message::new("", "readings", b"230 V"))?;
/// assert!(again.is_repeat());
/// again.wait()?;
/// assert_eq!(meter.last_sequence(), 1);
/// assert_eq!(engine.queue("readings")?.messages, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct NamedPublisher {
    publisher: Publisher,
    known: Arc<Known>,
}

impl fmt::Debug for NamedPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NamedPublisher({:?})", self.known.name)
    }
}

impl NamedPublisher {
    fn new(core: &Arc<Core>, known: Arc<Known>) -> Self {
        Self { publisher: Publisher::new(Arc::clone(core)), known }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.known.name
    }

    /// The highest number that it has used, 0 if none. After the store was opened: of what is stored,
    /// durably. Else also of what is on its way: whoever needs to know publishes it again and waits.
    pub fn last_sequence(&self) -> u64 {
        self.known.progress.lock().unwrap_or_else(PoisonError::into_inner).last
    }

    /// Appends a message and returns a ticket to wait for its confirm, as
    /// [`Publisher::publish`](crate::Publisher::publish) does, unless its number is not above
    /// [`last_sequence`](Self::last_sequence): then it is a repeat. It is not looked at or stored, and
    /// its ticket is confirmed when the original is; its [`Confirm`](crate::Confirm) counts 0
    /// messages.
    ///
    /// Numbers begin at 1 and may have gaps; one that was left out can't be used later. A number is
    /// used once the message has its place: on an error, and where an
    /// [optional](crate::Message::optional) message was dropped, it is free. It is used too where full
    /// queues refused the message and others, or a dead-letter exchange, got it, as its ticket says.
    ///
    /// # Errors
    ///
    /// As [`Publisher::publish`](crate::Publisher::publish). [`Error::PublisherEvicted`]: the
    /// publisher was forgotten for others or for its age, and so is what it has published. Declared
    /// again it is new: then a number that it published before is stored once more.
    /// [`Error::Refused`]: the number is 0.
    pub fn publish(&self, sequence: u64, message: &Message<'_>) -> Result<Ticket> {
        let core = self.publisher.core();
        core.check_writable()?;
        if sequence == 0 {
            return Err(Error::Refused {
                what: "a message numbered 0".into(),
                why: "the numbers of a publisher begin at 1".into(),
            });
        }
        let mut progress = self.known.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.confirmed(core.confirms.finished());
        if sequence <= progress.last {
            self.known.check()?;
            core.stats.repeated();
            return Ok(self.publisher.repeat(progress.batch_of(sequence)));
        }
        let now_us = core.clock.wall_us();
        let ticket = self.publisher.publish_numbered(message, &self.known, sequence)?;
        // One that was dropped has no place.
        if let Some(batch) = ticket.number() {
            progress.placed(sequence, batch);
        }
        self.known.used_us.store(now_us, Ordering::Relaxed);
        Ok(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_on_its_way_is_in_the_first_batch_that_reaches_it() {
        let mut progress = Progress::default();
        for (sequence, batch) in [(1, 7), (2, 7), (5, 8), (9, 10)] {
            progress.placed(sequence, batch);
        }
        let batches = [1, 2, 3, 5, 6, 9].map(|sequence| progress.batch_of(sequence).unwrap());
        assert_eq!(batches, [7, 7, 8, 8, 10, 10]);
        progress.confirmed(9);
        assert_eq!(
            (progress.batch_of(5), progress.batch_of(6), progress.last),
            (None, Some(10), 9)
        );
        progress.confirmed(11);
        assert_eq!((progress.batch_of(9), progress.in_flight.len()), (None, 0));
    }
}
