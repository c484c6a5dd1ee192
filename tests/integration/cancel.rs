//! The engine ends a subscription: the consumer is told why, awake, asleep or as a future.

use fanlog::{Cancellation, Consumer, Error, ErrorKind};

use crate::support::{
    PATIENCE, block_on, consume, next, publish, publish_numbers, sound, start, threaded, with_jobs,
};

#[track_caller]
fn cancelled(error: &Error) -> (u64, Cancellation) {
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let Error::Cancelled { queue, unacked, why, .. } = error else { panic!("{error}") };
    assert_eq!(queue, "jobs");
    (*unacked, why.clone())
}

#[test]
fn a_consumer_of_a_deleted_queue_is_told_with_how_much_it_held() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 3);
    let consumer = consume(&engine, "jobs", 2);
    let (first, second) = (next(&consumer), next(&consumer));
    engine.delete_queue("jobs").unwrap();
    let error = consumer.try_recv().unwrap_err();
    assert_eq!(cancelled(&error), (2, Cancellation::QueueDeleted));
    let text = error.to_string();
    assert!(text.contains(consumer.tag()) && text.contains("deleted"), "{text}");
    // What it holds can be read and settled still: nobody minds.
    assert_eq!(first.payload(), b"0");
    first.ack().unwrap().wait().unwrap();
    second.nack(true).unwrap();
    assert_eq!(cancelled(&consumer.recv().unwrap_err()).0, 0);
    assert!(consumer.iter().next().unwrap().is_err());
    sound(&engine);
}

#[test]
fn one_that_waits_wakes_when_its_queue_is_deleted_whichever_way_it_waits() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let wait: [fn(&Consumer) -> Error; 4] = [
        |consumer| consumer.recv().unwrap_err(),
        |consumer| consumer.recv_timeout(PATIENCE).unwrap_err(),
        |consumer| block_on(consumer.recv_async()).unwrap_err(),
        |consumer| consumer.recv_batch(10, PATIENCE).unwrap_err(),
    ];
    let waiting: Vec<_> = wait
        .into_iter()
        .map(|wait| {
            let consumer = consume(&engine, "jobs", 1);
            start(move || wait(&consumer))
        })
        .collect();
    engine.delete_queue("jobs").unwrap();
    for waiter in waiting {
        assert_eq!(cancelled(&waiter.join()), (0, Cancellation::QueueDeleted));
    }
}

#[test]
fn a_queue_declared_again_is_another_one() {
    let (_machine, engine) = with_jobs();
    let old = consume(&engine, "jobs", 5);
    engine.delete_queue("jobs").unwrap();
    engine.declare_queue("jobs").unwrap();
    publish(&engine, "jobs", b"new");
    assert!(old.try_recv().is_err());
    assert_eq!(next(&consume(&engine, "jobs", 5)).payload(), b"new");
}
