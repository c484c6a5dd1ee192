//! One consumer gets everything, the others wait for it to go.

use std::time::Duration;

use fanlog::{Consumer, ConsumerOptions, Delivery, Engine, Error, QueueOptions};

use crate::support::{
    Machine, PATIENCE, consume, next, nothing, offsets, publish, publish_numbers, ready, start,
    text, threaded,
};

fn declare(engine: &Engine) {
    let options = QueueOptions { single_active_consumer: true, ..QueueOptions::default() };
    engine.declare_queue_with("jobs", &options).unwrap();
}

fn single() -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    declare(&engine);
    (machine, engine)
}

fn active(engine: &Engine) -> Option<String> {
    engine.queue("jobs").unwrap().active_consumer
}

fn with_priority(engine: &Engine, priority: i32) -> Consumer {
    let options = ConsumerOptions { priority, ..ConsumerOptions::prefetch(3) };
    engine.consume("jobs", options).unwrap()
}

#[test]
fn the_first_gets_everything_and_the_next_takes_over_when_it_goes() {
    let (_machine, engine) = single();
    assert_eq!(active(&engine), None);
    let (first, second) = (consume(&engine, "jobs", 3), consume(&engine, "jobs", 100));
    let third = consume(&engine, "jobs", 100);
    assert_eq!(active(&engine).as_deref(), Some(first.tag()));
    publish_numbers(&engine, "jobs", 10);
    nothing(&second);
    nothing(&third);
    let held = ready(&first);
    assert_eq!(offsets(&held), [0, 1, 2]);
    // It has no credit, and still nobody else gets anything.
    nothing(&second);
    drop(first);
    nothing(&third);
    assert_eq!(offsets(&ready(&second)), (0..10).collect::<Vec<_>>());
    assert_eq!(active(&engine).as_deref(), Some(second.tag()));
    drop(held);
    drop(second);
    assert_eq!(ready(&third).len(), 10);
    drop(third);
    assert_eq!(active(&engine), None);
}

#[test]
fn nobody_consumes_exclusively_where_others_are_to_follow() {
    let (_machine, engine) = single();
    let exclusive = ConsumerOptions { exclusive: true, ..ConsumerOptions::default() };
    let error = engine.consume("jobs", exclusive).unwrap_err();
    assert!(matches!(&error, Error::Refused { what, .. } if what.contains("jobs")), "{error}");
    assert_eq!(active(&engine), None);
}

#[test]
fn messages_come_in_order_over_a_hand_over() {
    let (_machine, engine) = single();
    publish_numbers(&engine, "jobs", 300);
    let mut seen = Vec::new();
    let mut consumers: Vec<Consumer> = (0..5).map(|_| consume(&engine, "jobs", 10)).collect();
    while !consumers.is_empty() {
        for _ in 0..60 {
            let delivery = next(&consumers[0]);
            seen.push(text(delivery.payload()));
            delivery.ack().unwrap();
        }
        consumers.remove(0);
    }
    assert_eq!(seen, (0..300).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn one_of_a_higher_priority_takes_over_once_the_active_one_has_nothing_left() {
    let (_machine, engine) = single();
    publish_numbers(&engine, "jobs", 9);
    let first = with_priority(&engine, 0);
    let mut held = ready(&first);
    let (equal, high) = (with_priority(&engine, 0), with_priority(&engine, 1));
    for _ in 0..2 {
        held.remove(0).ack().unwrap();
        // It gets no more, and nobody gets anything, so that no two work at a time.
        nothing(&first);
        nothing(&high);
        assert_eq!(active(&engine).as_deref(), Some(first.tag()));
    }
    held.remove(0).ack().unwrap();
    assert_eq!(offsets(&ready_kept(&high)), [3, 4, 5]);
    assert_eq!(active(&engine).as_deref(), Some(high.tag()));
    nothing(&first);
    nothing(&equal);
    drop(high);
    assert_eq!(offsets(&ready(&first)), [3, 4, 5]);
}

/// Deliveries that their consumer keeps.
fn ready_kept(consumer: &Consumer) -> Vec<Delivery> {
    let found = ready(consumer);
    assert!(!found.is_empty());
    found
}

#[test]
fn a_standby_that_sleeps_wakes_when_the_active_one_goes() {
    let engine = threaded();
    declare(&engine);
    publish(&engine, "jobs", b"a");
    let active = consume(&engine, "jobs", 5);
    let held = active.recv_timeout(PATIENCE).unwrap().unwrap();
    let standby = consume(&engine, "jobs", 5);
    let waiting = start(move || {
        let delivery = standby.recv().unwrap();
        (text(delivery.payload()), delivery.redelivered())
    });
    drop(active);
    assert_eq!(waiting.join(), ("a".to_owned(), true));
    drop(held);
}

#[test]
fn one_of_a_higher_priority_that_sleeps_wakes_for_its_turn() {
    let engine = threaded();
    declare(&engine);
    publish_numbers(&engine, "jobs", 2);
    let first = consume(&engine, "jobs", 1);
    let held = first.recv_timeout(PATIENCE).unwrap().unwrap();
    let high = with_priority(&engine, 7);
    let waiting = start(move || high.recv().map(|one| one.offset().0).unwrap());
    held.ack().unwrap();
    assert_eq!(waiting.join(), 1);
    drop(first);
}

#[test]
fn an_active_consumer_that_is_stuck_is_followed_after_its_time() {
    let machine = Machine::new();
    let engine = machine.open();
    let options = QueueOptions {
        single_active_consumer: true,
        ack_timeout: Some(Duration::from_secs(10)),
        ..QueueOptions::default()
    };
    engine.declare_queue_with("jobs", &options).unwrap();
    publish_numbers(&engine, "jobs", 3);
    let (stuck, next_one) = (consume(&engine, "jobs", 5), consume(&engine, "jobs", 5));
    let held = next(&stuck);
    for _ in 0..12 {
        machine.clock.advance(Duration::from_secs(1));
        crate::support::settle(&engine);
    }
    assert!(stuck.try_recv().is_err());
    assert_eq!(offsets(&ready(&next_one)), [0, 1, 2]);
    drop(held);
}
