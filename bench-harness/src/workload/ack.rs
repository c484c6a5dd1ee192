//! `ack`: what an ack costs in several orders, and how long one that is waited for takes.
//!
//! The lazy acks are handed over to the engine and ride along with a later batch, so their figure
//! is one of the processor. The waited ack is one synced write, and stands beside the raw one.

use std::time::{Duration, Instant};

use clap::Args;
use fanlog::{Consumer, ConsumerOptions, DeliveryTag, Engine};

use crate::{
    console,
    floor::Floor,
    load::{self, Load},
    machine::Machine,
    payload,
    place::{Common, Place},
    report::{Cell, Report},
    sample::{Latencies, Spread, as_f64, as_u64, ratio, short},
    store,
};

/// Options of `ack`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Messages held by one consumer and acked in each round, at most 60,000
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    messages: u64,
    /// Acks that are waited for, one after the other, in each round
    #[arg(long, default_value_t = 1_000)]
    waited: u64,
    /// Rounds; the median is shown with the lowest and the highest
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[command(flatten)]
    common: Common,
}

/// Order in which the held messages are acked.
#[derive(Clone, Copy)]
enum Order {
    Sequential,
    Scattered,
    StuckHead,
    Multiple,
}

const ORDERS: [(Order, &str); 4] = [
    (Order::Sequential, "in order"),
    (Order::Scattered, "random order"),
    (Order::StuckHead, "in order behind a stuck head"),
    (Order::Multiple, "multiple, 100 at a time"),
];

/// Measures and prints.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let place = Place::new(&options.common)?;
    let machine = Machine::of(place.path());
    console::line(&machine.line())?;
    let mut floor = Floor::prepare(place.path())?;
    let engine = store::open(&place.join("store"), 2)?;
    let mut orders = vec![Vec::new(); ORDERS.len()];
    let (mut waited, mut raw) = (Vec::new(), Vec::new());
    let bar = console::progress(u64::from(options.rounds) * 5, "ack");
    for _ in 0..options.rounds {
        for (found, (order, _)) in orders.iter_mut().zip(ORDERS) {
            found.push(hand_over(&engine, order, options.messages)?);
            bar.inc(1);
        }
        raw.push(floor.synced(4096, Duration::from_millis(200))?.0);
        waited.push(wait_each(&engine, options.waited)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    store::close(&engine)?;

    let mut report = Report::new("ack", machine);
    let mut table = console::table(&["ack", "ns each", "p50 us", "raw 4K p50 us", "ratio"]);
    for (found, (_, name)) in orders.iter().zip(ORDERS) {
        let spread = Spread::of(found.iter().copied());
        table.add_row([name.to_owned(), spread.to_string()]);
        let mut cell = Cell::new();
        cell.param("order", name).param("messages", options.messages);
        cell.param("rounds", options.rounds).metric_spread("ns_per_ack", spread);
        report.results.push(cell);
    }
    let median = |rounds: &[Latencies]| Spread::of(rounds.iter().map(|round| round.us(0.5)));
    let pairs = waited.iter().zip(&raw).map(|(ack, raw)| ratio(ack.us(0.5), raw.us(0.5)));
    let pairs = Spread::of(pairs);
    table.add_row([
        "waited for".to_owned(),
        String::new(),
        median(&waited).to_string(),
        short(median(&raw).median),
        pairs.to_string(),
    ]);
    console::line(&table.to_string())?;
    let mut cell = Cell::new();
    cell.param("order", "waited for").param("messages", options.waited);
    cell.param("rounds", options.rounds)
        .metric_spread("ack_p50_us", median(&waited))
        .metric_spread("ack_p99_us", Spread::of(waited.iter().map(|round| round.us(0.99))))
        .floor_spread("raw_4k_p50_us", median(&raw))
        .ratio_spread("ack_p50_per_raw_4k_p50", pairs);
    report.results.push(cell);
    report.write(options.common.json.as_deref())
}

/// Publishes, delivers and keeps so many messages, then acks them: nanoseconds per ack.
fn hand_over(engine: &Engine, order: Order, messages: u64) -> anyhow::Result<f64> {
    let (consumer, mut tags) = hold(engine, messages)?;
    match order {
        Order::Sequential | Order::Multiple => {}
        Order::Scattered => shuffle(&mut tags),
        Order::StuckHead => tags.rotate_left(1),
    }
    let timed = match order {
        Order::StuckHead => &tags[..tags.len() - 1],
        _ => &tags[..],
    };
    let begin = Instant::now();
    if matches!(order, Order::Multiple) {
        for tags in timed.chunks(100) {
            drop(consumer.ack_multiple(tags[tags.len() - 1])?);
        }
    } else {
        for &tag in timed {
            drop(consumer.ack(tag)?);
        }
    }
    let elapsed = begin.elapsed();
    if matches!(order, Order::StuckHead) {
        consumer.ack(tags[tags.len() - 1])?.wait()?;
    }
    drop(consumer);
    engine.delete_queue(&store::queue_name(0))?;
    Ok(elapsed.as_secs_f64() * 1e9 / as_f64(as_u64(timed.len())))
}

/// Acks so many messages one by one, waiting for each.
fn wait_each(engine: &Engine, messages: u64) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::default();
    let (consumer, tags) = hold(engine, messages)?;
    for tag in tags {
        let begin = Instant::now();
        consumer.ack(tag)?.wait()?;
        latencies.record(begin.elapsed());
    }
    drop(consumer);
    engine.delete_queue(&store::queue_name(0))?;
    Ok(latencies)
}

/// A consumer that holds `messages` fresh messages of queue 0, and their tags.
fn hold(engine: &Engine, messages: u64) -> anyhow::Result<(Consumer, Vec<DeliveryTag>)> {
    store::declare_queues(engine, 1)?;
    let load = Load {
        size: 64,
        publishers: 1,
        window: 1_000,
        messages: Some(messages),
        during: Duration::MAX,
    };
    load::run(engine, load)?;
    let options = ConsumerOptions { prefetch: 0, ..ConsumerOptions::default() };
    let consumer = engine.consume(&store::queue_name(0), options)?;
    let mut tags = Vec::new();
    while as_u64(tags.len()) < messages {
        tags.push(consumer.recv()?.keep());
    }
    Ok((consumer, tags))
}

fn shuffle(tags: &mut [DeliveryTag]) {
    for last in (1..tags.len()).rev() {
        let other = payload::mix(as_u64(last)) % (as_u64(last) + 1);
        tags.swap(last, usize::try_from(other).expect("below a length"));
    }
}
