//! The allocator's counters, and a store to count at.

use std::{
    alloc::System,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fanlog::{
    Change, Config, Engine, ExchangeKind,
    clock::ManualClock,
    storage::{BackendChoice, RealStorage},
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How long the background may take to prepare a segment.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// The exchange that all is bound to.
pub(crate) const EXCHANGE: &str = "all";

/// Keeps the other tests of this process from being counted.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that are allocated now.
pub(crate) fn live_bytes() -> i64 {
    let stats = ALLOCATOR.stats();
    let (got, gave) = (stats.bytes_allocated, stats.bytes_deallocated);
    i64::try_from(got).unwrap() - i64::try_from(gave).unwrap()
}

/// What a piece of work asked of the allocator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) allocations: usize,
    pub(crate) bytes: usize,
}

/// Counts what `work` asks for, in all threads.
pub(crate) fn work_of(work: impl FnOnce()) -> Work {
    let before = ALLOCATOR.stats();
    work();
    let after = ALLOCATOR.stats() - before;
    let allocations = after.allocations + after.reallocations;
    Work { allocations, bytes: after.bytes_allocated }
}

/// A store whose own buffers are as small as they may be, so that queues stand out.
pub(crate) fn open(dir: &Path) -> Engine {
    let config = Config {
        window_bytes_max: 1 << 20,
        buffer_bytes_max: 1 << 20,
        segment_bytes_max: 32 << 20,
        segments_ahead: 1,
        // By itself the engine writes none while a test counts.
        checkpoint_interval: Duration::from_hours(1),
        checkpoint_log_bytes: u64::MAX,
        ..Config::default()
    };
    Engine::open(dir, config).unwrap()
}

pub(crate) fn open_new(dir: &Path) -> Engine {
    let engine = open(dir);
    engine.declare_exchange(EXCHANGE, ExchangeKind::Fanout).unwrap();
    // What the background does at first is over before anything is counted.
    let begin = Instant::now();
    while engine.stats().segments_ready == 0 {
        assert!(begin.elapsed() < PATIENCE, "no segment was prepared");
        thread::sleep(Duration::from_millis(1));
    }
    engine
}

/// The name of a queue: 12 bytes.
pub(crate) fn name(number: usize) -> String {
    format!("queue-{number:06}")
}

pub(crate) fn declare_and_bind(engine: &Engine, numbers: impl Iterator<Item = usize>) {
    let names: Vec<String> = numbers.map(name).collect();
    let changes = names.iter().flat_map(|name| {
        let bind = Change::Bind { queue: name, exchange: EXCHANGE, routing_key: "" };
        [Change::declare_queue(name), bind]
    });
    engine.change(&changes.collect::<Vec<_>>()).unwrap();
}

/// Makes the same change to so many queues, all in one.
pub(crate) fn change_all(
    engine: &Engine,
    numbers: impl Iterator<Item = usize>,
    change: fn(&str) -> Change<'_>,
) {
    let names: Vec<String> = numbers.map(name).collect();
    engine.change(&names.iter().map(|name| change(name)).collect::<Vec<_>>()).unwrap();
}

/// A store without threads, by this clock, with buffers as small as they may be.
pub(crate) fn open_stepped(dir: &Path, clock: &Arc<ManualClock>) -> Engine {
    let storage = RealStorage::open(dir, true, BackendChoice::Auto).unwrap();
    let config = Config {
        stepped: true,
        window_bytes_max: 1 << 20,
        buffer_bytes_max: 1 << 20,
        segment_bytes_max: 16 << 20,
        segments_ahead: 1,
        ..Config::default()
    };
    let clock: Arc<ManualClock> = Arc::clone(clock);
    Engine::open_on(Arc::new(storage), clock, config).unwrap()
}

/// The most that is allocated while `work` is done, beyond what was before.
pub(crate) fn most_of(work: impl FnOnce()) -> i64 {
    let before = live_bytes();
    let (most, done) = (AtomicI64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(live_bytes() - before, Ordering::Relaxed);
                thread::yield_now();
            }
        });
        work();
        done.store(true, Ordering::Relaxed);
    });
    most.into_inner()
}
