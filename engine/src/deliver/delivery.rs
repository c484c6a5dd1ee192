//! Messages in a consumer's hands.

use std::{fmt, ops::Deref, sync::Arc};

use fanlog_segment_format::Offset;

use super::{Fields, Guard, Ready, shared::ConsumerShared};
use crate::{Ack, Result, log::view::Damage};

/// One delivery to one consumer: 1, 2, 3, ... in the order in which that consumer got them. A
/// message that comes again has a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryTag(pub u64);

impl fmt::Display for DeliveryTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The bytes of a message, not copied: shared with the engine, alive on their own, whatever becomes
/// of the queue, the segment or the engine.
#[derive(Clone)]
pub struct Payload {
    guard: Arc<Guard>,
    fields: Fields,
}

impl Payload {
    pub(crate) fn new(guard: Arc<Guard>, fields: Fields) -> Self {
        Self { guard, fields }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.fields.payload.of(self.guard.bytes())
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

/// One message in a consumer's hands. It is settled by [`ack`](Delivery::ack) or
/// [`nack`](Delivery::nack); dropped unsettled, it goes back to its original place in the queue.
pub struct Delivery {
    consumer: Arc<ConsumerShared>,
    tag: DeliveryTag,
    ready: Ready,
    settled: bool,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("tag", &self.tag)
            .field("offset", &self.ready.offset)
            .field("delivery_count", &self.ready.earlier.count())
            .finish_non_exhaustive()
    }
}

impl Delivery {
    pub(super) fn new(consumer: Arc<ConsumerShared>, tag: DeliveryTag, ready: Ready) -> Self {
        Self { consumer, tag, ready, settled: false }
    }

    /// Its tag, to settle it by later.
    pub fn tag(&self) -> DeliveryTag {
        self.tag
    }

    /// Its place in the log: the same for every queue that it was routed to.
    pub fn offset(&self) -> Offset {
        self.ready.offset
    }

    /// It may have been in a consumer's hands before, perhaps before a crash.
    pub fn redelivered(&self) -> bool {
        self.ready.earlier.any()
    }

    /// How often it was handed out from this queue before and came back, as far as that is known for
    /// certain: 0 for the first time. What only waited in a consumer's inbox was not handed out.
    ///
    /// Exact while the store is open and over [`Engine::close`](crate::Engine::close). After a crash
    /// the first hand-out of a message may be missing, and those that ended less than
    /// [`ack_delay_max`](crate::Config::ack_delay_max) before it. What came back by a crash is
    /// counted in the log, with the kernel, *before* it is handed out again: so the count of a
    /// message that kills its host grows with each time. A consumer has the first of these messages
    /// counted alone, then two together, four, and so on up to 256: of those behind a fatal one few
    /// are counted though they were not handed out, and those not once it comes first.
    pub fn delivery_count(&self) -> u32 {
        self.ready.earlier.count()
    }

    /// The exchange that it was published to; `""` for the default one, or if it was deleted since.
    pub fn exchange(&self) -> Arc<str> {
        self.consumer.core.exchange_name(self.ready.fields.exchange)
    }

    /// The routing key that it was published with.
    pub fn routing_key(&self) -> &[u8] {
        self.ready.fields.key.of(self.ready.guard.bytes())
    }

    /// Properties as the publisher gave them.
    pub fn properties(&self) -> &[u8] {
        self.ready.fields.properties.of(self.ready.guard.bytes())
    }

    /// Headers as the publisher gave them.
    pub fn headers(&self) -> &[u8] {
        self.ready.fields.headers.of(self.ready.guard.bytes())
    }

    /// The message's bytes; empty if they are [damaged](Delivery::damage).
    pub fn payload(&self) -> &[u8] {
        self.ready.fields.payload.of(self.ready.guard.bytes())
    }

    /// The priority that it was published with.
    pub fn priority(&self) -> u8 {
        self.ready.fields.priority
    }

    /// When it was published: microseconds since 1970, by a clock of some milliseconds' grain.
    pub fn published_us(&self) -> u64 {
        self.ready.fields.time_us
    }

    /// Where the message's bytes are damaged on disk, if they are. It is delivered in its place, to
    /// be settled as any other, and holds up nothing.
    pub fn damage(&self) -> Option<&Damage> {
        self.ready.damage.as_deref()
    }

    /// The payload, without copying, alive on its own.
    pub fn to_payload(&self) -> Payload {
        Payload::new(Arc::clone(&self.ready.guard), self.ready.fields)
    }

    /// Says that the message is done with.
    ///
    /// On return the ack is in memory: written with the next batch, at the latest after
    /// [`ack_delay_max`](crate::Config::ack_delay_max). A crash before that brings the message
    /// again. [`Ack::wait`] on the result makes it durable first.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTag`](crate::Error::UnknownTag) if it was settled by tag before,
    /// [`Error::Closed`](crate::Error::Closed) if its consumer is gone: then it went back.
    pub fn ack(mut self) -> Result<Ack> {
        self.settled = true;
        self.consumer.ack(self.tag)
    }

    /// Gives the message up: back to its original place in the queue if `requeue`, else away, as if
    /// it was acked.
    ///
    /// # Errors
    ///
    /// As [`Delivery::ack`].
    pub fn nack(mut self, requeue: bool) -> Result<()> {
        self.settled = true;
        self.consumer.nack(self.tag, requeue)
    }

    /// The same as [`nack`](Delivery::nack), under the name that AMQP had first.
    ///
    /// # Errors
    ///
    /// As [`Delivery::ack`].
    pub fn reject(self, requeue: bool) -> Result<()> {
        self.nack(requeue)
    }

    /// Leaves it unsettled in the consumer's hands, to be settled by its tag. One that came by
    /// [`Engine::get`](crate::Engine::get) has no consumer that could do that: it stays out until the
    /// store is closed.
    pub fn keep(mut self) -> DeliveryTag {
        self.settled = true;
        self.tag
    }

    pub(crate) fn consumer(&self) -> &Arc<ConsumerShared> {
        &self.consumer
    }

    pub(super) fn into_parts(mut self) -> (DeliveryTag, Ready) {
        self.settled = true;
        (self.tag, self.ready.clone())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.settled {
            // An error says that it was settled otherwise: nothing is left to do.
            drop(self.consumer.nack(self.tag, true));
        }
    }
}

/// Several deliveries, in order. Settled as one; dropped unsettled, they all go back.
pub struct DeliveryBatch {
    consumer: Arc<ConsumerShared>,
    tags: Vec<DeliveryTag>,
    ready: Vec<Ready>,
    settled: bool,
}

impl fmt::Debug for DeliveryBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeliveryBatch({} deliveries)", self.tags.len())
    }
}

impl DeliveryBatch {
    pub(super) fn new(consumer: Arc<ConsumerShared>) -> Self {
        Self { consumer, tags: Vec::new(), ready: Vec::new(), settled: false }
    }

    pub(super) fn push(&mut self, tag: DeliveryTag, ready: Ready) {
        self.tags.push(tag);
        self.ready.push(ready);
    }

    pub(super) fn push_delivery(&mut self, delivery: Delivery) {
        let (tag, ready) = delivery.into_parts();
        self.push(tag, ready);
    }

    /// Counts the deliveries but the first, which was counted when it was received.
    pub(super) fn count(&self) {
        let rest = self.ready.get(1..).unwrap_or_default();
        let again = rest.iter().filter(|ready| ready.earlier.any()).count() as u64;
        self.consumer.core.stats.delivered(rest.len() as u64, again);
    }

    /// How many deliveries there are.
    pub fn len(&self) -> usize {
        self.tags.len()
    }

    /// Whether the time passed without any.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// The deliveries, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = DeliveryRef<'_>> {
        self.tags.iter().zip(&self.ready).map(|(&tag, ready)| DeliveryRef { tag, ready })
    }

    /// Acks them all. See [`Delivery::ack`].
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTag`](crate::Error::UnknownTag) if all were settled by tag before,
    /// [`Error::Closed`](crate::Error::Closed) if the consumer is gone: then they went back.
    pub fn ack(mut self) -> Result<Ack> {
        self.settled = true;
        self.consumer.ack_all(&self.tags)
    }

    /// Gives them all up. See [`Delivery::nack`].
    ///
    /// # Errors
    ///
    /// As [`DeliveryBatch::ack`].
    pub fn nack(mut self, requeue: bool) -> Result<()> {
        self.settled = true;
        self.consumer.nack_all(&self.tags, requeue)
    }

    pub(crate) fn consumer(&self) -> &Arc<ConsumerShared> {
        &self.consumer
    }

    /// Leaves them unsettled in the consumer's hands, to be settled by their tags.
    pub fn keep(mut self) -> Vec<DeliveryTag> {
        self.settled = true;
        std::mem::take(&mut self.tags)
    }
}

impl Drop for DeliveryBatch {
    fn drop(&mut self) {
        if !self.settled {
            drop(self.consumer.nack_all(&self.tags, true));
        }
    }
}

/// One delivery of a [`DeliveryBatch`].
#[derive(Clone, Copy, Debug)]
pub struct DeliveryRef<'a> {
    tag: DeliveryTag,
    ready: &'a Ready,
}

impl<'a> DeliveryRef<'a> {
    /// Its tag.
    pub fn tag(&self) -> DeliveryTag {
        self.tag
    }

    /// Its place in the log.
    pub fn offset(&self) -> Offset {
        self.ready.offset
    }

    /// It may have been in a consumer's hands before.
    pub fn redelivered(&self) -> bool {
        self.ready.earlier.any()
    }

    /// How often it was handed out before. See [`Delivery::delivery_count`].
    pub fn delivery_count(&self) -> u32 {
        self.ready.earlier.count()
    }

    /// The routing key that it was published with.
    pub fn routing_key(&self) -> &'a [u8] {
        self.ready.fields.key.of(self.ready.guard.bytes())
    }

    /// Properties as the publisher gave them.
    pub fn properties(&self) -> &'a [u8] {
        self.ready.fields.properties.of(self.ready.guard.bytes())
    }

    /// Headers as the publisher gave them.
    pub fn headers(&self) -> &'a [u8] {
        self.ready.fields.headers.of(self.ready.guard.bytes())
    }

    /// The message's bytes; empty if they are [damaged](DeliveryRef::damage).
    pub fn payload(&self) -> &'a [u8] {
        self.ready.fields.payload.of(self.ready.guard.bytes())
    }

    /// When it was published: microseconds since 1970.
    pub fn published_us(&self) -> u64 {
        self.ready.fields.time_us
    }

    /// Where its bytes are damaged on disk, if they are.
    pub fn damage(&self) -> Option<&'a Damage> {
        self.ready.damage.as_deref()
    }

    /// The payload, without copying, alive on its own.
    pub fn to_payload(&self) -> Payload {
        Payload::new(Arc::clone(&self.ready.guard), self.ready.fields)
    }
}
