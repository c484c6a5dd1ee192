//! A process whose memory is looked at: `fanlog-backlog fill DIR MESSAGES`, `fanlog-backlog drain
//! DIR MESSAGES`.
//!
//! `fill` publishes so many messages of 100 bytes to one queue, says `confirmed`, and stays open
//! until it is killed. `drain` opens the store and consumes them all; it says how much anonymous
//! memory it had, in KiB: `opened N`, `consumed N` (the most while it consumed), and how much of the
//! log it read, in bytes: `read N`.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fanlog::{Config, Consumer, ConsumerOptions, Engine, Message};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const QUEUE: &str = "backlog";
/// Messages that are not confirmed yet, at most.
const OUTSTANDING: usize = 1_000;
/// Time between two looks at the memory.
const LOOK_EVERY: Duration = Duration::from_millis(2);

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [step, dir, messages] = arguments.as_slice() else {
        return Err("usage: fanlog-backlog fill|drain DIR MESSAGES".into());
    };
    let engine = Engine::open(dir, Config { window_bytes_max: 8 << 20, ..Config::default() })?;
    let messages = messages.parse()?;
    match step.as_str() {
        "fill" => fill(&engine, messages),
        "drain" => drain(&engine, messages),
        other => Err(format!("{other} is neither fill nor drain").into()),
    }
}

fn tell(line: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    Ok(out.flush()?)
}

fn fill(engine: &Engine, messages: u64) -> Outcome {
    engine.declare_queue(QUEUE)?;
    let publisher = engine.publisher();
    let mut outstanding = VecDeque::new();
    for number in 0..messages {
        let mut payload = [0; 100];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        outstanding.push_back(publisher.publish(&Message::new("", QUEUE, &payload))?);
        if outstanding.len() > OUTSTANDING
            && let Some(oldest) = outstanding.pop_front()
        {
            oldest.wait()?;
        }
    }
    outstanding.into_iter().try_for_each(|ticket| ticket.wait().map(drop))?;
    tell("confirmed")?;
    loop {
        thread::park();
    }
}

fn drain(engine: &Engine, messages: u64) -> Outcome {
    tell(&format!("opened {}", anonymous_kib()?))?;
    tell(&format!("read {}", engine.recovery().read_bytes))?;
    let options = ConsumerOptions { prefetch: 4_000, ..ConsumerOptions::default() };
    let consumer = engine.consume(QUEUE, options)?;
    let (most, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let watch = || -> Outcome {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(anonymous_kib()?, Ordering::Relaxed);
                thread::sleep(LOOK_EVERY);
            }
            Ok(())
        };
        let watcher = scope.spawn(watch);
        let outcome = consume(&consumer, messages);
        done.store(true, Ordering::Relaxed);
        watcher.join().map_err(|_| "the watcher panicked")??;
        outcome
    })?;
    tell(&format!("consumed {}", most.into_inner()))?;
    drop(consumer);
    engine.close(Duration::from_mins(1))?;
    Ok(())
}

fn consume(consumer: &Consumer, messages: u64) -> Outcome {
    let mut expected = 0;
    while expected < messages {
        let batch = consumer.recv_batch(1_000, Duration::from_secs(30))?;
        for delivery in batch.iter() {
            if delivery.payload()[..8] != expected.to_le_bytes() {
                return Err(format!("not message {expected}").into());
            }
            expected += 1;
        }
        if batch.is_empty() {
            return Err(format!("message {expected} is missing").into());
        }
        drop(batch.ack()?);
    }
    Ok(())
}

/// Memory of this process now, without pages that belong to files.
fn anonymous_kib() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next());
    Ok(kib.ok_or("the kernel does not tell")?.parse()?)
}
