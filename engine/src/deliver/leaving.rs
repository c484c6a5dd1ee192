//! Messages that leave their queue otherwise than by an ack: their time is over, the queue is too
//! long, they came back too often, or a consumer gave them up.
//!
//! In: messages that were the next to be dealt, or in a consumer's hands, under the dispatch lock. Out:
//! acks; or, if the queue has a dead-letter exchange, copies there (`dead_letter`).
//!
//! V1. What leaves is acked, or waits here to be moved, when the dispatch lock is given back. What
//!     waits is dealt to nobody, and is in the queue for all else: a crash brings it back.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
};

use fanlog_segment_format::Offset;

use super::{
    Claim, Dispatch, Reader, Ready,
    source::{Next, Source},
    waited::Since,
};
use crate::{
    Result,
    core::Core,
    dead_letter::{self, Reason},
    ledger::queue_ledger::Amount,
    on_demand::OnDemand,
    queue::Queue,
};

/// Messages moved as one, and their bytes unless a single one has more.
const MOVE_MAX: usize = 64;
const MOVE_BYTES_MAX: u64 = 256 << 10;
/// So many may wait to be moved: more are not taken from the queue.
const WAITING_MAX: usize = 1024;
/// Messages that the background drops of a queue at a time.
const TRIM_MAX: usize = 1024;

/// Messages that wait to be moved.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    waiting: VecDeque<(Claim, Reason)>,
    /// The queue came to its end, and is deleted when nothing waits any more.
    ends: bool,
}

impl Leaving {
    fn amount(&self) -> Amount {
        self.waiting.iter().fold(Amount::default(), |sum, (claim, _)| sum.plus(claim.amount()))
    }

    /// What waits.
    pub(super) fn claims(&self) -> impl Iterator<Item = Claim> {
        self.waiting.iter().map(|(claim, _)| *claim)
    }

    fn any(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether no more is to be taken from the queue.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// One past the last that was in somebody's hands.
    pub(super) fn handed_out_end(&self) -> Offset {
        let handed_out = self.waiting.iter().filter(|(claim, _)| claim.earlier.any());
        handed_out.map(|(claim, _)| claim.offset.next()).max().unwrap_or_default()
    }

    /// Takes note of what leaves, and lets it go as far as that can be now.
    pub(super) fn add(
        &mut self,
        core: &Core,
        queue: &Arc<Queue>,
        leaving: Vec<(Claim, Reason)>,
    ) -> Result<()> {
        if leaving.is_empty() {
            return Ok(());
        }
        if !queue.is_history() {
            for (_, reason) in &leaving {
                core.stats.left(*reason);
            }
        }
        if queue.options().dead_letter_exchange.is_some() {
            self.waiting.extend(leaving);
            return self.go_on(core, queue);
        }
        let claims: Vec<Claim> = leaving.into_iter().map(|(claim, _)| claim).collect();
        if queue.ack(&core.dirty, &core.log, &claims).1 {
            core.acks_wait();
        }
        Ok(())
    }

    /// Moves what waits, as far as there is room.
    ///
    /// # Errors
    ///
    /// A message could not be read: it, and all behind it, waits on.
    fn go_on(&mut self, core: &Core, queue: &Arc<Queue>) -> Result<()> {
        while !self.waiting.is_empty() {
            let mut bytes = 0;
            let fits = |(claim, _): &&(Claim, Reason)| {
                bytes += claim.amount().bytes;
                bytes <= MOVE_BYTES_MAX
            };
            let count = self.waiting.iter().take(MOVE_MAX).take_while(fits).count().max(1);
            let some: Vec<_> = self.waiting.iter().take(count).copied().collect();
            if !dead_letter::relocate(core, queue, &some)? {
                return Ok(());
            }
            self.waiting.drain(..count);
        }
        self.waiting = VecDeque::new();
        Ok(())
    }
}

/// What makes a message leave instead of being dealt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) ttl_us: Option<u64>,
    /// Its time begins when the message is published, not when it falls due.
    is_history: bool,
    delivery_limit: Option<u32>,
}

impl Limits {
    pub(super) fn of(queue: &Queue) -> Self {
        let options = queue.options();
        let ttl = options.message_ttl.map(|ttl| u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX));
        let is_history = queue.is_history();
        Self { ttl_us: ttl, is_history, delivery_limit: options.delivery_limit }
    }

    /// When a message's time is over, if ever.
    fn expiry_us(self, ready: &Ready) -> Option<u64> {
        let fields = &ready.fields;
        let from_us = if self.is_history { fields.time_us } else { fields.ready_us };
        let by_queue = self.ttl_us.map(|ttl| from_us.saturating_add(ttl));
        let own = fields.expiry_us;
        by_queue.into_iter().chain(own).min()
    }

    /// Why a message leaves, if it does. `waited`: whether a consumer waited for it when it became
    /// ready; then it does not expire.
    pub(super) fn verdict(
        self,
        core: &Core,
        ready: &Ready,
        waited: impl FnOnce() -> bool,
    ) -> Option<Reason> {
        let is_over =
            self.expiry_us(ready).is_some_and(|expiry_us| expiry_us <= core.clock.wall_us());
        if is_over && !waited() {
            return Some(Reason::Expired);
        }
        let limit = self.delivery_limit?;
        (ready.earlier.count() > limit).then_some(Reason::DeliveryLimit)
    }
}

impl Dispatch {
    /// Lets go what consumers gave up.
    pub(super) fn reject(&mut self, core: &Core, queue: &Arc<Queue>, claims: &[Claim]) {
        let leaving = claims.iter().map(|claim| (*claim, Reason::Rejected)).collect();
        // What can't be read now waits.
        drop(self.leaving.make().add(core, queue, leaving));
    }

    /// Drops from the head what is over the queue's limits of length. Says how many messages.
    pub(super) fn shorten(&mut self, core: &Core, queue: &Arc<Queue>) -> Result<usize> {
        let options = queue.options();
        if !options.drops_head() || self.leaving.get().is_some_and(Leaving::is_full) {
            return Ok(0);
        }
        let mut ready = self.ready(core, queue);
        let messages_max = options.messages_max.unwrap_or(u64::MAX);
        let bytes_max = options.bytes_max.unwrap_or(u64::MAX);
        let mut leaving = Vec::new();
        // Of the highest priority first: that is the head.
        let mut level = self.source.levels(queue);
        while leaving.len() < TRIM_MAX {
            // What is not due is not ready, as far as the cursor has met it.
            let messages = ready.messages.saturating_sub(self.source.delayed());
            if messages <= messages_max && ready.bytes <= bytes_max {
                break;
            }
            let Some(at) = level.checked_sub(1) else { break };
            let Some(head) = self.source.take_head(at, core, queue)? else {
                level = at;
                continue;
            };
            ready = ready.less(head.amount());
            leaving.push((head, Reason::MaxLength));
        }
        let count = leaving.len();
        if count > 0 {
            self.leaving.make().add(core, queue, leaving)?;
        }
        Ok(count)
    }

    /// What is confirmed, in nobody's hands, and not on its way out.
    pub(super) fn ready(&self, core: &Core, queue: &Queue) -> Amount {
        self.ready_of(queue, || {
            let ledger = core.ledger();
            ledger.depth(queue).plus(queue.ledger().acked)
        })
    }

    /// Likewise of all that the queue was `sent`.
    pub(crate) fn ready_of(&self, queue: &Queue, sent: impl FnOnce() -> Amount) -> Amount {
        let holders: Vec<_> = self.holders().cloned().collect();
        let hands: Vec<_> = holders.iter().map(|holder| holder.hand()).collect();
        let sent = sent();
        let held = hands.iter().flat_map(|hand| hand.all());
        let held = held.fold(Amount::default(), |sum, claim| sum.plus(claim.amount()));
        let waiting = self.leaving.get().map(Leaving::amount).unwrap_or_default();
        sent.less(queue.settled()).less(held).less(waiting)
    }

    /// Drops from the head what has expired, and deals what a consumer waits for although its time is
    /// over. Says how many messages were dropped, and when the next one expires.
    fn expire(&mut self, core: &Core, queue: &Arc<Queue>) -> Result<(usize, Option<u64>)> {
        let (before, next_us, waited) = self.drop_expired(core, queue)?;
        if !waited {
            return Ok((before, next_us));
        }
        self.deal(core, queue)?;
        // It may have kept others that nobody waits for.
        let (behind, next_us, _) = self.drop_expired(core, queue)?;
        Ok((before + behind, next_us))
    }

    /// Says how many messages that were, when the next one expires, and whether there is one that a
    /// consumer waits for although its time is over.
    fn drop_expired(
        &mut self,
        core: &Core,
        queue: &Arc<Queue>,
    ) -> Result<(usize, Option<u64>, bool)> {
        let limits = Limits::of(queue);
        let since = self.waited_since(queue);
        let mut leaving = Vec::new();
        let mut next_us: Option<u64> = None;
        let mut any_waited = false;
        for level in 0..self.source.levels(queue) {
            while leaving.len() < TRIM_MAX && !self.leaving.get().is_some_and(Leaving::is_full) {
                let Some((head, fresh)) = self.source.head(level, core, queue)? else { break };
                let mut waited = false;
                let verdict = limits.verdict(core, &head, || {
                    waited = fresh && since.is_some_and(|since| since.is_before(&head));
                    waited
                });
                let Some(reason) = verdict else {
                    any_waited |= waited;
                    next_us = next_us.into_iter().chain(limits.expiry_us(&head)).min();
                    break;
                };
                let Some(claim) = self.source.take_head(level, core, queue)? else { break };
                leaving.push((claim, reason));
            }
        }
        let count = leaving.len();
        if count > 0 {
            self.leaving.make().add(core, queue, leaving)?;
        }
        Ok((count, next_us, any_waited))
    }
}

impl Dispatch {
    /// Whether nothing waits to be moved, so that the queue can be deleted. If something does, and the
    /// queue `ends`, that is noted.
    pub(crate) fn may_end(&mut self, ends: bool) -> bool {
        let Some(leaving) = self.leaving.get_mut().filter(|leaving| leaving.any()) else {
            return true;
        };
        leaving.ends |= ends;
        false
    }

    /// Whether the queue waited for that, and it is so.
    pub(crate) fn has_ended(&self) -> bool {
        self.leaving.get().is_some_and(|leaving| leaving.ends && !leaving.any())
    }
}

/// Does to a queue what its limits ask for: drops from its head what is too old or too much, and
/// moves what waits for that. Says how many messages left, and when the next one expires, if that is
/// known.
///
/// # Errors
///
/// If the log could not be read.
pub(crate) fn trim(core: &Core, queue: &Arc<Queue>) -> Result<(usize, Option<u64>)> {
    let mut guard = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
    if queue.is_gone() {
        return Ok((0, None));
    }
    let dispatch = guard.make();
    if !dispatch.goes_on(queue) {
        return Ok((0, None));
    }
    let outdated = dispatch.drop_outdated(core, queue)?;
    if let Some(leaving) = dispatch.leaving.get_mut().filter(|leaving| leaving.any()) {
        leaving.go_on(core, queue)?;
        // Consumers may have waited for that.
        queue.sleepers.wake_one();
    }
    let (expired, next_us) = dispatch.expire(core, queue)?;
    let dropped = dispatch.shorten(core, queue)?;
    if dispatch.consumers() == 0 {
        dispatch.source.rest();
    }
    Ok((outdated + expired + dropped, next_us))
}

/// Whether the next of the queue's messages, or one that is not due, may expire although the queue has no
/// limits. What has expired is dropped.
///
/// # Errors
///
/// If the log could not be read.
pub(crate) fn has_times(core: &Core, queue: &Arc<Queue>) -> Result<bool> {
    let dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
    if dispatch.get().is_none() {
        // Nobody has taken any: nothing is made that stays.
        for mut reader in Reader::of_levels(queue) {
            let head = reader.peek(core, queue)?.and_then(|_| reader.show(core, queue));
            if reader.delayed() > 0 || head.is_some_and(|head| head.fields.expiry_us.is_some()) {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    drop(dispatch);
    let (left, next_us) = trim(core, queue)?;
    let dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
    let delayed = dispatch.get().map_or(0, Dispatch::delayed);
    Ok(left > 0 || next_us.is_some() || delayed > 0)
}

/// The next message to be dealt; what must not be dealt any more leaves. `since` tells since when
/// somebody has had credit.
///
/// # Errors
///
/// If the log could not be read.
pub(super) fn next_to_deal(
    core: &Core,
    queue: &Arc<Queue>,
    source: &mut Source,
    leaving: &mut OnDemand<Leaving>,
    limits: Limits,
    since: &dyn Fn() -> Option<Since>,
) -> Result<Next> {
    let mut gone = Vec::new();
    let found = loop {
        if leaving.get().is_some_and(Leaving::is_full) {
            break Ok(Next::Nothing);
        }
        match source.next(core, queue) {
            Ok(Next::Message(ready, fresh)) => {
                let waited = || fresh && since().is_some_and(|since| since.is_before(&ready));
                match limits.verdict(core, &ready, waited) {
                    Some(reason) => gone.push((ready.claim(), reason)),
                    None => break Ok(Next::Message(ready, fresh)),
                }
            }
            other => break other,
        }
        if gone.len() >= MOVE_MAX {
            leaving.make().add(core, queue, std::mem::take(&mut gone))?;
        }
    };
    if !gone.is_empty() {
        leaving.make().add(core, queue, gone)?;
    }
    found
}
