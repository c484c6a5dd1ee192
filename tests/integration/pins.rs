//! Who keeps the disk: segments, queues, consumers, and how old what they have not acked is.

use std::time::Duration;

use fanlog::{ConsumerOptions, Engine, ExchangeKind, Message, Pin, SegmentPins};

use crate::support::{
    Machine, consume, next, pattern, publish, ready, settle, small, sound, stepped, with_jobs,
};

const BYTES: usize = 4000;
const SECOND: Duration = Duration::from_secs(1);

/// A machine with the queues `fast` and `slow` behind an exchange.
fn fanout() -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("results", ExchangeKind::Fanout).unwrap();
    for queue in ["fast", "slow"] {
        engine.declare_queue(queue).unwrap();
        engine.bind(queue, "results", "").unwrap();
    }
    (machine, engine)
}

/// Publishes `count` messages a second apart, and acks them in `fast`.
fn stream(machine: &Machine, engine: &Engine, count: u64) {
    let consumer = consume(engine, "fast", 0);
    for number in 0..count {
        let payload = pattern(number, BYTES);
        engine.publisher().publish_confirmed(&Message::new("results", "", &payload)).unwrap();
        next(&consumer).ack().unwrap().wait().unwrap();
        machine.clock.advance(SECOND);
        settle(engine);
    }
}

/// What is routed to each queue in each segment and not acked, by looking at every message.
fn by_browsing(engine: &Engine) -> Vec<(u64, String, u64, u64, u64)> {
    let mut found = Vec::new();
    for segment in engine.segments() {
        for queue in engine.topology().queues {
            let messages = engine.browse(&queue.name).unwrap().map(|one| one.unwrap());
            let own: Vec<_> = messages
                .filter(|one| segment.first_offset <= one.offset && one.offset < segment.end_offset)
                .filter(|one| !one.acked)
                .collect();
            if let Some(first) = own.first() {
                let bytes = own.iter().map(|one| one.payload.len() as u64).sum();
                let count = own.len() as u64;
                found.push((segment.number, queue.name.clone(), count, bytes, first.offset.0));
            }
        }
    }
    found.sort();
    found
}

fn by_pins(engine: &Engine) -> Vec<(u64, String, u64, u64, u64)> {
    let mut found = Vec::new();
    for segment in engine.pins(1000, 1000).unwrap().segments {
        let sum = |part: fn(&Pin) -> u64| segment.queues.iter().map(part).sum::<u64>();
        assert_eq!(segment.outstanding_messages, Some(sum(|pin| pin.messages)));
        assert_eq!(segment.outstanding_bytes, Some(sum(|pin| pin.bytes)));
        assert!(segment.queues.is_sorted_by_key(|pin| std::cmp::Reverse(pin.bytes)));
        for pin in &segment.queues {
            let oldest = pin.oldest_offset.0;
            found.push((segment.number, pin.queue.clone(), pin.messages, pin.bytes, oldest));
        }
    }
    found.sort();
    found
}

#[test]
fn pins_name_the_queue_the_message_its_age_and_its_consumer() {
    let (machine, engine) = fanout();
    stream(&machine, &engine, 60);
    let options = ConsumerOptions { tag: "bob".into(), ..ConsumerOptions::prefetch(1) };
    let consumer = engine.consume("slow", options).unwrap();
    let held = next(&consumer);
    let pins = engine.pins(1000, 10).unwrap();
    assert!(pins.segments.len() > 3 && pins.segments_left_off == 0);
    let has_first = |segment: &&SegmentPins| segment.queues[0].oldest_offset.0 == 0;
    let first = pins.segments.iter().find(has_first).unwrap();
    assert_eq!((first.number, first.state), (1, "sealed"));
    let bytes = machine.disk.read_file(first.path.file_name().unwrap().to_str().unwrap()).unwrap();
    assert_eq!(bytes.len() as u64, first.file_bytes);
    let [pin] = &first.queues[..] else { panic!("{first:?}") };
    assert_eq!((pin.queue.as_str(), pin.oldest_offset.0), ("slow", 0));
    assert_eq!(pin.consumer.as_deref(), Some("bob"));
    assert_eq!(pin.oldest_age, Some(60 * SECOND));
    let others = pins.segments.iter().filter(|segment| !has_first(segment));
    assert!(others.into_iter().all(|segment| segment.queues[0].consumer.is_none()));
    drop(held);
    assert_eq!(by_pins(&engine), by_browsing(&engine));
}

#[test]
fn pins_agree_with_what_is_stored_whatever_was_acked() {
    let (machine, engine) = fanout();
    stream(&machine, &engine, 40);
    let consumer = consume(&engine, "slow", 0);
    for (number, delivery) in ready(&consumer).into_iter().enumerate() {
        if number % 3 == 1 || (10..25).contains(&number) {
            delivery.ack().unwrap().wait().unwrap();
        }
    }
    drop(consumer);
    // Bound in the middle of a segment, unbound in another.
    engine.declare_queue("late").unwrap();
    engine.bind("late", "results", "").unwrap();
    stream(&machine, &engine, 20);
    engine.unbind("late", "results", "").unwrap();
    engine.unbind("slow", "results", "").unwrap();
    stream(&machine, &engine, 20);
    engine.bind("slow", "results", "").unwrap();
    stream(&machine, &engine, 20);
    publish(&engine, "late", b"by its name");
    assert_eq!(by_pins(&engine), by_browsing(&engine));
    let again = machine.power_cut().open();
    assert_eq!(by_pins(&again), by_browsing(&again));
    engine.purge_queue("slow").unwrap();
    assert_eq!(by_pins(&engine), by_browsing(&engine));
    engine.delete_queue("late").unwrap();
    settle(&engine);
    assert_eq!(by_pins(&engine), by_browsing(&engine));
    sound(&engine);
}

#[test]
fn lists_are_bounded_and_say_what_was_left_off() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("results", ExchangeKind::Fanout).unwrap();
    for number in 0..20 {
        let queue = format!("q{number:02}");
        engine.declare_queue(&queue).unwrap();
        engine.bind(&queue, "results", "").unwrap();
    }
    for number in 0..60 {
        let payload = pattern(number, BYTES);
        engine.publisher().publish_confirmed(&Message::new("results", "", &payload)).unwrap();
        settle(&engine);
    }
    publish(&engine, "q07", &pattern(1, 9000));
    let all = engine.pins(1000, 1000).unwrap().segments.len() as u64;
    let pins = engine.pins(2, 3).unwrap();
    assert_eq!((pins.segments.len(), pins.segments_left_off), (2, all - 2));
    assert!(pins.segments[0].outstanding_bytes >= pins.segments[1].outstanding_bytes);
    for segment in &pins.segments {
        assert_eq!((segment.queues.len(), segment.queues_left_off), (3, 17));
    }
    let last = engine.pins(1000, 1).unwrap();
    let last = last.segments.iter().max_by_key(|segment| segment.number).unwrap();
    assert_eq!(last.queues[0].queue, "q07");
}

#[test]
fn stats_tell_the_age_of_the_oldest_message_and_what_it_keeps() {
    let (machine, engine) = with_jobs();
    let oldest = |engine: &Engine| {
        let stats = engine.stats();
        (stats.oldest_unacked_age, stats.oldest_unacked_pinned_bytes)
    };
    assert_eq!(oldest(&engine), (None, 0));
    for number in 0..60 {
        publish(&engine, "jobs", &pattern(number, BYTES));
        machine.clock.advance(SECOND);
        settle(&engine);
    }
    machine.clock.advance(SECOND);
    assert_eq!(oldest(&engine), (Some(61 * SECOND), 64 << 10));
    // It is looked for at most once a second; the age itself goes on.
    let consumer = consume(&engine, "jobs", 0);
    let mut deliveries = ready(&consumer).into_iter();
    for delivery in deliveries.by_ref().take(30) {
        delivery.ack().unwrap().wait().unwrap();
    }
    assert_eq!(oldest(&engine), (Some(61 * SECOND), 64 << 10));
    machine.clock.advance(SECOND);
    assert_eq!(oldest(&engine), (Some(32 * SECOND), 64 << 10));
    let again = machine.power_cut().open();
    assert_eq!(oldest(&again), (Some(32 * SECOND), 64 << 10));
    for delivery in deliveries {
        delivery.ack().unwrap().wait().unwrap();
    }
    machine.clock.advance(SECOND);
    assert_eq!(oldest(&engine), (None, 0));
    publish(&engine, "jobs", b"new");
    machine.clock.advance(SECOND);
    assert_eq!(oldest(&engine), (Some(SECOND), 64 << 10));
}

#[test]
fn reclaim_gives_back_what_is_dead_at_once() {
    let (machine, engine) = with_jobs();
    for number in 0..100 {
        publish(&engine, "jobs", &pattern(number, BYTES));
        settle(&engine);
    }
    assert_eq!(engine.reclaim(&mut |_| {}).unwrap().segments_deleted, 0);
    engine.purge_queue("jobs").unwrap();
    publish(&engine, "jobs", b"kept");
    let own = |machine: &Machine| {
        let files = machine.files().into_iter().filter(|(name, _)| !name.starts_with("free-"));
        files.map(|(_, bytes)| bytes.len() as u64).sum::<u64>()
    };
    let before = own(&machine);
    let mut told = 0;
    let report = engine.reclaim(&mut |_| told += 1).unwrap();
    assert!(told > 0 && report.segments_deleted > 0 && report.segments_recycled > 0, "{report:?}");
    let after = own(&machine);
    assert_eq!((report.bytes_before, report.bytes_after), (before, after));
    assert!(after < before / 2, "{before} {after}");
    assert!(engine.stats().segments <= 2);
    sound(&engine);
    assert_eq!(machine.power_cut().open().queue("jobs").unwrap().messages, 1);
}

#[test]
fn reclaim_beside_the_keeper_and_others_at_work_harms_nothing() {
    let machine = Machine::new();
    let config = fanlog::Config { stepped: false, ..small() };
    let engine = machine.open_with(config);
    engine.declare_queue("jobs").unwrap();
    let consumer = consume(&engine, "jobs", 0);
    for round in 0..10 {
        for number in 0..40 {
            publish(&engine, "jobs", &pattern(number, BYTES));
        }
        let batch = consumer.recv_batch(30, SECOND).unwrap();
        batch.ack().unwrap().wait().unwrap();
        engine.reclaim(&mut |_| {}).unwrap();
        assert!(round > 8 || !engine.stats().poisoned);
    }
    sound(&engine);
    drop(consumer);
    let left = engine.queue("jobs").unwrap().messages;
    drop(engine);
    let again = machine.open_with(stepped());
    assert_eq!(again.queue("jobs").unwrap().messages, left);
    sound(&again);
}
