//! Holding a queue still, while messages of the past are brought into it, or read from it.
//!
//! In: a queue. While it is held nothing is dealt from it and nothing leaves it; consumers stay, and
//! wait. Once messages came into it its cursors begin anew, at its floor.
//!
//! H1. Whoever holds a queue sees all its acks in the ledger: what consumers had went back, and no
//!     ack or transaction is on its way.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use fanlog_segment_format::Offset;

use super::{Dispatch, Leaving, Reader, source::Source};
use crate::{
    Ack, Error, Result, confirm,
    core::Core,
    queue::{Hold, Queue},
};

impl Dispatch {
    /// Whether anything may leave the queue.
    pub(super) fn goes_on(&mut self, queue: &Queue) -> bool {
        match queue.hold() {
            Hold::Free => {}
            Hold::Held => return false,
            Hold::Rewound => {
                // What had come back, or waited to be moved, is met again by the cursors.
                self.source = Source::default();
                self.leaving.forget();
                queue.set_hold(Hold::Free);
            }
        }
        true
    }

    /// All that anyone has goes back; says up to where anything was in somebody's hands.
    fn recall(&mut self, core: &Core, queue: &Arc<Queue>) -> Offset {
        let holders: Vec<_> = self.holders().cloned().collect();
        for holder in holders {
            let (held, inbox) = holder.hand().recall();
            holder.came_back(self, &held);
            if holder.is_for_one() && !held.is_empty() {
                // Its one message is not its any more; one that still waits for it stays.
                self.leave(&holder);
            }
            for ready in inbox {
                self.give_back(ready.claim());
            }
        }
        let leaving = self.leaving.get().map(Leaving::handed_out_end).unwrap_or_default();
        let end = self.source.handed_out_end().max(leaving);
        // Those from before the store was opened.
        let recovered = queue.recovered_mark();
        match Reader::of_all(queue).peek(core, queue) {
            Ok(oldest) if oldest.is_none_or(|oldest| oldest >= recovered) => end,
            // What can't be read may be one of them.
            _ => end.max(recovered),
        }
    }
}

/// Holds a queue still, and waits until its acks are durable. Returns up to where messages that are
/// not acked may have been handed out.
///
/// # Errors
///
/// [`Error::Timeout`] if they did not get there within `timeout`, or as for an
/// [`Ack`]; the queue is held all the same.
pub(crate) fn hold(core: &Arc<Core>, queue: &Arc<Queue>, timeout: Duration) -> Result<Offset> {
    let deadline = confirm::deadline_after(timeout);
    let mut end;
    loop {
        let mut guard = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        // A rewind before this one may not have been followed yet.
        guard.make().goes_on(queue);
        queue.set_hold(Hold::Held);
        end = guard.make().recall(core, queue);
        let committing = queue.is_committing(core.confirms.finished());
        drop(guard);
        core.hurry(true);
        let last = core.append.lock().last_placed();
        last.map_or(Ok(()), |last| core.wait_for(&core.confirms, last, Some(timeout)))?;
        if !committing {
            break;
        }
        // A transaction is between taking what it acks and its place in the log.
        if deadline.is_some_and(|deadline| confirm::instant_now() > deadline) {
            return Err(Error::Timeout);
        }
        std::thread::yield_now();
    }
    Ack::new(Arc::clone(core), core.dirty.last()).wait_timeout(timeout)?;
    Ok(end)
}

/// Lets a queue go on as it was.
pub(crate) fn release(queue: &Queue) {
    if queue.hold() == Hold::Held {
        queue.set_hold(Hold::Free);
    }
    queue.sleepers.wake_all();
}
