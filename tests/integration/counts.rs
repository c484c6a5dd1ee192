//! How often a message was handed out: exact while the store is open, and over crashes as far as it
//! has to be, so that a message that kills its host is found out and its neighbours are not.

use std::{sync::Arc, time::Duration};

use fanlog::{Consumer, Delivery, DeliveryBatch, Engine, clock::SystemClock};

use crate::support::{
    Machine, PATIENCE, block_on, consume, next, nothing, publish, publish_numbers, ready, settle,
    small, sound, start, text, with_jobs,
};

fn counts(deliveries: &[Delivery]) -> Vec<u32> {
    deliveries.iter().map(Delivery::delivery_count).collect()
}

fn batch_counts(batch: &DeliveryBatch) -> Vec<u32> {
    batch.iter().map(|delivery| delivery.delivery_count()).collect()
}

#[test]
fn a_message_counts_how_often_it_was_handed_out_before() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 2);
    let consumer = consume(&engine, "jobs", 1);
    for round in 0..5 {
        let delivery = next(&consumer);
        assert_eq!((delivery.delivery_count(), delivery.redelivered()), (round, round > 0));
        if round % 2 == 0 { delivery.nack(true).unwrap() } else { drop(delivery) }
    }
    let batch = consumer.recv_batch(1, Duration::ZERO).unwrap();
    assert_eq!(batch_counts(&batch), [5]);
    batch.ack().unwrap();
    assert_eq!(next(&consumer).delivery_count(), 0);
}

#[test]
fn what_only_waited_in_an_inbox_was_not_handed_out() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 4);
    let dying = consume(&engine, "jobs", 10);
    let held = [next(&dying), next(&dying)];
    drop(dying);
    let other = consume(&engine, "jobs", 10);
    assert_eq!(counts(&ready(&other)), [1, 1, 0, 0]);
    drop(held);
}

#[test]
fn what_came_back_in_one_process_is_counted_after_its_death() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 3);
    let consumer = consume(&engine, "jobs", 1);
    for _ in 0..4 {
        next(&consumer).nack(true).unwrap();
    }
    // Written along, at the latest after the delay of acks; synced with the next sync.
    machine.clock.advance(Duration::from_millis(100));
    settle(&engine);
    let killed = machine.killed();
    machine.clock.advance(Duration::from_secs(2));
    settle(&engine);
    for crashed in [killed, machine.power_cut()] {
        let found = ready(&consume(&crashed.open(), "jobs", 3));
        assert_eq!(counts(&found), [4, 0, 0]);
        assert!(found.iter().all(Delivery::redelivered));
    }
}

/// Nothing but the flag says that it was handed out once; from then on each time is in the log first.
#[test]
fn a_message_that_kills_its_process_is_counted_each_time_but_the_first() {
    let (mut machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 10);
    let consumer = consume(&engine, "jobs", 10);
    let mut fatal = next(&consumer);
    // Those that died are not closed: that would write what they had not.
    let mut dead = vec![(engine, consumer)];
    for life in 0..20 {
        assert_eq!((fatal.delivery_count(), fatal.redelivered()), (life.max(1) - 1, life > 0));
        machine = machine.killed();
        let engine = machine.open();
        let consumer = consume(&engine, "jobs", 10);
        fatal.keep();
        fatal = next(&consumer);
        assert_eq!(fatal.offset().0, 0);
        dead.push((engine, consumer));
    }
    // Those beside it waited in the inbox of a process that died, twenty times.
    let engine = machine.killed().open();
    let consumer = consume(&engine, "jobs", 10);
    let found: Vec<(u64, u32)> =
        ready(&consumer).iter().map(|one| (one.offset().0, one.delivery_count())).collect();
    assert_eq!(found[0], (0, 20));
    drop(dead);
    assert!(found[1..].iter().all(|&(_, count)| count == 0), "{found:?}");
    sound(&engine);
}

/// A consumer that takes whole batches, acks one by one, and dies with the process at message 7.
#[test]
fn those_that_came_in_one_batch_with_a_fatal_message_are_not_counted_with_it() {
    let (mut machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 30);
    drop(engine);
    let mut highest = vec![0; 30];
    for _ in 0..25 {
        let engine = machine.open();
        let consumer = consume(&engine, "jobs", 30);
        work_until(&consumer, 7, &mut highest);
        machine = machine.killed();
    }
    assert!(highest[7] >= 22, "{highest:?}");
    highest.remove(7);
    assert!(highest.iter().all(|&count| count <= 2), "{highest:?}");
}

fn work_until(consumer: &Consumer, fatal: u64, highest: &mut [u32]) {
    loop {
        let batch = consumer.recv_batch(16, Duration::ZERO).unwrap();
        assert!(!batch.is_empty(), "message {fatal} should come");
        let dies = batch.iter().any(|delivery| {
            let offset = delivery.offset().0;
            let count = &mut highest[usize::try_from(offset).unwrap()];
            *count = delivery.delivery_count().max(*count);
            if offset != fatal {
                consumer.ack(delivery.tag()).unwrap();
            }
            offset == fatal
        });
        batch.keep();
        if dies {
            return;
        }
    }
}

#[test]
fn the_count_is_in_the_log_before_the_message_is_in_anybodys_hands() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 3);
    let held = ready(&consume(&engine, "jobs", 10));
    let again = machine.killed().open();
    let consumer = consume(&again, "jobs", 10);
    // Its lease, then its count: none of the two is there yet.
    while again.step_commit() {}
    assert!(consumer.try_recv().unwrap().is_none());
    assert!(consumer.try_recv().unwrap().is_none());
    assert!(again.step_commit());
    let first = consumer.try_recv().unwrap().expect("it is counted");
    assert_eq!((first.offset().0, first.delivery_count()), (0, 0));
    assert!(consumer.try_recv().unwrap().is_none());
    drop(held);
}

#[test]
fn messages_that_never_came_back_wait_for_no_count() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 3);
    settle(&engine);
    drop(ready(&consume(&engine, "jobs", 10)));
    // In this process they come at once.
    let consumer = consume(&engine, "jobs", 10);
    for _ in 0..3 {
        consumer.try_recv().unwrap().expect("it is ready").ack().unwrap();
    }
    settle(&engine);
    publish(&engine, "jobs", b"new");
    let again = machine.killed().open();
    publish(&again, "jobs", b"newer");
    let consumer = consume(&again, "jobs", 10);
    assert_eq!(counts(&ready(&consumer)), [0, 0]);
}

#[test]
fn after_a_clean_close_every_hand_out_is_counted() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 4);
    next(&consume(&engine, "jobs", 1)).nack(true).unwrap();
    let consumer = consume(&engine, "jobs", 2);
    let held = ready(&consumer);
    assert_eq!(counts(&held), [1, 0]);
    engine.close(Duration::from_secs(10)).unwrap();
    let again = machine.open();
    let found = ready(&consume(&again, "jobs", 10));
    assert_eq!(counts(&found), [2, 1, 0, 0]);
    assert_eq!(found.iter().filter(|one| one.redelivered()).count(), 2);
    drop(held);
}

#[test]
fn counts_are_in_the_checkpoint_when_their_records_are_gone() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"kept");
    let consumer = consume(&engine, "jobs", 1);
    for _ in 0..3 {
        next(&consumer).nack(true).unwrap();
    }
    drop(consumer);
    engine.declare_queue("other").unwrap();
    for _ in 0..4 {
        for _ in 0..40 {
            publish(&engine, "other", &[1; 4000]);
        }
        engine.purge_queue("other").unwrap();
        engine.checkpoint().unwrap();
        settle(&engine);
    }
    let again = machine.killed().open();
    assert_eq!(next(&consume(&again, "jobs", 1)).delivery_count(), 3);
    sound(&again);
}

#[test]
fn a_message_that_is_acked_leaves_no_count_behind() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 1000);
    let empty = engine.queue("jobs").unwrap().heap_bytes;
    let consumer = consume(&engine, "jobs", 0);
    let rest = next(&consumer);
    drop(ready(&consumer));
    settle(&engine);
    engine.checkpoint().unwrap();
    assert!(engine.queue("jobs").unwrap().heap_bytes > empty + 999 * 12);
    let last = ready(&consumer).into_iter().map(|one| one.ack().unwrap()).last().unwrap();
    last.wait().unwrap();
    rest.ack().unwrap().wait().unwrap();
    assert!(engine.queue("jobs").unwrap().heap_bytes < empty + 2000);
    nothing(&consume(&machine.killed().open(), "jobs", 0));
}

#[test]
fn a_purge_forgets_the_counts_of_what_it_drops() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 1000);
    let consumer = consume(&engine, "jobs", 0);
    let kept = next(&consumer);
    drop(ready(&consumer));
    drop(consumer);
    drop(kept);
    settle(&engine);
    let full = engine.queue("jobs").unwrap().heap_bytes;
    assert_eq!(engine.purge_queue("jobs").unwrap(), 1000);
    assert!(engine.queue("jobs").unwrap().heap_bytes + 12_000 < full);
}

/// An engine with threads, after one that died with 40 messages in a consumer's hands.
fn survivor() -> Engine {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue("jobs").unwrap();
    publish_numbers(&engine, "jobs", 40);
    let held = ready(&consume(&engine, "jobs", 40));
    let disk = Arc::new(machine.killed().disk);
    drop(held);
    Engine::open_on(disk, Arc::new(SystemClock::new()), small()).unwrap()
}

#[test]
fn consumers_that_wait_for_counts_wake_when_theirs_is_written() {
    let engine = survivor();
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let consumer = consume(&engine, "jobs", 10);
            start(move || {
                let mut seen = Vec::new();
                while seen.len() < 10 {
                    let delivery = if worker % 2 == 0 {
                        consumer.recv().unwrap()
                    } else {
                        block_on(consumer.recv_async()).unwrap()
                    };
                    seen.push(delivery.offset().0);
                    delivery.keep();
                }
                // Till all have theirs.
                (seen, consumer)
            })
        })
        .collect();
    let done: Vec<_> = workers.into_iter().map(crate::support::Started::join).collect();
    let mut seen: Vec<u64> = done.iter().flat_map(|(seen, _)| seen.clone()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
}

#[test]
fn a_consumer_that_waits_for_a_count_ends_with_its_queue() {
    let engine = survivor();
    let consumer = consume(&engine, "jobs", 1);
    consumer.recv_timeout(PATIENCE).unwrap().expect("it comes").keep();
    engine.delete_queue("jobs").unwrap();
    assert!(consumer.recv().is_err());
}

#[test]
fn sixty_thousand_that_came_back_are_all_counted() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 60_000);
    let dying = consume(&engine, "jobs", 0);
    let mut held = 0;
    while held < 60_000 {
        held += dying.recv_batch(60_000, Duration::ZERO).unwrap().keep().len();
    }
    drop(dying);
    engine.close(Duration::from_secs(10)).unwrap();
    let again = machine.open();
    let view = again.queue("jobs").unwrap();
    assert!(view.heap_bytes > 60_000 * 12, "{view:?}");
    let first = next(&consume(&again, "jobs", 0));
    assert_eq!((first.delivery_count(), text(first.payload())), (1, "0".to_owned()));
}
