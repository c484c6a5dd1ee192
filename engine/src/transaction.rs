//! Transactions: publishes and acks that take place together or not at all.
//!
//! Until the commit nothing is in the log: messages are copies, deliveries are reserved in their
//! consumers' hands. A commit places all of it in one batch, under the append lock, and a batch is
//! written, confirmed and recovered as a whole.
//!
//! X1. The ack records of a commit stand in the batch of its messages, and in no other.
//! X2. From before the commit has its place until its batch is confirmed, what it acks is in nobody's
//!     hands, can't be dealt, and counts as settled; a purge meanwhile leaves it alone.
//! X3. A commit that fails has changed nothing; the transaction is as it was.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    Consumer, Delivery, DeliveryBatch, DeliveryTag, Durability, Error, Message, Result, Ticket,
    core::Core,
    deliver::{Claim, ConsumerShared, Reserved},
    message::{Due, within},
    pending::PendingAcks,
    publish::Publisher,
    queue::{NO_PLACE, Place},
};

/// Publishes and acks, to any exchanges and of any consumers of one engine, that take place together:
/// after [`commit`](Transaction::commit) all of them, before it, or after a crash, perhaps none, and
/// never some.
///
/// After a commit it is empty and can be used again. Dropped it is
/// [rolled back](Transaction::roll_back).
///
/// # Example
///
/// ```
/// # use fanlog::{Config, ConsumerOptions, Engine, Message};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path(), Config::default())?;
/// # engine.declare_queue("orders")?;
/// # engine.declare_queue("invoices")?;
/// # engine.publisher().publish_confirmed(&Message::new("", "orders", b"order 1"))?;
/// let consumer = engine.consume("orders", ConsumerOptions::default())?;
/// let order = consumer.recv()?;
///
/// let mut transaction = engine.begin();
/// transaction.publish(&Message::new("", "invoices", b"invoice of order 1"))?;
/// transaction.ack(order)?;
/// transaction.commit()?.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Transaction {
    publisher: Publisher,
    /// Names and contents of all messages.
    bytes: Vec<u8>,
    messages: Vec<Copied>,
    /// Of the messages alone, as records.
    record_bytes: usize,
    reserved: Vec<Reserved>,
}

/// A message in a transaction: sizes of what stands in the transaction's bytes, side by side.
#[derive(Debug, Clone, Copy)]
struct Copied {
    start: usize,
    exchange: usize,
    key: usize,
    payload: usize,
    properties: usize,
    headers: usize,
    priority: u8,
    mandatory: bool,
    ttl: Option<Duration>,
    durability: Durability,
    due: Due,
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transaction({} messages, {} acks)", self.messages(), self.acks())
    }
}

impl Transaction {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            publisher: Publisher::new(core),
            bytes: Vec::new(),
            messages: Vec::new(),
            record_bytes: 0,
            reserved: Vec::new(),
        }
    }

    /// Messages that the commit will publish.
    pub fn messages(&self) -> usize {
        self.messages.len()
    }

    /// Deliveries that the commit will ack.
    pub fn acks(&self) -> usize {
        self.reserved.iter().map(Reserved::len).sum()
    }

    /// Adds a copy of a message. It is routed when the transaction is committed, as the topology is
    /// then; here it is only seen whether it could be.
    ///
    /// Whatever its [`Durability`], the commit is synced; a transient message is gone once the store is
    /// opened again all the same. A delay begins with the commit.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`], [`Error::Unroutable`]: as things are it would go nowhere.
    /// - [`Error::TooLarge`], [`Error::Name`]: over a limit; of all messages together that is
    ///   [`transaction_bytes_max`](crate::Config::transaction_bytes_max).
    /// - [`Error::Poisoned`], [`Error::Closed`], [`Error::ReadOnly`].
    ///
    /// The message was not added, in each of these cases; the rest is as before.
    pub fn publish(&mut self, message: &Message<'_>) -> Result<()> {
        let (record_bytes, limit) = self.publisher.admit(message)?;
        let record_bytes = self.record_bytes + record_bytes;
        within("transaction", record_bytes, limit)?;
        self.record_bytes = record_bytes;
        let Message { exchange, routing_key, payload, properties, headers, .. } = *message;
        let Message { priority, ttl, mandatory, durability, due, .. } = *message;
        self.messages.push(Copied {
            start: self.bytes.len(),
            exchange: exchange.len(),
            key: routing_key.len(),
            payload: payload.len(),
            properties: properties.len(),
            headers: headers.len(),
            priority,
            mandatory,
            ttl,
            durability,
            due,
        });
        for part in [exchange.as_bytes(), routing_key.as_bytes(), payload, properties, headers] {
            self.bytes.extend_from_slice(part);
        }
        Ok(())
    }

    /// Adds the ack of a delivery. Until the commit it counts as unacked, and against its consumer's
    /// prefetch. Rolled back, it returns to its original place in the queue, as if it was dropped.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTag`] if it was settled by tag before, or is in another transaction;
    /// [`Error::Closed`] if its consumer is gone: then it went back. [`Error::Refused`] if it is
    /// another engine's: it goes back as well. The transaction is as before.
    pub fn ack(&mut self, delivery: Delivery) -> Result<()> {
        let consumer = Arc::clone(delivery.consumer());
        self.reserved_of(&consumer)?.add(&[delivery.keep()], true)
    }

    /// Adds the acks of several deliveries: all, or on an error none. As
    /// [`ack`](Transaction::ack).
    ///
    /// # Errors
    ///
    /// As [`ack`](Transaction::ack), for any of them. Those that were not settled go back to their
    /// queue then.
    pub fn ack_batch(&mut self, deliveries: DeliveryBatch) -> Result<()> {
        let consumer = Arc::clone(deliveries.consumer());
        let reserved = self.reserved_of(&consumer)?;
        let tags = deliveries.keep();
        reserved.add(&tags, true).inspect_err(|_| consumer.requeue_all(&tags))
    }

    /// Adds the ack of a delivery by its tag. Rolled back, it stays unsettled in its consumer's
    /// hands.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTag`] if the consumer does not have it: never given, settled before, or in a
    /// transaction. [`Error::Refused`] if the consumer is another engine's.
    pub fn ack_tag(&mut self, consumer: &Consumer, tag: DeliveryTag) -> Result<()> {
        self.reserved_of(consumer.shared())?.add(&[tag], false)
    }

    /// What is reserved in the hands of a consumer.
    fn reserved_of(&mut self, consumer: &Arc<ConsumerShared>) -> Result<&mut Reserved> {
        if !Arc::ptr_eq(&consumer.core, self.publisher.core()) {
            return Err(Error::Refused {
                what: "an ack in a transaction".into(),
                why: "the delivery is another engine's".into(),
            });
        }
        let known = self.reserved.iter().position(|one| Arc::ptr_eq(&one.consumer, consumer));
        let at = known.unwrap_or_else(|| {
            self.reserved.push(Reserved::new(Arc::clone(consumer)));
            self.reserved.len() - 1
        });
        Ok(&mut self.reserved[at])
    }

    /// Places all of it in the log, in one batch, and returns a ticket to wait for its confirm.
    ///
    /// On return the acked messages are settled, and do not come again while the engine runs. Once
    /// the ticket is confirmed all of it is durable; its [`Confirm`](crate::Confirm) has the
    /// messages' offsets. Until then it is in doubt: after a crash all of it took place, or none.
    /// The transaction is empty, to be used again. Acks of a queue that was deleted meanwhile are as
    /// good as any: there is nothing left that they would ack.
    ///
    /// # Errors
    ///
    /// - [`Error::Unroutable`], [`Error::NotFound`]: a message would go nowhere now.
    /// - [`Error::QueueFull`]: a queue [refuses](crate::Overflow::RejectPublish) some of it, what is
    ///   acked here being gone from it.
    /// - [`Error::UnknownTag`], [`Error::Closed`]: a delivery has gone back to its queue, as its
    ///   consumer has.
    /// - [`Error::TooLarge`]: records of messages and acks are over
    ///   [`transaction_bytes_max`](crate::Config::transaction_bytes_max).
    /// - [`Error::Full`], [`Error::OutOfSpace`]: only with `WhenFull::Fail`; the latter as well where it
    ///   is larger than [`buffer_bytes_max`](crate::Config::buffer_bytes_max) and has no room of its own.
    /// - [`Error::Poisoned`], [`Error::Closed`], [`Error::ReadOnly`].
    ///
    /// Nothing took place, in each of these cases, and the transaction is as it was: commit it again,
    /// or roll it back.
    pub fn commit(&mut self) -> Result<Ticket> {
        let core = Arc::clone(self.publisher.core());
        core.check_writable()?;
        if self.messages.is_empty() && self.acks() == 0 {
            return self.publisher.publish_batch(&[]);
        }
        self.reserved.retain(|reserved| reserved.len() > 0);
        let place: Place = Arc::new(AtomicU64::new(NO_PLACE));
        let taken = self.take(&place)?;
        let ticket = self.place(&core, &taken).inspect_err(|_| {
            for (reserved, claims) in self.reserved.iter().zip(&taken) {
                reserved.put_back(claims, &place);
            }
        })?;
        let number = ticket.number().unwrap_or_default();
        place.store(number, Ordering::Release);
        for reserved in self.reserved.drain(..) {
            reserved.committed();
        }
        self.messages.clear();
        self.bytes.clear();
        self.record_bytes = 0;
        Ok(ticket)
    }

    /// Takes all deliveries out of their consumers' hands, or none.
    fn take(&self, place: &Place) -> Result<Vec<Vec<Claim>>> {
        let mut taken = Vec::with_capacity(self.reserved.len());
        for reserved in &self.reserved {
            match reserved.take(place) {
                Ok(claims) => taken.push(claims),
                Err(error) => {
                    for (reserved, claims) in self.reserved.iter().zip(&taken) {
                        reserved.put_back(claims, place);
                    }
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    /// Gives messages and acks their place.
    fn place(&self, core: &Core, taken: &[Vec<Claim>]) -> Result<Ticket> {
        let messages: Vec<Message<'_>> =
            self.messages.iter().map(|copied| copied.message(&self.bytes)).collect();
        let mut acks = Vec::new();
        for (reserved, claims) in self.reserved.iter().zip(taken) {
            let mut pending = PendingAcks::default();
            for claim in claims {
                pending.insert(&core.log, claim);
            }
            pending.drain(reserved.consumer.queue.id, &core.log, &mut acks);
        }
        self.publisher.publish_with(&messages, &acks)
    }

    /// Gives all of it up: nothing took place. Deliveries return to their original places in their
    /// queues, those that were added by tag stay in their consumers' hands.
    pub fn roll_back(mut self) {
        self.give_up();
    }

    fn give_up(&mut self) {
        for reserved in self.reserved.drain(..) {
            reserved.roll_back();
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Copied {
    fn message<'a>(&self, bytes: &'a [u8]) -> Message<'a> {
        let mut rest = &bytes[self.start..];
        let mut next = |length| {
            let (part, behind) = rest.split_at(length);
            rest = behind;
            part
        };
        let name = |part| std::str::from_utf8(part).expect("it was copied from a name");
        Message {
            exchange: name(next(self.exchange)),
            routing_key: name(next(self.key)),
            payload: next(self.payload),
            properties: next(self.properties),
            headers: next(self.headers),
            priority: self.priority,
            mandatory: self.mandatory,
            ttl: self.ttl,
            durability: self.durability,
            due: self.due,
        }
    }
}
