//! Confirms of a lone publisher, to the same queue, beside a paced stream, with and without reclaim at work.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use fanlog::{Engine, ExchangeKind, Message, Stats};

use super::{
    Options,
    keeper::{Fate, Keeper},
    length, paired, per_second_of,
};
use crate::{
    console,
    place::Place,
    report::Cell,
    sample::{Latencies, Spread, as_f64, ratio, short_time},
    store,
};

/// The stream is topped up so often.
const TICK: Duration = Duration::from_millis(2);

/// What reclaim has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Nothing is acked: nothing.
    Idle,
    /// All is acked: whole segments are used again.
    Recycling,
    /// A share stays: segments are rewritten.
    Rewriting,
}

const MODES: [Mode; 3] = [Mode::Idle, Mode::Recycling, Mode::Rewriting];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Idle => "nothing acked",
            Self::Recycling => "all acked",
            Self::Rewriting => "a share kept",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Recycling => "recycling",
            Self::Rewriting => "rewriting",
        }
    }
}

/// One part of one round.
#[derive(Debug, Default)]
struct Sample {
    p50_us: f64,
    p99_us: f64,
    /// Of what the stream should have been.
    reached: f64,
    rewritten_per_published: f64,
    recycled: u64,
}

/// All rounds of each mode.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    samples: [Vec<Sample>; 3],
}

/// Runs all modes in every round, after a round that is thrown away.
pub(super) fn measure(options: &Options, place: &Place) -> anyhow::Result<Rounds> {
    let engine =
        Engine::open(place.join("paced"), options.config()).context("opening the store")?;
    engine.declare_exchange(store::EXCHANGE, ExchangeKind::Fanout)?;
    let mut rounds = Rounds::default();
    let bar = console::progress(u64::from(options.rounds + 1) * 3, "reclaim");
    for round in 0..=options.rounds {
        for step in 0..3 {
            // Each mode comes first, second and last in turn.
            let which = length(u64::from(round) + step) % 3;
            bar.set_message(MODES[which].name());
            let sample = part(options, &engine, MODES[which])?;
            if round > 0 {
                rounds.samples[which].push(sample);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    store::close(&engine)?;
    Ok(rounds)
}

/// One part: a fresh queue, half a run-up that is not measured.
fn part(options: &Options, engine: &Engine, mode: Mode) -> anyhow::Result<Sample> {
    store::declare_queues(engine, 1)?;
    let fate = match mode {
        Mode::Idle => Fate::None,
        Mode::Recycling => Fate::Keep(0),
        Mode::Rewriting => Fate::Keep(options.keep_per_mille),
    };
    let stop = AtomicBool::new(false);
    let acked = AtomicU64::new(0);
    let streamed = AtomicU64::new(0);
    let sample = thread::scope(|scope| {
        let streaming = scope.spawn(|| stream(options, engine, &stop, &streamed));
        let consuming = scope.spawn(|| {
            let mut keeper = Keeper::new(engine, fate)?;
            while !stop.load(Ordering::Relaxed) {
                if keeper.fetch(&acked)? == 0 {
                    thread::sleep(Duration::from_micros(500));
                }
            }
            anyhow::Ok(keeper.held())
        });
        let probed = run_up_and_probe(options, engine, &streamed);
        stop.store(true, Ordering::Relaxed);
        streaming.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;
        consuming.join().map_err(|_| anyhow::anyhow!("the consumer panicked"))??;
        probed
    })?;
    store::renew(engine, 1)?;
    engine.delete_queue(&store::queue_name(0))?;
    Ok(sample)
}

fn run_up_and_probe(
    options: &Options,
    engine: &Engine,
    streamed: &AtomicU64,
) -> anyhow::Result<Sample> {
    thread::sleep(options.seconds / 2);
    let before = engine.stats();
    let (streamed_before, began) = (streamed.load(Ordering::Relaxed), Instant::now());
    let latencies = probe(engine, options.seconds)?;
    let streamed = streamed.load(Ordering::Relaxed) - streamed_before;
    let wanted =
        as_f64(per_second_of(options.paced_mib, options.size)) * began.elapsed().as_secs_f64();
    let after: Stats = engine.stats();
    let published = after.published_bytes - before.published_bytes;
    Ok(Sample {
        p50_us: latencies.us(0.5),
        p99_us: latencies.us(0.99),
        reached: ratio(as_f64(streamed), wanted),
        rewritten_per_published: ratio(
            as_f64(after.rewritten_bytes - before.rewritten_bytes),
            as_f64(published),
        ),
        recycled: after.segments_recycled - before.segments_recycled,
    })
}

/// Publishes at the rate that was asked for, in bursts of a tick, and waits for nothing but room.
fn stream(
    options: &Options,
    engine: &Engine,
    stop: &AtomicBool,
    streamed: &AtomicU64,
) -> anyhow::Result<()> {
    let publisher = engine.publisher();
    let payload = vec![0x5a; length(options.size)];
    let per_second = as_f64(per_second_of(options.paced_mib, options.size));
    let began = Instant::now();
    let mut sent = 0;
    let mut last = None;
    while !stop.load(Ordering::Relaxed) {
        while as_f64(sent) < began.elapsed().as_secs_f64() * per_second {
            last = Some(publisher.publish(&Message::new(store::EXCHANGE, "", &payload))?);
            sent += 1;
            streamed.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(TICK);
    }
    Ok(last.map_or(Ok(()), |ticket| ticket.wait().map(drop))?)
}

/// One message after the other, each waited for.
fn probe(engine: &Engine, during: Duration) -> anyhow::Result<Latencies> {
    let publisher = engine.publisher();
    let queue = store::queue_name(0);
    let mut latencies = Latencies::default();
    let began = Instant::now();
    while began.elapsed() < during {
        let sent = Instant::now();
        publisher.publish_confirmed(&Message::new("", &queue, b"confirm me"))?;
        latencies.record(sent.elapsed());
    }
    Ok(latencies)
}

impl Rounds {
    fn of(&self, mode: Mode, figure: fn(&Sample) -> f64) -> Vec<f64> {
        let at = MODES.iter().position(|other| *other == mode).unwrap_or(0);
        self.samples[at].iter().map(figure).collect()
    }

    fn against_idle(&self, mode: Mode) -> Spread {
        paired(&self.of(mode, |one| one.p99_us), &self.of(Mode::Idle, |one| one.p99_us))
    }

    pub(super) fn print(&self, options: &Options) -> anyhow::Result<()> {
        let mut table = console::table(&[
            "reclaim",
            "confirm p50",
            "confirm p99 (lowest-highest)",
            "p99 / nothing acked",
            "rewritten / published byte",
            "segments recycled",
            "stream reached",
        ]);
        for mode in MODES {
            let spread = |figure: fn(&Sample) -> f64| Spread::of(self.of(mode, figure));
            let p99 = spread(|one| one.p99_us);
            let range = format!("{}-{}", short_time(p99.min), short_time(p99.max));
            table.add_row([
                mode.name().to_owned(),
                short_time(spread(|one| one.p50_us).median),
                format!("{} ({range})", short_time(p99.median)),
                self.against_idle(mode).to_string(),
                spread(|one| one.rewritten_per_published).to_string(),
                spread(|one| as_f64(one.recycled)).to_string(),
                spread(|one| one.reached).to_string(),
            ]);
        }
        console::line(&format!("stream of {} MiB/s", options.paced_mib))?;
        Ok(console::line(&table.to_string())?)
    }

    pub(super) fn report(&self, options: &Options) -> Cell {
        let mut cell = Cell::new();
        cell.param("part", "paced")
            .param("paced_mib_per_s", options.paced_mib)
            .param("size_bytes", options.size)
            .param("keep_per_mille", options.keep_per_mille)
            .param("segment_mib", options.segment_mib)
            .param("seconds", options.seconds.as_secs_f64())
            .param("rounds", options.rounds);
        for mode in MODES {
            let spread = |figure: fn(&Sample) -> f64| Spread::of(self.of(mode, figure));
            let key = mode.key();
            cell.metric_spread(&format!("{key}_confirm_p50_us"), spread(|one| one.p50_us))
                .metric_spread(&format!("{key}_confirm_p99_us"), spread(|one| one.p99_us))
                .metric_spread(
                    &format!("{key}_rewritten_per_published_byte"),
                    spread(|one| one.rewritten_per_published),
                )
                .metric_spread(
                    &format!("{key}_segments_recycled"),
                    spread(|one| as_f64(one.recycled)),
                )
                .metric_spread(&format!("{key}_stream_reached"), spread(|one| one.reached));
        }
        cell.ratio_spread("recycling_p99_per_idle_p99", self.against_idle(Mode::Recycling))
            .ratio_spread("rewriting_p99_per_idle_p99", self.against_idle(Mode::Rewriting));
        cell
    }
}
