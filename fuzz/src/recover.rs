//! Opening stores whose files were damaged.
//!
//! F1. Nothing panics: a store opens, or gives a typed error.
//! F2. A store that is refused as damaged was not written to.
//! F3. What is delivered or shown is right to the byte, or says that it is damaged.
//! F4. After a clean close, with damage in segments alone, no message is missing without a word.
//! F5. Repaired, there is nothing wrong with it any more: a check finds nothing, and it opens like any.
//!
//! Where a checksum was made to fit the damage, only F1 can hold.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arbitrary::Arbitrary;
use fanlog::{
    Config, ConsumerOptions, Engine, ErrorKind, ExchangeKind, Message, OnDamage,
    clock::ManualClock,
    storage::{CrashMode, MemoryStorage, Storage},
};
use fanlog_segment_format::{
    BATCH_HEADER_BYTES, BatchHeader, FileName, SEGMENT_HEADER_BYTES, SegmentHeader, checksum,
    seal_batch, seed_file,
};

use crate::{CLOSE_TIMEOUT, config, open, payload, settle};

/// One piece of damage. Files are chosen by their place in the list of names.
#[derive(Arbitrary, Debug)]
pub enum Damage {
    /// Changes one byte.
    Xor {
        file: u8,
        position: u32,
        xor: u8,
    },
    Write {
        file: u8,
        position: u32,
        bytes: [u8; 8],
    },
    Zero {
        file: u8,
        block: u8,
        blocks: u8,
    },
    Truncate {
        file: u8,
        bytes: u32,
    },
    Remove {
        file: u8,
    },
    Swap {
        one: u8,
        other: u8,
    },
    Copy {
        from: u8,
        to: u8,
    },
    Splice {
        from: u8,
        from_block: u8,
        to: u8,
        to_block: u8,
    },
    /// A checkpoint with a checksum that fits the damage.
    Checkpoint {
        newest: bool,
        position: u16,
        xor: u8,
    },
    /// A batch with checksums that fit the damage.
    Batch {
        file: u8,
        batch: u8,
        position: u16,
        xor: u8,
    },
}

/// What is done to a store before it is opened.
#[derive(Arbitrary, Debug)]
pub struct Case {
    crashed: bool,
    damage: Vec<Damage>,
}

/// A store on a disk of its own, and what it holds: unacked offsets by queue.
struct Base {
    disk: MemoryStorage,
    holds: BTreeMap<String, Vec<u64>>,
}

const QUEUES: [&str; 3] = ["all", "some", "own"];
const DAMAGE_MAX: usize = 8;

/// Damages a store, opens it and reads all of it.
pub fn run(case: &Case) {
    static BASES: OnceLock<[Base; 2]> = OnceLock::new();
    let bases = BASES.get_or_init(|| [Base::make(false), Base::make(true)]);
    let base = &bases[usize::from(case.crashed)];
    let disk = base.disk.deep_copy();
    let mut names: Vec<String> =
        disk.list().expect("it has power").into_iter().map(|entry| entry.name).collect();
    names.sort_unstable();
    let mut what = Outcome { trusted: true, complete: !case.crashed };
    for damage in case.damage.iter().take(DAMAGE_MAX) {
        what.apply(&disk, &names, damage);
    }
    what.repair(&disk.deep_copy());
    what.check(&disk, base);
}

impl Base {
    fn make(crashed: bool) -> Self {
        let disk = MemoryStorage::new();
        let clock = Arc::new(ManualClock::new());
        let engine = open(&disk, &clock).expect("an empty disk");
        fill(&engine, &clock).expect("nothing fails here");
        let holds = QUEUES.iter().map(|&queue| (queue.to_owned(), unacked(&engine, queue)));
        let holds = holds.collect();
        if !crashed {
            engine.close(CLOSE_TIMEOUT).expect("nothing fails here");
        }
        let disk = disk.crash_image(0, CrashMode::KeepAll);
        Self { disk, holds }
    }
}

/// Several segments, checkpoints, a recycled file, acks in and out of order, a deleted queue.
fn fill(engine: &Engine, clock: &ManualClock) -> fanlog::Result<()> {
    engine.declare_exchange("fan", ExchangeKind::Fanout)?;
    engine.declare_exchange("keyed", ExchangeKind::Direct)?;
    for queue in ["all", "some", "own", "gone"] {
        engine.declare_queue(queue)?;
    }
    engine.bind("all", "fan", "")?;
    engine.bind("gone", "fan", "")?;
    engine.bind("all", "keyed", "key")?;
    engine.bind("some", "keyed", "key")?;
    let publisher = engine.publisher();
    let mut number = 0;
    let mut publish = |count: u64| -> fanlog::Result<()> {
        for _ in 0..count {
            let (exchange, key) = [("fan", ""), ("keyed", "key"), ("", "own")][number % 3];
            let payload = payload(number as u64);
            publisher.publish(&Message::new(exchange, key, &payload))?;
            if number % 4 == 0 {
                engine.step_commit();
            }
            number += 1;
        }
        settle(engine)
    };
    publish(60)?;
    for queue in ["all", "gone", "some", "own"] {
        let consumer = engine.consume(queue, ConsumerOptions::prefetch(0))?;
        consumer.recv_batch(50, Duration::ZERO)?.ack()?.wait()?;
    }
    engine.delete_queue("gone")?;
    settle(engine)?;
    engine.checkpoint()?;
    publish(60)?;
    clock.advance(Duration::from_secs(2));
    settle(engine)?;
    let consumer = engine.consume("all", ConsumerOptions::prefetch(0))?;
    let tags = consumer.recv_batch(20, Duration::ZERO)?.keep();
    for tag in tags.into_iter().step_by(3) {
        consumer.ack(tag)?.wait()?;
    }
    drop(consumer);
    engine.checkpoint()?;
    settle(engine)?;
    publish(30)
}

/// What a queue holds, by browsing.
fn unacked(engine: &Engine, queue: &str) -> Vec<u64> {
    let all = engine.browse(queue).expect("the queue is there");
    all.map(|message| message.expect("nothing fails here"))
        .filter(|message| !message.acked)
        .map(|message| message.offset.0)
        .collect()
}

/// What may be expected of the store.
struct Outcome {
    /// No checksum was made to fit.
    trusted: bool,
    /// It was closed cleanly, and its checkpoints are as they were.
    complete: bool,
}

impl Outcome {
    fn apply(&mut self, disk: &MemoryStorage, names: &[String], damage: &Damage) {
        let name = |at: u8| &*names[usize::from(at) % names.len()];
        let touched: &[u8] = match damage {
            Damage::Xor { file, .. }
            | Damage::Write { file, .. }
            | Damage::Zero { file, .. }
            | Damage::Truncate { file, .. }
            | Damage::Remove { file } => &[*file],
            Damage::Swap { one, other } => &[*one, *other],
            Damage::Copy { to, .. } | Damage::Splice { to, .. } => &[*to],
            Damage::Checkpoint { .. } | Damage::Batch { .. } => {
                self.trusted = false;
                &[]
            }
        };
        let segment = |&at: &u8| matches!(FileName::parse(name(at)), Some(FileName::Segment(_)));
        self.complete &= self.trusted && touched.iter().all(segment);
        // A file may have gone by an earlier piece of damage: then this one does nothing.
        let done = match *damage {
            Damage::Xor { file, position, xor } => change(disk, name(file), |bytes| {
                let at = position as usize % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= xor;
                }
            }),
            Damage::Write { file, position, bytes } => change(disk, name(file), |file| {
                let at = position as usize % file.len().max(1);
                file.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = from);
            }),
            Damage::Zero { file, block, blocks } => change(disk, name(file), |bytes| {
                let blocks = bytes.chunks_mut(4096).skip(block.into()).take(blocks.into());
                blocks.for_each(|block| block.fill(0));
            }),
            Damage::Truncate { file, bytes } => change(disk, name(file), |file| {
                file.truncate(bytes as usize % (file.len() + 1));
            }),
            Damage::Remove { file } => disk.remove_file(name(file)).ok(),
            Damage::Swap { one, other } => swap(disk, name(one), name(other)),
            Damage::Copy { from, to } => {
                disk.read_file(name(from)).and_then(|bytes| disk.write_file(name(to), &bytes)).ok()
            }
            Damage::Splice { from, from_block, to, to_block } => {
                splice(disk, (name(from), from_block), (name(to), to_block))
            }
            Damage::Checkpoint { newest, position, xor } => {
                refit_checkpoint(disk, names, newest, position, xor)
            }
            Damage::Batch { file, batch, position, xor } => {
                refit_batch(disk, name(file), batch, position, xor)
            }
        };
        let () = done.unwrap_or_default();
    }

    fn check(&self, disk: &MemoryStorage, base: &Base) {
        let clock = Arc::new(ManualClock::new());
        let before = disk.operations().len();
        let engine = match open(disk, &clock) {
            Ok(engine) => engine,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnsupportedVersion) {
                    let mut done = disk.operations().split_off(before);
                    done.retain(|operation| operation.name != FileName::Lock.to_string());
                    assert!(done.is_empty(), "F2: {error}: {done:?}");
                }
                return;
            }
        };
        let quiet = engine.check(&mut |_| {}).is_ok_and(|report| report.problems.is_empty());
        let queues: Vec<String> =
            engine.topology().queues.into_iter().map(|queue| queue.name).collect();
        for queue in &queues {
            let Ok(browser) = engine.browse(queue) else { continue };
            // With a checksum that was made to fit, offsets may run for ever; nobody waits for that.
            for message in browser.take(10_000).map_while(Result::ok) {
                if message.damage.is_none() {
                    self.expect_payload(message.offset.0, &message.payload);
                }
            }
        }
        for queue in &queues {
            let Some(got) = self.consume(&engine, queue) else { continue };
            if self.complete {
                assert_eq!(Some(&got), base.holds.get(queue), "F4: queue {queue}");
            }
        }
        if self.complete {
            assert_eq!(queues.len(), base.holds.len(), "F4");
            assert!(quiet || self.complete, "problems are told, not hidden");
        }
        // What is left to do may fail by the damage, but not panic.
        drop(settle(&engine));
        drop(engine.checkpoint());
        drop(settle(&engine));
        drop(engine.close(CLOSE_TIMEOUT));
    }

    /// Opens the store around all damage, and once more.
    fn repair(&self, disk: &MemoryStorage) {
        let clock = Arc::new(ManualClock::new());
        let config = Config { on_damage: OnDamage::Repair, ..config() };
        let engine = match Engine::open_on(Arc::new(disk.clone()), Arc::clone(&clock) as _, config)
        {
            Ok(engine) => engine,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return;
            }
        };
        let problems = engine.check(&mut |_| {}).map(|report| report.problems);
        for queue in engine.topology().queues {
            drop(self.consume(&engine, &queue.name));
        }
        if !self.trusted {
            return;
        }
        assert!(problems.as_ref().is_ok_and(Vec::is_empty), "F5: {problems:?}");
        settle(&engine).expect("F5: it works");
        engine.close(CLOSE_TIMEOUT).expect("F5: it closes");
        let again = open(disk, &clock).expect("F5: it opens");
        assert!(again.recovery().clean, "F5");
    }

    /// Takes and acks all that the queue gives; `None` if it ended with an error.
    fn consume(&self, engine: &Engine, queue: &str) -> Option<Vec<u64>> {
        let consumer = engine.consume(queue, ConsumerOptions::prefetch(0)).ok()?;
        let mut got = Vec::new();
        while got.len() < 10_000
            && let Some(delivery) = consumer.recv_timeout(Duration::ZERO).ok()?
        {
            got.push(delivery.offset().0);
            if delivery.damage().is_none() {
                self.expect_payload(delivery.offset().0, delivery.payload());
            }
            drop(delivery.ack());
        }
        Some(got)
    }

    fn expect_payload(&self, offset: u64, found: &[u8]) {
        if self.trusted {
            assert!(found == payload(offset), "F3: wrong bytes at offset {offset}");
        }
    }
}

fn change(disk: &MemoryStorage, name: &str, how: impl FnOnce(&mut Vec<u8>)) -> Option<()> {
    let mut bytes = disk.read_file(name).ok()?;
    how(&mut bytes);
    disk.write_file(name, &bytes).ok()
}

fn swap(disk: &MemoryStorage, one: &str, other: &str) -> Option<()> {
    let (first, second) = (disk.read_file(one).ok()?, disk.read_file(other).ok()?);
    disk.write_file(one, &second).ok()?;
    disk.write_file(other, &first).ok()
}

fn splice(disk: &MemoryStorage, from: (&str, u8), to: (&str, u8)) -> Option<()> {
    let source = disk.read_file(from.0).ok()?;
    let block = source.chunks(4096).nth(from.1.into())?;
    change(disk, to.0, |bytes| {
        if let Some(target) = bytes.chunks_mut(4096).nth(to.1.into()) {
            target.iter_mut().zip(block).for_each(|(to, &from)| *to = from);
        }
    })
}

fn refit_checkpoint(
    disk: &MemoryStorage,
    names: &[String],
    newest: bool,
    position: u16,
    xor: u8,
) -> Option<()> {
    let mut all =
        names.iter().filter(|name| matches!(FileName::parse(name), Some(FileName::Checkpoint(_))));
    let name = if newest { all.next_back() } else { all.next() }?;
    let mut bytes = disk.read_file(name).ok()?;
    let at = usize::from(position) % bytes.len().max(1);
    *bytes.get_mut(at)? ^= xor;
    let store = bytes.get(16..32)?.try_into().ok()?;
    let number = u64::from_le_bytes(bytes.get(32..40)?.try_into().ok()?);
    let seed = seed_file(fanlog_segment_format::StoreId(store), number);
    let fitting = checksum(seed, &[bytes.get(..60)?, bytes.get(64..)?]);
    bytes.get_mut(60..64)?.copy_from_slice(&fitting.to_le_bytes());
    disk.write_file(name, &bytes).ok()
}

fn refit_batch(disk: &MemoryStorage, name: &str, batch: u8, at: u16, xor: u8) -> Option<()> {
    let mut bytes = disk.read_file(name).ok()?;
    let segment = SegmentHeader::decode(bytes.get(..SEGMENT_HEADER_BYTES)?).ok()?;
    let mut position = SEGMENT_HEADER_BYTES;
    for _ in 0..batch {
        let header = bytes.get(position..)?;
        let header =
            BatchHeader::decode(header, segment.store, segment.segment, position as u64).ok()?;
        position += header.total_bytes();
    }
    let here = bytes.get_mut(position..)?;
    let header = BatchHeader::decode(here, segment.store, segment.segment, position as u64).ok()?;
    let batch = here.get_mut(..header.total_bytes())?;
    let body = BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + header.body_bytes as usize;
    let at = usize::from(at) % body.len().max(1);
    *batch.get_mut(body)?.get_mut(at)? ^= xor;
    seal_batch(&header, batch);
    disk.write_file(name, &bytes).ok()
}
