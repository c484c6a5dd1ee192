//! The consumer `torture` of one queue: keeps everything that it is not told to ack.
//!
//! The engine lets one consumer hold a bounded number of messages. When that is reached a further
//! consumer, `torture-2`, goes on, so that the keeper as a whole has no limit.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use fanlog::{Ack, Consumer, ConsumerOptions, DeliveryTag, Engine, Offset};

use crate::{failure::Failure, store::WAIT_MAX};

/// What one consumer without a prefetch limit may hold.
const HELD_MAX: usize = 65_536;
/// How long the newest consumer is waited on before the older ones are asked again.
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// Holds the deliveries of one queue, by offset.
pub(super) struct Keeper {
    queue: String,
    consumers: Vec<Holder>,
    kept: HashMap<Offset, (usize, DeliveryTag)>,
    /// Set by the first failure, which later requests get at once.
    failed: Option<Failure>,
}

struct Holder {
    consumer: Consumer,
    held: usize,
}

impl Keeper {
    pub(super) fn new(queue: &str) -> Self {
        Self { queue: queue.to_owned(), consumers: Vec::new(), kept: HashMap::new(), failed: None }
    }

    /// Acks the message at `offset`; it is durable only after a wait on what is returned.
    pub(super) fn ack(&mut self, engine: &Engine, offset: Offset) -> Result<Ack, Failure> {
        if let Some(failure) = &self.failed {
            return Err(failure.clone());
        }
        if let Err(failure) = self.receive_until(engine, offset) {
            self.failed = Some(failure.clone());
            return Err(failure);
        }
        let (index, tag) = self.kept.remove(&offset).expect("received just now");
        let holder = &mut self.consumers[index];
        holder.held -= 1;
        Ok(holder.consumer.ack(tag)?)
    }

    /// Receives and keeps deliveries until the one at `offset` is among them. A confirmed message
    /// that does not come is an error, not a reason to hang.
    fn receive_until(&mut self, engine: &Engine, offset: Offset) -> Result<(), Failure> {
        let deadline = Instant::now() + WAIT_MAX;
        while !self.kept.contains_key(&offset) {
            if self.consumers.last().is_none_or(|newest| newest.held >= HELD_MAX) {
                self.add_consumer(engine)?;
            }
            if !self.receive()? && Instant::now() >= deadline {
                let queue = &self.queue;
                let seconds = WAIT_MAX.as_secs();
                let text = format!(
                    "message {} of queue {queue} was not delivered within {seconds} s",
                    offset.0
                );
                return Err(Failure::timeout(text));
            }
        }
        Ok(())
    }

    fn add_consumer(&mut self, engine: &Engine) -> Result<(), Failure> {
        let tag = match self.consumers.len() {
            0 => "torture".to_owned(),
            before => format!("torture-{}", before + 1),
        };
        let options = ConsumerOptions { tag, ..ConsumerOptions::prefetch(0) };
        let consumer = engine.consume(&self.queue, options)?;
        self.consumers.push(Holder { consumer, held: 0 });
        Ok(())
    }

    /// Receives and keeps one delivery; `false` if none came in a while.
    fn receive(&mut self) -> Result<bool, Failure> {
        let newest = self.consumers.len() - 1;
        for (index, holder) in self.consumers.iter_mut().enumerate() {
            let consumer = &holder.consumer;
            let received = if index == newest {
                consumer.recv_timeout(ASK_INTERVAL)?
            } else {
                // An older consumer gets a message again once it has acked one.
                consumer.try_recv()?
            };
            if let Some(delivery) = received {
                holder.held += 1;
                self.kept.insert(delivery.offset(), (index, delivery.keep()));
                return Ok(true);
            }
        }
        Ok(false)
    }
}
