//! Priorities of messages: the highest first, in each the order of publishing, in queues that tell
//! them apart; whatever comes back, falls due, is restarted or rewritten.

use std::{collections::BTreeSet, time::Duration};

use fanlog::{Change, Consumer, Engine, Error, ErrorKind, ExchangeKind, Message, QueueOptions};

use crate::support::{
    Machine, consume, is_segment, next, nothing, offsets, ready, settle, sound, unacked,
};

const SECOND: Duration = Duration::from_secs(1);

fn prioritised(max: u8) -> QueueOptions {
    QueueOptions { priority_max: Some(max), ..QueueOptions::default() }
}

/// A machine with a queue `jobs` of priorities 0 to 9.
fn with_priorities() -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue_with("jobs", &prioritised(9)).unwrap();
    (machine, engine)
}

#[track_caller]
fn publish(engine: &Engine, queue: &str, priority: u8) -> u64 {
    let message = Message::new("", queue, b"x").priority(priority);
    engine.publisher().publish_confirmed(&message).unwrap().first_offset.0
}

/// Takes and acks all that is ready, one by one.
#[track_caller]
fn taken(consumer: &Consumer) -> Vec<u64> {
    let mut found = Vec::new();
    while let Some(delivery) = consumer.recv_timeout(Duration::ZERO).unwrap() {
        found.push(delivery.offset().0);
        delivery.ack().unwrap().wait().unwrap();
    }
    found
}

#[test]
fn the_highest_comes_first_and_within_one_the_order_stays() {
    let (_machine, engine) = with_priorities();
    for priority in [0, 5, 9, 5, 0, 9, 1] {
        publish(&engine, "jobs", priority);
    }
    let consumer = consume(&engine, "jobs", 0);
    assert_eq!(taken(&consumer), [2, 5, 1, 3, 6, 0, 4]);
    let view = engine.queue("jobs").unwrap();
    assert_eq!((view.messages, view.ack_floor.0), (0, 7));
    sound(&engine);
}

#[test]
fn a_higher_one_overtakes_what_was_not_handed_out_yet() {
    let (_machine, engine) = with_priorities();
    for _ in 0..5 {
        publish(&engine, "jobs", 1);
    }
    let consumer = consume(&engine, "jobs", 1);
    let first = next(&consumer);
    publish(&engine, "jobs", 2);
    first.ack().unwrap();
    assert_eq!(taken(&consumer), [5, 1, 2, 3, 4]);
}

#[test]
fn a_priority_over_the_highest_counts_as_the_highest() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue_with("jobs", &prioritised(2)).unwrap();
    for priority in [1, 255, 2, 3, 0] {
        publish(&engine, "jobs", priority);
    }
    let consumer = consume(&engine, "jobs", 0);
    let first = next(&consumer);
    assert_eq!((first.offset().0, first.priority()), (1, 255));
    assert_eq!(taken(&consumer), [2, 3, 0, 4]);
}

#[test]
fn queues_without_priorities_ignore_them() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("all", ExchangeKind::Fanout).unwrap();
    let options = prioritised(9);
    let bind = |queue| Change::Bind { queue, exchange: "all", routing_key: "" };
    engine
        .change(&[
            Change::declare_queue("plain"),
            Change::DeclareQueue { name: "sorted", options: &options },
            bind("plain"),
            bind("sorted"),
        ])
        .unwrap();
    for priority in [3, 1, 2] {
        let message = Message::new("all", "", b"x").priority(priority);
        engine.publisher().publish_confirmed(&message).unwrap();
    }
    let plain = consume(&engine, "plain", 0);
    drop(ready(&plain));
    assert_eq!(taken(&plain), [0, 1, 2]);
    assert_eq!(taken(&consume(&engine, "sorted", 0)), [0, 2, 1]);
    sound(&engine);
}

#[test]
fn what_comes_back_keeps_its_place_in_its_priority() {
    let (_machine, engine) = with_priorities();
    for priority in [1, 2, 1, 2, 0] {
        publish(&engine, "jobs", priority);
    }
    let consumer = consume(&engine, "jobs", 0);
    let all = ready(&consumer);
    assert_eq!(offsets(&all), [1, 3, 0, 2, 4]);
    for delivery in all {
        if delivery.offset().0 == 1 {
            delivery.ack().unwrap();
        } else {
            delivery.nack(true).unwrap();
        }
    }
    publish(&engine, "jobs", 2);
    assert_eq!(taken(&consumer), [3, 5, 0, 2, 4]);
    assert_eq!(engine.queue("jobs").unwrap().ack_floor.0, 6);
}

/// Messages of priorities 0 to 4 over several segments; the offsets as they have to come.
fn several_segments(engine: &Engine) -> Vec<u64> {
    let publisher = engine.publisher();
    let payload = [7; 300];
    for number in 0..2000_u16 {
        let priority = u8::try_from(number * 7 % 5).unwrap();
        let message = Message::new("", "jobs", &payload).priority(priority);
        let ticket = publisher.publish(&message).unwrap();
        if number % 50 == 0 {
            ticket.wait().unwrap();
        }
    }
    while engine.step_commit() {}
    let mut order: Vec<u64> = (0..2000).collect();
    order.sort_by_key(|number| (4 - number * 7 % 5, *number));
    order
}

#[test]
fn restarts_crashes_and_rewriting_change_nothing() {
    let (machine, engine) = with_priorities();
    let order = several_segments(&engine);
    settle(&engine);
    let consumer = consume(&engine, "jobs", 100);
    for expected in &order[..900] {
        let delivery = next(&consumer);
        assert_eq!(delivery.offset().0, *expected);
        delivery.ack().unwrap().wait().unwrap();
    }
    drop(consumer);
    settle(&engine);
    machine.clock.advance(SECOND);
    engine.reclaim(&mut |_| {}).unwrap();
    sound(&engine);
    let machine = machine.power_cut();
    drop(engine);
    let engine = machine.open();
    let consumer = consume(&engine, "jobs", 1);
    for expected in &order[900..1700] {
        let delivery = next(&consumer);
        assert_eq!(delivery.offset().0, *expected);
        delivery.ack().unwrap().wait().unwrap();
    }
    drop(consumer);
    settle(&engine);
    machine.clock.advance(SECOND);
    engine.reclaim(&mut |_| {}).unwrap();
    assert!(engine.stats().segments_rewritten > 0);
    engine.close(SECOND).unwrap();
    let engine = machine.open();
    assert_eq!(taken(&consume(&engine, "jobs", 7)), order[1700..]);
    settle(&engine);
    let view = engine.queue("jobs").unwrap();
    assert_eq!((view.messages, view.ack_floor.0), (0, 2000));
    sound(&engine);
}

#[test]
fn a_footer_that_is_made_anew_has_the_priorities() {
    let (machine, engine) = with_priorities();
    let order = several_segments(&engine);
    settle(&engine);
    drop(engine);
    for (name, mut bytes) in machine.files() {
        if is_segment(&name)
            && let Some(at) = bytes.windows(8).position(|magic| magic == b"fanlogFT")
        {
            bytes[at + 200] ^= 1;
            machine.disk.write_file(&name, &bytes).unwrap();
        }
    }
    let engine = machine.open();
    assert_eq!(taken(&consume(&engine, "jobs", 0)), order);
}

#[test]
fn acks_leave_no_gaps_among_messages_of_other_queues() {
    let (_machine, engine) = with_priorities();
    engine.declare_queue("other").unwrap();
    for number in 0..100_u8 {
        publish(&engine, "other", number % 3);
        publish(&engine, "jobs", number % 4);
        publish(&engine, "other", 0);
    }
    for _ in 0..100 {
        publish(&engine, "jobs", 0);
    }
    let consumer = consume(&engine, "jobs", 3);
    assert_eq!(taken(&consumer).len(), 200);
    assert_eq!(engine.queue("jobs").unwrap().ack_floor.0, 400);
    sound(&engine);
}

#[test]
fn delays_and_priorities_go_together() {
    let (machine, engine) = with_priorities();
    let publisher = engine.publisher();
    for (priority, delay) in [(0, 0), (3, 2), (1, 1), (3, 1), (1, 0), (3, 0)] {
        let message = Message::new("", "jobs", b"x").priority(priority).delay(SECOND * delay);
        publisher.publish_confirmed(&message).unwrap();
    }
    let consumer = consume(&engine, "jobs", 0);
    assert_eq!(taken(&consumer), [5, 4, 0]);
    assert_eq!(engine.queue("jobs").unwrap().delayed, 3);
    machine.clock.advance(SECOND);
    assert_eq!(taken(&consumer), [3, 2]);
    machine.clock.advance(SECOND);
    assert_eq!(taken(&consumer), [1]);
    assert_eq!(engine.queue("jobs").unwrap().ack_floor.0, 6);
    sound(&engine);
}

#[test]
fn purging_getting_and_looking_see_all_priorities() {
    let (_machine, engine) = with_priorities();
    for priority in [1, 4, 0, 4, 9] {
        publish(&engine, "jobs", priority);
    }
    let looked = || {
        let found = engine.peek("jobs", 4).unwrap();
        found.iter().map(|one| one.offset.0).collect::<Vec<_>>()
    };
    assert_eq!(looked(), [4, 1, 3, 0]);
    let first = engine.get("jobs").unwrap().unwrap();
    assert_eq!(first.offset().0, 4);
    assert_eq!(looked(), [1, 3, 0, 2]);
    first.nack(true).unwrap();
    assert_eq!(looked(), [4, 1, 3, 0]);
    assert_eq!(engine.purge_queue("jobs").unwrap(), 5);
    let consumer = consume(&engine, "jobs", 0);
    nothing(&consumer);
    publish(&engine, "jobs", 0);
    publish(&engine, "jobs", 1);
    assert_eq!(taken(&consumer), [6, 5]);
    sound(&engine);
}

#[test]
fn a_queue_can_not_be_declared_again_with_other_priorities() {
    let (_machine, engine) = with_priorities();
    let error = engine.declare_queue_with("jobs", &prioritised(5)).unwrap_err();
    assert!(matches!(&error, Error::Mismatch { argument, .. } if argument.contains("priority")));
    let error = engine.declare_queue_with("none", &prioritised(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

/// Random publishes, priorities, credits, nacks, restarts, against a sorted list.
#[test]
fn whatever_happens_the_first_of_the_highest_comes_next() {
    for seed in 1..15_u64 {
        random_run(seed);
    }
}

fn random_run(seed: u64) {
    let mut state = seed * 7919;
    let mut below = move |end: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x9e37_79b9_7f4a_7c15) % end
    };
    let (mut machine, mut engine) = with_priorities();
    engine.declare_queue("other").unwrap();
    let mut consumer = consume(&engine, "jobs", 1);
    // Highest priority first, then by offset.
    let mut waiting: BTreeSet<(u8, u64)> = BTreeSet::new();
    for _ in 0..300 {
        match below(12) {
            0..=4 => {
                let publisher = engine.publisher();
                for _ in 0..below(15) {
                    let queue = if below(3) == 0 { "other" } else { "jobs" };
                    let priority = u8::try_from(below(14)).unwrap();
                    let payload = vec![0; usize::try_from(below(400)).unwrap()];
                    let message = Message::new("", queue, &payload).priority(priority);
                    let offset = publisher.publish_confirmed(&message).unwrap().first_offset.0;
                    if queue == "jobs" {
                        waiting.insert((9 - priority.min(9), offset));
                    }
                }
            }
            5..=8 => {
                for _ in 0..below(20) {
                    let Some(delivery) = consumer.recv_timeout(Duration::ZERO).unwrap() else {
                        assert!(waiting.is_empty(), "seed {seed}: {waiting:?}");
                        break;
                    };
                    let expected = waiting.first().map(|(_, offset)| *offset);
                    assert_eq!(Some(delivery.offset().0), expected, "seed {seed}");
                    if below(4) == 0 {
                        delivery.nack(true).unwrap();
                    } else {
                        delivery.ack().unwrap().wait().unwrap();
                        waiting.pop_first();
                    }
                }
            }
            9 => {
                drop(consumer);
                machine = if below(2) == 0 { machine.power_cut() } else { machine };
                drop(engine);
                engine = machine.open();
                consumer = consume(&engine, "jobs", 1);
            }
            10 => settle(&engine),
            _ => {
                machine.clock.advance(SECOND);
                engine.reclaim(&mut |_| {}).unwrap();
            }
        }
        let messages = engine.queue("jobs").unwrap().messages;
        assert_eq!(messages, waiting.len() as u64, "seed {seed}");
    }
    sound(&engine);
}

/// As `RabbitMQ`'s page on priorities has it: what makes way for others stands at the head.
#[test]
fn a_queue_that_is_too_long_drops_its_head_which_is_of_the_highest_priority() {
    let machine = Machine::new();
    let engine = machine.open();
    let options = QueueOptions {
        priority_max: Some(3),
        messages_max: Some(3),
        dead_letter_exchange: Some(String::new()),
        dead_letter_key: Some("dead".to_owned()),
        ..QueueOptions::default()
    };
    engine.declare_queue_with("q", &options).unwrap();
    engine.declare_queue("dead").unwrap();
    for (priority, text) in [(0, "a"), (3, "b"), (1, "c"), (3, "d"), (0, "e"), (0, "f")] {
        let message = Message::new("", "q", text.as_bytes()).priority(priority);
        engine.publisher().publish_confirmed(&message).unwrap();
    }
    for _ in 0..2 {
        machine.clock.advance(SECOND);
        settle(&engine);
    }
    assert_eq!(unacked(&engine, "dead"), ["b", "d", "c"]);
    assert_eq!(unacked(&engine, "q"), ["a", "e", "f"]);
    sound(&engine);
}
