//! Delivery: deals a queue's messages to its consumers, round-robin, as far as their credit goes.
//!
//! Owns the cursor of each queue, what came back to it, and who gets what next. In: the visible
//! log, leases that the log granted. Out: messages in consumers' inboxes. No thread of its own: a
//! consumer that finds its inbox empty deals for everyone, the committer only wakes a sleeper.
//!
//! D1. A message is in one place: before the cursor's reach, returned, in one inbox, in one
//!     consumer's hands, or waiting to leave the queue.
//! D2. Nothing at or past the mark is handed out: the mark is in the log before.
//!     What came back by the end of a process is handed out only once its count is, too (`earlier`).
//! D3. What came back is dealt first, in the order of offsets: its original place.
//! D4. A message leaves its place under the lock of the next one. So who holds `dispatch`, all hands
//!     and the queue's dirty state sees each message once: ready, in a hand, or settled.

mod alarms;
mod cancel;
mod claim;
mod consumer;
mod delayed;
mod delivery;
mod earlier;
mod get;
mod hand;
mod hold;
mod leaving;
mod level;
mod options;
mod outdated;
pub(crate) mod overdue;
mod purge;
mod reader;
mod reserve;
mod roster;
mod shared;
mod sleepers;
mod source;
mod waited;

use std::sync::{Arc, PoisonError};

use fanlog_segment_format::Offset;

pub(crate) use self::{
    alarms::Alarms,
    claim::Claim,
    earlier::Earlier,
    get::{get, peek},
    hold::{hold, release},
    leaving::{has_times, trim},
    level::Level,
    purge::purge,
    reader::{Fields, Guard, Part, Reader, Ready},
    reserve::Reserved,
    shared::ConsumerShared,
    sleepers::{Sleepers, Waiting},
};
pub use self::{
    cancel::Cancellation,
    consumer::{Consumer, Deliveries},
    delivery::{Delivery, DeliveryBatch, DeliveryRef, DeliveryTag, Payload},
    options::ConsumerOptions,
};
use self::{
    leaving::{Leaving, Limits, next_to_deal},
    roster::Roster,
    source::{Next, Source},
    waited::Since,
};
use crate::{Result, core::Core, ledger::queue_ledger::Amount, on_demand::OnDemand, queue::Queue};

/// Messages dealt while the dispatch lock is held once.
const DEAL_MAX: usize = 1024;

/// What a queue hands out next, and to whom.
#[derive(Debug, Default)]
pub(crate) struct Dispatch {
    source: Source,
    /// Given up when the last consumer goes.
    roster: OnDemand<Roster>,
    /// Who has a message without being a consumer.
    getters: OnDemand<Vec<Arc<ConsumerShared>>>,
    leaving: OnDemand<Leaving>,
}

impl Dispatch {
    pub(crate) fn consumers(&self) -> usize {
        self.roster.get().map_or(0, Roster::len)
    }

    /// The tag of the one consumer that is dealt to, where the others wait for it to go.
    pub(crate) fn active(&self) -> Option<String> {
        self.roster.get()?.active().map(|consumer| consumer.tag.to_string())
    }

    /// Whoever may have messages.
    fn holders(&self) -> impl Iterator<Item = &Arc<ConsumerShared>> {
        let consumers = self.roster.get().into_iter().flat_map(Roster::iter);
        consumers.chain(self.getters.get().into_iter().flatten())
    }

    /// In somebody's inbox or hands: delivered, not acked.
    pub(crate) fn unacked(&self) -> Amount {
        let amounts = self.holders().map(|holder| holder.hand().amount());
        amounts.fold(Amount::default(), Amount::plus)
    }

    /// Messages that the cursor has passed because they are not due.
    pub(crate) fn delayed(&self) -> u64 {
        self.source.delayed()
    }

    /// The tag of the consumer that has this message.
    pub(crate) fn holder_of(&self, offset: Offset) -> Option<String> {
        let holds = |consumer: &&Arc<ConsumerShared>| {
            consumer.hand().all().any(|claim| claim.offset == offset)
        };
        self.holders().find(holds).map(|consumer| consumer.tag.to_string())
    }

    /// Hands out nothing more. Returns one past the last unacked message that was in somebody's
    /// hands, as far as it is known here, and how often those that are there were handed out.
    pub(crate) fn stop(&mut self) -> (Offset, Vec<(Offset, u32)>) {
        let mut end = Offset(0);
        let mut counts = Vec::new();
        let mut unseen = Vec::new();
        for consumer in self.holders() {
            let mut hand = consumer.hand();
            for claim in hand.held() {
                end = end.max(claim.offset.next());
                counts.push(claim.handed_out());
            }
            unseen.extend(hand.stop());
        }
        for ready in unseen {
            self.give_back(ready.claim());
        }
        // They are kept here and keep the queue: what they have is settled no more.
        self.getters.forget();
        let leaving = self.leaving.get().map(Leaving::handed_out_end).unwrap_or_default();
        (end.max(self.source.handed_out_end()).max(leaving), counts)
    }

    fn leave(&mut self, consumer: &ConsumerShared) {
        if let Some(getters) = self.getters.get_mut() {
            getters.retain(|getter| !std::ptr::eq(Arc::as_ptr(getter), consumer));
            if getters.is_empty() {
                self.getters.forget();
            }
        }
        if let Some(roster) = self.roster.get_mut() {
            roster.leave(consumer);
        }
        if self.consumers() == 0 {
            // There may be very many queues that nobody consumes from now.
            self.roster.forget();
            self.source.rest();
        }
    }

    fn give_back(&mut self, claim: Claim) {
        self.source.give_back(claim);
    }

    /// Since when some consumer has had credit, if one has.
    fn waited_since(&self, queue: &Queue) -> Option<Since> {
        self.roster.get()?.waited_since(queue.options().single_active_consumer)
    }

    fn deal(&mut self, core: &Core, queue: &Arc<Queue>) -> Result<()> {
        let Self { source, roster, leaving, .. } = self;
        let Some(roster) = roster.get_mut() else { return Ok(()) };
        let limits = Limits::of(queue);
        let single = queue.options().single_active_consumer;
        let dealt = roster.deal(single, DEAL_MAX, |since| {
            match next_to_deal(core, queue, source, leaving, limits, since)? {
                Next::Message(ready, _) => Ok(Some(ready)),
                Next::Waits | Next::Nothing => Ok(None),
            }
        });
        source.tell_of_old(core, queue);
        dealt
    }
}

/// Deals what is ready to consumers with credit, and wakes those that sleep.
///
/// # Errors
///
/// If the log could not be read at the queue's cursor; nothing more is dealt then.
pub(crate) fn deal(core: &Core, queue: &Arc<Queue>) -> Result<()> {
    let mut dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
    let dispatch = dispatch.make();
    if !dispatch.goes_on(queue) {
        return Ok(());
    }
    dispatch.shorten(core, queue)?;
    dispatch.deal(core, queue)
}
