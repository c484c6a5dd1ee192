//! Giving up: one or many, back to the queue or away, and errors that change nothing.

use fanlog::{Delivery, DeliveryTag, Error};

use crate::support::{
    consume, next, nothing, offsets, publish_numbers, ready, settle, sound, unacked, with_jobs,
};

fn keep(deliveries: Vec<Delivery>) -> Vec<DeliveryTag> {
    deliveries.into_iter().map(Delivery::keep).collect()
}

#[test]
fn nacking_multiple_gives_back_all_up_to_the_tag_in_their_places() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 8);
    let consumer = consume(&engine, "jobs", 6);
    let tags = keep(ready(&consumer));
    consumer.ack(tags[1]).unwrap();
    consumer.nack_multiple(tags[3], true).unwrap();
    let again = ready(&consumer);
    assert_eq!(offsets(&again), [0, 2, 3, 6]);
    assert_eq!(again.iter().filter(|one| one.redelivered()).count(), 3);
    // What lies behind the tag is still in the consumer's hands.
    consumer.ack(tags[4]).unwrap();
    consumer.ack(tags[5]).unwrap();
}

#[test]
fn nacking_multiple_without_requeue_puts_all_up_to_the_tag_away() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 5);
    let consumer = consume(&engine, "jobs", 5);
    let tags = keep(ready(&consumer));
    consumer.nack_multiple(tags[2], false).unwrap();
    machine.clock.advance(std::time::Duration::from_millis(100));
    settle(&engine);
    assert_eq!(unacked(&machine.killed().open(), "jobs"), ["3", "4"]);
    sound(&engine);
}

#[test]
fn a_reject_is_a_nack_of_one() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 4);
    let consumer = consume(&engine, "jobs", 4);
    let mut held = ready(&consumer);
    held.remove(0).reject(true).unwrap();
    held.remove(0).reject(false).unwrap();
    let tags = keep(held);
    consumer.reject(tags[0], true).unwrap();
    consumer.reject(tags[1], false).unwrap();
    assert_eq!(offsets(&ready(&consumer)), [0, 2]);
    machine.clock.advance(std::time::Duration::from_millis(100));
    settle(&engine);
    assert_eq!(unacked(&machine.killed().open(), "jobs"), ["0", "2"]);
}

#[test]
fn recovering_gives_back_all_that_is_held_and_nothing_that_waits() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 6);
    let consumer = consume(&engine, "jobs", 4);
    let held: Vec<Delivery> = (0..3).map(|_| next(&consumer)).collect();
    let tags = keep(held);
    consumer.ack(tags[1]).unwrap();
    assert_eq!((consumer.recover(), consumer.recover()), (2, 0));
    let again = ready(&consumer);
    // The one in its inbox was never handed out, and comes first from there.
    assert_eq!(offsets(&again), [3, 0, 2, 4]);
    let flags: Vec<bool> = again.iter().map(Delivery::redelivered).collect();
    assert_eq!(flags, [false, true, true, false]);
    assert!(matches!(consumer.ack(tags[0]), Err(Error::UnknownTag { tag: 1, .. })));
}

#[test]
fn giving_up_an_unknown_tag_or_one_twice_is_an_error_that_changes_nothing() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 3);
    let consumer = consume(&engine, "jobs", 2);
    let tags = keep(ready(&consumer));
    let before = engine.queue("jobs").unwrap();
    for requeue in [true, false] {
        for unknown in [DeliveryTag(0), DeliveryTag(3), DeliveryTag(u64::MAX)] {
            for error in [
                consumer.nack(unknown, requeue).unwrap_err(),
                consumer.reject(unknown, requeue).unwrap_err(),
                consumer.nack_multiple(unknown, requeue).unwrap_err(),
            ] {
                let Error::UnknownTag { tag, .. } = error else { panic!("{error}") };
                assert_eq!(tag, unknown.0);
            }
        }
    }
    assert_eq!(engine.queue("jobs").unwrap(), before);
    consumer.nack_multiple(tags[1], true).unwrap();
    for requeue in [true, false] {
        assert!(matches!(consumer.nack(tags[1], requeue), Err(Error::UnknownTag { tag: 2, .. })));
        assert!(consumer.nack_multiple(tags[1], requeue).is_err());
    }
    for delivery in ready(&consumer) {
        delivery.ack().unwrap();
    }
    next(&consumer).ack().unwrap();
    nothing(&consumer);
}
