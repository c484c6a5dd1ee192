//! One consumer: its inbox, what it holds, and how it waits.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use event_listener::{Event, Listener};

use super::{
    Claim, ConsumerOptions, Delivery, DeliveryBatch, DeliveryTag, Dispatch, Ready, deal, hand::Hand,
};
use crate::{
    Ack, Error, Result,
    confirm::{deadline_after, instant_now},
    core::Core,
    queue::Queue,
};

/// The part of a consumer that its queue and its deliveries share.
pub(crate) struct ConsumerShared {
    pub(crate) core: Arc<Core>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) tag: Box<str>,
    hand: Mutex<Hand>,
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
    pub(super) fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn outstanding(&self) -> usize {
        self.hand().outstanding()
    }

    /// Wakes the consumer if it sleeps; says whether it did.
    pub(super) fn wake(&self) -> bool {
        let slept = self.asleep.swap(false, Ordering::AcqRel);
        if slept {
            self.event.notify(usize::MAX);
        }
        slept
    }

    pub(super) fn wake_always(&self) {
        self.asleep.store(false, Ordering::Release);
        self.event.notify(usize::MAX);
    }

    pub(super) fn unknown(&self, tag: DeliveryTag) -> Error {
        if self.hand().is_closed() {
            return Error::Closed;
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

    pub(super) fn requeue(&self, tag: DeliveryTag) -> Result<()> {
        if self.give_back(&[tag]) { Ok(()) } else { Err(self.unknown(tag)) }
    }

    pub(crate) fn requeue_all(&self, tags: &[DeliveryTag]) {
        self.give_back(tags);
    }

    /// Puts messages that are in this consumer's hands back at their original place; says whether
    /// there were any.
    fn give_back(&self, tags: &[DeliveryTag]) -> bool {
        // Before they are taken from the hand: see D4.
        let mut dispatch = self.queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hand = self.hand();
        let settled: Vec<Claim> = tags.iter().filter_map(|&tag| hand.settle(tag)).collect();
        drop(hand);
        let any = !settled.is_empty();
        self.came_back(dispatch.make(), &settled);
        drop(dispatch);
        if any {
            self.queue.sleepers.wake_one();
            self.wake();
        }
        any
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

    /// Takes the consumer from its queue; all that it had goes back.
    fn close(self: &Arc<Self>) {
        self.queue.sleepers.leave(self);
        self.core.waiting.leave(&self.queue);
        let mut guard = self.queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        let (held, inbox) = self.hand().close();
        let dispatch = guard.make();
        self.came_back(dispatch, &held);
        for ready in inbox {
            dispatch.give_back(ready.claim());
        }
        dispatch.leave(self);
        drop(guard);
        self.queue.sleepers.wake_one();
    }

    /// The next message, if it may be handed out. If its count has to be in the log before, that is
    /// asked for, and with it those of up to `ahead` messages in all.
    fn fetch(&self, ahead: usize) -> Option<(DeliveryTag, Ready)> {
        let mut hand = self.hand();
        if !self.may_fetch(&mut hand, ahead) {
            return None;
        }
        hand.fetch()
    }

    /// Whether the next message may be handed out in one batch with others.
    fn may_join(&self, hand: &Hand) -> bool {
        !hand.next_is_suspect()
            && hand
                .next_to_count()
                .is_none_or(|(offset, count)| self.queue.is_counted(offset, count))
    }

    fn may_fetch(&self, hand: &mut Hand, ahead: usize) -> bool {
        let Some((offset, count)) = hand.next_to_count() else { return true };
        if self.queue.is_counted(offset, count) {
            return true;
        }
        let counts = hand.ask_counts(ahead);
        if !counts.is_empty() {
            self.queue.want_counts(&self.core.dirty, counts);
            self.core.hurry(false);
        }
        false
    }

    /// Why nothing more will come, if that is so.
    fn ended(&self) -> Option<Error> {
        if let Some(error) = self.core.ended() {
            return Some(error);
        }
        if self.queue.is_gone() {
            let name = self.queue.name.to_string();
            return Some(Error::NotFound { what: "queue", name });
        }
        None
    }
}

/// A future that waits for a message. Dropped before it goes on, it leaves the list of sleepers,
/// and passes on a wake-up that it may have been given.
struct Sleeping<'a>(&'a Arc<ConsumerShared>);

impl Drop for Sleeping<'_> {
    fn drop(&mut self) {
        let consumer = self.0;
        consumer.queue.sleepers.remove(consumer);
        if !consumer.asleep.swap(false, Ordering::AcqRel) {
            consumer.queue.sleepers.wake_one();
        }
    }
}

/// A subscription to one queue. Consumers of a queue share its messages, round-robin, each as far
/// as its prefetch allows.
///
/// Dropping it gives all that it holds back to the queue, at the original places.
///
/// # Example
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let engine = fanlog::Engine::open(dir.path(), fanlog::Config::default())?;
/// engine.declare_queue("jobs")?;
/// engine.publisher().publish_confirmed(&fanlog::Message::new("", "jobs", b"one"))?;
/// let consumer = engine.consume("jobs", fanlog::ConsumerOptions::default())?;
/// let delivery = consumer.recv()?;
/// assert_eq!(delivery.payload(), b"one");
/// delivery.ack()?.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<ConsumerShared>,
}

impl Consumer {
    pub(crate) fn new(core: Arc<Core>, queue: Arc<Queue>, options: &ConsumerOptions) -> Self {
        let tag = if options.tag.is_empty() {
            format!("consumer-{}", core.stats.next_consumer())
        } else {
            options.tag.clone()
        };
        let hand = Hand::new(options.prefetch_limit() as usize);
        let shared = Arc::new(ConsumerShared {
            core,
            queue,
            tag: tag.into(),
            hand: Mutex::new(hand),
            asleep: AtomicBool::new(false),
            event: Event::new(),
        });
        let mut dispatch = shared.queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        dispatch.make().join(Arc::clone(&shared));
        drop(dispatch);
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<ConsumerShared> {
        &self.shared
    }

    /// Its tag: the one given, or the one made up.
    pub fn tag(&self) -> &str {
        &self.shared.tag
    }

    /// The next message, if one is ready.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Poisoned`], [`Error::NotFound`] once the queue was deleted,
    /// [`Error::Io`] or [`Error::Corrupt`] if the log can't be read at the queue's place.
    pub fn try_recv(&self) -> Result<Option<Delivery>> {
        self.try_recv_of(1)
    }

    /// Receives a message, as the first of up to `ahead`.
    fn try_recv_of(&self, ahead: usize) -> Result<Option<Delivery>> {
        let shared = &self.shared;
        if let Some((tag, ready)) = shared.fetch(ahead) {
            return Ok(Some(self.delivery(tag, ready)));
        }
        if let Some(error) = shared.ended() {
            return Err(error);
        }
        let dealt = deal(&shared.core, &shared.queue);
        // What was dealt before the log could not be read any further comes first.
        match shared.fetch(ahead) {
            Some((tag, ready)) => Ok(Some(self.delivery(tag, ready))),
            None => dealt.map(|()| None),
        }
    }

    fn delivery(&self, tag: DeliveryTag, ready: Ready) -> Delivery {
        self.shared.core.stats.delivered(1, u64::from(ready.earlier.any()));
        Delivery::new(Arc::clone(&self.shared), tag, ready)
    }

    /// Waits for the next message.
    ///
    /// # Errors
    ///
    /// As [`Consumer::try_recv`].
    pub fn recv(&self) -> Result<Delivery> {
        loop {
            if let Some(delivery) = self.recv_until(None, 1)? {
                return Ok(delivery);
            }
        }
    }

    /// Waits for the next message, for at most `timeout`; `None` if none came.
    ///
    /// # Errors
    ///
    /// As [`Consumer::try_recv`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<Delivery>> {
        self.recv_until(deadline_after(timeout), 1)
    }

    fn recv_until(&self, deadline: Option<Instant>, ahead: usize) -> Result<Option<Delivery>> {
        loop {
            if let Some(delivery) = self.try_recv_of(ahead)? {
                return Ok(Some(delivery));
            }
            let listener = self.shared.event.listen();
            if let Some(delivery) = self.announce_and_try(ahead)? {
                return Ok(Some(delivery));
            }
            if self.shared.core.drive() {
                continue;
            }
            match deadline {
                None => listener.wait(),
                Some(deadline) => {
                    if deadline <= instant_now() || listener.wait_deadline(deadline).is_none() {
                        self.shared.asleep.store(false, Ordering::Release);
                        return self.try_recv_of(ahead);
                    }
                }
            }
        }
    }

    /// Waits for the next message without a thread of its own, on any runtime. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    ///
    /// As [`Consumer::try_recv`].
    pub async fn recv_async(&self) -> Result<Delivery> {
        loop {
            if let Some(delivery) = self.try_recv()? {
                return Ok(delivery);
            }
            let listener = self.shared.event.listen();
            let sleeping = Sleeping(&self.shared);
            let found = self.announce_and_try(1)?;
            if found.is_none() {
                listener.await;
            }
            // Awake: whatever woke it, it looks for everyone.
            std::mem::forget(sleeping);
            if let Some(delivery) = found {
                return Ok(delivery);
            }
        }
    }

    /// Puts the consumer on the lists of those that sleep, then looks once more (S1).
    fn announce_and_try(&self, ahead: usize) -> Result<Option<Delivery>> {
        let shared = &self.shared;
        shared.asleep.store(true, Ordering::Release);
        shared.queue.sleepers.add(shared);
        shared.core.waiting.add(&shared.queue);
        let found = self.try_recv_of(ahead);
        if !matches!(found, Ok(None)) {
            shared.asleep.store(false, Ordering::Release);
        }
        found
    }

    /// Waits up to `timeout` for a first message, then takes what is ready, at most `max`.
    ///
    /// Empty on time-out. One guard stands behind all of them: this is the fast way to consume.
    ///
    /// # Errors
    ///
    /// As [`Consumer::try_recv`].
    pub fn recv_batch(&self, max: usize, timeout: Duration) -> Result<DeliveryBatch> {
        let mut batch = DeliveryBatch::new(Arc::clone(&self.shared));
        if max == 0 {
            return Ok(batch);
        }
        let first = self.recv_until(deadline_after(timeout), max)?;
        let Some(first) = first else { return Ok(batch) };
        let alone = first.is_suspect();
        batch.push_delivery(first);
        let mut dealt = false;
        while batch.len() < max && !alone {
            let before = batch.len();
            let mut hand = self.shared.hand();
            while batch.len() < max
                && self.shared.may_join(&hand)
                && let Some((tag, ready)) = hand.fetch()
            {
                batch.push(tag, ready);
            }
            let waits = hand.has_mail();
            drop(hand);
            if waits {
                break;
            }
            if batch.len() > before {
                dealt = false;
            } else if dealt {
                break;
            } else {
                deal(&self.shared.core, &self.shared.queue)?;
                dealt = true;
            }
        }
        batch.count();
        Ok(batch)
    }

    /// Messages as they come, for ever: ends only with an error, which is its last item.
    pub fn iter(&self) -> Deliveries<'_> {
        Deliveries { consumer: self, ended: false }
    }

    /// Acks one delivery by its tag. See [`Delivery::ack`].
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTag`] if it was never given or was settled before; nothing is acked then.
    pub fn ack(&self, tag: DeliveryTag) -> Result<Ack> {
        self.shared.ack(tag)
    }

    /// Acks every delivery of this consumer up to and with `tag`.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTag`] if `tag` was never given, or it and all before it are settled.
    pub fn ack_multiple(&self, tag: DeliveryTag) -> Result<Ack> {
        let mut hand = self.shared.hand();
        let Some(settled) = hand.settle_to(tag) else {
            drop(hand);
            return Err(self.shared.unknown(tag));
        };
        Ok(self.shared.acked(hand, &settled))
    }

    /// Gives one delivery up: back to its original place in the queue if `requeue`, else away, as
    /// if it was acked.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTag`].
    pub fn nack(&self, tag: DeliveryTag, requeue: bool) -> Result<()> {
        if requeue { self.shared.requeue(tag) } else { self.shared.ack(tag).map(drop) }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl<'a> IntoIterator for &'a Consumer {
    type Item = Result<Delivery>;
    type IntoIter = Deliveries<'a>;

    fn into_iter(self) -> Deliveries<'a> {
        self.iter()
    }
}

/// Messages of a consumer as they come. See [`Consumer::iter`].
#[derive(Debug)]
pub struct Deliveries<'a> {
    consumer: &'a Consumer,
    ended: bool,
}

impl Iterator for Deliveries<'_> {
    type Item = Result<Delivery>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let received = self.consumer.recv();
        self.ended = received.is_err();
        Some(received)
    }
}
