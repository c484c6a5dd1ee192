//! `recover`: time and memory of opening a store against its backlog.
//!
//! A child fills a store and is ended by SIGKILL, so that nothing is closed. A second child opens
//! it, takes the first message, and consumes the rest, while its anonymous memory is watched.
//! Beside it: what reading the whole store at the raw speed of the device would take, which is what
//! recovery must not do.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use fanlog::{Config, Consumer, ConsumerOptions, Engine};
use serde::{Deserialize, Serialize};

use crate::{
    console,
    floor::Floor,
    load::{self, Load},
    machine::Machine,
    place::{Common, Place},
    process,
    report::{Cell, Report},
    sample::{Spread, as_f64, as_u64, mib, per_second, ratio, short},
    store,
};

/// Deliveries taken and acked at a time while the backlog is consumed.
const BATCH: usize = 1_000;
/// Time between two looks at the memory.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Options of `recover`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Sizes of the backlog, in messages
    #[arg(long, value_delimiter = ',', default_value = "100000,1000000")]
    messages: Vec<u64>,
    /// Payload, in bytes
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Memory for recent messages, `window_bytes_max`, in MiB
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    window_mib: u32,
    /// Times that each store is opened; the median is shown with the lowest and the highest
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    Fill,
    Open,
}

/// Options of the hidden `recover-probe`.
#[derive(Debug, Args)]
pub(crate) struct ProbeOptions {
    #[arg(long)]
    store: PathBuf,
    #[arg(long, value_enum)]
    step: Step,
    #[arg(long, default_value_t = 0)]
    messages: u64,
    #[arg(long, default_value_t = 64)]
    size: usize,
    #[arg(long, default_value_t = 8)]
    window_mib: u32,
}

/// What an opening found.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    open_ms: f64,
    first_message_ms: f64,
    read_mib: f64,
    resident_mib: f64,
    anonymous_mib: f64,
    heap_growth_mib: f64,
    consuming_anonymous_peak_mib: f64,
    consumed_per_s: f64,
    replayed_batches: u64,
    clean: bool,
    end_offset: u64,
}

/// Picks a figure of an opening.
type Figure = fn(&Opened) -> f64;

impl Opened {
    /// What is shown of it, by name.
    const FIGURES: [(&str, Figure); 9] = [
        ("open_ms", |o| o.open_ms),
        ("first_message_ms", |o| o.first_message_ms),
        ("read_mib", |o| o.read_mib),
        ("anonymous_mib", |o| o.anonymous_mib),
        ("consuming_anonymous_peak_mib", |o| o.consuming_anonymous_peak_mib),
        ("resident_mib", |o| o.resident_mib),
        ("heap_growth_mib", |o| o.heap_growth_mib),
        ("consumed_per_s", |o| o.consumed_per_s),
        ("replayed_batches", |o| as_f64(o.replayed_batches)),
    ];
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let place = Place::new(&options.common)?;
    let machine = Machine::of(place.path());
    console::line(&machine.line())?;
    let mut floor = Floor::prepare(place.path())?;
    let mut report = Report::new("recover", machine);
    let figures = Opened::FIGURES.map(|(name, _)| name.replace('_', " "));
    let columns = figures.iter().map(String::as_str);
    let columns: Vec<&str> = ["backlog", "store MiB"]
        .into_iter()
        .chain(columns)
        .chain(["whole store read raw, ms", "open / raw read"])
        .collect();
    let mut table = console::table(&columns);
    for (number, &messages) in options.messages.iter().enumerate() {
        let store = place.join(&format!("store-{number}"));
        fill(&store, messages, options)?;
        let bytes = bytes_in(&store)?;
        let mut opened = Vec::new();
        let mut reads = Vec::new();
        for _ in 0..options.rounds {
            reads.push(floor.sequential_read(Duration::from_millis(200))?);
            // Each opening changes the store, so each gets a copy of what the kill left.
            let copy = place.join("copy");
            copy_files(&store, &copy)?;
            opened.push(open(&copy, messages, options)?);
            fs::remove_dir_all(&copy)?;
        }
        fs::remove_dir_all(&store)?;
        let scan_ms = Spread::of(reads.iter().map(|&read| ratio(mib(bytes), read) * 1e3));
        let per_scan = Spread::of(
            opened.iter().zip(&reads).map(|(o, &read)| ratio(o.open_ms, mib(bytes) / read * 1e3)),
        );
        let mut row = vec![messages.to_string(), short(mib(bytes))];
        let mut cell = Cell::new();
        cell.param("messages", messages)
            .param("size_bytes", options.size)
            .param("window_mib", options.window_mib)
            .param("rounds", options.rounds)
            .metric("store_mib", mib(bytes));
        for (name, figure) in Opened::FIGURES {
            let spread = Spread::of(opened.iter().map(figure));
            row.push(spread.to_string());
            cell.metric_spread(name, spread);
        }
        cell.floor_spread("sequential_read_mib_per_s", Spread::of(reads.iter().copied()))
            .floor_spread("whole_store_read_ms", scan_ms)
            .ratio_spread("open_per_whole_store_read", per_scan);
        row.extend([short(scan_ms.median), per_scan.to_string()]);
        table.add_row(row);
        report.results.push(cell);
    }
    console::line(&table.to_string())?;
    report.write(options.common.json.as_deref())
}

fn probe(store: &Path, step: &str, messages: u64, options: &Options) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.args(["recover-probe", "--step", step, "--store"]).arg(store);
    command.args(["--messages", &messages.to_string(), "--size", &options.size.to_string()]);
    command.args(["--window-mib", &options.window_mib.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(command)
}

/// Lets a child fill the store and ends it by SIGKILL once all is confirmed.
fn fill(store: &Path, messages: u64, options: &Options) -> anyhow::Result<()> {
    let mut child = probe(store, "fill", messages, options)?.spawn()?;
    let output = child.stdout.take().context("the child has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    child.kill()?;
    child.wait()?;
    anyhow::ensure!(line.trim() == "confirmed", "the child could not fill the store");
    Ok(())
}

fn open(store: &Path, messages: u64, options: &Options) -> anyhow::Result<Opened> {
    let output = probe(store, "open", messages, options)?.stderr(Stdio::inherit()).output()?;
    anyhow::ensure!(output.status.success(), "opening ended with {}", output.status);
    let opened: Opened = serde_json::from_slice(&output.stdout)?;
    anyhow::ensure!(
        opened.end_offset == messages && !opened.clean,
        "the store has {} of {messages} messages, clean: {}",
        opened.end_offset,
        opened.clean
    );
    Ok(opened)
}

fn bytes_in(dir: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

fn copy_files(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// The child's part.
pub(crate) fn run_probe(options: &ProbeOptions) -> anyhow::Result<()> {
    let window_bytes_max = usize::try_from(options.window_mib)? << 20;
    let config = Config { window_bytes_max, ..Config::default() };
    match options.step {
        Step::Fill => {
            let engine = store::open_with(&options.store, config)?;
            store::declare_queues(&engine, 1)?;
            let load = Load {
                size: options.size,
                publishers: 1,
                window: 1_000,
                messages: Some(options.messages),
                during: Duration::MAX,
            };
            load::run(&engine, load)?;
            console::line("confirmed")?;
            // Open until killed: the parent ends this process here.
            loop {
                std::thread::park();
            }
        }
        Step::Open => {
            let opened = open_and_consume(&options.store, config, options.messages)?;
            Ok(console::line(&serde_json::to_string(&opened)?)?)
        }
    }
}

fn open_and_consume(store: &Path, config: Config, messages: u64) -> anyhow::Result<Opened> {
    let heap = process::anonymous_kib();
    let read = process::read_bytes();
    let begin = Instant::now();
    let engine = Engine::open(store, config)?;
    let open = begin.elapsed();
    let read = process::read_bytes() - read;
    let (anonymous, resident) = (process::anonymous_kib(), process::resident_kib());
    let options = ConsumerOptions { prefetch: 4_000, ..ConsumerOptions::default() };
    let consumer = engine.consume(&store::queue_name(0), options)?;
    let first = consumer.recv()?;
    let first_message = begin.elapsed();
    first.ack()?;
    let begin = Instant::now();
    let peak = peak_of(|| consume(&consumer, messages - 1))?;
    let elapsed = begin.elapsed();
    let recovery = engine.recovery();
    let kib = |kib: u64| as_f64(kib) / 1024.0;
    let opened = Opened {
        open_ms: open.as_secs_f64() * 1e3,
        first_message_ms: first_message.as_secs_f64() * 1e3,
        read_mib: mib(read),
        resident_mib: kib(resident),
        anonymous_mib: kib(anonymous),
        heap_growth_mib: kib(anonymous.saturating_sub(heap)),
        consuming_anonymous_peak_mib: kib(peak),
        consumed_per_s: per_second(messages, elapsed),
        replayed_batches: recovery.replayed_batches,
        clean: recovery.clean,
        end_offset: recovery.end.0,
    };
    drop(consumer);
    store::close(&engine)?;
    Ok(opened)
}

/// Takes and acks so many messages, every one touched.
fn consume(consumer: &Consumer, messages: u64) -> anyhow::Result<()> {
    let mut left = messages;
    while left > 0 {
        let batch = consumer.recv_batch(BATCH, Duration::from_secs(10))?;
        anyhow::ensure!(!batch.is_empty(), "{left} messages are missing");
        let touched: u64 = batch.iter().map(|d| u64::from(d.payload()[0])).sum();
        std::hint::black_box(touched);
        left -= as_u64(batch.len());
        drop(batch.ack()?);
    }
    Ok(())
}

/// The most anonymous memory, in KiB, that this process had while `work` was done.
fn peak_of(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<u64> {
    let peak = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(process::anonymous_kib(), Ordering::Relaxed);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        let outcome = work();
        done.store(true, Ordering::Relaxed);
        outcome
    })?;
    Ok(peak.into_inner().max(process::anonymous_kib()))
}
