use std::time::Duration;

use crate::{
    Change, Config, ConsumerOptions, Engine, ExchangeKind, Message,
    clock::ManualClock,
    storage::{Call, CrashMode, FaultStorage, MemoryStorage},
};
use std::sync::Arc;

fn engine_on(storage: &MemoryStorage) -> Engine {
    let config = Config { stepped: true, segment_bytes_max: 1 << 20, ..Config::default() };
    Engine::open_on(Arc::new(storage.clone()), Arc::new(ManualClock::new()), config).unwrap()
}

fn depth(engine: &Engine, queue: &str) -> (u64, u64) {
    let view = engine.queue(queue).unwrap();
    (view.messages, view.bytes)
}

fn publish(engine: &Engine, exchange: &str, key: &str, payload: &[u8]) {
    engine.publisher().publish_confirmed(&Message::new(exchange, key, payload)).unwrap();
}

fn topology(engine: &Engine) {
    engine
        .change(&[
            Change::DeclareExchange { name: "f", kind: ExchangeKind::Fanout },
            Change::DeclareExchange { name: "d", kind: ExchangeKind::Direct },
            Change::declare_queue("early"),
            Change::declare_queue("late"),
            Change::Bind { queue: "early", exchange: "f", routing_key: "" },
        ])
        .unwrap();
}

fn recounted(engine: &Engine) {
    let report = engine.check(&mut |_| {}).unwrap();
    assert_eq!(report.problems, []);
}

#[test]
fn a_late_bind_counts_only_what_comes_after_it() {
    let storage = MemoryStorage::new();
    let engine = engine_on(&storage);
    topology(&engine);
    publish(&engine, "f", "", b"12345");
    engine.bind("late", "f", "").unwrap();
    publish(&engine, "f", "", b"123");
    assert_eq!((depth(&engine, "early"), depth(&engine, "late")), ((2, 8), (1, 3)));
    recounted(&engine);
}

#[test]
fn what_a_binding_brought_stays_after_the_unbind_and_nothing_more_comes() {
    let storage = MemoryStorage::new();
    let engine = engine_on(&storage);
    topology(&engine);
    publish(&engine, "f", "", b"12345");
    engine.unbind("early", "f", "").unwrap();
    engine.bind("late", "f", "").unwrap();
    publish(&engine, "f", "", b"1");
    assert_eq!((depth(&engine, "early"), depth(&engine, "late")), ((1, 5), (1, 1)));
    engine.bind("early", "f", "").unwrap();
    publish(&engine, "f", "", b"12");
    assert_eq!(depth(&engine, "early"), (2, 7));
    recounted(&engine);
}

#[test]
fn depths_survive_a_crash_and_a_checkpoint_alike() {
    let storage = MemoryStorage::new();
    let engine = engine_on(&storage);
    topology(&engine);
    engine.bind("late", "d", "k").unwrap();
    for _ in 0..5 {
        publish(&engine, "f", "", b"123");
        publish(&engine, "d", "k", b"1");
        publish(&engine, "", "late", b"12");
    }
    engine.checkpoint().unwrap();
    publish(&engine, "f", "", b"123");
    let consumer = engine.consume("late", ConsumerOptions::default()).unwrap();
    consumer.recv().unwrap().ack().unwrap().wait().unwrap();
    let expected = (depth(&engine, "early"), depth(&engine, "late"));
    assert_eq!(expected, ((6, 18), (9, 14)));
    let image = storage.crash_image(1, CrashMode::LoseUnsynced);
    let again = engine_on(&image);
    assert_eq!((depth(&again, "early"), depth(&again, "late")), expected);
    recounted(&again);
    engine.close(Duration::ZERO).unwrap();
    let closed = engine_on(&storage);
    assert!(closed.recovery().clean);
    assert_eq!((depth(&closed, "early"), depth(&closed, "late")), expected);
    recounted(&closed);
}

#[test]
fn a_deleted_queue_is_gone_and_its_name_can_be_used_again() {
    let storage = MemoryStorage::new();
    let engine = engine_on(&storage);
    topology(&engine);
    publish(&engine, "f", "", b"1");
    engine.delete_queue("early").unwrap();
    engine.declare_queue("early").unwrap();
    engine.bind("early", "f", "").unwrap();
    assert_eq!(depth(&engine, "early"), (0, 0));
    publish(&engine, "f", "", b"12");
    assert_eq!(depth(&engine, "early"), (1, 2));
    recounted(&engine);
}

/// An engine of small segments, two queues bound to one exchange.
fn two_queues(storage: &MemoryStorage) -> Engine {
    let config = Config { stepped: true, segment_bytes_max: 64 << 10, ..Config::default() };
    let engine =
        Engine::open_on(Arc::new(storage.clone()), Arc::new(ManualClock::new()), config).unwrap();
    engine
        .change(&[
            Change::DeclareExchange { name: "f", kind: ExchangeKind::Fanout },
            Change::declare_queue("a"),
            Change::declare_queue("b"),
            Change::Bind { queue: "a", exchange: "f", routing_key: "" },
            Change::Bind { queue: "b", exchange: "f", routing_key: "" },
        ])
        .unwrap();
    engine
}

/// Does all of the background's work.
fn settle(engine: &Engine) {
    while engine.step().unwrap() {}
}

/// Acks every message of the queue for whose number `which` says so, all in one commit.
fn ack(engine: &Engine, queue: &str, which: impl Fn(usize) -> bool) {
    let options = ConsumerOptions { prefetch: 60_000, ..ConsumerOptions::default() };
    let consumer = engine.consume(queue, options).unwrap();
    let mut kept = Vec::new();
    let mut number = 0;
    loop {
        match consumer.try_recv().unwrap() {
            Some(delivery) if which(number) => drop(delivery.ack().unwrap()),
            Some(delivery) => kept.push(delivery),
            // It may wait for a lease.
            None if engine.step_commit() => continue,
            None => break,
        }
        number += 1;
    }
}

#[test]
fn acks_written_together_are_counted_in_the_segments_of_their_messages() {
    let storage = MemoryStorage::new();
    let engine = two_queues(&storage);
    (0..200).for_each(|_| publish(&engine, "f", "", &[1; 1000]));
    settle(&engine);
    assert!(engine.stats().segments > 3);
    ack(&engine, "a", |number| number % 3 == 0);
    engine.checkpoint().unwrap();
    ack(&engine, "b", |number| number % 7 != 0);
    recounted(&engine);
    let again = engine_on(&storage.crash_image(1, CrashMode::LoseUnsynced));
    recounted(&again);
}

#[test]
fn a_deleted_queue_is_counted_off_where_it_had_begun_and_where_it_had_not() {
    let storage = MemoryStorage::new();
    let engine = two_queues(&storage);
    (0..200).for_each(|_| publish(&engine, "f", "", &[1; 1000]));
    engine.unbind("b", "f", "").unwrap();
    (0..50).for_each(|_| publish(&engine, "f", "", &[1; 1000]));
    settle(&engine);
    ack(&engine, "b", |number| number < 90 && number % 2 == 0);
    ack(&engine, "a", |number| number < 150);
    engine.delete_queue("b").unwrap();
    recounted(&engine);
    let again = engine_on(&storage.crash_image(1, CrashMode::LoseUnsynced));
    recounted(&again);
    engine.delete_queue("a").unwrap();
    recounted(&engine);
    engine.declare_queue("c").unwrap();
    for _ in 0..3 {
        publish(&engine, "", "c", b"the log goes on");
        engine.checkpoint().unwrap();
        settle(&engine);
    }
    assert_eq!(engine.stats().segments, 1);
}

#[test]
fn a_dead_segment_between_live_ones_is_given_back() {
    let storage = MemoryStorage::new();
    let engine = two_queues(&storage);
    engine.unbind("b", "f", "").unwrap();
    (0..300).for_each(|_| publish(&engine, "f", "", &[1; 1000]));
    settle(&engine);
    let before = engine.stats().segments;
    ack(&engine, "a", |number| number > 0);
    for _ in 0..3 {
        publish(&engine, "f", "", b"the log goes on");
        engine.checkpoint().unwrap();
        settle(&engine);
    }
    assert!(before > 4 && engine.stats().segments <= 3, "{before}");
    recounted(&engine);
    let again = engine_on(&storage.crash_image(1, CrashMode::LoseUnsynced));
    recounted(&again);
    assert_eq!(depth(&again, "a").0, 4);
}

#[test]
fn many_deleted_queues_are_counted_off_with_each_segment_mapped_once() {
    const QUEUES: usize = 40;
    let storage = Arc::new(FaultStorage::new(Arc::new(MemoryStorage::new())));
    let config = Config {
        stepped: true,
        segment_bytes_max: 64 << 10,
        mapped_segments_max: 1,
        ..Config::default()
    };
    let clock = Arc::new(ManualClock::new());
    let engine = Engine::open_on(Arc::clone(&storage) as _, clock, config).unwrap();
    engine.declare_exchange("f", ExchangeKind::Fanout).unwrap();
    let names: Vec<String> = (0..QUEUES).map(|number| format!("q{number}")).collect();
    for name in &names {
        engine.declare_queue(name).unwrap();
        engine.bind(name, "f", "").unwrap();
    }
    (0..300).for_each(|_| publish(&engine, "f", "", &[1; 1000]));
    settle(&engine);
    let segments = engine.stats().segments;
    assert!(segments > 4, "{segments}");
    let before = storage.calls(Call::Map);
    let deletes = names.iter().map(|name| Change::DeleteQueue { name });
    engine.change(&deletes.collect::<Vec<_>>()).unwrap();
    engine.checkpoint().unwrap();
    let maps = storage.calls(Call::Map) - before;
    assert!(maps <= 2 * segments, "{maps} maps of {segments} segments");
    recounted(&engine);
}
