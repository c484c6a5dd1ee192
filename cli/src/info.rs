//! `fanlog info`: what a store holds, read without writing.

use std::path::PathBuf;

use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets};
use fanlog::{Engine, SegmentInfo, TopologyView};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::{
    failure::{Failure, Status},
    output::{Output, exchange_name, one_line},
    store,
    table::options_to_json,
};

/// Show exchanges, queues, depths, bindings, segments, and live and dead bytes.
///
/// Opens read-only and writes nothing, so it shows the store as the next open would find it.
#[derive(Args)]
#[command(after_help = "Examples:\n  fanlog info orders\n  fanlog info orders --json")]
pub(crate) struct Info {
    /// Directory of the store
    pub(crate) dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    damage: store::Damage,
}

impl Info {
    pub(crate) fn run(&self) -> Result<Status, Failure> {
        let engine = store::look_around(&self.dir, self.damage.choice())?;
        let gaps = store::tell_gaps(&engine, &self.dir);
        let store = store::session(engine, |engine| Ok(self.look(engine)))?;
        let mut output = Output::new();
        if self.json {
            output.json(&store)?;
        } else {
            output.line(&store.to_text())?;
        }
        output.flush()?;
        Ok(if gaps == 0 { Status::Fine } else { Status::Damaged })
    }

    fn look(&self, engine: &Engine) -> Store {
        let stats = engine.stats();
        let recovery = engine.recovery();
        let topology = engine.topology();
        let segments: Vec<Segment> = engine.segments().iter().map(Segment::from).collect();
        let sum = |part: fn(&Segment) -> u64| segments.iter().map(part).sum();
        Store {
            dir: self.dir.to_string_lossy().into_owned(),
            backend: stats.backend.to_string(),
            clean: recovery.clean,
            epoch: recovery.epoch,
            end_offset: stats.end_offset.0,
            file_bytes: sum(|segment| segment.file_bytes),
            payload_bytes: sum(|segment| segment.payload_bytes),
            live_bytes: sum(|segment| segment.live_bytes),
            dead_bytes: sum(|segment| segment.dead_bytes),
            gaps: recovery.gaps.iter().map(Gap::from).collect(),
            torn_bytes: recovery.cuts.iter().map(|cut| cut.bytes).sum(),
            strangers: recovery.strangers.clone(),
            exchanges: exchanges(&topology),
            bindings: bindings(&topology),
            queues: queues(&topology),
            segments,
        }
    }
}

/// Everything that is shown; the JSON object as it is.
#[derive(Serialize)]
struct Store {
    dir: String,
    backend: String,
    clean: bool,
    epoch: u32,
    end_offset: u64,
    file_bytes: u64,
    payload_bytes: u64,
    live_bytes: u64,
    dead_bytes: u64,
    torn_bytes: u64,
    gaps: Vec<Gap>,
    strangers: Vec<String>,
    exchanges: Vec<Exchange>,
    bindings: Vec<Binding>,
    queues: Vec<Queue>,
    segments: Vec<Segment>,
}

/// What was damaged, with `--on-damage quarantine`.
#[derive(Serialize)]
struct Gap {
    file: String,
    position: u64,
    from: u64,
    to: u64,
    controls: bool,
    reason: String,
}

impl From<&fanlog::Gap> for Gap {
    fn from(gap: &fanlog::Gap) -> Self {
        Self {
            file: gap.path.to_string_lossy().into_owned(),
            position: gap.position,
            from: gap.from.0,
            to: gap.to.0,
            controls: gap.controls,
            reason: gap.reason.clone(),
        }
    }
}

#[derive(Serialize)]
struct Exchange {
    name: String,
    kind: &'static str,
}

#[derive(Serialize)]
struct Binding {
    exchange: String,
    routing_key: String,
    queue: String,
}

#[derive(Serialize)]
struct Queue {
    name: String,
    messages: u64,
    bytes: u64,
    ready: u64,
    unacked: u64,
    ack_floor: u64,
    /// What is not as by default.
    options: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct Segment {
    file: String,
    number: u64,
    generation: u32,
    state: &'static str,
    first_offset: u64,
    end_offset: u64,
    file_bytes: u64,
    payload_bytes: u64,
    live_bytes: u64,
    dead_bytes: u64,
}

fn exchanges(topology: &TopologyView) -> Vec<Exchange> {
    let exchanges = topology.exchanges.iter();
    exchanges.map(|e| Exchange { name: e.name.clone(), kind: e.kind.name() }).collect()
}

fn bindings(topology: &TopologyView) -> Vec<Binding> {
    let row = |binding: &fanlog::BindingView| Binding {
        exchange: binding.exchange.clone(),
        routing_key: binding.routing_key.clone(),
        queue: binding.queue.clone(),
    };
    topology.bindings.iter().map(row).collect()
}

fn queues(topology: &TopologyView) -> Vec<Queue> {
    let row = |queue: &fanlog::QueueView| Queue {
        name: queue.name.clone(),
        messages: queue.messages,
        bytes: queue.bytes,
        ready: queue.ready,
        unacked: queue.unacked,
        ack_floor: queue.ack_floor.0,
        options: options_to_json(&queue.options),
    };
    topology.queues.iter().map(row).collect()
}

impl From<&SegmentInfo> for Segment {
    fn from(segment: &SegmentInfo) -> Self {
        Self {
            file: segment.path.to_string_lossy().into_owned(),
            number: segment.number,
            generation: segment.generation,
            state: segment.state,
            first_offset: segment.first_offset.0,
            end_offset: segment.end_offset.0,
            file_bytes: segment.file_bytes,
            payload_bytes: segment.payload_bytes,
            live_bytes: segment.live_bytes,
            dead_bytes: segment.payload_bytes.saturating_sub(segment.live_bytes),
        }
    }
}

impl Store {
    fn to_text(&self) -> String {
        let mut parts = vec![self.summary()];
        parts.push(self.exchange_table());
        parts.push(self.binding_table());
        parts.push(self.queue_table());
        parts.push(self.segment_table());
        parts.retain(|part| !part.is_empty());
        parts.join("\n\n")
    }

    fn summary(&self) -> String {
        let mut lines = vec![
            format!("store     {}", one_line(&self.dir)),
            format!("backend   {}", self.backend),
            format!("closed    {}", if self.clean { "cleanly" } else { "not cleanly" }),
            format!("messages  {} ever published (next offset)", self.end_offset),
            format!(
                "payload   {} live, {} dead, {} together, in {} of segments",
                HumanBytes(self.live_bytes),
                HumanBytes(self.dead_bytes),
                HumanBytes(self.payload_bytes),
                HumanBytes(self.file_bytes)
            ),
        ];
        if self.torn_bytes > 0 {
            let torn = HumanBytes(self.torn_bytes);
            lines.push(format!("torn tail {torn} that the next open cuts"));
        }
        for stranger in &self.strangers {
            lines.push(format!("unknown   {} (left alone)", one_line(stranger)));
        }
        lines.join("\n")
    }

    fn exchange_table(&self) -> String {
        let row = |exchange: &Exchange| {
            let bound = self.bindings.iter().filter(|b| b.exchange == exchange.name).count();
            vec![text(&exchange_name(&exchange.name)), text(exchange.kind), number(bound)]
        };
        table(&["exchange", "kind", "bindings"], self.exchanges.iter().map(row))
    }

    fn binding_table(&self) -> String {
        let row = |b: &Binding| {
            let exchange = exchange_name(&b.exchange);
            vec![text(&exchange), text(&one_line(&b.routing_key)), text(&one_line(&b.queue))]
        };
        table(&["exchange", "routing key", "queue"], self.bindings.iter().map(row))
    }

    fn queue_table(&self) -> String {
        let row = |queue: &Queue| {
            vec![
                text(&one_line(&queue.name)),
                number(queue.messages),
                number(HumanBytes(queue.bytes)),
                number(queue.ready),
                number(queue.unacked),
                number(queue.ack_floor),
                text(&one_line(&options(queue))),
            ]
        };
        let header = ["queue", "messages", "size", "ready", "unacked", "acked below", "options"];
        table(&header, self.queues.iter().map(row))
    }

    fn segment_table(&self) -> String {
        let row = |segment: &Segment| {
            vec![
                number(segment.number),
                number(segment.generation),
                text(segment.state),
                number(format!("{}..{}", segment.first_offset, segment.end_offset)),
                number(HumanBytes(segment.file_bytes)),
                number(HumanBytes(segment.payload_bytes)),
                number(HumanBytes(segment.live_bytes)),
                number(HumanBytes(segment.dead_bytes)),
            ]
        };
        let header = ["segment", "gen", "state", "offsets", "file", "payload", "live", "dead"];
        table(&header, self.segments.iter().map(row))
    }
}

/// Options as `name=value`; those that are only set or not by their names.
fn options(queue: &Queue) -> String {
    let shown = queue.options.iter().map(|(name, value)| match value {
        serde_json::Value::Bool(true) => name.clone(),
        serde_json::Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// The rows under `header`, or nothing where there are none.
fn table(header: &[&str], rows: impl Iterator<Item = Vec<Cell>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    table.add_rows(rows);
    if table.is_empty() { String::new() } else { table.trim_fmt() }
}

fn text(value: &str) -> Cell {
    Cell::new(value)
}

fn number(value: impl ToString) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}
