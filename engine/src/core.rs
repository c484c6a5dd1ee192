//! What the stages share: the state of an open store, and who may wait for what.
//!
//! Only holds and delegates. The order in which locks are taken, here and everywhere:
//!
//! ```text
//! rewinding -> tables -> append          topology changes; rewinds also take all others' at times
//! tables -> dispatch                     deletes on condition; whoever has dispatch only tries tables
//! named publishers -> append; a named publisher -> append     numbered messages
//! pipeline -> append                     begin, complete
//! pipeline -> dirty list -> queue dirty  begin
//! pipeline -> ledger -> queue ledger     complete
//! pause (checkpoints) -> settling -> ledger -> queue ledger     checkpoints, reclaim, rewriting
//! queue dirty -> segments                                        acks
//! dispatch -> hands -> ledger, queue ledger, queue dirty -> dirty list, append
//! dispatch -> hands -> a gate -> queue dirty                     publishes to queues that refuse
//! ```

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use fanlog_segment_format::{Epoch, ExchangeId, QueueId, SegmentId, StoreId, file_name::FileName};

use crate::{
    Config, Error, RecoveryReport, Result,
    ack::DirtyQueues,
    append::{Append, Appender, Need},
    clock::Clock,
    commit::{self, Pipeline},
    confirm::Confirms,
    copies,
    deliver::{Alarms, Waiting, overdue::Overdue},
    error::FileOp,
    keeper::Keeper,
    ledger::Ledger,
    limits::Limits,
    log::{Log, view::View},
    message::within,
    named::NamedPublishers,
    publish::route_definition,
    queue::Queue,
    route::{Change, Entry, Holds, Matched, Records, Routed, SharedRoutes, Tables, unroutable},
    stats::Counters,
    storage::Storage,
    supply::Supply,
};

/// Past it, bytes, messages of batches that are read back from the unsealed part are handed out as copies.
const READ_BACK_HELD_MAX: usize = 4 << 20;

/// Everything of an open store.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: StoreId,
    pub(crate) epoch: Epoch,
    pub(crate) read_only: bool,
    pub(crate) recovery: RecoveryReport,
    pub(crate) tables: RwLock<Tables>,
    /// Routes that were looked up in the tables.
    routes: SharedRoutes,
    /// Those of transient messages.
    transient_routes: SharedRoutes,
    /// Copy of the tables' version: a hint that saves publishers the lock.
    version: AtomicU64,
    pub(crate) publishers: NamedPublishers,
    pub(crate) append: Append,
    pub(crate) pipeline: Mutex<Option<Pipeline>>,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) log: Log,
    pub(crate) confirms: Confirms,
    pub(crate) acks_durable: Confirms,
    pub(crate) dirty: DirtyQueues,
    pub(crate) waiting: Waiting,
    pub(crate) overdue: Overdue,
    pub(crate) limits: Limits,
    pub(crate) alarms: Alarms,
    /// The date when the store was opened.
    pub(crate) opened_us: u64,
    pub(crate) supply: Supply,
    pub(crate) keeper: Keeper,
    pub(crate) stats: Counters,
    stop: AtomicBool,
    loans_watched: AtomicBool,
    /// Held while messages of the past are brought into a queue: one at a time.
    pub(crate) rewinding: Mutex<()>,
}

/// What opening found, from which a core is made.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: StoreId,
    pub(crate) epoch: Epoch,
    pub(crate) read_only: bool,
    pub(crate) recovery: RecoveryReport,
    pub(crate) tables: Tables,
    pub(crate) append: Append,
    /// `None` where the store is only read.
    pub(crate) pipeline: Option<Pipeline>,
    pub(crate) ledger: Ledger,
    pub(crate) log: Log,
    pub(crate) supply: Supply,
    pub(crate) keeper: Keeper,
    pub(crate) stats: Counters,
}

impl Core {
    pub(crate) fn new(parts: Parts) -> Self {
        let next_batch = parts.ledger.head.next_batch;
        parts.tables.open_gates(&parts.ledger);
        Self {
            version: AtomicU64::new(parts.tables.version),
            config: parts.config,
            storage: parts.storage,
            opened_us: parts.clock.wall_us(),
            clock: parts.clock,
            store: parts.store,
            epoch: parts.epoch,
            read_only: parts.read_only,
            recovery: parts.recovery,
            tables: RwLock::new(parts.tables),
            routes: SharedRoutes::default(),
            transient_routes: SharedRoutes::default(),
            publishers: NamedPublishers::of(&parts.ledger),
            append: parts.append,
            pipeline: Mutex::new(parts.pipeline),
            ledger: Mutex::new(parts.ledger),
            log: parts.log,
            confirms: Confirms::new(next_batch.0),
            acks_durable: Confirms::new(0),
            dirty: DirtyQueues::default(),
            waiting: Waiting::default(),
            overdue: Overdue::default(),
            limits: Limits::default(),
            alarms: Alarms::default(),
            supply: parts.supply,
            keeper: parts.keeper,
            stats: parts.stats,
            stop: AtomicBool::new(false),
            loans_watched: AtomicBool::new(false),
            rewinding: Mutex::default(),
        }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the engine takes nothing more, if it has ended.
    pub(crate) fn ended(&self) -> Option<Error> {
        self.confirms.ended().cloned()
    }

    /// Whether a failure, rather than `close`, ended the engine.
    pub(crate) fn is_poisoned(&self) -> bool {
        matches!(self.confirms.ended(), Some(Error::Poisoned { .. }))
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.ended().map_or(Ok(()), Err)
    }

    /// Takes nothing more, and tells everyone who waits.
    pub(crate) fn end(&self, reason: &Error) {
        self.append.end(reason);
        self.confirms.end(reason.clone());
        self.acks_durable.end(reason.clone());
        for queue in self.waiting.take_all() {
            queue.sleepers.wake_all();
        }
        self.keeper.wake();
    }

    /// A write or sync failed: nothing that depends on it is ever confirmed.
    pub(crate) fn poison(&self, cause: Error) {
        self.end(&Error::Poisoned { cause: Arc::new(cause) });
    }

    /// Tells threads to stop once they have nothing to do.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let state = self.append.lock();
        self.append.work.notify_all();
        drop(state);
        self.keeper.wake();
    }

    pub(crate) fn threads_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire) || self.confirms.ended().is_some()
    }

    /// Whether nothing can be written for want of space.
    pub(crate) fn is_stuck(&self) -> bool {
        let pipeline = self.pipeline.lock().unwrap_or_else(PoisonError::into_inner);
        pipeline.as_ref().is_some_and(Pipeline::is_stuck)
    }

    /// A committer that keeps the time does not sleep shorter than this.
    #[expect(clippy::unused_self, reason = "reads as a property of the engine")]
    pub(crate) fn shortest_sleep(&self) -> Duration {
        Duration::from_micros(500)
    }

    pub(crate) fn segment_path(&self, id: SegmentId) -> PathBuf {
        self.storage.path(&FileName::Segment(id).to_string())
    }

    pub(crate) fn exchange_name(&self, id: ExchangeId) -> Arc<str> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.exchange_name(id).unwrap_or_else(|| Arc::from(""))
    }

    /// The tables, or, if it would have to wait for them, [`Error::Timeout`].
    ///
    /// For those who hold a lock that comes before the tables': who changes them may want it.
    fn tables_at_once(&self) -> Result<RwLockReadGuard<'_, Tables>> {
        match self.tables.try_read() {
            Ok(tables) => Ok(tables),
            Err(TryLockError::Poisoned(tables)) => Ok(tables.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Error::Timeout),
        }
    }

    /// The same, to change them.
    fn tables_to_change_at_once(&self) -> Result<RwLockWriteGuard<'_, Tables>> {
        match self.tables.try_write() {
            Ok(tables) => Ok(tables),
            Err(TryLockError::Poisoned(tables)) => Ok(tables.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Error::Timeout),
        }
    }

    /// [`Core::exchange_name`], or [`Error::Timeout`] where that would have to wait.
    pub(crate) fn exchange_name_at_once(&self, id: ExchangeId) -> Result<Arc<str>> {
        let tables = self.tables_at_once()?;
        Ok(tables.exchange_name(id).unwrap_or_else(|| Arc::from("")))
    }

    /// Memory of readers beyond the window.
    pub(crate) fn pinned_bytes(&self) -> usize {
        let state = self.append.lock();
        let own = state.unconfirmed();
        drop(state);
        let arenas = self.append.pool().out_bytes();
        // One arena is being filled, one may be half in the window.
        let arenas =
            arenas.saturating_sub(self.log.window_bytes() + own + 2 * crate::append::ARENA_BYTES);
        arenas + self.log.read_back_bytes()
    }

    /// Whether readers hold so much that they are handed copies of what they find in a view.
    ///
    /// Of batches that were read back they hold little: a message of 100 bytes would keep 2 MiB each.
    pub(crate) fn hands_out_copies(&self, view: &View) -> bool {
        let others = |own: usize| self.log.read_back_bytes().saturating_sub(own);
        view.read_back_bytes().is_some_and(|own| others(own) > READ_BACK_HELD_MAX)
            || self.pinned_bytes() > self.config.pinned_bytes_max
    }

    // Topology.

    pub(crate) fn topology_version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Routes a message, defining its route if it is the first of its kind.
    pub(crate) fn route(
        &self,
        exchange: &str,
        key: &str,
        headers: &[u8],
        transient: bool,
    ) -> Result<Arc<Entry>> {
        let remembered = if transient { &self.transient_routes } else { &self.routes };
        if !copies::may_be_in(headers)
            && let Some(entry) = remembered.find(exchange, key, self.topology_version())
        {
            return Ok(entry);
        }
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.check_open(exchange)?;
        let matched = tables.matched(exchange, key, headers)?;
        if matched.groups.is_empty() {
            return Err(unroutable(exchange, key));
        }
        let known = tables.route_of(&matched, transient);
        drop(tables);
        let routed = match known {
            Some(routed) => routed,
            None => self.define_route(exchange, key, headers, transient)?,
        };
        let entry = Entry::new(exchange, key, routed);
        if entry.routed.holds == Holds::ForKey {
            remembered.remember(Arc::clone(&entry));
        }
        Ok(entry)
    }

    /// Routes a message to all but some of the queues that it would go to; `None` if none is left.
    /// `at_once`: the caller holds a queue's dispatch lock.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] if it is to be at once and others have the tables.
    pub(crate) fn route_without(
        &self,
        (exchange, key, headers): (&str, &str, &[u8]),
        transient: bool,
        at_once: bool,
        queues: impl Fn(&Tables) -> Vec<QueueId>,
    ) -> Result<Option<Routed>> {
        let tables = if at_once {
            self.tables_at_once()?
        } else {
            self.tables.read().unwrap_or_else(PoisonError::into_inner)
        };
        let matched = tables.without(tables.matched(exchange, key, headers)?, &queues(&tables))?;
        if matched.groups.is_empty() {
            return Ok(None);
        }
        if let Some(routed) = tables.route_of(&matched, transient) {
            return Ok(Some(routed));
        }
        drop(tables);
        let mut tables = if at_once {
            self.tables_to_change_at_once()?
        } else {
            self.tables.write().unwrap_or_else(PoisonError::into_inner)
        };
        let matched = tables.without(tables.matched(exchange, key, headers)?, &queues(&tables))?;
        if matched.groups.is_empty() {
            return Ok(None);
        }
        self.define_route_of(&mut tables, &matched, transient).map(Some)
    }

    fn define_route(
        &self,
        exchange: &str,
        key: &str,
        headers: &[u8],
        transient: bool,
    ) -> Result<Routed> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let matched = tables.matched(exchange, key, headers)?;
        if matched.groups.is_empty() {
            return Err(unroutable(exchange, key));
        }
        self.define_route_of(&mut tables, &matched, transient)
    }

    fn define_route_of(
        &self,
        tables: &mut Tables,
        matched: &Matched,
        transient: bool,
    ) -> Result<Routed> {
        if let Some(routed) = tables.route_of(matched, transient) {
            return Ok(routed);
        }
        let mut state = self.append.lock();
        if let Some(end) = &state.end {
            return Err(end.clone());
        }
        let routed = tables.define_route(matched, transient)?;
        let record = route_definition(routed.route, &matched.groups, transient);
        state.control(self.append.pool(), &record, false);
        self.append.wake_committer(&mut state);
        Ok(routed)
    }

    /// Makes changes of the topology, all or none, if `check` allows them. On return they are
    /// durable.
    pub(crate) fn change_if(
        &self,
        changes: &[Change<'_>],
        check: impl FnOnce(&Tables) -> Result<()>,
    ) -> Result<()> {
        self.check_writable()?;
        let estimate = changes.iter().map(Change::record_bytes_max).sum();
        within("change", estimate, self.config.batch_bytes_max())?;
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        check(&tables)?;
        let number = self.place_changes(&mut tables, changes)?;
        drop(tables);
        let Some(number) = number else { return Ok(()) };
        self.wait_for(&self.confirms, number, None)
    }

    /// Deletes a queue, if it is still there. It is not waited for.
    pub(crate) fn delete_queue(&self, queue: &Queue) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        // Another may have its name by now.
        if tables.queue(&queue.name).is_ok_and(|id| id == queue.id) {
            let delete = Change::DeleteQueue { name: &queue.name };
            // An engine that has ended deletes nothing.
            drop(self.place_changes(&mut tables, &[delete]));
        }
    }

    /// Makes changes and places their records. Returns the batch that will make them durable.
    pub(crate) fn place_changes(
        &self,
        tables: &mut Tables,
        changes: &[Change<'_>],
    ) -> Result<Option<u64>> {
        self.place_changes_with(tables, changes, &[])
    }

    /// The same with records of the caller's behind theirs.
    pub(crate) fn place_changes_with(
        &self,
        tables: &mut Tables,
        changes: &[Change<'_>],
        more: &[u8],
    ) -> Result<Option<u64>> {
        let mut bytes = Vec::new();
        let mut state = self.append.lock();
        if let Some(end) = &state.end {
            return Err(end.clone());
        }
        let mut records = Records { bytes: &mut bytes, at: state.next_offset() };
        tables.apply_all(changes, &mut records)?;
        bytes.extend_from_slice(more);
        let number = if bytes.is_empty() {
            // As asked for, already; perhaps by a change that is still on its way.
            state.last_placed()
        } else {
            state.control(self.append.pool(), &bytes, true);
            tables.version += 1;
            state.version = tables.version;
            self.version.store(tables.version, Ordering::Release);
            Some(state.open_number().0)
        };
        let wake = state.should_wake();
        drop(state);
        if wake {
            self.append.work.notify_one();
        }
        Ok(number)
    }

    /// Waits until all that was placed is confirmed, and applied to the ledger. Nothing more is
    /// placed as long as the caller holds the tables.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], [`Error::OutOfSpace`]; that with which the engine ended.
    pub(crate) fn hold_publishers(&self, tables: &mut Tables, timeout: Duration) -> Result<()> {
        let mut state = self.append.lock();
        if let Some(end) = state.end.as_ref().or(state.out_of_space.as_ref()) {
            return Err(end.clone());
        }
        // Whoever has a route has to ask for it again, and waits for the tables.
        tables.version += 1;
        state.version = tables.version;
        self.version.store(tables.version, Ordering::Release);
        let last = state.last_placed();
        self.append.wake_committer(&mut state);
        drop(state);
        last.map_or(Ok(()), |last| self.wait_for(&self.confirms, last, Some(timeout)))
    }

    // Waiting and waking.

    /// Waits for a number, driving the commit where the engine has no threads.
    pub(crate) fn wait_for(
        &self,
        confirms: &Confirms,
        number: u64,
        timeout: Option<Duration>,
    ) -> Result<()> {
        if !self.config.stepped {
            return confirms.wait(number, timeout);
        }
        loop {
            if let Some(outcome) = confirms.outcome(number) {
                return outcome;
            }
            if !self.drive() {
                return Err(Error::Timeout);
            }
        }
    }

    /// Where the engine has no threads: commits one batch. Says whether it did.
    pub(crate) fn drive(&self) -> bool {
        self.config.stepped && commit::commit_once(self)
    }

    pub(crate) fn wait_for_room<'a>(
        &'a self,
        mut state: MutexGuard<'a, Appender>,
        need: Need,
        promised: bool,
    ) -> Result<MutexGuard<'a, Appender>> {
        if !self.config.stepped || !self.append.waits_when_full() {
            return self.append.wait_for_room(state, need, promised);
        }
        while !self.append.has_room(&state, need) {
            if let Some(end) = &state.end {
                return Err(end.clone());
            }
            let scarce = promised && state.out_of_space.is_some();
            drop(state);
            if scarce || !self.drive() {
                return Err(self.append.full(&self.append.lock()));
            }
            state = self.append.lock();
        }
        match &state.end {
            Some(end) => Err(end.clone()),
            None => Ok(state),
        }
    }

    /// Whether whoever waits for a commit may write it by itself: a publisher for its messages, a
    /// consumer for its acks.
    pub(crate) fn may_lead(&self, state: &Appender) -> bool {
        !self.config.stepped
            && state.in_flight == 0
            && !state.leading
            && !state.stalled
            && state.last_calls <= 1
            && state.is_idle()
    }

    /// Commits in the caller's thread, then hands over to a committer if more has gathered.
    pub(crate) fn lead(&self) {
        // Given back on unwind as well.
        struct Lead<'a>(&'a Core);
        impl Drop for Lead<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    // Its batch is completed by nobody: nobody may wait for it.
                    let path = self.0.storage.path("");
                    let source = std::io::Error::other("a publisher panicked while it committed");
                    self.0.poison(Error::io(FileOp::Write, path, source));
                }
                let mut state = self.0.append.lock();
                self.0.append.leader_done(&mut state);
                if !state.is_idle() || state.urgent || state.held > 0 {
                    self.0.append.wake_committer(&mut state);
                }
            }
        }
        let lead = Lead(self);
        if commit::commit_once(self) {
            self.stats.inline_batch();
        }
        drop(lead);
    }

    /// Asks for a commit that no message asks for.
    pub(crate) fn hurry(&self, sync: bool) {
        // Without threads the caller's wait drives the commit: there is nobody to wait for.
        let later = (!self.config.stepped).then(|| self.clock.now() + self.config.ack_delay_max);
        self.append.hurry(sync, later);
    }

    /// Has acks committed that the caller waits for next: in its own thread, if nobody else has
    /// anything to commit.
    pub(crate) fn commit_acks(&self) {
        let mut state = self.append.lock();
        let alone = self.may_lead(&state) && state.out_of_space.is_none() && state.end.is_none();
        if alone {
            state.urgent = true;
            state.urgent_sync = true;
            state.leading = true;
        }
        drop(state);
        if alone { self.lead() } else { self.hurry(true) }
    }

    /// Takes note that acks wait to be written.
    pub(crate) fn acks_wait(&self) {
        self.append.acks_wait(self.clock.now() + self.config.ack_delay_max);
    }

    /// A committer found a batch with a loan out: whoever fills the last one tells.
    pub(crate) fn watch_loans(&self) {
        self.loans_watched.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// A publisher filled its loan: a committer that waited for that goes on.
    pub(crate) fn loan_filled(&self) {
        // Pairs with the fence in `watch_loans`: the loan was given back before this.
        fence(Ordering::SeqCst);
        if !self.loans_watched.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.append.lock();
        self.loans_watched.store(false, Ordering::Release);
        state.stalled = false;
        let wake = state.should_wake();
        drop(state);
        if wake {
            self.append.work.notify_one();
        }
    }

    /// Messages appended and not confirmed.
    pub(crate) fn unconfirmed_messages(&self) -> u64 {
        let appended = self.append.lock().next_offset().0;
        appended.saturating_sub(self.log.visible().0)
    }

    pub(crate) fn wake_keeper(&self) {
        self.keeper.wake();
    }
}
