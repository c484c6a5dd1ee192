//! Exit statuses and the one line on standard error, for every command.

use std::{fs, io::BufRead as _, io::BufReader, path::Path, process::Stdio};

use crate::setup::Store;

#[test]
fn nonsense_on_the_command_line_is_usage() {
    let store = Store::new();
    for words in ["", "frobnicate DIR", "info", "publish DIR --window 0", "consume DIR"] {
        assert_eq!(store.run(words).status, Some(2), "{words}");
    }
    let torture = "torture publish DIR --queues 1 --threads 1 --first 0 --count 1 --size 9-8";
    assert_eq!(store.run(torture).status, Some(2));
    assert!(!store.dir().exists(), "a store was made by mistake");
}

#[test]
fn help_has_examples_for_every_command() {
    let store = Store::new();
    let commands = [
        "info",
        "verify",
        "declare",
        "publish",
        "consume",
        "repair",
        "torture publish",
        "torture verify",
    ];
    for command in commands.into_iter().chain(["purge", "rewind", "backup", "dump", "reclaim"]) {
        let help = store.fine(&format!("{command} --help"));
        let examples = help.split_once("Examples:").expect("examples").1;
        assert!(examples.contains(&format!("fanlog {command} ")), "{help}");
    }
}

#[test]
fn a_store_that_is_not_there_is_not_made_by_looking() {
    let store = Store::new();
    let commands = [
        "info DIR",
        "verify DIR",
        "consume DIR --queue q",
        "publish DIR --key q",
        "torture verify DIR",
        "purge DIR q",
        "rewind DIR q",
        "backup DIR DIR2",
        "dump DIR",
        "reclaim DIR",
        "reclaim DIR --why",
        "repair DIR",
        "repair DIR --apply",
    ];
    for words in commands {
        store.run(words).is_error(2, "not-found");
        assert!(!store.dir().exists(), "{words} made a store");
    }
}

#[test]
fn an_unknown_name_is_named() {
    let store = Store::new();
    store.fine("declare DIR queue q");
    store.run("consume DIR --queue nope").is_error(2, "not-found");
    store.run("consume DIR --queue nope --no-ack").is_error(2, "not-found");
    store.run("declare DIR bind q nope").is_error(2, "not-found");
    let ended = store.run_with_input("publish DIR --exchange nope", "x\n");
    ended.is_error(2, "not-found");
    assert_eq!(ended.stdout, "confirmed 0\n");
    store.fine("declare DIR exchange e --kind direct");
    store.run("declare DIR exchange e --kind fanout").is_error(2, "mismatch");
    let ended = store.run_with_input("publish DIR --exchange e --key nope", "x\n");
    ended.is_error(2, "unroutable");
    assert!(ended.stderr.contains("line 1: "), "{ended:?}");
}

#[test]
fn a_store_that_is_open_elsewhere_is_refused_by_all() {
    let store = Store::new();
    let publish =
        "torture publish DIR --queues 1 --threads 1 --first 0 --count 1 --size 5-5 --linger";
    let mut owner = store.start(publish, Stdio::piped());
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "C q0 0 0");
    for words in [
        "info DIR",
        "verify DIR",
        "declare DIR queue q1",
        "publish DIR --key q0",
        "consume DIR --queue q0",
        "purge DIR q0",
        "backup DIR DIR2",
        "dump DIR",
        "reclaim DIR",
        "reclaim DIR --why",
        "consume DIR --queue q0 --no-ack",
        "repair DIR",
        "repair DIR --apply",
        "torture verify DIR",
        "torture verify DIR --read-only",
        "torture publish DIR --queues 1 --threads 1 --first 1 --count 1 --size 5-5",
    ] {
        store.run(words).is_error(4, "locked");
    }
    drop(owner.stdin.take());
    assert_eq!(owner.wait().unwrap().code(), Some(0));
    assert!(store.fine("torture verify DIR").ends_with("END 1\n"));
}

#[test]
fn damage_is_told_with_file_and_offset_and_changes_nothing() {
    let store = Store::new();
    store.fine_with_input("publish DIR --key q --declare q", "before\nwill be damaged\nafter\n");
    let file = store.damage(b"will be damaged");
    let before = store.files();
    let verified = store.run("verify DIR");
    assert_eq!(verified.status, Some(3), "{verified:?}");
    let file = file.to_str().unwrap();
    for line in verified.stderr.lines() {
        assert!(line.starts_with(&format!("error: corrupt: {file}: offset ")), "{line}");
    }
    assert!(verified.stdout.starts_with("damaged: "), "{verified:?}");
    let read_only = store.run("torture verify DIR --read-only");
    read_only.is_error(3, "corrupt");
    assert!(read_only.stderr.contains(file), "{read_only:?}");
    assert!(!read_only.stdout.contains("END"), "{read_only:?}");
    assert_eq!(store.files(), before);
}

#[test]
fn a_damaged_message_holds_up_nothing_and_is_dropped_on_purpose_only() {
    let store = Store::new();
    let publish = "torture publish DIR --queues 1 --threads 1 --first 0 --count 60";
    store.fine(&format!("{publish} --size 3000-3000 --segment-bytes 65536"));
    // Deep in a sealed segment, where opening does not look.
    store.damage(b"q0 7 3000\n");
    let first = store.run("consume DIR --queue q0 --json");
    first.is_error(3, "corrupt");
    assert!(first.stderr.contains("message 7 of queue q0"), "{}", first.stderr);
    assert_eq!(first.stdout.lines().count(), 59);
    for words in ["consume DIR --queue q0", "consume DIR --queue q0 --no-ack"] {
        let again = store.run(words);
        again.is_error(3, "corrupt");
        assert_eq!(again.stdout, "");
    }
    let verified = store.run("torture verify DIR");
    verified.is_error(3, "corrupt");
    assert!(!verified.stdout.contains("END"), "{}", verified.stdout);
    store.run("consume DIR --queue q0 --ack-damaged").is_error(3, "corrupt");
    assert_eq!(store.fine("consume DIR --queue q0"), "");
}

#[test]
fn damage_is_gone_around_where_that_is_asked_for() {
    let store = Store::new();
    let publish = "torture publish DIR --queues 1 --threads 1 --first 0 --count 60";
    store.fine(&format!("{publish} --size 3000-3000 --segment-bytes 65536"));
    let begun = |bytes: &[u8]| bytes.starts_with(b"fanlogSG");
    let of_log = |path: &Path| path.extension().is_some_and(|end| end == "seg");
    let files = store.files();
    let mut segments = files.iter().filter(|(path, bytes)| of_log(path) && begun(bytes));
    let (gone, _) = segments.next().unwrap();
    fs::remove_file(gone).unwrap();
    let before = store.files();
    for words in ["info DIR", "verify DIR", "consume DIR --queue q0"] {
        store.run(words).is_error(3, "corrupt");
    }
    let around = "--on-damage quarantine";
    let mut left = 0;
    for words in ["info DIR --json", "verify DIR", "consume DIR --queue q0 --no-ack --json"] {
        let ended = store.run(&format!("{words} {around}"));
        ended.is_error(3, "corrupt");
        let told =
            ended.stderr.contains("missing") && ended.stderr.contains(gone.to_str().unwrap());
        assert!(told, "{ended:?}");
        left = ended.stdout.lines().count();
    }
    assert!(0 < left && left < 60, "{left}");
    assert_eq!(store.files(), before, "looking around damage writes nothing");
    let taken = store.run(&format!("consume DIR --queue q0 --json {around}"));
    taken.is_error(3, "corrupt");
    assert_eq!(taken.stdout.lines().count(), left);
    store.fine("verify DIR");
    assert_eq!(store.fine("consume DIR --queue q0"), "");
}

#[test]
fn a_newer_format_is_refused_untouched() {
    let store = Store::new();
    store.fine_with_input("publish DIR --key q --declare q", "x\n");
    for (path, mut bytes) in store.files() {
        let is_ours = path.extension().is_some_and(|e| e == "seg" || e == "ckpt");
        if is_ours && bytes.iter().take(8).any(|byte| *byte != 0) {
            bytes[8..12].copy_from_slice(&7_u32.to_le_bytes());
            // What is right but for its version is damage.
            bytes[60] ^= 1;
            fs::write(path, bytes).unwrap();
        }
    }
    let before = store.files();
    for words in [
        "info DIR",
        "consume DIR --queue q",
        "verify DIR",
        "repair DIR",
        "repair DIR --apply",
        "torture verify DIR",
    ] {
        store.run(words).is_error(6, "unsupported-version");
    }
    assert_eq!(store.files(), before);
}
