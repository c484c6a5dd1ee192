//! Publishers that keep an engine busy, each in its own thread with a clone of the publisher.

use std::{
    collections::VecDeque,
    sync::Barrier,
    time::{Duration, Instant},
};

use fanlog::{Engine, Message, Publisher, Ticket};

use crate::{
    payload,
    sample::{Latencies, as_u64},
    store::EXCHANGE,
};

/// Payloads that a publisher takes in turn, so that making them is not measured.
const PAYLOADS: u64 = 64;
/// In wide windows one message of so many is timed: reading the clock and noting what it says takes a
/// tenth of what publishing 1 KiB does.
const TIMED_EVERY: u64 = 16;
/// Windows from this size on are wide.
const WIDE_WINDOW: usize = 256;

/// What to publish.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Payload, in bytes.
    pub(crate) size: usize,
    /// Threads.
    pub(crate) publishers: usize,
    /// Messages that a publisher may have unconfirmed; 1 waits for each confirm.
    pub(crate) window: usize,
    /// Messages of all publishers together, where there is a limit.
    pub(crate) messages: Option<u64>,
    /// For how long to go on.
    pub(crate) during: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Messages confirmed: all that were published.
    pub(crate) confirmed: u64,
    /// From the first publish to the last confirm.
    pub(crate) elapsed: Duration,
    /// From a publish to its confirm: of each message, in windows of 256 and more of every sixteenth.
    pub(crate) latencies: Latencies,
}

/// Publishes to the bench exchange until a limit is reached, then waits for every confirm.
pub(crate) fn run(engine: &Engine, load: Load) -> anyhow::Result<Outcome> {
    let barrier = Barrier::new(load.publishers);
    let share = load.messages.map(|messages| messages.div_ceil(as_u64(load.publishers)));
    let parts = std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(load.publishers);
        for thread in 0..load.publishers {
            let barrier = &barrier;
            let mut worker = Worker::new(engine.publisher(), load, share, as_u64(thread));
            threads.push(scope.spawn(move || {
                barrier.wait();
                worker.run().map(|()| worker.part)
            }));
        }
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a publisher panicked"))?);
        joined.collect::<anyhow::Result<Vec<Part>>>()
    })?;
    let begin = parts.iter().map(|part| part.begin).min();
    let end = parts.iter().map(|part| part.end).max();
    let elapsed = end.zip(begin).map(|(end, begin)| end - begin).unwrap_or_default();
    let mut outcome = Outcome { elapsed, ..Outcome::default() };
    for part in &parts {
        outcome.confirmed += part.confirmed;
        outcome.latencies.add(&part.latencies);
    }
    Ok(outcome)
}

/// What one publisher found.
struct Part {
    begin: Instant,
    end: Instant,
    confirmed: u64,
    latencies: Latencies,
}

struct Worker {
    publisher: Publisher,
    load: Load,
    share: u64,
    payloads: Vec<Vec<u8>>,
    outstanding: VecDeque<(Ticket, Option<Instant>)>,
    /// One message of so many is timed.
    timed_every: u64,
    part: Part,
}

impl Worker {
    fn new(publisher: Publisher, load: Load, share: Option<u64>, thread: u64) -> Worker {
        let payloads = (thread * PAYLOADS..(thread + 1) * PAYLOADS).map(|number| {
            let mut payload = vec![0; load.size.max(payload::BYTES_MIN)];
            payload::fill(number, &mut payload);
            payload.truncate(load.size);
            payload
        });
        let now = Instant::now();
        Worker {
            publisher,
            load,
            share: share.unwrap_or(u64::MAX),
            payloads: payloads.collect(),
            outstanding: VecDeque::with_capacity(load.window),
            timed_every: if load.window < WIDE_WINDOW { 1 } else { TIMED_EVERY },
            part: Part { begin: now, end: now, confirmed: 0, latencies: Latencies::default() },
        }
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        self.part.begin = begin;
        let mut published = 0;
        let mut now = begin;
        while published < self.share && now - begin < self.load.during {
            now = if self.load.window <= 1 {
                self.publish_one(published, now)?
            } else {
                self.publish_windowed(published, now)?
            };
            published += 1;
        }
        while let Some((ticket, sent)) = self.outstanding.pop_front() {
            ticket.wait()?;
            self.confirmed(sent, Instant::now());
        }
        self.part.end = Instant::now();
        Ok(())
    }

    fn message(&self, number: u64) -> Message<'_> {
        let index = usize::try_from(number % PAYLOADS).expect("below the number of payloads");
        Message::new(EXCHANGE, "", &self.payloads[index])
    }

    fn confirmed(&mut self, sent: Option<Instant>, now: Instant) {
        self.part.confirmed += 1;
        if let Some(sent) = sent {
            self.part.latencies.record(now - sent);
        }
    }

    fn publish_one(&mut self, number: u64, begin: Instant) -> anyhow::Result<Instant> {
        self.publisher.publish_confirmed(&self.message(number))?;
        let now = Instant::now();
        self.confirmed(Some(begin), now);
        Ok(now)
    }

    /// Publishes a message and takes in what is confirmed. Returns the time: as it was before, where
    /// nobody waited and the next message is not timed.
    fn publish_windowed(&mut self, number: u64, mut now: Instant) -> anyhow::Result<Instant> {
        let ticket = self.publisher.publish(&self.message(number))?;
        let sent = number.is_multiple_of(self.timed_every).then_some(now);
        self.outstanding.push_back((ticket, sent));
        if self.outstanding.len() >= self.load.window {
            let (oldest, sent) = self.outstanding.pop_front().expect("the window is not empty");
            oldest.wait()?;
            now = Instant::now();
            self.confirmed(sent, now);
        }
        if (number + 1).is_multiple_of(self.timed_every) {
            now = Instant::now();
        }
        // What was confirmed meanwhile counts from now on, not from when the window is full.
        while let Some((oldest, sent)) = self.outstanding.front() {
            let Some(confirm) = oldest.try_wait() else { break };
            confirm?;
            let sent = *sent;
            if sent.is_some() {
                now = Instant::now();
            }
            self.confirmed(sent, now);
            self.outstanding.pop_front();
        }
        Ok(now)
    }
}
