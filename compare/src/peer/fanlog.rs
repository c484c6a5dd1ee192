//! fanlog: one fanout exchange, a queue and a consumer for each; defaults, or a store for a small disk.

use std::{
    collections::VecDeque,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use fanlog::{
    Ack, Change, Config, Consumer, ConsumerOptions, Engine, ExchangeKind, Message, Publisher,
    Ticket,
};

use super::{Peer, Seen};

const EXCHANGE: &str = "compare";
/// How long to wait for a message that is there.
const DELIVERED_WITHIN: Duration = Duration::from_secs(10);
/// How long to wait for prepared segments.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);

struct Fanlog {
    engine: Engine,
    segments_ahead: usize,
    publisher: Publisher,
    consumers: Vec<Consumer>,
    /// Messages that each consumer has not got yet.
    waiting: Vec<u64>,
    acks: Vec<Ack>,
}

/// With the settings that it has by default.
pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    open_with(dir, consumers, Config::default())
}

/// With segments and buffers of 1 MiB: less disk, and less to read when it is opened.
pub(super) fn open_small(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    let config = Config {
        segment_bytes_max: 1 << 20,
        buffer_bytes_max: 1 << 20,
        checkpoint_log_bytes: 4 << 20,
        ..Config::default()
    };
    open_with(dir, consumers, config)
}

fn open_with(dir: &Path, consumers: usize, config: Config) -> Result<Box<dyn Peer>> {
    let segments_ahead = config.segments_ahead;
    let engine = Engine::open(dir, config)?;
    engine.declare_exchange(EXCHANGE, ExchangeKind::Fanout)?;
    let names: Vec<String> = (0..consumers).map(|number| format!("queue-{number}")).collect();
    let changes: Vec<Change<'_>> = names
        .iter()
        .flat_map(|name| {
            let bind = Change::Bind { queue: name, exchange: EXCHANGE, routing_key: "" };
            [Change::declare_queue(name), bind]
        })
        .collect();
    engine.change(&changes)?;
    let options = ConsumerOptions { prefetch: 4_000, ..ConsumerOptions::default() };
    let consumers = names.iter().map(|name| engine.consume(name, options.clone()));
    let consumers = consumers.collect::<Result<Vec<_>, _>>()?;
    let waiting = names.iter().map(|name| engine.queue(name).map(|queue| queue.ready));
    let waiting = waiting.collect::<Result<Vec<_>, _>>()?;
    let publisher = engine.publisher();
    Ok(Box::new(Fanlog { engine, segments_ahead, publisher, consumers, waiting, acks: Vec::new() }))
}

impl Fanlog {
    fn arrived(&mut self, messages: u64) {
        self.waiting.iter_mut().for_each(|waiting| *waiting += messages);
    }
}

impl Peer for Fanlog {
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        self.arrived(payloads.len() as u64);
        if let [payload] = payloads {
            self.publisher.publish_confirmed(&Message::new(EXCHANGE, "", payload))?;
            return Ok(());
        }
        let messages: Vec<Message<'_>> =
            payloads.iter().map(|payload| Message::new(EXCHANGE, "", payload)).collect();
        self.publisher.publish_batch_confirmed(&messages)?;
        Ok(())
    }

    /// With tickets: a message is published when an earlier one is confirmed, not when all are.
    fn stream(&mut self, window: usize, next: &mut dyn FnMut(&mut Vec<u8>) -> bool) -> Result<()> {
        let mut outstanding: VecDeque<Ticket> = VecDeque::with_capacity(window);
        let mut payload = Vec::new();
        while next(&mut payload) {
            self.arrived(1);
            if outstanding.len() == window
                && let Some(oldest) = outstanding.pop_front()
            {
                oldest.wait()?;
            }
            outstanding.push_back(self.publisher.publish(&Message::new(EXCHANGE, "", &payload))?);
        }
        outstanding.iter().try_for_each(|ticket| ticket.wait().map(drop))?;
        Ok(())
    }

    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize> {
        if self.waiting[consumer] == 0 {
            return Ok(0);
        }
        let batch = self.consumers[consumer].recv_batch(max, DELIVERED_WITHIN)?;
        let count = batch.len();
        self.waiting[consumer] -= count as u64;
        batch.iter().try_for_each(|delivery| seen(delivery.payload()))?;
        self.acks.push(batch.ack()?);
        Ok(count)
    }

    fn sync_acks(&mut self) -> Result<()> {
        // The last is on disk with or after all before it; the others are there when it is.
        for ack in self.acks.drain(..).rev() {
            ack.wait()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        let ahead = self.segments_ahead;
        let begin = Instant::now();
        while self.engine.stats().segments_ready < ahead as u64 && begin.elapsed() < SETTLE_WITHIN {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn trim(&mut self) -> Result<()> {
        self.engine.reclaim(&mut |_| ())?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        let report = self.engine.close(Duration::from_secs(30))?;
        anyhow::ensure!(report.unconfirmed == 0, "{} left unconfirmed", report.unconfirmed);
        Ok(())
    }
}
