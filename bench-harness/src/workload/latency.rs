//! `latency`: how long a confirm and a delivery take at a rate that somebody else sets.
//!
//! An open loop: messages are due at fixed times, whatever became of those before. Each is published
//! when it is due, or as soon after that as the publisher comes to it, and its latency counts from when
//! it was due: so a stall is seen by every message that it held up, and not by one (coordinated
//! omission). Confirms are waited for by a second thread, deliveries by a third.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use fanlog::{Config, ConsumerOptions, Engine, Message, Ticket};

use crate::{
    console,
    floor::{Figures, Floor},
    machine::Machine,
    payload,
    place::{Common, Place},
    process::CpuMeter,
    report::{Cell, Report},
    sample::{Latencies, Spread, as_count, as_f64, as_u64, per_second, ratio, short, short_time},
    store::{self, BackendOption},
};

/// Messages received at a time at the most.
const FETCH: usize = 1024;
/// With nothing received for so long, nothing comes any more.
const STUCK: Duration = Duration::from_mins(1);
/// Shorter than this is not slept: the kernel's timer is about as coarse.
const NAP_MIN: Duration = Duration::from_micros(60);

/// Options of `latency`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Messages per second, one cell each
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000,300000")]
    rates: Vec<u32>,
    /// Payload, in bytes
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(8..=1 << 20))]
    size: u64,
    /// Queues bound to the exchange; the first one has the consumer
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    queues: u32,
    /// Seconds for each cell in each round
    #[arg(long, default_value = "2", value_parser = super::seconds)]
    seconds: Duration,
    /// Rounds; the median is shown with the lowest and the highest
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How bytes reach the disk
    #[arg(long, value_enum, default_value_t)]
    backend: BackendOption,
    #[command(flatten)]
    common: Common,
}

/// What one round of one rate found.
#[derive(Debug)]
struct Sample {
    confirm: Latencies,
    deliver: Latencies,
    /// How late messages were published.
    late: Latencies,
    reached_per_s: f64,
    floor: Figures,
    others: f64,
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!(options.rates.iter().all(|&rate| rate > 0), "rates start at 1 per second");
    let place = Place::new(&options.common)?;
    let machine = Machine::of(place.path());
    console::line(&machine.line())?;
    let mut floor = Floor::prepare(place.path())?;
    let config =
        Config { segments_ahead: 4, backend: options.backend.choice(), ..Config::default() };
    let engine = store::open_with(&place.join("store"), config)?;
    let queues = usize::try_from(options.queues)?;
    store::declare_queues(&engine, queues)?;
    store::wait_prepared(&engine, 4);

    let mut cells: Vec<Vec<Sample>> = options.rates.iter().map(|_| Vec::new()).collect();
    let steps = u64::from(options.rounds + 1) * as_u64(cells.len());
    let bar = console::progress(steps, "latency");
    for round in 0..=options.rounds {
        // The first round warms up.
        let during = if round == 0 { options.seconds / 4 } else { options.seconds };
        for (&rate, samples) in options.rates.iter().zip(&mut cells) {
            bar.set_message(format!("{rate} per second"));
            let figures = floor.round(during / 10)?;
            let sample = measure(options, &engine, rate, during, figures)?;
            if round > 0 {
                samples.push(sample);
            }
            for queue in 0..queues {
                engine.purge_queue(&store::queue_name(queue))?;
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let backend = engine.stats().backend.to_string();
    store::close(&engine)?;

    print(options, &cells)?;
    let mut report = Report::new("latency", machine);
    for (&rate, samples) in options.rates.iter().zip(&cells) {
        report.results.push(cell(options, rate, samples, &backend, floor.direct()));
    }
    report.write(options.common.json.as_deref())
}

/// When messages are due.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    begin: Instant,
    rate: u32,
}

impl Schedule {
    fn due(self, number: u64) -> Instant {
        let nanos = u128::from(number) * 1_000_000_000 / u128::from(self.rate);
        self.begin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

fn measure(
    options: &Options,
    engine: &Engine,
    rate: u32,
    during: Duration,
    floor: Figures,
) -> anyhow::Result<Sample> {
    let messages = as_count(f64::from(rate) * during.as_secs_f64()).max(1);
    let consumer = engine.consume(&store::queue_name(0), ConsumerOptions::prefetch(65_536))?;
    let (tickets, confirms) = mpsc::channel::<(u64, Ticket)>();
    let meter = CpuMeter::start();
    // Both threads that wait are there when the first message is due.
    let schedule = Schedule { begin: Instant::now() + Duration::from_millis(20), rate };
    let (late, confirm, deliver, elapsed) = thread::scope(|scope| {
        let confirming = scope.spawn(move || {
            let mut latencies = Latencies::default();
            for (number, ticket) in confirms {
                ticket.wait()?;
                latencies.record(schedule.due(number).elapsed());
            }
            anyhow::Ok((latencies, schedule.begin.elapsed()))
        });
        let delivering = scope.spawn(move || {
            let mut latencies = Latencies::default();
            while latencies.count() < messages {
                let batch = consumer.recv_batch(FETCH, STUCK)?;
                anyhow::ensure!(!batch.is_empty(), "nothing came for {STUCK:?}");
                let now = Instant::now();
                for delivery in batch.iter() {
                    let number = delivery.payload().first_chunk::<8>();
                    let number = u64::from_le_bytes(*number.unwrap_or(&[0; 8]));
                    latencies.record(now - schedule.due(number));
                }
                drop(batch.ack()?);
            }
            anyhow::Ok(latencies)
        });
        let late = publish(options, engine, schedule, messages, &tickets);
        drop(tickets);
        let panicked = || anyhow::anyhow!("a thread panicked");
        let (confirm, elapsed) = confirming.join().map_err(|_| panicked())??;
        let late = late?;
        let deliver = delivering.join().map_err(|_| panicked())??;
        anyhow::Ok((late, confirm, deliver, elapsed))
    })?;
    let reached_per_s = per_second(messages, elapsed);
    Ok(Sample { confirm, deliver, late, reached_per_s, floor, others: meter.other_share() })
}

/// Publishes each message when it is due, and hands its ticket on. Returns how late they were.
fn publish(
    options: &Options,
    engine: &Engine,
    schedule: Schedule,
    messages: u64,
    tickets: &mpsc::Sender<(u64, Ticket)>,
) -> anyhow::Result<Latencies> {
    let publisher = engine.publisher();
    let mut bytes = vec![0; usize::try_from(options.size)?.max(payload::BYTES_MIN)];
    payload::fill(0, &mut bytes);
    bytes.truncate(usize::try_from(options.size)?);
    let mut late = Latencies::default();
    for number in 0..messages {
        let due = schedule.due(number);
        let mut now = Instant::now();
        while now < due {
            let left = due - now;
            if left > NAP_MIN {
                thread::sleep(left.saturating_sub(NAP_MIN / 2));
            } else {
                thread::yield_now();
            }
            now = Instant::now();
        }
        late.record(now - due);
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        let ticket = publisher.publish(&Message::new(store::EXCHANGE, "", &bytes))?;
        // Whoever waits for it has ended with an error, which is told.
        if tickets.send((number, ticket)).is_err() {
            break;
        }
    }
    Ok(late)
}

/// What is measured of a sample: name, histogram.
type Figure = (&'static str, fn(&Sample) -> &Latencies);

const FIGURES: [Figure; 3] = [
    ("confirm", |sample| &sample.confirm),
    ("publish_to_deliver", |sample| &sample.deliver),
    ("publisher_late", |sample| &sample.late),
];
const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)];

fn spread(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> Spread {
    Spread::of(samples.iter().map(figure))
}

fn cell(options: &Options, rate: u32, samples: &[Sample], backend: &str, direct: bool) -> Cell {
    let mut cell = Cell::new();
    cell.param("rate_per_s", rate)
        .param("size_bytes", options.size)
        .param("queues", options.queues)
        .param("seconds", options.seconds.as_secs_f64())
        .param("rounds", options.rounds)
        .param("backend", backend)
        .metric_spread("reached_per_s", spread(samples, |s| s.reached_per_s))
        .metric_spread("others_cpu_share", spread(samples, |s| s.others));
    for (what, latencies) in FIGURES {
        for (quantile, share) in QUANTILES {
            let figures = spread(samples, |sample| latencies(sample).us(share));
            cell.metric_spread(&format!("{what}_{quantile}_us"), figures);
        }
    }
    let floors: Vec<Figures> = samples.iter().map(|sample| sample.floor).collect();
    Figures::report(&floors, direct, &mut cell);
    cell.ratio_spread(
        "confirm_p50_per_raw_4k_p50",
        spread(samples, |s| ratio(s.confirm.us(0.5), s.floor.raw_4k_p50_us)),
    )
    .ratio_spread(
        "confirm_p99_per_raw_4k_p99",
        spread(samples, |s| ratio(s.confirm.us(0.99), s.floor.raw_4k_p99_us)),
    );
    cell
}

fn print(options: &Options, cells: &[Vec<Sample>]) -> anyhow::Result<()> {
    let mut header = vec!["per second", "reached", "what"];
    header.extend(QUANTILES.iter().map(|(name, _)| *name));
    header.push("p50 / raw 4 KiB");
    let mut table = console::table(&header);
    for (rate, samples) in options.rates.iter().zip(cells) {
        let mut first =
            [short(f64::from(*rate)), short(spread(samples, |sample| sample.reached_per_s).median)];
        for (what, latencies) in FIGURES {
            let mut row: Vec<String> = first.iter_mut().map(std::mem::take).collect();
            row.push(what.replace('_', " "));
            row.extend(QUANTILES.iter().map(|(_, share)| {
                short_time(spread(samples, |sample| latencies(sample).us(*share)).median)
            }));
            let against = |s: &Sample| ratio(latencies(s).us(0.5), s.floor.raw_4k_p50_us);
            row.push(spread(samples, against).to_string());
            table.add_row(row);
        }
    }
    console::line(&table.to_string())?;
    let others = Spread::of(cells.iter().flatten().map(|sample| sample.others));
    let slowest = cells.iter().flatten().map(|sample| as_f64(sample.late.count()));
    let fewest = as_count(slowest.fold(f64::INFINITY, f64::min));
    console::line(&format!(
        "payload {} B, {} rounds of {} s, medians; latencies count from when a message was due; at \
         least {fewest} messages in a round; others used {:.0} % of the processors ({:.0}-{:.0})",
        options.size,
        options.rounds,
        options.seconds.as_secs_f64(),
        others.median * 100.0,
        others.min * 100.0,
        others.max * 100.0
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_even_distances_from_the_begin() {
        let schedule = Schedule { begin: Instant::now(), rate: 3 };
        let after = |number| schedule.due(number) - schedule.begin;
        assert_eq!(after(0), Duration::ZERO);
        assert_eq!(after(1), Duration::from_nanos(333_333_333));
        assert_eq!(after(3_000_000), Duration::from_secs(1_000_000));
    }
}
