//! Damage, opened with `OnDamage::Quarantine`: what is left is delivered, what is missing is told.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use fanlog::{Config, Engine, ErrorKind, Gap, Message, OnDamage, storage::CrashMode};

use crate::support::{
    Machine, consume, directory, is_checkpoint, is_segment, pattern, position_of, publish, ready,
    settle, sound, stepped, with_jobs,
};

const BYTES: usize = 1000;

fn quarantine() -> Config {
    Config { on_damage: OnDamage::Quarantine, ..stepped() }
}

/// A store of several segments, closed. Message `n` is `pattern(n, BYTES)`.
fn closed_store(messages: u64) -> Machine {
    let (machine, engine) = with_jobs();
    for number in 0..messages {
        publish(&engine, "jobs", &pattern(number, BYTES));
        if number % 10 == 9 {
            settle(&engine);
        }
    }
    settle(&engine);
    engine.close(Duration::ZERO).unwrap();
    machine
}

fn names(machine: &Machine, is_one: impl Fn(&str) -> bool) -> Vec<String> {
    machine.files().into_keys().filter(|name| is_one(name)).collect()
}

/// Names of the segments that were begun.
fn segments(machine: &Machine) -> Vec<String> {
    let begun = machine.files().into_iter().filter(|(_, bytes)| bytes.starts_with(b"fanlogSG"));
    begun.map(|(name, _)| name).filter(|name| is_segment(name)).collect()
}

/// Which messages stand in a file, by their payloads.
fn held(machine: &Machine, name: &str, messages: u64) -> BTreeSet<u64> {
    let bytes = machine.disk.read_file(name).unwrap();
    (0..messages).filter(|&n| position_of(&bytes, &pattern(n, BYTES)).is_some()).collect()
}

fn copy_of(machine: &Machine) -> Machine {
    Machine { disk: machine.disk.deep_copy(), clock: Arc::default() }
}

/// What opening around the damage came to.
struct Outcome {
    /// Messages that are not delivered.
    lost: BTreeSet<u64>,
    gaps: Vec<Gap>,
}

/// Opening fails and changes nothing; with quarantine all but what a gap names is delivered, and the
/// store works from then on.
#[track_caller]
fn around(machine: &Machine, messages: u64) -> Outcome {
    let before = machine.files();
    let error = machine.try_open(stepped()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(machine.files() == before, "failing to open changed the disk");
    quarantined(machine, messages)
}

#[track_caller]
fn quarantined(machine: &Machine, messages: u64) -> Outcome {
    read_only_writes_nothing(machine);
    let engine = machine.open_with(quarantine());
    let gaps = engine.recovery().gaps.clone();
    assert!(!gaps.is_empty(), "nothing was told");
    assert!(!engine.recovery().clean);
    sound(&engine);
    let depth = engine.queue("jobs").unwrap().messages;
    let consumer = consume(&engine, "jobs", 0);
    let mut found = BTreeSet::new();
    for delivery in ready(&consumer) {
        let offset = delivery.offset().0;
        assert!(delivery.damage().is_none(), "message {offset}");
        assert!(delivery.payload() == pattern(offset, BYTES), "message {offset}");
        assert!(found.insert(offset), "message {offset} twice");
        if offset % 2 == 0 {
            delivery.ack().unwrap();
        } else {
            delivery.keep();
        }
    }
    drop(consumer);
    assert_eq!(depth, found.len() as u64, "the depth is what can be delivered");
    let lost: BTreeSet<u64> = (0..messages).filter(|number| !found.contains(number)).collect();
    for number in &lost {
        let told = gaps.iter().any(|gap| gap.from.0 <= *number && *number < gap.to.0);
        assert!(told, "message {number} is missing without a word: {gaps:?}");
    }
    for gap in &gaps {
        let told: Vec<u64> = (gap.from.0..gap.to.0).filter(|n| found.contains(n)).collect();
        assert!(told.is_empty(), "{gap:?} speaks of {told:?}, which are there");
        assert!(!gap.reason.is_empty());
    }
    let new = publish(&engine, "jobs", b"new");
    assert!(new >= messages, "offset {new} is given a second time");
    settle(&engine);
    engine.close(Duration::ZERO).unwrap();
    // From now on it is a store like any other.
    let engine = machine.open();
    assert!(engine.recovery().clean, "{:?}", engine.recovery());
    assert!(engine.recovery().gaps.is_empty());
    sound(&engine);
    let rest: Vec<u64> =
        ready(&consume(&engine, "jobs", 0)).iter().map(|message| message.offset().0).collect();
    let odd = found.iter().copied().filter(|number| number % 2 == 1);
    assert_eq!(rest, odd.chain([new]).collect::<Vec<_>>());
    Outcome { lost, gaps }
}

/// A store on a real disk that is opened for reading only, around the damage.
#[track_caller]
fn read_only_writes_nothing(machine: &Machine) {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in machine.files() {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let before = directory(dir.path());
    let config = Config { on_damage: OnDamage::Quarantine, ..Config::default() };
    let engine = Engine::open_read_only(dir.path(), config).unwrap();
    let shown = engine.browse("jobs").unwrap().map(Result::unwrap);
    for message in shown {
        assert!(message.payload.as_ref() == pattern(message.offset.0, BYTES));
    }
    let report = engine.check(&mut |_| {}).unwrap();
    assert!(!report.problems.is_empty(), "the damage is still there");
    drop(engine);
    assert!(directory(dir.path()) == before);
}

#[test]
fn without_the_newest_checkpoint_the_older_one_serves_and_nothing_is_lost() {
    let machine = closed_store(300);
    let newest = names(&machine, is_checkpoint).pop().unwrap();
    machine.disk.remove_file(&newest).unwrap();
    let outcome = around(&machine, 300);
    assert!(outcome.lost.is_empty());
    assert!(outcome.gaps[0].reason.contains("only checkpoint"), "{:?}", outcome.gaps);
}

#[test]
fn a_damaged_newest_checkpoint_is_kept_aside_and_the_older_one_serves() {
    let machine = closed_store(300);
    let newest = names(&machine, is_checkpoint).pop().unwrap();
    let length = machine.disk.read_file(&newest).unwrap().len() as u64;
    for position in (0..length).step_by(101).filter(|position| !(8..12).contains(position)) {
        let trial = copy_of(&machine);
        trial.disk.corrupt(&newest, position, 4).unwrap();
        let damaged = trial.disk.read_file(&newest).unwrap();
        assert!(around(&trial, 300).lost.is_empty());
        let kept = trial.disk.read_file(&format!("damaged-{newest}")).unwrap();
        assert!(kept == damaged, "the damaged file is kept as it was");
    }
}

#[test]
fn a_missing_segment_costs_its_own_messages_and_no_other() {
    let machine = closed_store(300);
    let all = segments(&machine);
    assert!(all.len() > 3);
    for name in &all {
        let trial = copy_of(&machine);
        let gone = held(&trial, name, 300);
        trial.disk.remove_file(name).unwrap();
        let outcome = around(&trial, 300);
        assert_eq!(outcome.lost, gone, "{name}");
        assert!(outcome.gaps.iter().any(|gap| gap.path == Path::new("memory").join(name)));
    }
}

#[test]
fn a_damaged_segment_header_costs_nothing() {
    let machine = closed_store(300);
    for name in segments(&machine) {
        for position in [0, 20, 40, 60, 90, 2000, 4095] {
            let trial = copy_of(&machine);
            trial.disk.corrupt(&name, position, 0x80).unwrap();
            assert!(around(&trial, 300).lost.is_empty(), "{name} {position}");
        }
    }
}

#[test]
fn a_segment_cut_short_costs_what_was_cut_off() {
    let machine = closed_store(300);
    for name in segments(&machine) {
        for bytes in [0, 100, 4096, 8192, 20_480, 40_000] {
            let trial = copy_of(&machine);
            trial.disk.truncate(&name, bytes).unwrap();
            let left = held(&trial, &name, 300);
            let gone: BTreeSet<u64> = &held(&machine, &name, 300) - &left;
            assert_eq!(around(&trial, 300).lost, gone, "{name} {bytes}");
        }
    }
}

#[test]
fn a_damaged_footer_costs_nothing_and_is_written_anew() {
    let machine = closed_store(300);
    for name in segments(&machine) {
        let bytes = machine.disk.read_file(&name).unwrap();
        if !bytes[bytes.len() - 64..].starts_with(b"fanlogTR") {
            continue;
        }
        let trial = copy_of(&machine);
        trial.disk.corrupt(&name, bytes.len() as u64 - 20, 0x80).unwrap();
        assert!(quarantined(&trial, 300).lost.is_empty(), "{name}");
    }
}

#[test]
fn swapped_and_renamed_segments_are_found_by_their_headers() {
    let machine = closed_store(300);
    let all = segments(&machine);
    let trial = copy_of(&machine);
    let read = |name: &str| machine.disk.read_file(name).unwrap();
    trial.disk.write_file(&all[0], &read(&all[1])).unwrap();
    trial.disk.write_file(&all[1], &read(&all[0])).unwrap();
    assert!(around(&trial, 300).lost.is_empty());
    let trial = copy_of(&machine);
    trial.disk.remove_file(&all[1]).unwrap();
    trial.disk.write_file("00000077.seg", &read(&all[1])).unwrap();
    assert!(around(&trial, 300).lost.is_empty());
}

#[test]
fn a_doubled_segment_is_told_and_costs_nothing() {
    let machine = closed_store(300);
    let all = segments(&machine);
    for other in ["00000077.seg", "00000001.3.seg", "00000099.1.seg"] {
        let trial = copy_of(&machine);
        trial.disk.write_file(other, &machine.disk.read_file(&all[1]).unwrap()).unwrap();
        let outcome = around(&trial, 300);
        assert!(outcome.lost.is_empty());
        assert!(outcome.gaps.iter().any(|gap| gap.path.ends_with(other)), "{:?}", outcome.gaps);
        let kept = trial.disk.read_file(&format!("damaged-{other}")).unwrap();
        assert!(kept == machine.disk.read_file(&all[1]).unwrap());
    }
}

#[test]
fn a_segment_of_another_store_is_never_delivered() {
    let (machine, other) = (closed_store(300), closed_store(300));
    for name in segments(&machine) {
        let trial = copy_of(&machine);
        let gone = held(&trial, &name, 300);
        trial.disk.write_file(&name, &other.disk.read_file(&name).unwrap()).unwrap();
        assert_eq!(around(&trial, 300).lost, gone, "{name}");
    }
    // A name that none of the own has.
    let name = &segments(&other)[0];
    machine.disk.write_file("00000088.seg", &other.disk.read_file(name).unwrap()).unwrap();
    assert!(around(&machine, 300).lost.is_empty());
}

#[test]
fn a_checkpoint_of_another_store_is_not_taken() {
    let machine = closed_store(300);
    let other = Machine::new();
    other.open().close(Duration::ZERO).unwrap();
    let newest = names(&machine, is_checkpoint).pop().unwrap();
    let foreign = names(&other, is_checkpoint).pop().unwrap();
    assert!(foreign <= newest);
    while names(&other, is_checkpoint).pop().unwrap() < newest {
        other.open().close(Duration::ZERO).unwrap();
    }
    let foreign = names(&other, |name| name == newest);
    if let Some(name) = foreign.first() {
        machine.disk.write_file(name, &other.disk.read_file(name).unwrap()).unwrap();
        assert!(around(&machine, 300).lost.is_empty());
    }
}

/// A copy from before its last messages came, put back later.
#[test]
fn an_aged_segment_gives_what_it_has() {
    let (machine, engine) = with_jobs();
    let mut old = None;
    let publisher = engine.publisher();
    for first in (0..300).step_by(3) {
        // Three to a batch leave little padding: rewriting would gain nothing.
        let payloads = [0, 1, 2].map(|more| pattern(first + more, BYTES));
        let messages = payloads.each_ref().map(|payload| Message::new("", "jobs", payload));
        let tickets = messages.each_ref().map(|message| publisher.publish(message).unwrap());
        assert!(tickets.iter().all(|ticket| ticket.wait().is_ok()));
        if first == 6 {
            old = Some(machine.disk.read_file("00000001.seg").unwrap());
        }
    }
    settle(&engine);
    engine.close(Duration::ZERO).unwrap();
    let all = held(&machine, "00000001.seg", 300);
    machine.disk.write_file("00000001.seg", &old.unwrap()).unwrap();
    let gone = &all - &held(&machine, "00000001.seg", 300);
    assert!(!gone.is_empty());
    assert_eq!(quarantined(&machine, 300).lost, gone);
}

/// Bytes below what is known to be durable, in the part that recovery reads.
#[test]
fn bad_bytes_in_the_tail_are_stepped_over() {
    let (machine, engine) = with_jobs();
    for number in 0..12 {
        publish(&engine, "jobs", &pattern(number, BYTES));
    }
    machine.clock.advance(Duration::from_secs(2));
    settle(&engine);
    let crashed = Machine {
        disk: machine.disk.crash_image(0, CrashMode::LoseUnsynced),
        clock: Arc::clone(&machine.clock),
    };
    for number in [0_u64, 7, 10, 11] {
        let holds = |name: &String| held(&crashed, name, 12).contains(&number);
        let name = segments(&crashed).into_iter().find(holds).unwrap();
        let bytes = crashed.disk.read_file(&name).unwrap();
        let at = position_of(&bytes, &pattern(number, BYTES)).unwrap() as u64;
        let batch = at / 4096 * 4096;
        // The payload, the record's length, the batch's header, its number, its mark.
        let record = at - 60;
        let hits = [
            (at + 5, true),
            (record, true),
            (batch + 3, false),
            (batch + 41, false),
            (at + 1000 + 16, false),
        ];
        for (position, loses) in hits {
            let trial = copy_of(&crashed);
            trial.disk.corrupt(&name, position, 0x11).unwrap();
            let lost = around(&trial, 12).lost;
            let expected = if loses { BTreeSet::from([number]) } else { BTreeSet::new() };
            assert!(lost == expected || lost.is_empty(), "{number} at {position}: {lost:?}");
        }
    }
}

#[test]
fn a_newer_version_is_refused_untouched_with_quarantine_too() {
    let machine = closed_store(100);
    for (name, position) in [
        (names(&machine, is_checkpoint).pop().unwrap(), 8),
        (segments(&machine).remove(0), 8),
        (segments(&machine).pop().unwrap(), 8),
    ] {
        machine.disk.corrupt(&name, position, 3).unwrap();
        // A flipped bit alone is damage.
        assert!(around(&copy_of(&machine), 100).lost.len() < 100, "{name}");
        machine.disk.corrupt(&name, 60, 1).unwrap();
        let before = machine.files();
        let error = machine.try_open(quarantine()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnsupportedVersion, "{error}");
        assert!(machine.files() == before);
        machine.disk.corrupt(&name, position, 3).unwrap();
        machine.disk.corrupt(&name, 60, 1).unwrap();
    }
}

#[test]
fn without_damage_nothing_is_quarantined() {
    let machine = closed_store(300);
    let engine = machine.open_with(quarantine());
    assert!(engine.recovery().clean && engine.recovery().gaps.is_empty());
    assert_eq!(engine.queue("jobs").unwrap().messages, 300);
    sound(&engine);
}

/// Neither of the two that are kept lists a file that is not there any more.
#[test]
fn after_quarantine_either_checkpoint_opens_the_store() {
    let machine = closed_store(300);
    let gone = held(&machine, &segments(&machine)[1], 300);
    machine.disk.remove_file(&segments(&machine)[1]).unwrap();
    let engine = machine.open_with(quarantine());
    let crashed = machine.power_cut();
    drop(engine);
    let newest = names(&crashed, is_checkpoint).pop().unwrap();
    crashed.disk.corrupt(&newest, 70, 1).unwrap();
    let engine = crashed.open_with(quarantine());
    assert_eq!(engine.recovery().gaps.len(), 1, "{:?}", engine.recovery().gaps);
    assert_eq!(engine.queue("jobs").unwrap().messages, 300 - gone.len() as u64);
    sound(&engine);
}

/// A damaged message is one delivery like any other.
#[test]
fn a_damaged_message_is_held_rejected_requeued_and_acked_like_any_other() {
    let machine = closed_store(100);
    let name = &segments(&machine)[0];
    let bytes = machine.disk.read_file(name).unwrap();
    let at = position_of(&bytes, &pattern(1, BYTES)).unwrap() as u64;
    machine.disk.corrupt(name, at + 9, 0x20).unwrap();
    let engine = machine.open();
    let consumer = consume(&engine, "jobs", 2);
    let mut taken = ready(&consumer);
    assert_eq!(taken.len(), 2, "it takes its place in the prefetch");
    let damage = taken[1].damage().unwrap().clone();
    assert_eq!((damage.offset.0, damage.path.file_name().unwrap()), (1, name.as_ref()));
    assert!(damage.position <= at && at < damage.position + 100);
    let text = damage.to_string();
    assert!(text.contains(name) && text.contains(&damage.position.to_string()), "{text}");
    // Requeued it comes back to its place, with a tag of its own.
    let first = taken[1].tag();
    taken.pop().unwrap().nack(true).unwrap();
    let again = ready(&consumer).remove(0);
    assert!(again.offset().0 == 1 && again.damage().is_some() && again.redelivered());
    assert!(again.tag() > first);
    again.nack(false).unwrap();
    // What is behind it comes at once.
    assert_eq!(ready(&consumer)[0].offset().0, 2);
    drop(taken);
    drop(consumer);
    let consumer = consume(&engine, "jobs", 0);
    let tags: Vec<_> = ready(&consumer).into_iter().map(fanlog::Delivery::keep).collect();
    assert_eq!(tags.len(), 99, "all but the one that was rejected");
    for tag in tags {
        consumer.ack(tag).unwrap();
    }
    machine.clock.advance(Duration::from_secs(1));
    settle(&engine);
    assert_eq!(engine.queue("jobs").unwrap().messages, 0);
    sound_but_for_damage(&engine);
}

#[track_caller]
fn sound_but_for_damage(engine: &Engine) {
    let problems = engine.check(&mut |_| {}).unwrap().problems;
    assert!(problems.iter().all(|problem| !problem.text.contains("should hold")), "{problems:?}");
}

/// A store whose process died after its first segment had ended with a batch in which only a queue is
/// deleted: the segment's name, and where that batch is.
fn ended_with_a_deletion() -> (Machine, String, usize) {
    const BLOCK: usize = 4096;
    let (machine, engine) = with_jobs();
    engine.declare_queue("gone").unwrap();
    for number in 0..9 {
        publish(&engine, "jobs", &pattern(number, BYTES));
    }
    engine.delete_queue("gone").unwrap();
    // It does not fit behind that.
    publish(&engine, "jobs", &pattern(9, 30_000));
    drop(engine);
    let machine = machine.power_cut();
    let name = segments(&machine).swap_remove(0);
    let bytes = machine.disk.read_file(&name).unwrap();
    let mut batches = (0..bytes.len()).step_by(BLOCK);
    let last = batches.rfind(|at| bytes[*at..].starts_with(b"fanlogBH")).unwrap();
    assert_eq!(bytes[last + 84..last + 88], [0; 4], "it has no messages");
    (machine, name, last)
}

#[test]
fn a_batch_of_changes_alone_at_the_end_of_a_segment_is_read_without_its_header() {
    let (machine, name, last) = ended_with_a_deletion();
    machine.disk.corrupt(&name, last as u64 + 41, 2).unwrap();
    assert_eq!(machine.try_open(stepped()).map(drop).unwrap_err().kind(), ErrorKind::Corrupt);
    let engine = machine.open_with(quarantine());
    let gaps = &engine.recovery().gaps;
    assert!(
        gaps.iter().all(|gap| !gap.controls && gap.from == gap.to),
        "nothing is lost: {gaps:?}"
    );
    assert_eq!(gaps.len(), 1);
    assert_eq!(engine.queue("gone").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(engine.queue("jobs").unwrap().messages, 10);
    sound(&engine);
}

#[test]
fn changes_that_are_lost_at_the_end_of_a_segment_are_told() {
    let (machine, name, last) = ended_with_a_deletion();
    let mut bytes = machine.disk.read_file(&name).unwrap();
    bytes[last..last + 4096].fill(0);
    machine.disk.write_file(&name, &bytes).unwrap();
    assert_eq!(machine.try_open(stepped()).map(drop).unwrap_err().kind(), ErrorKind::Corrupt);
    let engine = machine.open_with(quarantine());
    let gaps = &engine.recovery().gaps;
    assert!(gaps.iter().any(|gap| gap.controls), "{gaps:?}");
    assert_eq!(engine.queue("jobs").unwrap().messages, 10);
    sound(&engine);
}

/// Numbers that lost bytes may have had are passed over, but not those of what follows.
#[test]
fn a_lost_batch_at_the_end_of_a_segment_costs_nothing_of_the_next() {
    let (machine, engine) = with_jobs();
    for number in 0..3 {
        publish(&engine, "jobs", &pattern(number, BYTES));
    }
    publish(&engine, "jobs", &pattern(3, 50_000));
    publish(&engine, "jobs", &pattern(4, BYTES));
    drop(engine);
    let machine = machine.power_cut();
    let name = segments(&machine).swap_remove(0);
    let mut bytes = machine.disk.read_file(&name).unwrap();
    let lost = position_of(&bytes, &pattern(2, BYTES)).unwrap() / 4096 * 4096;
    bytes[lost..lost + 4096].fill(0);
    machine.disk.write_file(&name, &bytes).unwrap();
    let engine = machine.open_with(quarantine());
    let gaps = &engine.recovery().gaps;
    assert!(gaps.iter().any(|gap| (gap.from.0, gap.to.0) == (2, 3)), "{gaps:?}");
    let left: Vec<u64> =
        engine.browse("jobs").unwrap().map(|message| message.unwrap().offset.0).collect();
    assert_eq!(left, [0, 1, 3, 4]);
    sound(&engine);
}
