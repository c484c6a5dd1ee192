//! Checkpoints: the ledger as one file, atomically replaced.
//!
//! In: the ledger. Out: a file from which recovery starts, and a position before which the log's
//! control records are no longer needed.
//!
//! H1. A checkpoint holds only effects of records that are durable in the log.
//! H2. It bears its name only once its bytes are durable; the last two are kept.

use std::sync::{Mutex, MutexGuard, PoisonError};

use fanlog_segment_format::{
    Epoch, StoreId,
    checkpoint::{Checkpoint, LogHead, NextIds, SegmentEntry},
    file_name::{FileName, TemporaryOf},
};

use crate::{
    Error, Result,
    commit::Pipeline,
    core::Core,
    error::FileOp,
    ledger::live::{self, SegmentCount},
    log::{Log, segment::Segment},
    storage::{Purpose, Storage, WriteSync},
};

/// A checkpoint that is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) number: u64,
    pub(crate) bytes: u64,
}

/// The checkpoints on disk, oldest first; at most two.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    kept: Mutex<Vec<Kept>>,
    /// Only one is written at a time.
    writing: Mutex<()>,
}

impl Checkpoints {
    pub(crate) fn new(kept: Vec<Kept>) -> Self {
        Self { kept: Mutex::new(kept), writing: Mutex::new(()) }
    }

    fn kept(&self) -> Vec<Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn newest(&self) -> Option<Kept> {
        self.kept().last().copied()
    }

    /// Bytes of their files.
    pub(crate) fn bytes(&self) -> u64 {
        self.kept().iter().map(|kept| kept.bytes).sum()
    }

    /// The number of the older one; with a single one there is nothing to fall back to yet.
    pub(crate) fn oldest_of_two(&self) -> Option<u64> {
        let kept = self.kept();
        if kept.len() < 2 { None } else { kept.first().map(|kept| kept.number) }
    }

    /// Keeps checkpoints from being written while what they list is changed.
    pub(crate) fn pause(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a checkpoint of what is confirmed by now.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the last one stays.
    pub(crate) fn write(&self, core: &Core, clean: bool) -> Result<()> {
        let _writing = self.pause();
        // The store may have been closed while this waited: then it is somebody else's.
        if let Some(ended) = core.ended() {
            return Err(ended);
        }
        let mut checkpoint = compose(core);
        checkpoint.clean = clean;
        let number = checkpoint.number;
        // H1: what was captured is confirmed, but a buffered batch may not be synced yet.
        sync_active(core)?;
        let bytes = checkpoint.encode();
        store(&*core.storage, number, &bytes)?;
        core.stats.other_written(bytes.len() as u64);
        core.stats.checkpointed();
        let kept = Kept { number, bytes: bytes.len() as u64 };
        self.keep(&*core.storage, kept)
    }

    /// Takes note of a new checkpoint and removes those that it makes superfluous.
    fn keep(&self, storage: &dyn Storage, newest: Kept) -> Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(newest);
        while kept.len() > 2 {
            let name = FileName::Checkpoint(kept[0].number).to_string();
            storage
                .remove(&name)
                .map_err(|source| Error::io(FileOp::Remove, storage.path(&name), source))?;
            kept.remove(0);
        }
        Ok(())
    }
}

/// The next checkpoint: what is confirmed by now. Checkpoints are paused.
pub(crate) fn compose(core: &Core) -> Checkpoint {
    let newest = core.keeper.checkpoints.newest();
    let number = newest.map_or(core.recovery.checkpoint, |kept| kept.number) + 1;
    let mut checkpoint = blank(core.store, number, core.epoch);
    checkpoint.created_us = core.clock.wall_us();
    let counts = core.keeper.capture(core, &mut checkpoint);
    // The list after the ledger: it has every segment that the ledger counts. One that it calls
    // sealed lies wholly before the head all the same, so recovery does not have to read it:
    // nothing is sealed while this is paused.
    checkpoint.segments = entries(&core.log, &counts);
    checkpoint.next_ids.segment = next_segment(&checkpoint.segments);
    checkpoint
}

/// A checkpoint that says nothing yet.
pub(crate) fn blank(store: StoreId, number: u64, epoch: Epoch) -> Checkpoint {
    Checkpoint {
        store,
        number,
        epoch,
        clean: false,
        created_us: 0,
        head: LogHead::default(),
        next_ids: NextIds::default(),
        exchanges: Vec::new(),
        groups: Vec::new(),
        routes: Vec::new(),
        queues: Vec::new(),
        segments: Vec::new(),
        next_publisher: 0,
        publishers: Vec::new(),
        exchange_bindings: Vec::new(),
    }
}

/// Writes a checkpoint's bytes under their name: temporary file, sync, rename, directory (H2).
pub(crate) fn store(storage: &dyn Storage, number: u64, bytes: &[u8]) -> Result<()> {
    let name = FileName::Checkpoint(number).to_string();
    let temporary = FileName::Temporary(TemporaryOf::Checkpoint(number)).to_string();
    let failed = |op| {
        let path = storage.path(&temporary);
        move |source| Error::io(op, path, source)
    };
    let file = storage.create(&temporary, Purpose::Plain).map_err(failed(FileOp::Create))?;
    let written = file
        .write_all_at(0, bytes, WriteSync::None)
        .map_err(failed(FileOp::Write))
        .and_then(|()| file.sync().map_err(failed(FileOp::Sync)))
        .and_then(|()| storage.rename(&temporary, &name).map_err(failed(FileOp::Rename)));
    if let Err(error) = written {
        // It says nothing and would be in the way of the next attempt.
        storage.remove(&temporary).map_err(failed(FileOp::Remove))?;
        return Err(error);
    }
    storage
        .sync_directory()
        .map_err(|source| Error::io(FileOp::SyncDirectory, storage.path(""), source))
}

/// Makes all that is confirmed durable.
fn sync_active(core: &Core) -> Result<()> {
    let pipeline = core.pipeline.lock().unwrap_or_else(PoisonError::into_inner);
    let active = pipeline.as_ref().map(Pipeline::active_file);
    drop(pipeline);
    let Some((file, name, true)) = active else { return Ok(()) };
    core.stats.synced();
    let synced = file.sync();
    synced.map_err(|source| {
        let error = Error::io(FileOp::Sync, core.storage.path(&name), source);
        core.poison(error.clone());
        error
    })
}

/// The segments that the log consists of, as a checkpoint lists them.
pub(crate) fn entries(log: &Log, counts: &[SegmentCount]) -> Vec<SegmentEntry> {
    let count_of = |segment: &Segment| live::count_of(counts, segment.id());
    log.segments().iter().map(|segment| entry_of(segment, count_of(segment))).collect()
}

/// A segment of which nothing is counted was begun after the head: replay counts all of it.
fn entry_of(segment: &Segment, count: Option<&SegmentCount>) -> SegmentEntry {
    SegmentEntry {
        id: segment.id(),
        covers_to: segment.header.covers_to,
        generation: segment.header.generation,
        first_offset: segment.first_offset(),
        end_offset: segment.end_offset(),
        file_bytes: segment.header.file_bytes,
        sealed: segment.is_sealed(),
        outstanding_messages: count.map_or(0, |count| count.outstanding.messages),
        outstanding_bytes: count.map_or(0, |count| count.outstanding.bytes),
        uncounted: count.is_some_and(|count| count.uncounted),
    }
}

pub(crate) fn next_segment(segments: &[SegmentEntry]) -> u64 {
    segments.last().map_or(1, |entry| entry.covers_to.0 + 1)
}
