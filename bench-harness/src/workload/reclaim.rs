//! `reclaim`: disk against live bytes while a stream goes through of which some stays unacked, and
//! what that costs those who publish.
//!
//! First a stream as fast as it goes: consumers ack all but a share, by chance, and the disk is
//! looked at on the way. Then rounds of a paced stream beside a publisher who waits for each
//! confirm: with nothing acked (reclaim has nothing to do), with all acked (segments are used
//! again), and with a share left unacked (segments are rewritten), directly after one another.

mod keeper;
mod paced;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use fanlog::{Config, Engine, ExchangeKind, Message, Stats};

use self::keeper::{Fate, Keeper};
use crate::{
    console,
    machine::Machine,
    place::{Common, Place},
    report::{Cell, Report},
    sample::{Spread, as_f64, mib, ratio, short},
    store,
};

/// Looks at the disk while the stream goes through.
const LOOKS: u64 = 200;
/// Of these, printed.
const PRINTED: u64 = 10;

/// The store is at rest once nothing changed for so long.
const AT_REST: Duration = Duration::from_millis(1500);
/// It is waited for so long at the most.
const AT_REST_MAX: Duration = Duration::from_secs(30);

/// Options of `reclaim`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Payload that goes through, in MiB
    #[arg(long, default_value_t = 1024)]
    total_mib: u64,
    /// Payload of a message, in bytes
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(8..=1 << 24))]
    size: u64,
    /// Messages of 1,000, taken by chance, that stay unacked to the end
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=1000))]
    keep_per_mille: u64,
    /// Size of a segment, in MiB
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1024))]
    segment_mib: u64,
    /// Rounds of the paced stream; the median is shown with the lowest and the highest
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each part of each round
    #[arg(long, default_value = "1", value_parser = super::seconds)]
    seconds: Duration,
    /// The paced stream, in MiB of payload per second
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    paced_mib: u64,
    #[command(flatten)]
    common: Common,
}

impl Options {
    fn config(&self) -> Config {
        let segment_bytes_max = self.segment_mib << 20;
        Config {
            segment_bytes_max,
            // As often, per segment, as with the default sizes of both.
            checkpoint_log_bytes: segment_bytes_max,
            window_bytes_max: 8 << 20,
            ..Config::default()
        }
    }

    fn messages(&self) -> u64 {
        (self.total_mib << 20) / self.size
    }
}

/// The store at a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Look {
    published: u64,
    live: u64,
    disk: u64,
    rewritten: u64,
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let place = Place::new(&options.common)?;
    let machine = Machine::of(place.path());
    console::line(&machine.line())?;
    let mut report = Report::new("reclaim", machine);
    let dir = place.join("stream");
    let passed = pass(options, &dir)?;
    passed.print()?;
    report.results.push(passed.report(options));
    fs::remove_dir_all(&dir)?;
    let rounds = paced::measure(options, &place)?;
    rounds.print(options)?;
    report.results.push(rounds.report(options));
    report.write(options.common.json.as_deref())
}

/// What the stream left.
struct Passed {
    looks: Vec<Look>,
    end: Look,
    elapsed: Duration,
    stats: Stats,
}

/// Sends all through and looks at the disk on the way.
fn pass(options: &Options, dir: &Path) -> anyhow::Result<Passed> {
    let engine = Engine::open(dir, options.config()).context("opening the store")?;
    engine.declare_exchange(store::EXCHANGE, ExchangeKind::Fanout)?;
    store::declare_queues(&engine, 1)?;
    let messages = options.messages();
    let published = AtomicU64::new(0);
    let acked = AtomicU64::new(0);
    let look = || {
        // First what is acked: then more is published than live is counted of, never less.
        let acked = acked.load(Ordering::Acquire);
        let stats = engine.stats();
        let published = published.load(Ordering::Acquire);
        anyhow::Ok(Look {
            published: published * options.size,
            live: published.saturating_sub(acked) * options.size,
            disk: disk_bytes(dir)? + stats.deleted_but_held_bytes,
            rewritten: stats.rewritten_bytes,
        })
    };
    let begin = Instant::now();
    let (looks, elapsed, keeper) = thread::scope(|scope| {
        let consuming = scope.spawn(|| {
            let mut keeper = Keeper::new(&engine, Fate::Keep(options.keep_per_mille))?;
            keeper.take(messages, &acked)?;
            anyhow::Ok(keeper)
        });
        let publishing = scope.spawn(|| {
            let sender = engine.publisher();
            let payload = vec![0xa5; usize::try_from(options.size)?];
            let mut last = None;
            for _ in 0..messages {
                last = Some(sender.publish(&Message::new(store::EXCHANGE, "", &payload))?);
                published.fetch_add(1, Ordering::Release);
            }
            last.map_or(Ok(()), |ticket| ticket.wait().map(drop))?;
            anyhow::Ok(begin.elapsed())
        });
        let mut looks: Vec<Look> = Vec::new();
        while !consuming.is_finished() {
            let now = look()?;
            let due =
                looks.last().map_or(0, |last| last.published + (options.total_mib << 20) / LOOKS);
            if now.published >= due {
                looks.push(now);
            }
            thread::sleep(Duration::from_millis(2));
        }
        let elapsed =
            publishing.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;
        let keeper = consuming.join().map_err(|_| anyhow::anyhow!("the consumer panicked"))??;
        anyhow::Ok((looks, elapsed, keeper))
    })?;
    // What is dead goes once two checkpoints do not list it, what is sparse once it was rewritten.
    let mut end = look()?;
    let mut changed = Instant::now();
    while changed.elapsed() < AT_REST && begin.elapsed() < elapsed + AT_REST_MAX {
        engine.checkpoint()?;
        thread::sleep(Duration::from_millis(50));
        let now = look()?;
        if now.disk < end.disk || now.rewritten > end.rewritten {
            changed = Instant::now();
        }
        end = now;
    }
    let stats = engine.stats();
    drop(keeper);
    store::close(&engine)?;
    Ok(Passed { looks, end, elapsed, stats })
}

/// Blocks of all files in a directory, in bytes.
fn disk_bytes(dir: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        // One that went away meanwhile takes none.
        bytes += entry?.metadata().map_or(0, |found| found.blocks() * 512);
    }
    Ok(bytes)
}

impl Passed {
    fn peak(&self) -> u64 {
        self.looks.iter().map(|look| look.disk).max().unwrap_or(0)
    }

    fn print(&self) -> anyhow::Result<()> {
        let mut table = console::table(&[
            "published MiB",
            "live MiB",
            "disk MiB",
            "disk / live",
            "rewritten MiB",
        ]);
        let step = self.looks.len().div_ceil(usize::try_from(PRINTED)?).max(1);
        let shown = self.looks.iter().skip(step - 1).step_by(step);
        for (what, look) in shown.map(|look| (None, look)).chain([(Some("at rest"), &self.end)]) {
            table.add_row([
                what.map_or_else(|| short(mib(look.published)), str::to_owned),
                short(mib(look.live)),
                short(mib(look.disk)),
                short(ratio(as_f64(look.disk), as_f64(look.live))),
                short(mib(look.rewritten)),
            ]);
        }
        Ok(console::line(&table.to_string())?)
    }

    fn report(&self, options: &Options) -> Cell {
        let mut cell = Cell::new();
        let stats = &self.stats;
        let published = as_f64(self.end.published);
        let series = |figure: fn(&Look) -> u64| -> Vec<f64> {
            self.looks.iter().map(|look| mib(figure(look))).collect()
        };
        cell.param("part", "stream")
            .param("total_mib", options.total_mib)
            .param("size_bytes", options.size)
            .param("keep_per_mille", options.keep_per_mille)
            .param("segment_mib", options.segment_mib)
            .metric("payload_mib_per_s", ratio(mib(self.end.published), self.elapsed.as_secs_f64()))
            .metric("live_mib", mib(self.end.live))
            .metric("disk_mib", mib(self.end.disk))
            .metric("disk_mib_peak", mib(self.peak()))
            .metric("rewritten_per_published_byte", ratio(as_f64(stats.rewritten_bytes), published))
            .metric(
                "written_per_published_byte",
                ratio(as_f64(stats.log_bytes_written + stats.other_bytes_written), published),
            )
            .metric("segments_rewritten", stats.segments_rewritten)
            .metric("segments_merged", stats.segments_merged)
            .metric("segments_recycled", stats.segments_recycled)
            .metric("segments_deleted", stats.segments_deleted)
            .metric("checkpoints", stats.checkpoints)
            .metric("series_published_mib", series(|look| look.published))
            .metric("series_live_mib", series(|look| look.live))
            .metric("series_disk_mib", series(|look| look.disk))
            .metric("series_rewritten_mib", series(|look| look.rewritten))
            .ratio("disk_per_live", ratio(as_f64(self.end.disk), as_f64(self.end.live)));
        cell
    }
}

/// Spread of the ratio of two figures that were measured in the same rounds.
fn paired(figures: &[f64], floors: &[f64]) -> Spread {
    Spread::of(figures.iter().zip(floors).map(|(figure, floor)| ratio(*figure, *floor)))
}

/// Messages of so many bytes that make up a rate.
fn per_second_of(mib_per_s: u64, size: u64) -> u64 {
    (mib_per_s << 20) / size.max(1)
}

/// How many of these there are, as a length.
fn length(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_the_pairs() {
        let spread = paired(&[2.0, 9.0, 4.0], &[1.0, 3.0, 2.0]);
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 2.0, 3.0));
        assert_eq!(per_second_of(1, 4096), 256);
        assert_eq!(length(7), 7);
    }
}
