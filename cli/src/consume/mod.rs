//! `fanlog consume`: messages of a queue become lines of standard output.
//!
//! A store has one owner at a time, so a command that waits for messages must not keep it: it
//! drains the queue, closes the store, and looks again when its files change.
//!
//! C1. A message is acked only after its line was flushed to standard output, and a message that
//!     was acked was acked durably.
//! C2. A damaged message prints no line, is told on standard error and is left in the queue
//!     (unless `--ack-damaged`); it ends the command after the messages around it.
//! C3. What opening found damaged, with `--on-damage quarantine`, is told on standard error once.

mod drain;
mod line;
mod peek;
mod wait;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use fanlog::Damage;

use crate::{
    duration,
    failure::{Failure, Status},
    output::Output,
    signals,
    store::{self, Settings},
};

/// Print the messages of a queue, one per line, and ack them.
///
/// A message is acked, durably, once its line was written and flushed. So whatever stops this
/// command, every message was handed to the reader of its output, or comes again; at most the last
/// ones do both. Ends when the queue is empty, unless told to wait.
#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "they are flags of a command line")]
#[command(after_help = EXAMPLES)]
pub(crate) struct Consume {
    /// Directory of the store
    pub(crate) dir: PathBuf,
    /// Queue to take messages from
    #[arg(long, short)]
    queue: String,
    /// End after this many messages
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    /// End when no message came for so long, e.g. 500ms, 10s, 2m [default: 0s, with --follow
    /// for ever]
    #[arg(long, value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// Only look: print what is not acked yet and leave it in the queue, unmarked
    #[arg(long)]
    no_ack: bool,
    /// Wait for more messages; while waiting other commands may use the store
    #[arg(long, short)]
    follow: bool,
    /// Also ack messages whose bytes are damaged, so that they do not come again
    #[arg(long, conflicts_with = "no_ack")]
    ack_damaged: bool,
    /// Print JSON, one object per message; a payload that is not UTF-8 comes in hex
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    damage: store::Damage,
    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "\
Examples:
  fanlog consume orders --queue billing
  fanlog consume orders --queue billing --count 1 --json
  fanlog consume orders --queue billing --no-ack | wc -l
  fanlog consume orders --queue shipping --follow --timeout 10m >> shipping.log";

/// What a visit to the store came to.
enum Visit {
    /// This many messages were there.
    Took(u64),
    /// Another process has it open.
    OpenElsewhere,
}

impl Consume {
    pub(crate) fn run(&self) -> Result<Status, Failure> {
        let mut run = Run {
            output: Output::new(),
            stop: signals::stop_flag()?,
            left: self.count.unwrap_or(u64::MAX),
            damaged: 0,
            gaps: 0,
        };
        self.run_until_done(&mut run)?;
        Ok(if run.damaged == 0 && run.gaps == 0 { Status::Fine } else { Status::Damaged })
    }

    fn run_until_done(&self, run: &mut Run) -> Result<(), Failure> {
        let mut peek = peek::Peek::default();
        let mut idle_since = Instant::now();
        loop {
            let seen = wait::Fingerprint::of(&self.dir);
            let visit = if self.no_ack { peek.visit(self, run) } else { drain::visit(self, run) };
            match visit? {
                _ if run.is_done() || !self.waits() => return Ok(()),
                Visit::Took(0) => {
                    let changed = || wait::Fingerprint::of(&self.dir) != seen;
                    if !wait::until(changed, self.deadline(idle_since), &run.stop) {
                        return Ok(());
                    }
                }
                Visit::Took(_) => idle_since = Instant::now(),
                Visit::OpenElsewhere => {
                    let mut first = true;
                    let later = || !std::mem::take(&mut first);
                    if !wait::until(later, self.deadline(idle_since), &run.stop) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Whether an empty queue is waited on.
    fn waits(&self) -> bool {
        self.follow || self.timeout.is_some_and(|timeout| !timeout.is_zero())
    }

    /// When the waiting ends; never if nothing is returned.
    fn deadline(&self, idle_since: Instant) -> Option<Instant> {
        self.timeout.and_then(|timeout| idle_since.checked_add(timeout))
    }

    fn tell_damage(&self, damage: &Damage) {
        let text = format!("message {} of queue {} is damaged", damage.offset.0, self.queue);
        Failure::damaged(&damage.path, damage.position, text).tell(&self.dir);
    }

    /// An open store is a reason to wait for those who wait anyway.
    fn opened_elsewhere(&self, failure: Failure) -> Result<Visit, Failure> {
        if failure.is_open_elsewhere() && self.waits() {
            Ok(Visit::OpenElsewhere)
        } else {
            Err(failure)
        }
    }
}

/// What lasts from one visit to the next.
struct Run {
    output: Output,
    stop: Arc<AtomicBool>,
    /// Messages that may still be printed.
    left: u64,
    /// Messages found damaged and left alone.
    damaged: u64,
    /// What was damaged when the store was opened.
    gaps: usize,
}

impl Run {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether nothing more is to be printed.
    fn is_done(&self) -> bool {
        self.left == 0 || self.damaged > 0 || self.is_stopped()
    }
}
