//! `fanlog repair`: says what it would do, does it, and keeps what it takes out.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::setup::{Ended, Store};

const MESSAGES: usize = 60;

/// A store of several segments, closed, with the messages `0..MESSAGES` in queue `q0`.
fn store() -> Store {
    let store = Store::new();
    let publish = "torture publish DIR --queues 1 --threads 1 --first 0 --count 60";
    store.fine(&format!("{publish} --size 3000-3000 --segment-bytes 65536"));
    store
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

/// Files of the log that were begun, in order.
fn segments(store: &Store) -> Vec<PathBuf> {
    let begun = |(path, bytes): (PathBuf, Vec<u8>)| {
        let of_log = path.extension().is_some_and(|end| end == "seg");
        (of_log && bytes.starts_with(b"fanlogSG")).then_some(path)
    };
    store.files().into_iter().filter_map(begun).collect()
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// Repairs a damaged store, dry first; returns what was missing, as told both times.
#[track_caller]
fn repaired(store: &Store) -> Vec<(u64, u64)> {
    let before = store.files();
    let dry = store.run("repair DIR --json");
    assert_eq!(dry.status, Some(3), "{dry:?}");
    assert_eq!(store.files(), before, "a dry run writes nothing");
    let done = store.run("repair DIR --apply --json");
    assert_eq!(done.status, Some(0), "{done:?}");
    assert_eq!(dry.stderr, done.stderr);
    let (dry, done) = (json(&dry), json(&done));
    assert_eq!((&dry["applied"], &done["applied"]), (&false.into(), &true.into()));
    assert_eq!(done["problems"].as_array().unwrap().len(), 0, "{done}");
    let places = |told: &Value| {
        let place = |place: &Value| (place["file"].clone(), place["offset"].clone());
        told["set_aside"].as_array().unwrap().iter().map(place).collect::<Vec<_>>()
    };
    assert_eq!(places(&dry), places(&done));
    // Whatever was taken out is there, byte for byte.
    for kept in done["set_aside"].as_array().unwrap() {
        let file = Path::new(kept["file"].as_str().unwrap());
        let start = usize::try_from(kept["offset"].as_u64().unwrap()).unwrap();
        let bytes = usize::try_from(kept["bytes"].as_u64().unwrap()).unwrap();
        let copy = fs::read(kept["kept_as"].as_str().expect("where it is kept")).unwrap();
        assert!(copy == before[file][start..start + bytes], "{kept}");
    }
    let text = store.fine("repair DIR");
    assert_eq!(text, "ok: nothing is damaged\n");
    assert!(store.fine("verify DIR").starts_with("ok: "));
    let gap = |gap: &Value| (gap["from"].as_u64().unwrap(), gap["to"].as_u64().unwrap());
    done["gaps"].as_array().unwrap().iter().map(gap).collect()
}

/// The messages that can be consumed are all but those of `missing`, and more can be published.
#[track_caller]
fn all_but(store: &Store, missing: &[u64]) {
    let verified = store.fine("torture verify DIR");
    let found = verified.lines().filter_map(|line| line.strip_prefix("M q0 "));
    let found: Vec<u64> =
        found.map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    let expected: Vec<u64> = (0..MESSAGES as u64).filter(|n| !missing.contains(n)).collect();
    assert_eq!(found, expected);
    let more = "torture publish DIR --queues 1 --threads 1 --first 60 --count 1 --size 30-30";
    store.fine(more);
    assert_eq!(store.fine("consume DIR --queue q0 --json").lines().count(), expected.len() + 1);
}

#[test]
fn a_sound_store_is_left_as_it_is() {
    let store = store();
    let before = store.files();
    assert_eq!(store.fine("repair DIR"), "ok: nothing is damaged\n");
    assert_eq!(store.files(), before);
    assert_eq!(store.fine("repair DIR --apply"), "ok: nothing is damaged\n");
    all_but(&store, &[]);
}

#[test]
fn a_damaged_message_deep_in_a_segment_is_taken_out_and_its_neighbours_stay() {
    let store = store();
    let file = store.damage(b"q0 7 3000\n");
    assert_eq!(repaired(&store), [(7, 8)]);
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(store.dir().join(format!("damaged-{name}")).exists());
    all_but(&store, &[7]);
}

#[test]
fn a_damaged_older_checkpoint_is_taken_out_and_costs_nothing() {
    let store = store();
    let is_checkpoint = |path: &PathBuf| path.extension().is_some_and(|end| end == "ckpt");
    let mut checkpoints: Vec<_> = store.files().into_keys().filter(is_checkpoint).collect();
    checkpoints.sort();
    let [older, _] = &checkpoints[..] else { panic!("{checkpoints:?}") };
    let mut bytes = fs::read(older).unwrap();
    bytes[40] ^= 1;
    fs::write(older, bytes).unwrap();
    assert_eq!(store.run("verify DIR").status, Some(3));
    let missing = repaired(&store);
    assert!(missing.iter().all(|(from, to)| from == to), "{missing:?}");
    all_but(&store, &[]);
}

#[test]
fn a_segment_that_is_gone_costs_its_messages() {
    let store = store();
    fs::remove_file(&segments(&store)[1]).unwrap();
    store.run("verify DIR").is_error(3, "corrupt");
    let missing = repaired(&store);
    let [(from, to)] = missing[..] else { panic!("{missing:?}") };
    all_but(&store, &(from..to).collect::<Vec<_>>());
}

#[test]
fn a_segment_cut_short_costs_what_was_cut_off() {
    let store = store();
    let file = segments(&store).remove(1);
    let bytes = size(&file) / 2;
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(bytes).unwrap();
    let missing = repaired(&store);
    let numbers: Vec<u64> = missing.iter().flat_map(|&(from, to)| from..to).collect();
    assert!(!numbers.is_empty() && numbers.len() < 20, "{missing:?}");
    all_but(&store, &numbers);
}

#[test]
fn a_torn_tail_is_no_damage_and_is_kept_when_a_repair_cuts_it() {
    let store = store();
    let words = "torture publish DIR --queues 1 --threads 1 --first 60 --count 1 --size 30-30";
    let mut publisher = store
        .start(&format!("{words} --segment-bytes 65536 --linger"), std::process::Stdio::piped());
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(publisher.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "C q0 60 60");
    publisher.kill().unwrap();
    publisher.wait().unwrap();
    // The mark that ends the last batch is gone, as after a power cut.
    let torn = segments(&store).into_iter().find_map(|path| {
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(6).position(|window| window == b"q0 60 ")?;
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        Some(path)
    });
    let torn = torn.expect("the last message is in a segment");
    let before = store.files();
    let said = store.fine("repair DIR");
    assert!(said.starts_with("torn tail: "), "{said}");
    assert!(said.contains("bytes would be cut") && said.contains("would be kept: "), "{said}");
    assert_eq!(store.files(), before);
    let told: Value = serde_json::from_str(&store.fine("repair DIR --apply --json")).unwrap();
    let kept = &told["set_aside"][0];
    assert_eq!(kept["file"], torn.to_str().unwrap());
    let start = usize::try_from(kept["offset"].as_u64().unwrap()).unwrap();
    let bytes = usize::try_from(kept["bytes"].as_u64().unwrap()).unwrap();
    let copy = fs::read(kept["kept_as"].as_str().unwrap()).unwrap();
    assert!(copy == before[&torn][start..start + bytes]);
    assert_eq!(store.fine("repair DIR"), "ok: nothing is damaged\n");
    all_but(&store, &[]);
}

#[test]
fn a_store_without_a_checkpoint_can_not_be_repaired_and_is_left_as_it_is() {
    let store = store();
    for path in store.files().into_keys() {
        if path.extension().is_some_and(|end| end == "ckpt") {
            fs::remove_file(path).unwrap();
        }
    }
    let before = store.files();
    for words in ["repair DIR", "repair DIR --apply"] {
        store.run(words).is_error(3, "corrupt");
        assert_eq!(store.files(), before, "{words}");
    }
}

#[test]
fn salvage_reads_around_the_damage_and_changes_nothing() {
    let store = store();
    fs::remove_file(&segments(&store)[1]).unwrap();
    let before = store.files();
    let verified = store.run("verify DIR --salvage --json");
    assert_eq!(verified.status, Some(3), "{verified:?}");
    assert!(json(&verified)["messages"].as_u64().unwrap() > 30, "{verified:?}");
    let read = store.run("consume DIR --queue q0 --no-ack --json --salvage");
    read.is_error(3, "corrupt");
    assert!(read.stdout.lines().count() > 30, "{read:?}");
    assert_eq!(store.files(), before);
}
