//! `recover`: time and memory of opening a store against its backlog.
//!
//! A child fills a store and is ended by SIGKILL, so that nothing is closed. A second child opens
//! it and takes the first message. Beside it: what reading the whole store at the raw speed of the
//! device would take, which is what recovery must not do.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use fanlog::ConsumerOptions;
use serde::{Deserialize, Serialize};

use crate::{
    console,
    floor::Floor,
    load::{self, Load},
    machine::Machine,
    place::{Common, Place},
    process,
    report::{Cell, Report},
    sample::{Spread, as_f64, mib, ratio, short},
    store,
};

/// Options of `recover`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Sizes of the backlog, in messages
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000")]
    messages: Vec<u64>,
    /// Payload, in bytes
    #[arg(long, default_value_t = 256)]
    size: usize,
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
}

/// What an opening found.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    open_ms: f64,
    first_message_ms: f64,
    resident_mib: f64,
    heap_growth_mib: f64,
    replayed_batches: u64,
    clean: bool,
    end_offset: u64,
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let place = Place::new(&options.common)?;
    let machine = Machine::of(place.path());
    console::line(&machine.line())?;
    let mut floor = Floor::prepare(place.path())?;
    let mut report = Report::new("recover", machine);
    let mut table = console::table(&[
        "backlog",
        "store MiB",
        "open ms",
        "first message ms",
        "resident MiB",
        "heap growth MiB",
        "batches replayed",
        "whole store read raw, ms",
        "open / raw read",
    ]);
    for (number, &messages) in options.messages.iter().enumerate() {
        let store = place.join(&format!("store-{number}"));
        fill(&store, messages, options.size)?;
        let bytes = bytes_in(&store)?;
        let mut opened = Vec::new();
        let mut reads = Vec::new();
        for _ in 0..options.rounds {
            reads.push(floor.sequential_read(Duration::from_millis(200))?);
            // Each opening changes the store, so each gets a copy of what the kill left.
            let copy = place.join("copy");
            copy_files(&store, &copy)?;
            opened.push(open(&copy, messages)?);
            fs::remove_dir_all(&copy)?;
        }
        fs::remove_dir_all(&store)?;
        let scan_ms = Spread::of(reads.iter().map(|&read| ratio(mib(bytes), read) * 1e3));
        let of = |figure: fn(&Opened) -> f64| Spread::of(opened.iter().map(figure));
        let per_scan = Spread::of(
            opened.iter().zip(&reads).map(|(o, &read)| ratio(o.open_ms, mib(bytes) / read * 1e3)),
        );
        let replayed = of(|o| as_f64(o.replayed_batches));
        table.add_row([
            messages.to_string(),
            short(mib(bytes)),
            of(|o| o.open_ms).to_string(),
            of(|o| o.first_message_ms).to_string(),
            short(of(|o| o.resident_mib).median),
            short(of(|o| o.heap_growth_mib).median),
            short(replayed.median),
            short(scan_ms.median),
            per_scan.to_string(),
        ]);
        let mut cell = Cell::new();
        cell.param("messages", messages)
            .param("size_bytes", options.size)
            .param("rounds", options.rounds)
            .metric("store_mib", mib(bytes))
            .metric_spread("open_ms", of(|o| o.open_ms))
            .metric_spread("first_message_ms", of(|o| o.first_message_ms))
            .metric_spread("resident_mib", of(|o| o.resident_mib))
            .metric_spread("heap_growth_mib", of(|o| o.heap_growth_mib))
            .metric_spread("replayed_batches", replayed)
            .floor_spread("sequential_read_mib_per_s", Spread::of(reads.iter().copied()))
            .floor_spread("whole_store_read_ms", scan_ms)
            .ratio_spread("open_per_whole_store_read", per_scan);
        report.results.push(cell);
    }
    console::line(&table.to_string())?;
    report.write(options.common.json.as_deref())
}

fn probe(store: &Path, step: &str, messages: u64, size: usize) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.args(["recover-probe", "--step", step, "--store"]).arg(store);
    command.args(["--messages", &messages.to_string(), "--size", &size.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(command)
}

/// Lets a child fill the store and ends it by SIGKILL once all is confirmed.
fn fill(store: &Path, messages: u64, size: usize) -> anyhow::Result<()> {
    let mut child = probe(store, "fill", messages, size)?.spawn()?;
    let output = child.stdout.take().context("the child has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    child.kill()?;
    child.wait()?;
    anyhow::ensure!(line.trim() == "confirmed", "the child could not fill the store");
    Ok(())
}

fn open(store: &Path, messages: u64) -> anyhow::Result<Opened> {
    let output = probe(store, "open", messages, 0)?.stderr(Stdio::inherit()).output()?;
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
    match options.step {
        Step::Fill => {
            let engine = store::open(&options.store, 2)?;
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
            let heap = process::anonymous_kib();
            let begin = Instant::now();
            let engine = fanlog::Engine::open(&options.store, fanlog::Config::default())?;
            let open = begin.elapsed();
            let heap_growth = process::anonymous_kib().saturating_sub(heap);
            let resident = process::resident_kib();
            let consumer = engine.consume(&store::queue_name(0), ConsumerOptions::default())?;
            let first = consumer.recv()?;
            let first_message = begin.elapsed();
            drop(first);
            let recovery = engine.recovery();
            let opened = Opened {
                open_ms: open.as_secs_f64() * 1e3,
                first_message_ms: first_message.as_secs_f64() * 1e3,
                resident_mib: as_f64(resident) / 1024.0,
                heap_growth_mib: as_f64(heap_growth) / 1024.0,
                replayed_batches: recovery.replayed_batches,
                clean: recovery.clean,
                end_offset: recovery.end.0,
            };
            console::line(&serde_json::to_string(&opened)?)?;
            drop(consumer);
            store::close(&engine)
        }
    }
}
