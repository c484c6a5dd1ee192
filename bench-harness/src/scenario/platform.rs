//! A platform: a cluster of consumers that share one queue, work on each batch, report, then ack.
//!
//! C1. What a platform must not forget is in its files, and what the judge must know is in the
//!     pipe, before the batch is acked.
//! C2. A batch that a dropped consumer holds is neither worked on nor acked.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use fanlog::{Ack, Consumer, ConsumerOptions, DeliveryBatch, Engine};

use super::{
    QUEUES,
    frames::{Frame, Kind, Outbox, Seen},
    publishers::wall_us,
};
use crate::payload::{self, Fields};

/// Most messages that are worked on together: rows in one transaction.
const BATCH: usize = 1_000;
/// A consumer with a backlog takes more until it has so many.
const BATCH_WANTED: usize = 500;
/// Messages that a consumer may hold unacked.
const PREFETCH: u32 = 2_000;
/// How long a consumer waits for messages before it looks whether it is to stop.
const WAIT: Duration = Duration::from_millis(50);

/// What a platform does with results.
pub(crate) trait Platform: Sync {
    /// Works on the results of one batch. On return nothing of it can be forgotten by the end of
    /// this process. Numbers to raise an alert on are added to `alerts`.
    fn work(&self, results: &[Fields], alerts: &mut Frame) -> anyhow::Result<()>;
}

/// What all consumers of the engine process share.
pub(crate) struct Shared<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) outbox: &'a Outbox,
    /// Consumers stop once their queue is empty.
    pub(crate) stopping: AtomicBool,
    /// By queue: its first consumer is to be dropped with messages in hand.
    pub(crate) drops: [AtomicBool; QUEUES.len()],
    /// Number that the third platform never gets to see.
    pub(crate) plant_loss: Option<u64>,
}

/// One consumer of one platform. When it is dropped another takes its place.
pub(crate) struct Member<'a> {
    pub(crate) shared: &'a Shared<'a>,
    pub(crate) platform: &'a dyn Platform,
    pub(crate) queue: u8,
    pub(crate) number: u16,
}

impl Member<'_> {
    /// Consumes until told to stop.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        loop {
            let tag = format!("{}-{}", QUEUES[usize::from(self.queue)], self.number);
            let options = ConsumerOptions { tag, ..ConsumerOptions::prefetch(PREFETCH) };
            let queue = QUEUES[usize::from(self.queue)];
            let consumer = self.shared.engine.consume(queue, options)?;
            if self.consume(consumer)? {
                return Ok(());
            }
        }
    }

    /// Consumes until told to stop (true) or until the consumer is dropped (false).
    fn consume(&self, consumer: Consumer) -> anyhow::Result<bool> {
        let mut results = Vec::with_capacity(BATCH);
        let mut last: Option<Ack> = None;
        loop {
            let batches = receive(&consumer)?;
            if batches.is_empty() {
                if self.shared.stopping.load(Ordering::Acquire) {
                    if let Some(ack) = last {
                        ack.wait()?;
                    }
                    return Ok(true);
                }
                continue;
            }
            let drop_now = &self.shared.drops[usize::from(self.queue)];
            if self.number == 0 && drop_now.swap(false, Ordering::AcqRel) {
                self.report_held(&batches)?;
                drop(consumer);
                drop(batches);
                return Ok(false);
            }
            last = self.settle(batches, &mut results)?;
        }
    }

    /// Checks, works, reports, acks.
    fn settle(
        &self,
        batches: Vec<DeliveryBatch>,
        results: &mut Vec<Fields>,
    ) -> anyhow::Result<Option<Ack>> {
        let now_us = wall_us();
        let mut seen = Frame::of(Kind::Seen, self.queue, self.number);
        let mut alerts = Frame::of(Kind::Alerts, self.queue, self.number);
        results.clear();
        for delivery in batches.iter().flat_map(DeliveryBatch::iter) {
            let payload = delivery.payload();
            let fields = Fields::parse(payload);
            let number = fields.map_or(u64::MAX, |fields| fields.number);
            if self.queue == 2 && self.shared.plant_loss == Some(number) {
                continue;
            }
            let intact = payload::matches(number, payload);
            results.extend(fields.filter(|_| intact));
            let sent_us = <[u8; 8]>::try_from(delivery.properties()).map(u64::from_le_bytes);
            let latency = now_us.saturating_sub(sent_us.unwrap_or(now_us));
            Seen {
                number,
                offset: delivery.offset().0,
                checksum: crc32fast::hash(payload),
                length: u32::try_from(payload.len())?,
                latency_us: u32::try_from(latency).unwrap_or(u32::MAX),
                redelivered: delivery.redelivered(),
                intact,
            }
            .put(&mut seen);
        }
        self.platform.work(results, &mut alerts)?;
        if alerts.body.is_empty() {
            self.shared.outbox.send(&[&seen])?;
        } else {
            self.shared.outbox.send(&[&seen, &alerts])?;
        }
        let mut last = None;
        for batch in batches {
            last = Some(batch.ack()?);
        }
        Ok(last)
    }

    fn report_held(&self, batches: &[DeliveryBatch]) -> anyhow::Result<()> {
        let mut held = Frame::of(Kind::Held, self.queue, self.number);
        for delivery in batches.iter().flat_map(DeliveryBatch::iter) {
            let fields = Fields::parse(delivery.payload());
            held.put_number(fields.map_or(u64::MAX, |fields| fields.number));
        }
        Ok(self.shared.outbox.send(&[&held])?)
    }
}

/// Waits a little for messages, then takes more as long as there are some and too few were taken.
fn receive(consumer: &Consumer) -> anyhow::Result<Vec<DeliveryBatch>> {
    let mut batches = Vec::new();
    let (mut taken, mut wait) = (0, WAIT);
    while taken < BATCH_WANTED {
        let batch = consumer.recv_batch(BATCH - taken, wait)?;
        if batch.is_empty() {
            break;
        }
        taken += batch.len();
        wait = Duration::ZERO;
        batches.push(batch);
    }
    Ok(batches)
}
