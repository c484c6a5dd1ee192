//! What a queue takes, and what declaring, binding, unbinding and deleting one costs, among many.

use std::{
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use fanlog::{Change, ConsumerOptions, Engine, Message};
use tempfile::tempdir;

use crate::counted::{
    EXCHANGE, PATIENCE, Work, alone, change_all, declare_and_bind, live_bytes, name, open,
    open_new, work_of,
};

const QUEUES: usize = 100_000;
/// What an idle queue may take, its binding and names included.
const QUEUE_BYTES_MAX: i64 = 1_000;
/// Segments that a store with these settings prepares: the reserve, and one more.
const PREPARED: u64 = 5;
/// Declared and bound in one commit where they come one after the other.
const CHUNK: usize = 100;

fn declare_in_chunks(engine: &Engine, numbers: Range<usize>) {
    for start in numbers.clone().step_by(CHUNK) {
        declare_and_bind(engine, start..numbers.end.min(start + CHUNK));
    }
}

fn close(engine: &Engine) {
    assert_eq!(engine.close(Duration::from_mins(1)).unwrap().unconfirmed, 0);
}

fn bytes_each(bytes: i64) -> i64 {
    bytes / i64::try_from(QUEUES).unwrap()
}

/// Has the store make buffers that it keeps, however slow its disk is: they are not a queue's.
fn fill_buffers(engine: &Engine) {
    engine.declare_queue("large").unwrap();
    let publisher = engine.publisher();
    let payload = vec![1; 300 << 10];
    for _ in 0..8 {
        let publish = |_| publisher.publish(&Message::new("", "large", &payload)).unwrap();
        let tickets: Vec<_> = (0..3).map(publish).collect();
        for ticket in tickets {
            ticket.wait().unwrap();
        }
    }
    engine.delete_queue("large").unwrap();
}

/// Waits until all segments are prepared: while one is filled there are zeros in memory.
fn wait_prepared(engine: &Engine) {
    let begin = Instant::now();
    while engine.stats().segments_ready < PREPARED {
        assert!(begin.elapsed() < PATIENCE, "{} are prepared", engine.stats().segments_ready);
        thread::sleep(Duration::from_millis(1));
    }
}

/// What `work` leaves allocated, per queue.
fn left_by(engine: &Engine, work: impl FnOnce()) -> i64 {
    fill_buffers(engine);
    engine.checkpoint().unwrap();
    wait_prepared(engine);
    let before = live_bytes();
    work();
    // Written with everything behind it, so that nothing waits in a buffer.
    engine.checkpoint().unwrap();
    wait_prepared(engine);
    bytes_each(live_bytes() - before)
}

#[test]
fn a_hundred_thousand_idle_queues_take_less_than_a_kilobyte_each() {
    let _alone = alone();
    let dir = tempdir().unwrap();
    let engine = open_new(dir.path());
    engine.declare_queue("first").unwrap();
    engine.publisher().publish_confirmed(&Message::new("", "first", b"offset 0")).unwrap();
    let declared = left_by(&engine, || declare_in_chunks(&engine, 0..QUEUES));
    println!("declared and bound: {declared} bytes each");
    let written = engine.stats().log_bytes_written;
    close(&engine);
    let written = engine.stats().log_bytes_written - written;
    assert!(written < 100_000, "closing wrote {written} bytes of queues that were never used");

    let nothing = live_bytes();
    let begin = Instant::now();
    let engine = open(dir.path());
    println!("opened in {:?}", begin.elapsed());
    let opened = bytes_each(live_bytes() - nothing);
    println!("opened again: {opened} bytes each, the store's buffers included");
    assert!(declared < QUEUE_BYTES_MAX && opened < QUEUE_BYTES_MAX);
    assert_eq!(engine.topology().bindings.len(), QUEUES);
    close(&engine);
}

/// The queues' leases go with one commit, as all ask for theirs before any waits.
fn consume_three_of_each(engine: &Engine, numbers: Range<usize>) {
    let consume = |number| engine.consume(&name(number), ConsumerOptions::default()).unwrap();
    let consumers: Vec<_> = numbers.map(consume).collect();
    let mut early: Vec<_> = consumers.iter().map(|consumer| consumer.try_recv().unwrap()).collect();
    for (consumer, early) in consumers.iter().zip(&mut early) {
        let mut deliveries: Vec<_> = early.take().into_iter().collect();
        while deliveries.len() < 3 {
            deliveries.push(consumer.recv().unwrap());
        }
        // The last one first, so that each queue's acks have had a hole.
        for delivery in deliveries.into_iter().rev() {
            delivery.ack().unwrap();
        }
    }
}

#[test]
fn queues_that_were_used_are_as_small_when_they_are_idle_again() {
    let _alone = alone();
    let dir = tempdir().unwrap();
    let engine = open_new(dir.path());
    // The exchange has counted a message that is none of theirs.
    declare_and_bind(&engine, QUEUES..=QUEUES);
    engine.publisher().publish_confirmed(&Message::new(EXCHANGE, "", b"0")).unwrap();
    let used = left_by(&engine, || {
        declare_in_chunks(&engine, 0..QUEUES);
        let publisher = engine.publisher();
        for payload in [b"1", b"2", b"3"] {
            publisher.publish_confirmed(&Message::new(EXCHANGE, "", payload)).unwrap();
        }
        for start in (0..QUEUES).step_by(CHUNK) {
            consume_three_of_each(&engine, start..start + CHUNK);
        }
    });
    println!("used and idle: {used} bytes each");
    assert!(used < QUEUE_BYTES_MAX);
    close(&engine);
}

/// Queues that are counted at a time. No table doubles while they come: the tables hold 7/8 of a
/// power of two.
const COUNTED: usize = 800;

/// What declaring and binding `COUNTED` queues costs where there are `before`, and what unbinding
/// and deleting them does.
fn costs_among(before: usize) -> [(&'static str, Work); 3] {
    let dir = tempdir().unwrap();
    let engine = open_new(dir.path());
    let begin = Instant::now();
    declare_in_chunks(&engine, 0..before);
    println!("{before} queues declared and bound in {:?}", begin.elapsed());
    let names: Vec<String> = (before..before + COUNTED).map(name).collect();
    let in_chunks = |change: fn(&str) -> Change<'_>| {
        for names in names.chunks(CHUNK) {
            engine.change(&names.iter().map(|name| change(name)).collect::<Vec<_>>()).unwrap();
        }
    };
    let mut least = [Work { allocations: usize::MAX, bytes: usize::MAX }; 3];
    // The least of some rounds: the background, which prepares a segment say, is counted too.
    for _ in 0..5 {
        let declared = work_of(|| declare_in_chunks(&engine, before..before + COUNTED));
        let unbound = work_of(|| {
            in_chunks(|queue| Change::Unbind { queue, exchange: EXCHANGE, routing_key: "" });
        });
        let deleted = work_of(|| in_chunks(|name| Change::DeleteQueue { name }));
        for (least, work) in least.iter_mut().zip([declared, unbound, deleted]) {
            least.allocations = least.allocations.min(work.allocations);
            least.bytes = least.bytes.min(work.bytes);
        }
    }
    let [declared, unbound, deleted] = least;
    assert_eq!(engine.topology().queues.len(), before);
    close(&engine);
    [("declare and bind", declared), ("unbind", unbound), ("delete", deleted)]
}

#[test]
fn the_last_of_a_hundred_thousand_queues_costs_what_the_first_thousand_did() {
    let _alone = alone();
    let few = costs_among(900);
    let many = costs_among(QUEUES - COUNTED);
    for ((what, first), (_, last)) in few.into_iter().zip(many) {
        println!("{what}: {first:?} of {COUNTED} among few, {last:?} among many");
        for (first, last) in [(first.allocations, last.allocations), (first.bytes, last.bytes)] {
            assert!(last * 2 <= first * 3, "{what}: {first} and {last}");
        }
    }
}

#[test]
fn one_change_of_many_costs_per_queue_what_one_of_few_does() {
    let _alone = alone();
    let mut works = Vec::new();
    for count in [1_700, QUEUES] {
        let dir = tempdir().unwrap();
        let engine = open_new(dir.path());
        let begin = Instant::now();
        works.push((count, work_of(|| declare_and_bind(&engine, 0..count))));
        println!("{count} queues declared and bound in one change in {:?}", begin.elapsed());
        let begin = Instant::now();
        change_all(&engine, 0..count, |name| Change::DeleteQueue { name });
        println!("and deleted in {:?}", begin.elapsed());
        assert!(engine.topology().queues.is_empty());
        close(&engine);
    }
    let [(few, first), (many, last)] = works[..] else { panic!("two stores") };
    println!("{first:?} for {few}, {last:?} for {many}");
    assert!(last.allocations * few * 2 <= first.allocations * many * 3);
    assert!(last.bytes * few * 2 <= first.bytes * many * 3);
}
