//! Want of space in the middle of the log: a batch that found none is written again.
//!
//! Blocks are reserved before a segment is begun, so this takes a file system that copies on write,
//! a quota, or a limit on the size of files. The batches concerned were taken, have their numbers
//! and offsets, and people wait for them: none of that changes. They go, in their order, behind the
//! last confirmed batch: to a new segment, whose header says by `first_batch` that the one before
//! ended there. What is left of them in the old segment is void from then on, even if it is whole.
//! Where the first batch of a segment found no space, another segment would be no better: it is
//! tried again in its place after a while.
//!
//! N1. Nothing goes out while a batch in flight is known to have found no space, and nothing is
//!     written again before every write that was under way has ended.
//! N2. Want of space is told by the write alone. A sync that fails, for whatever reason, ends the
//!     engine: what it was for includes bytes that may be gone.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use fanlog_segment_format::{
    SegmentId,
    layout::{BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES},
};

use super::{FooterLoad, Held, InFlight, Pipeline, Write};
use crate::{
    Error,
    append::{Extras, Taken, arena::ArenaPool},
    config::WhenFull,
    core::Core,
    error::FileOp,
    storage::StorageFile,
};

/// The file of the next segment, under its name, its header perhaps written.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) id: SegmentId,
    pub(super) file: Arc<dyn StorageFile>,
}

/// Nothing can be written for now, and those who wait were told.
#[derive(Debug)]
pub(super) struct Stuck {
    /// When it is tried again.
    pub(super) retry_at: Duration,
    /// Not before: the write was tried. (Whether there is a file can be seen at any time.)
    in_place: bool,
}

impl Pipeline {
    /// Whether begun batches have to be waited for, or space, before any is written (N1).
    pub(super) fn waits_to_write_again(&self, now: Duration) -> bool {
        let failed = self.in_flight.iter().any(|batch| batch.write == Write::NoSpace);
        failed || self.stuck.as_ref().is_some_and(|stuck| stuck.in_place && now < stuck.retry_at)
    }

    /// Takes back what found no space, and all behind it, to be written again.
    ///
    /// Nothing happens while a write is under way: this is called again when it has ended.
    pub(super) fn take_back(&mut self, core: &Core, now: Duration) {
        let Some(first) = self.in_flight.front() else { return };
        let over = self.in_flight.iter().all(|batch| batch.write != Write::UnderWay);
        if first.write != Write::NoSpace || !over {
            return;
        }
        self.previous = first.previous;
        self.position = first.batch.index.position;
        self.load = FooterLoad::of(&self.active);
        core.stats.written_again(self.in_flight.len() as u64);
        while let Some(batch) = self.in_flight.pop_back() {
            self.held.push_front(batch.taken_back(core.append.pool()));
        }
        let mut state = core.append.lock();
        state.held = self.held.len();
        state.stalled = false;
        drop(state);
        if self.position == SEGMENT_HEADER_BYTES as u64 {
            let error = self.no_space.take();
            self.stall(core, self.active.id(), error, now);
            self.stuck.iter_mut().for_each(|stuck| stuck.in_place = true);
        } else {
            self.leave = true;
        }
    }

    /// Nothing can be written for want of space: publishers wait, or are told, as are those who wait
    /// for what is on its way. It is tried again soon.
    pub(super) fn stall(
        &mut self,
        core: &Core,
        segment: SegmentId,
        error: Option<Error>,
        now: Duration,
    ) {
        let retry_at = now + core.config.ack_delay_max;
        self.stuck = Some(Stuck { retry_at, in_place: false });
        let full = match error {
            Some(full @ Error::OutOfSpace { .. }) => full,
            other => {
                let reason = other.map_or_else(|| "no space".to_owned(), |error| error.to_string());
                Error::OutOfSpace { segment: segment.0, reason }
            }
        };
        let mut state = core.append.lock();
        state.stalled = true;
        if state.set_idle_due(Some(retry_at)) {
            // Whoever keeps the time measures its sleep anew.
            core.append.work.notify_all();
        }
        state.out_of_space = Some(full.clone());
        core.append.wake_publishers(&state);
        drop(state);
        // It makes room of what is retired.
        core.wake_keeper();
        if core.config.when_full == WhenFull::Fail {
            core.confirms.stall(Some(full.clone()));
            core.acks_durable.stall(Some(full));
        }
    }

    /// The log goes on in a file of the reserve: publishers wait, or are told, until it is whole again.
    pub(super) fn scarce(core: &Core, segment: SegmentId, reason: String) {
        let mut state = core.append.lock();
        state.out_of_space = Some(Error::OutOfSpace { segment: segment.0, reason });
        core.append.wake_publishers(&state);
    }

    /// Something was written: the log goes on.
    pub(super) fn unstall(&mut self, core: &Core) {
        if self.stuck.take().is_none() {
            return;
        }
        core.confirms.stall(None);
        core.acks_durable.stall(None);
        // It looks whether publishers may go on.
        core.wake_keeper();
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.is_some()
    }
}

impl InFlight {
    /// The batch as it was before it was written: header and mark are made anew.
    fn taken_back(self, pool: &Arc<ArenaPool>) -> Held {
        let index = &self.batch.index;
        // A copy: readers of what was frozen may never see it change.
        let mut region = pool.take(self.batch.bytes.len());
        region.extend(BATCH_HEADER_BYTES);
        let records = BATCH_HEADER_BYTES..self.filled;
        region.extend(records.len()).copy_from_slice(&self.batch.bytes[records]);
        let taken = Taken {
            number: index.number,
            first_offset: index.first_offset,
            messages: index.messages(),
            calls: self.calls,
            region,
            placed: self.placed,
            sync: self.sync,
            control_bytes: self.control_bytes,
            extras: Extras::of(index),
            promise: self.promise,
        };
        Held { taken, acks: self.acks, sync: self.sync }
    }
}

/// Whether the write of a batch or header found no room (N2).
pub(super) fn found_no_space(error: &Error) -> bool {
    matches!(error, Error::Io { op: FileOp::Write, source, .. } if says_full(source.kind()))
}

/// Whether an error says that there is no room, rather than that the disk is failing.
pub(crate) fn is_out_of_space(error: &Error) -> bool {
    match error {
        Error::OutOfSpace { .. } => true,
        // Names that may be there or not are in the way of another attempt.
        Error::Io { op: FileOp::SyncDirectory, .. } => false,
        Error::Io { source, .. } => says_full(source.kind()),
        _ => false,
    }
}

/// A write that comes to a halt before its end is of the same kind: the next one says why.
fn says_full(kind: ErrorKind) -> bool {
    use ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull, WriteZero};
    matches!(kind, StorageFull | QuotaExceeded | FileTooLarge | WriteZero)
}
