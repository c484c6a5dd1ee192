//! Transient messages: delivered like any other, and gone once the store is opened again.

use std::{ops::RangeInclusive, time::Duration};

use fanlog::{Config, Engine, ExchangeKind, Message, OnDamage, storage::CrashMode};

use crate::support::{
    Machine, consume, is_checkpoint, next, nothing, publish, ready, settle, sound, stepped, texts,
    unacked, with_jobs,
};

fn job(text: &str) -> Message<'_> {
    Message::new("", "jobs", text.as_bytes())
}

fn depth(engine: &Engine, queue: &str) -> (u64, u64) {
    let view = engine.queue(queue).unwrap();
    (view.messages, view.bytes)
}

#[test]
fn a_transient_message_is_delivered_like_any_other_and_gone_after_opening_again() {
    let (machine, engine) = with_jobs();
    let publisher = engine.publisher();
    let syncs = engine.stats().syncs;
    publisher.publish(&job("t1").transient()).unwrap().wait().unwrap();
    assert_eq!(engine.stats().syncs, syncs, "nobody waits for the disk");
    publish(&engine, "jobs", b"kept");
    publisher.publish(&job("t2").transient()).unwrap().wait().unwrap();
    assert_eq!(depth(&engine, "jobs"), (3, 8));
    assert_eq!(unacked(&engine, "jobs"), ["t1", "kept", "t2"]);
    sound(&engine);
    let consumer = consume(&engine, "jobs", 10);
    let all = ready(&consumer);
    assert_eq!(texts(&all), ["t1", "kept", "t2"]);
    drop(all);
    for machine in [machine.killed(), machine.power_cut()] {
        let engine = machine.open();
        assert_eq!(unacked(&engine, "jobs"), ["kept"]);
        assert_eq!(depth(&engine, "jobs"), (1, 4));
        sound(&engine);
        let consumer = consume(&engine, "jobs", 10);
        let kept = next(&consumer);
        assert_eq!(kept.payload(), b"kept");
        kept.ack().unwrap().wait().unwrap();
        nothing(&consumer);
        assert_eq!(depth(&engine, "jobs"), (0, 0));
        sound(&engine);
    }
    drop(consumer);
    engine.close(Duration::from_secs(1)).unwrap();
    drop(engine);
    let engine = machine.open();
    assert!(engine.recovery().clean);
    assert_eq!(unacked(&engine, "jobs"), ["kept"]);
    sound(&engine);
}

/// Publishes numbers, of which each third outlasts the epoch.
fn send(engine: &Engine, numbers: RangeInclusive<u32>) {
    for number in numbers {
        let text = format!("{number:03}{}", "x".repeat(2000));
        let message = Message::new("news", "", text.as_bytes());
        let message = if number % 3 == 0 { message } else { message.transient() };
        engine.publisher().publish(&message).unwrap();
    }
    settle(engine);
}

/// Queues with bindings that came, went and overlap; each message is acked by some of them or none.
#[test]
fn depths_are_right_whatever_was_acked_purged_bound_and_deleted_before() {
    let (mut machine, mut engine) = with_jobs();
    engine.declare_exchange("news", ExchangeKind::Fanout).unwrap();
    for queue in ["a", "b", "c"] {
        engine.declare_queue(queue).unwrap();
        engine.bind(queue, "news", "").unwrap();
    }
    let lasting = |engine: &Engine, queue: &str| -> Vec<String> {
        let all = unacked(engine, queue).into_iter().map(|text| text[..3].to_owned());
        all.filter(|text| text.parse::<u32>().unwrap().is_multiple_of(3)).collect()
    };
    for round in 0..4 {
        let from = 1 + round * 100;
        send(&engine, from..=from + 30);
        let consumer = consume(&engine, "a", 0);
        for (at, delivery) in ready(&consumer).into_iter().enumerate() {
            if at % 2 == 0 {
                delivery.ack().unwrap();
            }
        }
        drop(consumer);
        if round % 2 == 0 {
            engine.unbind("b", "news", "").unwrap();
            engine.purge_queue("c").unwrap();
        } else {
            engine.bind("b", "news", "").unwrap();
        }
        send(&engine, from + 31..=from + 60);
        if round == 2 {
            engine.checkpoint().unwrap();
            engine.reclaim(&mut |_| {}).unwrap();
        }
        engine.declare_queue("late").unwrap();
        engine.bind("late", "news", "").unwrap();
        send(&engine, from + 61..=from + 70);
        let consumer = consume(&engine, "late", 5);
        let tags: Vec<_> = ready(&consumer).into_iter().map(fanlog::Delivery::keep).collect();
        consumer.ack_multiple(tags[4]).unwrap().wait().unwrap();
        drop(consumer);
        settle(&engine);
        sound(&engine);
        let queues = ["a", "b", "c", "late"];
        let expected = queues.map(|queue| lasting(&engine, queue));
        if round == 1 {
            engine.close(Duration::from_secs(1)).unwrap();
        } else {
            engine.step().unwrap();
            drop(engine.checkpoint());
        }
        drop(engine);
        machine = machine.killed();
        engine = machine.open();
        let found = queues.map(|queue| lasting(&engine, queue));
        assert_eq!(found, expected, "round {round}");
        for (queue, expected) in queues.iter().zip(&expected) {
            assert_eq!(unacked(&engine, queue).len(), expected.len(), "{queue}");
            assert_eq!(depth(&engine, queue).0, expected.len() as u64, "{queue}");
        }
        sound(&engine);
        engine.delete_queue("late").unwrap();
    }
    // All of it is acked: nothing is left of either kind.
    for queue in ["a", "b", "c"] {
        let consumer = consume(&engine, queue, 0);
        for delivery in ready(&consumer) {
            delivery.ack().unwrap();
        }
    }
    machine.clock.advance(Duration::from_millis(200));
    settle(&engine);
    engine.reclaim(&mut |_| {}).unwrap();
    for queue in ["a", "b", "c"] {
        assert_eq!(depth(&engine, queue), (0, 0));
    }
    assert!(engine.segments().len() <= 2, "{}", engine.segments().len());
    sound(&engine);
}

#[test]
fn segments_of_transient_messages_of_earlier_epochs_are_given_back() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"kept");
    let large = "t".repeat(30_000);
    for _ in 0..20 {
        engine.publisher().publish(&job(&large).transient()).unwrap();
        settle(&engine);
    }
    let before = engine.segments().len();
    assert!(before > 8);
    engine.reclaim(&mut |_| {}).unwrap();
    assert_eq!(engine.segments().len(), before, "they are live in their own epoch");
    let engine = machine.killed().open();
    settle(&engine);
    engine.reclaim(&mut |_| {}).unwrap();
    assert!(engine.segments().len() <= 3, "{}", engine.segments().len());
    assert_eq!(unacked(&engine, "jobs"), ["kept"]);
    sound(&engine);
}

#[test]
fn the_number_of_routes_does_not_grow_with_the_number_of_openings() {
    let (machine, engine) = with_jobs();
    drop(engine);
    let mut sizes = Vec::new();
    for _ in 0..6 {
        let engine = machine.open();
        engine.publisher().publish(&job("t").transient()).unwrap().wait().unwrap();
        // What is sealed, and dead in the next epoch, is given back there.
        for _ in 0..5 {
            engine.publisher().publish(&job(&"x".repeat(20_000))).unwrap().wait().unwrap();
        }
        engine.purge_queue("jobs").unwrap();
        settle(&engine);
        engine.reclaim(&mut |_| {}).unwrap();
        engine.close(Duration::from_secs(1)).unwrap();
        let files = machine.files();
        let newest = files.iter().rfind(|(name, _)| is_checkpoint(name)).unwrap();
        sizes.push(newest.1.len());
    }
    let (first, last) = (sizes[1], sizes[5]);
    assert!(last <= first + 100, "{sizes:?}");
}

#[test]
fn acks_of_transient_messages_are_not_needed_after_their_epoch() {
    let (machine, engine) = with_jobs();
    for text in ["t1", "t2", "t3"] {
        engine.publisher().publish(&job(text).transient()).unwrap().wait().unwrap();
    }
    let consumer = consume(&engine, "jobs", 1);
    next(&consumer).ack().unwrap().wait().unwrap();
    publish(&engine, "jobs", b"kept");
    assert_eq!(depth(&engine, "jobs").0, 3);
    // With a checkpoint in between, too.
    for checkpoint in [false, true] {
        if checkpoint {
            engine.checkpoint().unwrap();
            publish(&engine, "jobs", b"more");
        }
        let engine = machine.power_cut().open();
        let expected: &[&str] = if checkpoint { &["kept", "more"] } else { &["kept"] };
        assert_eq!(unacked(&engine, "jobs"), expected);
        assert_eq!(depth(&engine, "jobs").0, expected.len() as u64);
        assert_eq!(engine.purge_queue("jobs").unwrap(), expected.len() as u64);
        sound(&engine);
    }
}

#[test]
fn opened_from_the_older_checkpoint_they_are_gone_as_well() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"kept");
    engine.publisher().publish(&job("t1").transient()).unwrap().wait().unwrap();
    engine.checkpoint().unwrap();
    engine.publisher().publish(&job("t2").transient()).unwrap().wait().unwrap();
    publish(&engine, "jobs", b"also kept");
    let consumer = consume(&engine, "jobs", 1);
    next(&consumer).ack().unwrap().wait().unwrap();
    drop(consumer);
    engine.checkpoint().unwrap();
    let machine = machine.killed();
    drop(machine.open());
    let newest = machine.files().into_keys().rfind(|name| is_checkpoint(name)).unwrap();
    machine.disk.corrupt(&newest, 60, 1).unwrap();
    let engine = machine.open_with(Config { on_damage: OnDamage::Quarantine, ..stepped() });
    assert_eq!(unacked(&engine, "jobs"), ["also kept"]);
    assert_eq!(depth(&engine, "jobs").0, 1);
    sound(&engine);
}

/// Power is cut at every operation while both kinds go in and some of each are acked.
#[test]
fn whatever_a_crash_leaves_no_transient_message_comes_and_no_other_is_missing() {
    let work = |machine: &Machine| -> fanlog::Result<()> {
        let engine = machine.try_open(stepped())?;
        engine.declare_queue("jobs")?;
        let publisher = engine.publisher();
        for number in 0..12_u32 {
            let text = format!("{number:02}{}", "x".repeat(9000));
            let message = job(&text);
            let message = if number % 2 == 0 { message.transient() } else { message };
            publisher.publish(&message)?.wait()?;
            if number % 4 == 3 {
                let consumer = engine.consume("jobs", fanlog::ConsumerOptions::prefetch(2))?;
                if let Some(delivery) = consumer.recv_timeout(Duration::ZERO)? {
                    delivery.ack()?.wait()?;
                }
                drop(consumer);
                engine.checkpoint()?;
            }
            engine.step()?;
        }
        engine.close(Duration::from_secs(1)).map(drop)
    };
    let whole = Machine::new();
    work(&whole).unwrap();
    for cut in 0..whole.disk.operation_count() {
        let machine = Machine::new();
        machine.disk.cut_at(cut);
        drop(work(&machine));
        for (seed, mode) in
            [(0, CrashMode::LoseUnsynced), (0, CrashMode::KeepAll), (cut, CrashMode::Random)]
        {
            let disk = machine.disk.crash_image(seed, mode);
            let again = Machine { disk, clock: std::sync::Arc::clone(&machine.clock) };
            let engine = again.open();
            engine.declare_queue("jobs").unwrap();
            let left: Vec<u32> =
                unacked(&engine, "jobs").iter().map(|text| text[..2].parse().unwrap()).collect();
            let context = format!("cut at {cut}, {mode:?} {seed}: {left:?}");
            assert!(left.iter().all(|number| number % 2 == 1), "{context}");
            // In order, none of the lasting ones missing between the first and the last.
            assert!(left.windows(2).all(|pair| pair[1] == pair[0] + 2), "{context}");
            assert_eq!(depth(&engine, "jobs").0, left.len() as u64, "{context}");
            sound(&engine);
            let consumer = consume(&engine, "jobs", 0);
            assert_eq!(ready(&consumer).len(), left.len(), "{context}");
        }
    }
}
