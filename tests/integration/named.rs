//! Named publishers: what is published again is stored once, and who was forgotten is told.

use std::{sync::Arc, time::Duration};

use fanlog::{
    Config, Engine, Error, ErrorKind, Message, WhenFull,
    storage::{Call, CrashMode, Fault, FaultRule, FaultStorage},
};

use crate::support::{Machine, settle, sound, stepped, threaded, unacked, with_jobs};

fn job(text: &str) -> Message<'_> {
    Message::new("", "jobs", text.as_bytes())
}

/// Publishes `from..=to`, each with its number as payload, and waits.
#[track_caller]
fn publish_all(engine: &Engine, name: &str, numbers: std::ops::RangeInclusive<u64>) {
    let publisher = engine.declare_publisher(name).unwrap();
    let tickets: Vec<_> = numbers
        .map(|number| publisher.publish(number, &job(&number.to_string())).unwrap())
        .collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
}

#[test]
fn a_message_published_again_is_confirmed_and_not_stored_again() {
    let (_machine, engine) = with_jobs();
    let meter = engine.declare_publisher("meter").unwrap();
    assert_eq!((meter.name(), meter.last_sequence()), ("meter", 0));
    let first = meter.publish(1, &job("a")).unwrap();
    assert!(!first.is_repeat());
    assert_eq!(first.wait().unwrap().messages, 1);
    // A gap, then numbers that were used or left out.
    meter.publish(10, &job("b")).unwrap().wait().unwrap();
    for number in [10, 5, 1] {
        let again = meter.publish(number, &job("other")).unwrap();
        assert!(again.is_repeat());
        assert_eq!(again.wait().unwrap().messages, 0);
    }
    assert_eq!(meter.last_sequence(), 10);
    assert_eq!(unacked(&engine, "jobs"), ["a", "b"]);
    assert_eq!(engine.stats().repeated_messages, 3);
    // Numbers are each publisher's own.
    let other = engine.declare_publisher("other").unwrap();
    assert!(!other.publish(1, &job("c")).unwrap().is_repeat());
    settle(&engine);
    assert_eq!(unacked(&engine, "jobs"), ["a", "b", "c"]);
}

#[test]
fn a_repeat_of_a_message_on_its_way_waits_for_the_batch_of_the_original() {
    let (machine, engine) = with_jobs();
    let meter = engine.declare_publisher("meter").unwrap();
    let original = meter.publish(1, &job("a")).unwrap();
    let again = meter.publish(1, &job("a")).unwrap();
    // Another handle of that name, as after a reconnect.
    let reconnected = engine.named_publisher("meter").unwrap();
    let once_more = reconnected.publish(1, &job("a")).unwrap();
    assert!(again.is_repeat() && once_more.is_repeat());
    for ticket in [&original, &again, &once_more] {
        assert!(ticket.try_wait().is_none(), "it is not durable");
    }
    assert!(engine.step_commit());
    for ticket in [&original, &again, &once_more] {
        ticket.try_wait().unwrap().unwrap();
    }
    let engine = machine.power_cut().open();
    assert_eq!(unacked(&engine, "jobs"), ["a"]);
    assert_eq!(engine.named_publisher("meter").unwrap().last_sequence(), 1);
}

#[test]
fn a_repeat_does_not_wait_for_later_messages() {
    let (_machine, engine) = with_jobs();
    let meter = engine.declare_publisher("meter").unwrap();
    meter.publish(1, &job("a")).unwrap().wait().unwrap();
    let later = meter.publish(2, &job("b")).unwrap();
    assert!(meter.publish(1, &job("a")).unwrap().try_wait().is_some());
    assert!(later.try_wait().is_none());
}

#[test]
fn how_far_a_publisher_is_survives_closes_crashes_and_checkpoints() {
    let (machine, engine) = with_jobs();
    publish_all(&engine, "meter", 1..=5);
    publish_all(&engine, "other", 7..=7);
    engine.declare_publisher("idle").unwrap();
    let last = |engine: &Engine| {
        ["meter", "other", "idle"].map(|name| engine.named_publisher(name).unwrap().last_sequence())
    };
    // From the log alone, from a checkpoint, from both, after a close.
    let crashed = machine.power_cut();
    let again = crashed.open();
    assert_eq!(last(&again), [5, 7, 0]);
    again.checkpoint().unwrap();
    publish_all(&again, "meter", 4..=8);
    let crashed = crashed.power_cut();
    let again = crashed.open();
    assert_eq!(last(&again), [8, 7, 0]);
    again.close(Duration::from_secs(1)).unwrap();
    drop(again);
    let again = crashed.open();
    assert!(again.recovery().clean);
    assert_eq!(last(&again), [8, 7, 0]);
    publish_all(&again, "meter", 1..=9);
    publish_all(&again, "new", 1..=1);
    let numbers = ["1", "2", "3", "4", "5", "7", "6", "7", "8", "9", "1"];
    assert_eq!(unacked(&again, "jobs"), numbers);
    sound(&again);
}

#[test]
fn a_publisher_is_found_behind_many_sealed_segments_and_acked_messages() {
    let (machine, engine) = with_jobs();
    publish_all(&engine, "quiet", 1..=3);
    let filler = "f".repeat(20_000);
    for round in 1..=60 {
        let busy = engine.declare_publisher("busy").unwrap();
        busy.publish(round, &job(&filler)).unwrap().wait().unwrap();
        engine.purge_queue("jobs").unwrap();
        machine.clock.advance(Duration::from_millis(200));
        settle(&engine);
    }
    assert!(engine.stats().checkpoints > 2 && engine.stats().segments < 10);
    let engine = machine.power_cut().open();
    let last = ["quiet", "busy"].map(|name| engine.named_publisher(name).unwrap().last_sequence());
    assert_eq!(last, [3, 60]);
    sound(&engine);
}

/// Power is cut at every operation while numbered messages go through segments and checkpoints; the
/// publisher comes back and publishes all of it again.
#[test]
fn published_again_after_a_crash_nothing_is_doubled_and_nothing_lost() {
    const MESSAGES: u64 = 24;
    let text = |number: u64| format!("{number:05} {}", "x".repeat(6000));
    let run = |machine: &Machine, from: u64| -> fanlog::Result<u64> {
        let engine = machine.try_open(stepped())?;
        engine.declare_queue("jobs")?;
        let meter = engine.declare_publisher("meter")?;
        let mut confirmed = 0;
        for number in from..=MESSAGES {
            let text = text(number);
            let message = job(&text);
            let ticket = meter.publish(number, &message)?;
            if number % 3 == 0 {
                ticket.wait()?;
                confirmed = number;
            }
            if number % 8 == 0 {
                engine.checkpoint()?;
            }
            engine.step()?;
        }
        Ok(confirmed)
    };
    let whole = Machine::new();
    assert_eq!(run(&whole, 1).unwrap(), MESSAGES);
    let operations = whole.disk.operation_count();
    assert!(operations > 40);
    let (mut some, mut resumed) = (0, 0);
    for cut in 0..operations {
        let machine = Machine::new();
        machine.disk.cut_at(cut);
        drop(run(&machine, 1));
        for (seed, mode) in
            [(0, CrashMode::LoseUnsynced), (0, CrashMode::KeepAll), (cut, CrashMode::Random)]
        {
            let disk = machine.disk.crash_image(seed, mode);
            let again = Machine { disk, clock: Arc::clone(&machine.clock) };
            // The next engine: what it knows is what is stored.
            let engine = again.open();
            engine.declare_queue("jobs").unwrap();
            let stored = unacked(&engine, "jobs").len() as u64;
            let known = engine.declare_publisher("meter").unwrap().last_sequence();
            assert_eq!(known, stored, "cut at {cut}, {mode:?} {seed}");
            drop(engine);
            some += u64::from(stored > 0);
            resumed += u64::from(stored > 0 && stored < MESSAGES);
            run(&again, 1).unwrap();
            let engine = again.power_cut().open();
            let expected: Vec<String> = (1..=MESSAGES).map(text).collect();
            assert!(unacked(&engine, "jobs") == expected, "cut at {cut}, {mode:?} {seed}");
            sound(&engine);
        }
    }
    assert!(some > 20 && resumed > 20, "{some} {resumed}");
}

#[test]
fn a_buffered_message_and_its_number_are_lost_together() {
    let (machine, engine) = with_jobs();
    let meter = engine.declare_publisher("meter").unwrap();
    meter.publish(1, &job("a")).unwrap().wait().unwrap();
    meter.publish(2, &job("b").buffered()).unwrap().wait().unwrap();
    let engine = machine.power_cut().open();
    assert_eq!(engine.named_publisher("meter").unwrap().last_sequence(), 1);
    assert_eq!(unacked(&engine, "jobs"), ["a"]);
    let engine = machine.killed().open();
    assert_eq!(engine.named_publisher("meter").unwrap().last_sequence(), 2);
    assert_eq!(unacked(&engine, "jobs"), ["a", "b"]);
}

#[test]
fn beyond_the_limit_who_was_idle_the_longest_is_forgotten_and_told() {
    let machine = Machine::new();
    let config = Config { publishers_max: 3, ..stepped() };
    let engine = machine.open_with(config.clone());
    engine.declare_queue("jobs").unwrap();
    let names = ["a", "b", "c"];
    let mut handles = Vec::new();
    for name in names {
        machine.clock.advance(Duration::from_secs(1));
        handles.push(engine.declare_publisher(name).unwrap());
    }
    machine.clock.advance(Duration::from_secs(1));
    handles[0].publish(1, &job("a1")).unwrap().wait().unwrap();
    // Declaring one that is known makes no room and evicts nobody.
    engine.declare_publisher("b").unwrap();
    assert_eq!(engine.stats().publishers_evicted, 0);
    engine.declare_publisher("d").unwrap();
    assert_eq!(engine.stats().publishers_evicted, 1);
    let told = |engine: &Engine| {
        let error = engine.named_publisher("b").unwrap_err();
        assert!(matches!(error, Error::NotFound { what: "publisher", .. }), "{error}");
    };
    told(&engine);
    let error = handles[1].publish(1, &job("b1")).unwrap_err();
    assert!(matches!(&error, Error::PublisherEvicted { name } if name == "b"), "{error}");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    handles[0].publish(2, &job("a2")).unwrap().wait().unwrap();
    // It stays forgotten; declared again it is new, and the old handle is of no use.
    let machine = machine.power_cut();
    let engine = machine.open_with(config);
    told(&engine);
    let again = engine.declare_publisher("b").unwrap();
    assert_eq!(again.last_sequence(), 0);
    again.publish(1, &job("b1")).unwrap().wait().unwrap();
    assert_eq!(engine.named_publisher("a").unwrap().last_sequence(), 2);
    assert!(matches!(engine.named_publisher("c"), Err(Error::NotFound { .. })));
    sound(&engine);
}

#[test]
fn who_published_nothing_for_long_is_forgotten_when_another_is_declared() {
    let machine = Machine::new();
    let config = Config { publisher_age_max: Duration::from_hours(1), ..stepped() };
    let engine = machine.open_with(config.clone());
    engine.declare_queue("jobs").unwrap();
    publish_all(&engine, "old", 1..=1);
    publish_all(&engine, "busy", 1..=1);
    for number in 2..5 {
        machine.clock.advance(Duration::from_mins(30));
        publish_all(&engine, "busy", number..=number);
    }
    drop(engine);
    let engine = machine.power_cut().open_with(config);
    assert_eq!(engine.named_publisher("old").unwrap().last_sequence(), 1, "nobody was declared");
    engine.declare_publisher("new").unwrap();
    assert!(matches!(engine.named_publisher("old"), Err(Error::NotFound { .. })));
    assert_eq!(engine.named_publisher("busy").unwrap().last_sequence(), 4);
    assert_eq!(engine.stats().publishers_evicted, 1);
}

#[test]
fn bad_names_and_numbers_are_refused_and_change_nothing() {
    let (_machine, engine) = with_jobs();
    let long = "n".repeat(256);
    for name in ["", &long] {
        for outcome in [engine.declare_publisher(name), engine.named_publisher(name)] {
            let error = outcome.unwrap_err();
            let Error::Name { what: "publisher", found, limit: 255, .. } = error else {
                panic!("{error}");
            };
            assert_eq!(found, name.len());
        }
    }
    engine.declare_publisher(&long[1..]).unwrap();
    assert!(matches!(engine.named_publisher("nobody"), Err(Error::NotFound { .. })));
    let meter = engine.declare_publisher("meter").unwrap();
    assert!(matches!(meter.publish(0, &job("a")), Err(Error::Refused { .. })));
    // A number is free as long as its message has no place.
    for bad in [Message::new("", "nobody", b"x"), Message::new("nowhere", "", b"x")] {
        meter.publish(1, &bad).unwrap_err();
    }
    assert_eq!(meter.last_sequence(), 0);
    assert!(!meter.publish(1, &job("a")).unwrap().is_repeat());
    meter.publish(u64::MAX, &job("b")).unwrap().wait().unwrap();
    assert!(meter.publish(u64::MAX, &job("b")).unwrap().is_repeat());
    assert_eq!(unacked(&engine, "jobs"), ["a", "b"]);
    engine.close(Duration::from_secs(1)).unwrap();
    assert!(matches!(meter.publish(2, &job("c")), Err(Error::Closed)));
    assert!(matches!(engine.declare_publisher("late"), Err(Error::Closed)));
}

#[test]
fn a_number_is_free_where_there_was_no_room() {
    let machine = Machine::new();
    let engine = machine.open_with(Config { when_full: WhenFull::Fail, ..stepped() });
    engine.declare_queue("jobs").unwrap();
    let meter = engine.declare_publisher("meter").unwrap();
    let large = "l".repeat(700 << 10);
    let first = meter.publish(1, &job(&large)).unwrap();
    assert!(matches!(meter.publish(2, &job(&large)), Err(Error::Full { .. })));
    assert_eq!(meter.last_sequence(), 1);
    first.wait().unwrap();
    assert!(!meter.publish(2, &job(&large)).unwrap().is_repeat());
    settle(&engine);
    assert_eq!(engine.queue("jobs").unwrap().messages, 2);
}

#[test]
fn a_message_that_was_dropped_uses_no_number() {
    let (_machine, engine) = with_jobs();
    let meter = engine.declare_publisher("meter").unwrap();
    let nowhere = Message::new("", "nobody", b"x").optional();
    assert_eq!(meter.publish(1, &nowhere).unwrap().wait().unwrap().messages, 0);
    assert_eq!(meter.last_sequence(), 0);
    let kept = meter.publish(1, &job("a")).unwrap();
    assert!(!kept.is_repeat());
    kept.wait().unwrap();
    assert_eq!(unacked(&engine, "jobs"), ["a"]);
}

#[test]
fn many_publishers_share_a_batch_and_batches_are_full_to_the_last_byte() {
    let (machine, engine) = with_jobs();
    let publishers: Vec<_> =
        (0..300).map(|number| engine.declare_publisher(&format!("p{number}")).unwrap()).collect();
    for round in 1..=4 {
        for (at, publisher) in publishers.iter().enumerate() {
            // Sizes on both sides of what is copied under the lock.
            let text = "t".repeat(1 + (at * 37) % 5000);
            publisher.publish(round, &job(&text)).unwrap();
        }
    }
    settle(&engine);
    let engine = machine.power_cut().open();
    for at in 0..300 {
        let publisher = engine.named_publisher(&format!("p{at}")).unwrap();
        assert_eq!(publisher.last_sequence(), 4);
    }
    assert_eq!(engine.queue("jobs").unwrap().messages, 1200);
    sound(&engine);
}

#[test]
fn written_again_for_want_of_space_a_number_is_still_used_once() {
    let machine = Machine::new();
    let faults = FaultStorage::new(Arc::new(machine.disk.clone()));
    let engine = machine.open_through(Arc::new(faults.clone()), stepped()).unwrap();
    engine.declare_queue("jobs").unwrap();
    let meter = engine.declare_publisher("meter").unwrap();
    faults.fail(FaultRule::new(Call::Write, Fault::Error(std::io::ErrorKind::StorageFull)));
    let first = meter.publish(1, &job("a")).unwrap();
    let again = meter.publish(1, &job("a")).unwrap();
    again.wait().unwrap();
    first.try_wait().unwrap().unwrap();
    assert_eq!(engine.stats().batches_written_again, 1);
    let engine = machine.power_cut().open();
    assert_eq!(unacked(&engine, "jobs"), ["a"]);
    assert_eq!(engine.named_publisher("meter").unwrap().last_sequence(), 1);
    sound(&engine);
}

#[test]
fn threads_that_publish_the_same_numbers_store_each_once() {
    const MESSAGES: u64 = 500;
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    engine.declare_publisher("shared").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let engine = engine.clone();
            scope.spawn(move || {
                let publisher = engine.named_publisher("shared").unwrap();
                let tickets: Vec<_> = (1..=MESSAGES)
                    .map(|number| publisher.publish(number, &job(&number.to_string())).unwrap())
                    .collect();
                for ticket in tickets {
                    ticket.wait().unwrap();
                }
            });
        }
    });
    let stored: Vec<u64> =
        unacked(&engine, "jobs").iter().map(|text| text.parse().unwrap()).collect();
    assert!(stored.is_sorted_by(|a, b| a < b));
    assert_eq!(stored.last(), Some(&MESSAGES));
    // What another thread was ahead of is a gap: its own message came too late.
    assert_eq!(stored.len() as u64 + engine.stats().repeated_messages, 4 * MESSAGES);
    sound(&engine);
}

#[test]
fn a_backup_knows_the_publishers() {
    let (_machine, engine) = with_jobs();
    publish_all(&engine, "meter", 1..=3);
    let copy = Machine::new();
    engine.backup_on(&copy.disk, fanlog::BackupFiles::Copied, &mut |_| {}).unwrap();
    let copied = copy.open();
    assert_eq!(copied.named_publisher("meter").unwrap().last_sequence(), 3);
}
