//! Group commit: makes appended batches durable, one write for everything that has gathered.
//!
//! Owns the right to write to the log: the pipeline lock. A committer, or a lone publisher, takes
//! it to *begin* a batch (seal it, give it its place), gives it back while the write is under way,
//! and takes it again to *complete* it. In: sealed batches from `append`, ack records from `ack`.
//! Out: confirmed batches, to `ledger`, `log` and those who wait.
//!
//! C1. Batches are completed in the order of their numbers, whatever order their writes end in.
//! C2. A batch is confirmed only after its write ended well: synced, if anyone asked for that.
//! C3. The durable position passes an unsynced batch only after a sync that began when its write,
//!     and all before it, had ended.
//! C4. The first batch of a segment is written only when every batch before it is durable.
//!
//! C5. A batch whose write found no space, and every later one, is written again behind the last
//!     confirmed one, with the same number and offsets (`again`).
//!
//! Any other failed write, and every failed sync, poisons the engine and wakes every waiter with the
//! error. It is not retried: the kernel may have dropped the dirty pages.

mod again;
mod roll;
mod run;

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, PoisonError},
    time::Duration,
};

use fanlog_segment_format::{
    BatchNumber, LogPosition, RouteId,
    batch::{BatchHeader, seal_batch},
    layout::{BATCH_HEADER_BYTES, BLOCK_BYTES, COMMIT_MARK_BYTES, align_up},
};

use self::again::{Next, Stuck};
pub(crate) use self::{
    again::is_out_of_space,
    run::{commit_once, run_committer},
};
use crate::{
    Error, Result,
    append::{Extras, Taken, arena::Frozen},
    core::Core,
    deliver::overdue,
    error::FileOp,
    ledger::Effects,
    log::{
        batch::{Batch, seal_records},
        index::{BatchIndex, IndexBuilder},
        segment::Segment,
    },
    storage::{StorageFile, WriteSync},
    supply::Promise,
};

/// After this long without a batch an empty one is written, once, to vouch for the last.
pub(crate) const VOUCH_AFTER: Duration = Duration::from_secs(1);
/// Batches being written at a time.
const IN_FLIGHT_MAX: usize = 2;

/// A batch that was taken and can't be written yet.
#[derive(Debug)]
struct Held {
    taken: Taken,
    /// The ack commit that it carries.
    acks: Option<u64>,
    sync: bool,
}

/// How far the write of a batch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    UnderWay,
    Done,
    /// It found no space; some of it may be on disk, or all.
    NoSpace,
}

/// A batch being written.
#[derive(Debug)]
struct InFlight {
    segment: Arc<Segment>,
    batch: Arc<Batch>,
    checksum: u32,
    /// Checksum of the batch before it.
    previous: u32,
    sync: bool,
    calls: u32,
    placed: usize,
    control_bytes: usize,
    /// Bytes of header and records.
    filled: usize,
    acks: Option<u64>,
    began: Duration,
    write: Write,
    promise: Option<Promise>,
}

/// What a segment's footer would need by now.
#[derive(Debug, Default)]
struct FooterLoad {
    messages: usize,
    batches: usize,
    controls: usize,
    routes: HashSet<RouteId>,
    extras: Extras,
}

/// State under the pipeline lock.
#[derive(Debug)]
pub(crate) struct Pipeline {
    active: Arc<Segment>,
    file: Arc<dyn StorageFile>,
    /// Where the next batch goes.
    position: u64,
    /// Checksum of the batch before it.
    previous: u32,
    /// Known to be durable.
    durable: LogPosition,
    in_flight: VecDeque<InFlight>,
    /// Since when there are confirmed bytes that are not synced.
    unsynced_since: Option<Duration>,
    /// Taken and not in flight: more than one only after a write that found no space.
    held: VecDeque<Held>,
    /// The active segment takes no more batches: a write to it found no space.
    leave: bool,
    /// The next segment's file, if it was taken and its header found no space.
    next: Option<Next>,
    /// Set while nothing can be written for want of space.
    stuck: Option<Stuck>,
    /// What the last write said that found none.
    no_space: Option<Error>,
    /// Ack records drained and not in a batch yet, and their commit.
    acks: Vec<u8>,
    acks_commit: Option<u64>,
    /// The last ack commit that is written but not synced.
    acks_unsynced: Option<u64>,
    builder: IndexBuilder,
    load: FooterLoad,
    last_batch_at: Duration,
    /// The last batch states that all before it is durable, and is empty itself.
    vouched: bool,
}

/// What a thread has to do for a batch without holding the lock.
#[derive(Debug)]
pub(crate) struct Job {
    number: BatchNumber,
    file: Arc<dyn StorageFile>,
    name: String,
    position: u64,
    bytes: Arc<Batch>,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The kernel has it.
    Written,
    /// The write itself is synced.
    Synced,
    /// Written, then the file synced: unsynced bytes stand before it.
    SyncedWithAllBefore,
}

impl Pipeline {
    pub(crate) fn new(
        active: Arc<Segment>,
        file: Arc<dyn StorageFile>,
        previous: u32,
        durable: LogPosition,
        now: Duration,
    ) -> Self {
        let load = FooterLoad::of(&active);
        Self {
            position: active.log_end(),
            active,
            file,
            previous,
            durable,
            in_flight: VecDeque::new(),
            unsynced_since: None,
            held: VecDeque::new(),
            leave: false,
            next: None,
            stuck: None,
            no_space: None,
            acks: Vec::new(),
            acks_commit: None,
            acks_unsynced: None,
            builder: IndexBuilder::default(),
            load,
            last_batch_at: now,
            vouched: true,
        }
    }

    /// The active segment's file, and whether bytes confirmed in it are not synced.
    pub(crate) fn active_file(&self) -> (Arc<dyn StorageFile>, String, bool) {
        (Arc::clone(&self.file), self.active.name.clone(), self.unsynced_since.is_some())
    }

    pub(crate) fn active(&self) -> &Arc<Segment> {
        &self.active
    }

    /// When a sync or a vouching mark is due, or the next look whether there is space.
    fn due(&self, core: &Core) -> Option<Duration> {
        if let Some(stuck) = &self.stuck {
            return Some(stuck.retry_at);
        }
        let sync = self.unsynced_since.map(|since| since + core.config.buffered_sync_delay_max);
        let vouch = (!self.vouched).then_some(self.last_batch_at + VOUCH_AFTER);
        match (sync, vouch) {
            (Some(sync), Some(vouch)) => Some(sync.min(vouch)),
            (sync, vouch) => sync.or(vouch),
        }
    }
}

impl FooterLoad {
    /// Of the batches that the segment has by now.
    fn of(segment: &Segment) -> Self {
        let mut load = Self::default();
        for batch in segment.batches() {
            load.add(&batch);
        }
        load
    }

    fn add(&mut self, batch: &BatchIndex) {
        self.messages += batch.messages() as usize;
        self.batches += 1;
        self.controls += batch.controls.len();
        self.routes.extend(batch.routes().iter().map(|count| count.route));
        self.extras = self.extras.plus(Extras::of(batch));
    }
}

/// Takes the next batch, if there is one that may be written now, and gives it its place.
pub(crate) fn begin(core: &Core, now: Duration) -> Option<Job> {
    let mut pipeline = core.pipeline.lock().unwrap_or_else(PoisonError::into_inner);
    let pipeline = pipeline.as_mut().filter(|_| core.ended().is_none())?;
    if pipeline.waits_to_write_again(now) {
        core.append.lock().stalled = true;
        return None;
    }
    if pipeline.held.is_empty() {
        let taken = take(core, pipeline, now)?;
        pipeline.held.push_back(taken);
    }
    let placed = pipeline.place_held(core, now);
    core.append.lock().held = pipeline.held.len();
    match placed {
        Ok(job) => job,
        Err(error) => {
            core.poison(error);
            None
        }
    }
}

/// Takes what waits, with the acks that are ready.
fn take(core: &Core, pipeline: &mut Pipeline, now: Duration) -> Option<Held> {
    let alone = pipeline.in_flight.is_empty();
    let mut state = core.append.lock();
    if pipeline.in_flight.len() >= IN_FLIGHT_MAX || !state.wants_commit(alone, now) {
        return None;
    }
    // Before the acks are drained: one that comes later sets it again.
    state.acks_due = None;
    drop(state);
    // The append lock is not held: queues are locked while theirs are drained.
    if pipeline.acks.is_empty() && !core.dirty.is_empty() {
        pipeline.acks_commit = Some(core.dirty.drain(&core.log, &mut pipeline.acks));
    }
    let sync_due = pipeline.due(core).is_some_and(|due| due <= now);
    let mut state = core.append.lock();
    if state.next_is_lent() {
        // Watched first, then looked at again: whoever fills the last one sees the one or the other.
        core.watch_loans();
        if state.next_is_lent() {
            state.stalled = true;
            return None;
        }
    }
    let unsynced = state.urgent_sync
        && (pipeline.unsynced_since.is_some() || pipeline.acks_unsynced.is_some());
    if state.is_idle() && pipeline.acks.is_empty() && !sync_due && !unsynced {
        // What was hurried for went with an earlier batch.
        state.urgent = false;
        state.urgent_sync = false;
        return None;
    }
    let acks = pipeline.acks.len();
    let mut taken = if let Some(taken) = state.take_sealed() {
        taken
    } else {
        if state.is_idle() {
            state.want_ack_room(acks);
        }
        state.begin_empty(core.append.pool());
        state.take_open(acks)?
    };
    state.in_flight += 1;
    if acks > taken.ack_room() {
        // The batch after this one has room for them, and comes at once: they are due by now.
        state.want_ack_room(acks);
        state.urgent = true;
        return Some(Held { sync: taken.sync || sync_due, acks: None, taken });
    }
    let urgent_sync = state.urgent_sync;
    if core.dirty.is_empty() {
        state.urgent = false;
        state.urgent_sync = false;
    } else {
        // More acks came since these were drained: what was hurried for, or is due, may be theirs.
        state.acks_due.get_or_insert(now + core.config.ack_delay_max);
    }
    drop(state);
    taken.region.extend(acks).copy_from_slice(&pipeline.acks);
    taken.control_bytes += acks;
    pipeline.acks.clear();
    let sync = taken.sync || sync_due || urgent_sync;
    Some(Held { sync, acks: pipeline.acks_commit.take(), taken })
}

impl Pipeline {
    /// Gives the oldest held batch its place in the log, in a new segment if need be.
    ///
    /// `None` if it has to wait until what is in flight has been completed, or for space.
    fn place_held(&mut self, core: &Core, now: Duration) -> Result<Option<Job>> {
        let Some(held) = self.held.front() else { return Ok(None) };
        let total = align_up(held.taken.filled() + COMMIT_MARK_BYTES, BLOCK_BYTES);
        let behind_unsynced = held.sync && self.unsynced_before();
        let rolls = !self.fits(core, total, &held.taken);
        if (behind_unsynced || rolls) && !self.in_flight.is_empty() {
            core.append.lock().stalled = true;
            return Ok(None);
        }
        if rolls && !self.roll(core, total, held.taken.first_offset, now)? {
            return Ok(None);
        }
        let Some(held) = self.held.pop_front() else { return Ok(None) };
        let unsynced = self.unsynced_since.is_some();
        let how = match (held.sync, unsynced) {
            (false, _) => How::Written,
            (true, false) => How::Synced,
            (true, true) => How::SyncedWithAllBefore,
        };
        Ok(Some(self.seal(core, held, total, how, now)))
    }

    /// Whether a batch before the next one is, or may end up, not synced.
    fn unsynced_before(&self) -> bool {
        self.unsynced_since.is_some() || self.in_flight.iter().any(|batch| !batch.sync)
    }

    /// Writes header, checksums and mark of a batch, and notes it as in flight.
    fn seal(&mut self, core: &Core, held: Held, total: usize, how: How, now: Duration) -> Job {
        let Held { mut taken, acks, .. } = held;
        let filled = taken.filled();
        taken.region.extend(total - filled);
        drop(taken.region.split_off(total));
        let bytes = taken.region.head(total);
        let records = &mut bytes[BATCH_HEADER_BYTES..filled];
        seal_records(core.store, records, BATCH_HEADER_BYTES, &mut self.builder);
        let total_bytes = u32::try_from(total).expect("a batch's bytes fit u32");
        let segment = self.active.id();
        let (number, first) = (taken.number, taken.first_offset);
        let index = self.builder.build(number, segment, self.position, total_bytes, first);
        let header = BatchHeader {
            store: core.store,
            segment,
            position: self.position,
            epoch: core.epoch,
            number,
            first_offset: first,
            messages: taken.messages,
            controls: u32::try_from(index.controls.len()).expect("fewer than bytes"),
            body_bytes: u32::try_from(filled - BATCH_HEADER_BYTES).expect("fits u32"),
            durable: self.durable,
            previous: self.previous,
            time_us: core.clock.wall_us(),
            flags: 0,
        };
        let checksum = seal_batch(&header, bytes);
        self.load.add(&index);
        let frozen: Frozen = taken.region.freeze();
        let position = self.position;
        let batch = Arc::new(Batch::appended(Arc::new(index), frozen, core.store));
        let previous = std::mem::replace(&mut self.previous, checksum);
        self.position += total as u64;
        self.last_batch_at = now;
        // One that itself makes what is before it durable does not state it yet.
        let states_all = self.durable == LogPosition { segment, position };
        let empty = taken.messages == 0 && filled == BATCH_HEADER_BYTES;
        self.vouched = empty && states_all && how != How::Written;
        self.in_flight.push_back(InFlight {
            segment: Arc::clone(&self.active),
            batch: Arc::clone(&batch),
            checksum,
            previous,
            sync: how != How::Written,
            calls: taken.calls,
            placed: taken.placed,
            control_bytes: taken.control_bytes,
            filled,
            acks,
            began: now,
            write: Write::UnderWay,
            promise: taken.promise,
        });
        let (file, name) = (Arc::clone(&self.file), self.active.name.clone());
        Job { number, file, name, position, bytes: batch, how }
    }
}

impl Job {
    /// Writes the batch: no lock is held.
    pub(crate) fn run(&self, core: &Core) -> Result<()> {
        let path = || core.storage.path(&self.name);
        let sync = if self.how == How::Synced { WriteSync::Data } else { WriteSync::None };
        self.file
            .write_all_at(self.position, &self.bytes.bytes, sync)
            .map_err(|source| Error::io(FileOp::Write, path(), source))?;
        if self.how == How::SyncedWithAllBefore {
            self.file.sync().map_err(|source| Error::io(FileOp::Sync, path(), source))?;
        }
        core.stats.log_written(self.bytes.bytes.len() as u64);
        if self.how != How::Written {
            core.stats.synced();
        }
        Ok(())
    }
}

/// What has to be told once the lock is given back.
#[derive(Debug, Default)]
struct News {
    finished: Option<u64>,
    acks: Option<u64>,
    effects: Vec<Effects>,
    batches: Vec<Arc<Batch>>,
}

/// Takes note that a write ended, and confirms all that now can be.
pub(crate) fn complete(core: &Core, job: &Job, outcome: Result<()>, now: Duration) {
    let no_space = match outcome {
        Ok(()) => None,
        Err(error) if again::found_no_space(&error) => Some(error),
        Err(error) => {
            core.poison(error);
            return;
        }
    };
    let mut guard = core.pipeline.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(pipeline) = guard.as_mut().filter(|_| core.ended().is_none()) else { return };
    let ended = pipeline.in_flight.iter_mut().find(|batch| batch.batch.index.number == job.number);
    if let Some(batch) = ended {
        batch.write = if no_space.is_some() { Write::NoSpace } else { Write::Done };
    }
    let mut news = News::default();
    while pipeline.in_flight.front().is_some_and(|batch| batch.write == Write::Done) {
        let Some(batch) = pipeline.in_flight.pop_front() else { break };
        pipeline.finish(core, batch, now, &mut news);
    }
    pipeline.no_space = no_space.or(pipeline.no_space.take());
    pipeline.take_back(core, now);
    let due = pipeline.due(core);
    let sooner = core.append.lock().set_idle_due(due);
    drop(guard);
    if sooner {
        // Whoever keeps the time measures its sleep anew.
        core.append.work.notify_all();
    }
    tell(core, news);
}

impl Pipeline {
    /// Confirms the oldest batch in flight.
    fn finish(&mut self, core: &Core, batch: InFlight, now: Duration, news: &mut News) {
        let index = &batch.batch.index;
        let end = index.position + u64::from(index.total_bytes);
        self.unstall(core);
        if batch.sync {
            self.durable = LogPosition { segment: index.segment, position: end };
            self.unsynced_since = None;
            core.stats.durable(index.end_offset());
            // Acks count once they are durable: those of unsynced batches before, too.
            news.acks = batch.acks.or(self.acks_unsynced).map(|commit| commit + 1).or(news.acks);
            self.acks_unsynced = None;
        } else {
            self.unsynced_since.get_or_insert(now);
            self.acks_unsynced = batch.acks.or(self.acks_unsynced);
        }
        let mut ledger = core.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let applied = ledger.apply(index, &batch.batch.bytes, batch.checksum, &core.log);
        drop(ledger);
        news.effects.push(applied.expect("records made by this process"));
        core.log.push(&batch.segment, Arc::clone(&batch.batch), batch.checksum);
        core.stats.confirmed(u64::from(index.messages()));
        core.stats.batch_bytes.record(u64::from(index.total_bytes));
        let took = now.saturating_sub(batch.began);
        core.stats.commit_us.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        let mut state = core.append.lock();
        state.release(batch.placed);
        state.in_flight -= 1;
        state.stalled = false;
        state.last_calls = batch.calls;
        core.append.wake_publishers(&state);
        drop(state);
        news.finished = Some(index.number.0 + 1);
        news.batches.push(batch.batch);
    }
}

/// Wakes those whom the confirmed batches concern.
fn tell(core: &Core, news: News) {
    if let Some(finished) = news.finished {
        core.confirms.advance(finished);
    }
    if let Some(acks) = news.acks {
        core.acks_durable.advance(acks);
    }
    for effects in news.effects {
        for queue in effects.granted {
            queue.sleepers.wake_one();
        }
        for queue in effects.counted {
            // Each waits for a message of its own.
            queue.sleepers.wake_all();
        }
        for (group, queue) in effects.unbound {
            core.waiting.left(group, &queue);
        }
        for (group, queue) in effects.bound {
            core.waiting.joined(group, &queue);
            // A batch behind this one may have been told of already, by another thread, which did
            // not find the queue in the group: a consumer looks for itself.
            queue.sleepers.wake_one();
        }
        for queue in effects.rewound {
            queue.sleepers.wake_all();
        }
        for queue in effects.declared {
            core.limits.add(core, &queue);
        }
        for queue in effects.deleted {
            core.limits.remove(&queue);
            queue.set_gone();
            queue.sleepers.wake_all();
            overdue::forget(core, &queue);
            core.waiting.gone(&queue);
        }
    }
    for batch in news.batches {
        core.limits.confirmed(&batch.index);
        let routes = batch.index.routes().iter().map(|count| count.route);
        let groups = routes.filter_map(|route| core.log.route_groups(route));
        let groups: Vec<_> = groups.flat_map(|groups| groups.to_vec()).collect();
        for queue in core.waiting.take(groups) {
            queue.sleepers.wake_one();
            if !queue.sleepers.is_empty() {
                core.waiting.add(&queue);
            }
        }
    }
}
