//! `soak`: publishers, consumers and reclaim for a long time, under a load that changes.
//!
//! The load goes in cycles: the rate of publishing rises and falls in steps, one queue is drained all
//! the time, one keeps some messages for long, by chance, and one is left alone for half of each cycle.
//! Once a second the process and the directory are looked at. What a cycle needs at the most must not
//! grow from cycle to cycle.

mod taker;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use fanlog::{Config, Engine, Message, Ticket};

use self::taker::{HELD_MAX, Habit};
use crate::{
    console,
    machine::Machine,
    place::{Common, Place},
    process,
    report::{Cell, Report},
    sample::{Latencies, as_f64, as_u64, mib, ratio, short},
    store,
};

/// The rate in each part of a cycle, in percent of the highest.
const STEPS: [u32; 6] = [20, 60, 100, 40, 80, 10];
/// Messages are published so often.
const TICK: Duration = Duration::from_millis(2);
/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A cycle may need more than the first one that counts by a quarter, and by this.
const SLACK: Growth = Growth { anonymous_mib: 16.0, files: 6.0, disk_mib: 256.0 };

/// Options of `soak`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// For how long
    #[arg(long, default_value = "600", value_parser = super::seconds)]
    seconds: Duration,
    /// Cycles of the load in that time; the first warms up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(3..))]
    cycles: u32,
    /// Messages per second at the most
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..))]
    rate: u32,
    /// Payload, in bytes
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(8..=1 << 20))]
    size: u64,
    /// Size of a segment, in MiB
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    segment_mib: u64,
    #[command(flatten)]
    common: Common,
}

impl Options {
    fn cycle(&self) -> Duration {
        self.seconds / self.cycles
    }

    /// The rate at a time since the begin, per second.
    fn rate_at(&self, at: Duration) -> u32 {
        let part = self.cycle() / u32::try_from(STEPS.len()).unwrap_or(1);
        let step = at.as_nanos() / part.as_nanos().max(1);
        let step = usize::try_from(step % as_u128(STEPS.len())).unwrap_or(0);
        self.rate / 100 * STEPS[step]
    }
}

const fn as_u128(count: usize) -> u128 {
    count as u128
}

/// The process and the store at a moment, and what came since the look before.
#[derive(Debug, Clone, Default)]
struct Look {
    at_s: f64,
    published: u64,
    anonymous_mib: f64,
    disk_mib: f64,
    files: f64,
    unacked_mib: f64,
    p50_us: f64,
    p99_us: f64,
}

/// What a cycle needed at the most.
#[derive(Debug, Clone, Copy, Default)]
struct Growth {
    anonymous_mib: f64,
    files: f64,
    disk_mib: f64,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    begin: Instant,
    stop: AtomicBool,
    published: AtomicU64,
    latencies: Mutex<Latencies>,
}

/// Runs, prints, and says whether nothing grew.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let place = Place::new(&options.common)?;
    let machine = Machine::of(place.path());
    console::line(&machine.line())?;
    let dir = place.join("store");
    let config = Config {
        segment_bytes_max: options.segment_mib << 20,
        checkpoint_log_bytes: options.segment_mib << 20,
        window_bytes_max: 8 << 20,
        segments_ahead: 2,
        ..Config::default()
    };
    let engine = store::open_with(&dir, config)?;
    store::declare_queues(&engine, Habit::ALL.len())?;
    let looks = soak(options, &engine, &dir)?;
    let stats = engine.stats();
    store::close(&engine)?;

    let cycles = cycles(options, &looks);
    let flat = is_flat(&cycles);
    print(&cycles, flat)?;
    let mut report = Report::new("soak", machine);
    let mut cell = cell(options, &looks, &cycles, flat);
    cell.metric("segments_recycled", stats.segments_recycled)
        .metric("segments_rewritten", stats.segments_rewritten)
        .metric("checkpoints", stats.checkpoints);
    report.results.push(cell);
    report.write(options.common.json.as_deref())?;
    Ok(flat)
}

fn soak(options: &Options, engine: &Engine, dir: &Path) -> anyhow::Result<Vec<Look>> {
    let shared = Shared {
        begin: Instant::now(),
        stop: AtomicBool::new(false),
        published: AtomicU64::new(0),
        latencies: Mutex::default(),
    };
    let (tickets, confirms) = mpsc::channel();
    thread::scope(|scope| {
        let shared = &shared;
        let mut threads = vec![
            scope.spawn(move || publish(options, engine, shared, &tickets)),
            scope.spawn(move || confirm(shared, &confirms)),
        ];
        for (queue, habit) in Habit::ALL.into_iter().enumerate() {
            let name = store::queue_name(queue);
            let (half, stop) = (options.cycle() / 2, &shared.stop);
            threads.push(scope.spawn(move || {
                taker::take(engine, &name, habit, half, || stop.load(Ordering::Relaxed))
            }));
        }
        let looks = watch(options, engine, dir, shared, || {
            threads.iter().any(thread::ScopedJoinHandle::is_finished)
        });
        shared.stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        looks
    })
}

/// Publishes at the rate of the hour until it is over.
fn publish(
    options: &Options,
    engine: &Engine,
    shared: &Shared,
    tickets: &mpsc::Sender<(Instant, Ticket)>,
) -> anyhow::Result<()> {
    let publisher = engine.publisher();
    let payload = vec![0xa5; usize::try_from(options.size)?];
    let mut due = 0.0;
    let mut last = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let rate = options.rate_at(now - shared.begin);
        // After a stall it does not catch up for ever.
        due = (due + f64::from(rate) * (now - last).as_secs_f64()).min(f64::from(rate));
        last = now;
        while due >= 1.0 {
            due -= 1.0;
            let ticket = publisher.publish(&Message::new(store::EXCHANGE, "", &payload))?;
            shared.published.fetch_add(1, Ordering::Relaxed);
            if tickets.send((now, ticket)).is_err() {
                return Ok(());
            }
        }
        thread::sleep(TICK);
    }
    Ok(())
}

fn confirm(shared: &Shared, confirms: &mpsc::Receiver<(Instant, Ticket)>) -> anyhow::Result<()> {
    for (due, ticket) in confirms {
        ticket.wait()?;
        let latency = due.elapsed();
        shared.latencies.lock().unwrap_or_else(PoisonError::into_inner).record(latency);
    }
    Ok(())
}

fn watch(
    options: &Options,
    engine: &Engine,
    dir: &Path,
    shared: &Shared,
    ended: impl Fn() -> bool,
) -> anyhow::Result<Vec<Look>> {
    let mut looks = Vec::new();
    let bar = console::progress(options.seconds.as_secs(), "soak");
    while shared.begin.elapsed() < options.seconds && !ended() {
        thread::sleep(LOOK_EVERY.min(options.seconds / 20));
        let latencies =
            std::mem::take(&mut *shared.latencies.lock().unwrap_or_else(PoisonError::into_inner));
        let (disk, files) = disk(dir)?;
        let queues = engine.topology().queues;
        let look = Look {
            at_s: shared.begin.elapsed().as_secs_f64(),
            published: shared.published.load(Ordering::Relaxed),
            anonymous_mib: as_f64(process::anonymous_kib()) / 1024.0,
            disk_mib: mib(disk + engine.stats().deleted_but_held_bytes),
            files: as_f64(files),
            unacked_mib: mib(queues.iter().map(|queue| queue.bytes).max().unwrap_or(0)),
            p50_us: latencies.us(0.5),
            p99_us: latencies.us(0.99),
        };
        bar.set_position(shared.begin.elapsed().as_secs());
        bar.set_message(format!(
            "{} MiB of memory, {} MiB on disk",
            short(look.anonymous_mib),
            short(look.disk_mib)
        ));
        looks.push(look);
    }
    bar.finish_and_clear();
    Ok(looks)
}

/// Blocks of all files in a directory, in bytes, and their number.
fn disk(dir: &Path) -> anyhow::Result<(u64, u64)> {
    let (mut bytes, mut files) = (0, 0);
    for entry in fs::read_dir(dir)? {
        // One that went away meanwhile takes none.
        if let Ok(found) = entry?.metadata() {
            bytes += found.blocks() * 512;
            files += 1;
        }
    }
    Ok((bytes, files))
}

/// A cycle: its looks together.
#[derive(Debug, Clone, Copy, Default)]
struct Cycle {
    looks: u64,
    most: Growth,
    unacked_mib: f64,
    p50_us: f64,
    p99_us: f64,
}

fn cycles(options: &Options, looks: &[Look]) -> Vec<Cycle> {
    let cycle = options.cycle().as_secs_f64();
    let of = |number: u32| {
        let from = f64::from(number) * cycle;
        let own = looks.iter().filter(|look| look.at_s >= from && look.at_s < from + cycle);
        let own: Vec<&Look> = own.collect();
        let most =
            |figure: fn(&Look) -> f64| own.iter().map(|look| figure(look)).fold(0.0, f64::max);
        let middle = |figure: fn(&Look) -> f64| {
            crate::sample::Spread::of(own.iter().map(|look| figure(look))).median
        };
        Cycle {
            looks: as_u64(own.len()),
            most: Growth {
                anonymous_mib: most(|look| look.anonymous_mib),
                files: most(|look| look.files),
                disk_mib: most(|look| look.disk_mib),
            },
            unacked_mib: most(|look| look.unacked_mib),
            p50_us: middle(|look| look.p50_us),
            p99_us: middle(|look| look.p99_us),
        }
    };
    (0..options.cycles).map(of).filter(|cycle| cycle.looks > 0).collect()
}

/// The second cycle, which counts first, and the last.
fn ends(cycles: &[Cycle]) -> Option<(&Cycle, &Cycle)> {
    cycles.get(1).zip(cycles.last())
}

/// Whether the last cycle needed no more than the first one that counts.
fn is_flat(cycles: &[Cycle]) -> bool {
    ends(cycles).is_some_and(|(first, last)| {
        let within = |figure: fn(&Growth) -> f64| {
            figure(&last.most) <= 1.25 * figure(&first.most) + figure(&SLACK)
        };
        within(|one| one.anonymous_mib) && within(|one| one.files) && within(|one| one.disk_mib)
    })
}

fn print(cycles: &[Cycle], flat: bool) -> anyhow::Result<()> {
    let mut table = console::table(&[
        "cycle",
        "memory MiB",
        "files",
        "disk MiB",
        "unacked MiB",
        "confirm p50, us",
        "p99, us",
    ]);
    for (number, cycle) in cycles.iter().enumerate() {
        let Growth { anonymous_mib, files, disk_mib } = cycle.most;
        let figures =
            [anonymous_mib, files, disk_mib, cycle.unacked_mib, cycle.p50_us, cycle.p99_us];
        let mut row = vec![if number == 0 { "warm-up".to_owned() } else { number.to_string() }];
        row.extend(figures.map(short));
        table.add_row(row);
    }
    console::line(&table.to_string())?;
    let verdict = if flat { "nothing grew" } else { "IT GREW: more than a quarter over cycle 1" };
    Ok(console::line(&format!(
        "the most of memory (without pages of files), files and disk in each cycle, the middle of \
         what each second had of confirms; a queue keeps up to {HELD_MAX} messages; {verdict}"
    ))?)
}

fn cell(options: &Options, looks: &[Look], cycles: &[Cycle], flat: bool) -> Cell {
    let mut cell = Cell::new();
    let series = |figure: fn(&Look) -> f64| looks.iter().map(figure).collect::<Vec<f64>>();
    cell.param("seconds", options.seconds.as_secs_f64())
        .param("cycles", options.cycles)
        .param("rate_per_s", options.rate)
        .param("size_bytes", options.size)
        .param("segment_mib", options.segment_mib)
        .metric("published", looks.last().map_or(0, |look| look.published))
        .metric("flat", flat)
        .metric("series_at_s", series(|look| look.at_s))
        .metric("series_anonymous_mib", series(|look| look.anonymous_mib))
        .metric("series_disk_mib", series(|look| look.disk_mib))
        .metric("series_files", series(|look| look.files))
        .metric("series_unacked_mib", series(|look| look.unacked_mib))
        .metric("series_confirm_p50_us", series(|look| look.p50_us))
        .metric("series_confirm_p99_us", series(|look| look.p99_us));
    if let Some((first, last)) = ends(cycles) {
        let against = |figure: fn(&Cycle) -> f64| ratio(figure(last), figure(first));
        cell.ratio("anonymous_last_per_first", against(|cycle| cycle.most.anonymous_mib))
            .ratio("files_last_per_first", against(|cycle| cycle.most.files))
            .ratio("disk_last_per_first", against(|cycle| cycle.most.disk_mib))
            .ratio("confirm_p99_last_per_first", against(|cycle| cycle.p99_us));
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        let common = Common { dir: None, keep: false, json: None };
        let seconds = Duration::from_mins(1);
        Options { seconds, cycles: 10, rate: 1000, size: 8, segment_mib: 1, common }
    }

    #[test]
    fn the_rate_goes_through_all_steps_in_each_cycle() {
        let options = options();
        let rates: Vec<u32> =
            (0..12).map(|second| options.rate_at(Duration::from_secs(second))).collect();
        assert_eq!(rates[..6], STEPS.map(|percent| 10 * percent));
        assert_eq!(rates[..6], rates[6..]);
    }

    #[test]
    fn it_is_flat_unless_the_last_cycle_needs_more_than_the_first_that_counts() {
        let looks = |last: f64| -> Vec<Look> {
            let disk = |at: u32| if at >= 54 { last } else { 1000.0 };
            let look =
                |at: u32| Look { at_s: f64::from(at), disk_mib: disk(at), ..Look::default() };
            (0..60).map(look).collect()
        };
        let flat = |last| is_flat(&cycles(&options(), &looks(last)));
        assert!(flat(1000.0) && flat(1500.0));
        assert!(!flat(1507.0));
        assert!(!is_flat(&[]));
    }
}
