//! The computing platform: threads that publish results with a window of unconfirmed ones.
//!
//! P1. A number goes to the judge as confirmed only after its ticket said so.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use fanlog::{Confirm, Message, Publisher, Ticket};

use super::{
    EXCHANGE,
    frames::{Confirmed, Frame, Kind, Outbox},
};
use crate::{payload, sample::as_u64};

/// Numbers that a publisher takes at a time.
const TAKE: u64 = 256;
/// Confirms in one frame.
const FRAME_CONFIRMS: usize = 512;

/// Numbers that are still to be published.
#[derive(Debug, Default)]
pub(crate) struct Work {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// Some numbers; `due` is set where they are to be published one at a time.
#[derive(Debug, Clone)]
struct Job {
    numbers: Range<u64>,
    pace: Option<Pace>,
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    due: Instant,
    step: Duration,
}

/// What a publisher got.
enum Taken {
    Numbers(Range<u64>),
    /// One number, to be published at that time and waited for.
    Paced(u64, Instant),
    NoneNow,
    NoneEver,
}

impl Work {
    /// Adds numbers, at `rate` per second or as fast as possible (0).
    pub(crate) fn add(&self, rate: u32, ranges: Vec<Range<u64>>) {
        let step = (rate > 0).then(|| Duration::from_secs(1) / rate);
        let mut due = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for numbers in ranges {
            let count = u32::try_from(numbers.end - numbers.start).unwrap_or(u32::MAX);
            let pace = step.map(|step| Pace { due, step });
            due += step.unwrap_or_default() * count;
            state.jobs.push_back(Job { numbers, pace });
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Says that nothing will be added any more.
    pub(crate) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_all();
    }

    fn take(&self) -> Taken {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(job) = state.jobs.front_mut() else {
            return if state.closed { Taken::NoneEver } else { Taken::NoneNow };
        };
        let start = job.numbers.start;
        let taken = if let Some(pace) = &mut job.pace {
            job.numbers.start += 1;
            let due = pace.due;
            pace.due += pace.step;
            Taken::Paced(start, due)
        } else {
            job.numbers.start = job.numbers.end.min(start + TAKE);
            Taken::Numbers(start..job.numbers.start)
        };
        if job.numbers.is_empty() {
            state.jobs.pop_front();
        }
        taken
    }

    fn wait(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |state: &mut State| state.jobs.is_empty() && !state.closed;
        drop(self.changed.wait_while(state, idle));
    }
}

/// The date in microseconds: what a message carries in its properties, since the engine's own time
/// of publishing is coarser than what is to be measured, and the payload must stay recomputable.
pub(crate) fn wall_us() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
}

/// One publishing thread.
pub(crate) struct Worker<'a> {
    publisher: Publisher,
    outbox: &'a Outbox,
    window: usize,
    payload: Vec<u8>,
    outstanding: VecDeque<(Ticket, u64, Instant)>,
    confirms: Frame,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(
        publisher: Publisher,
        outbox: &'a Outbox,
        window: usize,
        size: usize,
    ) -> Worker<'a> {
        Worker {
            publisher,
            outbox,
            window,
            payload: vec![0; size],
            outstanding: VecDeque::with_capacity(window),
            confirms: Frame::new(Kind::Confirmed),
        }
    }

    /// Publishes until the work is closed and done, and every ticket has been waited for.
    pub(crate) fn run(&mut self, work: &Work) -> anyhow::Result<()> {
        loop {
            match work.take() {
                Taken::Numbers(numbers) => {
                    for number in numbers {
                        self.publish(number)?;
                    }
                }
                Taken::Paced(number, due) => {
                    self.drain()?;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    self.publish_and_wait(number)?;
                    self.flush()?;
                }
                Taken::NoneNow => {
                    self.drain()?;
                    work.wait();
                }
                Taken::NoneEver => return self.drain(),
            }
        }
    }

    fn publish(&mut self, number: u64) -> anyhow::Result<()> {
        payload::fill(number, &mut self.payload);
        let sent = Instant::now();
        let sent_us = wall_us().to_le_bytes();
        let message = Message::new(EXCHANGE, "", &self.payload).properties(&sent_us);
        let ticket = self.publisher.publish(&message)?;
        self.outstanding.push_back((ticket, number, sent));
        while let Some((oldest, _, _)) = self.outstanding.front() {
            let Some(confirm) = oldest.try_wait() else { break };
            self.settle(confirm)?;
        }
        if self.outstanding.len() >= self.window {
            self.flush()?;
            self.wait_oldest()?;
        }
        Ok(())
    }

    fn publish_and_wait(&mut self, number: u64) -> anyhow::Result<()> {
        payload::fill(number, &mut self.payload);
        let sent = Instant::now();
        let sent_us = wall_us().to_le_bytes();
        let message = Message::new(EXCHANGE, "", &self.payload).properties(&sent_us);
        self.publisher.publish_confirmed(&message)?;
        self.put(number, sent)
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        while !self.outstanding.is_empty() {
            self.wait_oldest()?;
        }
        self.flush()
    }

    fn wait_oldest(&mut self) -> anyhow::Result<()> {
        let Some((oldest, _, _)) = self.outstanding.front() else { return Ok(()) };
        let confirm = oldest.wait();
        self.settle(confirm)
    }

    /// Reports the oldest as confirmed, if it was.
    fn settle(&mut self, confirm: fanlog::Result<Confirm>) -> anyhow::Result<()> {
        confirm?;
        let Some((_, number, sent)) = self.outstanding.pop_front() else { return Ok(()) };
        self.put(number, sent)
    }

    fn put(&mut self, number: u64, sent: Instant) -> anyhow::Result<()> {
        let latency_ns = u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Confirmed { number, latency_ns }.put(&mut self.confirms);
        if as_u64(self.confirms.body.len()) >= 16 * as_u64(FRAME_CONFIRMS) {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if !self.confirms.body.is_empty() {
            self.outbox.send(&[&self.confirms])?;
            self.confirms.body.clear();
        }
        Ok(())
    }
}
