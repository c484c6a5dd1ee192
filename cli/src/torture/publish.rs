//! `fanlog torture publish`: known messages from several threads, every durable one told.
//!
//! P1. A `C` line is printed only after the confirm, an `A` line only after the wait on the ack;
//!     each is flushed before its thread goes on.
//! P2. A message that failed prints `E`; an ack that failed prints nothing, and its error is the
//!     one told on standard error unless another came first.

use std::{
    io,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use clap::Args;
use fanlog::{Change, Engine, Message, Offset};

use super::{keeper::Keeper, message, size::SizeRange};
use crate::{
    failure::{Failure, Status},
    output::{line_now, one_line},
    store::{self, IfMissing, Settings, WAIT_MAX, while_full},
};

/// Publish messages F .. F+N-1 from T threads, each waiting for its confirm; make the store if it
/// is not there.
///
/// Thread i mod T sends message i to queue q<(i div T) mod Q> through the default exchange. Prints,
/// flushed at once, "C <queue> <i> <seq>" when a message is durable, "A <queue> <seq>" when its
/// ack is, "E <queue> <i> <kind> <text>" when it failed; seq is the offset in the log.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Publish {
    /// Directory of the store
    pub(crate) dir: PathBuf,
    /// Number of queues, q0 to q<Q-1>
    #[arg(long, value_name = "Q", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    queues: u64,
    /// Number of threads
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u64).range(1..=4096))]
    threads: u64,
    /// Number of the first message
    #[arg(long, value_name = "F")]
    first: u64,
    /// How many messages to send
    #[arg(long, value_name = "N")]
    count: u64,
    /// Sizes of the messages in bytes, from A to B
    #[arg(long, value_name = "A-B", value_parser = SizeRange::parse)]
    size: SizeRange,
    /// Ack every message whose number is a multiple of K, durably
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    ack: Option<u64>,
    /// When done keep the store open until standard input ends
    #[arg(long)]
    linger: bool,
    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "\
Ends with status 0 if every message was confirmed (and acked where asked for).

Examples:
  fanlog torture publish s --queues 3 --threads 8 --first 0 --count 10000 --size 100-4000
  fanlog torture publish s --queues 1 --threads 2 --first 10000 --count 500 --size 24-24 --ack 7";

/// A queue and the consumer that acks from it.
struct Lane {
    queue: String,
    declared: AtomicBool,
    keeper: Mutex<Keeper>,
}

/// What all threads share.
struct Run<'a> {
    command: &'a Publish,
    engine: &'a Engine,
    lanes: Vec<Lane>,
    /// Set when nobody reads what we print.
    stop: AtomicBool,
    first_failure: Mutex<Option<Failure>>,
}

impl Publish {
    pub(crate) fn run(&self) -> Result<Status, Failure> {
        if self.first.checked_add(self.count).is_none() {
            return Err(Failure::usage("--first and --count go past the largest number"));
        }
        let engine = self.settings.open(&self.dir, IfMissing::Create)?;
        store::session(engine, |engine| {
            let sent = self.send_all(engine);
            if self.linger {
                wait_for_end_of_input()?;
            }
            sent
        })?;
        Ok(Status::Fine)
    }

    fn send_all(&self, engine: &Engine) -> Result<(), Failure> {
        let run = Run::new(self, engine);
        run.declare_all();
        let started = thread::scope(|scope| {
            (0..self.threads).try_for_each(|index| {
                let spawned = thread::Builder::new().spawn_scoped(scope, {
                    let run = &run;
                    move || run.send_share(index)
                });
                spawned.map(|_| ()).map_err(|error| Failure::io("thread", &error))
            })
        });
        run.outcome().and(started)
    }
}

impl<'a> Run<'a> {
    fn new(command: &'a Publish, engine: &'a Engine) -> Self {
        let lane = |index| {
            let queue = format!("q{index}");
            let keeper = Mutex::new(Keeper::new(&queue));
            Lane { queue, declared: AtomicBool::new(false), keeper }
        };
        Self {
            command,
            engine,
            lanes: (0..command.queues).map(lane).collect(),
            stop: AtomicBool::new(false),
            first_failure: Mutex::new(None),
        }
    }

    /// Declares every queue in one commit; if that fails each is tried again with its messages.
    fn declare_all(&self) {
        let lanes = self.lanes.iter();
        let changes: Vec<Change<'_>> =
            lanes.map(|lane| Change::declare_queue(&lane.queue)).collect();
        if self.engine.change(&changes).is_ok() {
            for lane in &self.lanes {
                lane.declared.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Sends the messages of thread `index`, in increasing order, whatever becomes of each.
    fn send_share(&self, index: u64) {
        let (first, threads) = (self.command.first, self.command.threads);
        let end = first + self.command.count;
        let gap = (threads + index - first % threads) % threads;
        let mut next = first.checked_add(gap).filter(|number| *number < end);
        let mut payload = Vec::new();
        while let Some(number) = next {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let told = self.send_one(number, &mut payload);
            if let Err(failure) = told {
                self.stop.store(true, Ordering::Relaxed);
                self.remember(failure);
            }
            next = number.checked_add(threads).filter(|number| *number < end);
        }
    }

    /// Sends message `number`, acks it if it is to be; fails only if that cannot be told.
    fn send_one(&self, number: u64, payload: &mut Vec<u8>) -> Result<(), Failure> {
        let lane_number = number / self.command.threads % self.command.queues;
        let lane_index = usize::try_from(lane_number).expect("at most the number of queues");
        let lane = &self.lanes[lane_index];
        message::fill(payload, &lane.queue, number, self.command.size.of(number));
        match self.publish(lane, payload) {
            Ok(offset) => {
                line_now(&format!("C {} {number} {}", lane.queue, offset.0))?;
                if self.command.ack.is_some_and(|every| number.is_multiple_of(every)) {
                    self.ack(lane, offset)?;
                }
                Ok(())
            }
            Err(failure) => {
                let (kind, text) = failure.kind_and_text();
                let told = format!("E {} {number} {kind} {}", lane.queue, one_line(text));
                self.remember(failure);
                line_now(&told)
            }
        }
    }

    /// Returns the offset of the message once it is durable.
    fn publish(&self, lane: &Lane, payload: &[u8]) -> Result<Offset, Failure> {
        if !lane.declared.load(Ordering::Relaxed) {
            self.engine.declare_queue(&lane.queue)?;
            lane.declared.store(true, Ordering::Relaxed);
        }
        let publisher = self.engine.publisher();
        let message = Message::new("", &lane.queue, payload);
        let confirm = while_full(|| publisher.publish_confirmed_timeout(&message, WAIT_MAX))?;
        Ok(confirm.first_offset)
    }

    /// Acks the message at `offset` and tells it once that is durable (P2).
    fn ack(&self, lane: &Lane, offset: Offset) -> Result<(), Failure> {
        // The wait is outside the lock, so that acks of one queue share a commit.
        let ack = lane.keeper.lock().expect("a panic ends the run").ack(self.engine, offset);
        match ack.and_then(|ack| Ok(ack.wait_timeout(WAIT_MAX)?)) {
            Ok(()) => line_now(&format!("A {} {}", lane.queue, offset.0)),
            Err(failure) => {
                self.remember(failure);
                Ok(())
            }
        }
    }

    fn remember(&self, failure: Failure) {
        let mut first = self.first_failure.lock().expect("a panic ends the run");
        first.get_or_insert(failure);
    }

    fn outcome(self) -> Result<(), Failure> {
        match self.first_failure.into_inner().expect("a panic ends the run") {
            None => Ok(()),
            Some(failure) => Err(failure),
        }
    }
}

fn wait_for_end_of_input() -> Result<(), Failure> {
    let copied = io::copy(&mut io::stdin().lock(), &mut io::sink());
    copied.map(|_| ()).map_err(|error| Failure::io("standard input", &error))
}
