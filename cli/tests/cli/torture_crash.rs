//! The torture protocol through kills and limits of the system.

use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

use crate::{
    setup::{Ended, Store},
    torture::{Asked, Told},
};

/// Kills a publisher after `lines` lines; returns everything it said.
fn publish_and_kill(store: &Store, words: &str, lines: usize) -> String {
    let mut child = store.start(words, Stdio::piped());
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    for _ in 0..lines {
        stdout.read_line(&mut said).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    said + &String::from_utf8(rest).unwrap()
}

#[test]
fn what_was_told_survives_a_kill() {
    let store = Store::new();
    let asked = Asked { queues: 3, threads: 4, size: (24, 5000) };
    let mut told = Told::default();
    let mut sent = 0;
    for lines in [1, 40, 200, 7] {
        let words = asked.words(sent, 100_000, " --ack 5 --segment-bytes 262144");
        told.read(&publish_and_kill(&store, &words, lines));
        // Some of the next may have been sent too; a thread sends one more than it was told of.
        let last = told.last_number().unwrap_or(sent);
        sent = last + 4 * asked.threads;
        told.judge(asked, sent, &store.fine("torture verify DIR --read-only"));
        told.judge(asked, sent, &store.fine("torture verify DIR"));
    }
    assert!(store.fine("verify DIR").starts_with("ok: "));
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_size_limit_is_an_error_and_no_signal() {
    let store = Store::new();
    let asked = Asked { queues: 1, threads: 1, size: (60_000, 60_000) };
    store.fine(&asked.words(0, 1, ""));
    // 1 or 2 MiB per file, as shells count: less than a segment.
    let fanlog = assert_cmd::cargo::cargo_bin!("fanlog").to_str().unwrap().to_owned();
    let mut arguments = vec!["-c".to_owned(), "ulimit -f 2048; exec \"$@\"".to_owned()];
    arguments.extend(["sh".to_owned(), fanlog]);
    arguments.extend(store.arguments(&asked.words(1, 60, " --segment-bytes 4194304")));
    let child = store.start_program("sh", &arguments, Stdio::piped());
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert!(ended.status.is_some(), "killed by a signal");
    let mut told = Told::default();
    told.read(&ended.stdout);
    if ended.status != Some(0) {
        assert_eq!(ended.status, Some(5), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1);
    }
    let verified = store.fine("torture verify DIR");
    told.judge(asked, 61, &verified);
}

#[test]
fn nobody_listening_ends_it_quietly() {
    let store = Store::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let asked = Asked { queues: 1, threads: 2, size: (10, 10) };
    let child = store.start(&asked.words(0, 1000, ""), writer.into());
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(5), ""));
    store.fine("torture verify DIR");
}

#[test]
fn an_interrupted_making_of_a_store_is_no_damage() {
    let store = Store::new();
    std::fs::create_dir(store.dir()).unwrap();
    assert_eq!(store.fine("torture verify DIR"), "END 0\n");
}
