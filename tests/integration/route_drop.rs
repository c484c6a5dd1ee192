//! Routes of what was bound, published to and unbound again: they go once nothing stored needs them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use fanlog::{
    Change, Config, Durability, Engine, ExchangeKind, Message, OnDamage, Result,
    clock::ManualClock,
    storage::{CrashMode, MemoryStorage},
};

use crate::support::{Machine, consume, is_checkpoint, pattern, ready, settle, sound, stepped};

const BYTES: usize = 2000;
/// What a checkpoint has of a route of two groups.
const ROUTE_BYTES: u64 = 28;

/// What the audit has to hold, and what it may not.
#[derive(Debug, Default)]
struct Held {
    kept: BTreeSet<u64>,
    acked: BTreeSet<u64>,
}

fn declare(engine: &Engine) -> Result<()> {
    engine.change(&[
        Change::DeclareExchange { name: "events", kind: ExchangeKind::Topic },
        Change::declare_queue("audit"),
        Change::Bind { queue: "audit", exchange: "events", routing_key: "#" },
        Change::declare_queue("worker"),
    ])
}

/// In each round the worker is bound, gets a message, and is unbound, and a queue comes and goes; the
/// audit gets the message as well and keeps one in 20.
fn churn(engine: &Engine, held: &mut Held, rounds: u64) -> Result<()> {
    let publisher = engine.publisher();
    let consumer = engine.consume("audit", fanlog::ConsumerOptions::prefetch(0))?;
    let mut hands = Vec::new();
    for round in 0..rounds {
        engine.bind("worker", "events", "job")?;
        engine.declare_queue("reply")?;
        let payload = pattern(round, BYTES);
        let message = Message::new("events", "job", &payload);
        let offset = publisher.publish_confirmed(&message)?.first_offset.0;
        let keep = round % 20 == 0;
        if keep {
            held.kept.insert(offset);
        }
        publisher.publish_confirmed(&Message::new("", "reply", &payload))?;
        let transient = Message { durability: Durability::Transient, ..message };
        if round % 7 == 0 {
            publisher.publish_confirmed(&transient)?;
        }
        let fetched = engine.get("worker")?;
        fetched.map_or(Ok(()), |delivery| delivery.ack()?.wait())?;
        engine.unbind("worker", "events", "job")?;
        engine.purge_queue("worker")?;
        engine.delete_queue("reply")?;
        while let Some(delivery) = consumer.recv_timeout(Duration::ZERO)? {
            let at = delivery.offset().0;
            if held.kept.contains(&at) {
                hands.push(delivery);
            } else {
                delivery.ack()?.wait()?;
                held.acked.insert(at);
            }
        }
        while engine.step()? {}
    }
    Ok(())
}

fn holds(engine: &Engine, held: &Held) {
    let found: Vec<u64> =
        ready(&consume(engine, "audit", 0)).iter().map(|one| one.offset().0).collect();
    let found: BTreeSet<u64> = found.into_iter().collect();
    assert!(held.kept.is_subset(&found), "{held:?}, found {found:?}");
    assert!(held.acked.is_disjoint(&found), "{held:?}, found {found:?}");
    sound(engine);
}

/// Has all done that is due, so that what can go is gone.
fn rest(clock: &ManualClock, engine: &Engine) {
    for _ in 0..4 {
        clock.advance(Duration::from_secs(2));
        settle(engine);
        engine.checkpoint().unwrap();
    }
}

fn newest_checkpoint(machine: &Machine) -> (String, u64) {
    let files = machine.files();
    let (name, bytes) = files.iter().rfind(|(name, _)| is_checkpoint(name)).unwrap();
    (name.clone(), bytes.len() as u64)
}

#[test]
fn routes_go_with_their_last_message_and_depths_stay() {
    let machine = Machine::new();
    let engine = machine.open();
    declare(&engine).unwrap();
    let mut held = Held::default();
    churn(&engine, &mut held, 20).unwrap();
    rest(&machine.clock, &engine);
    let (_, before) = newest_checkpoint(&machine);
    churn(&engine, &mut held, 600).unwrap();
    rest(&machine.clock, &engine);
    let (newest, after) = newest_checkpoint(&machine);
    // 1,200 were defined; what the audit keeps has its own, and stands in its ack state.
    assert!(after < before + 100 * ROUTE_BYTES, "{before} to {after} bytes");
    assert_eq!(engine.queue("audit").unwrap().messages, held.kept.len() as u64);
    holds(&engine, &held);
    // A power cut; and the same with the newest checkpoint damaged.
    for fall_back in [false, true] {
        let machine = machine.power_cut();
        let on_damage = if fall_back {
            machine.disk.corrupt(&newest, 200, 1).unwrap();
            OnDamage::Quarantine
        } else {
            OnDamage::Fail
        };
        let engine = machine.open_with(Config { on_damage, ..stepped() });
        holds(&engine, &held);
        let mut again = Held { kept: held.kept.clone(), acked: held.acked.clone() };
        churn(&engine, &mut again, 30).unwrap();
        rest(&machine.clock, &engine);
        holds(&engine, &again);
        assert_eq!(engine.queue("audit").unwrap().messages, again.kept.len() as u64);
    }
}

#[test]
fn routes_of_messages_that_are_kept_stay_until_the_last_is_acked() {
    let machine = Machine::new();
    let engine = machine.open();
    declare(&engine).unwrap();
    let mut held = Held::default();
    churn(&engine, &mut held, 200).unwrap();
    rest(&machine.clock, &engine);
    engine.close(Duration::ZERO).unwrap();
    // Opened again it does not know where the messages of a route begin and end.
    let engine = machine.open();
    rest(&machine.clock, &engine);
    let consumer = consume(&engine, "audit", 0);
    let kept = ready(&consumer);
    assert_eq!(kept.len(), held.kept.len());
    for (nth, delivery) in (0..).zip(&kept) {
        assert!(delivery.payload() == pattern(20 * nth, BYTES), "{nth}");
    }
    for delivery in kept {
        delivery.ack().unwrap().wait().unwrap();
    }
    rest(&machine.clock, &engine);
    let (_, bytes) = newest_checkpoint(&machine);
    assert!(bytes < 1200, "a checkpoint of nothing has {bytes} bytes");
    sound(&engine);
}

#[test]
fn a_power_cut_at_any_operation_while_routes_go_loses_nothing() {
    let clock = Arc::new(ManualClock::new());
    let config = || Config { checkpoint_log_bytes: 64 << 10, ..stepped() };
    let run = |disk: &MemoryStorage| {
        let mut held = Held::default();
        let engine = Engine::open_on(Arc::new(disk.clone()), Arc::clone(&clock) as _, config());
        let Ok(engine) = engine else { return held };
        if declare(&engine).is_err() {
            return held;
        }
        for _ in 0..3 {
            drop(churn(&engine, &mut held, 40));
            clock.advance(Duration::from_secs(2));
            drop(engine.checkpoint());
        }
        held
    };
    let whole = MemoryStorage::new();
    run(&whole);
    for cut in (1..whole.operation_count()).step_by(7) {
        let disk = MemoryStorage::new();
        disk.cut_at(cut);
        let held = run(&disk);
        let mode = match cut % 3 {
            0 => CrashMode::LoseUnsynced,
            1 => CrashMode::KeepAll,
            _ => CrashMode::Random,
        };
        let machine = Machine { disk: disk.crash_image(cut, mode), clock: Arc::clone(&clock) };
        let engine = machine.open_with(config());
        if held.kept.is_empty() {
            continue;
        }
        holds(&engine, &held);
        let mut again = held;
        churn(&engine, &mut again, 3).unwrap();
        rest(&clock, &engine);
        holds(&engine, &again);
    }
}
