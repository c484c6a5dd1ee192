//! `fanlog publish`: lines of standard input become messages.
//!
//! The reading thread publishes, the confirming thread waits for the tickets in the order of the
//! lines. Between them at most `--window` messages are in flight. The first failure ends the
//! reading; what is in flight then is still waited for and counted.

use std::{
    io::{self, BufRead, BufReader, Read as _},
    path::PathBuf,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use fanlog::{Change, Config, Confirm, Engine, Message, Ticket};
use serde::Serialize;

use crate::{
    declare::Kind,
    failure::{Failure, Status},
    output::Output,
    store::{self, IfMissing, Settings, WAIT_MAX, while_full},
};

/// Publish every line of standard input as one message.
///
/// Prints the number of confirmed messages: those are on stable storage. Stops at the first
/// failure, after waiting for what is in flight.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Publish {
    /// Directory of the store
    pub(crate) dir: PathBuf,
    /// Exchange to publish to; the default exchange ("") leads to the queue named by --key
    #[arg(long, short, default_value = "")]
    exchange: String,
    /// Routing key of every message
    #[arg(long, short, default_value = "")]
    key: String,
    /// Before publishing declare the exchange and this queue, and bind them with --key; may be
    /// given several times. Makes the store if it is not there
    #[arg(long, value_name = "QUEUE", value_delimiter = ',')]
    declare: Vec<String>,
    /// Kind of the exchange that --declare makes; one that exists keeps its own [default: fanout]
    #[arg(long, value_enum, requires = "declare")]
    kind: Option<Kind>,
    /// How many messages may be in flight
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    window: u32,
    /// Confirm when the kernel has the bytes: survives a kill, not a power cut
    #[arg(long)]
    buffered: bool,
    /// Print every confirm as it comes: number of the line, offset in the log
    #[arg(long)]
    confirms: bool,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "\
Examples:
  echo hello | fanlog publish store --key greetings --declare greetings
  seq 1000 | fanlog publish orders --exchange placed --declare billing,shipping
  tail -F app.log | fanlog publish logs --exchange app --confirms --json";

/// A published line whose confirm is awaited.
struct InFlight {
    line: u64,
    bytes: u64,
    ticket: Ticket,
}

/// What was confirmed.
#[derive(Default, Serialize)]
struct Tally {
    confirmed: u64,
    bytes: u64,
    first_offset: Option<u64>,
    last_offset: Option<u64>,
    failed: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct ConfirmedLine {
    line: u64,
    offset: u64,
}

impl Publish {
    pub(crate) fn run(&self) -> Result<Status, Failure> {
        let if_missing = if self.declare.is_empty() { IfMissing::Fail } else { IfMissing::Create };
        let engine = self.settings.open(&self.dir, if_missing)?;
        store::session(engine, |engine| {
            self.declare(engine)?;
            self.send(engine)
        })?;
        Ok(Status::Fine)
    }

    /// Declares what `--declare` asks for, in one commit.
    fn declare(&self, engine: &Engine) -> Result<(), Failure> {
        if self.declare.is_empty() {
            return Ok(());
        }
        let mut changes = Vec::new();
        let bound = !self.exchange.is_empty();
        if bound {
            let known = engine.topology().exchanges.iter().any(|e| e.name == self.exchange);
            if !known || self.kind.is_some() {
                let kind = self.kind.unwrap_or(Kind::Fanout).into();
                changes.push(Change::DeclareExchange { name: &self.exchange, kind });
            }
        }
        for queue in &self.declare {
            changes.push(Change::declare_queue(queue));
            if bound {
                let (exchange, routing_key) = (&self.exchange, &self.key);
                changes.push(Change::Bind { queue, exchange, routing_key });
            }
        }
        Ok(engine.change(&changes)?)
    }

    fn send(&self, engine: &Engine) -> Result<(), Failure> {
        let started = Instant::now();
        let stop = &AtomicBool::new(false);
        let (sender, receiver) = sync_channel(self.window as usize);
        let (read, confirmed) = thread::scope(|scope| {
            let confirming = scope.spawn(move || self.confirm_all(&receiver, stop));
            let read = self.publish_all(engine, &sender, stop);
            drop(sender);
            let confirmed = confirming.join().unwrap_or_else(|panic| {
                std::panic::resume_unwind(panic);
            });
            (read, confirmed)
        });
        let (mut tally, outcome) = confirmed;
        tally.seconds = started.elapsed().as_secs_f64();
        let printed = self.print_summary(&tally);
        // A confirm that failed came from an earlier line than the one that could not be sent.
        outcome.and(read).and(printed)
    }

    /// Publishes line after line until the input ends, a publish fails or `stop` is set.
    fn publish_all(
        &self,
        engine: &Engine,
        sender: &SyncSender<InFlight>,
        stop: &AtomicBool,
    ) -> Result<(), Failure> {
        let publisher = engine.publisher();
        let mut input = BufReader::with_capacity(256 * 1024, io::stdin().lock());
        let bytes_max = Config::default().message_bytes_max;
        let mut payload = Vec::new();
        let mut line = 0;
        while !stop.load(Ordering::Relaxed) && read_line(&mut input, &mut payload, bytes_max)? {
            line += 1;
            let message = Message::new(&self.exchange, &self.key, &payload);
            let message = if self.buffered { message.buffered() } else { message };
            let ticket = while_full(|| publisher.publish(&message))
                .map_err(|error| Failure::from(error).context(&format!("line {line}")))?;
            if sender.send(InFlight { line, bytes: payload.len() as u64, ticket }).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Waits for every ticket, in order; sets `stop` at the first failure and goes on counting.
    fn confirm_all(
        &self,
        receiver: &Receiver<InFlight>,
        stop: &AtomicBool,
    ) -> (Tally, Result<(), Failure>) {
        let mut output = Output::new();
        let mut tally = Tally::default();
        let mut outcome = Ok(());
        while let Some(in_flight) = next(receiver, &mut output, &mut outcome) {
            // Behind one that is in doubt the others only get what time they had.
            let wait = if outcome.is_ok() { WAIT_MAX } else { Duration::ZERO };
            match in_flight.ticket.wait_timeout(wait) {
                Ok(confirm) => {
                    tally.count(&in_flight, confirm);
                    if self.confirms && outcome.is_ok() {
                        outcome = self.print_confirm(&mut output, in_flight.line, confirm);
                    }
                }
                Err(error) => {
                    tally.failed += 1;
                    let context = format!("line {}", in_flight.line);
                    outcome = outcome.and(Err(Failure::from(error).context(&context)));
                }
            }
            if outcome.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        let flushed = output.flush();
        (tally, outcome.and(flushed))
    }

    fn print_confirm(
        &self,
        output: &mut Output,
        line: u64,
        confirm: Confirm,
    ) -> Result<(), Failure> {
        let offset = confirm.first_offset.0;
        if self.json {
            output.json(&ConfirmedLine { line, offset })
        } else {
            output.line(&format!("{line} {offset}"))
        }
    }

    fn print_summary(&self, tally: &Tally) -> Result<(), Failure> {
        let mut output = Output::new();
        if self.json {
            output.json(tally)?;
        } else {
            output.line(&format!("confirmed {}", tally.confirmed))?;
        }
        output.flush()
    }
}

impl Tally {
    fn count(&mut self, in_flight: &InFlight, confirm: Confirm) {
        let offset = confirm.first_offset.0;
        self.confirmed += 1;
        self.bytes += in_flight.bytes;
        self.first_offset.get_or_insert(offset);
        self.last_offset = Some(offset);
    }
}

/// The next ticket, or nothing at the end; what was printed is flushed before it has to wait.
fn next(
    receiver: &Receiver<InFlight>,
    output: &mut Output,
    outcome: &mut Result<(), Failure>,
) -> Option<InFlight> {
    match receiver.try_recv() {
        Ok(in_flight) => Some(in_flight),
        Err(TryRecvError::Disconnected) => None,
        Err(TryRecvError::Empty) => {
            if outcome.is_ok() {
                *outcome = output.flush();
            }
            receiver.recv().ok()
        }
    }
}

/// Reads one line into `line`, without its end; `false` at the end of the input.
///
/// A line is cut off one byte past `bytes_max`, for the engine to refuse it by name.
fn read_line(
    input: &mut impl BufRead,
    line: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<bool, Failure> {
    line.clear();
    let limit = bytes_max as u64 + 1;
    let read = input
        .by_ref()
        .take(limit)
        .read_until(b'\n', line)
        .map_err(|error| Failure::io("standard input", &error))?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(read > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_end_and_nothing_else() {
        let mut input: &[u8] = b"one\n\n two\r\nlast";
        let mut line = Vec::new();
        let mut lines = Vec::new();
        while read_line(&mut input, &mut line, 100).unwrap() {
            lines.push(line.clone());
        }
        assert_eq!(lines, [&b"one"[..], b"", b" two\r", b"last"]);
    }

    #[test]
    fn a_line_over_the_limit_does_not_fill_the_memory() {
        let mut input: &[u8] = &[b'x'; 1000];
        let mut line = Vec::new();
        assert!(read_line(&mut input, &mut line, 100).unwrap());
        assert_eq!(line.len(), 101);
    }
}
