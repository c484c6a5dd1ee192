//! `queues`: what very many queues on one exchange cost to make, to save, to open, and a publisher.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use clap::Args;
use fanlog::{Change, Config, Engine};

use crate::{
    console,
    load::{self, Load},
    machine::Machine,
    place::{Common, Place},
    report::{Cell, Report},
    sample::{Latencies, Spread, as_f64, mib, ratio},
    store::{self, EXCHANGE},
};

/// Queues declared and bound in one commit, where they come one after the other.
const CHUNK: usize = 100;

/// Options of `queues`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Numbers of queues
    #[arg(long, value_delimiter = ',', default_value = "1000,100000")]
    queues: Vec<usize>,
    /// Times that each is measured, on a fresh store
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Messages of the lone publisher with, and as many without, checkpoints at work
    #[arg(long, default_value_t = 5_000)]
    messages: u64,
    #[command(flatten)]
    common: Common,
}

/// What one round found.
#[derive(Debug, Default)]
struct Found {
    declare_ms: f64,
    declare_in_commits_ms: f64,
    checkpoint_ms: f64,
    checkpoint_mib: f64,
    alone: Latencies,
    beside_checkpoints: Latencies,
    checkpoints: u64,
    open_ms: f64,
    delete_ms: f64,
}

/// Picks a figure of a round.
type Figure = fn(&Found) -> f64;

const FIGURES: [(&str, Figure); 13] = [
    ("declare_ms", |f| f.declare_ms),
    ("declare_in_commits_ms", |f| f.declare_in_commits_ms),
    ("checkpoint_ms", |f| f.checkpoint_ms),
    ("checkpoint_mib", |f| f.checkpoint_mib),
    ("confirm_p50_us", |f| f.alone.us(0.5)),
    ("confirm_p99_us", |f| f.alone.us(0.99)),
    ("confirm_p999_us", |f| f.alone.us(0.999)),
    ("beside_checkpoints_confirm_p50_us", |f| f.beside_checkpoints.us(0.5)),
    ("beside_checkpoints_confirm_p99_us", |f| f.beside_checkpoints.us(0.99)),
    ("beside_checkpoints_confirm_p999_us", |f| f.beside_checkpoints.us(0.999)),
    ("checkpoints", |f| as_f64(f.checkpoints)),
    ("open_ms", |f| f.open_ms),
    ("delete_ms", |f| f.delete_ms),
];

/// Measures and prints.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let place = Place::new(&options.common)?;
    let machine = Machine::of(place.path());
    console::line(&machine.line())?;
    let mut report = Report::new("queues", machine);
    let mut table = console::table(&["figure", "queues", "median (lowest-highest)"]);
    for &queues in &options.queues {
        let mut rounds = Vec::new();
        for _ in 0..options.rounds {
            let found = round(&place.join("store"), queues, options.messages)?;
            std::fs::remove_dir_all(place.join("store"))?;
            rounds.push(found);
        }
        let mut cell = Cell::new();
        cell.param("queues", queues)
            .param("messages", options.messages)
            .param("rounds", options.rounds);
        for (name, figure) in FIGURES {
            let spread = Spread::of(rounds.iter().map(figure));
            cell.metric_spread(name, spread);
            table.add_row([name.to_owned(), queues.to_string(), spread.to_string()]);
        }
        report.results.push(cell);
    }
    console::line(&table.to_string())?;
    report.write(options.common.json.as_deref())
}

fn milliseconds(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

/// Makes no checkpoint by itself, so that those that are measured are alone.
fn open(dir: &Path) -> anyhow::Result<Engine> {
    let config = Config {
        checkpoint_log_bytes: u64::MAX,
        checkpoint_interval: Duration::from_hours(1),
        ..Config::default()
    };
    store::open_with(dir, config)
}

fn round(dir: &Path, queues: usize, messages: u64) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let engine = open(dir)?;
    store::wait_prepared(&engine, Config::default().segments_ahead);
    found.declare_ms = milliseconds(|| store::declare_queues(&engine, queues))?;
    found.delete_ms = milliseconds(|| delete(&engine, queues))?;
    engine.checkpoint()?;
    found.declare_in_commits_ms = milliseconds(|| declare_in_commits(&engine, queues))?;

    // In turns, so that both meet the same machine.
    for _ in 0..4 {
        found.alone.add(&publish(&engine, messages / 4)?);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let checkpoints = scope.spawn(|| {
                let (mut count, mut all_ms) = (0, 0.0);
                while !done.load(Ordering::Relaxed) {
                    all_ms += milliseconds(|| Ok(engine.checkpoint()?))?;
                    count += 1;
                }
                anyhow::Ok((count, all_ms))
            });
            let published = publish(&engine, messages / 4);
            done.store(true, Ordering::Relaxed);
            let written =
                checkpoints.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            found.beside_checkpoints.add(&published?);
            found.checkpoints += written.0;
            found.checkpoint_ms += written.1;
            anyhow::Ok(())
        })?;
    }
    found.checkpoint_ms = ratio(found.checkpoint_ms, as_f64(found.checkpoints));
    store::close(&engine)?;
    drop(engine);
    found.checkpoint_mib = newest_checkpoint_mib(dir)?;
    let begin = Instant::now();
    let engine = open(dir)?;
    found.open_ms = begin.elapsed().as_secs_f64() * 1e3;
    store::close(&engine)?;
    Ok(found)
}

/// A lone publisher that waits for each message.
fn publish(engine: &Engine, messages: u64) -> anyhow::Result<Latencies> {
    let load = Load {
        size: 100,
        publishers: 1,
        window: 1,
        messages: Some(messages),
        during: Duration::MAX,
    };
    Ok(load::run(engine, load)?.latencies)
}

fn declare_in_commits(engine: &Engine, queues: usize) -> anyhow::Result<()> {
    let names: Vec<String> = (0..queues).map(store::queue_name).collect();
    for names in names.chunks(CHUNK) {
        let changes = names.iter().flat_map(|name| {
            let bind = Change::Bind { queue: name, exchange: EXCHANGE, routing_key: "" };
            [Change::declare_queue(name), bind]
        });
        engine.change(&changes.collect::<Vec<_>>())?;
    }
    Ok(())
}

fn delete(engine: &Engine, queues: usize) -> anyhow::Result<()> {
    let names: Vec<String> = (0..queues).map(store::queue_name).collect();
    let changes: Vec<_> = names.iter().map(|name| Change::DeleteQueue { name }).collect();
    Ok(engine.change(&changes)?)
}

fn newest_checkpoint_mib(dir: &Path) -> anyhow::Result<f64> {
    let mut newest = None;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "ckpt") {
            newest = newest.max(Some((entry.file_name(), entry.metadata()?.len())));
        }
    }
    Ok(newest.map_or(0.0, |(_, bytes)| mib(bytes)))
}
