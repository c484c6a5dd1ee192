//! `floor`: the raw figures of the device alone.

use std::time::Duration;

use clap::Args;

use crate::{
    console,
    floor::{Figures, Floor},
    machine::Machine,
    place::{Common, Place},
    report::{Cell, Report},
    sample::Spread,
};

/// Options of `floor`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds; the median is shown with the lowest and the highest
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds for each kind of write in each round
    #[arg(long, default_value = "0.3", value_parser = super::seconds)]
    seconds: Duration,
    #[command(flatten)]
    common: Common,
}

/// Measures and prints the floor.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let place = Place::new(&options.common)?;
    let machine = Machine::of(place.path());
    console::line(&machine.line())?;
    let mut floor = Floor::prepare(place.path())?;
    floor.round(options.seconds / 4)?;
    let mut rounds = Vec::new();
    let mut reads = Vec::new();
    for _ in 0..options.rounds {
        rounds.push(floor.round(options.seconds)?);
        reads.push(floor.sequential_read(options.seconds)?);
    }
    let spread = |figure: fn(&Figures) -> f64| Spread::of(rounds.iter().map(figure)).to_string();
    let mut table = console::table(&["raw device", "p50 us", "per s", "MiB/s"]);
    let none = String::new;
    table.add_row(["4 KiB synced", &spread(|f| f.raw_4k_p50_us), &spread(|f| f.raw_4k_per_s), ""]);
    let middle = [spread(|f| f.raw_64k_p50_us), spread(|f| f.raw_64k_per_s)];
    table.add_row(["64 KiB synced", &middle[0], &middle[1], ""]);
    let one = spread(|f| f.sequential_mib_per_s);
    table.add_row(["1 MiB in order, 1 thread", "", "", &one]);
    let two = spread(|f| f.sequential_2_threads_mib_per_s);
    table.add_row(["1 MiB in order, 2 threads", "", "", &two]);
    let one = spread(|f| f.sequential_synced_mib_per_s);
    table.add_row(["1 MiB in order, each synced, 1 thread", "", "", &one]);
    let two = spread(|f| f.sequential_synced_2_threads_mib_per_s);
    table.add_row(["1 MiB in order, each synced, 2 threads", "", "", &two]);
    let reads = Spread::of(reads);
    table.add_row(["1 MiB reads in order".to_owned(), none(), none(), reads.to_string()]);
    console::line(&table.to_string())?;

    let mut cell = Cell::new();
    cell.param("rounds", options.rounds).param("seconds", options.seconds.as_secs_f64());
    Figures::report(&rounds, floor.direct(), &mut cell);
    cell.floor_spread("sequential_read_mib_per_s", reads);
    let mut report = Report::new("floor", machine);
    report.results.push(cell);
    report.write(options.common.json.as_deref())
}
