//! A million messages that are not due: what they take of the heap, and when all fall due at once.

use std::{sync::Arc, time::Duration};

use fanlog::{Consumer, Engine, Message, clock::ManualClock};
use tempfile::tempdir;

use crate::counted::{alone, live_bytes, most_of, open_stepped};

const MESSAGES: u64 = 1_000_000;
const HEAP_BYTES_MAX: i64 = 32 << 20;
const DELAY: Duration = Duration::from_hours(1);
const SPREAD_US: u64 = 1_000_000;

fn fill(engine: &Engine) {
    engine.declare_queue("jobs").unwrap();
    let publisher = engine.publisher();
    for number in 0..MESSAGES {
        let payload = number.to_le_bytes();
        // In no order of time.
        let spread_us = number.wrapping_mul(0x9e37_79b9) % SPREAD_US;
        let message =
            Message::new("", "jobs", &payload).delay(DELAY + Duration::from_micros(spread_us));
        drop(publisher.publish(&message).unwrap());
        if number % 2000 == 0 {
            while engine.step().unwrap() {}
        }
    }
    while engine.step().unwrap() {}
}

/// Takes what is ready, in the order of the log, and acks it.
fn drain(consumer: &Consumer, expected: u64) {
    for number in 0..expected {
        let delivery = consumer.recv_timeout(Duration::ZERO).unwrap().unwrap();
        assert_eq!(delivery.payload(), number.to_le_bytes());
        drop(delivery.ack().unwrap());
    }
}

#[test]
fn a_million_delayed_messages_stay_under_32_mb_of_heap_also_when_all_fall_due() {
    let _alone = alone();
    let (dir, clock) = (tempdir().unwrap(), Arc::new(ManualClock::new()));
    let begin = live_bytes();
    let mut engine = open_stepped(dir.path(), &clock);
    let opened = live_bytes() - begin;
    let filled = opened + most_of(|| fill(&engine));
    println!("published: at most {filled} bytes, then {}", live_bytes() - begin);
    assert!(filled < HEAP_BYTES_MAX);

    for opened_again in [false, true] {
        if opened_again {
            drop(engine);
            engine = open_stepped(dir.path(), &clock);
        }
        let consumer = engine.consume("jobs", fanlog::ConsumerOptions::default()).unwrap();
        let passed = most_of(|| assert!(consumer.try_recv().unwrap().is_none()));
        let view = engine.queue("jobs").unwrap();
        assert_eq!((view.messages, view.delayed), (MESSAGES, MESSAGES));
        let held = live_bytes() - begin;
        println!("passed by: at most {passed} bytes, then {held}");
        assert!(held + passed < HEAP_BYTES_MAX);
    }

    let consumer = engine.consume("jobs", fanlog::ConsumerOptions::default()).unwrap();
    clock.advance(DELAY + Duration::from_micros(SPREAD_US));
    let held = live_bytes() - begin;
    let drained = most_of(|| drain(&consumer, MESSAGES));
    println!("fell due: {held} bytes, at most {drained} more");
    assert!(held + drained < HEAP_BYTES_MAX);
    assert!(consumer.try_recv().unwrap().is_none());
}
