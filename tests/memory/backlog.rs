//! A process whose memory is looked at: `fanlog-backlog fill|drain|work DIR MESSAGES`.
//!
//! `fill` publishes so many messages of 100 bytes to one queue, says `confirmed`, and stays open
//! until it is killed. `drain` opens the store and consumes them all; it says how much anonymous
//! memory it had, in KiB: `opened N`, `consumed N` (the most while it consumed), and how much of the
//! log it read, in bytes: `read N`. `work` publishes, consumes, keeps payloads and writes
//! checkpoints all at once, among many queues, and says how much memory it had at most, `peak N`,
//! and how much the README's sum allows, `bound N`, in KiB.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fanlog::{Change, Config, Consumer, ConsumerOptions, Engine, ExchangeKind, Message};

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
    let messages = messages.parse()?;
    if step == "work" {
        return work(dir, messages);
    }
    let engine = Engine::open(dir, Config { window_bytes_max: 8 << 20, ..Config::default() })?;
    match step.as_str() {
        "fill" => fill(&engine, messages),
        "drain" => drain(&engine, messages),
        other => Err(format!("{other} is none of the steps").into()),
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
    let most = most_of(anonymous_kib, || consume(&consumer, messages))?;
    tell(&format!("consumed {most}"))?;
    drop(consumer);
    engine.close(Duration::from_mins(1))?;
    Ok(())
}

/// The most that `look` saw while `work` was done.
fn most_of(look: impl Fn() -> Outcome<u64> + Sync, work: impl FnOnce() -> Outcome) -> Outcome<u64> {
    let (most, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let watch = || -> Outcome {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(look()?, Ordering::Relaxed);
                thread::sleep(LOOK_EVERY);
            }
            Ok(())
        };
        let watcher = scope.spawn(watch);
        let outcome = work();
        done.store(true, Ordering::Relaxed);
        watcher.join().map_err(|_| "the watcher panicked")??;
        outcome
    })?;
    Ok(most.into_inner())
}

fn work(dir: &str, messages: u64) -> Outcome {
    const QUEUES: u64 = 20_000;
    const PREFETCH: u32 = 4_000;
    const KEPT: usize = 20_000;
    const SIZE: usize = 1_000;
    let before = anonymous_kib()?;
    let config = Config {
        window_bytes_max: 8 << 20,
        buffer_bytes_max: 4 << 20,
        pinned_bytes_max: 8 << 20,
        segment_bytes_max: 16 << 20,
        checkpoint_log_bytes: 16 << 20,
        ..Config::default()
    };
    let engine = Engine::open(dir, config.clone())?;
    engine.declare_exchange("all", ExchangeKind::Fanout)?;
    let names: Vec<String> = (0..QUEUES).map(|number| format!("queue-{number}")).collect();
    for names in names.chunks(1_000) {
        let changes = names.iter().flat_map(|name| {
            let bind = Change::Bind { queue: name, exchange: "all", routing_key: "" };
            [Change::declare_queue(name), bind]
        });
        engine.change(&changes.collect::<Vec<_>>())?;
    }
    engine.declare_queue(QUEUE)?;
    let index = AtomicU64::new(0);
    let look = || {
        index.fetch_max(engine.stats().index_bytes, Ordering::Relaxed);
        anonymous_kib()
    };
    let peak = most_of(look, || {
        let options = ConsumerOptions { prefetch: PREFETCH, ..ConsumerOptions::default() };
        let consumer = engine.consume(QUEUE, options)?;
        let publisher = engine.publisher();
        let mut kept = VecDeque::new();
        for _ in 0..messages / 1_000 {
            let publish = |_| publisher.publish(&Message::new("", QUEUE, &[1; SIZE]));
            let tickets = (0..1_000).map(publish).collect::<Result<Vec<_>, _>>()?;
            tickets.into_iter().try_for_each(|ticket| ticket.wait().map(drop))?;
            let batch = consumer.recv_batch(1_000, Duration::from_secs(30))?;
            kept.extend(batch.iter().map(|delivery| delivery.to_payload()));
            kept.drain(..kept.len().saturating_sub(KEPT));
            drop(batch.ack()?);
        }
        Ok(())
    })?;
    // The sum of the README's section on memory, in its order; then what is not the engine's: the
    // payloads that were kept, the names, and what the process had before.
    let segment_messages = config.segment_bytes_max / SIZE as u64;
    let bound = config.window_bytes_max as u64
        + config.buffer_bytes_max as u64
        + config.pinned_bytes_max as u64
        + (4 << 20)
        + (6 << 20)
        + 16 * segment_messages
        + index.into_inner()
        + 32 * segment_messages
        + 1_000 * QUEUES
        + engine.queue(QUEUE)?.heap_bytes as u64
        + 170 * u64::from(PREFETCH)
        + 3_000
        + 800 * QUEUES
        + (KEPT * (SIZE + 100)) as u64
        + 100 * QUEUES
        + (before << 10);
    tell(&format!("peak {peak}"))?;
    // The allocator's own: heads, rounding, and holes that it can't give back.
    tell(&format!("bound {}", (bound + bound / 8) >> 10))?;
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
