//! Dropping what is ready in a queue.
//!
//! In: a queue. Out: one record that says what was dropped. What consumers have, in their hands or
//! on the way to them, stays theirs, to be settled as ever: so each message is counted once, by its
//! ack or by the purge, in whatever order the two reach the log (D4). What has left for the dead-letter
//! exchange and waits to be moved there is kept likewise, and moved.

use std::sync::{Arc, PoisonError};

use super::Leaving;
use crate::{
    Ack, Error, Result,
    core::Core,
    ledger::{ack_set::AckBatch, queue_ledger::Amount},
    queue::Queue,
};

/// Drops every confirmed message of the queue that no consumer has. Returns how many, durably.
///
/// # Errors
///
/// That of the wait: the drop is in doubt then, or on its way.
pub(crate) fn purge(core: &Arc<Core>, queue: &Arc<Queue>) -> Result<u64> {
    let mut guard = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
    if queue.is_gone() {
        return Err(Error::NotFound { what: "queue", name: queue.name.to_string() });
    }
    let dispatch = guard.make();
    if !dispatch.goes_on(queue) {
        let what = format!("purge of queue {:?}", queue.name);
        return Err(Error::Refused { what, why: "it is being rewound".to_owned() });
    }
    let holders: Vec<_> = dispatch.holders().cloned().collect();
    let hands: Vec<_> = holders.iter().map(|holder| holder.hand()).collect();
    let ledger = core.ledger();
    let to = ledger.head.next_offset;
    let sent = ledger.depth(queue).plus(queue.ledger().acked);
    drop(ledger);
    let mut held = Amount::default();
    let mut kept = AckBatch::default();
    let leaving = dispatch.leaving.get().into_iter().flat_map(Leaving::claims);
    for claim in hands.iter().flat_map(|hand| hand.all()).chain(leaving) {
        kept.insert(claim.offset.0, claim.offset.0 + 1);
        held = held.plus(claim.amount());
    }
    let (sent, confirmed) = (sent.less(held), core.confirms.finished());
    let purged = queue.purge(&core.dirty, to, sent, kept, confirmed);
    let Some((dropped, commit, first)) = purged else { return Ok(0) };
    dispatch.source.skip_to(queue, to);
    drop(hands);
    drop(guard);
    core.stats.purged(dropped.messages);
    if first {
        core.acks_wait();
    }
    Ack::new(Arc::clone(core), Some(commit)).wait()?;
    Ok(dropped.messages)
}
