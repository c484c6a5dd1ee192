//! Segment files ahead of the log: prepared, recycled, handed to the committer.
//!
//! Blocks that were written before take synced writes 15 to 65 % faster than fresh ones, and
//! removing a file can stall commits for milliseconds. So files are filled with zeros while the
//! engine has time, and files of dead segments are used again.
//!
//! U1. A file bears a segment's name only with its first block blank, or with that segment's header.
//! U2. A file is renamed, and the directory synced, before it is written under its new name.
//! U3. A file that has another name, in a backup say, is not written: it is removed.

mod promise;
mod space;
mod take;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use fanlog_segment_format::{SegmentId, file_name::FileName, layout::SEGMENT_HEADER_BYTES};

use self::{
    promise::Accepted,
    space::{Promised, Room},
};
pub(crate) use self::{
    promise::Promise,
    space::{is_scarce, look_for_space, spare_bytes},
};
use crate::{
    Error, Result,
    core::Core,
    error::FileOp,
    storage::{Access, AlignedBuffer, Allocation, Purpose, Storage, StorageFile, WriteSync},
};

/// Zeros are written in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// A file that is not part of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FreeFile {
    number: u64,
    bytes: u64,
}

/// A file that is being filled with zeros.
#[derive(Debug)]
struct Filling {
    free: FreeFile,
    file: Arc<dyn StorageFile>,
    filled: u64,
    /// A piece, made once: the first touch of its memory costs more than what it is written for.
    zeros: AlignedBuffer,
}

impl Filling {
    fn new(free: FreeFile, file: Arc<dyn StorageFile>) -> Self {
        let piece = usize::try_from(free.bytes).map_or(PIECE_BYTES, |bytes| bytes.min(PIECE_BYTES));
        Self { free, file, filled: 0, zeros: AlignedBuffer::zeroed(piece) }
    }

    /// Bytes of the next piece.
    fn piece(&self) -> usize {
        let left = self.free.bytes - self.filled;
        usize::try_from(left).map_or(self.zeros.len(), |left| left.min(self.zeros.len()))
    }

    /// Writes the next piece of zeros; after the last one, syncs the file.
    fn write_piece(&self) -> std::io::Result<()> {
        let piece = self.piece();
        self.file.write_all_at(self.filled, &self.zeros[..piece], WriteSync::None)?;
        if self.filled + piece as u64 == self.free.bytes { self.file.sync() } else { Ok(()) }
    }
}

/// A file that already bears the name of the next segment.
#[derive(Debug)]
struct Named {
    id: SegmentId,
    file: Arc<dyn StorageFile>,
    bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    free: VecDeque<FreeFile>,
    filling: Option<Filling>,
    named: Option<Named>,
    /// The last segment that a file was handed out for: its name is in use.
    taken: SegmentId,
    /// The last file that was handed out, and its size: the log may not list it yet.
    handed_out: Option<(SegmentId, u64)>,
    /// To rewriting.
    promised: Promised,
    next_number: u64,
}

impl State {
    fn ready(&self) -> usize {
        self.free.len() + usize::from(self.named.is_some())
    }

    /// Bytes of all prepared files, also of one that is not filled yet.
    fn bytes(&self) -> u64 {
        let free: u64 = self.free.iter().map(|free| free.bytes).sum();
        let named = self.named.as_ref().map_or(0, |named| named.bytes);
        free + named + self.filling.as_ref().map_or(0, |filling| filling.free.bytes)
    }

    fn new_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// Takes a free file of at least `bytes`.
    fn take_free(&mut self, bytes: u64) -> Option<FreeFile> {
        let at = self.free.iter().position(|free| free.bytes >= bytes)?;
        self.free.remove(at)
    }
}

/// Files ready to become segments.
#[derive(Debug, Default)]
pub(crate) struct Supply {
    state: Mutex<State>,
    ready: AtomicU64,
    /// To what was accepted and is larger than all that is kept.
    accepted: Accepted,
}

fn path_error<'a>(
    storage: &'a dyn Storage,
    op: FileOp,
    name: &'a str,
) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::io(op, storage.path(name), source)
}

impl Supply {
    /// The supply that recovery found: free files with their sizes.
    pub(crate) fn recovered(found: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let supply = Self::default();
        let mut state = supply.lock();
        for (number, bytes) in found {
            state.free.push_back(FreeFile { number, bytes });
            state.next_number = state.next_number.max(number + 1);
        }
        supply.count(&state);
        drop(state);
        supply
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, state: &State) {
        self.ready.store(state.ready() as u64, Ordering::Relaxed);
    }

    /// Files ready.
    pub(crate) fn ready(&self) -> u64 {
        self.ready.load(Ordering::Relaxed)
    }

    /// A file that was named for a segment, and is not to be it, gives the name back.
    fn give_name_back(&self, core: &Core, state: &mut State) -> Result<()> {
        let Some(named) = state.named.take() else { return Ok(()) };
        let number = state.new_number();
        let (from, to) = (segment_name(named.id), FileName::Free(number).to_string());
        if let Err(error) = rename(&*core.storage, &from, &to) {
            state.named = Some(named);
            return Err(error);
        }
        state.free.push_back(FreeFile { number, bytes: named.bytes });
        self.count(state);
        Ok(())
    }

    /// Gives up a prepared file, so that a checkpoint has its space (R5). Says whether there was one.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn give_up_one(&self, core: &Core) -> Result<bool> {
        let mut state = self.lock();
        Ok(self.remove_one(core, &mut state)?.is_some())
    }

    /// Removes a prepared file; returns its size. The last one may bear the next segment's name: the
    /// log does not take the last of the reserve, so that one too is for others.
    fn remove_one(&self, core: &Core, state: &mut State) -> Result<Option<u64>> {
        if state.free.is_empty() {
            self.give_name_back(core, state)?;
        }
        let Some(free) = state.free.pop_back() else { return Ok(None) };
        let name = FileName::Free(free.number).to_string();
        if let Err(source) = core.storage.remove(&name) {
            state.free.push_back(free);
            return Err(Error::io(FileOp::Remove, core.storage.path(&name), source));
        }
        self.count(state);
        Ok(Some(free.bytes))
    }

    /// Does one piece of preparation. Says whether there was any.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn step(&self, core: &Core, next: SegmentId) -> Result<bool> {
        if self.fill(core)? {
            return Ok(true);
        }
        let mut state = self.lock();
        // The committer may have gone on since `next` was read: a name in use is never given again.
        if state.named.is_none()
            && next > state.taken
            && let Some(free) = state.free.pop_front()
        {
            if !is_own(&*core.storage, free)? {
                return Ok(true);
            }
            let file = match name_file(core, free, next) {
                Ok(file) => file,
                Err(error) => {
                    state.free.push_front(free);
                    return Err(error);
                }
            };
            state.named = Some(Named { id: next, file, bytes: free.bytes });
            self.count(&state);
            return Ok(true);
        }
        let (ready, bytes) = (state.ready(), core.config.segment_bytes_max);
        let room = Room::of(core, &state)?;
        // R2: so few are not held against the limits.
        let within = if ready < space::FOR_CONTROL { room.on_disk } else { room.spare };
        if ready >= space::files_ahead(core) || within < bytes {
            return Ok(false);
        }
        let free = FreeFile { number: state.new_number(), bytes };
        let name = FileName::Free(free.number).to_string();
        let (file, allocation) = allocate(core, &name, free.bytes)?;
        if allocation == Allocation::Written {
            state.free.push_back(free);
            self.count(&state);
        } else {
            state.filling = Some(Filling::new(free, file));
        }
        Ok(true)
    }

    /// Writes the next piece of zeros, if a file is being filled.
    fn fill(&self, core: &Core) -> Result<bool> {
        let Some(mut filling) = self.lock().filling.take() else { return Ok(false) };
        let storage = &*core.storage;
        let name = FileName::Free(filling.free.number).to_string();
        if let Err(source) = filling.write_piece() {
            // Begun again once there is space.
            filling.filled = 0;
            self.lock().filling = Some(filling);
            return Err(Error::io(FileOp::Allocate, storage.path(&name), source));
        }
        let piece = filling.piece() as u64;
        core.stats.other_written(piece);
        filling.filled += piece;
        let done = filling.filled == filling.free.bytes;
        let mut state = self.lock();
        if done {
            state.free.push_back(filling.free);
        } else {
            state.filling = Some(filling);
        }
        self.count(&state);
        Ok(true)
    }

    /// Takes the file of a dead segment for later use. Says whether it was wanted; if not, the
    /// caller removes it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn recycle(&self, core: &Core, name: &str, bytes: u64) -> Result<bool> {
        let mut state = self.lock();
        let room = Room::of(core, &state)?;
        // One more than is prepared by itself: a stream that recycles never waits for zeros. Where
        // a limit is reached no more than the reserve, and one for publishers, is held on to.
        let most = if room.spare > 0 {
            space::files_ahead(core) + 1
        } else {
            space::reserve_files(core) + 1
        };
        let wanted = state.ready() < most;
        if bytes != core.config.segment_bytes_max || !wanted || is_shared(&*core.storage, name)? {
            return Ok(false);
        }
        let number = state.new_number();
        rename(&*core.storage, name, &FileName::Free(number).to_string())?;
        state.free.push_back(FreeFile { number, bytes });
        self.count(&state);
        Ok(true)
    }
}

/// Whether a file has a name elsewhere (U3).
fn is_shared(storage: &dyn Storage, name: &str) -> Result<bool> {
    let links = storage.links(name).map_err(path_error(storage, FileOp::Read, name))?;
    Ok(links > 1)
}

/// Whether a free file may be written; it is removed if not.
fn is_own(storage: &dyn Storage, free: FreeFile) -> Result<bool> {
    let name = FileName::Free(free.number).to_string();
    if !is_shared(storage, &name)? {
        return Ok(true);
    }
    storage.remove(&name).map_err(path_error(storage, FileOp::Remove, &name))?;
    Ok(false)
}

fn segment_name(id: SegmentId) -> String {
    FileName::Segment(id).to_string()
}

fn rename(storage: &dyn Storage, from: &str, to: &str) -> Result<()> {
    storage.rename(from, to).map_err(path_error(storage, FileOp::Rename, from))?;
    storage.sync_directory().map_err(path_error(storage, FileOp::SyncDirectory, ""))
}

/// Blanks a free file's first block and gives it a segment's name (U1, U2).
fn name_file(core: &Core, free: FreeFile, id: SegmentId) -> Result<Arc<dyn StorageFile>> {
    let storage = &*core.storage;
    let from = FileName::Free(free.number).to_string();
    let file = storage.open(&from, Access::Write, Purpose::Log).map_err(path_error(
        storage,
        FileOp::Open,
        &from,
    ))?;
    let blank = AlignedBuffer::zeroed(SEGMENT_HEADER_BYTES);
    file.write_all_at(0, &blank, WriteSync::Data).map_err(path_error(
        storage,
        FileOp::Write,
        &from,
    ))?;
    core.stats.other_written(SEGMENT_HEADER_BYTES as u64);
    rename(storage, &from, &segment_name(id))?;
    Ok(file)
}

/// Creates a file of that size at once, for a committer that can't wait.
fn create(core: &Core, name: &str, bytes: u64) -> Result<Arc<dyn StorageFile>> {
    let (file, _) = allocate(core, name, bytes)?;
    let storage = &*core.storage;
    storage.sync_directory().map_err(path_error(storage, FileOp::SyncDirectory, ""))?;
    Ok(file)
}

/// Creates a file and reserves its blocks; removes it again where there is no space.
fn allocate(core: &Core, name: &str, bytes: u64) -> Result<(Arc<dyn StorageFile>, Allocation)> {
    let storage = &*core.storage;
    let file =
        storage.create(name, Purpose::Log).map_err(path_error(storage, FileOp::Create, name))?;
    let reserved = file.allocate(bytes).and_then(|how| file.sync().map(|()| how));
    match reserved {
        Ok(how) => Ok((file, how)),
        Err(source) => {
            let error = Error::io(FileOp::Allocate, storage.path(name), source);
            storage.remove(name).map_err(path_error(storage, FileOp::Remove, name))?;
            Err(error)
        }
    }
}
