//! `fanout`: what a publish costs from 1 to 1,000 bound queues.
//!
//! Every figure comes from a child process (`fanout-probe`), so that counters cover the engine
//! alone. Two shapes: *batched* publishes 64 messages and waits, which makes the number of commits
//! the same in every run, and gives bytes, instructions and system calls; *streamed* keeps 1,000
//! outstanding and gives the rate, in pairs with the run at one queue, one after the other.

mod probe;

use std::{ffi::OsString, path::Path, process::Command};

use anyhow::Context;
use clap::Args;

use crate::{
    console,
    counted::{self, Tool, Tools},
    machine::Machine,
    place::{Common, Place},
    report::{Cell, Report},
    sample::{Spread, as_f64, as_u64, per_second, ratio, short},
};

use probe::{Found, Shape};
pub(crate) use probe::{ProbeOptions, run_probe};

/// Options of `fanout`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Numbers of bound queues; each is measured in pairs with the first
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000")]
    queues: Vec<usize>,
    /// Only the row with waiting consumers, for the largest number of queues; without this both
    #[arg(long)]
    waiting: bool,
    /// Payload, in bytes
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Messages of a streamed run
    #[arg(long, default_value_t = 200_000)]
    messages: u64,
    /// Messages of a batched run that is counted, a multiple of 64
    #[arg(long, default_value_t = 32_000)]
    counted_messages: u64,
    /// Rounds of pairs; the median is shown with the lowest and the highest
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[command(flatten)]
    common: Common,
}

/// One row: so many queues, with or without a waiting consumer on each.
struct Row {
    queues: usize,
    waiting: bool,
    /// Streamed runs: messages per second, and that against the first row's run beside it.
    rates: Vec<f64>,
    pairs: Vec<f64>,
    batched: Option<Found>,
    instructions: Option<Spread>,
    system_calls: Option<Spread>,
}

/// Measures all rows and prints them.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let most = options.queues.iter().copied().max().context("no numbers of queues")?;
    let place = Place::new(&options.common)?;
    let machine = Machine::of(place.path());
    console::line(&machine.line())?;
    let tools = Tools::find(place.path());

    let mut rows: Vec<Row> = Vec::new();
    if !options.waiting {
        rows.extend(options.queues.iter().map(|&queues| Row::new(queues, false)));
    }
    rows.push(Row::new(most, true));
    let bar = console::progress(as_u64(rows.len()) * u64::from(options.rounds + 2), "fanout");
    let bench = Bench { options, place: place.path() };
    for _ in 0..options.rounds {
        for row in &mut rows {
            bar.set_message(row.name());
            bench.pair(row)?;
            bar.inc(1);
        }
    }
    for row in &mut rows {
        bar.set_message(row.name());
        row.batched = Some(bench.run(Shape::Batched, row, bench.counted_messages(row))?);
        bar.inc(1);
        row.instructions = bench.per_message(tools.instructions, row)?;
        row.system_calls = bench.per_message(tools.system_calls, row)?;
        bar.inc(1);
    }
    bar.finish_and_clear();

    print(&rows, tools)?;
    let mut report = Report::new("fanout", machine);
    report.results = rows.iter().map(|row| row.report(options, tools)).collect();
    report.write(options.common.json.as_deref())
}

/// What every run of a probe needs.
struct Bench<'a> {
    options: &'a Options,
    place: &'a Path,
}

impl Bench<'_> {
    /// One streamed run at one queue and one of `row`, one after the other.
    fn pair(&self, row: &mut Row) -> anyhow::Result<()> {
        let alone = Row::new(self.options.queues[0], false);
        let base = self.run(Shape::Streamed, &alone, self.messages(row))?.rate();
        let rate = self.run(Shape::Streamed, row, self.messages(row))?.rate();
        row.rates.push(rate);
        row.pairs.push(ratio(rate, base));
        Ok(())
    }

    /// With waiting consumers every message is delivered to each of them: fewer will do.
    fn messages(&self, row: &Row) -> u64 {
        if row.waiting { (self.options.messages / 50).max(1_000) } else { self.options.messages }
    }

    fn counted_messages(&self, row: &Row) -> u64 {
        if row.waiting {
            self.options.counted_messages / 100
        } else {
            self.options.counted_messages
        }
    }

    fn arguments(&self, shape: Shape, row: &Row, messages: u64) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            ["fanout-probe", "--shape", shape.name()].into_iter().map(OsString::from).collect();
        let numbers = [
            ("--queues", as_u64(row.queues)),
            ("--size", as_u64(self.options.size)),
            ("--messages", messages),
        ];
        for (name, number) in numbers {
            arguments.extend([name.into(), number.to_string().into()]);
        }
        if row.waiting {
            arguments.push("--waiting".into());
        }
        arguments.extend(["--store".into(), self.place.join("store").into()]);
        arguments
    }

    /// One run of the probe in a fresh store.
    fn run(&self, shape: Shape, row: &Row, messages: u64) -> anyhow::Result<Found> {
        let program = std::env::current_exe().context("finding this program")?;
        let output = Command::new(program)
            .args(self.arguments(shape, row, messages))
            .output()
            .context("starting a probe")?;
        anyhow::ensure!(
            output.status.success(),
            "the probe ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// What `tool` counts per message: runs of a fifth of the messages and of all of them, the
    /// difference by the messages between. Callgrind is exact but slow: two pairs will do.
    fn per_message(&self, tool: Option<Tool>, row: &Row) -> anyhow::Result<Option<Spread>> {
        let Some(tool) = tool else { return Ok(None) };
        let slow = tool == Tool::Callgrind;
        let rounds = if slow { self.options.rounds.min(2) } else { self.options.rounds };
        let all = self.counted_messages(row);
        let few = all / 5;
        let mut found = Vec::new();
        for _ in 0..rounds {
            let few_count =
                counted::count(tool, self.place, &self.arguments(Shape::Batched, row, few))?;
            let all_count =
                counted::count(tool, self.place, &self.arguments(Shape::Batched, row, all))?;
            found.push((as_f64(all_count) - as_f64(few_count)) / as_f64(all - few));
        }
        Ok(Some(Spread::of(found)))
    }
}

impl Row {
    fn new(queues: usize, waiting: bool) -> Row {
        Row {
            queues,
            waiting,
            rates: Vec::new(),
            pairs: Vec::new(),
            batched: None,
            instructions: None,
            system_calls: None,
        }
    }

    fn name(&self) -> String {
        let consumers = if self.waiting { self.queues } else { 0 };
        format!("{} queues, {consumers} waiting", self.queues)
    }

    fn report(&self, options: &Options, tools: Tools) -> Cell {
        let mut cell = Cell::new();
        let tool = |tool: Option<Tool>| tool.map(|tool| tool.to_string());
        cell.param("queues", self.queues)
            .param("waiting_consumers", if self.waiting { self.queues } else { 0 })
            .param("size_bytes", options.size)
            .param("rounds", options.rounds)
            .param("instructions_counted_by", tool(tools.instructions))
            .param("system_calls_counted_by", tool(tools.system_calls))
            .metric_spread("confirmed_per_s", Spread::of(self.rates.iter().copied()))
            .ratio_spread("rate_per_first_row", Spread::of(self.pairs.iter().copied()));
        if let Some(found) = &self.batched {
            cell.metric("log_bytes_per_message", found.per_message(found.log_bytes))
                .metric("device_bytes_per_message", found.per_message(found.device_bytes))
                .metric("syncs_per_message", found.per_message(found.syncs))
                .metric("delivered_per_message", found.per_message(found.delivered));
        }
        if let Some(spread) = self.instructions {
            cell.metric_spread("instructions_per_message", spread);
        }
        if let Some(spread) = self.system_calls {
            cell.metric_spread("system_calls_per_message", spread);
        }
        cell
    }
}

impl Found {
    fn rate(&self) -> f64 {
        per_second(self.messages, std::time::Duration::from_nanos(self.elapsed_ns))
    }

    fn per_message(&self, count: u64) -> f64 {
        ratio(as_f64(count), as_f64(self.messages))
    }
}

fn print(rows: &[Row], tools: Tools) -> anyhow::Result<()> {
    let mut table = console::table(&[
        "bound queues",
        "log B/msg",
        "device B/msg",
        "instructions/msg",
        "system calls/msg",
        "syncs/msg",
        "deliveries/msg",
        "confirmed/s",
        "rate / first row",
    ]);
    let counted = |spread: Option<Spread>| {
        spread.map_or_else(|| "not counted".to_owned(), |spread| spread.to_string())
    };
    for row in rows {
        let batched = |count: fn(&Found) -> u64| {
            let found = row.batched.as_ref();
            found.map_or_else(String::new, |found| short(found.per_message(count(found))))
        };
        table.add_row([
            row.name(),
            batched(|found| found.log_bytes),
            batched(|found| found.device_bytes),
            counted(row.instructions),
            counted(row.system_calls),
            batched(|found| found.syncs),
            batched(|found| found.delivered),
            Spread::of(row.rates.iter().copied()).to_string(),
            Spread::of(row.pairs.iter().copied()).to_string(),
        ]);
    }
    console::line(&table.to_string())?;
    console::line(&tool_line("instructions", tools.instructions))?;
    console::line(&tool_line("system calls", tools.system_calls))?;
    Ok(())
}

fn tool_line(what: &str, tool: Option<Tool>) -> String {
    match tool {
        Some(tool) => format!("{what}: {tool}, difference of two runs by the messages between"),
        None => format!("{what}: not counted, no tool for it works on this machine"),
    }
}
