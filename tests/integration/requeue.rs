//! Giving messages back: to their original place, at once, whoever had them.

use std::time::Duration;

use fanlog::DeliveryTag;

use crate::support::{
    PATIENCE, consume, next, nothing, offsets, publish, publish_numbers, ready, start, text, texts,
    threaded, unacked, with_jobs,
};

#[test]
fn a_nacked_message_comes_again_at_its_original_place() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 10);
    let consumer = consume(&engine, "jobs", 3);
    let mut held = ready(&consumer);
    held.remove(1).nack(true).unwrap();
    held.extend(ready(&consumer));
    assert_eq!(offsets(&held), [0, 2, 1]);
    assert!(held[2].redelivered() && !held[0].redelivered());
    assert!(held[2].tag() > held[1].tag());
    held.remove(0).ack().unwrap();
    assert_eq!(offsets(&ready(&consumer)), [3]);
}

#[test]
fn messages_given_back_in_any_order_come_again_in_the_order_of_the_log() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 8);
    let consumer = consume(&engine, "jobs", 6);
    let tags: Vec<DeliveryTag> = ready(&consumer).into_iter().map(fanlog::Delivery::keep).collect();
    for at in [4, 0, 5, 2, 1, 3] {
        consumer.nack(tags[at], true).unwrap();
    }
    let held = ready(&consumer);
    assert_eq!(offsets(&held), [0, 1, 2, 3, 4, 5]);
    assert!(held.iter().all(fanlog::Delivery::redelivered));
}

#[test]
fn a_dropped_delivery_goes_back() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 2);
    let consumer = consume(&engine, "jobs", 1);
    drop(next(&consumer));
    let again = next(&consumer);
    assert_eq!((again.offset().0, again.redelivered()), (0, true));
    assert_eq!(engine.queue("jobs").unwrap().unacked, 1);
}

#[test]
fn a_dropped_or_nacked_batch_goes_back_whole() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 5);
    let consumer = consume(&engine, "jobs", 10);
    drop(consumer.recv_batch(5, Duration::ZERO).unwrap());
    let batch = consumer.recv_batch(5, Duration::ZERO).unwrap();
    assert!(batch.len() == 5 && batch.iter().all(|delivery| delivery.redelivered()));
    batch.nack(true).unwrap();
    assert_eq!(texts(&ready(&consumer)), ["0", "1", "2", "3", "4"]);
}

#[test]
fn a_batch_given_back_leaves_out_what_was_settled_by_tag() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 4);
    let consumer = consume(&engine, "jobs", 10);
    let batch = consumer.recv_batch(4, Duration::ZERO).unwrap();
    consumer.ack(batch.iter().nth(2).unwrap().tag()).unwrap();
    drop(batch);
    assert_eq!(texts(&ready(&consumer)), ["0", "1", "3"]);
}

#[test]
fn all_that_a_dropped_consumer_had_goes_to_the_others_in_order() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 9);
    let dying = consume(&engine, "jobs", 4);
    let held = [next(&dying), next(&dying)];
    let other = consume(&engine, "jobs", 100);
    let mut seen = ready(&other);
    assert_eq!(offsets(&seen), [4, 5, 6, 7, 8]);
    drop(dying);
    seen.extend(ready(&other));
    assert_eq!(offsets(&seen[5..]), [0, 1, 2, 3]);
    // Two were in its hands, two only in its inbox.
    let flags: Vec<bool> = seen.iter().map(fanlog::Delivery::redelivered).collect();
    assert_eq!(flags, [false, false, false, false, false, true, true, false, false]);
    // They went back already: settling them now fails, dropping them does nothing.
    let [one, two] = held;
    assert!(matches!(one.ack(), Err(fanlog::Error::Closed)));
    drop(two);
    nothing(&other);
    assert_eq!(engine.queue("jobs").unwrap().consumers, 1);
}

#[test]
fn what_a_dead_consumer_had_wakes_one_that_sleeps() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    publish(&engine, "jobs", b"a");
    let dying = consume(&engine, "jobs", 10);
    let tag = dying.recv_timeout(PATIENCE).unwrap().unwrap().keep();
    let other = consume(&engine, "jobs", 10);
    let waiting = start(move || {
        let delivery = other.recv().unwrap();
        (text(delivery.payload()), delivery.redelivered())
    });
    assert_eq!(tag, DeliveryTag(1));
    drop(dying);
    assert_eq!(waiting.join(), ("a".to_owned(), true));
}

#[test]
fn a_requeue_wakes_a_sleeping_consumer_when_the_first_has_no_credit_left() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    publish(&engine, "jobs", b"a");
    publish(&engine, "jobs", b"b");
    let busy = consume(&engine, "jobs", 2);
    let first = busy.recv_timeout(PATIENCE).unwrap().unwrap();
    let second = busy.recv_timeout(PATIENCE).unwrap().unwrap();
    let other = consume(&engine, "jobs", 10);
    let waiting = start(move || other.recv().map(|delivery| delivery.offset().0).unwrap());
    second.nack(true).unwrap();
    assert_eq!(waiting.join(), 1);
    drop(first);
}

#[test]
fn a_consumer_that_sleeps_for_want_of_credit_wakes_when_another_thread_acks_for_it() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    publish_numbers(&engine, "jobs", 2);
    let consumer = std::sync::Arc::new(consume(&engine, "jobs", 1));
    let first = consumer.recv_timeout(PATIENCE).unwrap().unwrap();
    let sleeper = std::sync::Arc::clone(&consumer);
    let waiting = start(move || text(sleeper.recv().unwrap().payload()));
    first.ack().unwrap();
    assert_eq!(waiting.join(), "1");
}

#[test]
fn giving_back_acks_nothing() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 3);
    let consumer = consume(&engine, "jobs", 10);
    drop(ready(&consumer));
    drop(consumer);
    let view = engine.queue("jobs").unwrap();
    assert_eq!((view.messages, view.ready, view.unacked, view.ack_floor.0), (3, 3, 0, 0));
    assert_eq!(unacked(&machine.killed().open(), "jobs"), ["0", "1", "2"]);
}

#[test]
fn a_message_can_be_given_back_any_number_of_times() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 2);
    let consumer = consume(&engine, "jobs", 1);
    for round in 0..1000 {
        let delivery = next(&consumer);
        assert_eq!((delivery.offset().0, delivery.redelivered()), (0, round > 0));
        delivery.nack(true).unwrap();
    }
    next(&consumer).ack().unwrap();
    assert_eq!(next(&consumer).offset().0, 1);
}

#[test]
fn sixty_thousand_messages_of_a_dead_consumer_come_again_each_once() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 60_000);
    let dying = consume(&engine, "jobs", 0);
    let mut held = 0;
    while held < 60_000 {
        held += dying.recv_batch(60_000, Duration::ZERO).unwrap().keep().len();
    }
    drop(dying);
    let other = consume(&engine, "jobs", 0);
    let mut seen = Vec::new();
    loop {
        let batch = other.recv_batch(60_000, Duration::ZERO).unwrap();
        if batch.is_empty() {
            break;
        }
        seen.extend(batch.iter().map(|delivery| delivery.offset().0));
        batch.keep();
    }
    assert_eq!(seen, (0..60_000).collect::<Vec<_>>());
}
