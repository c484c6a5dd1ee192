//! Memory does not follow the backlog: a store is filled, killed, opened and drained, in processes
//! of their own, whose anonymous memory is bounded.
//!
//! `FANLOG_MESSAGES=10000000` takes a larger backlog.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// The most anonymous memory of a process with a window of 8 MiB, in KiB.
const ANONYMOUS_KIB_MAX: u64 = 64 << 10;
/// What ten times the backlog may add.
const GROWTH_KIB_MAX: u64 = 12 << 10;
/// The most of the log that opening reads: what a checkpoint may lag behind, what is left of the
/// segment in which it stands and of the one that is appended to.
const READ_BYTES_MAX: u64 = 3 * (64 << 20) + (8 << 20);

fn backlog(step: &str, dir: &Path, messages: u64) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanlog-backlog"));
    command.arg(step).arg(dir).arg(messages.to_string()).stdout(Stdio::piped());
    command
}

/// Fills a store and ends the process that did by SIGKILL.
fn fill(dir: &Path, messages: u64) {
    let mut child = backlog("fill", dir, messages).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(line, "confirmed\n");
}

/// Lets a process do a step to its end; what it told.
fn done(step: &str, dir: &Path, messages: u64) -> HashMap<String, u64> {
    let output = backlog(step, dir, messages).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{step} ended with {}", output.status);
    let told = String::from_utf8(output.stdout).unwrap();
    let told = told.lines().map(|line| line.split_once(' ').unwrap());
    told.map(|(what, number)| (what.to_owned(), number.parse().unwrap())).collect()
}

#[test]
fn memory_after_opening_and_while_consuming_does_not_follow_the_backlog() {
    let most = std::env::var("FANLOG_MESSAGES").map_or(1_000_000, |most| most.parse().unwrap());
    let [few, many] = [most / 10, most].map(|messages| {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), messages);
        let told = done("drain", dir.path(), messages);
        println!("{messages} messages: {told:?}");
        assert!(told["read"] <= READ_BYTES_MAX, "{} bytes of the log were read", told["read"]);
        told
    });
    for when in ["opened", "consumed"] {
        assert!(many[when] <= ANONYMOUS_KIB_MAX, "{when}: {} KiB", many[when]);
        assert!(many[when] <= few[when] + GROWTH_KIB_MAX, "{when}: {} KiB", many[when]);
    }
}

#[test]
fn a_busy_process_stays_within_the_sum_that_the_readme_gives() {
    let dir = tempfile::tempdir().unwrap();
    let told = done("work", dir.path(), 200_000);
    println!("{told:?}");
    assert!(told["peak"] <= told["bound"], "{told:?}");
    // A sum that allows anything would say nothing.
    assert!(told["bound"] <= 4 * told["peak"], "{told:?}");
}
