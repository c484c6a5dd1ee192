//! Reclaim: gives back the segments whose every message was durably acked.
//!
//! A dead segment is first *retired*: taken out of the log, so that the next checkpoints do not
//! list it. Its file is used again, or removed, once neither kept checkpoint lists it. So a listed
//! segment whose file is missing is always damage, and recovery from either checkpoint finds all
//! that it needs.
//!
//! M1. Only durable acks count.
//! M2. A file that a reader maps, or that has another name, is not written again: it is removed, and
//!     its blocks go when the last reader, or name, does.
//! M3. A file that is being copied stays until it is.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    Error, Result,
    checkpoint::Checkpoints,
    core::Core,
    error::FileOp,
    ledger::live::{self, SegmentCount},
    log::segment::Segment,
};

#[derive(Debug)]
struct Gone {
    segment: Arc<Segment>,
    /// The newest checkpoint when it was retired: it, and those before, may list it.
    listed_to: u64,
}

/// Dead segments whose files still stand.
#[derive(Debug, Default)]
pub(crate) struct Retired {
    segments: Mutex<Vec<Gone>>,
    /// Bytes of their files.
    bytes: AtomicU64,
}

impl Retired {
    /// Whether files of dead segments still stand.
    pub(crate) fn any(&self) -> bool {
        !self.segments.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether files of dead segments stand only because a kept checkpoint lists them.
    pub(crate) fn wait_for_checkpoints(&self, checkpoints: &Checkpoints) -> bool {
        let oldest = checkpoints.oldest_of_two().unwrap_or(0);
        let retired = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        retired.iter().any(|gone| gone.listed_to >= oldest)
    }

    /// Bytes of their files.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Counts the files of segments that are about to leave the log: nobody may see them nowhere.
    pub(crate) fn expect(&self, segments: &[Arc<Segment>]) {
        let bytes = segments.iter().map(|segment| segment.header.file_bytes).sum();
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Takes over segments, which were expected, that were replaced when `listed_to` was the newest
    /// checkpoint.
    pub(crate) fn replaced(&self, replaced: &[Arc<Segment>], listed_to: u64) {
        let mut retired = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        retired.extend(
            replaced.iter().map(|segment| Gone { segment: Arc::clone(segment), listed_to }),
        );
    }

    /// Retires what is dead, then gives back one file that may go. Says whether it did anything.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn step(&self, core: &Core) -> Result<bool> {
        let mut retired = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let mut did = false;
        for segment in dead(core) {
            // One that is being written may list it, and has no number to note yet.
            let _paused = core.keeper.checkpoints.pause();
            let Some(newest) = core.keeper.checkpoints.newest() else { return Ok(did) };
            self.expect(std::slice::from_ref(&segment));
            core.log.retire_segment(&segment);
            core.ledger().retired(segment.id());
            retired.push(Gone { segment, listed_to: newest.number });
            did = true;
        }
        let Some(oldest) = core.keeper.checkpoints.oldest_of_two() else { return Ok(did) };
        let ready = retired
            .iter()
            .position(|gone| gone.listed_to < oldest && !core.keeper.copying.has(&gone.segment));
        let Some(at) = ready else { return Ok(did) };
        give_back(core, Arc::clone(&retired[at].segment))?;
        let gone = retired.remove(at);
        core.log.forget_split(gone.segment.first_offset());
        self.bytes.fetch_sub(gone.segment.header.file_bytes, Ordering::SeqCst);
        Ok(true)
    }
}

/// Sealed segments in which nothing is live.
fn dead(core: &Core) -> Vec<Arc<Segment>> {
    drop(core.keeper.settle(core));
    let counts = core.ledger().counts().to_vec();
    let mut segments = core.log.segments();
    segments.retain(|segment| {
        let count = live::count_of(&counts, segment.id());
        // One that got no batch is in no count.
        segment.is_sealed() && (segment.is_empty() || count.is_some_and(SegmentCount::is_dead))
    });
    segments
}

/// Recycles or removes the file of a segment that nothing needs.
fn give_back(core: &Core, segment: Arc<Segment>) -> Result<()> {
    let held = core.log.is_mapped(&segment);
    let bytes = segment.header.file_bytes;
    if !held && core.supply.recycle(core, &segment.name, bytes)? {
        core.stats.recycled();
        return Ok(());
    }
    core.storage
        .remove(&segment.name)
        .map_err(|source| Error::io(FileOp::Remove, core.storage.path(&segment.name), source))?;
    core.stats.deleted();
    if held {
        core.keeper.held.lock().unwrap_or_else(PoisonError::into_inner).push(segment);
    }
    Ok(())
}
