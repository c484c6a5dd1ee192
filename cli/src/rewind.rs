//! `fanlog rewind`: brings back what a queue acked, as far as its exchanges keep it.

use std::path::PathBuf;

use clap::Args;
use fanlog::{Landed, StartAt};
use serde::Serialize;

use crate::{
    failure::{Failure, Status},
    output::Output,
    start,
    store::{self, IfMissing, Settings},
};

/// Bring back what a queue acked, as far as the exchanges that it is bound to keep it.
///
/// Prints where in the history that begins, and how many messages it is; on return it is durable.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  fanlog rewind orders billing\n  fanlog rewind orders billing --to 120000\n  fanlog rewind orders billing --to 90m\n  fanlog rewind orders billing --to 2026-11-23T01:30:00Z"
)]
pub(crate) struct Rewind {
    /// Directory of the store
    pub(crate) dir: PathBuf,
    /// Name of the queue
    queue: String,
    /// Where to begin: earliest, latest, an offset, a date such as 2026-11-23T01:30:00Z, or a time ago
    /// such as 90m
    #[arg(long, default_value = "earliest", value_parser = start::parse)]
    to: StartAt,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Rewind {
    pub(crate) fn run(&self) -> Result<Status, Failure> {
        let engine = self.settings.open(&self.dir, IfMissing::Fail)?;
        let landed = store::session(engine, |engine| Ok(engine.rewind(&self.queue, self.to)?))?;
        let Landed { offset, clamped, messages } = landed;
        let mut output = Output::new();
        if self.json {
            output.json(&Json { queue: &self.queue, offset: offset.0, clamped, messages })?;
        } else {
            let clamped = if clamped { ", which is not where it was asked for" } else { "" };
            output
                .line(&format!("{messages} messages came back, from offset {offset}{clamped}"))?;
        }
        output.flush()?;
        Ok(Status::Fine)
    }
}

#[derive(Serialize)]
struct Json<'a> {
    queue: &'a str,
    offset: u64,
    clamped: bool,
    messages: u64,
}
