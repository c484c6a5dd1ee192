//! How much the store may still take, and what is kept back for getting space back.
//!
//! A store can only be drained by writing: acks go to the log, a checkpoint has to be written before
//! the file of a dead segment is given back, and rewriting writes first. So some prepared files are
//! a *reserve*: as many as what was accepted from publishers may take (`A`), two for control records
//! and some, usually one, for *work*: checkpoints and rewriting. Beside it room for checkpoints is
//! left free, as long as others leave it (`K`: twice what the next one is thought to take).
//!
//! R1. A file is handed out for the log only if the whole reserve is still prepared then, or there
//!     is plenty of room. Else the reserve is used, and publishers wait until it is whole again and
//!     there is one file to spare. Room that is only counted others may take.
//! R2. One file for control records and one for work are had whatever the limits say: without them
//!     a store over its limit would never get below.
//! R3. The log never takes the last of what is left: prepared files and free room still make `K`.
//! R4. Rewriting asks for its room before it begins, and gets it only if `K` is left. What it gets
//!     nobody else does. Where that takes files of the reserve it gets them only while nothing
//!     waits to be given back, so it owes those of one choice at most; two for control records stay.
//! R5. A checkpoint may have whatever there is.
//!
//! Why a full disk always drains. Let nobody free anything from outside, nor take what is freed here.
//!
//! 1. *Checkpoints go on.* Each takes the place of one before it, so once begun they need `K` at the
//!    most, as long as they do not double. The log (R3) and rewriting (R4) leave `K`; preparing files
//!    leaves it as well. Whatever is freed by mistake of an estimate comes back: rewriting that fails
//!    removes its file.
//! 2. *So what is dead is given back*: sealing writes in place, and two checkpoints suffice. Only
//!    readers, backups and files that are held elsewhere put it off.
//! 3. *What was accepted is written.* Publishers stop when the reserve begins to be used, with all of
//!    it prepared (R1). A batch larger than a segment has a file of its size. Of two others in files
//!    that follow each other neither had fitted with the other, so together they take more than a
//!    file: at most twice as many files as bytes would fill. And few batches are small: the one that
//!    is held, one for each arena that messages wait in, and the open one. `A` is the lesser of both.
//!    What is larger than `buffer_bytes_max`, and than a file, is alone on its way, is accepted only
//!    if there is room for it beside the reserve, and that is promised to it (`super::promise`).
//! 4. *Acks go on.* Beyond `A` segments the log takes only ones of control records alone, and in
//!    those nothing is live. While one of the two is full the other is sealed, dead, and comes back
//!    (2). Rewriting does not keep it: it never has more of the reserve than work's share while only
//!    that is left, and what it owes comes back with more (2, R4).
//! 5. *Rewriting goes on*: when everything else waits, the share of work, less `K`, is at least half
//!    a segment, which is as much as the live part of a segment that is worth the work takes.
//!
//! So nobody holds the last room while he waits for another: the log holds none, rewriting holds what
//! it needs to its end, and checkpoints wait for nobody.

use fanlog_segment_format::{SegmentId, layout::BLOCK_BYTES};

use super::State;
use crate::{Config, Error, Result, append::ARENA_BYTES, core::Core, error::FileOp};

/// For control records, in turn.
pub(super) const FOR_CONTROL: usize = 2;
/// For checkpoints and rewriting, unless checkpoints are large.
const FOR_WORK: usize = 1;
/// From so many times the reserve on, room is plenty.
const PLENTY: u64 = 4;

impl Config {
    /// How many prepared files are the reserve, while checkpoints are small.
    pub(crate) fn reserve_files(&self) -> usize {
        self.accepted_files() + FOR_CONTROL + FOR_WORK
    }

    /// As many as accepted messages may take (3). Heads, acks and footers in between are an eighth.
    fn accepted_files(&self) -> usize {
        let accepted = (self.buffer_bytes_max as u64).saturating_mul(9) / 8;
        let half_full = accepted.saturating_mul(2).div_ceil(self.segment_bytes_max);
        let small = 2 + (self.buffer_bytes_max / ARENA_BYTES) as u64;
        let full = accepted.div_ceil(self.segment_bytes_max) + small;
        usize::try_from(half_full.min(full)).unwrap_or(usize::MAX / 2)
    }

    /// How many prepared files are kept, the reserve included.
    fn files_ahead(&self) -> usize {
        self.segments_ahead.max(self.reserve_files() + 1)
    }
}

/// Room for checkpoints: `K`.
fn checkpoint_room(core: &Core) -> u64 {
    const BLOCK: u64 = BLOCK_BYTES as u64;
    let newest = core.keeper.checkpoints.newest().map_or(0, |kept| kept.bytes);
    // Its name may take a block of the directory.
    2 * (newest.next_multiple_of(BLOCK) + BLOCK)
}

/// Files that work has beyond the usual, because checkpoints are large (5).
fn more_for_work(core: &Core) -> usize {
    let segment_bytes = core.config.segment_bytes_max;
    let beyond = checkpoint_room(core).saturating_sub(segment_bytes / 2);
    usize::try_from(beyond.div_ceil(segment_bytes)).unwrap_or(usize::MAX / 4)
}

/// How many prepared files are the reserve now.
pub(super) fn reserve_files(core: &Core) -> usize {
    core.config.reserve_files() + more_for_work(core)
}

/// How many prepared files are kept now, the reserve included.
pub(super) fn files_ahead(core: &Core) -> usize {
    core.config.files_ahead() + more_for_work(core)
}

/// How many of the reserve's files rewriting may have of so many that are prepared (R4).
pub(super) fn for_rewriting(core: &Core, ready: usize) -> usize {
    ready.saturating_sub(FOR_CONTROL).max(ready.min(FOR_WORK + more_for_work(core)))
}

/// What rewriting was promised, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Promised {
    pub(super) bytes: u64,
    /// How much of it is written.
    pub(super) written: u64,
}

/// What may still be taken, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Within the limits of the settings, and what the disk has beside room for checkpoints.
    pub(super) spare: u64,
    /// What the disk has beside room for checkpoints.
    pub(super) on_disk: u64,
    /// What the disk has.
    free: u64,
    /// Room for checkpoints.
    kept: u64,
    /// Why there is no more, should it not suffice.
    limit: &'static str,
}

impl Room {
    /// What there is now.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(super) fn of(core: &Core, state: &State) -> Result<Self> {
        let storage = &*core.storage;
        let free = storage
            .free_bytes()
            .map_err(|source| Error::io(FileOp::Space, storage.path(""), source))?;
        let promised = state.promised;
        let accepted = core.supply.accepted_bytes();
        let free = free.saturating_sub(promised.bytes.saturating_sub(promised.written));
        let free = free.saturating_sub(accepted);
        let kept = checkpoint_room(core);
        let on_disk = free.saturating_sub(kept);
        let above_min = on_disk.saturating_sub(core.config.free_bytes_min);
        let used = store_bytes(core, state.handed_out).saturating_add(state.bytes());
        let used = used.saturating_add(promised.bytes).saturating_add(accepted);
        let used = used.saturating_add(kept);
        let below_max =
            core.config.store_bytes_max.map_or(u64::MAX, |max| max.saturating_sub(used));
        let limit = if below_max < above_min {
            "the store has grown to store_bytes_max"
        } else if core.config.free_bytes_min > 0 && on_disk > 0 {
            "the disk has no more than free_bytes_min left"
        } else {
            "the disk is full"
        };
        Ok(Self { spare: above_min.min(below_max), on_disk, free, kept, limit })
    }

    /// Whether there is so much that it does not matter what of the reserve is prepared (R1).
    pub(super) fn is_plenty(&self, core: &Core) -> bool {
        let reserve = core.config.segment_bytes_max.saturating_mul(reserve_files(core) as u64);
        self.spare >= reserve.saturating_mul(PLENTY)
    }

    /// Whether there is room for checkpoints beside so many prepared bytes (R3).
    pub(super) fn is_left_with(&self, prepared: u64) -> bool {
        self.free.saturating_add(prepared) >= self.kept
    }

    /// What to tell those who wait.
    pub(super) fn reason(&self) -> String {
        format!("{}; what is left is kept for getting space back", self.limit)
    }
}

/// Bytes of the store's files, without prepared ones; with one that was handed out and is not listed.
fn store_bytes(core: &Core, handed_out: Option<(SegmentId, u64)>) -> u64 {
    let segments = core.log.segments();
    // After the list: what leaves it was counted here before.
    let retired = core.keeper.retired.bytes();
    let log: u64 = segments.iter().map(|segment| segment.header.file_bytes).sum();
    let last = segments.last().map(|segment| segment.id());
    let handed_out = handed_out.filter(|&(id, _)| last.is_none_or(|last| last < id));
    let handed_out = handed_out.map_or(0, |(_, bytes)| bytes);
    let checkpoints = core.keeper.checkpoints.bytes();
    log.saturating_add(handed_out).saturating_add(retired).saturating_add(checkpoints)
}

/// How much may still be taken before space is scarce, in bytes.
///
/// # Errors
///
/// [`Error::Io`].
pub(crate) fn spare_bytes(core: &Core) -> Result<u64> {
    Ok(Room::of(core, &core.supply.lock())?.spare)
}

/// Whether files of dead segments should be given back soon.
///
/// # Errors
///
/// [`Error::Io`].
pub(crate) fn is_scarce(core: &Core) -> Result<bool> {
    if core.append.lock().out_of_space.is_some() {
        return Ok(true);
    }
    Ok(spare_bytes(core)? < core.config.segment_bytes_max)
}

/// Lets publishers go on, and the log if it waits, where there is space again. Says whether it did.
///
/// # Errors
///
/// [`Error::Io`].
pub(crate) fn look_for_space(core: &Core) -> Result<bool> {
    if core.append.lock().out_of_space.is_none() || !core.supply.is_whole(core)? {
        return Ok(false);
    }
    // What waits to be written is tried again first: perhaps it lacks what can't be counted.
    let stuck = core.is_stuck();
    let mut state = core.append.lock();
    state.stalled = false;
    if !stuck {
        state.out_of_space = None;
        core.append.wake_publishers(&state);
    }
    core.append.work.notify_all();
    Ok(!stuck)
}
