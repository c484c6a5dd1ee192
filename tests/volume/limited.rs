//! Ten times as much as the store may hold goes through it, and some of it stays to the end.

use std::sync::atomic::Ordering;

use fanlog::{Config, Engine, ExchangeKind};

use crate::flow::{Flow, Taker, alone, by_chance, config, directory, sized};

/// What goes through, in bytes of payload.
fn total() -> u64 {
    sized(320 << 20, 30_000_000_000)
}

/// Segments that may stand beyond the limit: one each for control records and rewriting, which are
/// had whatever the limit says, and one for checkpoints. One was seen.
const OVER_SEGMENTS: u64 = 3;

fn check(takers: Vec<Taker>) {
    let _alone = alone();
    let dir = directory();
    let limit = total() / 10;
    let engine =
        Engine::open(dir.path(), Config { store_bytes_max: Some(limit), ..config() }).unwrap();
    engine.declare_exchange("all", ExchangeKind::Fanout).unwrap();
    for taker in &takers {
        engine.declare_queue(taker.queue).unwrap();
        engine.bind(taker.queue, "all", "").unwrap();
    }
    let bytes = 4096;
    let flow = Flow { messages: total() / bytes as u64, bytes, route: |_| ("all", ""), takers };
    let passed = flow.pass(&engine, dir.path());
    let disk = passed.peaks.disk.load(Ordering::Relaxed);
    let held = passed.peaks.held.load(Ordering::Relaxed);
    let stats = engine.stats();
    println!(
        "{} bytes through {limit} in {:?}: at most {disk} on disk, {held} held, {} live, {} rewritten",
        total(),
        passed.took,
        flow.live_bytes(),
        stats.rewritten_bytes,
    );
    assert!(stats.segments_rewritten > 10, "{stats:?}");
    // Beside what was accepted before, what it takes to get space back is still written.
    let bound = limit + OVER_SEGMENTS * config().segment_bytes_max;
    assert!(disk <= bound, "{disk} bytes on disk, the limit is {limit}");
    drop(passed.consumers);
    flow.drain(&engine);
    let report = engine.check(&mut |_| {}).unwrap();
    assert!(report.problems.is_empty() && report.uncounted == 0, "{report:?}");
}

#[test]
fn three_percent_of_one_queue_stay_unacked_at_random() {
    check(vec![Taker { queue: "a", holds: |number| by_chance(number, 1, 30), lag: 0 }]);
}

#[test]
fn one_percent_of_each_of_three_queues_at_different_places() {
    check(vec![
        Taker { queue: "a", holds: |number| by_chance(number, 1, 10), lag: 0 },
        Taker { queue: "b", holds: |number| by_chance(number, 2, 10), lag: sized(500, 30_000) },
        Taker { queue: "c", holds: |number| by_chance(number, 3, 10), lag: sized(1500, 90_000) },
    ]);
}
