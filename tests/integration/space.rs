//! A full disk and the limits of a store: publishers stop in time, what was accepted is written, the
//! store is drained without being opened again, and all goes on by itself.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fanlog::{
    Config, Engine, Error, ErrorKind, Message, Ticket, WhenFull,
    clock::SystemClock,
    storage::{MemoryStorage, Storage as _},
};

use crate::support::{
    Machine, PATIENCE, Started, consume, next, pattern, publish, ready, settle, small, sound,
    start, stepped, until,
};

const SEGMENT: u64 = 128 << 10;
/// Three files, and as many as 1 MiB of unconfirmed messages takes: nine with heads, and two batches that
/// fill theirs badly.
const RESERVE: u64 = 3 + 11;
const PAYLOAD: usize = 10_000;

fn config(when_full: WhenFull) -> Config {
    Config {
        segment_bytes_max: SEGMENT,
        segments_ahead: 1,
        when_full,
        ack_delay_max: Duration::from_millis(20),
        ..small()
    }
}

fn open(disk: &MemoryStorage, config: Config) -> Engine {
    Engine::open_on(Arc::new(disk.clone()), Arc::new(SystemClock::new()), config).unwrap()
}

fn used_bytes(disk: &MemoryStorage) -> u64 {
    disk.list().unwrap().iter().map(|entry| entry.bytes).sum()
}

/// Waits for what may be told that space has to be made first: it is on its way all the same.
fn in_the_end(what: &str, mut wait: impl FnMut() -> fanlog::Result<()>) {
    until(what, || match wait() {
        Ok(()) => true,
        Err(Error::OutOfSpace { .. }) => false,
        Err(error) => panic!("{error}"),
    });
}

/// Publishes, from number `first` on, until that is refused for want of space; returns how many were
/// accepted, all confirmed.
fn fill(engine: &Engine, first: u64, mut after_each: impl FnMut(u64)) -> u64 {
    let publisher = engine.publisher();
    let mut tickets: Vec<Ticket> = Vec::new();
    loop {
        let payload = pattern(first + tickets.len() as u64, PAYLOAD);
        match publisher.publish(&Message::new("", "jobs", &payload)) {
            Ok(ticket) => {
                tickets.push(ticket);
                after_each(tickets.len() as u64);
            }
            Err(Error::Full { .. }) => std::thread::yield_now(),
            Err(Error::OutOfSpace { .. }) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(tickets.len() < 100_000, "it never gets full");
    }
    for ticket in &tickets {
        in_the_end("it is confirmed", || ticket.wait_timeout(PATIENCE).map(drop));
    }
    tickets.len() as u64
}

/// Fills the store with every second message acked, then what is left of the disk by `fill_rest`;
/// drains it to empty and publishes again, without opening it anew.
fn fill_and_drain(engine: &Engine, fill_rest: impl FnOnce()) {
    engine.declare_queue("jobs").unwrap();
    let consumer = consume(engine, "jobs", 0);
    let mut kept = Vec::new();
    let mut accepted = fill(engine, 0, |_| {
        while let Some(delivery) = consumer.recv_timeout(Duration::ZERO).unwrap() {
            if delivery.offset().0.is_multiple_of(2) {
                kept.push(delivery);
            } else {
                delivery.ack().unwrap();
            }
        }
    });
    assert!(accepted > 100, "{accepted}");
    fill_rest();
    // What was given back meanwhile, as it was acked, may have let some more in.
    accepted += fill(engine, accepted, |_| {});
    // Leases and acks go on; those that are waited for share a write.
    while let Some(delivery) = consumer.recv_timeout(Duration::from_millis(500)).unwrap() {
        kept.push(delivery);
    }
    assert!(kept.len() as u64 >= accepted / 2);
    for (number, delivery) in (0..).zip(kept) {
        assert!(delivery.payload() == pattern(delivery.offset().0, PAYLOAD));
        let ack = delivery.ack().unwrap();
        if number % 50 == 0 {
            in_the_end("the ack is durable", || ack.wait_timeout(PATIENCE));
        }
    }
    until("the queue is empty", || engine.queue("jobs").unwrap().messages == 0);
    let publisher = engine.publisher();
    let mut again = None;
    until("publishing goes on", || {
        let outcome = publisher.publish(&Message::new("", "jobs", b"again"));
        match outcome {
            Ok(ticket) => again = Some(ticket),
            Err(Error::OutOfSpace { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        again.is_some()
    });
    again.unwrap().wait_timeout(PATIENCE).unwrap();
    assert_eq!(consumer.recv_timeout(PATIENCE).unwrap().unwrap().payload(), b"again");
    // As much as before fits in again.
    let stats = engine.stats();
    assert!(!stats.poisoned && stats.segments_recycled + stats.segments_deleted > 0, "{stats:?}");
    sound(engine);
}

/// It would wait for space, and acks behind it.
#[test]
fn what_is_larger_than_all_that_is_kept_is_refused_where_there_is_no_room_for_it() {
    for when_full in [WhenFull::Fail, WhenFull::Block] {
        let disk = MemoryStorage::new();
        disk.set_capacity(Some(4 << 20));
        let config = Config { message_bytes_max: 8 << 20, ..config(when_full) };
        let engine = open(&disk, config);
        engine.declare_queue("jobs").unwrap();
        publish(&engine, "jobs", b"small");
        let consumer = consume(&engine, "jobs", 1);
        let held = consumer.recv_timeout(PATIENCE).unwrap().unwrap();
        let large = pattern(1, 3 << 20);
        let message = Message::new("", "jobs", &large);
        let publisher = engine.publisher();
        for _ in 0..3 {
            let refused = publisher.publish(&message).unwrap_err();
            assert!(matches!(refused, Error::OutOfSpace { .. }), "{refused}");
            let refused = crate::support::block_on(publisher.publish_async(&message)).unwrap_err();
            assert!(matches!(refused, Error::OutOfSpace { .. }), "{refused}");
            let mut transaction = engine.begin();
            transaction.publish(&message).unwrap();
            assert_eq!(transaction.commit().unwrap_err().kind(), ErrorKind::OutOfSpace);
        }
        // Nobody else waits for it.
        held.ack().unwrap().wait_timeout(PATIENCE).unwrap();
        publish(&engine, "jobs", b"small too");
        let next = consumer.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(next.payload(), b"small too");
        disk.set_capacity(Some(16 << 20));
        until("it has room", || {
            let ticket = publisher.publish(&message);
            ticket.and_then(|ticket| ticket.wait_timeout(PATIENCE)).is_ok()
        });
        publish(&engine, "jobs", b"behind it");
        sound(&engine);
    }
}

#[test]
fn a_disk_full_to_the_last_byte_is_drained_and_written_to_again() {
    let disk = MemoryStorage::new();
    disk.set_capacity(Some(6 << 20));
    let engine = open(&disk, config(WhenFull::Fail));
    fill_and_drain(&engine, || disk.set_capacity(Some(used_bytes(&disk))));
    engine.close(PATIENCE).unwrap();
    let again = open(&disk, config(WhenFull::Fail));
    assert!(again.recovery().clean);
    sound(&again);
}

/// A file system of its own, gone when this is.
struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    /// A tmpfs of that size; `None`, with the reason told, where this process may not mount one.
    fn tmpfs(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let tried = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "fanlog-test"])
            .arg(dir.path())
            .output();
        Self::of(dir, &tried)
    }

    /// An ext4 file system of that size in a file.
    #[expect(clippy::print_stderr, reason = "what could not run is said")]
    fn ext4(image: &Path, bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(image).unwrap();
        file.set_len(bytes).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image).output();
        if !made.as_ref().is_ok_and(|made| made.status.success()) {
            eprintln!("NOT RUN on ext4: no file system could be made: {made:?}");
            return None;
        }
        let tried = Command::new("mount").args(["-o", "loop"]).arg(image).arg(dir.path()).output();
        Self::of(dir, &tried)
    }

    #[expect(clippy::print_stderr, reason = "what could not run is said")]
    fn of(dir: tempfile::TempDir, tried: &std::io::Result<std::process::Output>) -> Option<Self> {
        if tried.as_ref().is_ok_and(|tried| tried.status.success()) {
            return Some(Self { dir });
        }
        eprintln!("NOT RUN on a real file system: nothing can be mounted here: {tried:?}");
        None
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Writes a file until there is no byte left.
    fn fill_rest(&self) {
        let mut rest = std::fs::File::create(self.dir.path().join("rest")).unwrap();
        for size in [1 << 16, 4096, 1] {
            while rest.write(&vec![1; size]).is_ok_and(|written| written > 0) {}
        }
        rest.sync_all().unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.dir.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_small_file_system_full_to_the_last_byte_is_drained_and_written_to_again() {
    let Some(mounted) = Mounted::tmpfs(8 << 20) else { return };
    let engine = Engine::open(mounted.path(), config(WhenFull::Fail)).unwrap();
    fill_and_drain(&engine, || mounted.fill_rest());
    engine.close(PATIENCE).unwrap();
    let again = Engine::open(mounted.path(), config(WhenFull::Fail)).unwrap();
    assert!(again.recovery().clean);
}

#[test]
fn a_small_disk_with_direct_writes_is_drained_and_written_to_again() {
    let place = tempfile::tempdir().unwrap();
    let Some(mounted) = Mounted::ext4(&place.path().join("image"), 24 << 20) else { return };
    let engine = Engine::open(mounted.path(), config(WhenFull::Fail)).unwrap();
    fill_and_drain(&engine, || mounted.fill_rest());
    engine.close(PATIENCE).unwrap();
    let again = Engine::open(mounted.path(), config(WhenFull::Fail)).unwrap();
    assert!(again.recovery().clean);
}

/// Consumes and acks until told to stop.
fn consume_all(engine: &Engine, stop: &Arc<AtomicBool>) -> Started<u64> {
    let (consumer, stop) = (consume(engine, "jobs", 0), Arc::clone(stop));
    start(move || {
        let mut came = 0;
        loop {
            match consumer.recv_timeout(Duration::from_millis(20)).unwrap() {
                Some(delivery) => {
                    assert!(delivery.payload() == pattern(came, PAYLOAD), "message {came}");
                    delivery.ack().unwrap();
                    came += 1;
                }
                None if stop.load(Ordering::Relaxed) => return came,
                None => {}
            }
        }
    })
}

#[test]
fn ten_times_a_stores_limit_goes_through_it_with_publishers_slowed_and_never_stuck() {
    const LIMIT: u64 = (RESERVE + 8) * SEGMENT;
    const MESSAGES: u64 = 10 * LIMIT / PAYLOAD as u64;
    let disk = MemoryStorage::new();
    let engine = open(&disk, Config { store_bytes_max: Some(LIMIT), ..config(WhenFull::Block) });
    engine.declare_queue("jobs").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let consuming = consume_all(&engine, &stop);
    let publisher = engine.publisher();
    let (mut most, mut last) = (0, None);
    for number in 0..MESSAGES {
        let payload = pattern(number, PAYLOAD);
        last = Some(publisher.publish(&Message::new("", "jobs", &payload)).unwrap());
        if number.is_multiple_of(20) {
            most = most.max(used_bytes(&disk));
        }
    }
    // What is not confirmed yet is not in the queue.
    last.unwrap().wait().unwrap();
    until("all are delivered", || engine.queue("jobs").unwrap().messages == 0);
    stop.store(true, Ordering::Relaxed);
    assert_eq!(consuming.join(), MESSAGES);
    // Some more while segments are rewritten: old and new stand side by side for two checkpoints.
    assert!(most <= LIMIT + LIMIT / 4, "{most} bytes of {LIMIT}");
    sound(&engine);
}

#[test]
fn publishers_stop_at_the_limit_of_the_store_and_go_on_by_themselves() {
    const LIMIT: u64 = (RESERVE + 6) * SEGMENT;
    for when_full in [WhenFull::Fail, WhenFull::Block] {
        let disk = MemoryStorage::new();
        let engine = open(&disk, Config { store_bytes_max: Some(LIMIT), ..config(when_full) });
        engine.declare_queue("jobs").unwrap();
        let publisher = engine.publisher();
        let publishing = if when_full == WhenFull::Fail {
            fill(&engine, 0, |_| {});
            let error = publisher.publish(&Message::new("", "jobs", b"x")).map(drop).unwrap_err();
            assert!(error.to_string().contains("store_bytes_max"), "{error}");
            None
        } else {
            Some(start(move || {
                for number in 0..300 {
                    let payload = pattern(number, PAYLOAD);
                    publisher.publish(&Message::new("", "jobs", &payload)).unwrap();
                }
            }))
        };
        until("the limit is reached", || used_bytes(&disk) + 2 * SEGMENT > LIMIT);
        assert!(used_bytes(&disk) <= LIMIT + LIMIT / 4, "{} of {LIMIT}", used_bytes(&disk));
        if let Some(publishing) = &publishing {
            std::thread::sleep(Duration::from_millis(50));
            assert!(publishing.is_done().is_none(), "it waits");
        }
        // What was handed out can be acked, and is what makes room.
        let consumer = consume(&engine, "jobs", 0);
        let publisher = engine.publisher();
        until("there is room", || {
            for delivery in std::iter::from_fn(|| consumer.recv_timeout(Duration::ZERO).unwrap()) {
                delivery.ack().unwrap();
            }
            match &publishing {
                Some(publishing) => publishing.is_done().is_some(),
                None => publisher.publish(&Message::new("", "jobs", b"x")).is_ok(),
            }
        });
        sound(&engine);
    }
}

#[test]
fn some_of_the_disk_is_left_to_others() {
    const LEFT: u64 = 2 << 20;
    let disk = MemoryStorage::new();
    disk.set_capacity(Some(8 << 20));
    let engine = open(&disk, Config { free_bytes_min: LEFT, ..config(WhenFull::Fail) });
    engine.declare_queue("jobs").unwrap();
    fill(&engine, 0, |_| {});
    assert!(disk.free_bytes().unwrap() >= LEFT);
    let error = engine.publisher().publish(&Message::new("", "jobs", b"x")).map(drop).unwrap_err();
    assert!(error.to_string().contains("free_bytes_min"), "{error}");
    disk.set_capacity(Some(16 << 20));
    until("publishing goes on", || {
        engine.publisher().publish(&Message::new("", "jobs", b"x")).is_ok()
    });
}

#[test]
fn a_store_opened_with_less_than_it_has_is_drained_first() {
    let disk = MemoryStorage::new();
    let engine = open(&disk, config(WhenFull::Fail));
    engine.declare_queue("jobs").unwrap();
    for number in 0..1000 {
        let message = pattern(number, PAYLOAD);
        let ticket = loop {
            match engine.publisher().publish(&Message::new("", "jobs", &message)) {
                Ok(ticket) => break ticket,
                Err(Error::Full { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        drop(ticket);
    }
    engine.close(PATIENCE).unwrap();
    let limit = (RESERVE + 4) * SEGMENT;
    assert!(used_bytes(&disk) > 2 * limit);
    let engine = open(&disk, Config { store_bytes_max: Some(limit), ..config(WhenFull::Fail) });
    let stored = 1000;
    let accepted = fill(&engine, 0, |_| {});
    let most = 2 * SEGMENT + (1 << 20);
    assert!(accepted * PAYLOAD as u64 <= most, "no more than its last segment and buffers take");
    let consumer = consume(&engine, "jobs", 0);
    for number in 0..stored + accepted {
        let delivery = consumer.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(delivery.offset().0, number);
        delivery.ack().unwrap();
    }
    until("publishing goes on", || {
        engine.publisher().publish(&Message::new("", "jobs", b"x")).is_ok()
    });
    until("it is below its limit", || used_bytes(&disk) <= limit + SEGMENT);
    sound(&engine);
}

#[test]
fn a_full_disk_is_closed_cleanly_and_opened_after_a_crash() {
    let machine = Machine::new();
    let engine = machine.open_with(Config { when_full: WhenFull::Fail, ..stepped() });
    engine.declare_queue("jobs").unwrap();
    for number in 0..30 {
        publish(&engine, "jobs", &pattern(number, 5000));
        settle(&engine);
    }
    // Not a byte more, from here on.
    machine.disk.set_capacity(Some(used_bytes(&machine.disk)));
    let crashed = machine.power_cut();
    assert_eq!(engine.close(PATIENCE).unwrap().unconfirmed, 0);
    for (machine, clean) in [(&machine, true), (&crashed, false)] {
        machine.disk.set_capacity(Some(used_bytes(&machine.disk)));
        // The second time it was closed by dropping it.
        for clean in [clean, true] {
            let engine = machine.open_with(Config { when_full: WhenFull::Fail, ..stepped() });
            assert_eq!(engine.recovery().clean, clean);
            let consumer = consume(&engine, "jobs", 0);
            assert_eq!(ready(&consumer).len(), 30);
            sound(&engine);
        }
    }
}

/// With even the reserve gone nothing can be written: those who wait are told if they asked for it.
#[test]
fn where_nothing_at_all_can_be_written_waiters_are_told() {
    let machine = Machine::new();
    let engine = machine.open_with(Config { when_full: WhenFull::Fail, ..stepped() });
    engine.declare_queue("jobs").unwrap();
    machine.disk.set_capacity(Some(0));
    let payload = pattern(1, 500_000);
    let ticket = engine.publisher().publish(&Message::new("", "jobs", &payload)).unwrap();
    assert!(!engine.step_commit(), "no file is large enough, nor is there space to make one");
    assert_eq!(ticket.wait().unwrap_err().kind(), ErrorKind::Timeout, "it drives in vain");
    let refused = engine.publisher().publish(&Message::new("", "jobs", b"x")).map(drop);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::OutOfSpace);
    machine.disk.set_capacity(None);
    machine.clock.advance(Duration::from_secs(1));
    settle(&engine);
    ticket.try_wait().unwrap().unwrap();
    publish(&engine, "jobs", b"x");
    sound(&engine);
}

/// A batch that no prepared file can hold gets what several of them had.
#[test]
fn a_large_batch_that_was_accepted_is_written_in_place_of_the_reserve() {
    let machine = Machine::new();
    let engine = machine.open_with(Config { when_full: WhenFull::Fail, ..stepped() });
    engine.declare_queue("jobs").unwrap();
    settle(&engine);
    machine.disk.set_capacity(Some(used_bytes(&machine.disk)));
    let payload = pattern(1, 500_000);
    let ticket = engine.publisher().publish(&Message::new("", "jobs", &payload)).unwrap();
    ticket.wait().unwrap();
    let refused = engine.publisher().publish(&Message::new("", "jobs", b"x")).map(drop);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::OutOfSpace);
    let consumer = consume(&engine, "jobs", 0);
    next(&consumer).ack().unwrap().wait().unwrap();
    settle(&engine);
    machine.disk.set_capacity(None);
    settle(&engine);
    publish(&engine, "jobs", b"x");
    sound(&engine);
}

#[test]
fn acks_that_are_waited_for_share_a_write_while_space_is_scarce() {
    let disk = MemoryStorage::new();
    disk.set_capacity(Some(4 << 20));
    let engine = open(&disk, config(WhenFull::Fail));
    engine.declare_queue("jobs").unwrap();
    let accepted = fill(&engine, 0, |_| {});
    disk.set_capacity(Some(used_bytes(&disk)));
    let consumer = consume(&engine, "jobs", 0);
    let deliveries: Vec<_> =
        (0..20).map(|_| consumer.recv_timeout(PATIENCE).unwrap().unwrap()).collect();
    assert!(accepted > 20);
    let before = engine.stats().batches;
    let waiting: Vec<_> = deliveries
        .into_iter()
        .map(|delivery| {
            let ack = delivery.ack().unwrap();
            start(move || ack.wait().unwrap())
        })
        .collect();
    for one in waiting {
        one.join();
    }
    let batches = engine.stats().batches - before;
    assert!(batches <= 6, "{batches} batches for 20 acks");
}

#[test]
fn one_message_may_have_a_quarter_of_the_store() {
    let machine = Machine::new();
    let limit = 24 * SEGMENT;
    let engine = machine.open_with(Config {
        segment_bytes_max: SEGMENT,
        store_bytes_max: Some(limit),
        ..stepped()
    });
    engine.declare_queue("jobs").unwrap();
    let quarter = usize::try_from(limit / 4).unwrap();
    let payload = vec![1; quarter];
    let error = engine.publisher().publish(&Message::new("", "jobs", &payload)).unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit, .. } if limit == quarter), "{error}");
    publish(&engine, "jobs", &payload[100..]);
}
