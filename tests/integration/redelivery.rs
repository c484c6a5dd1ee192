//! The redelivered flag: set for all that may have been in somebody's hands, and nothing else.

use std::time::Duration;

use crate::support::{
    consume, next, nothing, offsets, publish, publish_numbers, ready, settle, with_jobs,
};

/// What one lease covers at the most.
const LEASE: u64 = 1024;

#[test]
fn a_first_delivery_is_not_flagged() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 3000);
    let consumer = consume(&engine, "jobs", 0);
    assert!(ready(&consumer).iter().all(|delivery| !delivery.redelivered()));
    assert_eq!(engine.stats().redelivered_messages, 0);
}

#[test]
fn what_was_handed_out_before_the_death_of_the_process_is_flagged_after_it() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 10);
    let consumer = consume(&engine, "jobs", 4);
    let held = ready(&consumer);
    let again = machine.killed().open();
    let found = ready(&consume(&again, "jobs", 10));
    assert_eq!(offsets(&found), (0..10).collect::<Vec<_>>());
    assert!(found[..4].iter().all(fanlog::Delivery::redelivered));
    assert_eq!(offsets(&held), [0, 1, 2, 3]);
}

/// The mark is in the log before the first message of its lease is handed out.
#[test]
fn at_every_step_what_was_handed_out_would_be_flagged_after_a_kill() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 3000);
    let consumer = consume(&engine, "jobs", 0);
    let mut held = 0u64;
    while let Some(delivery) = consumer.recv_timeout(Duration::ZERO).unwrap() {
        delivery.keep();
        held += 1;
        if held % 200 == 1 {
            let again = machine.killed().open();
            let other = consume(&again, "jobs", 0);
            for delivery in ready(&other) {
                let offset = delivery.offset().0;
                assert!(delivery.redelivered() || offset >= held, "{offset} was handed out");
                delivery.keep();
            }
        }
    }
    assert_eq!(held, 3000);
}

#[test]
fn what_lies_beyond_the_lease_is_not_flagged_after_a_crash() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 3000);
    let consumer = consume(&engine, "jobs", 1);
    let held = next(&consumer);
    for crashed in [machine.killed(), machine.power_cut()] {
        let again = crashed.open();
        let found = ready(&consume(&again, "jobs", 0));
        assert_eq!(found.len(), 3000);
        let flagged = found.iter().filter(|delivery| delivery.redelivered()).count() as u64;
        assert!(flagged <= LEASE, "{flagged} are flagged");
        assert!(found[usize::try_from(flagged).unwrap()..].iter().all(|one| !one.redelivered()));
    }
    drop(held);
}

#[test]
fn what_was_acked_below_the_mark_does_not_come_again() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 10);
    let consumer = consume(&engine, "jobs", 4);
    let mut held = ready(&consumer);
    held.remove(2).ack().unwrap().wait().unwrap();
    let found = ready(&consume(&machine.killed().open(), "jobs", 100));
    assert_eq!(offsets(&found), [0, 1, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn after_a_clean_close_only_what_was_handed_out_is_flagged() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 3000);
    let consumer = consume(&engine, "jobs", 5);
    let held = ready(&consumer);
    engine.close(Duration::from_secs(10)).unwrap();
    let again = machine.open();
    let found = ready(&consume(&again, "jobs", 0));
    let flags: Vec<bool> = found.iter().map(fanlog::Delivery::redelivered).collect();
    assert_eq!(flags.len(), 3000);
    assert!(flags[..5].iter().all(|&flag| flag) && flags[5..].iter().all(|&flag| !flag));
    drop(held);
}

/// Messages in an inbox were dealt, but nobody has seen them.
#[test]
fn after_a_clean_close_what_only_lay_in_an_inbox_is_not_flagged() {
    for drop_consumer in [false, true] {
        let (machine, engine) = with_jobs();
        publish_numbers(&engine, "jobs", 300);
        let consumer = consume(&engine, "jobs", 100);
        let held = next(&consumer);
        if drop_consumer {
            drop(consumer);
            engine.close(Duration::from_secs(10)).unwrap();
        } else {
            engine.close(Duration::from_secs(10)).unwrap();
            drop(consumer);
        }
        drop(held);
        let again = machine.open();
        let found = ready(&consume(&again, "jobs", 0));
        let flagged = found.iter().filter(|delivery| delivery.redelivered()).count();
        assert_eq!(flagged, 1, "the consumer was dropped before the close: {drop_consumer}");
    }
}

#[test]
fn after_a_clean_close_without_consumers_nothing_is_flagged() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 2000);
    drop(engine);
    let again = machine.open();
    assert!(ready(&consume(&again, "jobs", 0)).iter().all(|delivery| !delivery.redelivered()));
}

#[test]
fn a_flag_stays_over_further_crashes_until_the_ack() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"a");
    let consumer = consume(&engine, "jobs", 1);
    let held = next(&consumer);
    let mut machine = machine.killed();
    for _ in 0..3 {
        let again = machine.open();
        settle(&again);
        let crashed = machine.killed();
        drop(again);
        machine = crashed;
    }
    let last = machine.open();
    let consumer = consume(&last, "jobs", 1);
    let delivery = next(&consumer);
    assert!(delivery.redelivered());
    delivery.ack().unwrap().wait().unwrap();
    nothing(&consumer);
    drop(held);
}

#[test]
fn messages_published_after_a_crash_are_not_flagged() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"old");
    let consumer = consume(&engine, "jobs", 1);
    let held = next(&consumer);
    // The lease reached far beyond the end of the log: what is new there was in nobody's hands.
    let again = machine.killed().open();
    publish(&again, "jobs", b"new");
    let flags: Vec<bool> =
        ready(&consume(&again, "jobs", 10)).iter().map(fanlog::Delivery::redelivered).collect();
    assert_eq!(flags, [true, false]);
    drop(held);
}

#[test]
fn the_statistics_count_what_was_flagged() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 6);
    let consumer = consume(&engine, "jobs", 10);
    drop(consumer.recv_batch(4, Duration::ZERO).unwrap());
    let all = ready(&consumer);
    assert_eq!(engine.stats().delivered_messages, 10);
    assert_eq!(engine.stats().redelivered_messages, 4);
    drop(all);
}
