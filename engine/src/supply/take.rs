//! Who gets a file, or room: the log, rewriting.
//!
//! The rules, R1 to R5, and why they suffice are in [`super::space`].

use std::sync::Arc;

use fanlog_segment_format::{SegmentId, file_name::FileName};

use super::{
    FreeFile, Promise, State, Supply, allocate, create, is_own, name_file, segment_name,
    space::{self, Promised, Room},
};
use crate::{
    Error, Result, commit::is_out_of_space, core::Core, keeper::held_bytes, storage::StorageFile,
};

/// A file for the log.
#[derive(Debug)]
pub(crate) struct Supplied {
    pub(crate) file: Arc<dyn StorageFile>,
    /// Set where it was taken from the reserve: why.
    pub(crate) scarce: Option<String>,
}

impl Supply {
    /// The file of segment `id`, of at least `bytes`, under its name and with a blank first block. What
    /// the batch in it was promised is used up then.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::OutOfSpace`] where neither the limits nor the reserve have that much.
    pub(crate) fn take(
        &self,
        core: &Core,
        id: SegmentId,
        bytes: u64,
        promise: &mut Option<Promise>,
    ) -> Result<Supplied> {
        let mut state = self.lock();
        state.taken = state.taken.max(id);
        self.with_promised(promise, || self.take_from(core, &mut state, id, bytes))
    }

    fn take_from(
        &self,
        core: &Core,
        state: &mut State,
        id: SegmentId,
        bytes: u64,
    ) -> Result<Supplied> {
        let reason = match self.take_beside_reserve(core, state, id, bytes) {
            Ok(Some(file)) => {
                state.handed_out = Some((id, bytes));
                return Ok(Supplied { file, scarce: None });
            }
            Ok(None) => Room::of(core, state)?.reason(),
            // The disk has less than it says.
            Err(error) if is_out_of_space(&error) => error.to_string(),
            Err(error) => return Err(error),
        };
        let file = if bytes > core.config.segment_bytes_max {
            self.take_instead(core, state, id, bytes)?
        } else if may_have_ready(core, state)? {
            self.take_ready(core, state, id, bytes)?
        } else {
            None
        };
        let Some(file) = file else { return Err(Error::OutOfSpace { segment: id.0, reason }) };
        state.handed_out = Some((id, bytes));
        Ok(Supplied { file, scarce: Some(reason) })
    }

    /// A file that the reserve does not need, or a new one (R1); `None` if there is none.
    fn take_beside_reserve(
        &self,
        core: &Core,
        state: &mut State,
        id: SegmentId,
        bytes: u64,
    ) -> Result<Option<Arc<dyn StorageFile>>> {
        let (segment_bytes, reserve) = (core.config.segment_bytes_max, space::reserve_files(core));
        let plenty = Room::of(core, state)?.is_plenty(core);
        if bytes > segment_bytes {
            return self.make_beside_reserve(core, state, id, bytes, plenty);
        }
        // Another one takes its place in the reserve, before it goes.
        while state.ready() <= reserve && !(plenty && state.ready() == 0) {
            if Room::of(core, state)?.spare < segment_bytes {
                return Ok(None);
            }
            self.add_one(core, state)?;
            if plenty {
                // The keeper makes up for what more is missing.
                break;
            }
        }
        match self.take_ready(core, state, id, bytes)? {
            None if plenty => create(core, &segment_name(id), bytes).map(Some),
            found => Ok(found),
        }
    }

    /// A file for a batch that no prepared file can hold (R1); `None` if there is no room.
    fn make_beside_reserve(
        &self,
        core: &Core,
        state: &mut State,
        id: SegmentId,
        bytes: u64,
        plenty: bool,
    ) -> Result<Option<Arc<dyn StorageFile>>> {
        let (segment_bytes, reserve) = (core.config.segment_bytes_max, space::reserve_files(core));
        while !plenty && state.ready() < reserve {
            if Room::of(core, state)?.spare < segment_bytes.saturating_add(bytes) {
                return Ok(None);
            }
            self.add_one(core, state)?;
        }
        // What is prepared beyond the reserve makes room.
        while Room::of(core, state)?.spare < bytes {
            if state.ready() <= reserve {
                return Ok(None);
            }
            self.remove_one(core, state)?;
        }
        self.give_name_back(core, state)?;
        create(core, &segment_name(id), bytes).map(Some)
    }

    /// Prepares one more file, at once.
    fn add_one(&self, core: &Core, state: &mut State) -> Result<()> {
        let bytes = core.config.segment_bytes_max;
        let free = FreeFile { number: state.new_number(), bytes };
        allocate(core, &FileName::Free(free.number).to_string(), free.bytes)?;
        state.free.push_back(free);
        self.count(state);
        Ok(())
    }

    /// A prepared file, if there is one of that size.
    fn take_ready(
        &self,
        core: &Core,
        state: &mut State,
        id: SegmentId,
        bytes: u64,
    ) -> Result<Option<Arc<dyn StorageFile>>> {
        if let Some(named) = &state.named
            && named.id == id
            && named.bytes >= bytes
        {
            let file = Arc::clone(&named.file);
            state.named = None;
            self.count(state);
            return Ok(Some(file));
        }
        self.give_name_back(core, state)?;
        while let Some(free) = state.take_free(bytes) {
            if !is_own(&*core.storage, free)? {
                continue;
            }
            let named = name_file(core, free, id);
            if named.is_err() {
                state.free.push_front(free);
            }
            self.count(state);
            return named.map(Some);
        }
        self.count(state);
        Ok(None)
    }

    /// For a batch that no prepared file can hold: removes as many as it takes to make one that can.
    fn take_instead(
        &self,
        core: &Core,
        state: &mut State,
        id: SegmentId,
        bytes: u64,
    ) -> Result<Option<Arc<dyn StorageFile>>> {
        self.give_name_back(core, state)?;
        let room = Room::of(core, state)?;
        if room.on_disk.saturating_add(state.bytes()) < bytes {
            return Ok(None);
        }
        let mut needed = bytes.saturating_sub(room.spare);
        while needed > 0 {
            let Some(removed) = self.remove_one(core, state)? else { break };
            needed = needed.saturating_sub(removed);
        }
        match create(core, &segment_name(id), bytes) {
            Err(error) if is_out_of_space(&error) => Ok(None),
            made => made.map(Some),
        }
    }

    /// Whether the reserve is prepared, with one more file to spare, or there is plenty (R1).
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(super) fn is_whole(&self, core: &Core) -> Result<bool> {
        let state = self.lock();
        Ok(state.ready() > space::reserve_files(core) || Room::of(core, &state)?.is_plenty(core))
    }

    /// The most that rewriting could be promised now, in bytes (R4).
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn could_promise(&self, core: &Core) -> Result<u64> {
        let owes = owes(core);
        let state = self.lock();
        let room = Room::of(core, &state)?;
        Ok(room.spare.max(beyond_limits(core, &state, &room, owes)))
    }

    /// Promises rewriting `bytes`, until [`Self::rewriting_goes_on`] says otherwise. Says whether
    /// there is so much. Files of the reserve make room where there is none (R4).
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn promise(&self, core: &Core, bytes: u64) -> Result<bool> {
        let owes = owes(core);
        let mut state = self.lock();
        state.promised = Promised::default();
        let mut room = Room::of(core, &state)?;
        if room.spare < bytes && beyond_limits(core, &state, &room, owes) < bytes {
            return Ok(false);
        }
        let mut removed = 0;
        // No more than it takes: over a limit nothing becomes spare.
        while room.spare < bytes && removed < bytes {
            let Some(more) = self.remove_one(core, &mut state)? else { break };
            removed += more;
            room = Room::of(core, &state)?;
        }
        // The disk may give back later what was removed.
        let there = room.on_disk >= bytes;
        if there {
            state.promised = Promised { bytes, written: 0 };
        }
        Ok(there)
    }

    /// Rewriting has written so much of what it was promised; with `None` it is done with it.
    pub(crate) fn rewriting_goes_on(&self, written: Option<u64>) {
        let mut state = self.lock();
        match written {
            Some(written) => state.promised.written = written,
            None => state.promised = Promised::default(),
        }
    }
}

/// R3: whether the log may have a prepared file although the reserve is not whole.
fn may_have_ready(core: &Core, state: &State) -> Result<bool> {
    let Some(left) = state.ready().checked_sub(1) else { return Ok(false) };
    let left = core.config.segment_bytes_max.saturating_mul(left as u64);
    Ok(Room::of(core, state)?.is_left_with(left))
}

/// Whether files of dead or rewritten segments are still to be given back (R4).
fn owes(core: &Core) -> bool {
    core.keeper.retired.any() || held_bytes(core) > 0
}

/// What rewriting may have although there is nothing to spare: work's share of the reserve, if it
/// owes nothing.
fn beyond_limits(core: &Core, state: &State, room: &Room, owes: bool) -> u64 {
    if owes {
        return 0;
    }
    let segment_bytes = core.config.segment_bytes_max;
    let files = space::for_rewriting(core, state.ready()) as u64;
    let lent = segment_bytes.saturating_mul(files);
    // R2: a file's worth is had in any case.
    room.on_disk.saturating_add(lent).min(lent.max(segment_bytes))
}
