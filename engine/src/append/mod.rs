//! Where publishers' messages meet: a short lock, a place in the open batch, a copy.
//!
//! Owns the order of the log: offsets and batch numbers are given here and nowhere else. In:
//! messages with their route, control records of topology changes. Out: sealed batches, taken by
//! `commit`.
//!
//! P1. Records stand in a batch in the order of their offsets; batches leave in their order.
//! P2. Control records that change who is a member of what stand before every message of their
//!     batch; so a batch has one topology.
//! P3. A message is placed only under the topology version that routed it.

pub(crate) mod arena;
mod state;

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use event_listener::Event;
use fanlog_segment_format::{BatchNumber, Offset};

use self::arena::ArenaPool;
pub(crate) use self::state::{Appender, Extras, SEQUENCE_BYTES, Taken};
use crate::{Error, Result, config::WhenFull};

/// Arenas are this large: one huge page, so that filling them misses fewer translations.
pub(crate) const ARENA_BYTES: usize = 2 << 20;
/// Kept free at the end of every batch for the acks that ride along.
pub(crate) const ACK_ROOM: usize = 64 << 10;
/// A second batch is written beside the first only once this much has gathered.
pub(crate) const GATE_BYTES: usize = 256 << 10;
/// A batch is not begun in a rest of an arena that is smaller than this.
const BATCH_ROOM_MIN: usize = 2 * ACK_ROOM;
/// Payloads from this size on are copied outside the lock.
pub(crate) const COPY_OUTSIDE_MIN: usize = 4 << 10;

/// The append lock, what it guards, and who sleeps on it.
#[derive(Debug)]
pub(crate) struct Append {
    state: Mutex<Appender>,
    /// Committers sleep here.
    pub(crate) work: Condvar,
    /// Publishers sleep here until there is room.
    space: Condvar,
    /// Whoever closes the engine sleeps here until no publisher commits by itself.
    led: Condvar,
    pub(crate) space_event: Event,
    pool: Arc<ArenaPool>,
    unconfirmed_max: usize,
    when_full: WhenFull,
}

/// What a message needs, known before the lock is taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// Bytes of all records, padded.
    pub(crate) bytes: usize,
    pub(crate) messages: u32,
}

impl Append {
    pub(crate) fn new(
        pool: Arc<ArenaPool>,
        unconfirmed_max: usize,
        when_full: WhenFull,
        number: BatchNumber,
        next_offset: Offset,
    ) -> Self {
        Self {
            state: Mutex::new(Appender::new(number, next_offset)),
            work: Condvar::new(),
            space: Condvar::new(),
            led: Condvar::new(),
            space_event: Event::new(),
            pool,
            unconfirmed_max,
            when_full,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Appender> {
        // Nothing under this lock panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pool(&self) -> &Arc<ArenaPool> {
        &self.pool
    }

    /// Waits, under the lock, until there is room for `need`, or says why there won't be. With `promised`
    /// room on the disk it does not wait for others to have theirs ([`Error::OutOfSpace`]).
    pub(crate) fn wait_for_room<'a>(
        &'a self,
        mut state: MutexGuard<'a, Appender>,
        need: Need,
        promised: bool,
    ) -> Result<MutexGuard<'a, Appender>> {
        loop {
            if let Some(end) = &state.end {
                return Err(end.clone());
            }
            if state.has_room(need, self.unconfirmed_max) {
                return Ok(state);
            }
            // What takes the room has to be on its way out: nobody may have been woken for it.
            self.wake_committer(&mut state);
            if self.when_full == WhenFull::Fail || (promised && state.out_of_space.is_some()) {
                return Err(state.full(self.unconfirmed_max));
            }
            state.blocked += 1;
            state = self.space.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.blocked -= 1;
        }
    }

    /// Wakes a committer for what waits, if one sleeps that could take it.
    pub(crate) fn wake_committer(&self, state: &mut Appender) {
        if state.should_wake() {
            self.work.notify_one();
        }
    }

    /// Whether there is room for `need` now.
    pub(crate) fn has_room(&self, state: &Appender, need: Need) -> bool {
        state.has_room(need, self.unconfirmed_max)
    }

    /// The error of a publisher that does not wait.
    pub(crate) fn full(&self, state: &Appender) -> Error {
        state.full(self.unconfirmed_max)
    }

    pub(crate) fn waits_when_full(&self) -> bool {
        self.when_full == WhenFull::Block
    }

    /// Wakes publishers that wait for room.
    pub(crate) fn wake_publishers(&self, state: &Appender) {
        if state.blocked > 0 {
            self.space.notify_all();
        }
        self.space_event.notify(usize::MAX);
    }

    /// Asks for a commit that no message asks for: at once, or, where space is scarce and it has to
    /// be synced, at `later`, so that one write does for all who ask until then.
    pub(crate) fn hurry(&self, sync: bool, later: Option<Duration>) {
        let mut state = self.lock();
        state.urgent_sync |= sync;
        if let Some(later) = later.filter(|_| sync && state.out_of_space.is_some()) {
            if state.acks_due.is_none_or(|due| later < due) {
                state.acks_due = Some(later);
                self.work.notify_all();
            }
            return;
        }
        state.urgent = true;
        let wake = state.should_wake();
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    /// Takes note that acks wait to be written, at the latest at `due`.
    pub(crate) fn acks_wait(&self, due: Duration) {
        let mut state = self.lock();
        if state.acks_due.is_none_or(|before| due < before) {
            state.acks_due = Some(due);
            if state.keeper_sleeps_until > due {
                // Sleepers measure their sleep anew.
                self.work.notify_all();
            }
        }
    }

    /// A publisher that committed by itself is done with it.
    pub(crate) fn leader_done(&self, state: &mut Appender) {
        state.leading = false;
        self.led.notify_all();
    }

    /// Waits until no publisher commits by itself. After `end` none begins to.
    pub(crate) fn wait_for_leader(&self) {
        let mut state = self.lock();
        while state.leading {
            state = self.led.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends appending: every publisher that waits, or comes, gets `reason`.
    pub(crate) fn end(&self, reason: &Error) {
        let mut state = self.lock();
        state.end.get_or_insert_with(|| reason.clone());
        self.wake_publishers(&state);
        self.work.notify_all();
    }
}
