//! Closing: everyone who waits is told, what is stored stays, what was handed out stays readable.

use std::{sync::Arc, time::Duration};

use fanlog::{
    Config, Engine, Error, ErrorKind, ExchangeKind, Message, WhenFull, clock::SystemClock,
};

use crate::{
    faults::full_disk,
    gate::{Gate, GatedStorage},
    support::{
        PATIENCE, block_on, consume, next, pattern, publish, publish_numbers, ready, small, start,
        threaded, unacked, until, with_jobs,
    },
};

#[test]
fn closing_wakes_consumers_that_wait_however_they_wait() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let receive = |wait: fn(&fanlog::Consumer) -> Option<Error>| {
        let consumer = consume(&engine, "jobs", 5);
        start(move || wait(&consumer))
    };
    let waiting = [
        receive(|consumer| consumer.recv().err()),
        receive(|consumer| consumer.recv().err()),
        receive(|consumer| consumer.recv_timeout(PATIENCE).err()),
        receive(|consumer| consumer.recv_batch(10, PATIENCE).err()),
        receive(|consumer| block_on(consumer.recv_async()).err()),
        receive(|consumer| consumer.iter().last().unwrap().err()),
    ];
    assert!(waiting.iter().all(|waiting| waiting.is_done().is_none()));
    let report = engine.close(PATIENCE).unwrap();
    assert_eq!(report.unconfirmed, 0);
    for waiting in waiting {
        assert!(matches!(waiting.join(), Some(Error::Closed)));
    }
}

/// The first message takes the queue off the list of those that wait; the others still sleep.
#[test]
fn closing_wakes_consumers_that_slept_on_while_another_was_served() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let (served, told) = std::sync::mpsc::channel();
    let asleep: Vec<_> = (0..3)
        .map(|_| {
            let consumer = consume(&engine, "jobs", 5);
            let served = served.clone();
            start(move || {
                loop {
                    match consumer.recv() {
                        Ok(delivery) => served.send(delivery.keep()).unwrap(),
                        Err(error) => return error.kind(),
                    }
                }
            })
        })
        .collect();
    publish(&engine, "jobs", b"a");
    told.recv_timeout(PATIENCE).unwrap();
    engine.close(PATIENCE).unwrap();
    assert!(asleep.into_iter().all(|waiting| waiting.join() == ErrorKind::Closed));
}

#[test]
fn closing_wakes_those_who_wait_for_confirms_and_reports_what_is_unconfirmed() {
    let (_disk, engine, ticket) = full_disk(WhenFull::Block);
    let ticket = Arc::new(ticket);
    let waiting = [(); 2].map(|()| {
        let ticket = Arc::clone(&ticket);
        start(move || ticket.wait().unwrap_err().kind())
    });
    let awaiting = Arc::clone(&ticket);
    let awaiting = start(move || block_on(awaiting.confirmed()).unwrap_err().kind());
    let report = engine.close(Duration::from_millis(20)).unwrap();
    assert_eq!(report.unconfirmed, 1);
    assert!(waiting.into_iter().all(|waiting| waiting.join() == ErrorKind::Closed));
    assert_eq!(awaiting.join(), ErrorKind::Closed);
    assert_eq!(ticket.wait_timeout(Duration::ZERO).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn closing_wakes_publishers_that_wait_for_room() {
    let (_disk, engine, _ticket) = full_disk(WhenFull::Block);
    let publishers: Vec<_> = (0..3)
        .map(|at| {
            let publisher = engine.publisher();
            start(move || {
                let payload = vec![0; 20_000];
                let message = Message::new("", "jobs", &payload);
                loop {
                    let outcome = match at {
                        0 => block_on(publisher.publish_async(&message)),
                        _ => publisher.publish(&message),
                    };
                    if let Err(error) = outcome {
                        return error.kind();
                    }
                }
            })
        })
        .collect();
    engine.close(Duration::from_millis(20)).unwrap();
    assert!(publishers.into_iter().all(|waiting| waiting.join() == ErrorKind::Closed));
}

#[test]
fn closing_wakes_those_who_wait_for_acks() {
    let gate = Arc::new(Gate::default());
    let storage = Arc::new(GatedStorage::new(&gate));
    let engine = Engine::open_on(storage, Arc::new(SystemClock::new()), small()).unwrap();
    engine.declare_queue("jobs").unwrap();
    publish(&engine, "jobs", b"first");
    let consumer = consume(&engine, "jobs", 1);
    let delivery = consumer.recv_timeout(PATIENCE).unwrap().unwrap();
    gate.shut();
    let ack = delivery.ack().unwrap();
    let copy = ack.clone();
    // Not `wait`: that may be the one whose write hangs.
    let waiting = start(move || ack.wait_timeout(PATIENCE).unwrap_err().kind());
    let awaiting = start(move || block_on(copy.durable()).unwrap_err().kind());
    until("the write hangs", || gate.waiting() > 0);
    let closing = start(move || engine.close(Duration::from_millis(10)));
    assert_eq!((waiting.join(), awaiting.join()), (ErrorKind::Closed, ErrorKind::Closed));
    gate.open();
    assert_eq!(closing.join().unwrap().unconfirmed, 0);
}

/// The lock can't be given back while a write is under way, but those who wait can be told.
#[test]
fn closing_tells_those_who_wait_in_its_time_although_the_disk_hangs() {
    let gate = Arc::new(Gate::default());
    let storage = Arc::new(GatedStorage::new(&gate));
    let engine = Engine::open_on(storage, Arc::new(SystemClock::new()), small()).unwrap();
    engine.declare_queue("jobs").unwrap();
    publish(&engine, "jobs", b"first");
    gate.shut();
    let ticket = engine.publisher().publish(&Message::new("", "jobs", b"a")).unwrap();
    let consumer = consume(&engine, "jobs", 1);
    let waiting = start(move || ticket.wait().err());
    let receiving = start(move || {
        loop {
            match consumer.recv() {
                Ok(delivery) => drop(delivery.keep()),
                Err(error) => return error,
            }
        }
    });
    until("the write hangs", || gate.waiting() > 0);
    let closing = start(move || engine.close(Duration::from_millis(10)));
    let told = (waiting.join(), receiving.join());
    gate.open();
    let report = closing.join().unwrap();
    assert!(matches!(told, (Some(Error::Closed), Error::Closed)), "{told:?}");
    assert_eq!(report.unconfirmed, 1);
}

#[test]
fn closing_waits_for_what_was_appended() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let publisher = engine.publisher();
    let tickets: Vec<_> = (0..500)
        .map(|_| publisher.publish(&Message::new("", "jobs", &[0; 500])).unwrap())
        .collect();
    assert_eq!(engine.close(PATIENCE).unwrap().unconfirmed, 0);
    assert!(tickets.iter().all(|ticket| ticket.wait().is_ok()));
}

#[test]
fn a_closed_engine_takes_nothing_more_and_says_so() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 3);
    let consumer = consume(&engine, "jobs", 10);
    let mut held = ready(&consumer);
    let late = consume(&engine, "jobs", 10);
    let publisher = engine.publisher();
    engine.close(Duration::ZERO).unwrap();
    let message = Message::new("", "jobs", b"x");
    for error in [
        publisher.publish(&message).map(drop).unwrap_err(),
        publisher.publish_confirmed(&message).map(drop).unwrap_err(),
        publisher.publish_batch(&[message, message]).map(drop).unwrap_err(),
        block_on(publisher.publish_async(&message)).map(drop).unwrap_err(),
        engine.declare_queue("more").unwrap_err(),
        engine.declare_exchange("more", ExchangeKind::Direct).unwrap_err(),
        engine.checkpoint().unwrap_err(),
        late.try_recv().map(drop).unwrap_err(),
        late.recv().map(drop).unwrap_err(),
        block_on(late.recv_async()).map(drop).unwrap_err(),
        engine.consume("jobs", fanlog::ConsumerOptions::default()).map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Closed), "{error}");
    }
    // Settling what is in hand fails, or its ack does; nothing panics.
    if let Ok(ack) = held.remove(0).ack() {
        assert!(matches!(ack.wait(), Err(Error::Closed)));
    }
    drop(held);
    drop(consumer);
    assert_eq!(engine.stats().published_messages, 3);
}

/// Dealt is not handed out: what lies in an inbox is not given to anyone after the close.
#[test]
fn nothing_is_handed_out_after_the_close() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 10);
    let consumer = consume(&engine, "jobs", 10);
    let first = next(&consumer);
    engine.close(Duration::ZERO).unwrap();
    assert!(matches!(consumer.try_recv(), Err(Error::Closed)));
    drop(first);
    drop(consumer);
    assert_eq!(ready(&consume(&machine.open(), "jobs", 20)).len(), 10);
}

#[test]
fn closing_twice_and_from_many_threads_returns_what_the_first_one_did() {
    let (_disk, engine, _ticket) = full_disk(WhenFull::Block);
    let closing: Vec<_> = (0..4)
        .map(|_| {
            let engine = engine.clone();
            start(move || engine.close(Duration::from_millis(20)).unwrap())
        })
        .collect();
    let reports: Vec<_> = closing.into_iter().map(|closing| closing.join()).collect();
    assert!(reports[0].unconfirmed > 0);
    assert!(reports.iter().all(|report| *report == reports[0]));
    assert_eq!(engine.close(Duration::ZERO).unwrap(), reports[0]);
}

#[test]
fn a_clean_close_leaves_a_mark_and_a_crash_none() {
    let (machine, engine) = with_jobs();
    assert!(engine.recovery().created && !engine.recovery().clean);
    publish(&engine, "jobs", b"a");
    assert!(!machine.killed().open().recovery().clean);
    engine.close(Duration::ZERO).unwrap();
    let again = machine.power_cut().open();
    assert!(again.recovery().clean && !again.recovery().created);
    assert_eq!(again.recovery().replayed_batches, 0);
    assert_eq!(unacked(&again, "jobs"), ["a"]);
}

#[test]
fn dropping_the_last_handle_closes_like_close() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 2);
    let (publisher, consumer) = (engine.publisher(), consume(&engine, "jobs", 1));
    let copy = engine.clone();
    drop(engine);
    // A clone keeps it open; publishers and consumers do not.
    publisher.publish_confirmed(&Message::new("", "jobs", b"2")).unwrap();
    next(&consumer).ack().unwrap();
    drop(copy);
    let refused = publisher.publish(&Message::new("", "jobs", b"3")).map(drop);
    assert!(matches!(refused, Err(Error::Closed)));
    assert!(matches!(consumer.try_recv(), Err(Error::Closed)));
    let again = machine.open();
    assert!(again.recovery().clean);
    assert_eq!(unacked(&again, "jobs"), ["1", "2"]);
}

#[test]
fn dropping_the_last_handle_wakes_consumers() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let consumer = consume(&engine, "jobs", 1);
    let waiting = start(move || consumer.recv().map(drop).unwrap_err().kind());
    drop(engine);
    assert_eq!(waiting.join(), ErrorKind::Closed);
}

#[test]
fn payloads_stay_readable_after_delete_close_and_the_end_of_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { segment_bytes_max: 64 << 10, ..small() };
    let engine = Engine::open(dir.path(), config.clone()).unwrap();
    engine.declare_queue("jobs").unwrap();
    for number in 0..200 {
        publish(&engine, "jobs", &pattern(number, 1500));
    }
    engine.close(PATIENCE).unwrap();
    // Read through maps of sealed segments now, and from memory for the last ones.
    let engine = Engine::open(dir.path(), config).unwrap();
    until("all is sealed", || {
        engine.segments().iter().rev().skip(1).all(|one| one.state == "sealed")
    });
    for number in 200..210 {
        publish(&engine, "jobs", &pattern(number, 1500));
    }
    let consumer = consume(&engine, "jobs", 0);
    let mut payloads = Vec::new();
    while payloads.len() < 210 {
        let batch = consumer.recv_batch(1000, PATIENCE).unwrap();
        payloads.extend(batch.iter().map(|delivery| delivery.to_payload()));
        drop(batch.ack().unwrap());
    }
    engine.delete_queue("jobs").unwrap();
    engine.close(PATIENCE).unwrap();
    drop((consumer, engine));
    dir.close().unwrap();
    for (number, payload) in (0..).zip(&payloads) {
        assert!(**payload == pattern(number, 1500), "payload {number}");
    }
}

/// A lone publisher writes its batch in its own thread: the store may not be given up under it.
#[test]
fn the_store_stays_locked_while_a_publisher_still_writes_in_its_own_thread() {
    let gate = Arc::new(Gate::default());
    let storage = Arc::new(GatedStorage::new(&gate));
    let clock = Arc::new(SystemClock::new());
    let engine = Engine::open_on(storage.clone(), clock.clone(), small()).unwrap();
    engine.declare_queue("jobs").unwrap();
    publish(&engine, "jobs", b"first");
    let consumer = consume(&engine, "jobs", 1);
    consumer.recv().unwrap().ack().unwrap().wait().unwrap();
    gate.shut();
    let publisher = engine.publisher();
    let publishing = start(move || publisher.publish_confirmed(&Message::new("", "jobs", b"late")));
    until("the write hangs", || gate.waiting() > 0);
    let receiving = start(move || consumer.recv().err());
    let closing = start(move || engine.close(Duration::from_millis(10)));
    assert!(matches!(receiving.join(), Some(Error::Closed)));
    for _ in 0..100 {
        let second = Engine::open_on(storage.clone(), clock.clone(), small());
        assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    }
    gate.open();
    closing.join().unwrap();
    publishing.join().unwrap_err();
    Engine::open_on(storage, clock, small()).unwrap();
}
