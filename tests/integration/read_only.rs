//! Opening for reading: everything can be looked at, nothing at all is written.

use std::{
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use fanlog::{Config, ConsumerOptions, Engine, Error, ErrorKind, ExchangeKind, Message};
use tempfile::TempDir;

use crate::support::{
    PATIENCE, consume, directory, publish, publish_numbers, small, sound, unacked,
};

/// A store with ten messages, the third acked, closed properly.
fn store() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), small()).unwrap();
    engine.declare_queue("jobs").unwrap();
    publish_numbers(&engine, "jobs", 10);
    let consumer = consume(&engine, "jobs", 10);
    let batch = loop {
        let batch = consumer.recv_batch(10, PATIENCE).unwrap();
        if batch.len() >= 3 {
            break batch;
        }
    };
    let tag = batch.iter().nth(2).unwrap().tag();
    consumer.ack(tag).unwrap().wait().unwrap();
    drop(batch);
    engine.close(PATIENCE).unwrap();
    dir
}

fn read(path: &Path) -> Engine {
    Engine::open_read_only(path, Config::default()).unwrap()
}

fn look_at_everything(engine: &Engine) {
    let acked: Vec<bool> =
        engine.browse("jobs").unwrap().map(|message| message.unwrap().acked).collect();
    assert_eq!(acked, [false, false, true, false, false, false, false, false, false, false]);
    assert_eq!(engine.queue("jobs").unwrap().messages, 9);
    assert_eq!(engine.topology().queues.len(), 1);
    assert!(!engine.segments().is_empty());
    assert_eq!(engine.stats().end_offset.0, 10);
    sound(engine);
}

#[test]
fn reading_shows_everything_and_leaves_bytes_and_times_as_they_are() {
    let dir = store();
    let before = directory(dir.path());
    let engine = read(dir.path());
    look_at_everything(&engine);
    engine.close(Duration::ZERO).unwrap();
    drop(engine);
    assert!(directory(dir.path()) == before);
}

#[test]
fn reading_a_crashed_store_recovers_in_memory_and_writes_nothing() {
    let dir = store();
    let engine = Engine::open(dir.path(), small()).unwrap();
    publish(&engine, "jobs", b"10");
    // A copy taken while it is open is what a kill leaves.
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        match std::fs::copy(entry.path(), copy.path().join(entry.file_name())) {
            // A file that was prepared got its segment's name meanwhile: it is still blank.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
    let before = directory(copy.path());
    let reading = read(copy.path());
    assert!(!reading.recovery().clean);
    assert_eq!(unacked(&reading, "jobs").len(), 10);
    sound(&reading);
    drop(reading);
    assert!(directory(copy.path()) == before);
}

#[test]
fn everything_that_would_write_is_refused() {
    let dir = store();
    let engine = read(dir.path());
    let publisher = engine.publisher();
    let message = Message::new("", "jobs", b"x");
    for error in [
        publisher.publish(&message).map(drop).unwrap_err(),
        publisher.publish_confirmed(&message).map(drop).unwrap_err(),
        publisher.publish_batch(&[message, message]).map(drop).unwrap_err(),
        engine.declare_queue("more").unwrap_err(),
        engine.declare_exchange("more", ExchangeKind::Fanout).unwrap_err(),
        engine.delete_queue("jobs").unwrap_err(),
        engine.consume("jobs", ConsumerOptions::default()).map(drop).unwrap_err(),
        engine.checkpoint().unwrap_err(),
    ] {
        assert!(matches!(error, Error::ReadOnly), "{error}");
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
    }
}

#[test]
fn reading_where_there_is_no_store_says_so_and_creates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    for path in [dir.path(), &missing] {
        let error = Engine::open_read_only(path, Config::default()).map(drop).unwrap_err();
        assert!(matches!(error, Error::NoStore { .. }), "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn readers_share_a_store_and_a_writer_shares_it_with_nobody() {
    let dir = store();
    let (one, two) = (read(dir.path()), read(dir.path()));
    look_at_everything(&one);
    look_at_everything(&two);
    let error = Engine::open(dir.path(), small()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    drop((one, two));
    let writer = Engine::open(dir.path(), small()).unwrap();
    let error = Engine::open_read_only(dir.path(), Config::default()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    drop(writer);
    look_at_everything(&read(dir.path()));
}

#[test]
fn a_store_without_its_lock_file_can_be_read() {
    let dir = store();
    std::fs::remove_file(dir.path().join("fanlog.lock")).unwrap();
    look_at_everything(&read(dir.path()));
    assert!(!dir.path().join("fanlog.lock").exists());
}

const DIRECTORY: &str = "FANLOG_TEST_READ_ONLY_DIRECTORY";

/// Root may write anywhere, so the directory is read by a child without its rights.
#[test]
fn a_store_can_be_read_in_a_directory_that_can_not_be_written() {
    let dir = store();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o444)).unwrap();
    }
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
    // A new directory belongs to whoever makes it.
    let is_root = std::fs::metadata(dir.path()).unwrap().uid() == 0;
    let own = std::env::current_exe().unwrap();
    let place = tempfile::tempdir().unwrap();
    let program = if is_root { for_everyone(&own, place.path()) } else { own };
    let mut child = Command::new(program);
    child
        .args(["--exact", "--ignored", "read_only::in_a_child_that_may_only_read"])
        .env(DIRECTORY, dir.path())
        .current_dir("/");
    if is_root {
        const NOBODY: u32 = 65_534;
        chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        child.uid(NOBODY).gid(NOBODY);
    }
    let before = directory(dir.path());
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    assert!(directory(dir.path()) == before);
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A copy of the program where any user can run it.
pub(crate) fn for_everyone(program: &Path, place: &Path) -> PathBuf {
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = place.join("tests");
    std::fs::copy(program, &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

#[test]
#[ignore = "run by another test, in a process of its own"]
fn in_a_child_that_may_only_read() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let dir = Path::new(&dir);
    let error = Engine::open(dir, small()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    look_at_everything(&read(dir));
}
