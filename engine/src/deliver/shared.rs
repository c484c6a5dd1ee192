//! What a consumer shares with its queue and its deliveries: what it has, and how that is settled.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use event_listener::{Event, EventListener};

use super::{
    Cancellation, Claim, ConsumerOptions, DeliveryTag, Dispatch, Ready, hand::Hand, overdue,
    waited::Moments,
};
use crate::{Ack, Error, Result, core::Core, lifetime, queue::Queue};

/// The part of a consumer that its queue and its deliveries share.
pub(crate) struct ConsumerShared {
    pub(crate) core: Arc<Core>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) tag: Box<str>,
    pub(super) priority: i32,
    pub(super) exclusive: bool,
    /// It is no consumer: once its one message is settled it goes.
    for_one: bool,
    hand: Mutex<Hand>,
    cancelled: OnceLock<Error>,
    asleep: AtomicBool,
    event: Event,
}

impl fmt::Debug for ConsumerShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("tag", &self.tag)
            .field("queue", &self.queue.name)
            .finish_non_exhaustive()
    }
}

impl ConsumerShared {
    pub(super) fn new(
        core: &Arc<Core>,
        queue: &Arc<Queue>,
        tag: String,
        options: &ConsumerOptions,
    ) -> Self {
        Self {
            core: Arc::clone(core),
            queue: Arc::clone(queue),
            tag: tag.into(),
            priority: options.priority,
            exclusive: options.exclusive,
            for_one: false,
            hand: Mutex::new(Hand::new(options.prefetch_limit() as usize, Moments::of(core))),
            cancelled: OnceLock::new(),
            asleep: AtomicBool::new(false),
            event: Event::new(),
        }
    }

    /// The same, to have one message and then go.
    pub(super) fn for_one(self) -> Self {
        Self { for_one: true, ..self }
    }

    /// Whether it is no consumer, and goes with its one message.
    pub(super) fn is_for_one(&self) -> bool {
        self.for_one
    }

    pub(super) fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dispatch(&self) -> MutexGuard<'_, crate::on_demand::OnDemand<Dispatch>> {
        self.queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Sleeping and waking.

    /// Hears of every wake-up from here on.
    pub(super) fn listen(&self) -> EventListener {
        self.event.listen()
    }

    /// Puts the consumer on the lists of those that sleep: it has to look once more (S1).
    pub(super) fn announce(self: &Arc<Self>) {
        self.asleep.store(true, Ordering::Release);
        self.queue.sleepers.add(self);
        self.core.waiting.add(&self.queue);
    }

    /// It is awake by itself; says whether it slept until now.
    pub(super) fn is_up(&self) -> bool {
        self.asleep.swap(false, Ordering::AcqRel)
    }

    /// Wakes the consumer if it sleeps; says whether it did.
    pub(super) fn wake(&self) -> bool {
        let slept = self.is_up();
        if slept {
            self.event.notify(usize::MAX);
        }
        slept
    }

    pub(super) fn wake_always(&self) {
        self.asleep.store(false, Ordering::Release);
        self.event.notify(usize::MAX);
    }

    // Settling.

    pub(super) fn unknown(&self, tag: DeliveryTag) -> Error {
        if self.hand().is_closed() {
            return self.cancelled.get().cloned().unwrap_or(Error::Closed);
        }
        Error::UnknownTag { consumer: self.tag.to_string(), tag: tag.0 }
    }

    pub(super) fn ack(&self, tag: DeliveryTag) -> Result<Ack> {
        let mut hand = self.hand();
        let Some(claim) = hand.settle(tag) else {
            drop(hand);
            return Err(self.unknown(tag));
        };
        Ok(self.acked(hand, &[claim]))
    }

    /// Tells the queue of what was taken from the hand, which is given back after that: at no
    /// moment is a message in neither (D4).
    fn acked(&self, hand: MutexGuard<'_, Hand>, settled: &[Claim]) -> Ack {
        if settled.is_empty() {
            return Ack::new(Arc::clone(&self.core), None);
        }
        let (commit, first) = self.queue.ack(&self.core.dirty, &self.core.log, settled);
        drop(hand);
        self.core.stats.acked(settled.len() as u64);
        if first {
            self.core.acks_wait();
        }
        self.settled();
        // It may have slept for want of credit.
        self.wake();
        Ack::new(Arc::clone(&self.core), Some(commit))
    }

    pub(super) fn ack_all(&self, tags: &[DeliveryTag]) -> Result<Ack> {
        let mut settled = Vec::with_capacity(tags.len());
        let mut hand = self.hand();
        settled.extend(tags.iter().filter_map(|&tag| hand.settle(tag)));
        if let (true, Some(&tag)) = (settled.is_empty(), tags.first()) {
            drop(hand);
            return Err(self.unknown(tag));
        }
        Ok(self.acked(hand, &settled))
    }

    pub(super) fn ack_to(&self, tag: DeliveryTag) -> Result<Ack> {
        let mut hand = self.hand();
        let Some(settled) = hand.settle_to(tag) else {
            drop(hand);
            return Err(self.unknown(tag));
        };
        Ok(self.acked(hand, &settled))
    }

    /// Gives one up: back to its original place, or away.
    pub(super) fn nack(&self, tag: DeliveryTag, requeue: bool) -> Result<()> {
        if !requeue {
            if !self.has_dead_letters() {
                return self.ack(tag).map(drop);
            }
            let gone = self.reject(|hand| hand.settle(tag).into_iter().collect());
            return if gone > 0 { Ok(()) } else { Err(self.unknown(tag)) };
        }
        let given = self.give_back(|hand| hand.settle(tag).into_iter().collect());
        if given > 0 { Ok(()) } else { Err(self.unknown(tag)) }
    }

    /// The same, of several; what was settled before is left out.
    pub(super) fn nack_all(&self, tags: &[DeliveryTag], requeue: bool) -> Result<()> {
        if !requeue {
            if !self.has_dead_letters() {
                return self.ack_all(tags).map(drop);
            }
            let settle =
                |hand: &mut Hand| tags.iter().filter_map(|&tag| hand.settle(tag)).collect();
            return match (self.reject(settle), tags.first()) {
                (0, Some(&tag)) => Err(self.unknown(tag)),
                _ => Ok(()),
            };
        }
        self.requeue_all(tags);
        Ok(())
    }

    pub(crate) fn requeue_all(&self, tags: &[DeliveryTag]) {
        self.give_back(|hand| tags.iter().filter_map(|&tag| hand.settle(tag)).collect());
    }

    /// The same, of all up to and with `tag`.
    pub(super) fn nack_to(&self, tag: DeliveryTag, requeue: bool) -> Result<()> {
        if !requeue && !self.has_dead_letters() {
            return self.ack_to(tag).map(drop);
        }
        let mut known = false;
        let settle = |hand: &mut Hand| {
            let settled = hand.settle_to(tag);
            known = settled.is_some();
            settled.unwrap_or_default()
        };
        if requeue {
            self.give_back(settle);
        } else {
            self.reject(settle);
        }
        if known { Ok(()) } else { Err(self.unknown(tag)) }
    }

    /// Puts all that was fetched and is not settled back; returns how many.
    pub(super) fn recover(&self) -> usize {
        self.give_back(Hand::settle_held)
    }

    fn has_dead_letters(&self) -> bool {
        self.queue.options().dead_letter_exchange.is_some()
    }

    /// Gives up messages that `settle` takes from the hand: they are dead-lettered. Returns how many.
    fn reject(&self, settle: impl FnOnce(&mut Hand) -> Vec<Claim>) -> usize {
        // Before they are taken from the hand: see D4.
        let mut dispatch = self.dispatch();
        let settled = settle(&mut self.hand());
        if !settled.is_empty() {
            dispatch.make().reject(&self.core, &self.queue, &settled);
        }
        drop(dispatch);
        // It may have slept for want of credit.
        self.wake();
        self.settled();
        settled.len()
    }

    /// Puts messages that `settle` takes from the hand back at their original places; returns how
    /// many.
    fn give_back(&self, settle: impl FnOnce(&mut Hand) -> Vec<Claim>) -> usize {
        // Before they are taken from the hand: see D4.
        let mut dispatch = self.dispatch();
        let settled = settle(&mut self.hand());
        self.came_back(dispatch.make(), &settled);
        drop(dispatch);
        self.settled();
        if !settled.is_empty() {
            self.queue.sleepers.wake_one();
            self.wake();
        }
        settled.len()
    }

    /// Puts back what was handed out. That it was is written with a batch to come: whoever had it
    /// survived it.
    pub(super) fn came_back(&self, dispatch: &mut Dispatch, settled: &[Claim]) {
        if settled.is_empty() {
            return;
        }
        for claim in settled {
            dispatch.give_back(claim.again());
        }
        let counts = settled.iter().map(Claim::handed_out);
        if self.queue.want_counts(&self.core.dirty, counts) {
            self.core.acks_wait();
        }
    }

    /// Something was settled. If nothing is left, and it is no consumer, it goes; and another may
    /// become the active consumer.
    pub(super) fn settled(&self) {
        let single = self.queue.options().single_active_consumer;
        if (!self.for_one && !single) || self.hand().outstanding() > 0 {
            return;
        }
        if self.for_one {
            self.dispatch().make().leave(self);
        }
        if single {
            self.queue.sleepers.wake_one();
        }
    }

    /// How long it holds its oldest message, or leaves those in its inbox alone without waiting for
    /// any, at the least.
    pub(super) fn held_for(&self, now: Duration) -> Option<Duration> {
        let waits = self.asleep.load(Ordering::Acquire);
        self.hand().look(now, waits)
    }

    /// The engine ends the subscription: whoever waits is told, and what it had goes back.
    pub(super) fn cancel(self: &Arc<Self>, why: Cancellation) {
        let error = self.cancellation(why);
        if self.cancelled.set(error).is_ok() {
            self.close();
            self.wake_always();
        }
    }

    /// Takes the consumer from its queue; all that it had goes back.
    pub(super) fn close(self: &Arc<Self>) {
        self.queue.sleepers.leave(self);
        self.core.waiting.leave(&self.queue);
        let mut guard = self.dispatch();
        let (held, inbox) = self.hand().close();
        let dispatch = guard.make();
        self.came_back(dispatch, &held);
        for ready in inbox {
            dispatch.give_back(ready.claim());
        }
        dispatch.leave(self);
        if dispatch.holders().next().is_none() {
            overdue::forget(&self.core, &self.queue);
        }
        drop(guard);
        self.queue.sleepers.wake_one();
        if !self.for_one {
            lifetime::consumer_left(&self.core, &self.queue);
        }
    }

    // Receiving.

    /// The next message, if it may be handed out. If its count has to be in the log before, that is
    /// asked for.
    pub(super) fn fetch(&self) -> Option<(DeliveryTag, Ready)> {
        let mut hand = self.hand();
        if self.may_fetch(&hand) {
            return hand.fetch();
        }
        let counts = hand.ask_counts();
        if !counts.is_empty() {
            self.queue.want_counts(&self.core.dirty, counts);
            self.core.hurry(false);
        }
        None
    }

    /// Whether the next message may be handed out: most need no count.
    pub(super) fn may_fetch(&self, hand: &Hand) -> bool {
        let to_count = hand.next_to_count();
        to_count.is_none_or(|(offset, count)| self.queue.is_counted(offset, count))
    }

    /// Why nothing more will come, if that is so.
    pub(super) fn ended(&self) -> Option<Error> {
        if let Some(error) = self.core.ended() {
            return Some(error);
        }
        if self.queue.is_gone() {
            return Some(self.cancellation(Cancellation::QueueDeleted));
        }
        self.cancelled.get().cloned()
    }

    fn cancellation(&self, why: Cancellation) -> Error {
        Error::Cancelled {
            consumer: self.tag.to_string(),
            queue: self.queue.name.to_string(),
            unacked: self.hand().held().count() as u64,
            why,
        }
    }
}
