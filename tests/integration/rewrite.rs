//! Rewriting: what is dead is given back though messages beside it live, and nothing else changes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fanlog::{
    Config, Consumer, Delivery, Engine, ExchangeKind, Message, OnDamage,
    clock::ManualClock,
    storage::{CrashMode, MemoryStorage},
};

use crate::support::{
    Machine, consume, is_checkpoint, next, pattern, position_of, publish, ready, settle, small,
    sound, stepped, until, with_jobs,
};

const BYTES: usize = 1000;
const SEGMENT: u64 = 64 << 10;

/// Publishes messages `first..first + count` to an exchange, two thirds of a segment at a time.
fn publish_all(engine: &Engine, exchange: &str, key: &str, first: u64, count: u64) {
    let publisher = engine.publisher();
    let publish = |number| {
        let payload = pattern(number, BYTES);
        publisher.publish(&Message::new(exchange, key, &payload)).unwrap()
    };
    let numbers: Vec<u64> = (first..first + count).collect();
    for some in numbers.chunks(40) {
        let tickets: Vec<_> = some.iter().map(|&number| publish(number)).collect();
        for ticket in tickets {
            assert!(ticket.wait().is_ok());
        }
    }
}

/// Acks all that is ready and of which `acked` says so, given its number; returns the rest.
fn ack_some(consumer: &Consumer, acked: impl Fn(u64) -> bool) -> Vec<Delivery> {
    let mut kept = Vec::new();
    let mut acks = Vec::new();
    for delivery in ready(consumer) {
        if acked(delivery.offset().0) {
            acks.push(delivery.ack().unwrap());
        } else {
            kept.push(delivery);
        }
    }
    for ack in acks {
        ack.wait().unwrap();
    }
    kept
}

fn ack_all(deliveries: Vec<Delivery>) {
    for one in deliveries {
        one.ack().unwrap().wait().unwrap();
    }
}

fn is_temporary(name: &str) -> bool {
    name.strip_suffix(".tmp").is_some()
}

/// Lets the background do all that it has to do, and what depends on checkpoints too.
fn tidy(clock: &ManualClock, engine: &Engine) {
    for _ in 0..4 {
        clock.advance(Duration::from_secs(2));
        settle(engine);
        engine.checkpoint().unwrap();
    }
    settle(engine);
}

/// Sizes of the files of the log, by name: not those prepared for later.
fn log_files(machine: &Machine) -> BTreeMap<String, usize> {
    let mut files = machine.files();
    files.retain(|name, bytes| !name.starts_with("free-") && bytes.starts_with(b"fanlogSG"));
    files.into_iter().map(|(name, bytes)| (name, bytes.len())).collect()
}

fn log_bytes(machine: &Machine) -> u64 {
    log_files(machine).values().map(|&bytes| bytes as u64).sum()
}

/// Asserts that the log takes at most twice what is live, and a few segments.
#[track_caller]
fn compact(machine: &Machine, live: u64) {
    let bytes = log_bytes(machine);
    assert!(bytes <= 2 * live + 5 * SEGMENT, "{bytes} for {live}: {:?}", log_files(machine));
}

/// Asserts that the queue holds just the messages with these numbers, untouched.
#[track_caller]
fn holds(engine: &Engine, queue: &str, numbers: &[u64]) {
    let unacked = engine.browse(queue).unwrap().map(Result::unwrap).filter(|one| !one.acked);
    let mut found = Vec::new();
    for message in unacked {
        assert!(message.damage.is_none(), "{}", message.offset);
        assert!(*message.payload == pattern(message.offset.0, BYTES), "{}", message.offset);
        found.push(message.offset.0);
    }
    assert_eq!(found, numbers, "{queue}");
    assert_eq!(engine.queue(queue).unwrap().messages, numbers.len() as u64, "{queue}");
}

/// Messages whose number is a multiple of `step` stay, of `count`; the store is tidied as it goes.
fn leave_every(machine: &Machine, engine: &Engine, count: u64, step: u64) -> Vec<u64> {
    let consumer = consume(engine, "jobs", 0);
    let mut kept = Vec::new();
    for first in (0..count).step_by(200) {
        publish_all(engine, "", "jobs", first, 200.min(count - first));
        kept.extend(ack_some(&consumer, |number| number % step != 0));
        machine.clock.advance(Duration::from_secs(1));
        settle(engine);
    }
    drop(kept);
    drop(consumer);
    tidy(&machine.clock, engine);
    (0..count).step_by(usize::try_from(step).unwrap()).collect()
}

#[test]
fn a_stuck_head_keeps_its_own_bytes_and_not_what_passes_behind_it() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", &pattern(0, BYTES));
    let holder = consume(&engine, "jobs", 1);
    let held = next(&holder);
    let consumer = consume(&engine, "jobs", 0);
    for first in (1..8000).step_by(500) {
        publish_all(&engine, "", "jobs", first, 500);
        assert!(ack_some(&consumer, |_| true).is_empty());
        machine.clock.advance(Duration::from_secs(1));
        settle(&engine);
        // Old files stay until two checkpoints do not list them.
        assert!(log_bytes(&machine) < 40 * SEGMENT, "{:?}", log_files(&machine));
    }
    tidy(&machine.clock, &engine);
    compact(&machine, BYTES as u64);
    sound(&engine);
    assert!(held.payload() == pattern(0, BYTES));
    drop((held, holder, consumer));
    for crashed in [machine.power_cut(), machine.killed()] {
        let again = crashed.open();
        holds(&again, "jobs", &[0]);
        sound(&again);
    }
    next(&consume(&engine, "jobs", 1)).ack().unwrap().wait().unwrap();
    tidy(&machine.clock, &engine);
    assert!(engine.stats().segments <= 2, "{}", engine.stats().segments);
}

#[test]
fn one_message_in_many_stays_alone_and_files_do_not_pile_up() {
    let (machine, engine) = with_jobs();
    let kept = leave_every(&machine, &engine, 8000, 100);
    compact(&machine, kept.len() as u64 * BYTES as u64);
    let stats = engine.stats();
    assert!(stats.segments_rewritten > 30 && stats.segments_merged > 10, "{stats:?}");
    assert!(stats.rewritten_bytes * 2 <= stats.log_bytes_written, "{stats:?}");
    assert!(stats.segments < 12, "{}", stats.segments);
    holds(&engine, "jobs", &kept);
    sound(&engine);
    let consumer = consume(&engine, "jobs", 0);
    let found: Vec<u64> = ready(&consumer).iter().map(|one| one.offset().0).collect();
    assert_eq!(found, kept);
}

#[test]
fn rewritten_segments_are_as_before_after_a_reopen_and_die_like_others() {
    let (machine, engine) = with_jobs();
    let kept = leave_every(&machine, &engine, 3000, 10);
    assert!(engine.stats().segments_rewritten > 10, "{:?}", engine.stats());
    let files = log_files(&machine);
    engine.close(Duration::ZERO).unwrap();
    let engine = machine.open();
    assert_eq!(log_files(&machine).keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>());
    holds(&engine, "jobs", &kept);
    sound(&engine);
    let consumer = consume(&engine, "jobs", 0);
    let left = ack_some(&consumer, |number| number % 20 == 0);
    tidy(&machine.clock, &engine);
    sound(&engine);
    ack_all(left);
    tidy(&machine.clock, &engine);
    assert!(engine.stats().segments <= 2, "{:?}", log_files(&machine));
    sound(&engine);
    assert_eq!(publish(&engine, "jobs", b"next"), 3000);
}

#[test]
fn a_payload_in_hand_is_the_same_after_its_segment_was_rewritten_and_its_file_went() {
    let (machine, engine) = with_jobs();
    publish_all(&engine, "", "jobs", 0, 1000);
    tidy(&machine.clock, &engine);
    engine.close(Duration::ZERO).unwrap();
    // Read through maps from here on.
    let engine = machine.open();
    let consumer = consume(&engine, "jobs", 0);
    let deliveries = ready(&consumer);
    let payloads: Vec<_> = deliveries.iter().map(Delivery::to_payload).collect();
    let kept: Vec<_> = deliveries
        .into_iter()
        .filter_map(|one| {
            if one.offset().0 % 50 == 7 {
                return Some(one);
            }
            one.ack().unwrap().wait().unwrap();
            None
        })
        .collect();
    tidy(&machine.clock, &engine);
    assert!(engine.stats().segments_rewritten > 5, "{:?}", engine.stats());
    assert!(engine.stats().deleted_but_held_bytes > 0);
    publish_all(&engine, "", "jobs", 1000, 500);
    tidy(&machine.clock, &engine);
    for (number, payload) in (0..).zip(&payloads) {
        assert!(**payload == pattern(number, BYTES), "payload {number}");
    }
    for one in &kept {
        assert!(one.payload() == pattern(one.offset().0, BYTES));
    }
    drop(payloads);
    ack_all(kept);
    tidy(&machine.clock, &engine);
    sound(&engine);
}

#[test]
fn a_consumer_in_the_middle_of_a_segment_that_is_rewritten_goes_on_with_the_next_message() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("results", ExchangeKind::Fanout).unwrap();
    for queue in ["jobs", "slow"] {
        engine.declare_queue(queue).unwrap();
        engine.bind(queue, "results", "").unwrap();
    }
    publish_all(&engine, "results", "", 0, 1000);
    tidy(&machine.clock, &engine);
    engine.close(Duration::ZERO).unwrap();
    let engine = machine.open();
    let fast = consume(&engine, "jobs", 0);
    let slow = consume(&engine, "slow", 1);
    // The slow queue has acked nine in ten, in the middle of the log; the fast one all.
    let sparse = consume(&engine, "slow", 0);
    let first = next(&slow);
    let kept = ack_some(&sparse, |number| number % 10 != 3);
    assert!(ack_some(&fast, |number| number < 990).len() == 10);
    let back: Vec<u64> = kept.iter().map(|one| one.offset().0).collect();
    // Back in the queue, and the reader of `fast` stands in a segment that goes now.
    drop((kept, sparse));
    tidy(&machine.clock, &engine);
    assert!(engine.stats().segments_rewritten > 5, "{:?}", engine.stats());
    sound(&engine);
    let mut found = vec![first.offset().0];
    first.ack().unwrap().wait().unwrap();
    while let Some(one) = slow.recv_timeout(Duration::ZERO).unwrap() {
        assert!(one.payload() == pattern(one.offset().0, BYTES));
        found.push(one.offset().0);
        one.ack().unwrap().wait().unwrap();
    }
    let expected: Vec<u64> = std::iter::once(0).chain(back).collect();
    assert_eq!(found, expected);
    sound(&engine);
}

#[test]
fn a_reader_that_waits_at_its_prefetch_reads_on_in_the_file_that_took_the_place() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("results", ExchangeKind::Fanout).unwrap();
    for queue in ["jobs", "slow"] {
        engine.declare_queue(queue).unwrap();
    }
    // One in seven goes to both.
    engine.bind("jobs", "results", "").unwrap();
    for first in (0..2100).step_by(7) {
        publish_all(&engine, "", "jobs", first, 6);
        engine.bind("slow", "results", "").unwrap();
        publish_all(&engine, "results", "", first + 6, 1);
        engine.unbind("slow", "results", "").unwrap();
        settle(&engine);
    }
    engine.close(Duration::ZERO).unwrap();
    let engine = machine.open();
    let slow = consume(&engine, "slow", 3);
    let mut found = vec![next(&slow)];
    assert!(ack_some(&consume(&engine, "jobs", 0), |_| true).is_empty());
    tidy(&machine.clock, &engine);
    assert!(engine.stats().segments_rewritten > 5, "{:?}", engine.stats());
    sound(&engine);
    let mut numbers = Vec::new();
    while let Some(one) = found.pop().or_else(|| slow.recv_timeout(Duration::ZERO).unwrap()) {
        assert!(one.payload() == pattern(one.offset().0, BYTES));
        numbers.push(one.offset().0);
        one.ack().unwrap().wait().unwrap();
    }
    assert_eq!(numbers, (6..2100).step_by(7).collect::<Vec<_>>());
}

#[test]
fn queues_that_are_deleted_and_bound_anew_around_a_rewrite_are_counted_off() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("results", ExchangeKind::Fanout).unwrap();
    for queue in ["jobs", "slow", "other"] {
        engine.declare_queue(queue).unwrap();
        engine.bind(queue, "results", "").unwrap();
    }
    publish_all(&engine, "results", "", 0, 1500);
    settle(&engine);
    engine.unbind("other", "results", "").unwrap();
    publish_all(&engine, "results", "", 1500, 500);
    let (jobs, slow) = (consume(&engine, "jobs", 0), consume(&engine, "slow", 0));
    let kept_jobs = ack_some(&jobs, |number| number % 40 != 0);
    let kept_slow = ack_some(&slow, |number| number % 25 != 0);
    tidy(&machine.clock, &engine);
    sound(&engine);
    assert_eq!(engine.queue("other").unwrap().messages, 1500);
    engine.delete_queue("other").unwrap();
    tidy(&machine.clock, &engine);
    let stats = engine.stats();
    assert!(stats.segments_rewritten > 10, "{stats:?}");
    sound(&engine);
    compact(&machine, 130 * BYTES as u64);
    drop((kept_jobs, kept_slow, jobs, slow));
    engine.delete_queue("slow").unwrap();
    tidy(&machine.clock, &engine);
    sound(&engine);
    let left: Vec<u64> = (0..2000).step_by(40).collect();
    holds(&engine, "jobs", &left);
    let again = machine.power_cut().open();
    holds(&again, "jobs", &left);
    sound(&again);
}

#[test]
fn a_message_damaged_in_a_source_leaves_the_segment_alone_and_is_told() {
    let (machine, engine) = with_jobs();
    publish_all(&engine, "", "jobs", 0, 500);
    settle(&engine);
    engine.close(Duration::ZERO).unwrap();
    let payload = pattern(100, BYTES);
    let (name, at) = machine
        .files()
        .iter()
        .find_map(|(name, bytes)| Some((name.clone(), position_of(bytes, &payload)?)))
        .unwrap();
    machine.disk.corrupt(&name, at as u64 + 500, 4).unwrap();
    let engine = machine.open();
    let consumer = consume(&engine, "jobs", 0);
    let kept = ack_some(&consumer, |number| number % 50 != 0);
    tidy(&machine.clock, &engine);
    let stats = engine.stats();
    assert!(stats.segments_left_alone == 1 && stats.segments_rewritten > 2, "{stats:?}");
    let alone: Vec<_> = engine.segments().into_iter().filter(|one| one.problem.is_some()).collect();
    assert_eq!(alone.len(), 1);
    assert!(alone[0].path.ends_with(&name) && alone[0].generation == 0);
    assert!(alone[0].problem.as_ref().unwrap().contains("100"), "{:?}", alone[0].problem);
    assert!(log_files(&machine).contains_key(&name));
    assert_eq!(engine.check(&mut |_| {}).unwrap().problems.len(), 2, "message and batch");
    let damaged: Vec<u64> =
        kept.iter().filter(|one| one.damage().is_some()).map(|one| one.offset().0).collect();
    assert_eq!(damaged, [100]);
    // Once nobody wants the damaged one it is in nobody's way.
    ack_all(kept);
    tidy(&machine.clock, &engine);
    assert!(engine.stats().segments <= 2);
    sound(&engine);
}

#[test]
fn a_power_cut_at_any_operation_of_a_rewrite_loses_nothing_and_doubles_nothing() {
    let (machine, engine) = with_jobs();
    publish_all(&engine, "", "jobs", 0, 600);
    settle(&engine);
    // Waiting for acks drives commits alone: the rewriting is left to be done.
    let consumer = consume(&engine, "jobs", 0);
    drop(ack_some(&consumer, |number| number % 30 != 0));
    drop(consumer);
    engine.close(Duration::ZERO).unwrap();
    let left: Vec<u64> = (0..600).step_by(30).collect();
    let start = machine.disk.deep_copy();
    let clock = Arc::new(ManualClock::new());
    let run = |disk: &MemoryStorage| {
        let config = Config { checkpoint_log_bytes: SEGMENT, ..stepped() };
        let engine = Engine::open_on(Arc::new(disk.clone()), Arc::clone(&clock) as _, config);
        let Ok(engine) = engine else { return 0 };
        for _ in 0..4 {
            clock.advance(Duration::from_secs(2));
            while engine.step().is_ok_and(|did| did) {}
            drop(engine.checkpoint());
        }
        engine.stats().segments_rewritten
    };
    let whole = start.deep_copy();
    let first = whole.operation_count();
    assert!(run(&whole) >= 8);
    let names: Vec<String> = whole.operations().iter().map(|one| format!("{one:?}")).collect();
    assert!(names.iter().any(|one| one.contains(".1.seg.tmp")), "{names:?}");
    for cut in first..whole.operation_count() {
        let disk = start.deep_copy();
        disk.cut_at(cut);
        run(&disk);
        for (seed, mode) in [
            (0, CrashMode::LoseUnsynced),
            (0, CrashMode::KeepAll),
            (cut, CrashMode::Random),
            (cut + 1, CrashMode::Random),
        ] {
            let image = disk.crash_image(seed, mode);
            let machine = Machine { disk: image, clock: Arc::clone(&clock) };
            let engine = machine.open();
            holds(&engine, "jobs", &left);
            sound(&engine);
            assert!(machine.files().keys().all(|name| !is_temporary(name)), "cut {cut}");
            tidy(&machine.clock, &engine);
            holds(&engine, "jobs", &left);
            sound(&engine);
            compact(&machine, left.len() as u64 * BYTES as u64);
        }
    }
}

/// A checkpoint from before the merge lists the sources; acks from after it are replayed from there.
#[test]
fn acks_of_a_merged_segment_are_counted_with_its_sources_where_a_checkpoint_still_lists_those() {
    let (machine, engine) = with_jobs();
    publish_all(&engine, "", "jobs", 0, 1000);
    settle(&engine);
    // Few are left in each segment, and many in the last: it has room for a count that is not its.
    let many = |number: u64| number >= 960 && number.is_multiple_of(2);
    let few = |number: u64| number < 960 && number.is_multiple_of(120);
    drop(ack_some(&consume(&engine, "jobs", 0), |number| !many(number) && !few(number)));
    engine.checkpoint().unwrap();
    let before = engine.stats();
    machine.clock.advance(Duration::from_secs(2));
    while engine.stats().segments_merged == 0 {
        assert!(engine.step().unwrap());
    }
    assert_eq!(engine.stats().checkpoints, before.checkpoints);
    drop(ack_some(&consume(&engine, "jobs", 0), |one| one == 962 || one > 0 && !many(one)));
    let left: Vec<u64> = (0..1000).filter(|&one| one == 0 || one != 962 && many(one)).collect();
    for crashed in [machine.power_cut(), machine.killed()] {
        let again = crashed.open();
        sound(&again);
        holds(&again, "jobs", &left);
        tidy(&crashed.clock, &again);
        sound(&again);
        holds(&again, "jobs", &left);
    }
    tidy(&machine.clock, &engine);
    sound(&engine);
    holds(&engine, "jobs", &left);
}

/// Acks that were counted while the sources were told apart, and others from when they no longer
/// were, go to the log together. None is counted with another segment, which would be given back with
/// a message in it.
#[test]
fn acks_from_before_and_after_the_sources_of_a_merge_went_are_counted_where_they_belong() {
    let (machine, engine) = with_jobs();
    publish_all(&engine, "", "jobs", 0, 1000);
    settle(&engine);
    // The first segments stay as they are.
    let few = |number: u64| number >= 120 && number.is_multiple_of(120);
    let unacked = |number: u64| number < 80 || few(number);
    let consumer = consume(&engine, "jobs", 0);
    let mut kept = ack_some(&consumer, |number| !unacked(number));
    machine.clock.advance(Duration::from_secs(2));
    while engine.stats().segments_merged == 0 {
        assert!(engine.step().unwrap());
    }
    let mut ack = |number| {
        let at = kept.iter().position(|one| one.offset().0 == number).unwrap();
        kept.remove(at).ack().unwrap()
    };
    drop(ack(480));
    let given_back = |engine: &Engine| {
        let stats = engine.stats();
        stats.segments_recycled + stats.segments_deleted
    };
    let before = given_back(&engine);
    for _ in 0..3 {
        engine.checkpoint().unwrap();
        settle(&engine);
    }
    assert!(given_back(&engine) > before);
    drop(ack(240));
    ack(720).wait().unwrap();
    sound(&engine);
    let left: Vec<u64> =
        (0..1000).filter(|&one| unacked(one) && ![240, 480, 720].contains(&one)).collect();
    drop((kept, consumer));
    for engine in [&engine, &machine.power_cut().open()] {
        sound(engine);
        holds(engine, "jobs", &left);
    }
}

/// The checkpoint before the newest lists what was there before a rewrite: it has to be there still.
#[test]
fn falling_back_to_the_older_checkpoint_finds_the_segments_as_they_were() {
    let (machine, engine) = with_jobs();
    publish_all(&engine, "", "jobs", 0, 1000);
    settle(&engine);
    drop(ack_some(&consume(&engine, "jobs", 0), |number| number % 20 != 0));
    engine.checkpoint().unwrap();
    engine.checkpoint().unwrap();
    machine.clock.advance(Duration::from_secs(2));
    while engine.stats().segments_rewritten == 0 {
        assert!(engine.step().unwrap());
    }
    drop(ack_some(&consume(&engine, "jobs", 0), |number| number % 40 != 0));
    engine.checkpoint().unwrap();
    drop(ack_some(&consume(&engine, "jobs", 0), |number| number % 80 != 0));
    let left: Vec<u64> = (0..1000).step_by(80).collect();
    let crashed = machine.power_cut();
    let names = crashed.files().into_keys();
    let newest = names.filter(|name| is_checkpoint(name)).max().unwrap();
    crashed.disk.corrupt(&newest, 100, 1).unwrap();
    let config = Config { on_damage: OnDamage::Quarantine, ..stepped() };
    let again = crashed.open_with(config);
    assert!(again.recovery().checkpoint < 100 && !again.recovery().clean);
    holds(&again, "jobs", &left);
    sound(&again);
    tidy(&crashed.clock, &again);
    holds(&again, "jobs", &left);
    sound(&again);
    compact(&crashed, left.len() as u64 * BYTES as u64);
}

#[test]
fn files_that_are_prepared_all_the_time_do_not_keep_rewriting_from_its_turn() {
    let (machine, engine) = with_jobs();
    publish_all(&engine, "", "jobs", 0, 300);
    settle(&engine);
    drop(ack_some(&consume(&engine, "jobs", 0), |number| number % 20 != 0));
    engine.close(Duration::ZERO).unwrap();
    let engine = machine.open_with(Config { segments_ahead: 64, ..stepped() });
    while engine.stats().segments_rewritten == 0 {
        assert!(engine.step().unwrap());
    }
    assert!(engine.stats().segments_ready < 60, "{:?}", engine.stats());
}

#[test]
fn a_rewrite_that_finds_no_space_gets_what_is_kept_for_it() {
    let (machine, engine) = with_jobs();
    publish_all(&engine, "", "jobs", 0, 1000);
    settle(&engine);
    let used: u64 = machine.files().values().map(|bytes| bytes.len() as u64).sum();
    machine.disk.set_capacity(Some(used + 8192));
    let kept = ack_some(&consume(&engine, "jobs", 0), |number| number % 20 != 0);
    for _ in 0..10 {
        machine.clock.advance(Duration::from_secs(2));
        while engine.step().is_ok_and(|did| did) {}
    }
    assert!(engine.stats().segments_rewritten > 0, "{:?}", engine.stats());
    assert!(!engine.stats().poisoned);
    assert!(machine.files().keys().all(|name| !is_temporary(name)));
    machine.disk.set_capacity(None);
    tidy(&machine.clock, &engine);
    assert!(engine.stats().segments_rewritten > 5, "{:?}", engine.stats());
    drop(kept);
    holds(&engine, "jobs", &(0..1000).step_by(20).collect::<Vec<_>>());
    sound(&engine);
}

#[test]
fn a_real_directory_and_real_threads_come_to_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { checkpoint_log_bytes: SEGMENT, ..small() };
    let engine = Engine::open(directory.path(), config.clone()).unwrap();
    engine.declare_queue("jobs").unwrap();
    let consumer = consume(&engine, "jobs", 0);
    let mut kept = Vec::new();
    for first in (0..4000).step_by(200) {
        publish_all(&engine, "", "jobs", first, 200);
        for _ in 0..200 {
            let one = consumer.recv().unwrap();
            if one.offset().0.is_multiple_of(100) {
                kept.push(one);
            } else {
                one.ack().unwrap();
            }
        }
    }
    let mut number = 4000;
    until("sparse segments are rewritten", || {
        publish_all(&engine, "", "jobs", number, 50);
        number += 50;
        (0..50).for_each(|_| drop(consumer.recv().unwrap().ack().unwrap()));
        engine.stats().segments_rewritten > 20
    });
    for one in &kept {
        assert!(one.payload() == pattern(one.offset().0, BYTES));
    }
    drop((kept, consumer));
    sound(&engine);
    engine.close(Duration::from_secs(10)).unwrap();
    drop(engine);
    let engine = Engine::open(directory.path(), config).unwrap();
    holds(&engine, "jobs", &(0..4000).step_by(100).collect::<Vec<_>>());
    sound(&engine);
}

#[test]
fn the_last_of_many_queues_sets_free_what_the_others_acked_before() {
    let (machine, engine) = with_jobs();
    engine.declare_exchange("all", ExchangeKind::Fanout).unwrap();
    let names: Vec<String> = (0..13).map(|number| format!("queue-{number}")).collect();
    for name in &names {
        engine.declare_queue(name).unwrap();
        engine.bind(name, "all", "").unwrap();
    }
    publish_all(&engine, "all", "", 0, 800);
    settle(&engine);
    // All but one leave the same one in eight: what is outstanding in all falls by a sixth no more.
    for name in &names[1..] {
        drop(ack_some(&consume(&engine, name, 0), |number| number % 8 != 0));
    }
    tidy(&machine.clock, &engine);
    ack_some(&consume(&engine, &names[0], 0), |_| true);
    tidy(&machine.clock, &engine);
    compact(&machine, 100 * BYTES as u64);
    assert!(log_bytes(&machine) < 400_000, "{:?}", log_files(&machine));
    sound(&engine);
}

#[test]
fn segments_that_come_as_fast_as_they_are_looked_at_are_rewritten() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue("jobs").unwrap();
    let consumer = consume(&engine, "jobs", 0);
    let mut kept = Vec::new();
    for round in 0..100 {
        // More than a segment, and few pieces of the background's work: enough to find it out.
        publish_all(&engine, "", "jobs", 60 * round, 60);
        kept.extend(ack_some(&consumer, |number| number % 20 != 0));
        machine.clock.advance(Duration::from_millis(20));
        for _ in 0..6 {
            engine.step().unwrap();
        }
    }
    let stats = engine.stats();
    assert!(stats.segments_rewritten > 0, "{} segments", stats.segments);
    ack_all(kept);
    tidy(&machine.clock, &engine);
    compact(&machine, 0);
    sound(&engine);
}

/// Whole records in a wrong place, where offsets are missing, are out of order: they are not gathered
/// as the missing ones.
#[test]
fn a_block_of_a_rewritten_segment_in_the_place_of_another_is_never_a_panic_or_another_message() {
    misplace_blocks_of_what_leaves_every(9);
}

/// The batch reaches further than its header counts: what of it stands in the footer's place begins
/// behind what is counted, and before what was gathered already.
#[test]
fn a_block_of_a_rewritten_segment_in_the_place_of_its_footer_is_not_gathered_out_of_order() {
    misplace_blocks_of_what_leaves_every(60);
}

#[track_caller]
fn misplace_blocks_of_what_leaves_every(step: u64) {
    const BLOCK: usize = 4096;
    let (machine, engine) = with_jobs();
    let clock = Arc::clone(&machine.clock);
    leave_every(&machine, &engine, 800, step);
    tidy(&clock, &engine);
    engine.close(Duration::ZERO).unwrap();
    drop(engine);
    let is_rewritten = |name: &&String| name.matches('.').count() == 2;
    let files = log_files(&machine);
    let name = files.keys().find(is_rewritten).unwrap();
    let content = machine.disk.read_file(name).unwrap();
    let blocks = content.len() / BLOCK;
    let (mut told, mut tried) = (0, 0);
    for to in 1..blocks {
        for from in (1..blocks).filter(|&from| from != to) {
            let mut changed = content.clone();
            changed.copy_within(from * BLOCK..(from + 1) * BLOCK, to * BLOCK);
            let trial = Machine { disk: machine.disk.deep_copy(), clock: Arc::default() };
            trial.disk.write_file(name, &changed).unwrap();
            let engine = trial.open();
            let report = engine.check(&mut |_| {}).unwrap();
            told += u32::from(!report.problems.is_empty());
            for message in engine.browse("jobs").unwrap() {
                // Without its footer nothing says what is missing.
                let Ok(message) = message else { break };
                let right = pattern(message.offset.0, BYTES);
                assert!(message.damage.is_some() || *message.payload == right, "{from} at {to}");
            }
            tried += 1;
        }
    }
    assert!(told > tried / 2, "{told} of {tried} are told");
}
