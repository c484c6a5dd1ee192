//! Queues that may not get longer than so many messages or bytes.

use std::time::Duration;

use fanlog::{Engine, QueueOptions};

use crate::support::{
    Machine, consume, next, nothing, publish, publish_numbers, ready, settle, sound, texts, unacked,
};

fn options(messages: Option<u64>, bytes: Option<u64>) -> QueueOptions {
    QueueOptions { messages_max: messages, bytes_max: bytes, ..QueueOptions::default() }
}

fn with(options: &QueueOptions) -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue_with("q", options).unwrap();
    (machine, engine)
}

fn pass(machine: &Machine, engine: &Engine) {
    for _ in 0..2 {
        machine.clock.advance(Duration::from_millis(200));
        settle(engine);
    }
}

#[test]
fn the_background_drops_the_oldest_of_too_many() {
    let (machine, engine) = with(&options(Some(3), None));
    publish_numbers(&engine, "q", 10);
    pass(&machine, &engine);
    assert_eq!(unacked(&engine, "q"), ["7", "8", "9"]);
    assert_eq!(engine.stats().overflowed_messages, 7);
    sound(&engine);
    let engine = machine.killed().open();
    assert_eq!(unacked(&engine, "q"), ["7", "8", "9"]);
    sound(&engine);
}

#[test]
fn a_consumer_gets_the_newest_that_fit_unflagged() {
    let (_machine, engine) = with(&options(Some(3), None));
    publish_numbers(&engine, "q", 10);
    let deliveries = ready(&consume(&engine, "q", 9));
    assert_eq!(texts(&deliveries), ["7", "8", "9"]);
    assert!(deliveries.iter().all(|delivery| !delivery.redelivered()));
    settle(&engine);
    sound(&engine);
}

#[test]
fn bytes_count_as_messages_do() {
    let (machine, engine) = with(&options(Some(100), Some(1000)));
    for number in 0..10 {
        publish(&engine, "q", &vec![number; 300]);
    }
    publish(&engine, "q", b"small");
    pass(&machine, &engine);
    let queue = engine.queue("q").unwrap();
    assert_eq!((queue.messages, queue.bytes), (4, 905));
    // One that is larger than the limit goes too.
    publish(&engine, "q", &vec![0; 2000]);
    pass(&machine, &engine);
    assert_eq!(engine.queue("q").unwrap().messages, 0);
    sound(&engine);
}

#[test]
fn only_what_is_ready_counts_and_what_comes_back_counts_again() {
    let (machine, engine) = with(&options(Some(2), None));
    publish_numbers(&engine, "q", 2);
    let consumer = consume(&engine, "q", 2);
    let held = ready(&consumer);
    assert_eq!(held.len(), 2);
    publish_numbers(&engine, "q", 2);
    pass(&machine, &engine);
    assert_eq!(engine.queue("q").unwrap().messages, 4, "two are held");
    drop(held);
    pass(&machine, &engine);
    // At its place it is the oldest again: consumers may have what was left already.
    let left = unacked(&engine, "q");
    assert!(left.len() <= 4, "{left:?}");
    drop(consumer);
    pass(&machine, &engine);
    assert_eq!(unacked(&engine, "q"), ["0", "1"]);
    assert_eq!(engine.stats().overflowed_messages, 2);
    sound(&engine);
}

#[test]
fn no_length_at_all_keeps_nothing_that_is_not_in_hands() {
    let (machine, engine) = with(&options(Some(0), None));
    publish_numbers(&engine, "q", 3);
    nothing(&consume(&engine, "q", 3));
    pass(&machine, &engine);
    assert_eq!(engine.queue("q").unwrap().messages, 0);
    sound(&engine);
}

#[test]
fn acks_that_are_not_written_yet_do_not_count() {
    let (machine, engine) = with(&options(Some(3), None));
    publish_numbers(&engine, "q", 3);
    let consumer = consume(&engine, "q", 2);
    for _ in 0..2 {
        next(&consumer).ack().unwrap();
    }
    publish_numbers(&engine, "q", 2);
    drop(consumer);
    machine.clock.advance(Duration::from_millis(100));
    settle(&engine);
    assert_eq!(engine.stats().overflowed_messages, 0);
    pass(&machine, &engine);
    assert_eq!(unacked(&engine, "q"), ["2", "0", "1"]);
    sound(&engine);
}
