//! Damage: told with file and position, never read as an end, never made worse.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use fanlog::{
    Config, Engine, Error, ErrorKind, Message, OnDamage,
    clock::ManualClock,
    storage::{CrashMode, MemoryStorage},
};

use crate::support::{
    Machine, consume, is_checkpoint, is_segment, next, pattern, position_of, publish,
    publish_numbers, ready, settle, sound, stepped, with_jobs,
};

const BYTES: usize = 1000;

/// A store of several sealed segments, closed. Message `n` is `pattern(n, BYTES)`.
fn sealed_store(messages: u64) -> Machine {
    let (machine, engine) = with_jobs();
    for number in 0..messages {
        publish(&engine, "jobs", &pattern(number, BYTES));
        if number % 10 == 9 {
            settle(&engine);
        }
    }
    settle(&engine);
    assert!(engine.stats().segments > 3);
    engine.close(Duration::ZERO).unwrap();
    machine
}

/// Which file holds message `number`, and where its payload starts there.
fn find(machine: &Machine, number: u64) -> (String, u64) {
    let payload = pattern(number, BYTES);
    let files = machine.files();
    let found = files.iter().find_map(|(name, bytes)| {
        let at = position_of(bytes, &payload)?;
        is_segment(name).then_some((name.clone(), at as u64))
    });
    found.unwrap()
}

/// Names of the checkpoints.
fn checkpoints(machine: &Machine) -> Vec<String> {
    machine.files().into_keys().filter(|name| is_checkpoint(name)).collect()
}

/// Names of the segments that were begun: files prepared ahead have a blank first block.
fn segments(machine: &Machine) -> Vec<String> {
    let begun = machine.files().into_iter().filter(|(_, bytes)| bytes.starts_with(b"fanlogSG"));
    begun.map(|(name, _)| name).filter(|name| is_segment(name)).collect()
}

/// Opening fails as damage, names `name`, and leaves every byte alone. Returns the position.
#[track_caller]
fn refused(machine: &Machine, name: &str) -> u64 {
    let before = machine.files();
    let error = machine.try_open(stepped()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(error.path(), Some(Path::new("memory").join(name).as_path()), "{error}");
    assert!(error.to_string().contains(name), "{error}");
    assert!(machine.files() == before, "something on disk was changed");
    error.position().unwrap()
}

#[test]
fn a_damaged_message_of_a_sealed_segment_is_delivered_as_damaged_and_its_neighbours_are_fine() {
    let machine = sealed_store(300);
    let (name, at) = find(&machine, 20);
    machine.disk.corrupt(&name, at + 500, 0x10).unwrap();
    let engine = machine.open();
    let consumer = consume(&engine, "jobs", 0);
    let deliveries = ready(&consumer);
    assert_eq!(deliveries.len(), 300);
    for (number, delivery) in (0..).zip(&deliveries) {
        assert_eq!(delivery.offset().0, number);
        if number == 20 {
            let damage = delivery.damage().unwrap();
            assert_eq!(damage.offset.0, 20);
            assert_eq!(damage.path, Path::new("memory").join(&name));
            assert!(damage.position < at && damage.position + 200 > at, "{damage:?}");
            assert!(delivery.payload().is_empty());
        } else {
            assert!(delivery.damage().is_none(), "message {number}");
            assert!(delivery.payload() == pattern(number, BYTES), "message {number}");
        }
    }
    let report = engine.check(&mut |_| {}).unwrap();
    assert!(report.problems.iter().any(|problem| problem.path.ends_with(&name)), "{report:?}");
    // It is settled like any other, and holds up nothing.
    for delivery in deliveries {
        delivery.ack().unwrap();
    }
    machine.clock.advance(Duration::from_secs(1));
    settle(&engine);
    assert!(ready(&consume(&machine.killed().open(), "jobs", 0)).is_empty());
    assert_eq!(engine.queue("jobs").unwrap().messages, 0);
}

#[test]
fn a_damaged_record_head_costs_one_message_and_no_neighbour() {
    let machine = sealed_store(300);
    let (name, at) = find(&machine, 33);
    for back in [20, 40, 60] {
        let trial = Machine { disk: machine.disk.deep_copy(), clock: Arc::default() };
        trial.disk.corrupt(&name, at - back, 0x40).unwrap();
        let engine = trial.open();
        let consumer = consume(&engine, "jobs", 0);
        let mut whole = BTreeSet::new();
        for delivery in ready(&consumer) {
            if delivery.damage().is_none() {
                assert!(delivery.payload() == pattern(delivery.offset().0, BYTES));
                whole.insert(delivery.offset().0);
            }
            delivery.keep();
        }
        let lost: Vec<u64> = (0..300).filter(|number| !whole.contains(number)).collect();
        assert!(lost == [33] || lost.is_empty(), "{back} bytes before the payload: {lost:?}");
    }
}

#[test]
fn browsing_shows_a_damaged_message_in_its_place() {
    let machine = sealed_store(300);
    let (name, at) = find(&machine, 5);
    machine.disk.corrupt(&name, at, 1).unwrap();
    let engine = machine.open();
    let shown: Vec<_> = engine.browse("jobs").unwrap().map(Result::unwrap).collect();
    assert_eq!(shown.len(), 300);
    assert!((0..).zip(&shown).all(|(at, message)| message.damage.is_some() == (at == 5)));
}

/// The bytes of a sealed segment's footer.
fn footer_of(machine: &Machine, name: &str) -> std::ops::Range<u64> {
    let bytes = machine.disk.read_file(name).unwrap();
    let trailer = &bytes[bytes.len() - 64..];
    assert!(trailer.starts_with(b"fanlogTR"));
    u64::from_le_bytes(trailer[8..16].try_into().unwrap())..bytes.len() as u64
}

#[test]
fn a_damaged_footer_is_made_anew_from_the_batches_and_checking_tells() {
    let machine = sealed_store(300);
    let (name, _) = find(&machine, 100);
    let footer = footer_of(&machine, &name);
    let ends = [footer.start, footer.start + 90, footer.start + 140, footer.end - 64];
    for position in ends.into_iter().chain([footer.end - 50, footer.end - 1]) {
        let trial = Machine { disk: machine.disk.deep_copy(), clock: Arc::default() };
        trial.disk.corrupt(&name, position, 0x21).unwrap();
        let engine = trial.open();
        let report = engine.check(&mut |_| {}).unwrap();
        let told = |problem: &fanlog::check::Problem| {
            problem.path.ends_with(&name) && problem.text.contains("footer")
        };
        assert!(report.problems.iter().any(told), "{position}: {:?}", report.problems);
        let consumer = consume(&engine, "jobs", 0);
        for number in 0..300 {
            let delivery = next(&consumer);
            assert!(delivery.damage().is_none());
            assert!(delivery.payload() == pattern(number, BYTES), "message {number}");
            delivery.keep();
        }
    }
}

#[test]
fn a_segment_whose_footer_and_a_batch_header_are_damaged_still_gives_every_message() {
    let machine = sealed_store(300);
    let (name, at) = find(&machine, 100);
    let footer = footer_of(&machine, &name);
    machine.disk.corrupt(&name, footer.start + 3, 0x21).unwrap();
    let batch = at / 4096 * 4096;
    machine.disk.corrupt(&name, batch + 20, 0x21).unwrap();
    let engine = machine.open();
    let consumer = consume(&engine, "jobs", 0);
    for number in 0..300 {
        let delivery = next(&consumer);
        assert!(delivery.payload() == pattern(number, BYTES), "message {number}");
        delivery.keep();
    }
}

/// Without its footer nothing says whose a message was that is damaged as well.
#[test]
fn a_damaged_footer_above_a_damaged_message_is_an_error_that_names_the_file_and_skips_nothing() {
    let machine = sealed_store(300);
    let (name, at) = find(&machine, 2);
    let footer = footer_of(&machine, &name);
    machine.disk.corrupt(&name, footer.end - 20, 0xff).unwrap();
    machine.disk.corrupt(&name, at + 5, 0xff).unwrap();
    let engine = machine.open();
    let consumer = consume(&engine, "jobs", 10);
    let error = consumer.recv_timeout(Duration::ZERO).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.path().unwrap().ends_with(&name) && error.position().is_some(), "{error}");
    // Asked again it does not go on behind the hole as if nothing was there.
    assert!(consumer.recv_timeout(Duration::ZERO).is_err());
}

/// What stood in the file before its last messages came: same number, generation, first offset.
#[test]
fn an_older_copy_of_a_sealed_segment_is_told_when_it_is_read() {
    let (machine, engine) = with_jobs();
    let mut old = None;
    for number in 0..200 {
        // A batch each, with little padding: rewriting would gain nothing.
        publish(&engine, "jobs", &pattern(number, 3800));
        if number == 5 {
            old = Some(machine.disk.read_file("00000001.seg").unwrap());
        }
    }
    settle(&engine);
    engine.close(Duration::ZERO).unwrap();
    machine.disk.write_file("00000001.seg", &old.unwrap()).unwrap();
    let engine = machine.open();
    let consumer = consume(&engine, "jobs", 10);
    let error = consumer.recv_timeout(Duration::ZERO).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.path().unwrap().ends_with("00000001.seg"), "{error}");
}

#[test]
fn a_flipped_bit_anywhere_in_the_checkpoint_is_told_and_nothing_is_changed() {
    let machine = sealed_store(100);
    let newest = checkpoints(&machine).pop().unwrap();
    let length = machine.disk.read_file(&newest).unwrap().len() as u64;
    for position in (0..length).step_by(7) {
        // The version has an error of its own.
        if (8..12).contains(&position) {
            continue;
        }
        machine.disk.corrupt(&newest, position, 4).unwrap();
        refused(&machine, &newest);
        machine.disk.corrupt(&newest, position, 4).unwrap();
    }
    sound(&machine.open());
}

#[test]
fn a_checkpoint_that_was_cut_short_is_told_and_nothing_is_changed() {
    let machine = sealed_store(100);
    let newest = checkpoints(&machine).pop().unwrap();
    let whole = machine.disk.read_file(&newest).unwrap();
    for bytes in [0, 1, 8, 63, 64, 100, whole.len() - 1] {
        machine.disk.truncate(&newest, bytes as u64).unwrap();
        refused(&machine, &newest);
    }
    machine.disk.write_file(&newest, &[&whole[..], &[0; 10]].concat()).unwrap();
    refused(&machine, &newest);
    machine.disk.write_file(&newest, &whole).unwrap();
    sound(&machine.open());
}

#[test]
fn a_damaged_header_of_a_listed_segment_is_told() {
    let machine = sealed_store(300);
    for name in segments(&machine) {
        for position in [0, 12, 20, 40, 60, 90, 2000, 4095] {
            machine.disk.corrupt(&name, position, 0x80).unwrap();
            refused(&machine, &name);
            machine.disk.corrupt(&name, position, 0x80).unwrap();
        }
    }
    sound(&machine.open());
}

#[test]
fn a_missing_segment_is_told() {
    let machine = sealed_store(300);
    for name in segments(&machine) {
        let bytes = machine.disk.read_file(&name).unwrap();
        machine.disk.remove_file(&name).unwrap();
        refused(&machine, &name);
        machine.disk.write_file(&name, &bytes).unwrap();
    }
    sound(&machine.open());
}

#[test]
fn a_segment_that_was_cut_short_is_told_with_the_place_where_it_ends() {
    let machine = sealed_store(300);
    for name in segments(&machine) {
        let whole = machine.disk.read_file(&name).unwrap();
        for bytes in [0, 100, 4096, 8192, 40_000] {
            machine.disk.truncate(&name, bytes).unwrap();
            assert_eq!(refused(&machine, &name), bytes);
        }
        machine.disk.write_file(&name, &whole).unwrap();
    }
    sound(&machine.open());
}

#[test]
fn a_segment_under_the_name_of_another_is_told() {
    let machine = sealed_store(300);
    let names = segments(&machine);
    let (one, two) = (&names[0], &names[1]);
    let (first, second) =
        (machine.disk.read_file(one).unwrap(), machine.disk.read_file(two).unwrap());
    machine.disk.write_file(one, &second).unwrap();
    machine.disk.write_file(two, &first).unwrap();
    refused(&machine, one);
}

#[test]
fn a_segment_of_another_store_is_told() {
    let (machine, other) = (sealed_store(300), sealed_store(300));
    for name in segments(&machine) {
        let own = machine.disk.read_file(&name).unwrap();
        machine.disk.write_file(&name, &other.disk.read_file(&name).unwrap()).unwrap();
        refused(&machine, &name);
        machine.disk.write_file(&name, &own).unwrap();
    }
}

#[test]
fn an_older_checkpoint_under_the_name_of_the_newest_is_told() {
    let machine = sealed_store(100);
    let names = checkpoints(&machine);
    assert_eq!(names.len(), 2);
    let older = machine.disk.read_file(&names[0]).unwrap();
    machine.disk.write_file(&names[1], &older).unwrap();
    refused(&machine, &names[1]);
}

#[test]
fn segments_without_any_checkpoint_are_no_empty_directory() {
    let machine = sealed_store(100);
    for name in checkpoints(&machine) {
        machine.disk.remove_file(&name).unwrap();
    }
    let first = segments(&machine).remove(0);
    refused(&machine, &first);
}

/// Also after a crash: the older one is removed only after the next has its name.
#[test]
fn a_missing_checkpoint_is_told_whichever_it_was() {
    let machine = sealed_store(300);
    let names = checkpoints(&machine);
    assert_eq!(names.len(), 2);
    for (gone, left) in [(0, 1), (1, 0)] {
        let trial = Machine { disk: machine.disk.deep_copy(), clock: Arc::default() };
        trial.disk.remove_file(&names[gone]).unwrap();
        refused(&trial, &names[left]);
    }
    sound(&machine.open());
}

#[test]
fn a_segment_under_a_second_name_is_told() {
    let machine = sealed_store(300);
    let all = segments(&machine);
    let bytes = machine.disk.read_file(&all[1]).unwrap();
    for name in ["00000077.seg", "00000077.2.seg", "00000001.1.seg"] {
        let trial = Machine { disk: machine.disk.deep_copy(), clock: Arc::default() };
        trial.disk.write_file(name, &bytes).unwrap();
        refused(&trial, name);
    }
}

#[test]
fn a_file_of_another_store_is_told_under_any_name() {
    let (machine, other) = (sealed_store(300), sealed_store(300));
    let foreign = other.disk.read_file(&segments(&other)[0]).unwrap();
    for name in ["00000077.seg", "00000099.seg"] {
        let trial = Machine { disk: machine.disk.deep_copy(), clock: Arc::default() };
        trial.disk.write_file(name, &foreign).unwrap();
        refused(&trial, name);
    }
    let newest = checkpoints(&machine).pop().unwrap();
    let foreign = other.disk.read_file(&checkpoints(&other).pop().unwrap()).unwrap();
    machine.disk.write_file(&newest, &foreign).unwrap();
    refused(&machine, &newest);
}

/// A later batch proves that the earlier one was durable.
#[test]
fn a_flipped_bit_below_the_durable_position_is_damage_and_not_a_torn_tail() {
    let (machine, engine) = with_jobs();
    for number in 0..20 {
        publish(&engine, "jobs", &pattern(number, BYTES));
    }
    let crashed = machine.power_cut();
    let (name, at) = find(&crashed, 7);
    crashed.disk.corrupt(&name, at + 3, 1).unwrap();
    let position = refused(&crashed, &name);
    assert!(position <= at + 3 && position + 4096 + 200 > at, "{position} {at}");
}

#[test]
fn after_a_clean_close_the_last_batch_can_not_be_a_torn_tail() {
    let (machine, engine) = with_jobs();
    for number in 0..5 {
        publish(&engine, "jobs", &pattern(number, BYTES));
    }
    engine.close(Duration::ZERO).unwrap();
    let (name, at) = find(&machine, 4);
    machine.disk.corrupt(&name, at, 1).unwrap();
    refused(&machine, &name);
}

/// Asserts that after a power cut a changed byte of the first message is damage, and no torn tail.
#[track_caller]
fn is_vouched_for(machine: &Machine) {
    let crashed = machine.power_cut();
    let (name, at) = find(&crashed, 0);
    crashed.disk.corrupt(&name, at, 1).unwrap();
    refused(&crashed, &name);
}

#[test]
fn a_mark_written_after_a_quiet_second_vouches_for_the_last_batch() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", &pattern(0, BYTES));
    machine.clock.advance(Duration::from_secs(1));
    settle(&engine);
    is_vouched_for(&machine);
}

#[test]
fn a_mark_vouches_for_a_message_that_was_synced_after_its_confirm_too() {
    let (machine, engine) = with_jobs();
    let message = pattern(0, BYTES);
    let message = Message::new("", "jobs", &message).buffered();
    engine.publisher().publish(&message).unwrap().wait().unwrap();
    for _ in 0..3 {
        machine.clock.advance(Duration::from_secs(1));
        settle(&engine);
    }
    is_vouched_for(&machine);
}

#[test]
fn a_header_that_did_not_stay_is_told_where_batches_follow_it() {
    let (machine, engine) = with_jobs();
    for number in 0..300 {
        publish(&engine, "jobs", &pattern(number, BYTES));
    }
    assert!(engine.stats().segments > 3);
    let crashed = machine.power_cut();
    let last = format!("{:08}.seg", engine.stats().segments);
    let mut bytes = crashed.disk.read_file(&last).unwrap();
    assert!(bytes.starts_with(b"fanlogSG"), "it was begun");
    bytes[..4096].fill(0);
    crashed.disk.write_file(&last, &bytes).unwrap();
    refused(&crashed, &last);
    let config = Config { on_damage: OnDamage::Quarantine, ..stepped() };
    let again = crashed.open_with(config);
    let report = again.recovery();
    assert!(!report.gaps.is_empty() || !report.set_aside.is_empty(), "{report:?}");
    assert_eq!(again.queue("jobs").unwrap().messages, 300, "the batches tell all");
    sound(&again);
}

/// Power is cut in the middle of the write of a batch; what a disk may leave of it is tried.
#[test]
fn a_torn_tail_is_cut_and_reported_and_nothing_confirmed_is_in_it() {
    let mut cuts = 0;
    for seed in 0..60 {
        let (machine, engine) = with_jobs();
        publish_numbers(&engine, "jobs", 10);
        machine.disk.cut_at(machine.disk.operation_count());
        let large = vec![7; 30_000];
        let ticket = engine.publisher().publish(&Message::new("", "jobs", &large)).unwrap();
        assert!(ticket.wait().is_err());
        let disk = machine.disk.crash_image(seed, CrashMode::Random);
        let crashed = Machine { disk, clock: Arc::new(ManualClock::new()) };
        let again = crashed.open();
        let found = again.queue("jobs").unwrap().messages;
        assert!(found == 10 || found == 11);
        for cut in &again.recovery().cuts {
            assert_eq!(found, 10);
            assert!(cut.path.to_string_lossy().ends_with(".seg"));
            assert!(cut.position >= 4096 && cut.bytes > 0 && !cut.reason.is_empty());
            cuts += 1;
        }
        assert_eq!(publish(&again, "jobs", b"next"), found);
        let expected = unacked_count(&again);
        let third = crashed.power_cut().open();
        assert!(third.recovery().cuts.is_empty(), "it is cut once");
        assert_eq!(unacked_count(&third), expected);
        sound(&third);
    }
    assert!(cuts > 5, "only {cuts} of 60 tails were torn");
}

fn unacked_count(engine: &Engine) -> u64 {
    engine.queue("jobs").unwrap().messages
}

#[test]
fn files_of_a_newer_version_are_refused_untouched() {
    let machine = sealed_store(100);
    let ahead = machine.disk.read_file(&segments(&machine)[0]).unwrap();
    machine.disk.write_file("00000077.seg", &ahead).unwrap();
    for (name, position) in [
        (checkpoints(&machine).pop().unwrap(), 8),
        (segments(&machine).remove(0), 8),
        (segments(&machine).pop().unwrap(), 8),
        ("00000077.seg".to_owned(), 8),
    ] {
        machine.disk.corrupt(&name, position, 3).unwrap();
        // Its checksum is over the version as well: a flipped bit alone is damage.
        machine.disk.corrupt(&name, 60, 1).unwrap();
        let before = machine.files();
        let error = machine.try_open(stepped()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnsupportedVersion, "{error}");
        assert!(error.path().unwrap().ends_with(&name));
        assert!(matches!(error, Error::UnsupportedVersion { .. }));
        assert!(machine.files() == before);
        machine.disk.corrupt(&name, position, 3).unwrap();
        machine.disk.corrupt(&name, 60, 1).unwrap();
    }
    machine.disk.remove_file("00000077.seg").unwrap();
    sound(&machine.open());
}

#[test]
fn unknown_files_are_left_alone_and_named() {
    let machine = sealed_store(100);
    let strangers =
        ["00000001.seg.bak", "1.seg", "notes.txt", "000000001.ckpt", "free-1.seg", "x.tmp"];
    for name in strangers {
        machine.disk.write_file(name, name.as_bytes()).unwrap();
    }
    let engine = machine.open();
    let mut expected: Vec<String> = strangers.map(str::to_owned).into();
    expected.sort_unstable();
    assert_eq!(engine.recovery().strangers, expected);
    publish(&engine, "jobs", b"more");
    settle(&engine);
    engine.checkpoint().unwrap();
    settle(&engine);
    drop(engine);
    for name in strangers {
        assert_eq!(machine.disk.read_file(name).unwrap(), name.as_bytes());
    }
}

#[test]
fn left_over_temporary_files_are_removed() {
    let machine = sealed_store(100);
    let leftovers = ["00000099.ckpt.tmp", "00000099.1.seg.tmp", "probe-7-7.tmp"];
    for name in leftovers {
        machine.disk.write_file(name, b"half").unwrap();
    }
    drop(machine.open());
    let left = machine.files();
    assert!(leftovers.iter().all(|name| !left.contains_key(*name)), "{:?}", left.keys());
}

/// Whatever byte is hit: an error, or the right bytes, or a message told to be damaged.
#[test]
fn a_flipped_bit_anywhere_never_gives_wrong_bytes_and_never_panics() {
    let machine = sealed_store(150);
    let files: Vec<(String, Vec<u8>)> = machine
        .files()
        .into_iter()
        .filter(|(name, bytes)| !bytes.is_empty() && !name.starts_with("free-"))
        .collect();
    let (mut errors, mut damaged, mut fine) = (0, 0, 0);
    let mut state = 1u64;
    for trial in 0..400 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (name, bytes) = &files[usize::try_from(state >> 33).unwrap() % files.len()];
        let position = (state >> 7) % bytes.len() as u64;
        let bit = 1 << (state >> 61);
        let disk: MemoryStorage = machine.disk.deep_copy();
        disk.corrupt(name, position, bit).unwrap();
        let hit = Machine { disk, clock: Arc::default() };
        let engine = match hit.try_open(stepped()) {
            Ok(engine) => engine,
            Err(error) => {
                let kind = error.kind();
                let typed = matches!(kind, ErrorKind::Corrupt | ErrorKind::UnsupportedVersion);
                assert!(typed, "trial {trial}, {name} at {position}: {error}");
                errors += 1;
                continue;
            }
        };
        let consumer = consume(&engine, "jobs", 0);
        loop {
            match consumer.recv_timeout(Duration::ZERO) {
                Ok(Some(delivery)) if delivery.damage().is_some() => {
                    damaged += 1;
                    delivery.keep();
                }
                Ok(Some(delivery)) => {
                    let right = delivery.payload() == pattern(delivery.offset().0, BYTES);
                    assert!(right, "trial {trial}, {name} at {position}");
                    fine += 1;
                    delivery.keep();
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "trial {trial}: {error}");
                    errors += 1;
                    break;
                }
            }
        }
    }
    assert!(errors > 10 && damaged > 10 && fine > 10_000, "{errors} {damaged} {fine}");
}

#[test]
fn verifying_tells_what_is_damaged_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = fanlog::Config { stepped: false, ..stepped() };
    let engine = Engine::open(dir.path(), config).unwrap();
    engine.declare_queue("jobs").unwrap();
    for number in 0..200 {
        publish(&engine, "jobs", &pattern(number, BYTES));
    }
    engine.close(Duration::from_secs(30)).unwrap();
    let report = fanlog::check::verify(dir.path(), &mut |_| {}).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!((report.messages, report.queues), (200, 1));
    let mut segments: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .collect();
    segments.sort();
    let path = segments
        .iter()
        .find(|path| position_of(&std::fs::read(path).unwrap(), &pattern(2, BYTES)).is_some())
        .unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let at = position_of(&bytes, &pattern(2, BYTES)).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, &bytes).unwrap();
    let before = crate::support::directory(dir.path());
    let report = fanlog::check::verify(dir.path(), &mut |_| {}).unwrap();
    assert!(report.problems.iter().any(|problem| problem.path == *path), "{:?}", report.problems);
    assert!(crate::support::directory(dir.path()) == before);
}

#[test]
fn a_directory_in_the_place_of_a_segment_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), stepped()).unwrap();
    engine.declare_queue("jobs").unwrap();
    publish(&engine, "jobs", b"a");
    engine.close(Duration::ZERO).unwrap();
    let segment = dir.path().join("00000001.seg");
    std::fs::remove_file(&segment).unwrap();
    std::fs::create_dir(&segment).unwrap();
    let error = Engine::open(dir.path(), stepped()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(error.path(), Some(segment.as_path()));
}
