//! A disk that is full or fails: who is told what, and how it goes on.

use std::{sync::Arc, time::Duration};

use fanlog::{
    Config, Engine, Error, ErrorKind, Message, Ticket, WhenFull,
    clock::SystemClock,
    storage::{Call, Fault, FaultRule, FaultStorage, MemoryStorage},
};

use crate::support::{
    Machine, PATIENCE, consume, next, pattern, publish, settle, small, sound, start, stepped, text,
    unacked, until,
};

/// An engine whose disk was full before its reserve was made; the ticket's message waits.
pub(crate) fn full_disk(when_full: WhenFull) -> (MemoryStorage, Engine, Ticket) {
    let disk = MemoryStorage::new();
    let (clock, config) = (Arc::new(SystemClock::new()), Config { when_full, ..small() });
    disk.set_capacity(Some(512 << 10));
    let engine = Engine::open_on(Arc::new(disk.clone()), clock, config).unwrap();
    engine.declare_queue("jobs").unwrap();
    // Its route is defined and confirmed by then: the large message is taken only if it is alone.
    publish(&engine, "jobs", b"before");
    disk.set_capacity(Some(0));
    let ticket =
        engine.publisher().publish(&Message::new("", "jobs", &vec![0; 900 << 10])).unwrap();
    ticket.wait_timeout(Duration::from_millis(300)).unwrap_err();
    (disk, engine, ticket)
}

#[test]
fn on_a_full_disk_a_publisher_that_may_not_wait_is_told_so() {
    let (disk, engine, ticket) = full_disk(WhenFull::Fail);
    let message = Message::new("", "jobs", b"x");
    let error = engine.publisher().publish(&message).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfSpace);
    assert!(matches!(error, Error::OutOfSpace { .. }), "{error}");
    assert!(!engine.stats().poisoned);
    assert_eq!(ticket.wait().unwrap_err().kind(), ErrorKind::OutOfSpace);
    assert!(ticket.try_wait().is_none(), "it is in doubt, no more");
    disk.set_capacity(None);
    until("it is confirmed", || ticket.wait_timeout(PATIENCE).is_ok());
    // What was accepted is written first; new messages are taken as soon as the reserve is whole.
    until("publishing goes on by itself", || match engine.publisher().publish(&message) {
        Ok(ticket) => ticket.wait_timeout(PATIENCE).is_ok(),
        Err(Error::OutOfSpace { .. }) => false,
        Err(error) => panic!("{error}"),
    });
    sound(&engine);
}

#[test]
fn on_a_full_disk_publishers_that_wait_go_on_by_themselves_when_there_is_space() {
    let (disk, engine, ticket) = full_disk(WhenFull::Block);
    let stored = engine.stats().published_messages;
    let publishing: Vec<_> = (0..3)
        .map(|_| {
            let publisher = engine.publisher();
            start(move || publisher.publish_confirmed(&Message::new("", "jobs", b"x")).unwrap())
        })
        .collect();
    assert!(publishing.iter().all(|one| one.is_done().is_none()));
    disk.set_capacity(None);
    ticket.wait_timeout(PATIENCE).unwrap();
    for one in publishing {
        one.join();
    }
    assert_eq!(engine.queue("jobs").unwrap().messages, stored + 3);
    sound(&engine);
}

#[test]
fn short_and_interrupted_writes_are_gone_on_with() {
    let machine = Machine::new();
    let faults = FaultStorage::new(Arc::new(machine.disk.clone()));
    let engine = machine.open_through(Arc::new(faults.clone()), stepped()).unwrap();
    engine.declare_queue("jobs").unwrap();
    for number in 0..40 {
        let fault = if number % 2 == 0 { Fault::ShortWrite(8192) } else { Fault::EintrOnce };
        faults.fail(FaultRule::new(Call::Write, fault).name_contains(".seg"));
        publish(&engine, "jobs", &pattern(number, 30_000));
    }
    assert_eq!(faults.faults(), 40);
    let again = machine.power_cut().open();
    let consumer = consume(&again, "jobs", 0);
    for number in 0..40 {
        let delivery = next(&consumer);
        assert!(delivery.payload() == pattern(number, 30_000), "message {number}");
        delivery.keep();
    }
    sound(&again);
}

/// What a failed sync leaves of the bytes before it nobody knows: nothing more is promised.
#[test]
fn a_failed_sync_ends_everything_until_the_store_is_opened_again() {
    let machine = Machine::new();
    let faults = FaultStorage::new(Arc::new(machine.disk.clone()));
    let engine = machine.open_through(Arc::new(faults.clone()), stepped()).unwrap();
    engine.declare_queue("jobs").unwrap();
    publish(&engine, "jobs", b"durable");
    let buffered = Message::new("", "jobs", b"buffered").buffered();
    engine.publisher().publish_confirmed(&buffered).unwrap();
    faults.fail(FaultRule::new(Call::Sync, Fault::Os(5)).name_contains(".seg"));
    let ticket = engine.publisher().publish(&Message::new("", "jobs", b"synced")).unwrap();
    let error = ticket.wait().unwrap_err();
    assert!(matches!(&error, Error::Poisoned { cause } if cause.kind() == ErrorKind::Io));
    assert_eq!(engine.stats().durable_offset.0, 1);
    // The disk works again, the engine does not go on as if nothing was.
    let calls = faults.calls(Call::Sync);
    let message = Message::new("", "jobs", b"x");
    assert_eq!(engine.publisher().publish(&message).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(engine.declare_queue("x").unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(engine.checkpoint().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(faults.calls(Call::Sync), calls, "a failed sync is not tried again");
    assert_eq!(unacked(&machine.power_cut().open(), "jobs"), ["durable"]);
}

#[test]
fn a_failed_write_is_told_to_all_who_wait_and_the_store_opens_again() {
    let machine = Machine::new();
    let faults = FaultStorage::new(Arc::new(machine.disk.clone()));
    let engine = machine.open_through(Arc::new(faults.clone()), stepped()).unwrap();
    engine.declare_queue("jobs").unwrap();
    publish(&engine, "jobs", b"a");
    let rule = FaultRule::new(Call::Write, Fault::Os(5)).name_contains(".seg");
    faults.fail(rule);
    let publisher = engine.publisher();
    let tickets = [0; 3].map(|_| publisher.publish(&Message::new("", "jobs", b"b")).unwrap());
    settle_failing(&engine);
    for ticket in &tickets {
        let error = ticket.wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned);
        assert!(error.path().is_some(), "{error}");
    }
    assert_eq!(
        publisher.publish(&Message::new("", "jobs", b"c")).unwrap_err().kind(),
        ErrorKind::Poisoned
    );
    assert!(engine.stats().poisoned);
    for _ in 0..2 {
        assert_eq!(engine.close(Duration::ZERO).unwrap_err().kind(), ErrorKind::Poisoned);
    }
    let again = machine.open();
    assert_eq!(text(&again.browse("jobs").unwrap().next().unwrap().unwrap().payload), "a");
    publish(&again, "jobs", b"d");
    settle(&again);
    sound(&again);
}

fn settle_failing(engine: &Engine) {
    while engine.step().unwrap_or(false) {}
}
