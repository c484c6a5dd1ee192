//! `publish`: confirmed messages per second and confirm latency, beside the raw device.
//!
//! A grid of publishers by window. In each round every cell is measured right after a round of
//! the floor, and its ratios are those of the pair; the table shows medians over the rounds. One
//! store serves all cells; between two cells its queue is declared anew, so that the segments of
//! the cell before are taken back and every write goes over blocks that were written before.

use std::time::Duration;

use clap::Args;
use fanlog::{Config, Engine};

use crate::{
    console,
    floor::{Figures, Floor},
    load::{self, Load, Outcome},
    machine::Machine,
    place::{Common, Place},
    process::CpuMeter,
    report::{Cell, Report},
    sample::{Spread, as_count, as_f64, as_u64, mib, per_second, ratio, short},
    store::{self, BackendOption},
};

/// Options of `publish`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Payload, in bytes
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Numbers of publishing threads
    #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
    publishers: Vec<usize>,
    /// Messages that each publisher may have unconfirmed; 1 waits for each confirm
    #[arg(long, value_delimiter = ',', default_value = "1,16,1000")]
    window: Vec<usize>,
    /// Seconds for each cell in each round
    #[arg(long, default_value = "0.5", value_parser = super::seconds)]
    seconds: Duration,
    /// Messages for each cell in each round, if they are fewer than its seconds allow
    #[arg(long)]
    messages: Option<u64>,
    /// Rounds; the median is shown with the lowest and the highest
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Segments of written blocks that the store keeps ready, 64 MiB each: the floor too is measured
    /// over blocks that were written before
    #[arg(long, default_value_t = 24)]
    segments_ahead: usize,
    /// How bytes reach the disk
    #[arg(long, value_enum, default_value_t)]
    backend: BackendOption,
    #[command(flatten)]
    common: Common,
}

/// What one round of one cell found.
struct Sample {
    /// Payload, in bytes.
    size: usize,
    outcome: Outcome,
    floor: Figures,
    batches: u64,
    written: u64,
    prepared: u64,
    /// Share of the processors that others used meanwhile.
    others: f64,
}

/// One cell of the grid and its rounds.
struct Grid {
    publishers: usize,
    window: usize,
    samples: Vec<Sample>,
}

/// Measures the grid and prints it.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!(
        options.publishers.iter().chain(&options.window).all(|&count| count > 0),
        "publishers and windows start at 1"
    );
    let place = Place::new(&options.common)?;
    let machine = Machine::of(place.path());
    console::line(&machine.line())?;
    let mut floor = Floor::prepare(place.path())?;
    let config = Config {
        segments_ahead: options.segments_ahead,
        backend: options.backend.choice(),
        ..Config::default()
    };
    let engine = store::open_with(&place.join("store"), config)?;
    store::declare_queues(&engine, 1)?;
    store::wait_prepared(&engine, options.segments_ahead);

    let mut grid: Vec<Grid> = Vec::new();
    for &publishers in &options.publishers {
        let cells = options.window.iter();
        grid.extend(cells.map(|&window| Grid { publishers, window, samples: Vec::new() }));
    }
    measure(options, &engine, &mut floor, &mut grid)?;
    let backend = engine.stats().backend.to_string();
    store::close(&engine)?;
    drop(engine);

    print(&grid, options)?;
    let mut report = Report::new("publish", machine);
    for cell in &grid {
        report.results.push(cell.report(options, &backend, floor.direct()));
    }
    report.write(options.common.json.as_deref())
}

/// Runs every cell in every round, after a shorter round that is thrown away.
fn measure(
    options: &Options,
    engine: &Engine,
    floor: &mut Floor,
    grid: &mut [Grid],
) -> anyhow::Result<()> {
    let bar = console::progress(u64::from(options.rounds + 1) * as_u64(grid.len()), "publish");
    for round in 0..=options.rounds {
        let warm_up = round == 0;
        let during = if warm_up { options.seconds / 4 } else { options.seconds };
        for cell in &mut *grid {
            bar.set_message(format!("{} publishers, window {}", cell.publishers, cell.window));
            let prepared = store::renew(engine, options.segments_ahead)?;
            let figures = floor.round(during / 5)?;
            let before = engine.stats();
            let meter = CpuMeter::start();
            let outcome = load::run(
                engine,
                Load {
                    size: options.size,
                    publishers: cell.publishers,
                    window: cell.window,
                    messages: options.messages,
                    during,
                },
            )?;
            let others = meter.other_share();
            let after = engine.stats();
            if !warm_up {
                cell.samples.push(Sample {
                    size: options.size,
                    outcome,
                    floor: figures,
                    batches: after.batches - before.batches,
                    written: after.log_bytes_written - before.log_bytes_written,
                    prepared,
                    others,
                });
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

impl Sample {
    fn rate(&self) -> f64 {
        per_second(self.outcome.confirmed, self.outcome.elapsed)
    }

    fn batch_rate(&self) -> f64 {
        per_second(self.batches, self.outcome.elapsed)
    }

    fn payload_bytes(&self) -> u64 {
        self.outcome.confirmed * as_u64(self.size)
    }

    fn mib_per_s(&self) -> f64 {
        ratio(mib(self.payload_bytes()), self.outcome.elapsed.as_secs_f64())
    }

    fn messages_per_batch(&self) -> f64 {
        ratio(as_f64(self.outcome.confirmed), as_f64(self.batches))
    }

    fn written_per_payload_byte(&self) -> f64 {
        ratio(as_f64(self.written), as_f64(self.payload_bytes()))
    }
}

impl Grid {
    fn spread(&self, figure: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.samples.iter().map(figure))
    }

    /// Spread of `figure` against `floor`, pair by pair.
    fn against(&self, figure: fn(&Sample) -> f64, floor: fn(&Figures) -> f64) -> Spread {
        self.spread(|sample| ratio(figure(sample), floor(&sample.floor)))
    }

    fn report(&self, options: &Options, backend: &str, direct: bool) -> Cell {
        let mut cell = Cell::new();
        cell.param("publishers", self.publishers)
            .param("window", self.window)
            .param("size_bytes", options.size)
            .param("seconds", options.seconds.as_secs_f64())
            .param("messages", options.messages)
            .param("rounds", options.rounds)
            .param("segments_ahead", options.segments_ahead)
            .param("backend", backend);
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            let spread = self.spread(|s| s.outcome.latencies.us(quantile));
            cell.metric_spread(&format!("confirm_{name}_us"), spread);
        }
        cell.metric_spread("confirmed_per_s", self.spread(Sample::rate))
            .metric_spread("payload_mib_per_s", self.spread(Sample::mib_per_s))
            .metric_spread("batches_per_s", self.spread(Sample::batch_rate))
            .metric_spread("messages_per_batch", self.spread(Sample::messages_per_batch))
            .metric_spread(
                "log_written_per_payload_byte",
                self.spread(Sample::written_per_payload_byte),
            )
            .metric_spread("others_cpu_share", self.spread(|s| s.others))
            .metric_spread("segments_prepared", self.spread(|s| as_f64(s.prepared)));
        let figures: Vec<Figures> = self.samples.iter().map(|sample| sample.floor).collect();
        Figures::report(&figures, direct, &mut cell);
        let p50: fn(&Sample) -> f64 = |s| s.outcome.latencies.us(0.5);
        let (best, best_synced) =
            (Figures::sequential_best_mib_per_s, Figures::sequential_synced_best_mib_per_s);
        cell.ratio_spread("confirm_p50_per_raw_4k_p50", self.against(p50, |f| f.raw_4k_p50_us))
            .ratio_spread("confirmed_per_raw_4k", self.against(Sample::rate, |f| f.raw_4k_per_s))
            .ratio_spread(
                "batches_per_raw_64k",
                self.against(Sample::batch_rate, |f| f.raw_64k_per_s),
            )
            .ratio_spread("payload_per_sequential", self.against(Sample::mib_per_s, best))
            .ratio_spread(
                "payload_per_sequential_synced",
                self.against(Sample::mib_per_s, best_synced),
            );
        cell
    }
}

/// A figure in the table: what it is, what was reached, the name and value of its floor.
type Line = (&'static str, fn(&Sample) -> f64, &'static str, fn(&Sample) -> f64);

const LINES: [Line; 6] = [
    ("confirm p50, us", |s| s.outcome.latencies.us(0.5), "4 KiB", |s| s.floor.raw_4k_p50_us),
    ("confirm p99, us", |s| s.outcome.latencies.us(0.99), "4 KiB", |s| s.floor.raw_4k_p99_us),
    ("confirmed/s", Sample::rate, "4 KiB", |s| s.floor.raw_4k_per_s),
    ("batches/s", Sample::batch_rate, "64 KiB", |s| s.floor.raw_64k_per_s),
    ("payload MiB/s", Sample::mib_per_s, "1 MiB in order", |s| s.floor.sequential_best_mib_per_s()),
    ("payload MiB/s", Sample::mib_per_s, "same, each synced", |s| {
        s.floor.sequential_synced_best_mib_per_s()
    }),
];

fn print(grid: &[Grid], options: &Options) -> anyhow::Result<()> {
    let mut table = console::table(&["cell", "figure", "reached", "raw", "raw reached", "ratio"]);
    for cell in grid {
        let mut name = format!("{} publishers, window {}", cell.publishers, cell.window);
        for (what, figure, raw, floor) in LINES {
            table.add_row([
                std::mem::take(&mut name),
                what.to_owned(),
                cell.spread(figure).to_string(),
                raw.to_owned(),
                short(cell.spread(floor).median),
                cell.spread(|sample| ratio(figure(sample), floor(sample))).to_string(),
            ]);
        }
    }
    console::line(&table.to_string())?;
    let others = grid.iter().flat_map(|cell| &cell.samples).map(|sample| sample.others);
    let others = Spread::of(others);
    let fewest = grid.iter().flat_map(|cell| &cell.samples).map(|s| as_f64(s.prepared));
    let fewest = as_count(fewest.fold(f64::INFINITY, f64::min));
    console::line(&format!(
        "payload {} B, {} rounds of {} s, median (lowest-highest); each cell beside a floor of its \
         own; at least {fewest} segments of written blocks were ready before each cell; others used \
         {:.0} % of the processors ({:.0}-{:.0})",
        options.size,
        options.rounds,
        options.seconds.as_secs_f64(),
        others.median * 100.0,
        others.min * 100.0,
        others.max * 100.0
    ))?;
    Ok(())
}
