//! Backups: made while the store is at work, they open as it was, and neither changes the other.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fanlog::{
    BackupFiles, BackupReport, Config, Engine, ErrorKind, Message,
    check::verify,
    clock::SystemClock,
    storage::{Call, CrashMode, Fault, FaultRule, FaultStorage, MemoryStorage, Storage},
};

use crate::support::{
    Machine, PATIENCE, consume, directory, is_checkpoint, is_segment, pattern, publish, ready,
    settle, small, sound, start, stepped, until, with_jobs,
};

const BYTES: usize = 4000;

/// Publishes to `jobs` until `count` segments are sealed.
fn fill(engine: &Engine, first: u64, count: u64) {
    for number in first..first + count {
        publish(engine, "jobs", &pattern(number, BYTES));
        settle(engine);
    }
}

/// Two checkpoints, so that no kept one lists what is dead; then the rest of the work.
fn tidy(engine: &Engine) {
    for _ in 0..3 {
        settle(engine);
        engine.checkpoint().unwrap();
    }
    settle(engine);
}

fn back_up(engine: &Engine, target: &MemoryStorage) -> BackupReport {
    engine.backup_on(target, BackupFiles::default(), &mut |_| {}).unwrap()
}

fn machine_of(machine: &Machine, disk: MemoryStorage) -> Machine {
    Machine { disk, clock: Arc::clone(&machine.clock) }
}

/// All that can be compared of a store: queues with depths, exchanges, bindings, and what is unacked.
fn state(engine: &Engine) -> Vec<String> {
    let topology = engine.topology();
    let mut lines: Vec<String> = topology
        .queues
        .iter()
        .map(|queue| format!("{} {} {}", queue.name, queue.messages, queue.bytes))
        .collect();
    lines.extend(topology.exchanges.iter().map(|exchange| exchange.name.clone()));
    lines.extend(topology.bindings.iter().map(|binding| format!("{binding:?}")));
    for queue in &topology.queues {
        for message in engine.browse(&queue.name).unwrap() {
            let message = message.unwrap();
            if !message.acked {
                lines.push(format!("{} {:?}", message.offset, &*message.payload));
            }
        }
    }
    lines
}

#[test]
fn a_backup_opens_as_the_store_was_and_the_source_is_as_before() {
    let (machine, engine) = with_jobs();
    engine.declare_exchange("results", fanlog::ExchangeKind::Fanout).unwrap();
    engine.bind("jobs", "results", "").unwrap();
    fill(&engine, 0, 60);
    let consumer = consume(&engine, "jobs", 0);
    for delivery in ready(&consumer).into_iter().skip(3).step_by(2) {
        delivery.ack().unwrap().wait().unwrap();
    }
    drop(consumer);
    publish(&engine, "jobs", b"the last");
    let before = machine.files();
    let disk = MemoryStorage::new();
    let report = back_up(&engine, &disk);
    assert_eq!(machine.files(), before);
    assert_eq!(report.end.0, 61);
    assert!(report.copied_segments > 3 && report.linked_segments == 0, "{report:?}");
    let copy = machine_of(&machine, disk);
    // All of it is durable: a power cut takes nothing.
    for opened in [copy.power_cut().open(), copy.open()] {
        assert!(opened.recovery().clean, "{:?}", opened.recovery());
        assert_eq!(state(&opened), state(&engine));
        sound(&opened);
        assert_eq!(publish(&opened, "jobs", b"more"), 61);
        sound(&opened);
    }
}

#[test]
fn an_empty_store_and_one_just_begun_can_be_backed_up() {
    let machine = Machine::new();
    let engine = machine.open();
    for queue in [None, Some("jobs")] {
        if let Some(queue) = queue {
            engine.declare_queue(queue).unwrap();
            publish(&engine, queue, b"one");
        }
        let disk = MemoryStorage::new();
        back_up(&engine, &disk);
        let opened = machine_of(&machine, disk).open();
        assert_eq!(state(&opened), state(&engine));
        sound(&opened);
    }
}

#[test]
fn a_backup_of_a_backup_holds_the_same() {
    let (machine, engine) = with_jobs();
    fill(&engine, 0, 40);
    let (first, second) = (MemoryStorage::new(), MemoryStorage::new());
    back_up(&engine, &first);
    let copy = machine_of(&machine, first).open();
    back_up(&copy, &second);
    assert_eq!(state(&machine_of(&machine, second).open()), state(&engine));
}

#[test]
fn what_is_there_already_is_never_touched() {
    let (_machine, engine) = with_jobs();
    let disk = MemoryStorage::new();
    disk.write_file("letter.txt", b"mine").unwrap();
    let refused = engine.backup_on(&disk, BackupFiles::default(), &mut |_| {}).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Usage);
    assert!(refused.to_string().contains("letter.txt"), "{refused}");
    assert_eq!(disk.read_file("letter.txt").unwrap(), b"mine");
    let other = Machine::new();
    let in_use = other.open();
    let refused = engine.backup_on(&other.disk, BackupFiles::default(), &mut |_| {}).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked);
    drop(in_use);
    let refused = engine.backup_on(&other.disk, BackupFiles::default(), &mut |_| {}).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Usage);
}

#[test]
fn segments_that_die_while_they_are_copied_are_not_used_again_before() {
    let (machine, engine) = with_jobs();
    fill(&engine, 0, 60);
    tidy(&engine);
    let expected = state(&engine);
    let disk = MemoryStorage::new();
    let mut number = 60;
    // Between any two pieces: all is acked, given back as far as may be, and written over.
    engine
        .backup_on(&disk, BackupFiles::default(), &mut |_| {
            engine.purge_queue("jobs").unwrap();
            fill(&engine, number, 20);
            number += 20;
            tidy(&engine);
        })
        .unwrap();
    let recycled = engine.stats().segments_recycled;
    assert!(recycled > 0, "the source went on to recycle");
    let opened = machine_of(&machine, disk).open();
    assert_eq!(state(&opened), expected);
    sound(&opened);
    sound(&engine);
    // What was held has been given free.
    engine.purge_queue("jobs").unwrap();
    tidy(&engine);
    assert!(engine.stats().segments <= 2, "{}", engine.stats().segments);
    assert!(machine.files().keys().filter(|name| is_segment(name)).count() <= 3);
}

#[test]
fn a_file_with_another_name_is_removed_and_never_used_again() {
    let (machine, engine) = with_jobs();
    fill(&engine, 0, 60);
    let disk = &machine.disk;
    let mut linked = Vec::new();
    for name in machine.files().into_keys().filter(|name| is_segment(name)).take(3) {
        disk.link(&name, disk, &format!("mine-{name}")).unwrap();
        linked.push((format!("mine-{name}"), disk.read_file(&name).unwrap()));
    }
    engine.purge_queue("jobs").unwrap();
    tidy(&engine);
    fill(&engine, 60, 100);
    engine.purge_queue("jobs").unwrap();
    tidy(&engine);
    assert!(engine.stats().segments_recycled > 0 && engine.stats().segments_deleted >= 3);
    for (name, bytes) in linked {
        assert!(disk.read_file(&name).unwrap() == bytes, "{name} was written over");
        assert_eq!(disk.links(&name).unwrap(), 1);
    }
}

#[test]
fn a_free_file_with_another_name_is_removed_before_it_is_written() {
    let (machine, engine) = with_jobs();
    fill(&engine, 0, 60);
    engine.purge_queue("jobs").unwrap();
    tidy(&engine);
    let disk = &machine.disk;
    let free: Vec<String> =
        machine.files().into_keys().filter(|name| name.starts_with("free-")).collect();
    assert!(!free.is_empty());
    for name in &free {
        disk.link(name, disk, &format!("mine-{name}")).unwrap();
    }
    let before = machine.files();
    fill(&engine, 60, 60);
    for name in &free {
        let mine = format!("mine-{name}");
        assert!(disk.read_file(&mine).unwrap() == before[&mine], "{mine} was written over");
    }
    sound(&engine);
}

#[test]
fn after_a_crash_at_any_moment_the_target_is_no_store_or_all_of_it() {
    let (machine, engine) = with_jobs();
    fill(&engine, 0, 40);
    let expected = state(&engine);
    let whole = MemoryStorage::new();
    back_up(&engine, &whole);
    let (mut none, mut all) = (0, 0);
    for cut in 0..=whole.operation_count() {
        let disk = MemoryStorage::new();
        disk.cut_at(cut);
        let made = engine.backup_on(&disk, BackupFiles::default(), &mut |_| {});
        assert_eq!(made.is_err(), cut < whole.operation_count(), "cut at {cut}");
        for (seed, mode) in
            [(0, CrashMode::LoseUnsynced), (0, CrashMode::KeepAll), (cut, CrashMode::Random)]
        {
            let image = machine_of(&machine, disk.crash_image(seed, mode));
            let config = Config { create: false, ..stepped() };
            match image.try_open(config) {
                Err(error) => {
                    assert!(made.is_err(), "cut at {cut}: {error}");
                    none += 1;
                }
                Ok(opened) => {
                    assert_eq!(state(&opened), expected, "cut at {cut}");
                    sound(&opened);
                    all += 1;
                }
            }
        }
    }
    assert!(none > 10 && all >= 3, "{none} {all}");
}

#[test]
fn a_backup_that_fails_leaves_no_store_and_can_be_made_again() {
    let (machine, engine) = with_jobs();
    fill(&engine, 0, 40);
    let disk = MemoryStorage::new();
    let faulty = FaultStorage::new(Arc::new(disk.clone()));
    for (call, skip) in [
        (Call::Create, 0),
        (Call::Create, 1),
        (Call::Write, 0),
        (Call::Write, 3),
        (Call::Sync, 0),
        (Call::Allocate, 0),
        (Call::Rename, 0),
        (Call::SyncDirectory, 0),
        (Call::SyncDirectory, 1),
    ] {
        faulty.fail(FaultRule::new(call, Fault::Error(io::ErrorKind::StorageFull)).skip(skip));
        let error = engine.backup_on(&faulty, BackupFiles::default(), &mut |_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{call:?}");
        let left = machine_of(&machine, disk.clone()).files();
        assert_eq!(left.keys().collect::<Vec<_>>(), ["fanlog.lock"], "{call:?} {skip}");
    }
    engine.backup_on(&faulty, BackupFiles::default(), &mut |_| {}).unwrap();
    assert_eq!(state(&machine_of(&machine, disk).open()), state(&engine));
}

#[test]
fn a_backup_of_an_engine_that_ends_meanwhile_is_none() {
    let (machine, engine) = with_jobs();
    fill(&engine, 0, 40);
    let disk = MemoryStorage::new();
    let mut calls = 0;
    let ended = engine.backup_on(&disk, BackupFiles::default(), &mut |_| {
        calls += 1;
        if calls == 2 {
            engine.close(Duration::from_secs(1)).unwrap();
        }
    });
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Closed);
    assert!(!machine_of(&machine, disk).files().keys().any(|name| is_checkpoint(name)));
}

/// Opens a copy of a directory: what it holds is compared without changing it.
fn compare(dir: &Path, expected: &[String]) {
    let report = verify(dir, &mut |_| {}).unwrap();
    assert_eq!(report.problems, []);
    let opened = Engine::open_read_only(dir, small()).unwrap();
    assert_eq!(state(&opened), expected);
}

#[test]
fn linked_files_are_shared_and_neither_store_changes_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("store"), dir.path().join("new/backup"));
    let engine = Engine::open(&from, small()).unwrap();
    engine.declare_queue("jobs").unwrap();
    for number in 0..100 {
        publish(&engine, "jobs", &pattern(number, BYTES));
    }
    until("most segments are sealed", || {
        engine.segments().iter().filter(|segment| segment.state == "sealed").count() > 4
    });
    let report = engine.backup(&to).unwrap();
    assert!(report.linked_segments > 4 && report.copied_segments >= 1, "{report:?}");
    let expected = state(&engine);
    compare(&to, &expected);
    let copied = dir.path().join("copied");
    let report = engine.backup_with(&copied, BackupFiles::Copied, &mut |_| {}).unwrap();
    assert_eq!(report.linked_segments, 0);
    compare(&copied, &expected);
    // The source gives its segments back and writes on.
    engine.purge_queue("jobs").unwrap();
    let before = directory(&to);
    until("the linked segments are gone", || {
        for number in 0..20 {
            publish(&engine, "jobs", &pattern(number, BYTES));
        }
        engine.purge_queue("jobs").unwrap();
        engine.checkpoint().unwrap();
        engine.stats().segments_deleted > 4 && engine.stats().segments_recycled > 4
    });
    assert!(directory(&to) == before, "the backup was written");
    compare(&to, &expected);
    // Now the backup is used, and a backup of it.
    let second = dir.path().join("second");
    let copy = Engine::open(&to, small()).unwrap();
    copy.backup(&second).unwrap();
    let before = directory(&second);
    copy.purge_queue("jobs").unwrap();
    until("the backup gives its segments back", || {
        for number in 0..20 {
            publish(&copy, "jobs", &pattern(number, BYTES));
        }
        copy.purge_queue("jobs").unwrap();
        copy.checkpoint().unwrap();
        copy.stats().segments_deleted > 4 && copy.stats().segments_recycled > 4
    });
    assert!(directory(&second) == before, "the backup of the backup was written");
    compare(&second, &expected);
    sound(&copy);
    let left = Engine::open(&copied, small()).unwrap();
    assert_eq!(state(&left), expected);
}

#[test]
fn a_store_that_is_open_for_reading_can_be_backed_up() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("store"), dir.path().join("backup"));
    let engine = Engine::open(&from, small()).unwrap();
    engine.declare_queue("jobs").unwrap();
    for number in 0..50 {
        publish(&engine, "jobs", &pattern(number, BYTES));
    }
    let expected = state(&engine);
    drop(engine);
    let before = directory(&from);
    let engine = Engine::open_read_only(&from, small()).unwrap();
    engine.backup(&to).unwrap();
    drop(engine);
    assert!(directory(&from) == before, "the source was written");
    compare(&to, &expected);
}

/// What the threads of a store at work have seen confirmed: numbers, ever higher.
#[derive(Default)]
struct Seen {
    published: AtomicU64,
    acked: AtomicU64,
}

/// Publishers and consumers work on a store while it is backed up again and again.
fn at_work(engine: &Engine, mut back_up_and_open: impl FnMut(u64) -> Engine) {
    engine.declare_queue("jobs").unwrap();
    engine.declare_queue("keeps").unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let seen = Arc::new(Seen::default());
    let publishing = {
        let (engine, done, seen) = (engine.clone(), Arc::clone(&done), Arc::clone(&seen));
        start(move || {
            let publisher = engine.publisher();
            let mut number: u64 = 0;
            while !done.load(Ordering::Acquire) {
                let send = |queue: &str, number: u64| {
                    let payload = [&number.to_le_bytes()[..], &pattern(number, 900)].concat();
                    publisher.publish(&Message::new("", queue, &payload)).unwrap()
                };
                let mut tickets: Vec<_> =
                    (number..number + 20).map(|number| send("jobs", number)).collect();
                // One in twenty-one is never acked: what holds it becomes sparse, and is rewritten.
                tickets.push(send("keeps", number));
                for ticket in tickets {
                    ticket.wait().unwrap();
                }
                number += 20;
                seen.published.store(number, Ordering::Release);
                // Not so fast that nothing dies, or is rewritten, meanwhile.
                std::thread::sleep(Duration::from_millis(4));
                while number > seen.acked.load(Ordering::Acquire) + 2000
                    && !done.load(Ordering::Acquire)
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        })
    };
    let consuming = {
        let (engine, done, seen) = (engine.clone(), Arc::clone(&done), Arc::clone(&seen));
        start(move || {
            let consumer = consume(&engine, "jobs", 100);
            while !done.load(Ordering::Acquire) {
                let batch = consumer.recv_batch(10, Duration::from_millis(5)).unwrap();
                let acked = batch.len() as u64;
                batch.ack().unwrap().wait().unwrap();
                seen.acked.fetch_add(acked, Ordering::Release);
            }
        })
    };
    for round in 0..4 {
        let before = engine.stats().segments_recycled + engine.stats().segments_deleted;
        until("the store works", || {
            engine.checkpoint().unwrap();
            engine.stats().segments_recycled + engine.stats().segments_deleted > before + 2
        });
        let published = seen.published.load(Ordering::Acquire);
        let acked = seen.acked.load(Ordering::Acquire);
        let opened = back_up_and_open(round);
        // What was confirmed before is there, or acked; what was acked is acked.
        let view = opened.queue("jobs").unwrap();
        let consumer = consume(&opened, "jobs", 0);
        let (mut numbers, mut last) = (Vec::new(), None);
        while (numbers.len() as u64) < view.messages {
            let delivery = consumer.recv_timeout(PATIENCE).unwrap().expect("all is there");
            numbers.push(number_of(delivery.payload()));
            last = Some(delivery.ack().unwrap());
        }
        if let Some(ack) = last {
            ack.wait().unwrap();
        }
        assert!(numbers.is_sorted() && numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        assert!(numbers.first().is_none_or(|&first| first >= acked), "{numbers:?} {acked}");
        let end = opened.stats().end_offset.0;
        assert!(end >= published + published / 20, "{end} {published}");
        let keeps = opened.browse("keeps").unwrap().map(|one| number_of(&one.unwrap().payload));
        let keeps: Vec<u64> = keeps.collect();
        assert!(keeps.iter().copied().eq((0..).step_by(20).take(keeps.len())));
        assert!(keeps.len() as u64 >= published / 20, "{} {published}", keeps.len());
        drop(consumer);
        sound(&opened);
    }
    until("something is rewritten", || engine.stats().segments_rewritten > 0);
    done.store(true, Ordering::Release);
    publishing.join();
    consuming.join();
    sound(engine);
}

/// The number of a message whose bytes are those of that number.
fn number_of(payload: &[u8]) -> u64 {
    let number = u64::from_le_bytes(payload[..8].try_into().unwrap());
    assert!(payload[8..] == pattern(number, 900), "message {number} has other bytes");
    number
}

#[test]
fn a_store_at_work_in_memory_is_copied_again_and_again() {
    let storage = Arc::new(MemoryStorage::new());
    let engine = Engine::open_on(storage, Arc::new(SystemClock::new()), small()).unwrap();
    at_work(&engine, |round| {
        let disk = MemoryStorage::new();
        back_up(&engine, &disk);
        let disk = disk.crash_image(round, CrashMode::Random);
        Engine::open_on(Arc::new(disk), Arc::new(SystemClock::new()), small()).unwrap()
    });
}

#[test]
fn a_store_at_work_on_a_disk_is_linked_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store"), small()).unwrap();
    let mut kept = Vec::new();
    at_work(&engine, |round| {
        let to = dir.path().join(format!("backup{round}"));
        engine.backup(&to).unwrap();
        // One is only looked at later, after its segments were given back.
        let late = dir.path().join(format!("late{round}"));
        let report = engine.backup(&late).unwrap();
        kept.push((late.clone(), report));
        Engine::open(&to, small()).unwrap()
    });
    for (dir, report) in kept {
        assert_eq!(verify(&dir, &mut |_| {}).unwrap().problems, []);
        let opened = Engine::open(&dir, small()).unwrap();
        assert_eq!(opened.stats().end_offset, report.end);
    }
}

#[test]
fn progress_goes_up_to_the_whole() {
    let (_machine, engine) = with_jobs();
    fill(&engine, 0, 40);
    let mut told = Vec::new();
    let report = engine
        .backup_on(&MemoryStorage::new(), BackupFiles::default(), &mut |progress| {
            told.push(progress);
        })
        .unwrap();
    assert!(told.is_sorted_by_key(|progress| (progress.bytes_done, progress.segments_done)));
    let last = told.last().unwrap();
    assert_eq!((last.bytes_done, last.segments_done), (last.bytes_total, last.segments_total));
    assert_eq!(last.segments_total, report.copied_segments);
}

#[test]
fn a_backup_does_not_go_into_the_store_itself() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), small()).unwrap();
    for target in [dir.path().to_owned(), dir.path().join("sub"), dir.path().join("a/../sub/b")] {
        let error = engine.backup(&target).unwrap_err();
        assert!(error.to_string().contains("lies inside it"), "{error}");
    }
    assert!(!dir.path().join("sub").exists());
}
