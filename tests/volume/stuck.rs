//! A queue whose first message is never acked while millions of others pass.

use std::sync::atomic::Ordering;

use fanlog::Engine;

use crate::flow::{
    Flow, Taker, alone, anonymous_bytes, by_chance, config, directory, shrinks_to, sized,
};

/// Messages that pass.
fn messages() -> u64 {
    sized(300_000, 10_000_000)
}

/// Segments that may stand beside twice the live bytes: the active one, what is let be, and those
/// that are ready, up to nine of these small ones: the reserve and two more.
const FEW_SEGMENTS: u64 = 13;

fn check(flow: &Flow, queues: &[&str]) {
    let _alone = alone();
    let dir = directory();
    let engine = Engine::open(dir.path(), config()).unwrap();
    for queue in queues {
        engine.declare_queue(queue).unwrap();
    }
    let memory = anonymous_bytes();
    let passed = flow.pass(&engine, dir.path());
    let bound = 2 * flow.live_bytes() + FEW_SEGMENTS * config().segment_bytes_max;
    let disk = shrinks_to(&engine, dir.path(), bound);
    let grown = anonymous_bytes().saturating_sub(memory);
    let state = passed.peaks.ack_state.load(Ordering::Relaxed);
    println!(
        "{} messages in {:?}: {disk} bytes on disk (at most {:?}), ack state {state}, memory grew \
         by {grown}",
        flow.messages, passed.took, passed.peaks.disk,
    );
    assert!(state <= 1 << 20, "the ack state took {state} bytes");
    let kept = config().window_bytes_max + config().buffer_bytes_max;
    // Beside what is configured: what consumers and threads need, and the allocator keeps. Of a full
    // segment's 430,000 messages 12 bytes each until its footer is written, and 32 while it is.
    let bound = kept as u64 + sized(24 << 20, 40 << 20);
    assert!(grown <= bound, "memory grew by {grown} bytes, wanted were at most {bound}");
    drop(passed.consumers);
    flow.drain(&engine);
    let report = engine.check(&mut |_| {}).unwrap();
    assert!(report.problems.is_empty() && report.uncounted == 0, "{report:?}");
}

#[test]
fn one_message_that_is_never_acked_holds_up_nothing() {
    let takers = vec![Taker { queue: "jobs", holds: |number| number == 0, lag: 0 }];
    let flow = Flow { messages: messages(), bytes: 100, route: |_| ("", "jobs"), takers };
    check(&flow, &["jobs"]);
}

#[test]
fn nor_does_it_in_a_queue_that_gets_one_message_in_4096() {
    let takers = vec![
        Taker { queue: "busy", holds: |_| false, lag: 0 },
        Taker { queue: "rare", holds: |number| number == 0, lag: 0 },
    ];
    let route = |number: u64| ("", if number.is_multiple_of(4096) { "rare" } else { "busy" });
    check(&Flow { messages: messages(), bytes: 100, route, takers }, &["busy", "rare"]);
}

#[test]
fn three_percent_that_stay_by_chance_take_twice_their_bytes_once_it_is_quiet() {
    let takers = vec![Taker { queue: "jobs", holds: |number| by_chance(number, 1, 30), lag: 0 }];
    let messages = sized(100_000, 3_000_000);
    check(&Flow { messages, bytes: 1000, route: |_| ("", "jobs"), takers }, &["jobs"]);
}
