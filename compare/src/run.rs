//! The run: rounds of workloads, in each round every peer in turn, beside the raw device.

use std::{path::Path, time::Duration};

use anyhow::Result;
use clap::Args;
use fanlog_bench::{
    console,
    floor::Floor,
    machine::Machine,
    place::{Common, Place},
    report::Report,
};

use crate::{
    peer::{self, Kind},
    probe::Figures,
    spawn, table,
    work::{self, Work},
};

/// For how long each kind of write of the raw device is measured, before each round.
const FLOOR_DURING: Duration = Duration::from_millis(60);

/// Options of the command.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Peers to compare with; all by default. fanlog is always measured
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Workloads, by their names or what several names begin with: publish, publish-1, publish-64,
    /// publish-1000, publish-stream, fanout, fanout-1, fanout-10, fanout-100, fanout-10-alone, recover,
    /// disk, disk-1, disk-10
    #[arg(long, value_delimiter = ',', default_value = "publish,fanout,recover,disk")]
    workloads: Vec<String>,
    /// Rounds; the median is shown with the lowest and the highest. What is counted takes one
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Messages of a backlog, and the most of a measured run
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    messages: u64,
    /// Payload, in bytes
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Seconds that each peer publishes in a round
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Print the peers of this build and what they do with a publish, and nothing else
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    common: Common,
}

/// What a peer did in the rounds of a workload; `None` where it failed.
pub(crate) struct Row {
    pub(crate) kind: &'static Kind,
    pub(crate) rounds: Vec<Option<Figures>>,
    pub(crate) failed: Option<String>,
}

/// The rounds of a workload.
pub(crate) struct Table<'a> {
    pub(crate) name: &'static str,
    pub(crate) work: Work,
    pub(crate) options: &'a Options,
    pub(crate) rows: Vec<Row>,
    pub(crate) floor: Vec<fanlog_bench::floor::Figures>,
    pub(crate) direct: bool,
}

impl Options {
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// fanlog, and the peers that were asked for.
    fn kinds(&self) -> Result<Vec<&'static Kind>> {
        for name in &self.peers {
            Kind::named(name)?;
        }
        let chosen = |kind: &&Kind| {
            kind.package == "fanlog"
                || self.peers.is_empty()
                || self.peers.iter().any(|p| p == kind.name)
        };
        Ok(peer::ALL.iter().filter(chosen).collect())
    }
}

/// Measures and prints; `false` if fanlog itself failed at something.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if options.list {
        for kind in peer::ALL {
            let Kind { name, durable, consumer, .. } = kind;
            console::line(&format!("{name} {} ({durable}, a {consumer} each)", kind.version()))?;
        }
        return Ok(true);
    }
    let works = work::select(&options.workloads)?;
    let kinds = options.kinds()?;
    let place = Place::new(&options.common)?;
    let machine = Machine::of(place.path());
    console::line(&machine.line())?;
    let mut floor = Floor::prepare(place.path())?;
    floor.round(FLOOR_DURING / 4)?;
    let mut report = Report::new("compare", machine);
    let mut passed = true;
    for (name, work) in works {
        let table = measure(name, work, &kinds, options, &place, &mut floor)?;
        passed &= table.rows.iter().all(|row| row.kind.package != "fanlog" || row.failed.is_none());
        table::print(&table)?;
        report.results.extend(table::cells(&table));
        report.write(options.common.json.as_deref())?;
    }
    Ok(passed)
}

fn measure<'a>(
    name: &'static str,
    work: Work,
    kinds: &[&'static Kind],
    options: &'a Options,
    place: &Place,
    floor: &mut Floor,
) -> Result<Table<'a>> {
    let taking: Vec<&'static Kind> =
        kinds.iter().copied().filter(|kind| work.takes(kind)).collect();
    let row = |&kind: &&'static Kind| Row { kind, rounds: Vec::new(), failed: None };
    let mut rows: Vec<Row> = taking.iter().map(row).collect();
    let mut floors = Vec::new();
    let rounds = work.rounds(options.rounds);
    let bar = console::progress(u64::from(rounds) * rows.len() as u64, name);
    for round in 0..rounds as usize {
        if work.raw().is_some() {
            floors.push(floor.round(FLOOR_DURING)?);
        }
        let count = rows.len();
        // Each round begins with another peer, so that none is always measured first.
        for turn in 0..count {
            let row = &mut rows[(turn + round) % count];
            bar.set_message(row.kind.name);
            let store = place.join("store");
            let outcome = once(work, row.kind, options, &store);
            if store.exists() {
                std::fs::remove_dir_all(&store)?;
            }
            let figures = match outcome {
                Ok(figures) => Some(figures),
                Err(error) => {
                    row.failed = Some(format!("{error:#}"));
                    None
                }
            };
            row.rounds.push(figures);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(Table { name, work, options, rows, floor: floors, direct: floor.direct() })
}

/// One round of one peer, on a fresh store.
fn once(work: Work, kind: &Kind, options: &Options, store: &Path) -> Result<Figures> {
    let step = |step: &str| {
        let pairs = [
            ("--peer", kind.name.to_owned()),
            ("--step", step.to_owned()),
            ("--size", options.size.to_string()),
            ("--batch", work.batch().to_string()),
            ("--consumers", work.consumers().to_string()),
            ("--messages", options.messages.to_string()),
            ("--seconds", options.seconds.to_string()),
        ];
        pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect::<Vec<_>>()
    };
    match work {
        Work::Publish(_) => spawn::figures(store, &step("publish")),
        Work::Stream(_) => spawn::figures(store, &step("stream")),
        Work::Fanout(_) => spawn::figures(store, &step("fanout")),
        Work::FanoutAlone(_) => spawn::figures(store, &step("fanout-alone")),
        Work::Recover => {
            spawn::killed(store, &step("fill"))?;
            spawn::figures(store, &step("open"))
        }
        Work::Disk(_) => spawn::figures(store, &step("disk")),
    }
}
