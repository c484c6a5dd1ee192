//! The commands of operators: purge, backup, dump, reclaim.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::setup::Store;

/// A store with two queues behind an exchange and `count` messages of 1,000 bytes and more.
fn filled(count: usize) -> Store {
    let store = Store::new();
    let line = |n| format!("line {n} {}\n", "x".repeat(1000));
    let lines: String = (0..count).map(line).collect();
    // A small window makes small batches, however slow the disk is.
    let publish = "publish DIR --exchange placed --declare billing,shipping --window 100";
    store.fine_with_input(publish, &lines);
    store
}

fn second(store: &Store) -> PathBuf {
    PathBuf::from(format!("{}2", store.dir_text()))
}

/// The store's files of a kind, in order.
fn files(store: &Store, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.dir()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with("free"))
        .collect();
    found.sort_unstable();
    found
}

fn flip(path: &PathBuf, position: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[position] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn position(item: &Value) -> usize {
    usize::try_from(item["position"].as_u64().unwrap()).unwrap()
}

/// The objects that a dump printed, however it ended.
fn objects(printed: &str) -> Vec<Value> {
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of_kind<'a>(items: &'a [Value], kind: &str) -> Vec<&'a Value> {
    items.iter().filter(|item| item["is"] == kind).collect()
}

#[test]
fn a_queue_is_bound_from_the_past_and_rewound() {
    let store = Store::new();
    store.fine("declare DIR exchange news --kind topic --history-bytes 1000000 --history-age 24h");
    store.fine("declare DIR queue jobs late");
    store.fine("declare DIR bind jobs news --key a");
    store.fine_with_input("publish DIR --exchange news --key a", "1\n2\n3\n");
    assert_eq!(store.fine("consume DIR --queue jobs").lines().count(), 3);
    store.fine("declare DIR bind late news --key # --from 1");
    assert_eq!(store.fine("consume DIR --queue late"), "2\n3\n");
    assert_eq!(store.fine("rewind DIR jobs --to 2"), "1 messages came back, from offset 2\n");
    let landed: Value = serde_json::from_str(&store.fine("rewind DIR jobs --json")).unwrap();
    assert_eq!((&landed["messages"], &landed["clamped"]), (&Value::from(2), &Value::from(false)));
    assert_eq!(store.fine("consume DIR --queue jobs"), "1\n2\n3\n");
    store.run("rewind DIR nobody").is_error(2, "not-found");
    // By the date too: all of it was published in the last hour, and none of it will be in 2999.
    assert_eq!(store.fine("rewind DIR jobs --to 1h"), "3 messages came back, from offset 0\n");
    let future = store.fine("rewind DIR late --to 2999-01-01T00:00:00Z");
    assert!(future.starts_with("0 messages came back"), "{future}");
    store.fine("declare DIR queue dated");
    store.fine("declare DIR bind dated news --key a --from 2000-01-01");
    assert_eq!(store.fine("consume DIR --queue dated"), "1\n2\n3\n");
    let ended = store.run("rewind DIR jobs --to yesterday");
    assert_eq!(ended.status, Some(2));
    assert!(ended.stderr.contains("yesterday"), "{ended:?}");
    assert!(store.fine("verify DIR").starts_with("ok: "));
}

#[test]
fn purging_empties_one_queue_and_says_how_much() {
    let store = filled(3);
    assert_eq!(store.fine("purge DIR billing"), "purged 3\n");
    assert_eq!(store.fine("purge DIR billing --json"), "{\"queue\":\"billing\",\"purged\":0}\n");
    assert_eq!(store.fine("consume DIR --queue billing"), "");
    assert_eq!(store.fine("consume DIR --queue shipping").lines().count(), 3);
    store.run("purge DIR nobody").is_error(2, "not-found");
    assert!(store.fine("verify DIR").starts_with("ok: "));
}

#[test]
fn a_backup_opens_with_all_that_the_store_has_and_the_store_is_as_before() {
    let store = filled(3000);
    store.fine("consume DIR --queue billing --count 10");
    let before = store.files();
    let printed = store.fine("backup DIR DIR2");
    assert!(printed.contains("the log up to offset 3000, "), "{printed}");
    assert_eq!(store.files(), before);
    assert!(store.fine("verify DIR2").starts_with("ok: "));
    for queue in ["billing", "shipping"] {
        let all = |dir: &str| store.fine(&format!("consume {dir} --queue {queue} --no-ack"));
        assert!(all("DIR2") == all("DIR"));
    }
    // A second time it is refused, and nothing is touched.
    let ended = store.run("backup DIR DIR2");
    ended.is_error(2, "usage");
    assert!(ended.stderr.contains("not empty"), "{ended:?}");
    fs::remove_dir_all(second(&store)).unwrap();
    let report = &store.json("backup DIR DIR2 --copy --json")[0];
    assert_eq!((&report["end_offset"], &report["linked_segments"]), (&3000.into(), &0.into()));
    assert!(report["copied_segments"].as_u64().unwrap() >= 3, "{report}");
}

#[test]
fn why_names_the_queue_that_keeps_a_segment_and_how_old_its_message_is() {
    let store = filled(3000);
    store.fine("purge DIR shipping");
    store.fine("consume DIR --queue billing --count 50");
    let before = store.files();
    let why = &store.json("reclaim DIR --why --json")[0];
    assert_eq!(store.files(), before, "looking wrote something");
    let segments = why["segments"].as_array().unwrap();
    assert!(segments.len() >= 2, "{why}");
    for segment in segments {
        let queues = segment["queues"].as_array().unwrap();
        assert_eq!(queues.len(), 1, "{segment}");
        assert_eq!(queues[0]["queue"], "billing");
        assert_eq!(queues[0]["bytes"], segment["outstanding_bytes"]);
        assert_eq!(queues[0]["consumer"], Value::Null);
    }
    let oldest = segments.iter().map(|one| one["queues"][0]["oldest_offset"].as_u64().unwrap());
    assert_eq!(oldest.min(), Some(50));
    assert!(why["oldest_unacked_pinned_bytes"].as_u64().unwrap() > 0);
    assert!(why["oldest_unacked_age_seconds"].as_f64().unwrap() < 600.0);
    let text = store.fine("reclaim DIR --why --segments 1");
    assert!(text.starts_with("oldest unacked message: "), "{text}");
    assert!(text.contains("billing"), "{text}");
    assert!(text.contains(" more segments (see --segments)"), "{text}");
    store.fine("purge DIR billing");
    let nothing = "nothing is kept: every message is acked\n";
    assert_eq!(store.fine("reclaim DIR --why"), nothing);
}

#[test]
fn reclaim_gives_back_what_is_dead_and_says_how_much() {
    let store = filled(12_000);
    store.fine("purge DIR shipping");
    store.fine("purge DIR billing");
    store.fine_with_input("publish DIR --key billing", "kept\n");
    let bytes = || {
        let free = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("free");
        let files = store.files().into_iter().filter(|(path, _)| !free(path));
        files.map(|(_, bytes)| bytes.len() as u64).sum::<u64>()
    };
    let before = bytes();
    let report = &store.json("reclaim DIR --json")[0];
    let after = bytes();
    assert_eq!((&report["bytes_before"], &report["bytes_after"]), (&before.into(), &after.into()));
    assert_eq!(report["freed_bytes"], before.saturating_sub(after));
    assert!(after < 8 << 20, "{report}");
    assert_eq!(store.fine("consume DIR --queue billing"), "kept\n");
    assert!(store.fine("verify DIR").starts_with("ok: "));
    assert!(store.fine("reclaim DIR").starts_with("freed "));
}

#[test]
fn a_dump_shows_every_structure_and_changes_nothing() {
    let store = filled(3000);
    store.fine("consume DIR --queue billing --count 10");
    store.fine("purge DIR shipping");
    store.fine("reclaim DIR");
    let before = store.files();
    let items = store.json("dump DIR --json");
    assert_eq!(store.files(), before, "looking wrote something");
    let count = |kind| of_kind(&items, kind).len();
    assert_eq!((count("message"), count("purge"), count("ack")), (3000, 1, 1));
    for kind in ["checkpoint", "segment", "batch", "footer", "queue", "exchange", "group", "route"]
    {
        assert!(count(kind) > 0, "{kind}");
    }
    assert_eq!(count("damaged"), 0);
    let acks = of_kind(&items, "ack")[0];
    assert_eq!(acks["acks"], serde_json::json!([[0, 10]]));
    let offsets: Vec<u64> =
        of_kind(&items, "message").iter().map(|one| one["offset"].as_u64().unwrap()).collect();
    assert!(offsets.iter().copied().eq(0..3000), "messages in the order of offsets");
    assert!(of_kind(&items, "batch").iter().all(|batch| batch.get("follows").is_none()));
}

#[test]
fn a_dump_can_be_narrowed_and_payloads_shown_whole() {
    let store = filled(3000);
    let only = |words: &str, kinds: &[&str]| {
        let items = store.json(words);
        assert!(!items.is_empty(), "{words}");
        for item in &items {
            assert!(kinds.contains(&item["is"].as_str().unwrap()), "{words}: {item}");
        }
        items
    };
    let entries = ["checkpoint", "exchange", "group", "route", "queue", "segment"];
    only("dump DIR --checkpoint --json", &entries);
    let batches = ["segment", "batch", "footer", "footer route", "unused", "blank"];
    only("dump DIR --batches --json", &batches);
    let records = ["message", "route define", "exchange declare", "queue declare", "group define"];
    let records: Vec<&str> =
        records.into_iter().chain(["bind", "delivery mark", "blank"]).collect();
    let items = only("dump DIR --records --json", &records);
    let message = of_kind(&items, "message")[0];
    assert_eq!((message["payload"].as_str().unwrap().len(), &message["cut"]), (64, &true.into()));
    let items = only("dump DIR --records --payload --json --segment 2", &records);
    let message = of_kind(&items, "message")[0];
    let expected = format!("line {} {}", message["offset"], "x".repeat(1000));
    assert_eq!(message["payload"].as_str().unwrap(), expected);
    assert!(items.iter().all(|item| item["file"].as_str().unwrap().starts_with("00000002")));
    store.run("dump DIR --segment 99").is_error(2, "usage");
    assert_eq!(store.run("dump DIR --records --batches").status, Some(2));
}

#[test]
fn bytes_that_are_no_text_cannot_forge_a_line() {
    let store = Store::new();
    let input = "a\u{1b}[31m \"b\" é\u{85}\n";
    store.fine_with_input("publish DIR --key q --declare q", input);
    let printed = store.fine("dump DIR --records");
    assert!(printed.contains(r#"payload="a\u001b[31m \"b\" é"#), "{printed}");
    assert!(!printed.contains(['\u{1b}', '\u{85}']), "{printed}");
}

#[test]
fn damage_is_named_and_what_lies_behind_it_is_shown() {
    let store = filled(3000);
    // Full segments have their footers then.
    store.fine("reclaim DIR");
    let whole = store.json("dump DIR --json");
    let in_first = |kind: &str| -> Vec<Value> {
        let first = |item: &&&Value| item["file"] == "00000001.seg";
        of_kind(&whole, kind).iter().filter(first).map(|item| (*item).clone()).collect()
    };
    let path = &files(&store, "seg")[0];
    let good = fs::read(path).unwrap();
    let messages = in_first("message");
    let batches = in_first("batch");
    let dumped = |damaged: usize| {
        let ended = store.run("dump DIR --json --segment 1");
        assert_eq!(ended.status, Some(3), "{}", ended.stderr);
        let lines: Vec<&str> = ended.stderr.lines().collect();
        assert!(lines.iter().all(|line| line.starts_with("error: corrupt: ")), "{lines:?}");
        let items = objects(&ended.stdout);
        assert_eq!(of_kind(&items, "damaged").len(), damaged, "{lines:?}");
        assert_eq!(lines.len(), damaged, "{lines:?}");
        items
    };
    // A byte of a payload: the batch is damaged, and that message; all others are shown.
    flip(path, position(&messages[500]) + 200);
    let items = dumped(2);
    assert_eq!(of_kind(&items, "message").len(), messages.len() - 1);
    fs::write(path, &good).unwrap();
    // A byte of a batch's header: the batch can't be found, the next one is.
    flip(path, position(&batches[5]) + 40);
    let items = dumped(1);
    assert_eq!(of_kind(&items, "batch").len(), batches.len() - 1);
    assert_eq!(of_kind(&items, "damaged")[0]["position"], batches[5]["position"]);
    assert_eq!(of_kind(&items, "damaged")[0]["bytes"], batches[5]["total_bytes"]);
    fs::write(path, &good).unwrap();
    // The last batch: only the footer tells that there was one.
    flip(path, position(batches.last().unwrap()) + 40);
    dumped(1);
    fs::write(path, &good).unwrap();
    // The segment's header: its store is known from the others.
    flip(path, 50);
    let items = dumped(1);
    assert_eq!(of_kind(&items, "message").len(), messages.len());
    fs::write(path, &good).unwrap();
    // The footer.
    flip(path, position(&in_first("footer")[0]) + 200);
    let items = dumped(1);
    assert_eq!(of_kind(&items, "message").len(), messages.len());
    fs::write(path, &good).unwrap();
    // A file cut short, between two batches and within the last one that it has.
    let cut = position(&batches[5]);
    fs::write(path, &good[..cut]).unwrap();
    let items = dumped(1);
    assert_eq!(of_kind(&items, "batch").len(), 5);
    assert_eq!(of_kind(&items, "damaged")[0]["position"], cut);
    fs::write(path, &good[..cut - 512]).unwrap();
    let items = dumped(if batches[4]["total_bytes"].as_u64() > Some(4096) { 2 } else { 1 });
    assert_eq!(of_kind(&items, "damaged").last().unwrap()["position"], cut - 512);
    fs::write(path, &good).unwrap();
    // A checkpoint.
    flip(&files(&store, "ckpt")[0], 90);
    let ended = store.run("dump DIR --json");
    assert_eq!(ended.status, Some(3));
    let items = objects(&ended.stdout);
    assert_eq!((of_kind(&items, "damaged").len(), of_kind(&items, "message").len()), (1, 3000));
}

#[test]
fn what_a_newer_version_wrote_is_told_apart_from_damage() {
    let store = filled(3);
    let path = &files(&store, "ckpt")[0];
    let mut bytes = fs::read(path).unwrap();
    bytes[8] = 9;
    fs::write(path, &bytes).unwrap();
    let ended = store.run("dump DIR --json");
    assert_eq!(ended.status, Some(3), "right but for its version: {ended:?}");
    bytes[60] ^= 1;
    fs::write(path, bytes).unwrap();
    let ended = store.run("dump DIR --json");
    assert_eq!(ended.status, Some(6), "{ended:?}");
    assert!(ended.stderr.starts_with("error: unsupported-version: "), "{ended:?}");
    assert_eq!(of_kind(&objects(&ended.stdout), "unsupported").len(), 1);
}
