//! The order of events: publish, drop consumers, kill, start again, pace, finish.
//!
//! T1. A confirm is booked only when it came through the pipe, also after the kill: the pipe is
//!     drained to its end before the next engine process starts.
//! T2. Numbers that are not booked as confirmed are published again; copies are counted.
//! T3. Waiting ends: when the books are complete, when the queues are empty and nothing came for
//!     2 s, or when nothing came for 30 s. What is missing then is lost.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::Context;
use indicatif::ProgressBar;

use super::{
    Options, QUEUES,
    frames::{Confirmed, Counters, Frame, Kind, Ready, Seen, Summary},
    judge::Judge,
    life::{Life, Next},
    query,
};
use crate::{console, place::Place, sample::as_count, sample::as_f64};

/// How long the judge waits for reports once the queues say that they are empty.
const EMPTY_FOR: Duration = Duration::from_secs(2);
/// How long the judge waits for any report.
const SILENT_FOR: Duration = Duration::from_secs(30);
/// How often the judge looks up from an empty pipe.
const LOOK_UP: Duration = Duration::from_millis(100);

/// All that the trial found.
pub(crate) struct Outcome {
    pub(crate) judge: Judge,
    /// One per life of the engine.
    pub(crate) readies: Vec<Ready>,
    pub(crate) counters: Vec<Counters>,
    pub(crate) summary: Summary,
    /// Rows of the query platform's database: right ones, wrong ones.
    pub(crate) rows: (u64, u64),
    /// Time in which messages were published as fast as possible.
    pub(crate) publishing: Duration,
    /// Time in which those messages were delivered.
    pub(crate) delivering: Duration,
    /// From the kill to the store open again.
    pub(crate) restart: Option<Duration>,
    /// Confirmed when the engine was killed.
    pub(crate) confirmed_at_kill: u64,
    /// Seen by a platform before the kill, with no confirm that reached the judge.
    pub(crate) in_doubt_but_stored: u64,
    pub(crate) elapsed: Duration,
}

/// Runs the trial.
pub(crate) fn run(options: &Options, place: &Place) -> anyhow::Result<Outcome> {
    let begin = Instant::now();
    let paced = options.paced.min(options.messages / 10);
    let rush = 0..options.messages - paced;
    let judge = Judge::new(options.messages, paced, options.size, options.consumers);
    let mut trial = Trial::new(options, place, judge)?;

    let mut restart = None;
    let (mut confirmed_at_kill, mut in_doubt_but_stored) = (0, 0);
    trial.publish(0, rush.clone())?;
    if options.kill_at > 0.0 {
        trial.run_until_kill()?;
        let killed = Instant::now();
        trial.kill()?;
        confirmed_at_kill = trial.judge.confirmed();
        in_doubt_but_stored = trial.judge.in_doubt_but_stored();
        trial.restart(options, place)?;
        restart = Some(killed.elapsed());
        trial.publish(0, rush)?;
    }
    trial.run_to_the_end(false)?;
    trial.end_stretch();
    let (publishing, delivering) = (trial.publishing, trial.delivering);
    trial.publish(options.paced_rate, options.messages - paced..options.messages)?;
    trial.run_to_the_end(true)?;
    let summary = trial.finish()?;
    trial.bar.finish_and_clear();
    let rows = query::check_rows(&place.join("platforms"), options.messages, options.size)?;
    Ok(Outcome {
        judge: trial.judge,
        readies: trial.readies,
        counters: trial.counters,
        summary,
        rows,
        publishing,
        delivering,
        restart,
        confirmed_at_kill,
        in_doubt_but_stored,
        elapsed: begin.elapsed(),
    })
}

struct Trial {
    judge: Judge,
    life: Life,
    readies: Vec<Ready>,
    counters: Vec<Counters>,
    summary: Option<Summary>,
    drop_at: u64,
    kill_at: u64,
    drop_asked: bool,
    last_report: Instant,
    /// Begin of the stretch in which this life publishes as fast as possible, its last confirm
    /// and its last delivery.
    stretch: Option<Stretch>,
    publishing: Duration,
    delivering: Duration,
    bar: ProgressBar,
}

#[derive(Clone, Copy)]
struct Stretch {
    begin: Instant,
    last_confirm: Instant,
    last_seen: Instant,
}

impl Trial {
    fn new(options: &Options, place: &Place, judge: Judge) -> anyhow::Result<Trial> {
        let share = if options.kill_at > 0.0 { options.kill_at } else { 0.5 };
        let kill_at = as_count(as_f64(options.messages) * share).max(1);
        let mut trial = Trial {
            judge,
            life: Life::start(options, place)?,
            readies: Vec::new(),
            counters: Vec::new(),
            summary: None,
            drop_at: kill_at / 2,
            kill_at,
            drop_asked: false,
            last_report: Instant::now(),
            stretch: None,
            publishing: Duration::ZERO,
            delivering: Duration::ZERO,
            bar: console::progress(options.messages, "scenario"),
        };
        trial.wait_ready()?;
        Ok(trial)
    }

    /// Has the numbers of `range` published that are not confirmed.
    fn publish(&mut self, rate: u32, range: Range<u64>) -> anyhow::Result<()> {
        let mut frame = Frame::new(Kind::Publish);
        frame.put_ranges(rate, &self.judge.unconfirmed(range));
        self.last_report = Instant::now();
        if rate == 0 {
            let begin = self.last_report;
            self.stretch = Some(Stretch { begin, last_confirm: begin, last_seen: begin });
        }
        self.life.send(&frame)
    }

    fn run_until_kill(&mut self) -> anyhow::Result<()> {
        // A run too short for every drop before the kill does the rest after it.
        while self.judge.confirmed() < self.kill_at
            || (!self.all_dropped() && !self.judge.complete(false))
        {
            self.step()?;
            anyhow::ensure!(
                self.last_report.elapsed() < SILENT_FOR,
                "no confirm and no delivery for {SILENT_FOR:?} before the kill"
            );
        }
        Ok(())
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.life.kill()?;
        while let Next::Frame(frame) = self.life.next(SILENT_FOR)? {
            self.book(&frame)?;
        }
        self.end_stretch();
        Ok(())
    }

    fn restart(&mut self, options: &Options, place: &Place) -> anyhow::Result<()> {
        self.life = Life::start(options, place)?;
        self.drop_asked = self.all_dropped();
        self.wait_ready()
    }

    fn run_to_the_end(&mut self, paced_too: bool) -> anyhow::Result<()> {
        while !self.judge.complete(paced_too) {
            self.step()?;
            let silent = self.last_report.elapsed();
            let empty = self.counters.last().is_some_and(|counters| counters.depth == 0);
            if silent > SILENT_FOR || (empty && silent > EMPTY_FOR) {
                break;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<Summary> {
        self.life.send(&Frame::new(Kind::Finish))?;
        self.last_report = Instant::now();
        while self.summary.is_none() {
            self.step()?;
            anyhow::ensure!(
                self.last_report.elapsed() < 4 * SILENT_FOR,
                "the engine process does not finish"
            );
        }
        self.life.wait()?;
        self.summary.take().context("no summary")
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let lives = self.readies.len();
        let begin = Instant::now();
        while self.readies.len() == lives {
            self.step()?;
            anyhow::ensure!(begin.elapsed() < 4 * SILENT_FOR, "the store does not open");
        }
        Ok(())
    }

    /// Takes one frame, if there is one, and asks for the drop when it is time.
    fn step(&mut self) -> anyhow::Result<()> {
        match self.life.next(LOOK_UP)? {
            Next::Frame(frame) => self.book(&frame)?,
            Next::Nothing => {}
            Next::End => anyhow::bail!("the engine process ended by itself"),
        }
        if !self.drop_asked && self.judge.confirmed() >= self.drop_at {
            self.drop_asked = true;
            self.life.send(&Frame::new(Kind::DropConsumers))?;
        }
        Ok(())
    }

    fn all_dropped(&self) -> bool {
        self.judge.queues.iter().all(|queue| queue.held.is_some())
    }

    fn book(&mut self, frame: &Frame) -> anyhow::Result<()> {
        match frame.kind {
            Kind::Ready => {
                self.readies.push(serde_json::from_slice(&frame.body)?);
                self.counters.push(Counters::default());
            }
            Kind::Confirmed => {
                Confirmed::all(frame).for_each(|confirm| self.judge.confirm(confirm));
                self.last_report = Instant::now();
                if let Some(stretch) = &mut self.stretch {
                    stretch.last_confirm = self.last_report;
                }
            }
            Kind::Seen => {
                for seen in Seen::all(frame) {
                    self.judge.seen(frame.queue, frame.consumer, seen);
                }
                self.last_report = Instant::now();
                if let Some(stretch) = &mut self.stretch {
                    stretch.last_seen = self.last_report;
                }
            }
            Kind::Alerts => {
                self.judge.queues[usize::from(frame.queue)].alerts.extend(frame.numbers());
            }
            Kind::Held => {
                let held = frame.numbers().collect();
                self.judge.queues[usize::from(frame.queue)].held = Some(held);
            }
            Kind::Counters => {
                let counters = serde_json::from_slice(&frame.body)?;
                *self.counters.last_mut().context("counters before ready")? = counters;
                self.show();
            }
            Kind::Summary => self.summary = Some(serde_json::from_slice(&frame.body)?),
            Kind::Failed | Kind::Publish | Kind::DropConsumers | Kind::Finish => {
                anyhow::bail!("a frame that goes the other way")
            }
        }
        Ok(())
    }

    fn show(&self) {
        self.bar.set_position(self.judge.progress());
        let backlog = self.counters.last().map_or(0, |counters| counters.depth);
        let lives = self.readies.len();
        self.bar.set_message(format!(
            "confirmed {}, backlog of {} queues {backlog}, life {lives}",
            self.judge.confirmed(),
            QUEUES.len(),
        ));
    }

    /// Adds the stretch that ends now to the times.
    fn end_stretch(&mut self) {
        if let Some(stretch) = self.stretch.take() {
            self.publishing += stretch.last_confirm - stretch.begin;
            self.delivering += stretch.last_seen - stretch.begin;
        }
    }
}
