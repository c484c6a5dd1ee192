//! Purging: what is ready goes, what consumers have stays theirs, and everything is counted once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fanlog::{ConsumerOptions, Engine, ErrorKind, ExchangeKind, Message};

use crate::support::{
    Machine, consume, next, nothing, offsets, pattern, publish, publish_numbers, ready, settle,
    sound, start, texts, threaded, unacked, until, with_jobs,
};

/// Messages, bytes, ready, unacked.
fn depth(engine: &Engine) -> (u64, u64, u64, u64) {
    let view = engine.queue("jobs").unwrap();
    (view.messages, view.bytes, view.ready, view.unacked)
}

#[test]
fn purging_drops_what_is_ready_durably_and_says_how_much() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 10);
    assert_eq!(engine.purge_queue("jobs").unwrap(), 10);
    assert_eq!(depth(&engine), (0, 0, 0, 0));
    assert_eq!(engine.stats().purged_messages, 10);
    nothing(&consume(&engine, "jobs", 0));
    sound(&engine);
    let again = machine.power_cut().open();
    assert_eq!(depth(&again), (0, 0, 0, 0));
    sound(&again);
    assert_eq!(publish(&again, "jobs", b"next"), 10);
    assert_eq!(texts(&ready(&consume(&again, "jobs", 0))), ["next"]);
}

#[test]
fn an_empty_queue_is_purged_of_nothing_and_nothing_is_written() {
    let (machine, engine) = with_jobs();
    settle(&engine);
    let operations = machine.disk.operation_count();
    assert_eq!(engine.purge_queue("jobs").unwrap(), 0);
    assert_eq!(machine.disk.operation_count(), operations);
    assert_eq!(engine.purge_queue("nobody").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn what_consumers_have_stays_theirs_and_their_acks_count_once() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 10);
    let consumer = consume(&engine, "jobs", 4);
    let held = ready(&consumer);
    assert_eq!(offsets(&held), [0, 1, 2, 3]);
    assert_eq!(engine.purge_queue("jobs").unwrap(), 6);
    assert_eq!(depth(&engine), (4, 4, 0, 4));
    sound(&engine);
    let mut held = held.into_iter();
    let (first, second) = (held.next().unwrap(), held.next().unwrap());
    second.ack().unwrap().wait().unwrap();
    assert_eq!(depth(&engine), (3, 3, 0, 3));
    first.nack(true).unwrap();
    // Unsettled at the time of the purge: it comes again, to anyone.
    let again = next(&consumer);
    assert_eq!((again.offset().0, again.redelivered()), (0, true));
    again.ack().unwrap().wait().unwrap();
    drop(held);
    drop(consumer);
    assert_eq!(unacked(&engine, "jobs"), ["2", "3"]);
    sound(&engine);
    let again = machine.power_cut().open();
    assert_eq!(unacked(&again, "jobs"), ["2", "3"]);
    assert_eq!(depth(&again), (2, 2, 2, 0));
    sound(&again);
    assert_eq!(again.purge_queue("jobs").unwrap(), 2);
    assert_eq!(depth(&again), (0, 0, 0, 0));
}

#[test]
fn what_waits_for_its_consumer_stays_and_what_came_back_goes() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 10);
    let consumer = consume(&engine, "jobs", 5);
    // Five are dealt, one is fetched and given back.
    next(&consumer).nack(true).unwrap();
    assert_eq!(engine.purge_queue("jobs").unwrap(), 6);
    assert_eq!(offsets(&ready(&consumer)), [1, 2, 3, 4]);
    sound(&engine);
}

#[test]
fn acks_on_their_way_are_not_counted_a_second_time() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 10);
    let consumer = consume(&engine, "jobs", 5);
    for delivery in ready(&consumer) {
        drop(delivery.ack().unwrap());
    }
    // The five acks are not in the log yet.
    assert_eq!(engine.purge_queue("jobs").unwrap(), 5);
    assert_eq!(depth(&engine), (0, 0, 0, 0));
    sound(&engine);
    publish(&engine, "jobs", b"last");
    let image = machine.power_cut().open();
    assert_eq!(depth(&image), (1, 4, 1, 0));
    sound(&image);
}

#[test]
fn after_a_power_cut_at_any_moment_a_purge_took_all_or_nothing() {
    let (mut before, mut after) = (0, 0);
    for cut in 0.. {
        let (machine, engine) = with_jobs();
        publish_numbers(&engine, "jobs", 10);
        let consumer = consume(&engine, "jobs", 3);
        let held = ready(&consumer);
        let mut held = held.into_iter();
        drop(held.next().unwrap().ack().unwrap());
        machine.disk.cut_at(machine.disk.operation_count() + cut);
        let purged = engine.purge_queue("jobs");
        for image in [machine.power_cut(), machine.killed()] {
            let again = image.open();
            let left = unacked(&again, "jobs").len();
            // With the purge goes the ack before it: seven and one of ten.
            assert!(left == 10 || left == 2, "cut at {cut}: {left}");
            assert!(purged.is_err() || left == 2, "cut at {cut}: it came back");
            assert_eq!(again.queue("jobs").unwrap().messages, left as u64);
            sound(&again);
            before += usize::from(left == 10);
            after += usize::from(left == 2);
        }
        if purged.is_ok() {
            break;
        }
    }
    assert!(before > 0 && after > 0, "{before} {after}");
}

#[test]
fn only_the_purged_queue_loses_them_and_a_binding_goes_on() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("results", ExchangeKind::Fanout).unwrap();
    for queue in ["jobs", "other"] {
        engine.declare_queue(queue).unwrap();
        engine.bind(queue, "results", "").unwrap();
    }
    let send = |text: &str| {
        let message = Message::new("results", "", text.as_bytes());
        engine.publisher().publish_confirmed(&message).unwrap();
    };
    send("a");
    send("b");
    engine.unbind("jobs", "results", "").unwrap();
    assert_eq!(engine.purge_queue("jobs").unwrap(), 2);
    engine.bind("jobs", "results", "").unwrap();
    send("c");
    assert_eq!(unacked(&engine, "jobs"), ["c"]);
    assert_eq!(unacked(&engine, "other"), ["a", "b", "c"]);
    sound(&engine);
    let again = machine.power_cut().open();
    assert_eq!(unacked(&again, "jobs"), ["c"]);
    assert_eq!(unacked(&again, "other"), ["a", "b", "c"]);
    sound(&again);
}

#[test]
fn purging_gives_the_disk_back() {
    let (machine, engine) = with_jobs();
    for number in 0..100 {
        publish(&engine, "jobs", &pattern(number, 4000));
        settle(&engine);
    }
    assert!(engine.stats().segments > 5);
    assert_eq!(engine.purge_queue("jobs").unwrap(), 100);
    for _ in 0..3 {
        machine.clock.advance(Duration::from_secs(1));
        settle(&engine);
        engine.checkpoint().unwrap();
    }
    settle(&engine);
    assert!(engine.stats().segments <= 2, "{}", engine.stats().segments);
    sound(&engine);
}

#[test]
fn payloads_in_hand_outlive_the_purge_of_their_queue() {
    let (_machine, engine) = with_jobs();
    publish(&engine, "jobs", &pattern(7, 4000));
    let consumer = consume(&engine, "jobs", 1);
    let delivery = next(&consumer);
    let payload = delivery.to_payload();
    delivery.nack(true).unwrap();
    assert_eq!(engine.purge_queue("jobs").unwrap(), 1);
    for number in 0..200 {
        publish(&engine, "jobs", &pattern(number, 4000));
        settle(&engine);
    }
    assert!(*payload == pattern(7, 4000));
}

#[test]
fn purges_among_publishers_and_consumers_count_every_message_once() {
    const ENOUGH: u64 = 5000;
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let acked = Arc::new(AtomicU64::new(0));
    let consumers: Vec<_> = (0..2_u64)
        .map(|which| {
            let (engine, done, acked) = (engine.clone(), Arc::clone(&done), Arc::clone(&acked));
            start(move || {
                let consumer = engine.consume("jobs", ConsumerOptions::prefetch(16)).unwrap();
                let mut turn = which;
                while !done.load(Ordering::Acquire) {
                    let waiting = Duration::from_millis(1);
                    let Some(delivery) = consumer.recv_timeout(waiting).unwrap() else { continue };
                    turn += 1;
                    if turn.is_multiple_of(3) {
                        delivery.nack(true).unwrap();
                    } else {
                        drop(delivery.ack().unwrap());
                        acked.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let purged = Arc::new(AtomicU64::new(0));
    let purging = {
        let (engine, done, purged) = (engine.clone(), Arc::clone(&done), Arc::clone(&purged));
        start(move || {
            while !done.load(Ordering::Acquire) {
                purged.fetch_add(engine.purge_queue("jobs").unwrap(), Ordering::Relaxed);
            }
        })
    };
    let mut sent = 0;
    until("enough is acked and purged", || {
        publish_numbers(&engine, "jobs", 100);
        sent += 100;
        acked.load(Ordering::Relaxed) > ENOUGH && purged.load(Ordering::Relaxed) > ENOUGH
    });
    done.store(true, Ordering::Release);
    for consumer in consumers {
        consumer.join();
    }
    purging.join();
    let left = unacked(&engine, "jobs").len() as u64;
    let last = engine.purge_queue("jobs").unwrap();
    let (acked, purged) = (acked.load(Ordering::Relaxed), purged.load(Ordering::Relaxed));
    assert_eq!(purged + acked + last, sent);
    assert!(last <= left);
    until("the last acks are written", || depth(&engine) == (0, 0, 0, 0));
    sound(&engine);
}
