//! Publishes and acks that take place together or not at all.

use std::{sync::Arc, time::Duration};

use fanlog::{
    Config, Engine, Error, ErrorKind, ExchangeKind, Message, WhenFull,
    storage::{Call, CrashMode, Fault, FaultRule, FaultStorage},
};

use crate::support::{
    Machine, consume, next, nothing, publish, publish_numbers, ready, settle, sound, stepped,
    texts, threaded, unacked, with_jobs,
};

/// A machine with `jobs`, which has `0` to `jobs - 1`, and `done`.
fn with_work(jobs: usize) -> (Machine, Engine) {
    let (machine, engine) = with_jobs();
    engine.declare_queue("done").unwrap();
    publish_numbers(&engine, "jobs", jobs);
    (machine, engine)
}

fn done(text: &str) -> Message<'_> {
    Message::new("", "done", text.as_bytes())
}

#[test]
fn a_transaction_takes_place_as_a_whole_when_it_is_committed() {
    let (machine, engine) = with_work(3);
    engine.declare_exchange("news", ExchangeKind::Fanout).unwrap();
    engine.bind("done", "news", "").unwrap();
    let consumer = consume(&engine, "jobs", 2);
    let mut transaction = engine.begin();
    transaction.publish(&done("a")).unwrap();
    transaction.ack(next(&consumer)).unwrap();
    transaction.publish(&Message::new("news", "", b"b")).unwrap();
    let kept = next(&consumer).keep();
    transaction.ack_tag(&consumer, kept).unwrap();
    assert_eq!((transaction.messages(), transaction.acks()), (2, 2));
    settle(&engine);
    assert_eq!(engine.queue("done").unwrap().messages, 0, "nothing is in the log yet");
    assert_eq!(engine.queue("jobs").unwrap().unacked, 2);
    nothing(&consumer);

    let ticket = transaction.commit().unwrap();
    assert_eq!((transaction.messages(), transaction.acks()), (0, 0));
    let confirm = ticket.wait().unwrap();
    assert_eq!((confirm.first_offset.0, confirm.messages), (3, 2));
    assert_eq!(next(&consumer).payload(), b"2", "the consumer has credit again");
    let engine = machine.power_cut().open();
    assert_eq!(unacked(&engine, "jobs"), ["2"]);
    assert_eq!(unacked(&engine, "done"), ["a", "b"]);
    sound(&engine);
}

#[test]
fn what_is_acked_by_one_that_is_on_its_way_is_not_ready() {
    let (_machine, engine) = with_work(3);
    let consumer = consume(&engine, "jobs", 2);
    let mut transaction = engine.begin();
    transaction.publish(&done("a")).unwrap();
    transaction.ack(next(&consumer)).unwrap();
    let seen = || {
        let view = engine.queue("jobs").unwrap();
        (view.messages, view.ready, view.unacked, view.ready_bytes)
    };
    assert_eq!(seen(), (3, 1, 2, 1));
    let ticket = transaction.commit().unwrap();
    assert_eq!(seen(), (3, 1, 1, 1), "it is nobody's any more, and is not written");
    ticket.wait().unwrap();
    assert_eq!(seen(), (2, 1, 1, 1));
}

#[test]
fn rolled_back_or_dropped_it_leaves_no_trace() {
    let (_machine, engine) = with_work(3);
    let consumer = consume(&engine, "jobs", 10);
    let mut transaction = engine.begin();
    transaction.publish(&done("a")).unwrap();
    transaction.ack(next(&consumer)).unwrap();
    let tag = next(&consumer).keep();
    transaction.ack_tag(&consumer, tag).unwrap();
    transaction.ack_batch(consumer.recv_batch(1, Duration::ZERO).unwrap()).unwrap();
    transaction.roll_back();
    // By delivery and by batch: back in the queue, in order. By tag: still held.
    let again = ready(&consumer);
    assert_eq!(texts(&again), ["0", "2"]);
    assert!(again.iter().all(fanlog::Delivery::redelivered));
    consumer.ack(tag).unwrap();
    let mut dropped = engine.begin();
    for delivery in again {
        dropped.ack(delivery).unwrap();
    }
    drop(dropped);
    assert_eq!(texts(&ready(&consumer)), ["0", "2"]);
    settle(&engine);
    assert_eq!(engine.queue("done").unwrap().messages, 0);
    sound(&engine);
}

#[test]
fn a_delivery_is_settled_by_one_transaction_or_otherwise_and_not_twice() {
    let (_machine, engine) = with_work(4);
    let consumer = consume(&engine, "jobs", 10);
    let tags: Vec<_> = ready(&consumer).into_iter().map(fanlog::Delivery::keep).collect();
    let mut one = engine.begin();
    let mut other = engine.begin();
    one.ack_tag(&consumer, tags[1]).unwrap();
    let twice = [
        one.ack_tag(&consumer, tags[1]).unwrap_err(),
        other.ack_tag(&consumer, tags[1]).unwrap_err(),
        consumer.ack(tags[1]).unwrap_err(),
        consumer.nack(tags[1], true).unwrap_err(),
        consumer.ack_multiple(fanlog::DeliveryTag(99)).unwrap_err(),
        other.ack_tag(&consumer, fanlog::DeliveryTag(99)).unwrap_err(),
    ];
    for error in twice {
        assert!(matches!(error, Error::UnknownTag { .. }), "{error}");
    }
    // Acking all up to a later tag leaves it alone.
    consumer.ack_multiple(tags[2]).unwrap();
    one.commit().unwrap().wait().unwrap();
    assert!(matches!(consumer.ack(tags[1]), Err(Error::UnknownTag { .. })));
    settle(&engine);
    assert_eq!(unacked(&engine, "jobs"), ["3"]);
    sound(&engine);
}

#[test]
fn what_would_go_nowhere_is_refused_and_the_rest_stays() {
    let (_machine, engine) = with_work(1);
    let consumer = consume(&engine, "jobs", 10);
    let mut transaction = engine.begin();
    transaction.publish(&done("a")).unwrap();
    transaction.ack(next(&consumer)).unwrap();
    let long = "k".repeat(256);
    let bad = [
        (transaction.publish(&Message::new("nowhere", "", b"x")), ErrorKind::NotFound),
        (transaction.publish(&Message::new("", "nobody", b"x")), ErrorKind::Unroutable),
        (transaction.publish(&Message::new("", &long, b"x")), ErrorKind::Usage),
        (transaction.publish(&done("a").headers(&vec![0; 2 << 20])), ErrorKind::TooLarge),
    ];
    for (outcome, kind) in bad {
        assert_eq!(outcome.unwrap_err().kind(), kind);
    }
    assert_eq!((transaction.messages(), transaction.acks()), (1, 1));
    transaction.commit().unwrap().wait().unwrap();
    assert_eq!(unacked(&engine, "done"), ["a"]);
    assert_eq!(unacked(&engine, "jobs"), [""; 0]);
}

#[test]
fn messages_are_routed_as_the_topology_is_at_the_commit() {
    let (_machine, engine) = with_work(1);
    engine.declare_exchange("news", ExchangeKind::Fanout).unwrap();
    engine.declare_queue("late").unwrap();
    engine.bind("done", "news", "").unwrap();
    let consumer = consume(&engine, "jobs", 10);
    let mut transaction = engine.begin();
    transaction.publish(&Message::new("news", "", b"n")).unwrap();
    transaction.ack(next(&consumer)).unwrap();
    engine.unbind("done", "news", "").unwrap();
    // As it is now nobody would get it: nothing takes place, and it can be tried again.
    let error = transaction.commit().unwrap_err();
    assert!(matches!(error, Error::Unroutable { .. }), "{error}");
    settle(&engine);
    assert_eq!(engine.queue("jobs").unwrap().unacked, 1);
    nothing(&consumer);
    engine.bind("late", "news", "").unwrap();
    transaction.commit().unwrap().wait().unwrap();
    assert_eq!(unacked(&engine, "late"), ["n"]);
    assert_eq!(unacked(&engine, "jobs"), [""; 0]);
    assert_eq!(unacked(&engine, "done"), [""; 0]);
    sound(&engine);
}

#[test]
fn acks_of_a_deleted_queue_are_nothing_and_the_rest_takes_place() {
    let (machine, engine) = with_work(2);
    let consumer = consume(&engine, "jobs", 10);
    let mut transaction = engine.begin();
    transaction.publish(&done("a")).unwrap();
    transaction.ack(next(&consumer)).unwrap();
    engine.delete_queue("jobs").unwrap();
    transaction.commit().unwrap().wait().unwrap();
    sound(&engine);
    let engine = machine.power_cut().open();
    assert_eq!(unacked(&engine, "done"), ["a"]);
    sound(&engine);
}

#[test]
fn a_consumer_that_goes_takes_its_deliveries_out_of_a_transaction() {
    let (_machine, engine) = with_work(2);
    let first = consume(&engine, "jobs", 1);
    let second = consume(&engine, "jobs", 1);
    let mut transaction = engine.begin();
    transaction.publish(&done("a")).unwrap();
    transaction.ack(next(&first)).unwrap();
    transaction.ack(next(&second)).unwrap();
    drop(second);
    assert!(matches!(transaction.commit(), Err(Error::Closed)));
    assert_eq!((transaction.messages(), transaction.acks()), (1, 2), "as it was");
    assert_eq!(engine.queue("jobs").unwrap().unacked, 1, "the other one is still held");
    transaction.roll_back();
    assert_eq!(texts(&ready(&first)), ["0"]);
    settle(&engine);
    assert_eq!(engine.queue("done").unwrap().messages, 0);
    sound(&engine);
}

#[test]
fn a_delivery_of_another_engine_is_refused_and_goes_back() {
    let (_machine, engine) = with_work(0);
    let (_other_machine, other) = with_work(1);
    let consumer = consume(&other, "jobs", 1);
    let error = engine.begin().ack(next(&consumer)).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(next(&consumer).payload(), b"0");
}

#[test]
fn a_transaction_over_its_limit_is_refused_before_anything_is_written() {
    let machine = Machine::new();
    let engine = machine.open_with(Config { transaction_bytes_max: 8192, ..stepped() });
    engine.declare_queue("jobs").unwrap();
    engine.declare_queue("done").unwrap();
    let mut transaction = engine.begin();
    transaction.publish(&done(&"x".repeat(7900))).unwrap();
    let error = transaction.publish(&done(&"x".repeat(2000))).unwrap_err();
    let Error::TooLarge { what: "transaction", found, limit: 8192 } = error else {
        panic!("{error}");
    };
    assert!(found > 9000);
    // Acks, every other one so that they take room, count as well.
    publish_numbers(&engine, "jobs", 2000);
    let consumer = consume(&engine, "jobs", 0);
    for delivery in ready(&consumer).into_iter().step_by(2) {
        transaction.ack(delivery).unwrap();
    }
    let error = transaction.commit().unwrap_err();
    assert!(matches!(error, Error::TooLarge { what: "transaction", .. }), "{error}");
    let before = engine.stats().unconfirmed_bytes;
    assert_eq!(before, 0);
    transaction.roll_back();
    settle(&engine);
    assert_eq!(unacked(&engine, "jobs").len(), 2000);
    sound(&engine);
}

#[test]
fn an_empty_transaction_is_confirmed_at_once_and_one_of_acks_alone_once_they_are_durable() {
    let (machine, engine) = with_work(2);
    let mut transaction = engine.begin();
    assert_eq!(transaction.commit().unwrap().try_wait().unwrap().unwrap().messages, 0);
    let consumer = consume(&engine, "jobs", 10);
    transaction.ack(next(&consumer)).unwrap();
    let ticket = transaction.commit().unwrap();
    assert!(ticket.try_wait().is_none());
    assert_eq!(unacked(&machine.power_cut().open(), "jobs"), ["0", "1"]);
    assert_eq!(ticket.wait().unwrap().messages, 0);
    assert_eq!(unacked(&machine.power_cut().open(), "jobs"), ["1"]);
    sound(&engine);
}

#[test]
fn buffered_messages_in_a_transaction_are_durable_with_its_acks() {
    let (machine, engine) = with_work(1);
    let consumer = consume(&engine, "jobs", 10);
    let mut transaction = engine.begin();
    transaction.publish(&done("a").buffered()).unwrap();
    transaction.ack(next(&consumer)).unwrap();
    transaction.commit().unwrap().wait().unwrap();
    let machine = machine.power_cut();
    let engine = machine.open();
    assert_eq!(unacked(&engine, "done"), ["a"]);
    assert_eq!(unacked(&engine, "jobs"), [""; 0]);
    let mut alone = engine.begin();
    alone.publish(&done("b").buffered()).unwrap();
    alone.commit().unwrap().wait().unwrap();
    assert_eq!(unacked(&machine.power_cut().open(), "done"), ["a", "b"]);
}

#[test]
fn messages_of_several_segments_and_queues_are_acked_in_one_record_batch_and_counted_right() {
    let (machine, engine) = with_work(0);
    engine.declare_exchange("news", ExchangeKind::Fanout).unwrap();
    engine.declare_queue("log").unwrap();
    for queue in ["jobs", "log"] {
        engine.bind(queue, "news", "").unwrap();
    }
    let payload = "p".repeat(3000);
    for _ in 0..100 {
        engine.publisher().publish(&Message::new("news", "", payload.as_bytes())).unwrap();
        settle(&engine);
    }
    assert!(engine.segments().len() > 3);
    let consumers = [consume(&engine, "jobs", 0), consume(&engine, "log", 0)];
    let mut transaction = engine.begin();
    for (consumer, step) in consumers.iter().zip([2, 3]) {
        for (at, delivery) in ready(consumer).into_iter().enumerate() {
            if at % step > 0 {
                transaction.ack(delivery).unwrap();
            } else {
                delivery.keep();
            }
        }
    }
    transaction.publish(&done("a")).unwrap();
    transaction.commit().unwrap().wait().unwrap();
    sound(&engine);
    let engine = machine.power_cut().open();
    sound(&engine);
    let depths = ["jobs", "log", "done"].map(|queue| engine.queue(queue).unwrap().messages);
    assert_eq!(depths, [50, 34, 1]);
    // All of it is acked by another: then nothing of the segments is live.
    let mut transaction = engine.begin();
    for queue in ["jobs", "log"] {
        let consumer = consume(&engine, queue, 0);
        for delivery in ready(&consumer) {
            transaction.ack(delivery).unwrap();
        }
        transaction.commit().unwrap().wait().unwrap();
    }
    settle(&engine);
    engine.reclaim(&mut |_| {}).unwrap();
    assert!(engine.segments().len() <= 2, "{:?}", engine.segments().len());
    sound(&engine);
}

#[test]
fn a_purge_leaves_alone_what_is_in_a_transaction() {
    let (machine, engine) = with_work(10);
    let consumer = consume(&engine, "jobs", 4);
    let mut transaction = engine.begin();
    for delivery in ready(&consumer) {
        transaction.ack(delivery).unwrap();
    }
    assert_eq!(engine.purge_queue("jobs").unwrap(), 6);
    assert_eq!(unacked(&engine, "jobs"), ["0", "1", "2", "3"]);
    transaction.publish(&done("a")).unwrap();
    transaction.commit().unwrap().wait().unwrap();
    sound(&engine);
    let engine = machine.power_cut().open();
    assert_eq!(unacked(&engine, "jobs"), [""; 0]);
    sound(&engine);
}

/// The purge comes after the commit, and its record goes with an earlier batch: what the transaction
/// acks is not the purge's to drop, as the transaction may never get there.
#[test]
fn a_purge_that_overtakes_a_commit_in_the_log_counts_nothing_twice() {
    let machine = Machine::new();
    let engine = machine.open_with(Config { buffer_bytes_max: 8 << 20, ..stepped() });
    for queue in ["jobs", "done", "other"] {
        engine.declare_queue(queue).unwrap();
    }
    publish_numbers(&engine, "jobs", 10);
    let consumer = consume(&engine, "jobs", 4);
    let deliveries = ready(&consumer);
    let large = vec![0; 1900 << 10];
    engine.publisher().publish(&Message::new("", "other", &large)).unwrap();
    let mut transaction = engine.begin();
    for delivery in deliveries {
        transaction.ack(delivery).unwrap();
    }
    // Too large for the batch that is open.
    transaction.publish(&Message::new("", "done", &large[..300 << 10])).unwrap();
    let ticket = transaction.commit().unwrap();
    assert_eq!(engine.purge_queue("jobs").unwrap(), 6);
    assert!(ticket.try_wait().is_none(), "the purge should be first in the log");
    let between = machine.power_cut().open();
    assert_eq!(unacked(&between, "jobs"), ["0", "1", "2", "3"]);
    sound(&between);
    ticket.wait().unwrap();
    sound(&engine);
    assert_eq!(engine.queue("jobs").unwrap().messages, 0);
    let engine = machine.power_cut().open();
    sound(&engine);
    let depths = ["jobs", "done"].map(|queue| engine.queue(queue).unwrap().messages);
    assert_eq!(depths, [0, 1]);
}

#[test]
fn a_full_buffer_leaves_the_transaction_as_it_was_and_its_messages_in_hand() {
    let machine = Machine::new();
    let config = Config { when_full: WhenFull::Fail, ..stepped() };
    let engine = machine.open_with(config);
    engine.declare_queue("jobs").unwrap();
    engine.declare_queue("done").unwrap();
    publish(&engine, "jobs", b"0");
    let consumer = consume(&engine, "jobs", 1);
    let mut transaction = engine.begin();
    transaction.ack(next(&consumer)).unwrap();
    transaction.publish(&done("a")).unwrap();
    let large = vec![1; 900 << 10];
    let publisher = engine.publisher();
    publisher.publish(&Message::new("", "done", &large)).unwrap();
    transaction.publish(&Message::new("", "done", &large)).unwrap();
    let error = transaction.commit().unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert_eq!(engine.queue("jobs").unwrap().unacked, 1);
    nothing(&consumer);
    settle(&engine);
    transaction.commit().unwrap().wait().unwrap();
    assert_eq!(engine.queue("done").unwrap().messages, 3);
    assert_eq!(engine.queue("jobs").unwrap().messages, 0);
    sound(&engine);
}

#[test]
fn after_the_engine_has_ended_a_transaction_says_so_and_can_be_dropped() {
    let (_machine, engine) = with_work(1);
    let consumer = consume(&engine, "jobs", 1);
    let mut transaction = engine.begin();
    transaction.ack(next(&consumer)).unwrap();
    transaction.publish(&done("a")).unwrap();
    engine.close(Duration::from_secs(1)).unwrap();
    assert!(matches!(transaction.commit(), Err(Error::Closed)));
    assert!(matches!(transaction.publish(&done("b")), Err(Error::Closed)));
}

/// Power is cut at every operation of the disk while a transaction is committed: two large messages
/// and the acks of two messages of other segments.
#[test]
fn a_transaction_that_a_power_cut_hits_is_there_whole_or_not_at_all() {
    let (machine, engine) = with_jobs();
    engine.declare_queue("done").unwrap();
    for number in 0..3 {
        publish(&engine, "jobs", &vec![number; 40_000]);
    }
    drop(engine);
    let (mut whole, mut none) = (0, 0);
    for cut in 0..30 {
        let trial = Machine { disk: machine.disk.deep_copy(), clock: Arc::default() };
        let engine = trial.open();
        let consumer = consume(&engine, "jobs", 2);
        let deliveries = ready(&consumer);
        trial.disk.cut_at(trial.disk.operation_count() + cut);
        let mut transaction = engine.begin();
        for delivery in deliveries {
            transaction.publish(&done(&"d".repeat(5000))).unwrap();
            transaction.ack(delivery).unwrap();
        }
        let confirmed = transaction.commit().and_then(|ticket| ticket.wait()).is_ok();
        for seed in 0..8 {
            let mode = [CrashMode::LoseUnsynced, CrashMode::KeepAll, CrashMode::Random];
            let disk = trial.disk.crash_image(seed, mode[(seed % 3) as usize]);
            let again = Machine { disk, clock: Arc::default() }.open();
            match ["jobs", "done"].map(|queue| again.queue(queue).unwrap().messages) {
                [1, 2] => whole += 1,
                [3, 0] if !confirmed => none += 1,
                other => panic!("cut at {cut}, seed {seed}, confirmed {confirmed}: {other:?}"),
            }
            sound(&again);
        }
    }
    assert!(whole > 0 && none > 0, "{whole} {none}");
}

#[test]
fn written_again_for_want_of_space_it_is_still_one_batch() {
    let machine = Machine::new();
    let faults = FaultStorage::new(Arc::new(machine.disk.clone()));
    let engine = machine.open_through(Arc::new(faults.clone()), stepped()).unwrap();
    engine.declare_queue("jobs").unwrap();
    engine.declare_queue("done").unwrap();
    publish_numbers(&engine, "jobs", 4);
    let consumer = consume(&engine, "jobs", 0);
    let mut transaction = engine.begin();
    for text in ["a", "b"] {
        transaction.publish(&done(text)).unwrap();
        transaction.ack(next(&consumer)).unwrap();
    }
    let full = Fault::Error(std::io::ErrorKind::StorageFull);
    faults.fail(FaultRule::new(Call::Write, full));
    let ticket = transaction.commit().unwrap();
    ticket.wait().unwrap();
    assert_eq!(engine.stats().batches_written_again, 1);
    sound(&engine);
    let engine = machine.power_cut().open();
    assert_eq!(unacked(&engine, "done"), ["a", "b"]);
    assert_eq!(unacked(&engine, "jobs"), ["2", "3"]);
    sound(&engine);
}

#[test]
fn transactions_of_many_threads_move_every_message_once() {
    const MESSAGES: usize = 600;
    let engine = threaded();
    for queue in ["jobs", "done"] {
        engine.declare_queue(queue).unwrap();
    }
    publish_numbers(&engine, "jobs", MESSAGES);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let engine = engine.clone();
            scope.spawn(move || {
                let consumer = consume(&engine, "jobs", 8);
                let mut transaction = engine.begin();
                let mut round = worker;
                loop {
                    let batch = consumer.recv_batch(5, Duration::from_millis(200)).unwrap();
                    if batch.is_empty() {
                        return;
                    }
                    for delivery in batch.iter() {
                        let copy = Message::new("", "done", delivery.payload());
                        transaction.publish(&copy).unwrap();
                    }
                    transaction.ack_batch(batch).unwrap();
                    round += 1;
                    if round % 3 == 0 {
                        drop(std::mem::replace(&mut transaction, engine.begin()));
                    } else {
                        transaction.commit().unwrap().wait().unwrap();
                    }
                }
            });
        }
    });
    let mut moved: Vec<usize> =
        unacked(&engine, "done").iter().map(|text| text.parse().unwrap()).collect();
    moved.sort_unstable();
    assert_eq!(moved, (0..MESSAGES).collect::<Vec<_>>());
    assert_eq!(engine.queue("jobs").unwrap().messages, 0);
    sound(&engine);
}
