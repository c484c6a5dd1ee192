//! Copies an open store to another directory, while it is at work.
//!
//! In: the segments that a checkpoint would list now, and the ledger's state. Out: a directory that
//! opens as a store. A sealed segment never changes again, so a second name is as good as a copy;
//! what is not sealed is copied up to the end of what is confirmed.
//!
//! B1. Nothing of the source is written; publishing, consuming and reclaim go on.
//! B2. The target becomes a store with the last step: its checkpoint gets its name once all that it
//!     lists is durable.
//! B3. The file of a segment that is held for copying is neither used again nor removed; one with
//!     another name is never used again.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use fanlog_segment_format::{
    checkpoint::Checkpoint,
    file_name::{FileName, TemporaryOf},
    layout::SEGMENT_HEADER_BYTES,
};

use crate::{
    Error, Offset, Result, checkpoint,
    core::Core,
    error::FileOp,
    log::segment::Segment,
    recovery::FIRST_CHECKPOINT,
    storage::{
        Access, AlignedBuffer, BackendChoice, Purpose, RealStorage, Storage, StorageFile,
        StorageLock, WriteSync,
    },
};

/// Bytes copied at a time.
const PIECE_BYTES: usize = 1 << 20;

/// What a backup does with sealed segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum BackupFiles {
    /// Gives them a second name where both directories are on one file system that can do so, and
    /// copies them elsewhere. Takes hardly any time or space; but what damages the bytes on the
    /// disk damages both.
    #[default]
    Linked,
    /// Copies them.
    Copied,
}

/// How far a backup has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupProgress {
    /// Segments that are in the target.
    pub segments_done: u64,
    /// Segments in all.
    pub segments_total: u64,
    /// Bytes that are in the target, linked or copied.
    pub bytes_done: u64,
    /// Bytes in all.
    pub bytes_total: u64,
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// It holds the log up to this offset, exclusive.
    pub end: Offset,
    /// Segments that share their bytes with the source.
    pub linked_segments: u64,
    /// Their bytes.
    pub linked_bytes: u64,
    /// Segments that were copied.
    pub copied_segments: u64,
    /// Their bytes.
    pub copied_bytes: u64,
}

/// Segments whose files are being copied (B3).
#[derive(Debug, Default)]
pub(crate) struct Copying(Mutex<Vec<Arc<Segment>>>);

impl Copying {
    /// Whether the segment's file is still wanted.
    pub(crate) fn has(&self, segment: &Arc<Segment>) -> bool {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().any(|other| Arc::ptr_eq(other, segment))
    }

    fn hold(&self, segments: &[Arc<Segment>]) -> Held<'_> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend(segments.iter().cloned());
        Held { copying: self, segments: segments.to_vec() }
    }
}

/// Gives the segments free again, one by one or when it is dropped.
struct Held<'a> {
    copying: &'a Copying,
    segments: Vec<Arc<Segment>>,
}

impl Held<'_> {
    fn release(&mut self, segment: &Arc<Segment>) {
        if let Some(at) = self.segments.iter().position(|own| Arc::ptr_eq(own, segment)) {
            self.copying.release(&self.segments.swap_remove(at));
        }
    }
}

impl Copying {
    fn release(&self, segment: &Arc<Segment>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Another backup may hold it too.
        if let Some(at) = held.iter().position(|other| Arc::ptr_eq(other, segment)) {
            held.swap_remove(at);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for segment in std::mem::take(&mut self.segments) {
            self.copying.release(&segment);
        }
    }
}

/// Copies the store to the directory `dir`, which is made if it is not there.
pub(crate) fn backup(
    core: &Core,
    dir: &Path,
    files: BackupFiles,
    progress: &mut dyn FnMut(BackupProgress),
) -> Result<BackupReport> {
    if lies_inside(dir, &core.storage.path("")) {
        return Err(Error::Refused {
            what: format!("backup to {}", dir.display()),
            why: "the directory is the store's own, or lies inside it".into(),
        });
    }
    let target = RealStorage::open(dir, true, BackendChoice::Buffered)
        .map_err(|source| Error::io(FileOp::Open, dir.to_owned(), source))?;
    backup_to(core, &target, files, progress)
}

/// Copies the store to an empty directory.
pub(crate) fn backup_to(
    core: &Core,
    target: &dyn Storage,
    files: BackupFiles,
    progress: &mut dyn FnMut(BackupProgress),
) -> Result<BackupReport> {
    let _lock = take_empty(target)?;
    let (plan, held) = Plan::make(core)?;
    let mut copy = Copy { core, target, links: files == BackupFiles::Linked, made: Vec::new() };
    let copied = copy.all(&plan, held, progress);
    if copied.is_err() {
        for name in copy.made {
            // Without a checkpoint what is left says nothing; why it failed says more.
            drop(target.remove(&name));
        }
    }
    copied
}

/// Whether `dir`, which need not be there yet, is `store` or lies inside it.
fn lies_inside(dir: &Path, store: &Path) -> bool {
    let Ok(dir) = std::path::absolute(dir) else { return false };
    let there = dir.ancestors().find_map(|ancestor| ancestor.canonicalize().ok());
    matches!((there, store.canonicalize()), (Some(dir), Ok(store)) if dir.starts_with(&store))
}

/// Locks the target, so that nobody makes a store there meanwhile; it has to be empty.
fn take_empty(target: &dyn Storage) -> Result<StorageLock> {
    let lock = crate::engine::lock_error(target, target.lock(&FileName::Lock.to_string()))?;
    let entries =
        target.list().map_err(|source| Error::io(FileOp::List, target.path(""), source))?;
    let other = entries.iter().find(|entry| FileName::parse(&entry.name) != Some(FileName::Lock));
    match other {
        None => Ok(lock),
        Some(other) => Err(Error::Refused {
            what: format!("backup to {}", target.path("").components().as_path().display()),
            why: format!("the directory is not empty, it has {:?}", other.name),
        }),
    }
}

/// What to copy of a segment.
#[derive(Debug)]
struct Part {
    segment: Arc<Segment>,
    /// `None`: it is sealed, and all of its file.
    end: Option<u64>,
}

impl Part {
    fn bytes(&self) -> u64 {
        self.end.unwrap_or(self.segment.header.file_bytes)
    }
}

/// A moment of the store: a checkpoint, and the files that it lists.
#[derive(Debug)]
struct Plan {
    checkpoint: Checkpoint,
    parts: Vec<Part>,
}

impl Plan {
    fn make(core: &Core) -> Result<(Self, Held<'_>)> {
        // Nothing is sealed, retired or rewritten meanwhile; the log goes on.
        let _paused = core.keeper.checkpoints.pause();
        if let Some(ended) = core.ended() {
            return Err(ended);
        }
        let mut checkpoint = checkpoint::compose(core);
        let head = checkpoint.head.position;
        // The log went on before the segments were listed: what lies behind the head is not part of
        // this. The first one that is not sealed at or behind it is where the copy will go on.
        let listed = &mut checkpoint.segments;
        if let Some(at) = listed.iter().position(|one| !one.sealed && one.id >= head.segment) {
            listed.truncate(at + 1);
            listed[at].end_offset = None;
        }
        checkpoint.next_ids.segment = checkpoint::next_segment(&checkpoint.segments);
        // Its head is the end of the log: whatever is missing there later is damage.
        checkpoint.clean = true;
        // The first of a store of its own: none is missing beside it.
        checkpoint.number = FIRST_CHECKPOINT;
        let mut segments = core.log.segments();
        segments.truncate(checkpoint.segments.len());
        let parts = segments.iter().zip(&checkpoint.segments).map(|(segment, entry)| {
            let end = if segment.id() == head.segment {
                head.position
            } else if entry.end_offset.is_some() {
                segment.log_end()
            } else {
                // Nothing in it is confirmed yet.
                SEGMENT_HEADER_BYTES as u64
            };
            Part { segment: Arc::clone(segment), end: (!entry.sealed).then_some(end) }
        });
        let parts = parts.collect();
        let hold = core.keeper.copying.hold(&segments);
        Ok((Self { checkpoint, parts }, hold))
    }
}

/// A backup under way.
struct Copy<'a> {
    core: &'a Core,
    target: &'a dyn Storage,
    links: bool,
    made: Vec<String>,
}

impl Copy<'_> {
    fn all(
        &mut self,
        plan: &Plan,
        mut held: Held<'_>,
        progress: &mut dyn FnMut(BackupProgress),
    ) -> Result<BackupReport> {
        let mut told = BackupProgress {
            segments_total: plan.parts.len() as u64,
            bytes_total: plan.parts.iter().map(Part::bytes).sum(),
            ..BackupProgress::default()
        };
        let mut report =
            BackupReport { end: plan.checkpoint.head.next_offset, ..BackupReport::default() };
        progress(told);
        for part in &plan.parts {
            let before = told.bytes_done;
            if self.link(part) {
                report.linked_segments += 1;
                report.linked_bytes += part.bytes();
            } else {
                report.copied_bytes += self.copy(part, &mut |bytes| {
                    told.bytes_done = before + bytes;
                    progress(told);
                })?;
                report.copied_segments += 1;
            }
            held.release(&part.segment);
            told.bytes_done = before + part.bytes();
            told.segments_done += 1;
            progress(told);
        }
        self.target
            .sync_directory()
            .map_err(|source| Error::io(FileOp::SyncDirectory, self.target.path(""), source))?;
        // After the end the files are somebody else's, who may have used them again.
        if let Some(ended) = self.core.ended() {
            return Err(ended);
        }
        let number = plan.checkpoint.number;
        self.made.push(FileName::Temporary(TemporaryOf::Checkpoint(number)).to_string());
        self.made.push(FileName::Checkpoint(number).to_string());
        checkpoint::store(self.target, number, &plan.checkpoint.encode())?;
        Ok(report)
    }

    /// Gives a sealed segment its second name. Says whether it could.
    fn link(&mut self, part: &Part) -> bool {
        if !self.links || part.end.is_some() {
            return false;
        }
        let name = &part.segment.name;
        // Whatever keeps it from being linked, copying works without, or says why not.
        self.links = self.core.storage.link(name, self.target, name).is_ok();
        if self.links {
            self.made.push(name.clone());
        }
        self.links
    }

    /// Copies a segment durably. Returns how many bytes.
    fn copy(&mut self, part: &Part, told: &mut dyn FnMut(u64)) -> Result<u64> {
        let (core, target, name) = (self.core, self.target, &part.segment.name);
        let from = core
            .storage
            .open(name, Access::Read, Purpose::Log)
            .map_err(|source| Error::io(FileOp::Open, core.storage.path(name), source))?;
        let failed = |op| {
            let path = target.path(name);
            move |source| Error::io(op, path, source)
        };
        let to = target.create(name, Purpose::Plain).map_err(failed(FileOp::Create))?;
        self.made.push(name.clone());
        let end = match part.end {
            Some(end) => {
                to.allocate(part.segment.header.file_bytes).map_err(failed(FileOp::Allocate))?;
                end
            }
            None => from
                .bytes()
                .map_err(|source| Error::io(FileOp::Read, core.storage.path(name), source))?,
        };
        let mut position = 0;
        while position < end {
            let left = usize::try_from(end - position).unwrap_or(PIECE_BYTES);
            let mut piece = AlignedBuffer::zeroed(left.min(PIECE_BYTES));
            self.read(&*from, name, position, &mut piece)?;
            to.write_all_at(position, &piece, WriteSync::None).map_err(failed(FileOp::Write))?;
            position += piece.len() as u64;
            told(position);
        }
        to.sync().map_err(failed(FileOp::Sync))?;
        Ok(end)
    }

    fn read(
        &self,
        from: &dyn StorageFile,
        name: &str,
        position: u64,
        piece: &mut [u8],
    ) -> Result<()> {
        from.read_exact_at(position, piece)
            .map_err(|source| Error::io(FileOp::Read, self.core.storage.path(name), source))
    }
}
