//! Consumers that hold messages for too long: they are told, and what they have goes back.

use std::time::Duration;

use fanlog::{Cancellation, Consumer, Delivery, Engine, Error, QueueOptions, Result};

use crate::support::{
    Machine, PATIENCE, consume, next, nothing, offsets, publish_numbers, ready, settle, start,
    threaded, with_jobs,
};

const LIMIT: Duration = Duration::from_secs(160);

fn with_limit(limit: Duration) -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    let options = QueueOptions { ack_timeout: Some(limit), ..QueueOptions::default() };
    engine.declare_queue_with("jobs", &options).unwrap();
    (machine, engine)
}

/// Lets time pass, a second at a time, with all that the engine does meanwhile.
fn pass(machine: &Machine, engine: &Engine, time: Duration) {
    for _ in 0..time.as_secs() {
        machine.clock.advance(Duration::from_secs(1));
        settle(engine);
    }
}

#[track_caller]
fn timed_out<T: std::fmt::Debug>(result: Result<T>) -> (u64, Duration) {
    let error = result.unwrap_err();
    let Error::Cancelled { queue, unacked, why, .. } = error else { panic!("{error}") };
    let Cancellation::AckTimeout { held, limit } = why else { panic!("{why}") };
    assert!(queue == "jobs" && held >= limit, "{held:?} {limit:?}");
    (unacked, limit)
}

#[test]
fn what_is_held_for_too_long_goes_back_and_its_consumer_is_told() {
    let (machine, engine) = with_limit(LIMIT);
    publish_numbers(&engine, "jobs", 6);
    let stuck = consume(&engine, "jobs", 4);
    let held = [next(&stuck), next(&stuck)];
    pass(&machine, &engine, LIMIT);
    assert_eq!(engine.queue("jobs").unwrap().consumers, 1, "not before its time");
    pass(&machine, &engine, LIMIT / 8);
    let view = engine.queue("jobs").unwrap();
    assert_eq!((view.consumers, view.unacked, view.ready), (0, 0, 6));
    assert_eq!(timed_out(stuck.try_recv()), (2, LIMIT));
    assert_eq!(timed_out(stuck.recv()), (2, LIMIT));
    let [first, second] = held;
    // Settling is too late, and says why.
    timed_out(first.ack());
    timed_out(second.nack(true));
    let again = ready(&consume(&engine, "jobs", 10));
    assert_eq!(offsets(&again), [0, 1, 2, 3, 4, 5]);
    let counts: Vec<u32> = again.iter().map(Delivery::delivery_count).collect();
    assert_eq!(counts, [1, 1, 0, 0, 0, 0]);
    drop(stuck);
    assert_eq!(engine.queue("jobs").unwrap().consumers, 0);
}

#[test]
fn thirty_minutes_are_allowed_where_the_queue_does_not_say() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 1);
    let stuck = consume(&engine, "jobs", 1);
    let held = next(&stuck);
    pass(&machine, &engine, Duration::from_mins(30));
    nothing(&stuck);
    pass(&machine, &engine, Duration::from_mins(4));
    assert_eq!(timed_out(stuck.try_recv()).1, Duration::from_mins(30));
    drop(held);
}

#[test]
fn a_queue_may_allow_for_ever() {
    let (machine, engine) = with_limit(Duration::MAX);
    publish_numbers(&engine, "jobs", 1);
    let patient = consume(&engine, "jobs", 1);
    let held = next(&patient);
    for _ in 0..100 {
        machine.clock.advance(Duration::from_hours(24));
        settle(&engine);
    }
    nothing(&patient);
    held.ack().unwrap();
}

#[test]
fn one_that_acks_in_time_is_left_alone_however_long_it_works() {
    let (machine, engine) = with_limit(LIMIT);
    publish_numbers(&engine, "jobs", 100);
    let worker = consume(&engine, "jobs", 50);
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(next(&worker));
        pass(&machine, &engine, Duration::from_secs(30));
        if held.len() > 4 {
            held.remove(0).ack().unwrap();
        }
    }
    assert_eq!(engine.queue("jobs").unwrap().consumers, 1);
    // Of five the first is held for 150 s, just below the limit; now it is the last one's turn.
    pass(&machine, &engine, LIMIT);
    assert_eq!(timed_out(worker.try_recv()).0, 4);
}

#[test]
fn one_that_leaves_its_inbox_alone_is_cancelled_and_one_that_waits_is_not() {
    let (machine, engine) = with_limit(LIMIT);
    publish_numbers(&engine, "jobs", 2);
    let lazy = consume(&engine, "jobs", 10);
    let idle = consume(&engine, "jobs", 10);
    next(&idle).ack().unwrap();
    pass(&machine, &engine, LIMIT + LIMIT / 4);
    // The one has a message in its inbox, the other has nothing at all.
    assert_eq!(timed_out(lazy.try_recv()).0, 0);
    assert_eq!(next(&idle).offset().0, 0);
}

#[test]
fn a_message_that_was_got_goes_back_in_time_too() {
    let (machine, engine) = with_limit(LIMIT);
    publish_numbers(&engine, "jobs", 1);
    let got = engine.get("jobs").unwrap().unwrap();
    pass(&machine, &engine, LIMIT + LIMIT / 8);
    assert_eq!(engine.queue("jobs").unwrap().unacked, 0);
    timed_out(got.ack());
    assert_eq!(engine.get("jobs").unwrap().unwrap().delivery_count(), 1);
}

#[test]
fn others_go_on_with_what_a_stuck_consumer_had() {
    let engine = threaded();
    let options =
        QueueOptions { ack_timeout: Some(Duration::from_millis(50)), ..QueueOptions::default() };
    engine.declare_queue_with("jobs", &options).unwrap();
    publish_numbers(&engine, "jobs", 1);
    let stuck = consume(&engine, "jobs", 1);
    let held = stuck.recv_timeout(PATIENCE).unwrap().unwrap();
    let other = consume(&engine, "jobs", 1);
    let waiting = start(move || {
        let delivery = other.recv().unwrap();
        (delivery.redelivered(), delivery.delivery_count())
    });
    assert_eq!(waiting.join(), (true, 1));
    let blocked: Result<Option<Delivery>> = stuck.recv_timeout(PATIENCE);
    timed_out(blocked);
    timed_out(held.ack());
}

/// It waits for want of credit, with all its messages held by somebody who does not ack.
#[test]
fn a_consumer_that_waits_is_woken_to_be_told() {
    let engine = threaded();
    let options =
        QueueOptions { ack_timeout: Some(Duration::from_millis(50)), ..QueueOptions::default() };
    engine.declare_queue_with("jobs", &options).unwrap();
    publish_numbers(&engine, "jobs", 2);
    let stuck = consume(&engine, "jobs", 1);
    stuck.recv_timeout(PATIENCE).unwrap().unwrap().keep();
    let told = start(move || {
        let error = stuck.recv().map(drop);
        (error, stuck)
    });
    let (error, stuck): (Result<()>, Consumer) = told.join();
    assert_eq!(timed_out(error).0, 1);
    drop(stuck);
}
