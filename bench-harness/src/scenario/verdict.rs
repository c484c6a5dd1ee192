//! The verdict: the table of figures, the check, and the report.

use serde_json::{Value, json};

use super::{Options, QUEUES, frames::Counters, trial::Outcome};
use crate::{
    console,
    floor::Figures,
    machine::Machine,
    payload,
    report::{Cell, Report},
    sample::{Latencies, Spread, as_f64, as_u64, per_second, ratio, short, short_time},
};

/// Which queue belongs to the monitor platform.
const MONITOR: usize = 1;

impl Outcome {
    /// Whether nothing was lost, nothing corrupt, and every platform got its work right.
    pub(crate) fn passed(&self) -> bool {
        self.findings().iter().all(|(_, count)| *count == 0)
    }

    /// What must not be: each with its count.
    pub(crate) fn findings(&self) -> Vec<(&'static str, u64)> {
        let judge = &self.judge;
        let (missed, false_alerts) = judge.alert_errors(MONITOR);
        let (query, link) = (&self.summary.query, &self.summary.link);
        let held_back = judge.held_and_lost();
        vec![
            ("lost", judge.lost()),
            ("corrupt", judge.corrupt + judge.strange_confirms),
            ("unconfirmed", judge.messages() - judge.confirmed() + self.summary.unconfirmed),
            ("held_and_lost", held_back),
            ("rows_missing", judge.messages().saturating_sub(self.rows.0)),
            ("rows_wrong", self.rows.1),
            ("lookups_wrong", query.wrong + query.missing),
            ("alerts_missed", missed),
            ("alerts_false", false_alerts),
            ("traces_missing", judge.messages().div_ceil(payload::STAGES) - self.traces_whole()),
            ("walk_wrong", u64::from(!walk_is_right(&link.walk, judge.messages()))),
        ]
    }

    /// Traces with all the results that the stream has for them.
    fn traces_whole(&self) -> u64 {
        // The last one may be cut short by the number of messages.
        let (messages, link) = (self.judge.messages(), &self.summary.link);
        let cut = u64::from(!messages.is_multiple_of(payload::STAGES));
        let whole = messages.div_ceil(payload::STAGES);
        (link.complete + cut.min(link.incomplete)).min(whole)
    }

    fn totals(&self) -> Counters {
        let mut total = Counters::default();
        for life in &self.counters {
            total.published_messages += life.published_messages;
            total.published_bytes += life.published_bytes;
            total.batches += life.batches;
            total.log_bytes += life.log_bytes;
            total.other_bytes += life.other_bytes;
            total.syncs += life.syncs;
            total.segments_recycled += life.segments_recycled;
            total.segments_deleted += life.segments_deleted;
            total.checkpoints += life.checkpoints;
        }
        total
    }

    fn confirmed_per_s(&self) -> f64 {
        per_second(self.judge.confirmed_rush(), self.publishing)
    }

    fn delivered_per_s(&self) -> f64 {
        per_second(self.judge.delivered_rush(), self.delivering)
    }
}

/// Sum over the queues.
fn sum(count: impl Fn(usize) -> u64) -> u64 {
    (0..QUEUES.len()).map(count).sum()
}

/// A walk starts at a wrong result, follows parents, and ends where the fault was planted.
fn walk_is_right(walk: &[u64], messages: u64) -> bool {
    let (Some(&start), Some(&end)) = (walk.first(), walk.last()) else {
        // None was to be found if no whole trace has a fault.
        let whole = 0..messages / payload::STAGES;
        return whole.into_iter().all(|trace| payload::fault_of(trace).is_none());
    };
    payload::source_of(start) == Some(end) && walk.windows(2).all(|pair| pair[0] == pair[1] + 1)
}

/// Prints the table and the check.
pub(crate) fn print(
    options: &Options,
    outcome: &Outcome,
    figures: &[Figures],
) -> anyhow::Result<()> {
    let mut table = console::table(&["scenario", "figure"]);
    for (name, figure) in rows(options, outcome) {
        table.add_row([name, figure]);
    }
    let raw = |figure: fn(&Figures) -> f64| Spread::of(figures.iter().map(figure)).to_string();
    table.add_row(["raw 4 KiB synced write beside it, p50, us", &raw(|f| f.raw_4k_p50_us)]);
    let synced = raw(Figures::sequential_synced_best_mib_per_s);
    table.add_row(["raw 1 MiB synced writes beside it, MiB/s", &synced]);
    console::line(&table.to_string())?;
    let queues: Vec<String> = (0..QUEUES.len())
        .map(|queue| {
            let lost = outcome.judge.lost_in(queue);
            let first = lost.first().map(|number| format!(", the first is number {number}"));
            format!("{}: {} lost{}", QUEUES[queue], lost.len(), first.unwrap_or_default())
        })
        .collect();
    console::line(&format!("check: {}", queues.join("; ")))?;
    let wrong: Vec<String> = outcome
        .findings()
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if wrong.is_empty() {
        console::line(
            "PASSED: every confirmed message was seen by all three platforms, none was corrupt",
        )?;
    } else {
        console::line(&format!("FAILED: {}", wrong.join(", ")))?;
    }
    Ok(())
}

fn rows(options: &Options, outcome: &Outcome) -> Vec<(String, String)> {
    let judge = &outcome.judge;
    let totals = outcome.totals();
    let mut rows = Vec::new();
    let mut row = |name: &str, figure: String| rows.push((name.to_owned(), figure));
    row("messages confirmed", judge.confirmed().to_string());
    row("confirmed messages per second", short(outcome.confirmed_per_s()));
    row("deliveries per second, all queues", short(outcome.delivered_per_s()));
    row("confirm p50 / p99 / p999", percentiles(&judge.confirm));
    row("publish to deliver p50 / p99 / p999", percentiles(&judge.deliver));
    let paced = format!("at {}/s without backlog", options.paced_rate);
    row(&format!("confirm {paced}"), percentiles(&judge.confirm_paced));
    row(&format!("publish to deliver {paced}"), percentiles(&judge.deliver_paced));
    for (queue, name) in QUEUES.iter().enumerate() {
        let shares = judge.shares(queue);
        let shares: Vec<String> = shares.iter().map(|s| format!("{:.1} %", s * 100.0)).collect();
        row(&format!("shares of {name}"), shares.join(" / "));
    }
    let payload = as_f64(totals.published_messages * as_u64(options.size));
    let written = ratio(as_f64(totals.log_bytes + totals.other_bytes), payload);
    let log = ratio(as_f64(totals.log_bytes), payload);
    row("bytes written per payload byte (log alone)", format!("{written:.3} ({log:.3})"));
    row("syncs", totals.syncs.to_string());
    row(
        "messages per batch",
        short(ratio(as_f64(totals.published_messages), as_f64(totals.batches))),
    );
    let held = judge.queues.iter().map(|queue| as_u64(queue.held.iter().flatten().count()));
    let held = held.map(|count| count.to_string()).collect::<Vec<_>>().join(" / ");
    row("held unacked by the dropped consumers", held);
    if let (Some(restart), Some(ready)) = (outcome.restart, outcome.readies.last()) {
        row("confirmed when killed", outcome.confirmed_at_kill.to_string());
        let restart = short(restart.as_secs_f64() * 1e3);
        row("kill to open again (open alone), ms", format!("{restart} ({})", short(ready.open_ms)));
        row("seen before the kill without a confirm", outcome.in_doubt_but_stored.to_string());
    }
    row("numbers stored twice", judge.stored_twice.len().to_string());
    row("redelivered", sum(|queue| judge.queues[queue].redelivered).to_string());
    row("seen again by the same platform", sum(|q| judge.queues[q].repeated).to_string());
    row("lost", judge.lost().to_string());
    row("corrupt", (judge.corrupt + judge.strange_confirms).to_string());
    let query = &outcome.summary.query;
    row("query: rows right, look-ups (cache hits)", {
        format!("{}, {} ({})", outcome.rows.0, query.lookups, query.cache_hits)
    });
    row("monitor: alerts", judge.queues[MONITOR].alerts.len().to_string());
    row("link: whole traces, steps walked back", {
        format!("{}, {}", outcome.summary.link.complete, outcome.summary.link.walk.len())
    });
    row("whole run, s", short(outcome.elapsed.as_secs_f64()));
    rows
}

fn percentiles(latencies: &Latencies) -> String {
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| short_time(latencies.us(quantile)));
    format!("{p50} / {p99} / {p999}")
}

/// Adds the floor that was measured before and after the run, and the ratios to it.
pub(crate) fn compare(outcome: &Outcome, figures: &[Figures], direct: bool, report: &mut Report) {
    let Some(cell) = report.results.first_mut() else { return };
    Figures::report(figures, direct, cell);
    let median = |figure: fn(&Figures) -> f64| Spread::of(figures.iter().map(figure)).median;
    let paced = outcome.judge.confirm_paced.us(0.5);
    cell.ratio("paced_confirm_p50_per_raw_4k_p50", ratio(paced, median(|f| f.raw_4k_p50_us)))
        .ratio(
            "confirmed_per_raw_4k",
            ratio(outcome.confirmed_per_s(), median(|f| f.raw_4k_per_s)),
        );
}

/// The report of a run.
pub(crate) fn report(options: &Options, outcome: &Outcome, machine: Machine) -> Report {
    let mut cell = Cell::new();
    params(options, outcome, &mut cell);
    let judge = &outcome.judge;
    let totals = outcome.totals();
    cell.metric("confirmed", judge.confirmed())
        .metric("confirmed_per_s", outcome.confirmed_per_s())
        .metric("delivered", sum(|queue| judge.queues[queue].delivered))
        .metric("delivered_per_s", outcome.delivered_per_s())
        .metric("redelivered", sum(|queue| judge.queues[queue].redelivered))
        .metric("repeated", sum(|queue| judge.queues[queue].repeated))
        .metric("stored_twice", judge.stored_twice.len())
        .metric("in_doubt_but_stored", outcome.in_doubt_but_stored)
        .metric("confirmed_at_kill", outcome.confirmed_at_kill)
        .metric("restart_ms", outcome.restart.map(|restart| restart.as_secs_f64() * 1e3))
        .metric("elapsed_s", outcome.elapsed.as_secs_f64())
        .metric("syncs", totals.syncs)
        .metric("batches", totals.batches)
        .metric("checkpoints", totals.checkpoints)
        .metric("segments_recycled", totals.segments_recycled)
        .metric("segments_deleted", totals.segments_deleted)
        .metric("passed", outcome.passed());
    for (name, count) in outcome.findings() {
        cell.metric(name, count);
    }
    for (name, latencies) in [
        ("confirm", &judge.confirm),
        ("publish_to_deliver", &judge.deliver),
        ("paced_confirm", &judge.confirm_paced),
        ("paced_publish_to_deliver", &judge.deliver_paced),
    ] {
        for (quantile, value) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            cell.metric(&format!("{name}_{quantile}_us"), latencies.us(value));
        }
    }
    let payload = as_f64(totals.published_messages * as_u64(options.size));
    let written = as_f64(totals.log_bytes + totals.other_bytes);
    cell.metric("written_per_payload_byte", ratio(written, payload))
        .metric("log_written_per_payload_byte", ratio(as_f64(totals.log_bytes), payload));
    let by_queue = |value: &dyn Fn(usize) -> Value| -> Value {
        (0..QUEUES.len()).map(|queue| (QUEUES[queue].to_owned(), value(queue))).collect()
    };
    cell.metric("shares", by_queue(&|queue| json!(judge.shares(queue))))
        .metric(
            "held_by_dropped_consumer",
            by_queue(&|queue| json!(judge.queues[queue].held.as_ref().map(Vec::len))),
        )
        .metric("recoveries", serde_json::to_value(&outcome.readies).unwrap_or_default())
        .metric("query", serde_json::to_value(outcome.summary.query).unwrap_or_default())
        .metric("query_rows_right", outcome.rows.0)
        .metric("monitor_alerts", judge.queues[MONITOR].alerts.len())
        .metric("link", serde_json::to_value(&outcome.summary.link).unwrap_or_default());
    let mut report = Report::new("scenario", machine);
    report.results.push(cell);
    report
}

fn params(options: &Options, outcome: &Outcome, cell: &mut Cell) {
    cell.param("messages", options.messages)
        .param("size_bytes", options.size)
        .param("consumers_per_queue", options.consumers)
        .param("publishers", options.publishers)
        .param("window", options.window)
        .param("kill_at", options.kill_at)
        .param("paced_messages", options.paced.min(options.messages / 10))
        .param("paced_per_s", options.paced_rate)
        .param("plant_loss", options.plant_loss)
        .param("backend", outcome.readies.first().map(|ready| ready.backend.clone()));
}
