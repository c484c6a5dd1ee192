//! Room promised to messages, batches and transactions that are larger than all that is kept.
//!
//! The reserve has what `buffer_bytes_max` has room for, or a file has. What is larger has its room
//! beside it, promised when it is accepted: so neither others, nor what they do meanwhile, come before
//! it, and acks behind it wait for its write alone.
//!
//! L1. A promise is made only where there is room for it beside the whole reserve, prepared or not.
//! L2. What is promised is taken out of every other [`Room`](super::space::Room), until the file is
//!     made, or the promise is dropped: with the batch when that is confirmed or given up, or at once
//!     where it is not placed after all.
//! L3. Who waits for space to come back holds none: files could not be prepared beside it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    State, Supply,
    space::{self, Room},
};
use crate::{Error, Result, append::ACK_ROOM, core::Core};

/// Room for one file, nobody else's until this is dropped.
#[derive(Debug)]
pub(crate) struct Promise {
    bytes: u64,
    accepted: Accepted,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.accepted.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The sum of all promises, in bytes. It grows under the supply's lock alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Accepted(Arc<AtomicU64>);

impl Accepted {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn promise(&self, bytes: u64) -> Promise {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Promise { bytes, accepted: self.clone() }
    }
}

/// What room there is for something large.
struct Found {
    room: Room,
    /// It is enough, with the prepared files that the reserve does not need.
    enough: bool,
    /// Its file, and what of the reserve is not prepared.
    needed: u64,
}

impl Supply {
    /// Bytes that are promised to what was accepted.
    pub(super) fn accepted_bytes(&self) -> u64 {
        self.accepted.bytes()
    }

    /// Promises room to records of so many bytes, placed as one; `None` where the reserve has it.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfSpace`] if there is not so much beside the reserve; [`Error::Io`].
    pub(crate) fn promise_large(&self, core: &Core, bytes: usize) -> Result<Option<Promise>> {
        let Some(file_bytes) = large_file_bytes(core, bytes) else { return Ok(None) };
        let mut state = self.lock();
        let mut found = find(core, &state, file_bytes)?;
        // A prepared file would be somebody else's soon.
        while found.enough && found.room.spare < found.needed {
            if self.remove_one(core, &mut state)?.is_none() {
                break;
            }
            found = find(core, &state, file_bytes)?;
        }
        if found.room.spare < found.needed {
            return Err(refusal(&state, &found));
        }
        Ok(Some(self.accepted.promise(file_bytes)))
    }

    /// Whether there is room for records of so many bytes, placed as one: now, promised to nobody.
    ///
    /// # Errors
    ///
    /// As [`Self::promise_large`].
    pub(crate) fn check_room(&self, core: &Core, bytes: usize) -> Result<()> {
        let Some(file_bytes) = large_file_bytes(core, bytes) else { return Ok(()) };
        let state = self.lock();
        let found = find(core, &state, file_bytes)?;
        if found.enough { Ok(()) } else { Err(refusal(&state, &found)) }
    }

    /// Does what takes room with that of a promise; keeps the promise where it fails. The caller has
    /// the supply's lock, so nobody comes in between.
    pub(super) fn with_promised<T>(
        &self,
        promise: &mut Option<Promise>,
        take: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let own = promise.take().map(|promise| promise.bytes);
        let taken = take();
        if taken.is_err() {
            *promise = own.map(|bytes| self.accepted.promise(bytes));
        }
        taken
    }
}

/// How large a file it takes to write records of so many bytes; `None` where the reserve has one.
fn large_file_bytes(core: &Core, bytes: usize) -> Option<u64> {
    if bytes <= core.config.buffer_bytes_max {
        return None;
    }
    let bytes = bytes as u64;
    // Heads, acks that ride along and a footer.
    let file_bytes = bytes + bytes / 8 + 2 * ACK_ROOM as u64;
    (file_bytes > core.config.segment_bytes_max).then_some(file_bytes)
}

fn find(core: &Core, state: &State, file_bytes: u64) -> Result<Found> {
    let segment_bytes = core.config.segment_bytes_max;
    let (ready, reserve) = (state.ready() as u64, space::reserve_files(core) as u64);
    let beyond = ready.saturating_sub(reserve).saturating_mul(segment_bytes);
    let missing = reserve.saturating_sub(ready).saturating_mul(segment_bytes);
    let room = Room::of(core, state)?;
    let needed = file_bytes.saturating_add(missing);
    Ok(Found { enough: room.spare.saturating_add(beyond) >= needed, room, needed })
}

fn refusal(state: &State, found: &Found) -> Error {
    Error::OutOfSpace { segment: state.taken.0 + 1, reason: found.room.reason() }
}
