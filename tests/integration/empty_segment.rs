//! A segment that ended without a message starts where the next one does: what belongs to the one is
//! never counted with the other.

use std::sync::Arc;

use fanlog::{Change, Engine, ExchangeKind, Message, storage::CrashMode};

use crate::support::{Machine, consume, next, pattern, publish, ready, settle, sound, stepped};

const QUEUES: [&str; 3] = ["b", "d", "g"];
const MESSAGES: u64 = 20;

/// A message to every queue, then a segment that has changes of the topology alone: a batch larger
/// than a segment went behind it, and more after that, so that it is full.
fn begun(machine: &Machine) -> Engine {
    let engine = machine.open_with(stepped());
    engine.declare_exchange("all", ExchangeKind::Fanout).unwrap();
    for queue in QUEUES {
        engine.declare_queue(queue).unwrap();
        engine.bind(queue, "all", "").unwrap();
    }
    let publisher = engine.publisher();
    let first = pattern(0, 20_000);
    publisher.publish_confirmed(&Message::new("all", "", &first)).unwrap();
    let names: Vec<String> = (0..150).map(|number| format!("{number:0200}")).collect();
    let declares: Vec<_> = names.iter().map(|name| Change::declare_queue(name)).collect();
    engine.change(&declares).unwrap();
    let payloads: Vec<_> = (0..MESSAGES).map(|number| pattern(number, 5000)).collect();
    let batch: Vec<_> = payloads.iter().map(|payload| Message::new("all", "", payload)).collect();
    publisher.publish_batch(&batch).unwrap().wait().unwrap();
    for number in 0..MESSAGES {
        let payload = pattern(number, 5000);
        publisher.publish_confirmed(&Message::new("all", "", &payload)).unwrap();
    }
    // The keeper has not come to it: it would be given back.
    let segments = engine.segments();
    assert_eq!(segments[1].first_offset, segments[1].end_offset);
    assert_eq!(segments[1].first_offset, segments[2].first_offset);
    engine
}

#[test]
fn what_a_purged_or_deleted_queue_left_is_counted_off_once() {
    for delete in [false, true] {
        let machine = Machine::new();
        let engine = begun(&machine);
        // A purge that keeps what is in hands notes how much is left.
        let consumer = consume(&engine, "d", 3);
        let held = ready(&consumer);
        assert_eq!(engine.purge_queue("d").unwrap(), 2 * MESSAGES + 1 - 3);
        drop(held);
        drop(consumer);
        if delete {
            engine.delete_queue("d").unwrap();
        } else {
            assert_eq!(engine.purge_queue("d").unwrap(), 3);
        }
        settle(&engine);
        sound(&engine);
        engine.purge_queue("b").unwrap();
        // So many that the segment would be dead if two had been counted off twice.
        let consumer = consume(&engine, "g", 0);
        for _ in 0..MESSAGES - 1 {
            next(&consumer).ack().unwrap().wait().unwrap();
        }
        drop(consumer);
        engine.reclaim(&mut |_| {}).unwrap();
        settle(&engine);
        sound(&engine);
        let left: Vec<u64> =
            ready(&consume(&engine, "g", 0)).iter().map(|one| one.offset().0).collect();
        assert!(left.iter().copied().eq(MESSAGES - 1..=2 * MESSAGES), "{left:?}");
    }
}

/// Where a crash interrupts the beginning of a segment, recovery begins it; one that gets no batch,
/// as the first does not fit into it, is given back like any other.
#[test]
fn after_a_crash_at_any_operation_all_segments_are_given_back_in_the_end() {
    let (mut cut, mut runs) = (1, 0);
    loop {
        for seed in 0..3 {
            let machine = Machine::new();
            let engine = machine.open_with(stepped());
            machine.disk.cut_at(machine.disk.operation_count() + cut);
            let went_through = declare_and_publish(&engine).is_ok();
            drop(engine);
            if went_through {
                assert!(runs > 100, "{runs} cuts");
                return;
            }
            runs += 1;
            let disk = machine.disk.crash_image(seed, CrashMode::Random);
            let machine = Machine { disk, clock: Arc::clone(&machine.clock) };
            let engine = machine.open_with(stepped());
            engine.declare_queue("b").unwrap();
            publish(&engine, "b", &pattern(0, 80_000));
            settle(&engine);
            engine.purge_queue("b").unwrap();
            engine.reclaim(&mut |_| {}).unwrap();
            settle(&engine);
            let states: Vec<_> = engine.segments().iter().map(|segment| segment.state).collect();
            assert_eq!(states, ["active"], "cut {cut}, seed {seed}");
            sound(&engine);
        }
        cut += 1;
    }
}

fn declare_and_publish(engine: &Engine) -> fanlog::Result<()> {
    engine.declare_queue("b")?;
    let payload = pattern(1, 5000);
    for _ in 0..30 {
        engine.publisher().publish_confirmed(&Message::new("", "b", &payload))?;
    }
    Ok(())
}
