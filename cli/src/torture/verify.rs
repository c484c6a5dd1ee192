//! `fanlog torture verify`: opens a store, recovery included, and prints every stored message.

use std::path::PathBuf;

use clap::Args;
use fanlog::{Browsed, Engine};

use crate::{
    failure::{Failure, Status},
    output::{Output, hex, line_now, one_line},
    store::{self, IfMissing, Settings},
};

/// How many bytes of a message are shown.
const SHOWN_BYTES: usize = 24;

/// Open a store the normal way, print every stored message of every queue, close it.
///
/// Prints "R <file> <offset> <bytes> <text>" for every torn tail that opening cut, then "M <queue>
/// <seq> <len> <crc32> <acked 0|1> <first 24 bytes in hex>" for every message still stored, acked
/// or not, and as the last line, only if all went well, "END <number of M lines>".
#[derive(Args)]
#[command(after_help = "\
Nothing is delivered and nothing marked. Damage ends with status 3 after the readable messages.

Examples:
  fanlog torture verify s
  fanlog torture verify s --read-only --repeat 3")]
pub(crate) struct Verify {
    /// Directory of the store
    pub(crate) dir: PathBuf,
    /// Write nothing at all; what opening would cut is still printed
    #[arg(long)]
    read_only: bool,
    /// Read and print everything N times through the same open store
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,
    #[command(flatten)]
    settings: Settings,
}

/// What was found so far.
struct Found {
    output: Output,
    messages: u64,
    damage: Option<Failure>,
}

impl Verify {
    pub(crate) fn run(&self) -> Result<Status, Failure> {
        let messages = store::session(self.open()?, |engine| {
            let mut found = Found { output: Output::new(), messages: 0, damage: None };
            found.recovery(engine)?;
            for _ in 0..self.repeat {
                found.all_queues(engine)?;
            }
            found.output.flush()?;
            found.damage.map_or(Ok(found.messages), Err)
        })?;
        line_now(&format!("END {messages}"))?;
        Ok(Status::Fine)
    }

    fn open(&self) -> Result<Engine, Failure> {
        if self.read_only {
            return store::open_read_only(&self.dir);
        }
        // A directory whose making was interrupted is a store; one that is not there is a typo.
        let if_missing = if self.dir.is_dir() { IfMissing::Create } else { IfMissing::Fail };
        self.settings.open(&self.dir, if_missing)
    }
}

impl Found {
    fn recovery(&mut self, engine: &Engine) -> Result<(), Failure> {
        for cut in &engine.recovery().cuts {
            let file = cut.path.to_string_lossy();
            let (file, reason) = (one_line(&file), one_line(&cut.reason));
            self.output.line(&format!("R {file} {} {} {reason}", cut.position, cut.bytes))?;
        }
        Ok(())
    }

    fn all_queues(&mut self, engine: &Engine) -> Result<(), Failure> {
        for queue in engine.topology().queues {
            for browsed in engine.browse(&queue.name)? {
                self.message(&queue.name, &browsed?)?;
            }
        }
        Ok(())
    }

    fn message(&mut self, queue: &str, browsed: &Browsed) -> Result<(), Failure> {
        let offset = browsed.offset.0;
        if let Some(damage) = &browsed.damage {
            let text = format!("message {offset} of queue {} is damaged", one_line(queue));
            let failure = Failure::damaged(&damage.path, damage.position, text);
            self.damage.get_or_insert(failure);
            return Ok(());
        }
        let payload: &[u8] = &browsed.payload;
        self.messages += 1;
        self.output.line(&format!(
            "M {} {offset} {} {:08x} {} {}",
            one_line(queue),
            payload.len(),
            crc32fast::hash(payload),
            u8::from(browsed.acked),
            hex(&payload[..payload.len().min(SHOWN_BYTES)])
        ))
    }
}
