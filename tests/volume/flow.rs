//! Messages by number through an engine with threads on real files: some are acked, some held.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fanlog::{Config, Consumer, ConsumerOptions, Engine, Message};
use tempfile::TempDir;

/// Whoever gets nothing done for so long is stuck.
const STUCK: Duration = Duration::from_mins(1);
/// Messages that a consumer may have; those that it holds to the end count.
const PREFETCH: u32 = 65_536;
/// Messages fetched at a time.
const FETCH: usize = 1024;

/// Whether the tests are to be as large as the promises.
pub(crate) fn full() -> bool {
    std::env::var("FANLOG_VOLUME").is_ok_and(|size| size == "full")
}

/// One of the small figures, or of the full ones.
pub(crate) fn sized<T>(small: T, large: T) -> T {
    if full() { large } else { small }
}

/// One at a time: they measure the memory of the process.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory on a real disk.
pub(crate) fn directory() -> TempDir {
    match std::env::var_os("FANLOG_DIR") {
        Some(dir) => TempDir::new_in(dir).unwrap(),
        None => TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
    }
}

/// What goes to which queue, and what of it is held to the end. Decided by a message's number.
pub(crate) struct Taker {
    pub(crate) queue: &'static str,
    /// Left unacked to the end.
    pub(crate) holds: fn(u64) -> bool,
    /// Stays so many messages behind the publisher.
    pub(crate) lag: u64,
}

/// A stream of messages.
pub(crate) struct Flow {
    pub(crate) messages: u64,
    pub(crate) bytes: usize,
    /// Exchange and routing key of a message.
    pub(crate) route: fn(u64) -> (&'static str, &'static str),
    pub(crate) takers: Vec<Taker>,
}

/// The most that was seen of something, in bytes, while the stream went through.
#[derive(Debug, Default)]
pub(crate) struct Peaks {
    /// Files.
    pub(crate) disk: AtomicU64,
    /// Files that are removed and that readers hold.
    pub(crate) held: AtomicU64,
    pub(crate) memory: AtomicU64,
    pub(crate) ack_state: AtomicU64,
}

/// What is left when all went through.
pub(crate) struct Passed {
    /// With what they hold.
    pub(crate) consumers: Vec<Consumer>,
    pub(crate) peaks: Peaks,
    pub(crate) took: Duration,
}

/// Spread evenly over all numbers: true for `per_mille` of 1,000.
pub(crate) fn by_chance(number: u64, salt: u64, per_mille: u64) -> bool {
    let mut mixed = (number ^ salt.rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed >> 33) % 1000 < per_mille
}

/// A message's bytes: its number, then a pattern of it.
pub(crate) fn fill(payload: &mut [u8], number: u64) {
    let pattern = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).to_le_bytes();
    for piece in payload.chunks_mut(8) {
        piece.copy_from_slice(&pattern[..piece.len()]);
    }
    payload[..8].copy_from_slice(&number.to_le_bytes());
}

/// The number of a message whose bytes are right.
#[track_caller]
pub(crate) fn number_of(payload: &[u8], scratch: &mut Vec<u8>) -> u64 {
    let number = u64::from_le_bytes(payload[..8].try_into().unwrap());
    scratch.resize(payload.len(), 0);
    fill(scratch, number);
    assert!(*scratch == payload, "message {number} has wrong bytes");
    number
}

/// Bytes that a directory takes, in blocks. A file that is renamed meanwhile counts once.
pub(crate) fn disk_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().filter_map(Result::ok);
    let found = entries.filter_map(|entry| entry.metadata().ok());
    let files: BTreeMap<u64, u64> =
        found.map(|found| (found.ino(), found.blocks() * 512)).collect();
    files.values().sum()
}

/// Memory of this process that belongs to no file.
pub(crate) fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

impl Flow {
    /// Sends everything through, each taker in a thread of its own, and waits until all is acked
    /// but for what is held.
    pub(crate) fn pass(&self, engine: &Engine, dir: &Path) -> Passed {
        let began = Instant::now();
        let peaks = Peaks::default();
        let done = AtomicBool::new(false);
        let published = AtomicU64::new(0);
        let consumers = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    peaks.look(engine, dir, &self.takers);
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let threads: Vec<_> = self
                .takers
                .iter()
                .map(|taker| scope.spawn(|| self.take(engine, taker, &published)))
                .collect();
            let publishing = scope.spawn(|| self.publish(engine, &published));
            let failed = publishing.join().is_err();
            if failed {
                // Nothing more comes: those who wait for it give up by themselves.
                published.store(u64::MAX, Ordering::Release);
            }
            let taken: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            assert!(!failed, "publishing failed");
            taken.into_iter().flat_map(Result::unwrap).collect()
        });
        peaks.look(engine, dir, &self.takers);
        Passed { consumers, peaks, took: began.elapsed() }
    }

    fn publish(&self, engine: &Engine, done: &AtomicU64) {
        let publisher = engine.publisher();
        let mut payload = vec![0; self.bytes];
        let mut last = None;
        for number in 0..self.messages {
            fill(&mut payload, number);
            let (exchange, key) = (self.route)(number);
            last = Some(publisher.publish(&Message::new(exchange, key, &payload)).unwrap());
            done.store(number + 1, Ordering::Release);
        }
        last.unwrap().wait_timeout(STUCK).unwrap();
    }

    /// Takes what comes until all has come. One consumer after another gets full of what it holds.
    fn take(&self, engine: &Engine, taker: &Taker, published: &AtomicU64) -> Vec<Consumer> {
        let wanted = (0..self.messages).filter(|number| self.goes_to(*number, taker)).count();
        let subscribe = || {
            let options = ConsumerOptions::prefetch(PREFETCH);
            engine.consume(taker.queue, options).unwrap()
        };
        let mut consumers = vec![subscribe()];
        let mut held = 0;
        let mut came = 0;
        let mut scratch = Vec::new();
        let mut next = 0;
        let mut moved = Instant::now();
        while came < wanted {
            let behind = published.load(Ordering::Acquire) < self.messages.min(next + taker.lag);
            if behind {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let before = came;
            for consumer in &consumers {
                let batch = consumer.recv_batch(FETCH, Duration::ZERO).unwrap();
                let numbers: Vec<u64> =
                    batch.iter().map(|one| number_of(one.payload(), &mut scratch)).collect();
                next = numbers.last().map_or(next, |last| next.max(last + 1));
                came += numbers.len();
                for (tag, number) in batch.keep().into_iter().zip(numbers) {
                    if (taker.holds)(number) {
                        held += 1;
                    } else {
                        drop(consumer.ack(tag).unwrap());
                    }
                }
            }
            if held >= (PREFETCH as usize - 4 * FETCH) * consumers.len() {
                consumers.push(subscribe());
            }
            if came > before {
                moved = Instant::now();
            } else {
                assert!(moved.elapsed() < STUCK, "{}: {came} of {wanted} came", taker.queue);
                thread::sleep(Duration::from_micros(200));
            }
        }
        consumers
    }

    fn goes_to(&self, number: u64, taker: &Taker) -> bool {
        let (exchange, key) = (self.route)(number);
        !exchange.is_empty() || key == taker.queue
    }

    /// The numbers that a taker holds to the end.
    pub(crate) fn held(&self, taker: &Taker) -> BTreeSet<u64> {
        let own = |number: &u64| self.goes_to(*number, taker) && (taker.holds)(*number);
        (0..self.messages).filter(own).collect()
    }

    /// Bytes of the messages that any taker holds.
    pub(crate) fn live_bytes(&self) -> u64 {
        let held = |number: &u64| {
            let own = |taker: &Taker| self.goes_to(*number, taker) && (taker.holds)(*number);
            self.takers.iter().any(own)
        };
        // With the head of a record, its key, and what pads it.
        (0..self.messages).filter(held).count() as u64 * (self.bytes as u64 + 96)
    }

    /// Takes back what the takers held: it is all there, whole and in order, and nothing else is.
    pub(crate) fn drain(&self, engine: &Engine) {
        for taker in &self.takers {
            let mut held = self.held(taker).into_iter();
            let consumer = engine.consume(taker.queue, ConsumerOptions::prefetch(1000)).unwrap();
            let mut scratch = Vec::new();
            loop {
                let batch = consumer.recv_batch(FETCH, Duration::from_millis(100)).unwrap();
                if batch.is_empty() {
                    break;
                }
                for delivery in batch.iter() {
                    let number = number_of(delivery.payload(), &mut scratch);
                    assert_eq!(Some(number), held.next(), "{}", taker.queue);
                }
                batch.ack().unwrap().wait().unwrap();
            }
            assert_eq!(held.next(), None, "{}", taker.queue);
        }
    }
}

impl Peaks {
    fn look(&self, engine: &Engine, dir: &Path, takers: &[Taker]) {
        let held = engine.stats().deleted_but_held_bytes;
        self.held.fetch_max(held, Ordering::Relaxed);
        self.disk.fetch_max(disk_bytes(dir), Ordering::Relaxed);
        self.memory.fetch_max(anonymous_bytes(), Ordering::Relaxed);
        let states = takers.iter().map(|taker| engine.queue(taker.queue).unwrap().heap_bytes);
        let most = states.max().unwrap_or(0) as u64;
        self.ack_state.fetch_max(most, Ordering::Relaxed);
    }
}

/// Looks again and again until the store takes no more than `bound`; says what it takes.
#[track_caller]
pub(crate) fn shrinks_to(engine: &Engine, dir: &Path, bound: u64) -> u64 {
    let began = Instant::now();
    loop {
        let found = disk_bytes(dir) + engine.stats().deleted_but_held_bytes;
        if found <= bound {
            return found;
        }
        let stats = engine.stats();
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{found} bytes on disk, wanted were at most {bound}; {stats:?}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// Settings of the small tests and of the full ones.
pub(crate) fn config() -> Config {
    Config {
        segment_bytes_max: sized(1 << 20, 64 << 20),
        window_bytes_max: sized(2 << 20, 8 << 20),
        buffer_bytes_max: sized(1 << 20, 16 << 20),
        checkpoint_log_bytes: sized(1 << 20, 64 << 20),
        ack_delay_max: Duration::from_millis(20),
        checkpoint_interval: Duration::from_secs(1),
        ..Config::default()
    }
}
