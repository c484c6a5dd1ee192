//! Delivery: deals a queue's messages to its consumers, round-robin, as far as their credit goes.
//!
//! Owns the cursor of each queue, what came back to it, and who gets what next. In: the visible
//! log, leases that the log granted. Out: messages in consumers' inboxes. No thread of its own: a
//! consumer that finds its inbox empty deals for everyone, the committer only wakes a sleeper.
//!
//! D1. A message is in one place: before the cursor's reach, returned, in one inbox, or in one
//!     consumer's hands.
//! D2. Nothing at or past the mark is handed out: the mark is in the log before.
//!     What came back by the end of a process is handed out only once its count is, too (`earlier`).
//! D3. What came back is dealt first, in the order of offsets: its original place.
//! D4. A message leaves its place under the lock of the next one. So who holds `dispatch`, all hands
//!     and the queue's dirty state sees each message once: ready, in a hand, or settled.

mod claim;
mod consumer;
mod delivery;
mod earlier;
mod hand;
mod options;
mod purge;
mod reader;
mod reserve;
mod sleepers;

use std::{collections::BTreeMap, sync::Arc};

use fanlog_segment_format::Offset;

pub(crate) use self::{
    claim::Claim,
    consumer::ConsumerShared,
    earlier::Earlier,
    purge::purge,
    reader::{Fields, Guard, Part, Reader, Ready},
    reserve::Reserved,
    sleepers::{Sleepers, Waiting},
};
pub use self::{
    consumer::{Consumer, Deliveries},
    delivery::{Delivery, DeliveryBatch, DeliveryRef, DeliveryTag, Payload},
    options::ConsumerOptions,
};
use crate::{Result, core::Core, queue::Queue};

/// Messages that a lease covers at the most.
const LEASE_MESSAGES: u64 = 1024;
/// Messages dealt while the dispatch lock is held once.
const DEAL_MAX: usize = 1024;

/// A queue's cursor, what came back to it, and its consumers.
#[derive(Debug, Default)]
pub(crate) struct Dispatch {
    reader: Option<Reader>,
    returned: BTreeMap<Offset, Claim>,
    consumers: Vec<Arc<ConsumerShared>>,
    /// Whose turn it is.
    turn: usize,
    /// The lease asked for and not granted yet.
    wanted: Option<Offset>,
    /// Where the last lease was asked for, and messages dealt since: how sparse the queue is.
    leased_at: Offset,
    dealt_since: u64,
}

impl Dispatch {
    pub(crate) fn consumers(&self) -> usize {
        self.consumers.len()
    }

    /// In consumers' inboxes and hands, and what came back: delivered, not acked.
    pub(crate) fn unacked(&self) -> u64 {
        self.consumers.iter().map(|consumer| consumer.outstanding() as u64).sum()
    }

    /// The tag of the consumer that has this message.
    pub(crate) fn holder_of(&self, offset: Offset) -> Option<String> {
        let holds = |consumer: &&Arc<ConsumerShared>| {
            consumer.hand().all().any(|ready| ready.offset == offset)
        };
        self.consumers.iter().find(holds).map(|consumer| consumer.tag.to_string())
    }

    /// Hands out nothing more. Returns one past the last unacked message that was in somebody's
    /// hands, as far as it is known here, and how often those that are there were handed out.
    pub(crate) fn stop(&mut self) -> (Offset, Vec<(Offset, u32)>) {
        let mut end = Offset(0);
        let mut counts = Vec::new();
        for consumer in &self.consumers {
            let mut hand = consumer.hand();
            for claim in hand.held() {
                end = end.max(claim.offset.next());
                counts.push(claim.handed_out());
            }
            let inbox = hand.stop();
            self.returned.extend(inbox.iter().map(|ready| (ready.offset, ready.claim())));
        }
        let flagged = self.returned.values().rev().find(|claim| claim.earlier.any());
        (flagged.map_or(end, |claim| end.max(claim.offset.next())), counts)
    }

    pub(crate) fn join(&mut self, consumer: Arc<ConsumerShared>) {
        self.consumers.push(consumer);
    }

    fn leave(&mut self, consumer: &Arc<ConsumerShared>) {
        self.consumers.retain(|other| !Arc::ptr_eq(other, consumer));
        if self.consumers.is_empty() {
            // The cursor stays: acks that are on their way are in no ledger yet.
            self.consumers = Vec::new();
            if let Some(reader) = &mut self.reader {
                reader.rest();
            }
        }
    }

    fn give_back(&mut self, claim: Claim) {
        self.returned.insert(claim.offset, claim);
    }
}

/// Deals what is ready to consumers with credit, and wakes those that sleep.
///
/// # Errors
///
/// If the log could not be read at the queue's cursor; nothing was dealt then.
pub(crate) fn deal(core: &Core, queue: &Arc<Queue>) -> Result<()> {
    let mut dispatch = queue.dispatch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dispatch = dispatch.make();
    let mut reader = match dispatch.reader.take() {
        Some(reader) => reader,
        None => Reader::new(queue),
    };
    let outcome = deal_from(core, queue, dispatch, &mut reader);
    dispatch.reader = Some(reader);
    outcome
}

fn deal_from(
    core: &Core,
    queue: &Arc<Queue>,
    dispatch: &mut Dispatch,
    reader: &mut Reader,
) -> Result<()> {
    let consumers = dispatch.consumers.clone();
    let mut hands: Vec<_> = consumers.iter().map(|consumer| consumer.hand()).collect();
    let mut credit: usize = hands.iter().map(|hand| hand.credit()).sum();
    credit = credit.min(DEAL_MAX);
    let mut fed = vec![false; hands.len()];
    let mut failed = None;
    while credit > 0 {
        let ready = match next(core, queue, dispatch, reader) {
            Ok(Some(ready)) => ready,
            Ok(None) => break,
            Err(error) => {
                failed = Some(error);
                break;
            }
        };
        // Someone has credit; at most one round finds them.
        while hands[dispatch.turn % hands.len()].credit() == 0 {
            dispatch.turn += 1;
        }
        let which = dispatch.turn % hands.len();
        hands[which].put(ready);
        fed[which] = true;
        dispatch.turn = which + 1;
        credit -= 1;
    }
    drop(hands);
    for (consumer, fed) in consumers.iter().zip(fed) {
        if fed {
            consumer.wake();
        }
    }
    failed.map_or(Ok(()), Err)
}

/// The next message to deal: what came back first, then the log, as far as the mark allows.
fn next(
    core: &Core,
    queue: &Arc<Queue>,
    dispatch: &mut Dispatch,
    reader: &mut Reader,
) -> Result<Option<Ready>> {
    if let Some((_, &claim)) = dispatch.returned.first_key_value() {
        let ready = claim.read(core)?;
        dispatch.returned.pop_first();
        return Ok(Some(ready));
    }
    let Some(offset) = reader.peek(core, queue)? else { return Ok(None) };
    let mark = queue.mark();
    if dispatch.wanted.is_some_and(|wanted| mark >= wanted) {
        dispatch.wanted = None;
    }
    let sparse = sparseness(dispatch, offset);
    let half = LEASE_MESSAGES / 2 * sparse;
    if offset.0 + half >= mark.0 && dispatch.wanted.is_none() {
        let wanted = Offset(offset.0.saturating_add(LEASE_MESSAGES * sparse));
        if wanted > mark {
            dispatch.wanted = Some(wanted);
            dispatch.leased_at = offset;
            dispatch.dealt_since = 0;
            queue.want_lease(&core.dirty, wanted);
            core.hurry(false);
        }
    }
    if offset >= mark {
        return Ok(None);
    }
    dispatch.dealt_since += 1;
    Ok(reader.take(queue))
}

/// Offsets of the log per message of this queue, as seen since the last lease.
fn sparseness(dispatch: &Dispatch, offset: Offset) -> u64 {
    if dispatch.dealt_since == 0 {
        return 1;
    }
    (offset.0.saturating_sub(dispatch.leased_at.0) / dispatch.dealt_since).clamp(1, 1 << 20)
}
