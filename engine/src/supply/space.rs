//! How much the store may still take, and what is kept back for getting space back.
//!
//! A store can only be drained by writing: acks go to the log, a checkpoint has to be written before
//! the file of a dead segment is given back, and rewriting writes first. So some files are a
//! *reserve*: as many as what was accepted from publishers may take, two for control records (one is
//! filled while the other, in which nothing is live, is given back) and one for rewriting. Beside them twice the last checkpoint is kept free.
//!
//! R1. A file is handed out for the log only if what is left, prepared or still to be had, makes up
//!     the whole reserve; else the reserve is used, and publishers wait until it is whole again and
//!     there is one file to spare.
//! R2. One file for control records and one for rewriting are had whatever the limits say: without
//!     them a store over its limit would never get below.

use crate::{Config, Error, Result, core::Core, error::FileOp};

/// For control records, in turn.
const FOR_CONTROL: usize = 2;
/// Kept for rewriting: the log never takes the last of the reserve.
pub(super) const FOR_REWRITING: usize = 1;

impl Config {
    /// How many prepared files are the reserve.
    pub(crate) fn reserve_files(&self) -> usize {
        // Unconfirmed messages do not fill segments to the brim; a quarter more is ample.
        let accepted = (self.buffer_bytes_max as u64).saturating_mul(5) / 4;
        let files = accepted.div_ceil(self.segment_bytes_max);
        usize::try_from(files).unwrap_or(usize::MAX).saturating_add(FOR_CONTROL + FOR_REWRITING)
    }

    /// How many prepared files are kept, the reserve included.
    pub(crate) fn files_ahead(&self) -> usize {
        self.segments_ahead.max(self.reserve_files() + 1)
    }
}

/// What may still be taken, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Within the limits of the settings, and what the disk has beside room for checkpoints.
    pub(crate) spare: u64,
    /// What the disk has beside room for checkpoints.
    pub(crate) on_disk: u64,
    /// Why there is no more, should it not suffice.
    limit: &'static str,
}

impl Room {
    /// What there is now.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn of(core: &Core, prepared_bytes: u64) -> Result<Self> {
        let storage = &*core.storage;
        let free = storage
            .free_bytes()
            .map_err(|source| Error::io(FileOp::Space, storage.path(""), source))?;
        let kept = 2 * core.keeper.checkpoints.newest().map_or(0, |kept| kept.bytes);
        let on_disk = free.saturating_sub(kept);
        let above_min = on_disk.saturating_sub(core.config.free_bytes_min);
        let used = store_bytes(core).saturating_add(prepared_bytes).saturating_add(kept);
        let below_max =
            core.config.store_bytes_max.map_or(u64::MAX, |max| max.saturating_sub(used));
        let limit = if below_max < above_min {
            "the store has grown to store_bytes_max"
        } else if core.config.free_bytes_min > 0 && on_disk > 0 {
            "the disk has no more than free_bytes_min left"
        } else {
            "the disk is full"
        };
        Ok(Self { spare: above_min.min(below_max), on_disk, limit })
    }

    /// What to tell those who wait.
    pub(crate) fn reason(&self) -> String {
        format!("{}; what is left is kept for getting space back", self.limit)
    }
}

/// Bytes of the store's files, without prepared ones.
fn store_bytes(core: &Core) -> u64 {
    let segments = core.log.segments();
    let log: u64 = segments.iter().map(|segment| segment.header.file_bytes).sum();
    let retired = core.keeper.retired.bytes();
    log.saturating_add(retired).saturating_add(core.keeper.checkpoints.bytes())
}

/// How much may still be taken before space is scarce, in bytes.
///
/// # Errors
///
/// [`Error::Io`].
pub(crate) fn spare_bytes(core: &Core) -> Result<u64> {
    Ok(Room::of(core, core.supply.bytes())?.spare)
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
