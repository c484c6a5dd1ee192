//! Deleting queues on condition.

use std::sync::Barrier;

use fanlog::{DeleteQueue, Error, ErrorKind, Message};

use crate::support::{consume, next, publish, sound, threaded, with_jobs};

const UNUSED: DeleteQueue = DeleteQueue { if_unused: true, if_empty: false };
const EMPTY: DeleteQueue = DeleteQueue { if_unused: false, if_empty: true };

#[test]
fn a_queue_with_consumers_is_not_unused() {
    let (machine, engine) = with_jobs();
    let consumer = consume(&engine, "jobs", 1);
    let error = engine.delete_queue_with("jobs", UNUSED).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(matches!(error, Error::StillUsed { what: "queue", by: "consumers", .. }), "{error}");
    publish(&engine, "jobs", b"a");
    assert_eq!(next(&consumer).payload(), b"a");
    drop(consumer);
    // That there are messages does not matter.
    engine.delete_queue_with("jobs", UNUSED).unwrap();
    assert_eq!(engine.queue("jobs").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(machine.power_cut().open().topology().queues.is_empty());
    sound(&engine);
    assert_eq!(engine.delete_queue_with("jobs", UNUSED).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_queue_with_a_message_is_not_empty_though_it_is_not_confirmed_yet() {
    let (machine, engine) = with_jobs();
    let ticket = engine.publisher().publish(&Message::new("", "jobs", b"a")).unwrap();
    let error = engine.delete_queue_with("jobs", EMPTY).unwrap_err();
    assert!(matches!(error, Error::StillUsed { what: "queue", by: "messages", .. }), "{error}");
    ticket.wait().unwrap();
    publish(&engine, "jobs", b"b");
    let consumer = consume(&engine, "jobs", 10);
    for _ in 0..2 {
        next(&consumer).ack().unwrap().wait().unwrap();
    }
    // That there are consumers does not matter.
    engine.delete_queue_with("jobs", EMPTY).unwrap();
    assert!(matches!(consumer.recv().unwrap_err(), Error::Cancelled { .. }));
    assert!(machine.power_cut().open().topology().queues.is_empty());
    sound(&engine);
}

#[test]
fn without_conditions_it_is_deleted_whatever_it_holds() {
    let (_machine, engine) = with_jobs();
    publish(&engine, "jobs", b"a");
    engine.delete_queue_with("jobs", DeleteQueue::default()).unwrap();
    assert!(engine.topology().queues.is_empty());
}

#[test]
fn no_message_that_was_confirmed_goes_with_a_queue_that_is_deleted_if_empty() {
    let engine = threaded();
    for round in 0..30 {
        engine.declare_queue("jobs").unwrap();
        let go = Barrier::new(2);
        let confirmed = std::thread::scope(|scope| {
            let publisher = scope.spawn(|| {
                let publisher = engine.publisher();
                go.wait();
                let mut confirmed = 0;
                for _ in 0..20 {
                    match publisher.publish_confirmed(&Message::new("", "jobs", b"x")) {
                        Ok(_) => confirmed += 1,
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Unroutable);
                            break;
                        }
                    }
                }
                confirmed
            });
            go.wait();
            if round % 3 > 0 {
                std::thread::yield_now();
            }
            let deleted = engine.delete_queue_with("jobs", EMPTY);
            let confirmed = publisher.join().unwrap();
            match deleted {
                Ok(()) => assert_eq!(confirmed, 0),
                Err(error) => assert_eq!(error.kind(), ErrorKind::InUse),
            }
            confirmed
        });
        if confirmed > 0 {
            assert_eq!(engine.queue("jobs").unwrap().messages, confirmed);
            engine.delete_queue("jobs").unwrap();
        }
    }
    sound(&engine);
}
