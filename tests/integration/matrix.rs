//! Damage of every kind to every structure of a closed store.
//!
//! Whatever is changed, always one of these: opening fails with an error that names the file, and
//! changes nothing; or it opens, and each message comes, whole or told to be damaged, or an error says
//! why not; never wrong bytes, never one dropped without a word. A repair then gives all that is not
//! named as missing, and leaves a store in which nothing is wrong.

use std::{collections::BTreeSet, time::Duration};

use fanlog::{Config, ErrorKind, Message, OnDamage, storage::MemoryStorage};

use crate::support::{
    Machine, consume, is_checkpoint, is_segment, pattern, publish, settle, sound, stepped,
    with_jobs,
};

const BYTES: usize = 900;
const MESSAGES: u64 = 90;
const BLOCK: usize = 4096;

/// What came of the trials.
#[derive(Debug, Default)]
struct Tally {
    refused: usize,
    told: usize,
    harmless: usize,
    repaired: usize,
}

/// A store of several segments and one that is appended to, closed; message `n` is `pattern(n, BYTES)`.
fn closed_store() -> Machine {
    let (machine, engine) = with_jobs();
    for number in 0..MESSAGES {
        publish(&engine, "jobs", &pattern(number, BYTES));
        if number % 10 == 9 {
            settle(&engine);
        }
    }
    settle(&engine);
    engine.close(Duration::ZERO).unwrap();
    assert!(segments(&machine).len() > 4);
    machine
}

/// Names of the segments that were begun, in order.
fn segments(machine: &Machine) -> Vec<String> {
    let begun = machine.files().into_iter().filter(|(_, bytes)| bytes.starts_with(b"fanlogSG"));
    begun.map(|(name, _)| name).filter(|name| is_segment(name)).collect()
}

fn checkpoints(machine: &Machine) -> Vec<String> {
    machine.files().into_keys().filter(|name| is_checkpoint(name)).collect()
}

fn copy(machine: &Machine) -> Machine {
    let disk: MemoryStorage = machine.disk.deep_copy();
    Machine { disk, clock: std::sync::Arc::clone(&machine.clock) }
}

/// Opens a damaged store as it is, and reads all of it.
#[track_caller]
fn judge(hit: &Machine, what: &str, tally: &mut Tally) {
    let before = hit.files();
    let as_it_is = copy(hit);
    let engine = match as_it_is.try_open(stepped()) {
        Ok(engine) => engine,
        Err(error) => {
            let typed = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnsupportedVersion);
            assert!(typed && error.path().is_some(), "{what}: {error}");
            assert!(as_it_is.files() == before, "{what}: opening failed and changed something");
            tally.refused += 1;
            return;
        }
    };
    let consumer = consume(&engine, "jobs", 0);
    let mut came = BTreeSet::new();
    let mut told = 0;
    loop {
        match consumer.recv_timeout(Duration::ZERO) {
            Ok(None) => break,
            Ok(Some(delivery)) => {
                let offset = delivery.offset().0;
                assert!(came.insert(offset), "{what}: message {offset} twice");
                if delivery.damage().is_some() {
                    told += 1;
                } else {
                    assert!(delivery.payload() == pattern(offset, BYTES), "{what}: {offset}");
                }
                delivery.keep();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
                assert!(error.path().is_some(), "{what}: {error}");
                tally.told += 1;
                return;
            }
        }
    }
    assert!(came.iter().copied().eq(0..MESSAGES), "{what}: dropped without a word: {came:?}");
    let problems = engine.check(&mut |_| {}).unwrap().problems.len();
    assert!(told == 0 || problems > 0, "{what}: checking does not find it");
    if problems > 0 { tally.told += 1 } else { tally.harmless += 1 }
}

/// Repairs a damaged store: what is not named as missing is there, and nothing is wrong any more.
#[track_caller]
fn repair(hit: &Machine, what: &str, tally: &mut Tally) {
    let config = Config { on_damage: OnDamage::Repair, ..stepped() };
    let engine = match hit.try_open(config) {
        Ok(engine) => engine,
        Err(error) if error.kind() == ErrorKind::UnsupportedVersion => return,
        Err(error) => panic!("{what}: {error}"),
    };
    let gaps = engine.recovery().gaps.clone();
    let missing = |offset: u64| gaps.iter().any(|gap| (gap.from.0..gap.to.0).contains(&offset));
    sound(&engine);
    if engine.topology().queues.is_empty() {
        // The declaration may be what was damaged.
        assert!(gaps.iter().any(|gap| gap.controls), "{what}: {gaps:?}");
        return;
    }
    let mut came = BTreeSet::new();
    for delivery in crate::support::ready(&consume(&engine, "jobs", 0)) {
        let offset = delivery.offset().0;
        assert!(delivery.damage().is_none(), "{what}: message {offset}");
        assert!(delivery.payload() == pattern(offset, BYTES), "{what}: message {offset}");
        came.insert(offset);
        delivery.ack().unwrap();
    }
    let silent: Vec<u64> = (0..MESSAGES).filter(|n| !came.contains(n) && !missing(*n)).collect();
    assert!(silent.is_empty(), "{what}: {silent:?} are missing without a word: {gaps:?}");
    let untrue: Vec<&u64> = came.iter().filter(|&&n| missing(n)).collect();
    assert!(untrue.is_empty(), "{what}: {untrue:?} are told as missing: {gaps:?}");
    let next = engine.publisher().publish_confirmed(&Message::new("", "jobs", b"new")).unwrap();
    assert!(next.first_offset.0 >= MESSAGES, "{what}: {next:?} is given a second time");
    settle(&engine);
    engine.close(Duration::ZERO).unwrap();
    let engine = hit.open();
    assert!(engine.recovery().clean, "{what}");
    sound(&engine);
    tally.repaired += 1;
}

/// A repair refuses as well, and changes nothing.
#[track_caller]
fn nothing_to_repair(hit: &Machine, what: &str) {
    let before = hit.files();
    let config = Config { on_damage: OnDamage::Repair, ..stepped() };
    let error = hit.try_open(config).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
    assert!(hit.files() == before, "{what}");
}

#[track_caller]
fn both(hit: &Machine, what: &str, tally: &mut Tally) {
    judge(hit, what, tally);
    repair(hit, what, tally);
}

/// Where a structure stands: file, first byte, bytes.
struct Place {
    what: &'static str,
    name: String,
    start: usize,
    bytes: usize,
}

/// One of each structure, in segments at the start, in the middle and at the end of the log.
fn places(machine: &Machine) -> Vec<Place> {
    let mut places = Vec::new();
    let names = segments(machine);
    let (first, middle, last) = (&names[0], &names[names.len() / 2], names.last().unwrap());
    for name in [first, middle, last] {
        let bytes = machine.disk.read_file(name).unwrap();
        let mut add = |what, start, bytes| {
            places.push(Place { what, name: name.clone(), start, bytes });
        };
        let find = |magic: &[u8]| bytes.windows(8).position(|window| window == magic);
        let mark = find(b"fanlogCM").expect("a batch is there");
        add("segment header", 0, 128);
        add("rest of the header's block", 128, 2);
        add("batch header", BLOCK, 128);
        // The first batch of a store declares its queue: these are control records.
        add("record head", BLOCK + 128, 48);
        add("records", (BLOCK + 176).min(mark - 8), 8);
        add("end of the records", mark - 8, 8);
        add("commit mark", mark, 32);
        add("padding of a batch", mark + 32, 2);
        if let Some(footer) = find(b"fanlogFT") {
            let trailer = bytes.len() - 64;
            assert!(bytes[trailer..].starts_with(b"fanlogTR"));
            add("footer head", footer, 128);
            add("footer sections", footer + 128, 40);
            add("end of the footer sections", trailer - 8, 8);
            add("footer trailer", trailer, 64);
        }
    }
    for name in checkpoints(machine) {
        let bytes = machine.disk.read_file(&name).unwrap().len();
        places.push(Place { what: "checkpoint head", name: name.clone(), start: 0, bytes: 64 });
        let body = (bytes - 68).min(200);
        places.push(Place {
            what: "checkpoint entries",
            name: name.clone(),
            start: 64,
            bytes: body,
        });
        let start = bytes - 4;
        places.push(Place { what: "end of the checkpoint", name, start, bytes: 4 });
    }
    places
}

/// A bit of every byte, each time another of the eight, and of each structure all bytes at once.
#[test]
fn a_bit_of_any_byte_of_any_structure() {
    let machine = closed_store();
    let mut tally = Tally::default();
    let places = places(&machine);
    for Place { what, name, start, bytes } in &places {
        for at in *start..start + bytes {
            let hit = copy(&machine);
            hit.disk.corrupt(name, at as u64, 1 << (at % 8)).unwrap();
            let what = format!("{what}, {name} at {at}");
            judge(&hit, &what, &mut tally);
            if at % 16 == 0 {
                repair(&hit, &what, &mut tally);
            }
        }
        for fill in [0, 0xff] {
            let hit = copy(&machine);
            let mut file = hit.disk.read_file(name).unwrap();
            file[*start..start + bytes].fill(fill);
            hit.disk.write_file(name, &file).unwrap();
            both(&hit, &format!("{what}, {name} at {start}, filled with {fill}"), &mut tally);
        }
    }
    println!("{} places: {tally:?}", places.len());
    assert!(tally.refused > 500 && tally.told > 100 && tally.repaired > 100, "{tally:?}");
}

#[test]
fn a_file_cut_at_and_between_its_boundaries() {
    let machine = closed_store();
    let mut tally = Tally::default();
    for (name, bytes) in machine.files() {
        if !bytes.starts_with(b"fanlogSG") && !is_checkpoint(&name) {
            continue;
        }
        let whole = bytes.len();
        let blocks = (0..whole).step_by(BLOCK).flat_map(|at| [at, at + 1]);
        for cut in blocks.chain([128, whole - 64, whole - 1]).filter(|&cut| cut < whole) {
            let hit = copy(&machine);
            hit.disk.truncate(&name, cut as u64).unwrap();
            both(&hit, &format!("{name} cut at {cut}"), &mut tally);
        }
    }
    println!("{tally:?}");
    assert!(tally.refused > 50 && tally.harmless < 20 && tally.repaired > 50, "{tally:?}");
}

#[test]
fn a_file_gone_doubled_swapped_or_from_before() {
    let machine = closed_store();
    // The same store, three messages and two checkpoints earlier.
    let aged = {
        let engine = machine.open();
        engine.close(Duration::ZERO).unwrap();
        copy(&machine)
    };
    for round in 0..2 {
        let engine = machine.open();
        engine.checkpoint().unwrap();
        let tag = engine.queue("jobs").unwrap().messages;
        assert_eq!(tag, MESSAGES, "round {round}");
        engine.close(Duration::ZERO).unwrap();
    }
    let mut tally = Tally::default();
    let mut names = segments(&machine);
    names.extend(checkpoints(&machine));
    for name in &names {
        let hit = copy(&machine);
        hit.disk.remove_file(name).unwrap();
        both(&hit, &format!("{name} gone"), &mut tally);
        let bytes = machine.disk.read_file(name).unwrap();
        let end = if is_checkpoint(name) { "ckpt" } else { "seg" };
        for double in ["00000001", "00000099", "99999999"] {
            let double = format!("{double}.{end}");
            if names.contains(&double) {
                continue;
            }
            let hit = copy(&machine);
            hit.disk.write_file(&double, &bytes).unwrap();
            both(&hit, &format!("{name} also as {double}"), &mut tally);
        }
        if let Some(before) = aged.files().get(name).filter(|before| **before != bytes) {
            let hit = copy(&machine);
            hit.disk.write_file(name, before).unwrap();
            both(&hit, &format!("{name} from before"), &mut tally);
        }
        for other in names.iter().filter(|other| *other > name) {
            if is_checkpoint(other) != is_checkpoint(name) {
                continue;
            }
            let hit = copy(&machine);
            let second = machine.disk.read_file(other).unwrap();
            hit.disk.write_file(other, &bytes).unwrap();
            hit.disk.write_file(name, &second).unwrap();
            let what = format!("{name} and {other} swapped");
            judge(&hit, &what, &mut tally);
            if is_checkpoint(name) {
                // Neither is what its name says, so there is nothing to begin with.
                nothing_to_repair(&hit, &what);
            } else {
                repair(&hit, &what, &mut tally);
            }
        }
    }
    println!("{tally:?}");
    assert!(tally.refused > 20 && tally.repaired > 20, "{tally:?}");
}

/// A file that takes no disk may state any size: it is not read to its end.
#[test]
fn a_checkpoint_that_is_larger_than_it_says_is_not_read() {
    let parent = tempfile::tempdir().unwrap();
    let engine = fanlog::Engine::open(parent.path(), stepped()).unwrap();
    engine.close(Duration::ZERO).unwrap();
    let entries = std::fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().path());
    let newest = entries.filter(|path| is_checkpoint(path.file_name().unwrap().to_str().unwrap()));
    let newest = newest.max().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&newest).unwrap();
    // 8 TiB, or whatever the file system allows.
    let sizes = [8 << 40, 1 << 40, 1 << 34];
    assert!(sizes.into_iter().any(|bytes| file.set_len(bytes).is_ok()));
    let error = fanlog::Engine::open(parent.path(), stepped()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(error.path(), Some(&*newest), "{error}");
}
