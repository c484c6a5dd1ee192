//! What the machine's callers have in hand, and how they settle it.

use std::time::Duration;

use fanlog::{Consumer, ConsumerOptions, Delivery, DeliveryTag, Error, ErrorKind};

use crate::{
    broker::{Answer, Broker, Got},
    machine::Machine,
    message::{birth_of, deaths, payload},
    operations::{Operation, Settle, Start, Subscription},
    queue::{Flag, Place},
};

/// A message that was taken.
pub(crate) struct Held {
    pub(super) hand: Hand,
    pub(super) place: Place,
    pub(super) queue: String,
    /// The tag of the consumer that has it, if it is one.
    pub(super) consumer: Option<String>,
}

/// How it is settled.
pub(super) enum Hand {
    Delivery(Delivery),
    /// By its tag, which its consumer knows.
    Tag(DeliveryTag),
}

impl Held {
    pub(super) fn tag(&self) -> DeliveryTag {
        match &self.hand {
            Hand::Delivery(delivery) => delivery.tag(),
            Hand::Tag(tag) => *tag,
        }
    }
}

fn got(place: Place, found: &[u8], redelivered: bool, headers: &[u8]) -> Got {
    let birth = birth_of(found);
    assert_eq!(found, payload(birth, found.len()), "message {place}");
    let flag = if redelivered { Flag::Yes } else { Flag::No };
    Got { place, birth, flag, deaths: deaths(headers) }
}

pub(super) fn subscription(asked: Subscription) -> ConsumerOptions {
    ConsumerOptions {
        priority: asked.priority,
        exclusive: asked.exclusive,
        ..ConsumerOptions::prefetch(asked.prefetch)
    }
}

impl Machine {
    /// Subscribes, receives, settles; all else changes the topology.
    pub(super) fn call_for_hands(&mut self, operation: &Operation) -> Result<Answer, Error> {
        let engine = self.engine();
        match operation {
            Operation::Get { queue } => {
                let found = engine.get(queue)?;
                return Ok(Answer::Message(found.map(|delivery| self.hold(delivery, queue, None))));
            }
            Operation::Consume { queue, options } => {
                let consumer = engine.consume(queue, subscription(*options))?;
                self.subscribe(queue, consumer);
            }
            Operation::OwnerConsume { which, options } => {
                let owner = &self.owners[which.index(self.owners.len())];
                let (queue, consumer) =
                    (owner.name().to_owned(), owner.consume(&subscription(*options))?);
                self.subscribe(&queue, consumer);
            }
            Operation::OwnerGet { which } => {
                let owner = &self.owners[which.index(self.owners.len())];
                let (queue, found) = (owner.name().to_owned(), owner.get()?);
                let got = found.map(|delivery| self.hold(delivery, &queue, None));
                return Ok(Answer::Message(got));
            }
            Operation::OwnerPurge { which } => {
                let owner = &self.owners[which.index(self.owners.len())];
                return Ok(Answer::Purged(owner.purge()?));
            }
            Operation::DeclareExclusive { name, options } => {
                let owner = engine.declare_exclusive_queue(name, options)?;
                self.owners.push(owner);
            }
            Operation::Disown { which } => {
                drop(self.owners.remove(which.index(self.owners.len())));
            }
            Operation::Receive { which } => {
                let (queue, _, consumer) = &self.consumers[which.index(self.consumers.len())];
                let (queue, tag) = (queue.clone(), Some(consumer.tag().to_owned()));
                let found = consumer.recv_timeout(Duration::ZERO)?;
                return Ok(Answer::Message(found.map(|delivery| self.hold(delivery, &queue, tag))));
            }
            Operation::ReceiveBatch { which, most } => {
                return self.receive_batch(which.index(self.consumers.len()), *most);
            }
            Operation::Cancel { which } => {
                let (_, _, consumer) = self.consumers.remove(which.index(self.consumers.len()));
                let tag = consumer.tag().to_owned();
                drop(consumer);
                self.held.retain(|held| held.consumer.as_ref() != Some(&tag));
            }
            Operation::Peek { queue } => {
                let found = engine.peek(queue, usize::MAX)?;
                return Ok(Answer::Messages(found.iter().map(|one| one.offset.0).collect()));
            }
            Operation::Settle { place, how } => {
                let held = self.held.remove(place.index(self.held.len()));
                self.settle(held, *how)?;
            }
            Operation::SettleMultiple { place, how } => {
                self.settle_multiple(place.index(self.held.len()), *how)?;
            }
            Operation::Purge { queue } => return Ok(Answer::Purged(engine.purge_queue(queue)?)),
            change => self.change(change)?,
        }
        Ok(Answer::Done)
    }

    pub(super) fn subscribe(&mut self, queue: &str, consumer: Consumer) {
        self.consumers.push((queue.to_owned(), self.subscribed, consumer));
        self.subscribed += 1;
    }

    /// A consumer that has messages in hand.
    pub(super) fn consumer(&self, tag: Option<&str>) -> &Consumer {
        let mut consumers = self.consumers.iter().map(|(_, _, consumer)| consumer);
        consumers.find(|one| Some(one.tag()) == tag).expect("it is there")
    }

    pub(super) fn receive_batch(&mut self, which: usize, most: usize) -> Result<Answer, Error> {
        let (queue, _, consumer) = &self.consumers[which];
        let (queue, tag) = (queue.clone(), consumer.tag().to_owned());
        let batch = consumer.recv_batch(most, Duration::ZERO)?;
        let mut found = Vec::new();
        for one in batch.iter() {
            let (place, hand) = (one.offset().0, Hand::Tag(one.tag()));
            let (queue, consumer) = (queue.clone(), Some(tag.clone()));
            self.held.push(Held { hand, place, queue, consumer });
            found.push(got(place, one.payload(), one.redelivered(), one.headers()));
        }
        batch.keep();
        Ok(Answer::Batch(found))
    }

    pub(super) fn settle(&self, held: Held, how: Settle) -> Result<(), Error> {
        let ack = match (held.hand, how) {
            (Hand::Delivery(delivery), Settle::Ack { .. }) => delivery.ack()?,
            (Hand::Delivery(delivery), how) => return delivery.nack(how == Settle::Requeue),
            (Hand::Tag(tag), how) => {
                let consumer = self.consumer(held.consumer.as_deref());
                match how {
                    Settle::Ack { .. } => consumer.ack(tag)?,
                    how => return consumer.nack(tag, how == Settle::Requeue),
                }
            }
        };
        if how == (Settle::Ack { wait: true }) { ack.wait() } else { Ok(()) }
    }

    /// What somebody had of a queue went back.
    pub(super) fn recall(&mut self, queue: &str, at: Start) {
        if !matches!(at, Start::Latest) {
            self.held.retain(|held| held.queue != queue);
        }
    }

    pub(super) fn settle_multiple(&mut self, at: usize, how: Settle) -> Result<(), Error> {
        let tag = self.held[at].tag();
        let consumer = self.held[at].consumer.clone();
        let (its, others): (Vec<Held>, Vec<Held>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|held| held.consumer == consumer && held.tag() <= tag);
        self.held = others;
        for held in its {
            if let Hand::Delivery(delivery) = held.hand {
                delivery.keep();
            }
        }
        let consumer = self.consumer(consumer.as_deref());
        match how {
            Settle::Ack { wait: true } => consumer.ack_multiple(tag)?.wait(),
            Settle::Ack { wait: false } => consumer.ack_multiple(tag).map(drop),
            Settle::Requeue => consumer.nack_multiple(tag, true),
            Settle::Reject => consumer.nack_multiple(tag, false),
        }
    }

    /// Takes note of a message that was handed out.
    pub(super) fn hold(
        &mut self,
        delivery: Delivery,
        queue: &str,
        consumer: Option<String>,
    ) -> Got {
        let place = delivery.offset().0;
        let got = got(place, delivery.payload(), delivery.redelivered(), delivery.headers());
        let (hand, queue) = (Hand::Delivery(delivery), queue.to_owned());
        self.held.push(Held { hand, place, queue, consumer });
        got
    }

    /// What was held for too long, and what queues had that came to their end, is nobody's any more;
    /// whoever had it is told.
    pub(super) fn forget_what_went(&mut self, broker: &Broker) {
        let there = |held: &Held| {
            broker.held().iter().any(|one| one.queue == held.queue && one.place == held.place)
        };
        let (held, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(there);
        self.held = held;
        let stays = |number: u64| broker.consumers().iter().any(|one| one.1 == number);
        let gone_consumers = self.consumers.extract_if(.., |(_, number, _)| !stays(*number));
        for (_, _, consumer) in gone_consumers {
            // What is in its inbox comes before.
            let told = std::iter::repeat_with(|| consumer.recv_timeout(Duration::ZERO));
            let told = told.map(|received| received.map(drop)).find_map(Result::err).unwrap();
            assert_eq!(told.kind(), ErrorKind::Cancelled, "{told}");
        }
        for held in gone.into_iter().filter(|held| broker.queues.contains_key(&held.queue)) {
            if let Hand::Delivery(delivery) = held.hand {
                let told = delivery.ack().map(drop).unwrap_err();
                assert_eq!(told.kind(), ErrorKind::Cancelled, "{told}");
            }
        }
    }

    /// Gives back what has a limit of deliveries: how often it came back is certain then.
    pub(super) fn give_back_counted(&mut self) {
        for held in std::mem::take(&mut self.held) {
            if self.engine().queue(&held.queue).unwrap().options.delivery_limit.is_some() {
                self.settle(held, Settle::Requeue).unwrap();
            } else {
                self.held.push(held);
            }
        }
    }
}
