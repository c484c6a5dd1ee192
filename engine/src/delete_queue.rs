//! Deleting a queue on condition that nobody needs it.
//!
//! D1. Whether it is empty is found out while no publisher can place a message, and when all that was
//!     placed is counted: a message is in the queue before that, and then it stays, or finds it gone.

use std::{sync::PoisonError, time::Duration};

use crate::{Change, Error, Result, core::Core, inspect, queue::Queue};

/// How long publishers are held up at most for what they have placed to be confirmed.
const HOLD_MAX: Duration = Duration::from_secs(5);

/// What has to be so for a queue to be deleted, for
/// [`Engine::delete_queue_with`](crate::Engine::delete_queue_with).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteQueue {
    /// It has no consumer.
    pub if_unused: bool,
    /// No message in it is ready; what consumers have is not looked at.
    pub if_empty: bool,
}

/// Deletes a queue if that is so.
pub(crate) fn delete_queue(core: &Core, name: &str, conditions: DeleteQueue) -> Result<()> {
    core.check_writable()?;
    let mut tables = core.tables.write().unwrap_or_else(PoisonError::into_inner);
    let id = tables.queue(name)?;
    let delete = Change::DeleteQueue { name };
    tables.check_shared(&delete)?;
    if conditions.if_empty {
        core.hold_publishers(&mut tables, HOLD_MAX)?;
    }
    // One whose declaration is still on its way has no consumer.
    let queue = core.ledger().queue(id);
    if let Some(queue) = &queue {
        check(core, queue, conditions)?;
    }
    let number = core.place_changes(&mut tables, &[delete])?;
    drop(tables);
    let Some(number) = number else { return Ok(()) };
    core.wait_for(&core.confirms, number, None)
}

fn check(core: &Core, queue: &Queue, conditions: DeleteQueue) -> Result<()> {
    let used = |by| Error::StillUsed { what: "queue", name: queue.name.to_string(), by };
    if conditions.if_empty && inspect::queue_view(core, queue).ready > 0 {
        return Err(used("messages"));
    }
    if conditions.if_unused {
        let dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        if dispatch.get().is_some_and(|dispatch| dispatch.consumers() > 0) {
            return Err(used("consumers"));
        }
        // From here on nobody joins it.
        queue.set_gone();
    }
    Ok(())
}
