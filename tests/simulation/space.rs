//! A full disk: publishers wait or are told, nothing is lost, and it goes on by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fanlog::clock::SystemClock;
use fanlog::storage::{Call, CrashMode, Fault, FaultRule, MemoryStorage, OperationKind};
use fanlog::{Config, Engine, Error, Message, WhenFull};
use fanlog_tests::operations::extension;
use fanlog_tests::world::{Plan, World};

#[test]
fn a_full_disk_loses_nothing_and_goes_on_when_there_is_space() {
    for seed in 0..40 {
        let mut world = World::new(Plan::new(seed));
        world.config().when_full = if seed % 4 < 2 { WhenFull::Block } else { WhenFull::Fail };
        let outcome = world.open().and_then(|()| world.set_up()).and_then(|()| world.run(100));
        assert_eq!(outcome, Ok(()), "seed {seed}");
        // Whatever would grow a file from now on fails.
        world.disk.set_capacity(Some(1));
        let outcome = world
            .fill_disk()
            .and_then(|()| world.consume_when_full())
            .and_then(|()| world.step_when_full());
        assert_eq!(outcome, Ok(()), "seed {seed}, full");
        if seed % 3 == 0 {
            crash_while_full(&mut world, seed);
            continue;
        }
        world.disk.set_capacity(None);
        let outcome = world
            .step_when_full()
            .and_then(|()| world.settle())
            .map(|()| assert_eq!(world.unsettled(), 0, "seed {seed}: all are confirmed"))
            .and_then(|()| world.run(100))
            .and_then(|()| world.finish());
        assert_eq!(outcome, Ok(()), "seed {seed}, with space again");
    }
}

fn crash_while_full(world: &mut World, seed: u64) {
    let remains = world.power_off().unwrap();
    for mode in [CrashMode::KeepAll, CrashMode::LoseUnsynced, CrashMode::Random] {
        let image = remains.image(seed, mode);
        image.set_capacity(None);
        let revived = remains.revive(image, mode == CrashMode::KeepAll);
        let (mut world, _) =
            revived.unwrap_or_else(|stop| panic!("seed {seed} {mode:?}: {stop:?}"));
        assert_eq!(world.finish(), Ok(()), "seed {seed} {mode:?}");
    }
}

#[test]
fn short_writes_are_gone_on_with() {
    for seed in 0..10 {
        let mut world = World::new(Plan::new(seed));
        world.plant(FaultRule::new(Call::Write, Fault::ShortWrite(8192)).forever());
        world.excuse_nothing();
        let outcome = world
            .open()
            .and_then(|()| world.set_up())
            .and_then(|()| world.run(200))
            .and_then(|()| world.finish());
        assert_eq!(outcome, Ok(()), "seed {seed}");
        assert!(world.faults.is_some_and(|faults| faults.faults() > 100));
    }
}

/// Looks again and again until it is so.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn threaded(disk: &MemoryStorage, when_full: WhenFull) -> Engine {
    let config = Config {
        segment_bytes_max: 256 << 10,
        buffer_bytes_max: 1 << 20,
        window_bytes_max: 1 << 20,
        when_full,
        ack_delay_max: Duration::from_millis(5),
        ..Config::default()
    };
    let storage = Arc::new(disk.clone());
    let engine = Engine::open_on(storage, Arc::new(SystemClock::new()), config).unwrap();
    engine.declare_queue("q").unwrap();
    engine
}

/// The committer itself found no space for a segment: it removed what it had created.
fn ran_out(disk: &MemoryStorage) -> bool {
    let is_segment = |name: &str| extension(name) == "seg" && !name.starts_with("free-");
    disk.operations()
        .iter()
        .any(|operation| operation.kind == OperationKind::Remove && is_segment(&operation.name))
}

#[test]
fn a_publisher_that_waits_for_space_resumes_by_itself() {
    const MESSAGES: u64 = 200;
    let disk = MemoryStorage::new();
    let engine = threaded(&disk, WhenFull::Block);
    disk.set_capacity(Some(2 << 20));
    let placed = AtomicU64::new(0);
    thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let publisher = engine.publisher();
            let payload = vec![7; 30_000];
            let tickets: Vec<_> = (0..MESSAGES)
                .map(|_| {
                    let ticket = publisher.publish(&Message::new("", "q", &payload)).unwrap();
                    placed.fetch_add(1, Ordering::Relaxed);
                    ticket
                })
                .collect();
            tickets.iter().map(|ticket| ticket.wait().unwrap().first_offset.0).collect::<Vec<_>>()
        });
        until("the disk is full", || ran_out(&disk));
        assert!(placed.load(Ordering::Relaxed) < MESSAGES);
        disk.set_capacity(None);
        assert_eq!(publisher.join().unwrap(), (0..MESSAGES).collect::<Vec<_>>());
    });
    assert_eq!(engine.queue("q").unwrap().messages, MESSAGES);
    assert_eq!(engine.close(Duration::from_secs(20)).unwrap().unconfirmed, 0);
}

#[test]
fn a_publisher_that_does_not_wait_is_told_and_may_try_again() {
    let disk = MemoryStorage::new();
    let engine = threaded(&disk, WhenFull::Fail);
    disk.set_capacity(Some(2 << 20));
    let publisher = engine.publisher();
    let payload = vec![7; 30_000];
    let message = Message::new("", "q", &payload);
    let mut tickets = Vec::new();
    until("publishing is refused for want of space", || match publisher.publish(&message) {
        Ok(ticket) => {
            tickets.push(ticket);
            false
        }
        Err(Error::Full { .. }) => false,
        Err(Error::OutOfSpace { .. }) => true,
        Err(error) => panic!("{error}"),
    });
    disk.set_capacity(None);
    until("publishing goes on", || match publisher.publish(&message) {
        Ok(ticket) => {
            tickets.push(ticket);
            true
        }
        Err(Error::Full { .. } | Error::OutOfSpace { .. }) => false,
        Err(error) => panic!("{error}"),
    });
    for ticket in &tickets {
        ticket.wait_timeout(Duration::from_secs(20)).unwrap();
    }
    assert_eq!(engine.queue("q").unwrap().messages, tickets.len() as u64);
}
