//! `scenario`: three platforms, consumers that die, a killed engine, and a judge.
//!
//! The parent process is the judge. It starts itself again as the *engine process*, which holds the
//! engine, the publishers and the three platforms with their consumers, and reports over a pipe:
//! a confirm only after the engine gave it, a delivery after the platform worked on it and before
//! it acks. In the middle the judge ends that process with SIGKILL, starts another on the same
//! store, and has it publish every number that was not confirmed. At the end it counts: each
//! confirmed number must have been reported by every platform, each with the payload that the
//! judge recomputes from the number.
//!
//! `frames` is what goes over the pipe; `life` the judge's end of one engine process; `trial` the
//! order of events; `judge` the books; `verdict` the table and the report. On the other side
//! `engine_process` holds `publishers`, `platform` and its three kinds `query`, `monitor`, `link`.

mod engine_process;
mod frames;
mod judge;
mod life;
mod link;
mod monitor;
mod platform;
mod publishers;
mod query;
mod trial;
mod verdict;

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    console,
    floor::Floor,
    machine::Machine,
    payload,
    place::{Common, Place},
};

pub(crate) use engine_process::run as run_engine;

/// The exchange that the computing platform publishes to.
const EXCHANGE: &str = "rt_compute_data";
/// The platforms' queues, in the order in which frames number them.
const QUEUES: [&str; 3] =
    ["rt_compute_data_query", "rt_compute_data_monitor", "rt_compute_data_link"];

/// Time for each kind of raw write, before the run and after it.
const FLOOR_FOR: Duration = Duration::from_millis(100);

/// Options of `scenario`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Messages to publish
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    messages: u64,
    /// Payload, in bytes, at least 48
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Consumers of each of the three queues
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    consumers: u16,
    /// Publishing threads
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    publishers: u16,
    /// Messages that each publisher may have unconfirmed
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    window: u32,
    /// Share of the messages that is confirmed when the engine is killed; 0 kills nothing
    #[arg(long, default_value_t = 0.5)]
    kill_at: f64,
    /// Messages that are published last and slowly, to measure latency without a backlog; at most
    /// a tenth of all
    #[arg(long, default_value_t = 5_000)]
    paced: u64,
    /// Rate of the paced messages, per second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    paced_rate: u32,
    /// Withhold one message from one platform, to prove that the judge finds it
    #[arg(long)]
    plant_loss: bool,
    #[command(flatten)]
    common: Common,
}

/// Options of the hidden `scenario-engine`.
#[derive(Debug, Args)]
pub(crate) struct EngineOptions {
    #[arg(long)]
    store: PathBuf,
    /// Directory of the platforms' own files
    #[arg(long)]
    files: PathBuf,
    #[arg(long)]
    size: usize,
    #[arg(long)]
    consumers: u16,
    #[arg(long)]
    publishers: u16,
    #[arg(long)]
    window: usize,
    /// Number of the message that the third platform never gets to see
    #[arg(long)]
    plant_loss: Option<u64>,
}

/// Runs the scenario and prints the verdict; false if anything was lost or corrupt.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    anyhow::ensure!(
        options.size >= payload::BYTES_MIN,
        "a payload has at least {} bytes",
        payload::BYTES_MIN
    );
    anyhow::ensure!((0.0..1.0).contains(&options.kill_at), "--kill-at is a share below 1");
    let place = Place::new(&options.common)?;
    let machine = Machine::of(place.path());
    console::line(&machine.line())?;
    let mut floor = Floor::prepare(place.path())?;
    let mut figures = vec![floor.round(FLOOR_FOR)?];
    let outcome = trial::run(options, &place)?;
    figures.push(floor.round(FLOOR_FOR)?);
    verdict::print(options, &outcome, &figures)?;
    let mut report = verdict::report(options, &outcome, machine);
    verdict::compare(&outcome, &figures, floor.direct(), &mut report);
    report.write(options.common.json.as_deref())?;
    Ok(outcome.passed())
}
