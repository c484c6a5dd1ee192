//! The background: seals full segments, keeps files ready, writes checkpoints, reclaims, and wakes
//! consumers for messages that fall due.
//!
//! One thread, or a test that steps. In: full segments, time. Out: footers, free files,
//! checkpoints. It never holds up a publisher: what it has not done yet only costs memory or time.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fanlog_segment_format::{SegmentId, checkpoint::Checkpoint};

use crate::{
    Error, Result,
    backup::Copying,
    checkpoint::{Checkpoints, Kept},
    commit::is_out_of_space,
    core::Core,
    count_anew::CountAnew,
    deliver::overdue,
    drop_routes::drop_routes,
    error::FileOp,
    ledger::{departure::Departure, live::SegmentCount},
    limits,
    log::segment::Segment,
    pins::OldestSeen,
    reclaim::Retired,
    rewrite::{Rewriter, Rewrote},
    storage::{AlignedBuffer, WriteSync},
    supply::{is_scarce, look_for_space},
};

/// The keeper looks after what nobody told it of at least this often.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// Preparing segments takes at most one part in this many of the time while the log is busy.
const PREPARE_SHARE: u32 = 10;
/// The same of rewriting, which the publish rate bounds as well.
const REWRITE_SHARE: u32 = 3;

/// State of the background's work.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) checkpoints: Checkpoints,
    pub(crate) retired: Retired,
    pub(crate) copying: Copying,
    pub(crate) rewriter: Rewriter,
    count_anew: CountAnew,
    /// Whose turn it is: that of rewriting, or of preparing segments.
    rewrites: AtomicBool,
    pub(crate) oldest: OldestSeen,
    /// Held by whoever does a step, the keeper or a caller of `reclaim`, or wants none done.
    stepping: Mutex<()>,
    signal: Mutex<bool>,
    wake: Condvar,
    /// When the last checkpoint was written, and the log's end by then.
    last: Mutex<Last>,
    /// Held while departures are counted off.
    settling: Mutex<()>,
    /// Segments whose files are gone, but were held by readers when last looked at.
    pub(crate) held: Mutex<Vec<Arc<Segment>>>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    at: Duration,
    log_bytes: u64,
    batches: u64,
}

impl Keeper {
    pub(crate) fn new(kept: Vec<Kept>, now: Duration) -> Self {
        Self {
            checkpoints: Checkpoints::new(kept),
            retired: Retired::default(),
            copying: Copying::default(),
            rewriter: Rewriter::default(),
            count_anew: CountAnew::default(),
            rewrites: AtomicBool::new(false),
            oldest: OldestSeen::default(),
            stepping: Mutex::default(),
            signal: Mutex::new(false),
            wake: Condvar::new(),
            last: Mutex::new(Last { at: now, log_bytes: 0, batches: 0 }),
            settling: Mutex::default(),
            held: Mutex::default(),
        }
    }

    /// Tells the keeper that there is something to do.
    pub(crate) fn wake(&self) {
        *self.signal.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_all();
    }

    /// Keeps the background from doing anything while the guard lives.
    pub(crate) fn hold_still(&self) -> MutexGuard<'_, ()> {
        self.stepping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep(&self, timeout: Duration) {
        let mut signal = self.signal.lock().unwrap_or_else(PoisonError::into_inner);
        if !*signal {
            let woken = self.wake.wait_timeout(signal, timeout);
            signal = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        *signal = false;
    }

    /// Counts off what deleted and purged queues left in the segments, and keeps others from doing so
    /// while the guard lives: what is counted off is looked up in files that must stand still.
    pub(crate) fn settle(&self, core: &Core) -> MutexGuard<'_, ()> {
        let settling = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let departures = core.ledger().take_departures();
            if departures.is_empty() {
                return settling;
            }
            let counted = Departure::count_off(&departures, &core.log);
            core.ledger().count_off(counted);
        }
    }

    /// What a checkpoint holds of the ledger. Its counts have nothing of queues that are gone.
    ///
    /// Commits go on meanwhile. Only one capture is under way at a time: checkpoints are paused.
    pub(crate) fn capture(&self, core: &Core, checkpoint: &mut Checkpoint) -> Vec<SegmentCount> {
        let counts = loop {
            let _settled = self.settle(core);
            let mut ledger = core.ledger();
            if !ledger.has_departures() {
                break ledger.begin_capture(checkpoint);
            }
        };
        loop {
            // The lock is given back before the piece is looked at.
            let piece = core.ledger().capture_piece();
            let Some(piece) = piece else { break };
            piece.add_to(checkpoint);
        }
        let early = core.ledger().end_capture();
        early.add_to(checkpoint);
        counts
    }

    /// Whether a checkpoint is due: the log grew enough, or time passed and something changed.
    fn checkpoint_due(&self, core: &Core) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let batches = core.ledger().head.next_batch.0;
        // Files of dead segments stand until two checkpoints do not list them: also where nothing
        // happens any more.
        if batches == last.batches && !self.retired.any() {
            return false;
        }
        let size = self.checkpoints.newest().map_or(0, |kept| kept.bytes);
        let grown = core.stats.log_bytes() - last.log_bytes;
        let overdue = core.clock.now().saturating_sub(last.at) >= core.config.checkpoint_interval;
        overdue || grown > core.config.checkpoint_log_bytes.max(4 * size)
    }

    /// Writes a checkpoint.
    pub(crate) fn checkpoint(&self, core: &Core, clean: bool) -> Result<()> {
        let batches = core.ledger().head.next_batch.0;
        let log_bytes = core.stats.log_bytes();
        drop_routes(core);
        loop {
            match self.checkpoints.write(core, clean) {
                // Without it nothing is given back: it is worth a file of the reserve.
                Err(error) if is_out_of_space(&error) && core.supply.give_up_one(core)? => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Last { at: core.clock.now(), log_bytes, batches };
        Ok(())
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Did {
    Nothing,
    /// Something that should be followed by the next step at once.
    Work,
    /// Prepared a piece of a segment: to be paced while the log is busy.
    Prepared,
    /// Did a piece of a rewrite, or counted a segment anew: likewise.
    Rewrote,
}

/// Does the most urgent piece of the background's work.
///
/// A piece that finds no space waits, and holds up no other: one of them may give space back.
///
/// # Errors
///
/// [`Error::Io`]. Where space ran out the work waits; anything else poisons the engine.
pub(crate) fn step(core: &Core) -> Result<Did> {
    core.alarms.ring(core);
    let _only = core.keeper.hold_still();
    let pieces: [fn(&Core) -> Result<Did>; 7] =
        [seal_full, give_back, write_checkpoint, go_on, keep_limits, count_anew, prepare];
    let mut full = None;
    for piece in pieces {
        match piece(core) {
            Ok(Did::Nothing) => {}
            Err(error) if is_out_of_space(&error) => drop(full.get_or_insert(error)),
            other => return other,
        }
    }
    full.map_or(Ok(Did::Nothing), Err)
}

fn did(work: bool) -> Did {
    if work { Did::Work } else { Did::Nothing }
}

/// In order: the next segment's header says where one that is not sealed ends, so it stays as long.
fn seal_full(core: &Core) -> Result<Did> {
    let full = core.log.segments().into_iter().find(|segment| is_full(segment));
    full.map_or(Ok(Did::Nothing), |segment| seal(core, &segment).map(|()| Did::Work))
}

fn give_back(core: &Core) -> Result<Did> {
    core.keeper.retired.step(core).map(did)
}

fn write_checkpoint(core: &Core) -> Result<Did> {
    // While space is scarce two more checkpoints set the files of dead segments free.
    let waited_for = core.keeper.retired.wait_for_checkpoints(&core.keeper.checkpoints);
    let wanted = waited_for && is_scarce(core)?;
    if !wanted && !core.keeper.checkpoint_due(core) {
        return Ok(Did::Nothing);
    }
    core.keeper.checkpoint(core, false).map(|()| Did::Work)
}

fn go_on(core: &Core) -> Result<Did> {
    look_for_space(core).map(did)
}

#[expect(clippy::unnecessary_wraps, reason = "it is one of the pieces")]
fn keep_limits(core: &Core) -> Result<Did> {
    let overdue = overdue::step(core);
    Ok(did(limits::step(core) || overdue))
}

#[expect(clippy::unnecessary_wraps, reason = "it is one of the pieces")]
fn count_anew(core: &Core) -> Result<Did> {
    let counted = core.keeper.count_anew.step(core);
    Ok(if counted { Did::Rewrote } else { Did::Nothing })
}

fn prepare(core: &Core) -> Result<Did> {
    let active = {
        let pipeline = core.pipeline.lock().unwrap_or_else(PoisonError::into_inner);
        pipeline.as_ref().map(|pipeline| pipeline.active().id())
    };
    let Some(active) = active else { return Ok(Did::Nothing) };
    prepare_or_rewrite(core, SegmentId(active.0 + 1))
}

/// Prepares segments and rewrites sparse ones by turns: neither may keep the other from its work.
fn prepare_or_rewrite(core: &Core, next: SegmentId) -> Result<Did> {
    let rewrites = core.keeper.rewrites.fetch_xor(true, Ordering::Relaxed);
    if rewrites && let Some(did) = rewrite(core)? {
        return Ok(did);
    }
    let prepared = match core.supply.step(core, next) {
        Ok(true) => return Ok(Did::Prepared),
        // There is no space for a file: rewriting may make some.
        Err(error) if !is_out_of_space(&error) => return Err(error),
        prepared => prepared,
    };
    if let Some(did) = rewrite(core)? {
        return Ok(did);
    }
    prepared.map(|_| Did::Nothing)
}

fn rewrite(core: &Core) -> Result<Option<Did>> {
    let did = match core.keeper.rewriter.step(core)? {
        Rewrote::Nothing => None,
        Rewrote::Piece => Some(Did::Rewrote),
        Rewrote::Urgent => Some(Did::Work),
    };
    Ok(did)
}

fn is_full(segment: &Segment) -> bool {
    segment.end_offset().is_some() && !segment.is_sealed()
}

/// Writes a full segment's footer; from then on it is read through a map.
fn seal(core: &Core, segment: &Segment) -> Result<()> {
    let path = || core.storage.path(&segment.name);
    let (start, footer) = segment.encode_footer();
    let mut aligned = AlignedBuffer::zeroed(footer.len());
    aligned.copy_from_slice(&footer);
    let Some(file) = segment.file() else { return Ok(()) };
    file.write_all_at(start, &aligned, WriteSync::Data)
        .map_err(|source| Error::io(FileOp::Write, path(), source))?;
    core.stats.other_written(footer.len() as u64);
    // Not while a checkpoint is put together: what it calls sealed lies behind its own head.
    let _paused = core.keeper.checkpoints.pause();
    segment.seal();
    Ok(())
}

/// The body of the keeper's thread.
pub(crate) fn run_keeper(core: &Arc<Core>) {
    let mut batches = 0;
    while !core.threads_stop() {
        let began = core.clock.now();
        let did = match step(core) {
            Ok(did) => did,
            Err(error) if is_out_of_space(&error) => Did::Nothing,
            Err(error) => {
                core.poison(error);
                return;
            }
        };
        let before = std::mem::replace(&mut batches, core.stats.batches());
        match did {
            Did::Work => {}
            Did::Prepared | Did::Rewrote if batches == before => {}
            Did::Prepared | Did::Rewrote => {
                let took = core.clock.now().saturating_sub(began);
                let share = if did == Did::Prepared { PREPARE_SHARE } else { REWRITE_SHARE };
                core.keeper.sleep(took * (share - 1));
            }
            Did::Nothing if core.append.lock().out_of_space.is_some() => {
                core.keeper.sleep(core.config.ack_delay_max);
            }
            Did::Nothing => {
                let round = core.limits.next_round().into_iter().chain(core.overdue.next_look());
                let round = round.min();
                let round = round.map(|due| due.saturating_sub(core.clock.now()));
                let alarm = core.alarms.left(core);
                let next = round.into_iter().chain(alarm).min().unwrap_or(LOOK_AFTER);
                core.keeper.sleep(next.min(LOOK_AFTER));
            }
        }
    }
}

/// Bytes of files that are gone but held by readers.
pub(crate) fn held_bytes(core: &Core) -> u64 {
    let mut held = core.keeper.held.lock().unwrap_or_else(PoisonError::into_inner);
    held.retain(|segment| core.log.is_mapped(segment));
    held.iter().map(|segment| segment.header.file_bytes).sum()
}
