//! `fanlog reclaim`: gives disk back, or says who keeps it.

use std::{io, path::PathBuf};

use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets};
use fanlog::{
    Pin, Pins, ReclaimReport, SegmentPins,
    storage::{RealStorage, Storage as _},
};
use fanlog_segment_format::FileName;
use indicatif::{HumanBytes, HumanDuration, ProgressBar};
use serde::Serialize;

use crate::{
    failure::{Failure, Status},
    output::{Output, one_line},
    store::{self, IfMissing, Settings},
};

/// Give back the disk that nobody needs any more; with --why, show who needs the rest.
///
/// Without --why the store is opened, its dead segments are given back, what is sparse is rewritten
/// as far as that is worth it, and what was freed is printed. With --why nothing is written: for
/// each segment it shows the queues that have not acked all of it, and the oldest message of each.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Reclaim {
    /// Directory of the store
    pub(crate) dir: PathBuf,
    /// Show who keeps which segment, and change nothing
    #[arg(long)]
    why: bool,
    /// With --why, how many segments to show, the fullest first
    #[arg(long, value_name = "N", default_value_t = 50)]
    segments: usize,
    /// With --why, how many queues to show of each, the largest first
    #[arg(long, value_name = "N", default_value_t = 10)]
    queues: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "\
Examples:
  fanlog reclaim orders
  fanlog reclaim orders --why
  fanlog reclaim orders --why --segments 5 --json";

impl Reclaim {
    pub(crate) fn run(&self) -> Result<Status, Failure> {
        let mut output = Output::new();
        if self.why {
            let engine = store::open_read_only(&self.dir)?;
            let found = store::session(engine, |engine| {
                let pins = engine.pins(self.segments, self.queues)?;
                let stats = engine.stats();
                let age = stats.oldest_unacked_age.map(|age| age.as_secs_f64());
                Ok(Why::new(&pins, age, stats.oldest_unacked_pinned_bytes))
            })?;
            if self.json {
                output.json(&found)?;
            } else {
                output.line(&found.to_text())?;
            }
        } else {
            let before = self.store_bytes()?;
            let engine = self.settings.open(&self.dir, IfMissing::Fail)?;
            let report = store::session(engine, |engine| {
                let bar = ProgressBar::new_spinner();
                let report = engine.reclaim(&mut |told| {
                    let done = told.segments_deleted + told.segments_recycled;
                    bar.set_message(format!("{done} segments given back"));
                    bar.tick();
                });
                bar.finish_and_clear();
                Ok(report?)
            })?;
            // Opening gives back what others left, and closing writes: what counts is the directory.
            let freed = Outcome::new(&report, before, self.store_bytes()?);
            if self.json {
                output.json(&freed)?;
            } else {
                output.line(&freed.to_text())?;
            }
        }
        output.flush()?;
        Ok(Status::Fine)
    }

    /// Bytes of the files in the directory, but for those that are kept ready.
    fn store_bytes(&self) -> Result<u64, Failure> {
        let listed = RealStorage::open_read_only(&self.dir).and_then(|storage| storage.list());
        match listed {
            Ok(entries) => {
                let free = |name: &str| matches!(FileName::parse(name), Some(FileName::Free(_)));
                let own = entries.iter().filter(|entry| !free(&entry.name));
                Ok(own.map(|entry| entry.bytes).sum())
            }
            // Opening says more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Failure::io(&self.dir.to_string_lossy(), &error)),
        }
    }
}

/// What a reclaim freed; the JSON object as it is.
#[derive(Serialize)]
struct Outcome {
    freed_bytes: u64,
    bytes_before: u64,
    bytes_after: u64,
    segments_deleted: u64,
    segments_recycled: u64,
    segments_rewritten: u64,
}

impl Outcome {
    fn new(report: &ReclaimReport, bytes_before: u64, bytes_after: u64) -> Self {
        Self {
            freed_bytes: bytes_before.saturating_sub(bytes_after),
            bytes_before,
            bytes_after,
            segments_deleted: report.segments_deleted,
            segments_recycled: report.segments_recycled,
            segments_rewritten: report.segments_rewritten,
        }
    }
}

impl Outcome {
    fn to_text(&self) -> String {
        format!(
            "freed {}: {} segments rewritten, {} removed, {} kept to be used again; log and checkpoints have {} now",
            HumanBytes(self.freed_bytes),
            self.segments_rewritten,
            self.segments_deleted,
            self.segments_recycled,
            HumanBytes(self.bytes_after),
        )
    }
}

/// Who keeps what; the JSON object as it is.
#[derive(Serialize)]
struct Why {
    oldest_unacked_age_seconds: Option<f64>,
    oldest_unacked_pinned_bytes: u64,
    segments: Vec<Segment>,
    segments_left_off: u64,
}

#[derive(Serialize)]
struct Segment {
    file: String,
    number: u64,
    generation: u32,
    state: &'static str,
    file_bytes: u64,
    outstanding_messages: Option<u64>,
    outstanding_bytes: Option<u64>,
    queues: Vec<Holder>,
    queues_left_off: u64,
}

#[derive(Serialize)]
struct Holder {
    queue: String,
    history: bool,
    messages: u64,
    bytes: u64,
    oldest_offset: u64,
    oldest_age_seconds: Option<f64>,
    consumer: Option<String>,
}

impl From<&SegmentPins> for Segment {
    fn from(segment: &SegmentPins) -> Self {
        Self {
            file: segment.path.to_string_lossy().into_owned(),
            number: segment.number,
            generation: segment.generation,
            state: segment.state,
            file_bytes: segment.file_bytes,
            outstanding_messages: segment.outstanding_messages,
            outstanding_bytes: segment.outstanding_bytes,
            queues: segment.queues.iter().map(Holder::from).collect(),
            queues_left_off: segment.queues_left_off,
        }
    }
}

impl From<&Pin> for Holder {
    fn from(pin: &Pin) -> Self {
        Self {
            queue: pin.queue.clone(),
            history: pin.history,
            messages: pin.messages,
            bytes: pin.bytes,
            oldest_offset: pin.oldest_offset.0,
            oldest_age_seconds: pin.oldest_age.map(|age| age.as_secs_f64()),
            consumer: pin.consumer.clone(),
        }
    }
}

impl Why {
    fn new(pins: &Pins, oldest_age: Option<f64>, pinned_bytes: u64) -> Self {
        Self {
            oldest_unacked_age_seconds: oldest_age,
            oldest_unacked_pinned_bytes: pinned_bytes,
            segments: pins.segments.iter().map(Segment::from).collect(),
            segments_left_off: pins.segments_left_off,
        }
    }

    fn to_text(&self) -> String {
        if self.segments.is_empty() {
            return "nothing is kept: every message is acked".to_owned();
        }
        let mut lines = Vec::new();
        if let Some(age) = self.oldest_unacked_age_seconds {
            let pinned = HumanBytes(self.oldest_unacked_pinned_bytes);
            lines.push(format!("oldest unacked message: {}, keeps {pinned}", human(age)));
        }
        lines.push(self.table());
        if self.segments_left_off > 0 {
            lines.push(format!("{} more segments (see --segments)", self.segments_left_off));
        }
        lines.join("\n")
    }

    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(
            ["segment", "gen", "state", "file", "unacked", "queue", "messages", "bytes", "oldest"]
                .into_iter()
                .chain(["age", "consumer"]),
        );
        for segment in &self.segments {
            let known = |known: Option<String>| number(known.unwrap_or_else(|| "unknown".into()));
            let own = || {
                vec![
                    number(segment.number),
                    number(segment.generation),
                    Cell::new(segment.state),
                    number(HumanBytes(segment.file_bytes)),
                    known(segment.outstanding_bytes.map(|bytes| HumanBytes(bytes).to_string())),
                ]
            };
            for (at, queue) in segment.queues.iter().enumerate() {
                let mut row = if at == 0 { own() } else { vec![Cell::new(""); 5] };
                row.extend(queue.cells());
                table.add_row(row);
            }
            if segment.queues.is_empty() {
                table.add_row(own());
            }
            if segment.queues_left_off > 0 {
                let mut row = vec![Cell::new(""); 5];
                row.push(Cell::new(format!("{} more (see --queues)", segment.queues_left_off)));
                table.add_row(row);
            }
        }
        table.trim_fmt()
    }
}

impl Holder {
    fn cells(&self) -> [Cell; 6] {
        let consumer = self.consumer.as_deref().unwrap_or("");
        let of = if self.history { " (history)" } else { "" };
        [
            Cell::new(format!("{}{of}", one_line(&self.queue))),
            number(self.messages),
            number(HumanBytes(self.bytes)),
            number(self.oldest_offset),
            number(self.oldest_age_seconds.map_or_else(|| "damaged".to_owned(), human)),
            Cell::new(one_line(consumer)),
        ]
    }
}

fn number(value: impl ToString) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}

fn human(seconds: f64) -> String {
    let age = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    if age.as_secs() == 0 { "now".to_owned() } else { HumanDuration(age).to_string() }
}
