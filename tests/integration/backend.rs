//! Backends: forced or found out by trying, shown in the statistics, the same to users.

use std::path::Path;

use fanlog::{
    Config, Engine, ErrorKind, Message,
    storage::{Backend, BackendChoice},
};
use tempfile::TempDir;

use crate::support::{PATIENCE, consume, pattern, publish, small, sound, threaded};

fn config(backend: BackendChoice) -> Config {
    Config { backend, ..small() }
}

fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A directory in memory, where this system has one.
fn in_memory() -> Option<TempDir> {
    Path::new("/dev/shm").is_dir().then(|| tempfile::tempdir_in("/dev/shm").unwrap())
}

fn can_write_directly(dir: &Path) -> bool {
    let engine = Engine::open(dir, config(BackendChoice::Auto)).unwrap();
    engine.stats().backend == Backend::Direct
}

/// Publishes from `first` on and reads all back, also after a reopen by `then`.
fn round_trip(dir: &Path, backend: BackendChoice, then: BackendChoice) {
    let engine = Engine::open(dir, config(backend)).unwrap();
    engine.declare_queue("jobs").unwrap();
    let first = engine.stats().end_offset.0;
    for number in first..first + 150 {
        publish(&engine, "jobs", &pattern(number, 1700));
    }
    engine.close(PATIENCE).unwrap();
    let engine = Engine::open(dir, config(then)).unwrap();
    let consumer = consume(&engine, "jobs", 0);
    for number in 0..first + 150 {
        let delivery = consumer.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(delivery.payload() == pattern(number, 1700), "message {number}");
        delivery.keep();
    }
    sound(&engine);
}

#[test]
fn the_buffered_backend_can_be_forced() {
    let dir = on_disk();
    let engine = Engine::open(dir.path(), config(BackendChoice::Buffered)).unwrap();
    assert_eq!(engine.stats().backend, Backend::Buffered);
    drop(engine);
    round_trip(dir.path(), BackendChoice::Buffered, BackendChoice::Buffered);
}

#[test]
fn the_direct_backend_can_be_forced_where_probing_finds_it() {
    let dir = on_disk();
    if !can_write_directly(dir.path()) {
        let refused = Engine::open(dir.path(), config(BackendChoice::Direct)).map(drop);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Io);
        return;
    }
    let engine = Engine::open(dir.path(), config(BackendChoice::Direct)).unwrap();
    assert_eq!(engine.stats().backend, Backend::Direct);
    drop(engine);
    round_trip(dir.path(), BackendChoice::Direct, BackendChoice::Direct);
}

#[test]
fn a_store_written_by_one_backend_is_read_and_continued_by_the_other() {
    let dir = on_disk();
    if can_write_directly(dir.path()) {
        round_trip(dir.path(), BackendChoice::Direct, BackendChoice::Buffered);
        round_trip(dir.path(), BackendChoice::Buffered, BackendChoice::Direct);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn on_a_file_system_in_memory_probing_chooses_buffered_and_direct_is_refused() {
    let Some(dir) = in_memory() else { return };
    let engine = Engine::open(dir.path(), config(BackendChoice::Auto)).unwrap();
    assert_eq!(engine.stats().backend, Backend::Buffered);
    drop(engine);
    round_trip(dir.path(), BackendChoice::Auto, BackendChoice::Auto);
    let error = Engine::open(dir.path(), config(BackendChoice::Direct)).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!(error.path(), Some(dir.path()));
}

#[test]
fn probing_leaves_no_file_behind() {
    let dir = on_disk();
    drop(Engine::open(dir.path(), config(BackendChoice::Auto)).unwrap());
    let names: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().all(|name| !name.contains("probe") && !name.contains("tmp")), "{names:?}");
}

#[test]
fn a_disk_in_memory_says_so() {
    assert_eq!(threaded().stats().backend, Backend::Memory);
}

#[test]
fn every_backend_has_a_name() {
    let names = [Backend::Direct, Backend::Buffered, Backend::Memory].map(|one| one.to_string());
    assert_eq!(names, ["direct", "buffered", "memory"]);
}

/// Batches of half a MiB and more go through a ring, where the system has one.
#[test]
fn large_batches_through_a_ring_are_the_same_to_users() {
    let dir = on_disk();
    if !can_write_directly(dir.path()) {
        let refused = Engine::open(dir.path(), config(BackendChoice::Uring)).map(drop);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Io);
        return;
    }
    let large = Config {
        buffer_bytes_max: 16 << 20,
        segment_bytes_max: 8 << 20,
        ..config(BackendChoice::Uring)
    };
    let engine = Engine::open(dir.path(), large).unwrap();
    assert!(matches!(engine.stats().backend, Backend::Uring | Backend::Direct));
    engine.declare_queue("jobs").unwrap();
    let payloads: Vec<_> = (0..300).map(|number| pattern(number, 9000)).collect();
    let messages: Vec<_> =
        payloads.iter().map(|payload| Message::new("", "jobs", payload)).collect();
    for _ in 0..5 {
        engine.publisher().publish_batch(&messages).unwrap().wait().unwrap();
    }
    engine.close(PATIENCE).unwrap();
    let engine = Engine::open(dir.path(), config(BackendChoice::Direct)).unwrap();
    let consumer = consume(&engine, "jobs", 0);
    for number in 0..5 * 300 {
        let delivery = consumer.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(delivery.payload() == pattern(number % 300, 9000), "message {number}");
        delivery.keep();
    }
    sound(&engine);
}
