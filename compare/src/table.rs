//! Tables and reports: medians of rounds, and how far fanlog is ahead, round by round.

use anyhow::Result;
use fanlog_bench::{
    console, floor,
    report::Cell,
    sample::{self, Spread, as_f64, mib, ratio},
};

use crate::{
    probe::Figures,
    run::{Row, Table},
    work::{Better, Figure, Raw},
};

/// Prints a workload's table.
pub(crate) fn print(table: &Table<'_>) -> Result<()> {
    console::line(&format!("\n{}", table.work.title(table.name)))?;
    let figures = table.work.figures();
    let mut heads = vec!["peer", "publish is"];
    heads.extend(figures.iter().map(|figure| figure.head));
    if let Some(raw) = table.work.raw() {
        heads.push(raw.head());
    }
    let compared: Vec<&Figure> = figures.iter().filter(|f| f.better != Better::Shown).collect();
    let against: Vec<String> =
        compared.iter().map(|figure| format!("fanlog by {}", figure.head)).collect();
    heads.extend(against.iter().map(String::as_str));
    let mut out = console::table(&heads);
    for row in &table.rows {
        let mut cells =
            vec![format!("{} {}", row.kind.name, row.kind.version()), row.kind.durable.to_owned()];
        let failed = row.rounds.iter().all(Option::is_none);
        let shown = |text: String| if failed { "-".to_owned() } else { text };
        cells.extend(figures.iter().map(|figure| shown(text(row.spread(figure)))));
        if table.work.raw().is_some() {
            cells.push(shown(text(per_raw(table, row))));
        }
        cells.extend(compared.iter().map(|figure| verdict(table, row, figure)));
        out.add_row(cells);
    }
    console::line(&out.to_string())?;
    for row in &table.rows {
        if let Some(why) = &row.failed {
            console::line(&format!("{} failed: {why}", row.kind.name))?;
        }
    }
    Ok(())
}

/// The cells of a workload for the report, one per peer.
pub(crate) fn cells(table: &Table<'_>) -> Vec<Cell> {
    table.rows.iter().map(|row| cell(table, row)).collect()
}

fn cell(table: &Table<'_>, row: &Row) -> Cell {
    let mut cell = Cell::new();
    cell.param("work", table.name)
        .param("peer", row.kind.name)
        .param("version", row.kind.version())
        .param("publish_is", row.kind.durable)
        .param("consumer_has", row.kind.consumer)
        .param("consumers", table.work.consumers())
        .param("batch", table.work.batch())
        .param("size_bytes", table.options.size())
        .param("messages", table.options.messages())
        .param("rounds", row.rounds.len());
    if let Some(why) = &row.failed {
        cell.metric("failed", why.as_str());
    }
    if row.rounds.iter().all(Option::is_none) {
        return cell;
    }
    for figure in table.work.figures() {
        cell.metric_spread(figure.name, row.spread(figure));
        if figure.better != Better::Shown {
            let name = format!("fanlog_ahead_by_{}", figure.name);
            cell.ratio_spread(&name, ahead(table, row, figure));
        }
    }
    if let Some(raw) = table.work.raw() {
        floor::Figures::report(&table.floor, table.direct, &mut cell);
        cell.ratio_spread(raw.name(), per_raw(table, row));
    }
    cell
}

impl Row {
    fn values<'a>(&'a self, figure: &'a Figure) -> impl Iterator<Item = Option<f64>> + 'a {
        let value = |figures: &Figures| figures.get(figure.name).copied();
        self.rounds.iter().map(move |round| round.as_ref().and_then(value))
    }

    fn spread(&self, figure: &Figure) -> Spread {
        Spread::of(self.values(figure).flatten())
    }
}

/// How many times better fanlog is than the peer, round by round.
fn ahead(table: &Table<'_>, row: &Row, figure: &Figure) -> Spread {
    let Some(fanlog) = table.rows.iter().find(|row| row.kind.name == "fanlog") else {
        return Spread::of([]);
    };
    let pairs = fanlog.values(figure).zip(row.values(figure));
    Spread::of(pairs.filter_map(|(ours, theirs)| match figure.better {
        Better::Higher => Some(ours? / theirs?),
        Better::Lower => Some(theirs? / ours?),
        Better::Shown => None,
    }))
}

/// How far fanlog is ahead, in words: ahead or behind only if every round says so.
fn verdict(table: &Table<'_>, row: &Row, figure: &Figure) -> String {
    if row.kind.package == "fanlog" || row.rounds.iter().all(Option::is_none) {
        return "-".to_owned();
    }
    let spread = ahead(table, row, figure);
    let word = match spread {
        // Of those that do not do the same work.
        _ if figure.name == "published_per_s" && !row.kind.syncs() => "(no sync)",
        Spread { min, .. } if min > 1.0 => "ahead",
        Spread { max, .. } if max < 1.0 => "BEHIND",
        _ => "even",
    };
    format!("{word} {}", text(spread))
}

/// Median, lowest and highest; one figure where there is one round.
fn text(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    if min.to_bits() == max.to_bits() {
        return short(median);
    }
    format!("{} ({}-{})", short(median), short(min), short(max))
}

/// As the tables of the other workloads, but two digits of what is small.
fn short(figure: f64) -> String {
    match figure.abs() {
        f if f >= 0.1 || f == 0.0 => sample::short(figure),
        f if f >= 0.01 => format!("{figure:.3}"),
        _ => format!("{figure:.4}"),
    }
}

fn per_raw(table: &Table<'_>, row: &Row) -> Spread {
    let Some(raw) = table.work.raw() else { return Spread::of([]) };
    let rate = |figures: &Figures| figures.get("published_per_s").copied();
    let rates = row.rounds.iter().map(|round| round.as_ref().and_then(rate));
    Spread::of(
        rates.zip(&table.floor).filter_map(|(rate, floor)| Some(raw.ratio(table, rate?, floor))),
    )
}

impl Raw {
    fn head(self) -> &'static str {
        match self {
            Raw::Small => "/ raw 4 KiB",
            Raw::Middle => "batches / raw 64 KiB",
            Raw::Sequential => "MiB / raw synced",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Raw::Small => "published_per_raw_4k",
            Raw::Middle => "batches_per_raw_64k",
            Raw::Sequential => "payload_per_sequential_synced",
        }
    }

    fn ratio(self, table: &Table<'_>, rate: f64, floor: &floor::Figures) -> f64 {
        match self {
            Raw::Small => ratio(rate, floor.raw_4k_per_s),
            Raw::Middle => ratio(rate / as_f64(table.work.batch() as u64), floor.raw_64k_per_s),
            Raw::Sequential => {
                let mib = rate * mib(table.options.size() as u64);
                ratio(mib, floor.sequential_synced_best_mib_per_s())
            }
        }
    }
}
