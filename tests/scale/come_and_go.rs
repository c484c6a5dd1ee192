//! What is over leaves nothing behind; and who keeps the disk is told whatever the number of queues.

use std::{
    thread,
    time::{Duration, Instant},
};

use fanlog::{Change, Config, Engine, ExchangeKind, Message};
use tempfile::tempdir;

use crate::counted::{EXCHANGE, alone, change_all, declare_and_bind, live_bytes, name, work_of};

const AT_ONCE: usize = 100;
const ROUNDS: usize = 400;
/// The engine's own buffers come and go as well.
const NOISE_BYTES: i64 = 5 << 20;

fn open(dir: &std::path::Path) -> Engine {
    let config = Config {
        window_bytes_max: 1 << 20,
        buffer_bytes_max: 1 << 20,
        segment_bytes_max: 256 << 10,
        checkpoint_interval: Duration::from_hours(1),
        checkpoint_log_bytes: u64::MAX,
        ..Config::default()
    };
    Engine::open(dir, config).unwrap()
}

/// As callers do that wait for a reply each in a queue of its own.
fn come_and_go(engine: &Engine, rounds: usize) {
    let publisher = engine.publisher();
    for round in 0..rounds {
        change_all(engine, 0..AT_ONCE, |name| Change::declare_queue(name));
        let tickets: Vec<_> = (0..AT_ONCE)
            .map(|number| publisher.publish(&Message::new("", &name(number), &[7; 200])).unwrap())
            .collect();
        for ticket in tickets {
            ticket.wait().unwrap();
        }
        for number in 0..AT_ONCE {
            engine.get(&name(number)).unwrap().unwrap().ack().unwrap();
        }
        change_all(engine, 0..AT_ONCE, |name| Change::DeleteQueue { name });
        if round % 50 == 49 {
            engine.reclaim(&mut |_| {}).unwrap();
        }
    }
}

#[test]
fn queues_that_came_and_went_leave_nothing_in_memory() {
    let _alone = alone();
    let dir = tempdir().unwrap();
    let engine = open(dir.path());
    come_and_go(&engine, 50);
    let before = live_bytes();
    come_and_go(&engine, ROUNDS);
    let left = live_bytes() - before;
    let queues = i64::try_from(ROUNDS * AT_ONCE).unwrap();
    println!("{queues} queues left {left} bytes");
    assert!(left < NOISE_BYTES, "{} bytes for each queue", left / queues);
    engine.close(Duration::from_mins(1)).unwrap();
}

fn bind(key: &str) -> Change<'_> {
    Change::Bind { queue: "idle", exchange: "direct", routing_key: key }
}

fn unbind(key: &str) -> Change<'_> {
    Change::Unbind { queue: "idle", exchange: "direct", routing_key: key }
}

#[test]
fn bindings_that_came_and_went_leave_nothing_with_a_consumer_that_sleeps() {
    let _alone = alone();
    let dir = tempdir().unwrap();
    let engine = open(dir.path());
    engine.declare_exchange("direct", ExchangeKind::Direct).unwrap();
    engine.declare_queue("idle").unwrap();
    let consumer = engine.consume("idle", fanlog::ConsumerOptions::default()).unwrap();
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| consumer.recv());
        let come_and_go = |rounds: usize| {
            for _ in 0..rounds {
                change_all(&engine, 0..AT_ONCE, bind);
                change_all(&engine, 0..AT_ONCE, unbind);
            }
            engine.reclaim(&mut |_| {}).unwrap();
        };
        come_and_go(50);
        let before = live_bytes();
        come_and_go(ROUNDS);
        let left = live_bytes() - before;
        println!("{} bindings left {left} bytes", ROUNDS * AT_ONCE);
        assert!(left < NOISE_BYTES, "{left} bytes");
        engine.close(Duration::from_mins(1)).unwrap();
        drop(sleeper.join().unwrap());
    });
}

#[test]
fn who_keeps_the_disk_is_told_with_a_look_at_each_queue_whatever_the_number_of_batches() {
    let _alone = alone();
    let dir = tempdir().unwrap();
    let engine = open(dir.path());
    engine.declare_exchange(EXCHANGE, ExchangeKind::Fanout).unwrap();
    let queues = 5_000;
    declare_and_bind(&engine, 0..queues);
    for _ in 0..50 {
        engine.publisher().publish_confirmed(&Message::new(EXCHANGE, "", b"a batch")).unwrap();
    }
    engine.purge_queue(&name(3)).unwrap();
    let mut pins = None;
    let work = work_of(|| pins = Some(engine.pins(10, 7).unwrap()));
    let pins = pins.unwrap();
    let told: Vec<&str> = pins.segments[0].queues.iter().map(|pin| pin.queue.as_str()).collect();
    let first: Vec<String> = [0, 1, 2, 4, 5, 6, 7].map(name).into();
    assert_eq!(told, first);
    assert_eq!(pins.segments[0].queues_left_off, queues as u64 - 8);
    println!("{work:?} for {queues} queues and 50 batches");
    assert!(work.allocations < 5 * queues, "{work:?}");
    engine.close(Duration::from_mins(1)).unwrap();
}

#[test]
fn segments_are_told_of_without_a_look_at_queues_that_have_nothing_there() {
    let _alone = alone();
    let dir = tempdir().unwrap();
    let engine = open(dir.path());
    let queues = 20_000;
    change_all(&engine, 0..queues, |name| Change::declare_queue(name));
    let publisher = engine.publisher();
    let tickets: Vec<_> = (0..queues)
        .map(|number| publisher.publish(&Message::new("", &name(number), &[7; 10])).unwrap())
        .collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    let begin = Instant::now();
    let told = engine.segments();
    println!("told in {:?}", begin.elapsed());
    // Queues times routes would be minutes.
    assert!(begin.elapsed() < Duration::from_mins(1));
    assert_eq!(told.iter().map(|one| one.live_bytes).sum::<u64>(), 10 * queues as u64);
    engine.close(Duration::from_mins(1)).unwrap();
}
