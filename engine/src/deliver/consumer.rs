//! One consumer: its inbox, what it holds, and how it waits.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use event_listener::Listener;
use fanlog_segment_format::layout::NAME_BYTES_MAX;

use super::{
    ConsumerOptions, Delivery, DeliveryBatch, DeliveryTag, Ready, deal, overdue,
    shared::ConsumerShared,
};
use crate::{
    Ack, Error, Result,
    confirm::{deadline_after, instant_now},
    core::Core,
    queue::Queue,
};

/// A future that waits for a message. Dropped before it goes on, it leaves the list of sleepers,
/// and passes on a wake-up that it may have been given.
struct Sleeping<'a>(&'a Arc<ConsumerShared>);

impl Drop for Sleeping<'_> {
    fn drop(&mut self) {
        let consumer = self.0;
        consumer.queue.sleepers.remove(consumer);
        if !consumer.is_up() {
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
    /// Subscribes to a queue.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the queue is gone; [`Error::TagInUse`], [`Error::InUse`],
    /// [`Error::Name`], [`Error::Refused`], and what the engine ended with.
    pub(crate) fn new(
        core: &Arc<Core>,
        queue: &Arc<Queue>,
        options: &ConsumerOptions,
    ) -> Result<Self> {
        core.check_writable()?;
        if options.tag.len() > NAME_BYTES_MAX {
            return Err(Error::Name {
                what: "consumer tag",
                found: options.tag.len(),
                name: options.tag.chars().take(64).collect(),
                limit: NAME_BYTES_MAX,
            });
        }
        if options.exclusive && queue.options().single_active_consumer {
            let what = format!("exclusive consuming of queue {:?}", queue.name);
            let why = "it has a single active consumer, which others may wait to follow";
            return Err(Error::Refused { what, why: why.to_owned() });
        }
        let mut dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.is_gone() {
            return Err(Error::NotFound { what: "queue", name: queue.name.to_string() });
        }
        let roster = dispatch.make().roster.make();
        let mut tag = options.tag.clone();
        while tag.is_empty() || options.tag.is_empty() && roster.has(&tag) {
            tag = format!("consumer-{}", core.stats.next_consumer());
        }
        roster.check(&queue.name, &tag, options.exclusive)?;
        let shared = Arc::new(ConsumerShared::new(core, queue, tag, options));
        roster.join(Arc::clone(&shared));
        overdue::watch(core, queue);
        drop(dispatch);
        Ok(Self { shared })
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
    /// [`Error::Closed`], [`Error::Poisoned`], [`Error::Cancelled`] once the engine ended the
    /// subscription, as when the queue is deleted, [`Error::Io`] or [`Error::Corrupt`] if the log can't be read at the queue's place.
    pub fn try_recv(&self) -> Result<Option<Delivery>> {
        let shared = &self.shared;
        if let Some((tag, ready)) = shared.fetch() {
            return Ok(Some(self.delivery(tag, ready)));
        }
        if let Some(error) = shared.ended() {
            return Err(error);
        }
        let dealt = deal(&shared.core, &shared.queue);
        // What was dealt before the log could not be read any further comes first.
        match shared.fetch() {
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
            if let Some(delivery) = self.recv_until(None)? {
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
        self.recv_until(deadline_after(timeout))
    }

    fn recv_until(&self, deadline: Option<Instant>) -> Result<Option<Delivery>> {
        loop {
            if let Some(delivery) = self.try_recv()? {
                return Ok(Some(delivery));
            }
            let listener = self.shared.listen();
            if let Some(delivery) = self.announce_and_try()? {
                return Ok(Some(delivery));
            }
            if self.shared.core.drive() {
                continue;
            }
            match deadline {
                None => listener.wait(),
                Some(deadline) => {
                    if deadline <= instant_now() || listener.wait_deadline(deadline).is_none() {
                        self.shared.is_up();
                        return self.try_recv();
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
            let listener = self.shared.listen();
            let sleeping = Sleeping(&self.shared);
            let found = self.announce_and_try()?;
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
    fn announce_and_try(&self) -> Result<Option<Delivery>> {
        let shared = &self.shared;
        shared.announce();
        let found = self.try_recv();
        if !matches!(found, Ok(None)) {
            shared.is_up();
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
        let Some(first) = self.recv_timeout(timeout)? else { return Ok(batch) };
        batch.push_delivery(first);
        let mut dealt = false;
        while batch.len() < max {
            let before = batch.len();
            let mut hand = self.shared.hand();
            while batch.len() < max
                && self.shared.may_fetch(&hand)
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
                // Should the log not be readable any further: what there is comes first.
                if deal(&self.shared.core, &self.shared.queue).is_err() {
                    break;
                }
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
        self.shared.ack_to(tag)
    }

    /// Gives one delivery up: back to its original place in the queue if `requeue`, else away, as
    /// if it was acked.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTag`].
    pub fn nack(&self, tag: DeliveryTag, requeue: bool) -> Result<()> {
        self.shared.nack(tag, requeue)
    }

    /// Gives one delivery up: the same as [`nack`](Self::nack), under the name that AMQP had first.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTag`].
    pub fn reject(&self, tag: DeliveryTag, requeue: bool) -> Result<()> {
        self.shared.nack(tag, requeue)
    }

    /// Gives up every delivery of this consumer up to and with `tag`: back to their original places
    /// if `requeue`, else away, as if they were acked.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTag`] if `tag` was never given, or it and all before it are settled.
    pub fn nack_multiple(&self, tag: DeliveryTag, requeue: bool) -> Result<()> {
        self.shared.nack_to(tag, requeue)
    }

    /// Gives everything back that this consumer was handed and has not settled, and returns how much
    /// that is: it comes again, to this consumer or another. `basic.recover`.
    pub fn recover(&self) -> usize {
        self.shared.recover()
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
