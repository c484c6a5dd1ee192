//! One message without a subscription, and looking without taking.

use std::time::Duration;

use fanlog::{Browsed, Engine, Error, ErrorKind, QueueOptions};

use crate::support::{
    consume, next, nothing, offsets, publish, publish_numbers, ready, settle, small, sound, start,
    text, threaded, unacked, with_jobs,
};

fn peeked(engine: &Engine, messages_max: usize) -> Vec<String> {
    let found = engine.peek("jobs", messages_max).unwrap();
    assert!(found.iter().all(|one| !one.acked && one.damage.is_none()));
    found.iter().map(|one: &Browsed| text(&one.payload)).collect()
}

#[test]
fn a_message_is_taken_without_a_consumer_and_settled_as_any_other() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 4);
    let first = engine.get("jobs").unwrap().expect("there are four");
    assert_eq!(
        (first.payload(), first.redelivered(), first.delivery_count()),
        (&b"0"[..], false, 0)
    );
    let second = engine.get("jobs").unwrap().unwrap();
    let view = engine.queue("jobs").unwrap();
    assert_eq!((view.ready, view.unacked, view.consumers), (2, 2, 0));
    first.ack().unwrap().wait().unwrap();
    second.nack(true).unwrap();
    let again = engine.get("jobs").unwrap().unwrap();
    assert_eq!((again.offset().0, again.delivery_count()), (1, 1));
    drop(again);
    let again = engine.get("jobs").unwrap().unwrap();
    assert_eq!((again.offset().0, again.delivery_count()), (1, 2));
    again.reject(false).unwrap();
    settle(&engine);
    let view = engine.queue("jobs").unwrap();
    assert_eq!((view.unacked, view.consumers), (0, 0));
    machine.clock.advance(Duration::from_millis(100));
    settle(&engine);
    assert_eq!(unacked(&machine.killed().open(), "jobs"), ["2", "3"]);
    sound(&engine);
}

#[test]
fn an_empty_queue_gives_nothing_and_an_unknown_one_an_error() {
    let (_machine, engine) = with_jobs();
    assert!(engine.get("jobs").unwrap().is_none());
    publish(&engine, "jobs", b"a");
    let held = engine.get("jobs").unwrap().unwrap();
    assert!(engine.get("jobs").unwrap().is_none());
    assert_eq!(engine.get("nobody").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(engine.peek("nobody", 1).unwrap_err().kind(), ErrorKind::NotFound);
    engine.close(Duration::ZERO).unwrap();
    assert!(matches!(engine.get("jobs"), Err(Error::Closed)));
    drop(held);
}

#[test]
fn a_queue_with_a_single_active_consumer_gives_to_nobody_else() {
    let (_machine, engine) = with_jobs();
    let options = QueueOptions { single_active_consumer: true, ..QueueOptions::default() };
    engine.declare_queue_with("single", &options).unwrap();
    publish(&engine, "single", b"a");
    let error = engine.get("single").unwrap_err();
    assert!(matches!(&error, Error::Refused { .. }) && error.to_string().contains("single"));
}

#[test]
fn getting_uses_a_queue_but_is_no_consumer_of_it() {
    let (machine, engine) = with_jobs();
    let options = QueueOptions {
        auto_delete: true,
        expires: Some(Duration::from_secs(10)),
        ..QueueOptions::default()
    };
    engine.declare_queue_with("brief", &options).unwrap();
    for _ in 0..5 {
        assert!(engine.get("brief").unwrap().is_none());
        publish(&engine, "brief", b"a");
        engine.get("brief").unwrap().unwrap().ack().unwrap();
        machine.clock.advance(Duration::from_secs(9));
        settle(&engine);
    }
    machine.clock.advance(Duration::from_secs(2));
    settle(&engine);
    assert_eq!(engine.get("brief").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn getting_takes_what_is_ready_and_no_prefetch_bounds_it() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 2000);
    let consumer = consume(&engine, "jobs", 3);
    let first = next(&consumer);
    // The next two lie in the consumer's inbox.
    let got: Vec<_> = (3..2000)
        .map(|expected| {
            let delivery = engine.get("jobs").unwrap().unwrap();
            assert_eq!(delivery.offset().0, expected);
            delivery
        })
        .collect();
    assert!(engine.get("jobs").unwrap().is_none());
    let view = engine.queue("jobs").unwrap();
    assert_eq!((view.ready, view.unacked, view.consumers), (0, 2000, 1));
    drop(got);
    drop(first);
    consumer.recover();
    let view = engine.queue("jobs").unwrap();
    assert_eq!((view.messages, view.unacked), (2000, 2));
}

#[test]
fn what_was_got_and_not_acked_comes_again_after_a_crash_and_a_close() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 2);
    let held = engine.get("jobs").unwrap().unwrap();
    let killed = machine.killed().open();
    let again = killed.get("jobs").unwrap().unwrap();
    assert_eq!((again.offset().0, again.redelivered(), again.delivery_count()), (0, true, 0));
    engine.close(Duration::from_secs(10)).unwrap();
    let opened = machine.open();
    let again = opened.get("jobs").unwrap().unwrap();
    assert_eq!((again.offset().0, again.redelivered(), again.delivery_count()), (0, true, 1));
    // The other one was in nobody's hands.
    assert!(!opened.get("jobs").unwrap().unwrap().redelivered());
    drop(held);
}

#[test]
fn a_purge_leaves_what_was_got_to_whoever_has_it() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 5);
    let held = engine.get("jobs").unwrap().unwrap();
    assert_eq!(engine.purge_queue("jobs").unwrap(), 4);
    held.nack(true).unwrap();
    assert_eq!(peeked(&engine, 9), ["0"]);
    engine.get("jobs").unwrap().unwrap().ack().unwrap().wait().unwrap();
    assert_eq!(engine.queue("jobs").unwrap().messages, 0);
    sound(&engine);
}

#[test]
fn what_was_got_can_be_acked_by_a_transaction() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 2);
    let mut transaction = engine.begin();
    transaction.ack(engine.get("jobs").unwrap().unwrap()).unwrap();
    transaction.commit().unwrap().wait().unwrap();
    let mut transaction = engine.begin();
    transaction.ack(engine.get("jobs").unwrap().unwrap()).unwrap();
    transaction.roll_back();
    assert_eq!(peeked(&engine, 9), ["1"]);
    assert_eq!(engine.queue("jobs").unwrap().unacked, 0);
}

/// Each get has to wait for a lease or a count, beside consumers that sleep and others that get.
#[test]
fn threads_that_get_share_a_queue_with_consumers_and_nothing_is_lost() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    publish_numbers(&engine, "jobs", 3000);
    let got: Vec<_> = (0..3)
        .map(|_| {
            let engine = engine.clone();
            start(move || {
                let mut seen = Vec::new();
                while let Some(delivery) = engine.get("jobs").unwrap() {
                    seen.push(delivery.offset().0);
                    delivery.ack().unwrap();
                }
                seen
            })
        })
        .collect();
    let consumer = consume(&engine, "jobs", 5);
    let mut seen = Vec::new();
    let mut done: Vec<Vec<u64>> = Vec::new();
    let mut waiting = got;
    while !waiting.is_empty() {
        if let Some(delivery) = consumer.recv_timeout(Duration::from_millis(1)).unwrap() {
            seen.push(delivery.offset().0);
            delivery.ack().unwrap();
        }
        waiting.retain(|thread| match thread.is_done() {
            Some(numbers) => {
                done.push(numbers);
                false
            }
            None => true,
        });
    }
    for delivery in ready(&consumer) {
        seen.push(delivery.offset().0);
        delivery.ack().unwrap();
    }
    seen.extend(done.into_iter().flatten());
    seen.sort_unstable();
    assert_eq!(seen, (0..3000).collect::<Vec<_>>());
}

#[test]
fn peeking_shows_what_is_ready_in_order_and_changes_nothing() {
    let (machine, engine) = with_jobs();
    assert_eq!(peeked(&engine, 5), [""; 0]);
    publish_numbers(&engine, "jobs", 9);
    settle(&engine);
    let before = machine.files();
    assert_eq!(peeked(&engine, 3), ["0", "1", "2"]);
    assert_eq!(peeked(&engine, 0), [""; 0]);
    settle(&engine);
    assert!(machine.files() == before, "looking wrote something");
    let consumer = consume(&engine, "jobs", 4);
    let mut held = ready(&consumer);
    assert_eq!(peeked(&engine, 100), ["4", "5", "6", "7", "8"]);
    held.remove(1).nack(true).unwrap();
    held.remove(0).ack().unwrap();
    assert_eq!(peeked(&engine, 3), ["1", "4", "5"]);
    let view = engine.queue("jobs").unwrap();
    assert_eq!(peeked(&engine, 100).len() as u64, view.ready);
    // None of that is a hand-out.
    let mut again = ready(&consumer);
    assert_eq!(offsets(&again), [1, 4]);
    assert_eq!((again.remove(0).delivery_count(), again.remove(0).delivery_count()), (1, 0));
    drop(held);
}

#[test]
fn peeking_sees_through_sealed_segments_a_restart_and_a_read_only_store() {
    let (machine, engine) = with_jobs();
    engine.declare_queue("other").unwrap();
    for _ in 0..200 {
        publish(&engine, "other", &[1; 2000]);
        publish(&engine, "jobs", b"x");
    }
    settle(&engine);
    let consumer = consume(&engine, "jobs", 50);
    ready(&consumer).into_iter().last().unwrap().ack().unwrap().wait().unwrap();
    assert_eq!(engine.peek("jobs", 1000).unwrap().len(), 199);
    drop(consumer);
    let found: Vec<u64> =
        engine.peek("jobs", 1000).unwrap().iter().map(|one| one.offset.0).collect();
    assert!(found.is_sorted() && found.len() == 199, "{found:?}");
    let again = machine.killed().open();
    let after: Vec<u64> =
        again.peek("jobs", 1000).unwrap().iter().map(|one| one.offset.0).collect();
    assert_eq!(after, found);
    let dir = tempfile::tempdir().unwrap();
    let store = Engine::open(dir.path(), small()).unwrap();
    store.declare_queue("jobs").unwrap();
    publish(&store, "jobs", b"kept");
    store.close(Duration::from_secs(10)).unwrap();
    let reading = Engine::open_read_only(dir.path(), small()).unwrap();
    assert_eq!(peeked(&reading, 5), ["kept"]);
    assert!(matches!(reading.get("jobs"), Err(Error::ReadOnly)));
}

#[test]
fn statistics_tell_bytes_ready_and_unacked_and_the_age_of_the_oldest() {
    let (machine, engine) = with_jobs();
    let view = || engine.queue("jobs").unwrap();
    assert_eq!((view().ready_bytes, view().unacked_bytes, view().oldest_age), (0, 0, None));
    publish(&engine, "jobs", &[1; 10]);
    machine.clock.advance(Duration::from_mins(1));
    publish(&engine, "jobs", &[1; 200]);
    publish(&engine, "jobs", &[1; 3000]);
    machine.clock.advance(Duration::from_secs(3));
    assert_eq!((view().ready_bytes, view().oldest_age), (3210, Some(Duration::from_secs(63))));
    let consumer = consume(&engine, "jobs", 2);
    let first = next(&consumer);
    assert_eq!((view().ready_bytes, view().unacked_bytes), (3000, 210));
    let got = engine.get("jobs").unwrap().unwrap();
    assert_eq!((view().ready_bytes, view().unacked_bytes, view().consumers), (0, 3210, 1));
    first.ack().unwrap().wait().unwrap();
    assert_eq!((view().unacked_bytes, view().bytes), (3200, 3200));
    assert_eq!(view().oldest_age, Some(Duration::from_secs(3)));
    got.nack(true).unwrap();
    assert_eq!((view().ready_bytes, view().unacked_bytes), (3000, 200));
    drop(consumer);
    assert_eq!((view().ready_bytes, view().unacked_bytes, view().ready), (3200, 0, 2));
    assert_eq!(engine.topology().queues[0].oldest_age, None);
    engine.purge_queue("jobs").unwrap();
    assert_eq!((view().ready_bytes, view().oldest_age), (0, None));
    nothing(&consume(&engine, "jobs", 1));
}

#[test]
fn what_came_back_by_a_rewind_is_shown_at_once() {
    let (_machine, engine) = with_jobs();
    let history = Some(fanlog::History::of_bytes(1 << 20));
    let options = fanlog::ExchangeOptions { history, ..fanlog::ExchangeOptions::default() };
    engine.declare_exchange_with("news", fanlog::ExchangeKind::Fanout, &options).unwrap();
    engine.bind("jobs", "news", "").unwrap();
    engine.publisher().publish_confirmed(&fanlog::Message::new("news", "", b"a")).unwrap();
    engine.get("jobs").unwrap().unwrap().ack().unwrap().wait().unwrap();
    assert!(engine.peek("jobs", 9).unwrap().is_empty());
    assert_eq!(engine.rewind("jobs", fanlog::StartAt::Earliest).unwrap().messages, 1);
    assert_eq!(engine.peek("jobs", 9).unwrap().len(), 1);
}
