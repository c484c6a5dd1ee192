//! Want of space in the write of a batch: it is written again, nobody who waits notices.

use std::{io::ErrorKind, sync::Arc};

use fanlog::{
    Config, Engine, Message,
    clock::SystemClock,
    storage::{Call, CrashMode, Fault, FaultRule, FaultStorage, MemoryStorage},
};

use crate::{
    gate::{Gate, GatedStorage},
    support::{
        Machine, PATIENCE, consume, next, pattern, publish, settle, small, sound, stepped, text,
        unacked, until,
    },
};

/// It finds no space, and all its bytes are on the disk.
const WHOLE: Fault = Fault::ErrorAfter(ErrorKind::StorageFull);

fn with_faults(config: Config) -> (Machine, FaultStorage, Engine) {
    let machine = Machine::new();
    let faults = FaultStorage::new(Arc::new(machine.disk.clone()));
    let engine = machine.open_through(Arc::new(faults.clone()), config).unwrap();
    engine.declare_queue("jobs").unwrap();
    (machine, faults, engine)
}

#[test]
fn of_two_batches_in_flight_either_may_find_no_space() {
    for round in 0..8 {
        let disk = MemoryStorage::new();
        let faults = FaultStorage::new(Arc::new(disk.clone()));
        let gate = Arc::new(Gate::default());
        let storage = Arc::new(GatedStorage::before(Arc::new(faults.clone()), &gate));
        let config = Config { segment_bytes_max: 1 << 20, ..small() };
        let engine = Engine::open_on(storage, Arc::new(SystemClock::new()), config).unwrap();
        engine.declare_queue("jobs").unwrap();
        until("a segment is ready", || engine.stats().segments_ready > 0);
        publish(&engine, "jobs", b"0");
        let publisher = engine.publisher();
        gate.shut();
        let first = publisher.publish(&Message::new("", "jobs", b"1")).unwrap();
        until("the first is on its way", || gate.waiting() == 1);
        let large: Vec<_> = (2..12).map(|number| pattern(number, 30_000)).collect();
        let rest: Vec<_> = large
            .iter()
            .map(|payload| publisher.publish(&Message::new("", "jobs", payload)).unwrap())
            .collect();
        until("the second is on its way beside it", || gate.waiting() == 2);
        // Whichever comes first, or second; with its bytes on the disk, or without.
        let fault = if round < 4 { WHOLE } else { Fault::Error(ErrorKind::StorageFull) };
        // The segment of both, not a file that is being prepared.
        let rule = FaultRule::new(Call::Write, fault).name_contains("00000001.seg");
        faults.fail(rule.skip(round % 2));
        gate.open();
        first.wait_timeout(PATIENCE).unwrap();
        for ticket in &rest {
            ticket.wait_timeout(PATIENCE).unwrap();
        }
        assert!(engine.stats().batches_written_again > 0);
        let image = disk.crash_image(0, CrashMode::LoseUnsynced);
        let again = Engine::open_on(Arc::new(image), Arc::new(SystemClock::new()), stepped());
        for engine in [&engine, &again.unwrap()] {
            let consumer = consume(engine, "jobs", 0);
            for number in 0..12 {
                let delivery = consumer.recv_timeout(PATIENCE).unwrap().unwrap();
                assert_eq!(delivery.offset().0, number);
                let same = match number {
                    0 => delivery.payload() == b"0",
                    1 => delivery.payload() == b"1",
                    _ => delivery.payload() == pattern(number, 30_000),
                };
                assert!(same, "message {number}");
                delivery.keep();
            }
            sound(engine);
        }
    }
}

#[test]
fn a_publisher_that_commits_by_itself_hands_its_batch_over() {
    let disk = MemoryStorage::new();
    let faults = FaultStorage::new(Arc::new(disk));
    let storage = Arc::new(faults.clone());
    let engine = Engine::open_on(storage, Arc::new(SystemClock::new()), small()).unwrap();
    engine.declare_queue("jobs").unwrap();
    until("segments are ready", || engine.stats().segments_ready > 0);
    let publisher = engine.publisher();
    for number in 0..40_u64 {
        if number % 4 == 0 {
            faults.fail(FaultRule::new(Call::Write, WHOLE));
        }
        let payload = number.to_string();
        let message = Message::new("", "jobs", payload.as_bytes());
        publisher.publish_confirmed_timeout(&message, PATIENCE).unwrap();
    }
    let stats = engine.stats();
    assert!(stats.inline_batches > 0 && stats.batches_written_again > 0, "{stats:?}");
    assert!(!stats.poisoned);
    let expected: Vec<_> = (0..40).map(|number: u64| number.to_string()).collect();
    assert_eq!(unacked(&engine, "jobs"), expected);
    sound(&engine);
}

/// The first batch of a segment has nowhere better to go: it is tried again in its place.
#[test]
fn a_batch_larger_than_a_segment_is_tried_again_in_its_own() {
    let (machine, faults, engine) = with_faults(stepped());
    publish(&engine, "jobs", b"before");
    let payload = pattern(7, 200_000);
    faults.fail(FaultRule::new(Call::Write, WHOLE).name_contains("00000002").skip(1));
    let ticket = engine.publisher().publish(&Message::new("", "jobs", &payload)).unwrap();
    while engine.step_commit() {}
    assert!(ticket.try_wait().is_none(), "it is on its way");
    machine.clock.advance(std::time::Duration::from_secs(1));
    settle(&engine);
    assert_eq!(ticket.try_wait().unwrap().unwrap().first_offset.0, 1);
    assert_eq!(engine.stats().batches_written_again, 1);
    publish(&engine, "jobs", b"after");
    assert_eq!(engine.segments().len(), 3);
    for engine in [&engine, &machine.power_cut().open()] {
        let consumer = consume(engine, "jobs", 0);
        assert_eq!(text(next(&consumer).payload()), "before");
        assert!(next(&consumer).payload() == payload);
        assert_eq!(text(next(&consumer).payload()), "after");
        sound(engine);
    }
}

/// All of the old copy is on the disk: topology, acks and messages in it count once.
#[test]
fn what_the_old_segment_has_of_it_never_counts() {
    let (machine, faults, engine) = with_faults(stepped());
    publish(&engine, "jobs", b"0");
    let consumer = consume(&engine, "jobs", 0);
    let delivery = next(&consumer);
    faults.fail(FaultRule::new(Call::Write, WHOLE));
    let ticket = engine.publisher().publish(&Message::new("", "jobs", b"1")).unwrap();
    delivery.ack().unwrap().wait().unwrap();
    ticket.wait().unwrap();
    faults.fail(FaultRule::new(Call::Write, WHOLE));
    publish(&engine, "jobs", b"2");
    faults.fail(FaultRule::new(Call::Write, WHOLE).skip(1));
    engine.declare_queue("more").unwrap();
    publish(&engine, "more", b"3");
    let again = engine.stats().batches_written_again;
    assert!(again >= 2, "{again}");
    for mode in [CrashMode::KeepAll, CrashMode::LoseUnsynced] {
        let image = machine.disk.crash_image(0, mode);
        let other = Machine { disk: image, clock: Arc::clone(&machine.clock) };
        for _ in 0..2 {
            let engine = other.open();
            assert_eq!(unacked(&engine, "jobs"), ["1", "2"], "{mode:?}");
            assert_eq!(unacked(&engine, "more"), ["3"], "{mode:?}");
            settle(&engine);
            sound(&engine);
        }
    }
}

/// A failed sync is told as such, whatever its reason: it is not tried again.
#[test]
fn a_sync_that_finds_no_space_ends_the_engine() {
    let (_machine, faults, engine) = with_faults(stepped());
    let buffered = Message::new("", "jobs", b"buffered").buffered();
    engine.publisher().publish_confirmed(&buffered).unwrap();
    faults.fail(FaultRule::new(Call::Sync, Fault::Error(ErrorKind::StorageFull)));
    let ticket = engine.publisher().publish(&Message::new("", "jobs", b"synced")).unwrap();
    assert_eq!(ticket.wait().unwrap_err().kind(), fanlog::ErrorKind::Poisoned);
    assert_eq!(engine.stats().batches_written_again, 0);
}
