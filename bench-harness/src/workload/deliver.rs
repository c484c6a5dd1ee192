//! `deliver`: deliveries per second of a backlog, from memory and from the files.
//!
//! *tail*: consumers drain a backlog that fits into the window of recent batches. *cold*: the
//! store is opened again first, so that every byte comes from the segments (through the page cache
//! of the system, which is as warm as the machine left it).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use clap::Args;
use fanlog::{ConsumerOptions, Engine};

use crate::{
    console,
    floor::Floor,
    load::{self, Load},
    machine::Machine,
    place::{Common, Place},
    report::{Cell, Report},
    sample::{Spread, as_u64, mib, per_second, ratio, short},
    store,
};

/// Deliveries in one batch.
const BATCH: usize = 1_000;

/// Options of `deliver`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Payload, in bytes
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Messages in the backlog; by default as many as take 48 MiB
    #[arg(long)]
    messages: Option<u64>,
    /// Numbers of consumers that share the queue
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    consumers: Vec<usize>,
    /// Rounds; the median is shown with the lowest and the highest
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[command(flatten)]
    common: Common,
}

/// One cell: where the bytes come from and how many consumers there are.
struct Row {
    cold: bool,
    consumers: usize,
    rates: Vec<f64>,
    mib_rates: Vec<f64>,
    read_floors: Vec<f64>,
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let place = Place::new(&options.common)?;
    let machine = Machine::of(place.path());
    console::line(&machine.line())?;
    let mut floor = Floor::prepare(place.path())?;
    let messages = options.messages.unwrap_or((48 << 20) / as_u64(options.size.max(64)));
    let mut rows: Vec<Row> = Vec::new();
    for cold in [false, true] {
        rows.extend(options.consumers.iter().map(|&consumers| Row::new(cold, consumers)));
    }
    let bar = console::progress(as_u64(rows.len()) * u64::from(options.rounds), "deliver");
    for _ in 0..options.rounds {
        for row in &mut rows {
            let read = floor.sequential_read(Duration::from_millis(100))?;
            let mut engine = store::open(&place.join("store"), 2)?;
            fill(&engine, options.size, messages)?;
            if row.cold {
                store::close(&engine)?;
                drop(engine);
                engine = store::open(&place.join("store"), 2)?;
            }
            let elapsed = drain(&engine, row.consumers, messages)?;
            engine.delete_queue(&store::queue_name(0))?;
            store::close(&engine)?;
            row.rates.push(per_second(messages, elapsed));
            let bytes = messages * as_u64(options.size);
            row.mib_rates.push(ratio(mib(bytes), elapsed.as_secs_f64()));
            row.read_floors.push(read);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    print(&rows)?;
    let mut report = Report::new("deliver", machine);
    report.results = rows.iter().map(|row| row.report(options, messages)).collect();
    report.write(options.common.json.as_deref())
}

fn fill(engine: &Engine, size: usize, messages: u64) -> anyhow::Result<()> {
    store::declare_queues(engine, 1)?;
    let load = Load {
        size,
        publishers: 1,
        window: 1_000,
        messages: Some(messages),
        during: Duration::MAX,
    };
    load::run(engine, load)?;
    Ok(())
}

/// Drains queue 0 with so many consumers, every message touched and acked.
fn drain(engine: &Engine, consumers: usize, messages: u64) -> anyhow::Result<Duration> {
    let delivered = AtomicU64::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let work = || -> anyhow::Result<()> {
            let options = ConsumerOptions { prefetch: 4_000, ..ConsumerOptions::default() };
            let consumer = engine.consume(&store::queue_name(0), options)?;
            while delivered.load(Ordering::Relaxed) < messages {
                let batch = consumer.recv_batch(BATCH, Duration::from_millis(10))?;
                if batch.is_empty() {
                    continue;
                }
                let touched: u64 = batch.iter().map(|d| u64::from(d.payload()[0])).sum();
                std::hint::black_box(touched);
                let count = as_u64(batch.len());
                drop(batch.ack()?);
                delivered.fetch_add(count, Ordering::Relaxed);
            }
            Ok(())
        };
        let threads: Vec<_> = (0..consumers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| anyhow::anyhow!("a consumer panicked"))?
        })
    })?;
    Ok(begin.elapsed())
}

impl Row {
    fn new(cold: bool, consumers: usize) -> Row {
        Row { cold, consumers, rates: Vec::new(), mib_rates: Vec::new(), read_floors: Vec::new() }
    }

    fn from(&self) -> &'static str {
        if self.cold { "cold" } else { "tail" }
    }

    fn against_read(&self) -> Spread {
        Spread::of(self.mib_rates.iter().zip(&self.read_floors).map(|(&a, &b)| ratio(a, b)))
    }

    fn report(&self, options: &Options, messages: u64) -> Cell {
        let mut cell = Cell::new();
        let rates = || self.rates.iter().copied();
        cell.param("from", self.from())
            .param("consumers", self.consumers)
            .param("messages", messages)
            .param("size_bytes", options.size)
            .param("rounds", options.rounds)
            .metric_spread("delivered_per_s", Spread::of(rates()))
            .metric_spread("ns_per_delivery", Spread::of(rates().map(|rate| ratio(1e9, rate))))
            .metric_spread("payload_mib_per_s", Spread::of(self.mib_rates.iter().copied()))
            .floor_spread("sequential_read_mib_per_s", Spread::of(self.read_floors.iter().copied()))
            .ratio_spread("payload_per_sequential_read", self.against_read());
        cell
    }
}

fn print(rows: &[Row]) -> anyhow::Result<()> {
    let mut table = console::table(&[
        "backlog x consumers",
        "delivered/s",
        "ns each",
        "MiB/s",
        "raw read MiB/s",
        "MiB / raw read",
    ]);
    for row in rows {
        let rate = Spread::of(row.rates.iter().copied());
        table.add_row([
            format!("{} x {}", row.from(), row.consumers),
            rate.to_string(),
            short(ratio(1e9, rate.median)),
            Spread::of(row.mib_rates.iter().copied()).to_string(),
            Spread::of(row.read_floors.iter().copied()).to_string(),
            row.against_read().to_string(),
        ]);
    }
    console::line(&table.to_string())?;
    Ok(())
}
