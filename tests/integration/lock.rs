//! One owner at a time: whoever comes second is told at once.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fanlog::{Config, Engine, Error, ErrorKind};

use crate::support::{Machine, PATIENCE, publish, small, stepped, unacked};

const DIRECTORY: &str = "FANLOG_TEST_LOCKED_DIRECTORY";

#[track_caller]
fn refused_at_once(dir: &Path) {
    let began = Instant::now();
    let error = Engine::open(dir, small()).map(drop).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5), "it waited");
    assert_eq!(error.kind(), ErrorKind::Locked);
    let Error::Locked { path } = &error else { panic!() };
    assert!(path.starts_with(dir), "{error}");
}

#[test]
fn a_second_open_in_the_same_process_is_refused_at_once_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), small()).unwrap();
    engine.declare_queue("jobs").unwrap();
    refused_at_once(dir.path());
    publish(&engine, "jobs", b"a");
    engine.close(PATIENCE).unwrap();
    // Closed is closed, although the handle lives.
    let again = Engine::open(dir.path(), small()).unwrap();
    assert_eq!(unacked(&again, "jobs"), ["a"]);
    drop(engine);
    refused_at_once(dir.path());
}

#[test]
fn a_second_open_by_another_name_of_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let engine = Engine::open(&store, small()).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&store, &link).unwrap();
    let error = Engine::open(&link, small()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    drop(engine);
}

#[test]
fn on_a_disk_in_memory_there_is_one_owner_too() {
    let machine = Machine::new();
    let engine = machine.open();
    assert_eq!(machine.try_open(stepped()).map(drop).unwrap_err().kind(), ErrorKind::Locked);
    drop(engine);
    machine.open();
}

#[test]
fn a_failed_open_gives_the_lock_back() {
    let machine = Machine::new();
    let config = Config { create: false, ..stepped() };
    for _ in 0..2 {
        let error = machine.try_open(config.clone()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    machine.open();
}

/// Another process that has the store open.
struct Owner(Child);

impl Owner {
    fn of(dir: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "lock::in_a_child_that_owns_the_store"])
            .env(DIRECTORY, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.ends_with("it is open")));
        Self(child)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_second_process_is_refused_at_once_and_gets_the_store_when_the_first_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let owner = Owner::of(dir.path());
    refused_at_once(dir.path());
    let error = Engine::open_read_only(dir.path(), Config::default()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    drop(owner);
    let engine = Engine::open(dir.path(), small()).unwrap();
    assert!(!engine.recovery().clean);
    assert_eq!(unacked(&engine, "jobs"), ["from the child"]);
}

#[test]
#[ignore = "run by another test, in a process of its own"]
fn in_a_child_that_owns_the_store() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let engine = Engine::open(&dir, small()).unwrap();
    engine.declare_queue("jobs").unwrap();
    publish(&engine, "jobs", b"from the child");
    println!("it is open");
    // Until it is killed, or its parent dies.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}
