//! A million messages of ten priorities in one queue: what they take of the heap.

use std::{sync::Arc, time::Duration};

use fanlog::{ConsumerOptions, Engine, Message, QueueOptions, clock::ManualClock};
use tempfile::tempdir;

use crate::counted::{alone, live_bytes, most_of, open_stepped};

const MESSAGES: u64 = 1_000_000;
const LEVELS: u64 = 10;
const HEAP_BYTES_MAX: i64 = 32 << 20;

/// In no order of priority.
fn priority_of(number: u64) -> u8 {
    u8::try_from(number.wrapping_mul(0x9e37_79b9) % LEVELS).unwrap()
}

fn fill(engine: &Engine) {
    let options = QueueOptions { priority_max: Some(9), ..QueueOptions::default() };
    engine.declare_queue_with("jobs", &options).unwrap();
    let publisher = engine.publisher();
    for number in 0..MESSAGES {
        let payload = number.to_le_bytes();
        let message = Message::new("", "jobs", &payload).priority(priority_of(number));
        drop(publisher.publish(&message).unwrap());
        if number % 2000 == 0 {
            while engine.step().unwrap() {}
        }
    }
    while engine.step().unwrap() {}
}

/// Takes all of it: the highest first, within one in the order of publishing.
fn drain(engine: &Engine) {
    let consumer = engine.consume("jobs", ConsumerOptions::prefetch(1000)).unwrap();
    for priority in (0..10).rev() {
        for number in (0..MESSAGES).filter(|number| priority_of(*number) == priority) {
            let delivery = consumer.recv_timeout(Duration::ZERO).unwrap().unwrap();
            assert_eq!(delivery.payload(), number.to_le_bytes());
            drop(delivery.ack().unwrap());
        }
    }
    assert!(consumer.try_recv().unwrap().is_none());
}

#[test]
fn a_million_prioritised_messages_stay_under_32_mb_of_heap() {
    let _alone = alone();
    let (dir, clock) = (tempdir().unwrap(), Arc::new(ManualClock::new()));
    let begin = live_bytes();
    let engine = open_stepped(dir.path(), &clock);
    let opened = live_bytes() - begin;
    let filled = opened + most_of(|| fill(&engine));
    let held = live_bytes() - begin;
    println!("published: at most {filled} bytes, then {held}");
    let drained = held + most_of(|| drain(&engine));
    println!("handed out: at most {drained} bytes");
    assert!(filled < HEAP_BYTES_MAX && drained < HEAP_BYTES_MAX);
}
