//! `fanlog purge`: drops all messages of a queue.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::{
    failure::{Failure, Status},
    output::Output,
    store::{self, IfMissing, Settings},
};

/// Drop every message of a queue and print how many there were.
///
/// Asks nothing. Other queues keep theirs; on return the drop is durable.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  fanlog purge orders billing\n  fanlog purge orders billing --json"
)]
pub(crate) struct Purge {
    /// Directory of the store
    pub(crate) dir: PathBuf,
    /// Name of the queue
    queue: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Purge {
    pub(crate) fn run(&self) -> Result<Status, Failure> {
        let engine = self.settings.open(&self.dir, IfMissing::Fail)?;
        let purged = store::session(engine, |engine| Ok(engine.purge_queue(&self.queue)?))?;
        let mut output = Output::new();
        if self.json {
            output.json(&Json { queue: &self.queue, purged })?;
        } else {
            output.line(&format!("purged {purged}"))?;
        }
        output.flush()?;
        Ok(Status::Fine)
    }
}

#[derive(Serialize)]
struct Json<'a> {
    queue: &'a str,
    purged: u64,
}
