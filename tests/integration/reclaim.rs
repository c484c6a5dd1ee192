//! Reclaim: what every queue has acked is given back, what anyone still needs or holds is not.

use std::time::Duration;

use fanlog::{Engine, ExchangeKind, Message};

use crate::support::{
    Machine, consume, next, pattern, publish, settle, sound, stepped, unacked, with_jobs,
};

const BYTES: usize = 4000;

/// Publishes `count` messages from `first` on; with `consumer` each is acked at once.
fn stream(engine: &Engine, first: u64, count: u64, acked: bool) {
    let consumer = consume(engine, "jobs", 10);
    for number in first..first + count {
        publish(engine, "jobs", &pattern(number, BYTES));
        if acked {
            next(&consumer).ack().unwrap();
        }
        settle(engine);
    }
}

/// Two checkpoints, so that no kept one lists what is dead; then the rest of the work.
fn tidy(machine: &Machine, engine: &Engine) {
    for _ in 0..3 {
        machine.clock.advance(Duration::from_secs(1));
        settle(engine);
        engine.checkpoint().unwrap();
    }
    settle(engine);
}

fn disk_bytes(machine: &Machine) -> usize {
    machine.files().values().map(Vec::len).sum()
}

#[test]
fn a_stream_that_is_acked_needs_no_more_disk_the_longer_it_runs() {
    let (machine, engine) = with_jobs();
    stream(&engine, 0, 200, true);
    tidy(&machine, &engine);
    let early = disk_bytes(&machine);
    stream(&engine, 200, 1500, true);
    tidy(&machine, &engine);
    let late = disk_bytes(&machine);
    assert!(late <= early + (256 << 10), "{early} bytes, then {late}");
    let stats = engine.stats();
    assert!(stats.segments_recycled > 10, "{}", stats.segments_recycled);
    assert!(stats.segments <= 3, "{}", stats.segments);
    sound(&engine);
    let again = machine.power_cut().open();
    assert_eq!(again.queue("jobs").unwrap().messages, 0);
    assert_eq!(publish(&again, "jobs", b"next"), 1700);
    sound(&again);
}

#[test]
fn a_message_that_is_not_acked_is_kept_whatever_comes_after_it() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", &pattern(0, BYTES));
    let holder = consume(&engine, "jobs", 1);
    let held = next(&holder);
    stream(&engine, 1, 300, true);
    tidy(&machine, &engine);
    assert!(held.payload() == pattern(0, BYTES));
    drop(held);
    drop(holder);
    let again = machine.power_cut().open();
    let delivery = next(&consume(&again, "jobs", 1));
    assert!(delivery.offset().0 == 0 && delivery.payload() == pattern(0, BYTES));
    sound(&again);
}

#[test]
fn one_slow_queue_keeps_its_messages_and_loses_none() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("results", ExchangeKind::Fanout).unwrap();
    for queue in ["slow", "jobs"] {
        engine.declare_queue(queue).unwrap();
        engine.bind(queue, "results", "").unwrap();
    }
    let fast = consume(&engine, "jobs", 10);
    for number in 0..200 {
        let payload = pattern(number, BYTES);
        let message = Message::new("results", "", &payload);
        engine.publisher().publish_confirmed(&message).unwrap();
        next(&fast).ack().unwrap();
        settle(&engine);
    }
    tidy(&machine, &engine);
    let slow = consume(&engine, "slow", 10);
    for number in 0..200 {
        let delivery = next(&slow);
        assert!(delivery.payload() == pattern(number, BYTES), "message {number}");
        delivery.ack().unwrap();
    }
    tidy(&machine, &engine);
    assert!(engine.stats().segments <= 2, "{}", engine.stats().segments);
}

#[test]
fn deleting_a_queue_gives_back_what_only_it_kept() {
    let (machine, engine) = with_jobs();
    engine.declare_queue("other").unwrap();
    stream(&engine, 0, 200, false);
    publish(&engine, "other", b"kept");
    tidy(&machine, &engine);
    assert!(engine.stats().segments > 10);
    engine.delete_queue("jobs").unwrap();
    tidy(&machine, &engine);
    assert!(engine.stats().segments <= 2, "{}", engine.stats().segments);
    assert_eq!(unacked(&machine.power_cut().open(), "other"), ["kept"]);
    assert_eq!(unacked(&engine, "other"), ["kept"]);
}

#[test]
fn idle_empty_queues_keep_nothing() {
    let (machine, engine) = with_jobs();
    for number in 0..50 {
        engine.declare_queue(&format!("idle{number}")).unwrap();
    }
    stream(&engine, 0, 200, true);
    tidy(&machine, &engine);
    assert!(engine.stats().segments <= 2, "{}", engine.stats().segments);
}

#[test]
fn acks_that_are_not_durable_give_nothing_back() {
    let (machine, engine) = with_jobs();
    stream(&engine, 0, 100, false);
    tidy(&machine, &engine);
    let segments = engine.stats().segments;
    let consumer = consume(&engine, "jobs", 0);
    let batch = consumer.recv_batch(100, Duration::ZERO).unwrap();
    assert_eq!(batch.len(), 100);
    drop(batch.ack().unwrap());
    // Not written yet, for want of time.
    while !engine.step_commit() && engine.step().unwrap() {}
    let crashed = machine.power_cut().open();
    assert_eq!(crashed.browse("jobs").unwrap().count(), 100);
    assert!(crashed.stats().segments >= segments);
    sound(&crashed);
}

#[test]
fn payloads_in_hand_keep_their_bytes_while_their_segment_is_given_back_and_overwritten() {
    let (machine, engine) = with_jobs();
    stream(&engine, 0, 100, false);
    tidy(&machine, &engine);
    drop(engine);
    // After the reopen they are read through maps of the sealed segments.
    let engine = machine.open();
    let consumer = consume(&engine, "jobs", 0);
    let mut payloads = Vec::new();
    while payloads.len() < 100 {
        let batch = consumer.recv_batch(100, Duration::ZERO).unwrap();
        payloads.extend(batch.iter().map(|delivery| delivery.to_payload()));
        batch.ack().unwrap().wait().unwrap();
    }
    tidy(&machine, &engine);
    drop(consumer);
    stream(&engine, 100, 400, true);
    tidy(&machine, &engine);
    let stats = engine.stats();
    assert!(stats.segments_deleted > 0, "held files are removed, not overwritten");
    assert!(stats.deleted_but_held_bytes > 0);
    for (number, payload) in (0..).zip(&payloads) {
        assert!(**payload == pattern(number, BYTES), "payload {number}");
    }
}

#[test]
fn the_bytes_of_deleted_files_are_told_only_while_readers_hold_them() {
    let (machine, engine) = with_jobs();
    stream(&engine, 0, 100, false);
    tidy(&machine, &engine);
    drop(engine);
    let engine = machine.open();
    let consumer = consume(&engine, "jobs", 0);
    let batch = consumer.recv_batch(100, Duration::ZERO).unwrap();
    let payload = batch.iter().next().unwrap().to_payload();
    batch.ack().unwrap().wait().unwrap();
    tidy(&machine, &engine);
    assert!(engine.stats().deleted_but_held_bytes > 0);
    drop(payload);
    drop(consumer);
    tidy(&machine, &engine);
    assert_eq!(engine.stats().deleted_but_held_bytes, 0);
}

#[test]
fn recycled_segments_show_nothing_of_their_past() {
    let (machine, engine) = with_jobs();
    engine.declare_queue("other").unwrap();
    stream(&engine, 0, 400, true);
    tidy(&machine, &engine);
    stream(&engine, 400, 5, false);
    for crashed in [machine.power_cut(), machine.killed()] {
        let again = crashed.open();
        assert!(again.recovery().cuts.is_empty());
        let left: Vec<u64> = again
            .browse("jobs")
            .unwrap()
            .map(|one| one.unwrap())
            .filter(|one| !one.acked)
            .map(|one| one.offset.0)
            .collect();
        assert_eq!(left, [400, 401, 402, 403, 404]);
        assert_eq!(again.browse("other").unwrap().count(), 0);
        sound(&again);
    }
}

#[test]
fn segments_tell_how_much_of_them_is_live() {
    let (machine, engine) = with_jobs();
    stream(&engine, 0, 30, false);
    tidy(&machine, &engine);
    let all = engine.segments();
    assert_eq!(all.first().unwrap().first_offset.0, 0);
    assert_eq!(all.last().unwrap().state, "active");
    assert!(all.windows(2).all(|pair| pair[0].end_offset == pair[1].first_offset));
    let payload: u64 = all.iter().map(|one| one.payload_bytes).sum();
    let live: u64 = all.iter().map(|one| one.live_bytes).sum();
    assert_eq!((payload, live), (30 * BYTES as u64, 30 * BYTES as u64));
    let consumer = consume(&engine, "jobs", 0);
    let held: Vec<_> = consumer.recv_batch(10, Duration::ZERO).unwrap().keep();
    consumer.ack(held[3]).unwrap().wait().unwrap();
    let live: u64 = engine.segments().iter().map(|one| one.live_bytes).sum();
    assert_eq!(live, 29 * BYTES as u64);
}

#[test]
fn files_prepared_ahead_are_used_again_after_a_reopen() {
    let (machine, engine) = with_jobs();
    settle(&engine);
    drop(engine);
    let before = machine.files().len();
    for _ in 0..5 {
        let engine = machine.open_with(stepped());
        settle(&engine);
    }
    assert!(machine.files().len() <= before + 1, "{:?}", machine.files().keys());
}

/// A tag is no guard: only who has the bytes keeps them.
#[test]
fn messages_kept_by_their_tags_keep_no_file_from_being_used_again() {
    let (machine, engine) = with_jobs();
    stream(&engine, 0, 100, false);
    tidy(&machine, &engine);
    drop(engine);
    let engine = machine.open();
    let consumer = consume(&engine, "jobs", 0);
    let batch = consumer.recv_batch(100, Duration::ZERO).unwrap();
    assert_eq!(batch.len(), 100);
    let tags = batch.keep();
    engine.declare_queue("other").unwrap();
    engine.delete_queue("jobs").unwrap();
    tidy(&machine, &engine);
    let stats = engine.stats();
    assert!(stats.segments <= 2, "{}", stats.segments);
    assert_eq!(stats.deleted_but_held_bytes, 0, "of {} tags", tags.len());
    drop(consumer);
}

#[test]
fn a_message_kept_by_its_tag_comes_again_whole_from_wherever_it_lies() {
    let (machine, engine) = with_jobs();
    let holder = consume(&engine, "jobs", 0);
    for number in 0..60 {
        publish(&engine, "jobs", &pattern(number, BYTES));
    }
    let tags = holder.recv_batch(100, Duration::ZERO).unwrap().keep();
    assert_eq!(tags.len(), 60);
    // Some are in the window, some in the unsealed part, most in sealed segments.
    tidy(&machine, &engine);
    for tag in &tags {
        holder.nack(*tag, true).unwrap();
    }
    let taker = consume(&engine, "jobs", 1);
    drop(holder);
    for number in 0..60 {
        let delivery = next(&taker);
        assert!(delivery.redelivered() && delivery.offset().0 == number);
        assert!(delivery.payload() == pattern(number, BYTES), "{number}");
        delivery.ack().unwrap();
    }
}

/// Two checkpoints more, although nothing happens: then the last dead segments are given back too.
#[test]
fn what_died_last_is_given_back_although_nothing_happens_any_more() {
    let (machine, engine) = with_jobs();
    stream(&engine, 0, 100, false);
    let consumer = consume(&engine, "jobs", 0);
    let batch = consumer.recv_batch(100, Duration::ZERO).unwrap();
    batch.ack().unwrap().wait().unwrap();
    settle(&engine);
    let before = disk_bytes(&machine);
    for _ in 0..4 {
        machine.clock.advance(Duration::from_secs(61));
        settle(&engine);
    }
    let after = disk_bytes(&machine);
    assert!(after + (256 << 10) < before, "{before} bytes, then {after}");
    let checkpoints = engine.stats().checkpoints;
    machine.clock.advance(Duration::from_secs(1000));
    settle(&engine);
    assert_eq!(engine.stats().checkpoints, checkpoints, "and then it is quiet");
}
