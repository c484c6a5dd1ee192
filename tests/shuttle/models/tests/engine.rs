//! The whole engine, with its threads, under a scheduler that chooses who goes on at each lock, atomic
//! and wake-up: by chance, and with few changes of thread at the worst places (PCT). A wait that nobody
//! ends is a deadlock, and found. No time passes: whatever is not woken stays asleep.
//!
//! `SHUTTLE_ITERATIONS` says how many schedules each model gets (100).

#[path = "../slow.rs"]
mod slow;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use crate::slow::SlowDisk;
use fanlog::{
    Config, ConsumerOptions, Engine, ExchangeKind, Message, Offset,
    clock::ManualClock,
    storage::{CrashMode, MemoryStorage},
};
use shuttle::{
    Runner,
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
    thread,
};

fn config() -> Config {
    Config {
        segment_bytes_max: 64 << 10,
        segments_ahead: 1,
        window_bytes_max: 1 << 20,
        buffer_bytes_max: 1 << 20,
        checkpoint_log_bytes: 64 << 10,
        ..Config::default()
    }
}

fn open(disk: &MemoryStorage) -> Arc<Engine> {
    open_with(disk, config())
}

fn open_with(disk: &MemoryStorage, config: Config) -> Arc<Engine> {
    let clock = Arc::new(ManualClock::new());
    Arc::new(Engine::open_on(Arc::new(SlowDisk(disk.clone())), clock, config).unwrap())
}

/// What the store would hold if power failed now.
fn after_a_power_cut(disk: &MemoryStorage) -> BTreeSet<Offset> {
    let image = disk.crash_image(0, CrashMode::LoseUnsynced);
    let (disk, clock) = (Arc::new(image), Arc::new(ManualClock::new()));
    let engine = Engine::open_on(disk, clock, Config { stepped: true, ..config() }).unwrap();
    engine.browse("jobs").unwrap().map(|message| message.unwrap().offset).collect()
}

/// Runs a model under many schedules; deadlocks and panics end it, with the schedule to replay.
fn explore(model: fn()) {
    let asked = std::env::var("SHUTTLE_ITERATIONS").ok();
    let iterations: usize = asked.map_or(100, |text| text.parse().unwrap());
    let schedulers: [Box<dyn Scheduler + Send>; 2] =
        [Box::new(RandomScheduler::new(iterations)), Box::new(PctScheduler::new(3, iterations))];
    for scheduler in schedulers {
        let mut settings = shuttle::Config::new();
        settings.stack_size = 1 << 20;
        settings.max_steps = shuttle::MaxSteps::FailAfter(10_000_000);
        Runner::new(scheduler, settings).run(model);
    }
}

/// Closes, opens and checks.
fn end(engine: Arc<Engine>, disk: &MemoryStorage, left: u64) {
    engine.close(Duration::from_secs(60)).unwrap();
    drop(engine);
    let engine = open(disk);
    assert!(engine.recovery().clean);
    assert_eq!(engine.queue("jobs").unwrap().messages, left);
    let report = engine.check(&mut |_| {}).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    engine.close(Duration::from_secs(60)).unwrap();
}

/// The hand-over to the committers, those who wait for a confirm, and a consumer that sleeps.
#[test]
fn publishers_that_wait_are_told_and_a_consumer_that_sleeps_is_woken() {
    explore(|| {
        const EACH: u64 = 3;
        let disk = MemoryStorage::new();
        let engine = open(&disk);
        engine.declare_queue("jobs").unwrap();
        let publishers: Vec<_> = (0..2_u64)
            .map(|publisher| {
                let engine = Arc::clone(&engine);
                thread::spawn(move || {
                    let out = engine.publisher();
                    for number in 0..EACH {
                        let payload = [publisher.to_le_bytes(), number.to_le_bytes()].concat();
                        let ticket = out.publish(&Message::new("", "jobs", &payload)).unwrap();
                        if number % 2 == 0 {
                            ticket.wait().unwrap();
                        }
                    }
                })
            })
            .collect();
        let consumer = engine.consume("jobs", ConsumerOptions::prefetch(2)).unwrap();
        let mut next = [0; 2];
        for _ in 0..2 * EACH {
            let delivery = shuttle::future::block_on(consumer.recv_async()).unwrap();
            let number =
                |at: usize| u64::from_le_bytes(delivery.payload()[at..at + 8].try_into().unwrap());
            let (publisher, number) = (usize::try_from(number(0)).unwrap(), number(8));
            assert_eq!(number, next[publisher], "in the order of its publisher, once");
            next[publisher] += 1;
            delivery.ack().unwrap().wait().unwrap();
        }
        for publisher in publishers {
            publisher.join().unwrap();
        }
        drop(consumer);
        end(engine, &disk, 0);
    });
}

/// The topology swap: what is published while a queue is bound and unbound goes to it or not, and is
/// counted just so.
#[test]
fn what_is_published_while_bindings_change_is_counted_where_it_went() {
    explore(|| {
        let disk = MemoryStorage::new();
        let engine = open(&disk);
        engine.declare_exchange("fan", ExchangeKind::Fanout).unwrap();
        for queue in ["jobs", "more"] {
            engine.declare_queue(queue).unwrap();
        }
        engine.bind("jobs", "fan", "").unwrap();
        let changes = {
            let engine = Arc::clone(&engine);
            thread::spawn(move || {
                engine.bind("more", "fan", "").unwrap();
                engine.unbind("more", "fan", "").unwrap();
            })
        };
        let out = engine.publisher();
        let tickets: Vec<_> =
            (0..4).map(|_| out.publish(&Message::new("fan", "", b"m")).unwrap()).collect();
        for ticket in tickets {
            ticket.wait().unwrap();
        }
        changes.join().unwrap();
        let counted = engine.queue("more").unwrap().messages;
        let stored = engine.browse("more").unwrap().count();
        assert_eq!(counted, stored as u64);
        end(engine, &disk, 4);
    });
}

/// Acks of two consumers of one queue, in any order, beside a purge: each message is settled once.
#[test]
fn acks_beside_a_purge_settle_each_message_once() {
    explore(|| {
        const ALL: u64 = 6;
        let disk = MemoryStorage::new();
        let engine = open(&disk);
        engine.declare_queue("jobs").unwrap();
        let out = engine.publisher();
        for _ in 0..ALL {
            out.publish(&Message::new("", "jobs", b"m")).unwrap().wait().unwrap();
        }
        let taken = Arc::new(AtomicU64::new(0));
        let consumers: Vec<_> = (0..2)
            .map(|_| {
                let (engine, taken) = (Arc::clone(&engine), Arc::clone(&taken));
                thread::spawn(move || {
                    let consumer = engine.consume("jobs", ConsumerOptions::prefetch(1)).unwrap();
                    let mut offsets = BTreeSet::new();
                    while let Some(delivery) = consumer.try_recv().unwrap() {
                        assert!(offsets.insert(delivery.offset()), "once");
                        delivery.ack().unwrap().wait().unwrap();
                        taken.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let purged = engine.purge_queue("jobs").unwrap();
        for consumer in consumers {
            consumer.join().unwrap();
        }
        let taken = taken.load(Ordering::Relaxed);
        let left = engine.queue("jobs").unwrap().messages;
        assert_eq!(taken + purged + left, ALL, "{taken} acked, {purged} purged, {left} left");
        end(engine, &disk, left);
    });
}

/// A consumer that looks and leaves takes nothing from one that sleeps.
#[test]
fn a_consumer_that_leaves_takes_no_wake_up_with_it() {
    explore(|| {
        let disk = MemoryStorage::new();
        let engine = open(&disk);
        engine.declare_queue("jobs").unwrap();
        let passing = {
            let engine = Arc::clone(&engine);
            thread::spawn(move || {
                for _ in 0..2 {
                    let consumer = engine.consume("jobs", ConsumerOptions::prefetch(1)).unwrap();
                    // What it gets comes back as it leaves.
                    drop(consumer.recv_timeout(Duration::ZERO).unwrap());
                }
            })
        };
        let publisher = {
            let engine = Arc::clone(&engine);
            thread::spawn(move || {
                let out = engine.publisher();
                for _ in 0..2 {
                    out.publish(&Message::new("", "jobs", b"m")).unwrap().wait().unwrap();
                }
            })
        };
        let consumer = engine.consume("jobs", ConsumerOptions::prefetch(1)).unwrap();
        for _ in 0..2 {
            let delivery = shuttle::future::block_on(consumer.recv_async()).unwrap();
            delivery.ack().unwrap().wait().unwrap();
        }
        passing.join().unwrap();
        publisher.join().unwrap();
        drop(consumer);
        end(engine, &disk, 0);
    });
}

/// The tail window: what is read while batches are added and old ones fall out of it is right.
/// The publisher goes on until buffers are full, so that two batches are in flight at once.
#[test]
fn a_reader_of_the_window_sees_whole_messages_in_order_while_it_moves() {
    explore(|| {
        const ALL: u64 = 9;
        let disk = MemoryStorage::new();
        let engine = open(&disk);
        engine.declare_queue("jobs").unwrap();
        let publisher = {
            let engine = Arc::clone(&engine);
            thread::spawn(move || {
                let out = engine.publisher();
                let mut tickets = Vec::new();
                for number in 0..ALL {
                    let payload = vec![u8::try_from(number).unwrap(); 200_000];
                    tickets.push(out.publish(&Message::new("", "jobs", &payload)).unwrap());
                }
                for ticket in tickets {
                    ticket.wait().unwrap();
                }
            })
        };
        let consumer = engine.consume("jobs", ConsumerOptions::prefetch(3)).unwrap();
        for number in 0..ALL {
            let delivery = shuttle::future::block_on(consumer.recv_async()).unwrap();
            assert_eq!(delivery.offset().0, number);
            assert!(delivery.payload().iter().all(|&byte| u64::from(byte) == number));
            delivery.ack().unwrap();
        }
        publisher.join().unwrap();
        drop(consumer);
        end(engine, &disk, 0);
    });
}

/// Whoever is told of a confirm, or is handed a message, finds it there if power fails just then,
/// whichever of two batches in flight is written first.
#[test]
fn what_somebody_was_told_of_outlives_a_power_cut_in_that_moment() {
    explore(|| {
        const EACH: u64 = 2;
        let disk = MemoryStorage::new();
        // Large enough for several batches: the first one of a segment is in flight alone.
        let engine = open_with(&disk, Config { segment_bytes_max: 4 << 20, ..config() });
        engine.declare_queue("jobs").unwrap();
        let publishers: Vec<_> = (0..2)
            .map(|_| {
                let (engine, disk) = (Arc::clone(&engine), disk.clone());
                thread::spawn(move || {
                    let out = engine.publisher();
                    for _ in 0..EACH {
                        // So much that a second batch is begun beside it.
                        let message = Message::new("", "jobs", &[7; 300_000]);
                        let confirm = out.publish(&message).unwrap().wait().unwrap();
                        let there = after_a_power_cut(&disk);
                        assert!(there.contains(&confirm.first_offset), "{confirm:?}, {there:?}");
                    }
                })
            })
            .collect();
        let consumer = engine.consume("jobs", ConsumerOptions::prefetch(1)).unwrap();
        for _ in 0..2 * EACH {
            let delivery = shuttle::future::block_on(consumer.recv_async()).unwrap();
            let there = after_a_power_cut(&disk);
            assert!(there.contains(&delivery.offset()), "{}, {there:?}", delivery.offset());
            delivery.ack().unwrap();
        }
        for publisher in publishers {
            publisher.join().unwrap();
        }
        drop(consumer);
        end(engine, &disk, 0);
    });
}
