//! Delivery: who gets what, in which order, and how a consumer waits.

use std::{sync::Arc, time::Duration};

use fanlog::{
    Cancellation, ConsumerOptions, Delivery, Engine, Error, ErrorKind, ExchangeKind, Message,
    storage::{Call, FaultStorage},
};

use crate::support::{
    Machine, PATIENCE, consume, next, nothing, offsets, pattern, publish, publish_numbers, ready,
    settle, start, stepped, texts, threaded, until, with_jobs,
};

#[test]
fn consumers_of_a_queue_take_turns_exactly() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 12);
    let consumers = [0; 3].map(|_| consume(&engine, "jobs", 100));
    let held: Vec<_> = consumers.iter().map(ready).collect();
    for (at, deliveries) in held.iter().enumerate() {
        let expected: Vec<u64> = (0..4).map(|round| round * 3 + at as u64).collect();
        assert_eq!(offsets(deliveries), expected);
    }
}

#[test]
fn turns_go_on_where_they_stopped_when_messages_come_one_by_one() {
    let (_machine, engine) = with_jobs();
    let consumers = [0; 3].map(|_| consume(&engine, "jobs", 100));
    let mut shares = [0; 3];
    for _ in 0..30 {
        publish(&engine, "jobs", b"m");
        for (share, consumer) in shares.iter_mut().zip(&consumers) {
            for delivery in ready(consumer) {
                *share += 1;
                delivery.ack().unwrap();
            }
        }
    }
    assert_eq!(shares, [10, 10, 10]);
}

#[test]
fn a_consumer_without_credit_is_passed_over() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 10);
    let one = consume(&engine, "jobs", 1);
    let many = consume(&engine, "jobs", 100);
    let first = ready(&one);
    let rest = ready(&many);
    assert_eq!(offsets(&first), [0]);
    assert_eq!(offsets(&rest), (1..10).collect::<Vec<_>>());
}

#[test]
fn a_consumer_that_joins_later_shares_what_was_not_dealt() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 6);
    let early = consume(&engine, "jobs", 2);
    let held = ready(&early);
    let late = consume(&engine, "jobs", 100);
    assert_eq!(offsets(&ready(&late)), [2, 3, 4, 5]);
    assert_eq!(offsets(&held), [0, 1]);
}

#[test]
fn a_slow_consumer_holds_back_no_other() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 5000);
    let slow = consume(&engine, "jobs", 3);
    let held = next(&slow);
    let fast = consume(&engine, "jobs", 10);
    let mut seen = 0;
    while let Some(delivery) = fast.recv_timeout(Duration::ZERO).unwrap() {
        delivery.ack().unwrap();
        seen += 1;
    }
    // The slow one has one in hand and at most two in its inbox.
    assert_eq!(seen, 4997);
    held.ack().unwrap();
}

#[test]
fn a_slow_queue_holds_back_no_other() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("results", ExchangeKind::Fanout).unwrap();
    for queue in ["slow", "fast"] {
        engine.declare_queue(queue).unwrap();
        engine.bind(queue, "results", "").unwrap();
    }
    let slow = consume(&engine, "slow", 1);
    let fast = consume(&engine, "fast", 10);
    let mut held = Vec::new();
    for number in 0..1000u32 {
        let message = number.to_string();
        let message = Message::new("results", "", message.as_bytes());
        engine.publisher().publish_confirmed(&message).unwrap();
        held.extend(ready(&slow));
        let delivery = next(&fast);
        assert_eq!(delivery.offset().0, u64::from(number));
        delivery.ack().unwrap();
    }
    assert_eq!(offsets(&held), [0]);
}

#[test]
fn a_consumer_never_holds_more_than_its_prefetch() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 20);
    let consumer = consume(&engine, "jobs", 4);
    let mut held = ready(&consumer);
    assert_eq!(offsets(&held), [0, 1, 2, 3]);
    let view = engine.queue("jobs").unwrap();
    assert_eq!((view.unacked, view.ready, view.messages, view.consumers), (4, 16, 20, 1));
    nothing(&consumer);
    held.remove(1).ack().unwrap();
    held.extend(ready(&consumer));
    assert_eq!(offsets(&held), [0, 2, 3, 4]);
    held.remove(0).nack(false).unwrap();
    held.extend(ready(&consumer));
    assert_eq!(offsets(&held), [2, 3, 4, 5]);
    let tag = held.remove(0).keep();
    nothing(&consumer);
    consumer.ack(tag).unwrap();
    assert_eq!(offsets(&ready(&consumer)), [6]);
}

#[test]
fn an_unlimited_prefetch_ends_at_65536() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 66_000);
    let consumer = consume(&engine, "jobs", 0);
    let mut held = Vec::new();
    loop {
        let batch = consumer.recv_batch(10_000, Duration::ZERO).unwrap();
        if batch.is_empty() {
            break;
        }
        held.extend(batch.keep());
    }
    assert_eq!(held.len(), 65_536);
    consumer.ack_multiple(held[99]).unwrap();
    let more = consumer.recv_batch(10_000, Duration::ZERO).unwrap();
    assert_eq!(more.len(), 100);
    assert_eq!(more.iter().next().unwrap().offset().0, 65_536);
}

#[test]
fn messages_come_in_order_from_memory_from_the_open_segment_and_from_sealed_ones() {
    let (machine, engine) = with_jobs();
    let total = 4000u64;
    for number in 0..total {
        let payload = pattern(number, 1000);
        drop(engine.publisher().publish(&Message::new("", "jobs", &payload)).unwrap());
        if number % 17 == 0 {
            settle(&engine);
        }
    }
    settle(&engine);
    assert!(engine.stats().segments > 20);
    assert!(engine.stats().window_bytes < 2 << 20);
    let read = |engine: &Engine| {
        let consumer = consume(engine, "jobs", 100);
        for number in 0..total {
            let delivery = next(&consumer);
            assert_eq!(delivery.offset().0, number);
            assert!(delivery.payload() == pattern(number, 1000), "message {number}");
            delivery.ack().unwrap();
        }
        nothing(&consumer);
    };
    let crashed = machine.killed();
    read(&engine);
    read(&crashed.open());
}

#[test]
fn recv_waits_for_a_message_that_is_published_later() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let consumer = consume(&engine, "jobs", 1);
    let waiting = start(move || {
        let first = consumer.recv().unwrap();
        let text = first.payload().to_vec();
        first.ack().unwrap();
        (text, consumer.recv_timeout(PATIENCE).unwrap().unwrap().payload().to_vec())
    });
    publish(&engine, "jobs", b"a");
    publish(&engine, "jobs", b"b");
    assert_eq!(waiting.join(), (b"a".to_vec(), b"b".to_vec()));
}

#[test]
fn a_wait_with_a_time_out_ends_without_a_message() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let consumer = consume(&engine, "jobs", 1);
    assert!(consumer.recv_timeout(Duration::from_millis(5)).unwrap().is_none());
    assert!(consumer.recv_batch(10, Duration::from_millis(5)).unwrap().is_empty());
    assert!(consumer.try_recv().unwrap().is_none());
    publish(&engine, "jobs", b"a");
    assert_eq!(consumer.recv_timeout(PATIENCE).unwrap().unwrap().payload(), b"a");
}

/// One consumer that got a message and is busy with it must not keep the others asleep.
#[test]
fn a_sleeper_wakes_for_its_message_while_another_consumer_is_busy() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let sleepers: Vec<_> = (0..4)
        .map(|_| {
            let consumer = consume(&engine, "jobs", 1);
            // The consumer stays alive, and busy: it never asks again.
            start(move || {
                let delivery = consumer.recv().unwrap();
                (delivery.keep(), consumer)
            })
        })
        .collect();
    for _ in 0..4 {
        publish(&engine, "jobs", b"m");
    }
    let kept: Vec<_> = sleepers.into_iter().map(|sleeper| sleeper.join()).collect();
    assert_eq!(kept.len(), 4);
}

#[test]
fn a_sleeper_wakes_for_a_message_that_came_after_another_consumer_was_served() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let (served, told) = std::sync::mpsc::channel();
    let sleepers: Vec<_> = (0..8)
        .map(|_| {
            let consumer = consume(&engine, "jobs", 1);
            let served = served.clone();
            start(move || {
                let delivery = consumer.recv().unwrap();
                served.send(()).unwrap();
                (delivery.keep(), consumer)
            })
        })
        .collect();
    for number in 0..8 {
        publish(&engine, "jobs", b"m");
        let told = told.recv_timeout(PATIENCE);
        assert!(told.is_ok(), "message {number} woke nobody");
    }
    drop(sleepers);
}

#[test]
fn a_sleeping_consumer_wakes_for_a_binding_made_while_it_slept() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let consumer = consume(&engine, "jobs", 1);
    assert!(consumer.recv_timeout(Duration::from_millis(5)).unwrap().is_none());
    let waiting = start(move || consumer.recv().unwrap().payload().to_vec());
    engine.declare_exchange("x", ExchangeKind::Direct).unwrap();
    engine.bind("jobs", "x", "k").unwrap();
    engine.publisher().publish_confirmed(&Message::new("x", "k", b"a")).unwrap();
    assert_eq!(waiting.join(), b"a");
}

#[test]
fn a_message_that_overtakes_the_news_of_its_binding_wakes_the_consumer() {
    let engine = threaded();
    engine.declare_exchange("x", ExchangeKind::Direct).unwrap();
    for number in 0..300 {
        let queue = format!("jobs-{number}");
        engine.declare_queue(&queue).unwrap();
        let consumer = consume(&engine, &queue, 1);
        assert!(consumer.try_recv().unwrap().is_none());
        let waiting = start(move || consumer.recv().unwrap().payload().to_vec());
        engine.bind(&queue, "x", &queue).unwrap();
        engine.publisher().publish_confirmed(&Message::new("x", &queue, b"a")).unwrap();
        assert_eq!(waiting.join(), b"a");
    }
}

#[test]
fn one_publish_wakes_a_sleeper_of_every_bound_queue() {
    let engine = threaded();
    engine.declare_exchange("results", ExchangeKind::Fanout).unwrap();
    let waiting: Vec<_> = (0..20)
        .map(|number| {
            let queue = format!("q{number}");
            engine.declare_queue(&queue).unwrap();
            engine.bind(&queue, "results", "").unwrap();
            let consumer = consume(&engine, &queue, 1);
            start(move || consumer.recv().unwrap().payload().to_vec())
        })
        .collect();
    engine.publisher().publish_confirmed(&Message::new("results", "", b"a")).unwrap();
    assert!(waiting.into_iter().all(|waiting| waiting.join() == b"a"));
}

#[test]
fn many_consumers_of_one_queue_share_a_stream_without_loss_or_doubling() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let total = 5000;
    let consumers: Vec<_> = (0..4)
        .map(|at| {
            let consumer = consume(&engine, "jobs", [1, 3, 50, 256][at]);
            start(move || {
                let mut seen = Vec::new();
                for delivery in &consumer {
                    match delivery {
                        Ok(delivery) => {
                            seen.push(delivery.offset().0);
                            delivery.ack().unwrap();
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Closed);
                            return seen;
                        }
                    }
                }
                panic!("the iterator should end with an error");
            })
        })
        .collect();
    let mut last = None;
    for _ in 0..total {
        last = Some(engine.publisher().publish(&Message::new("", "jobs", &[0; 200])).unwrap());
    }
    // What is not confirmed yet is not in the queue.
    last.unwrap().wait().unwrap();
    until("all is acked", || engine.queue("jobs").unwrap().messages == 0);
    engine.close(PATIENCE).unwrap();
    let mut all: Vec<u64> = consumers.into_iter().flat_map(|consumer| consumer.join()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..total).collect::<Vec<_>>());
}

#[test]
fn a_batch_takes_what_is_ready_and_no_more_than_asked_for() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 10);
    let consumer = consume(&engine, "jobs", 8);
    assert!(consumer.recv_batch(0, PATIENCE).unwrap().is_empty());
    let first = consumer.recv_batch(3, Duration::ZERO).unwrap();
    let list = |batch: &fanlog::DeliveryBatch| -> Vec<u64> {
        batch.iter().map(|delivery| delivery.offset().0).collect()
    };
    assert_eq!((first.len(), list(&first)), (3, vec![0, 1, 2]));
    // Credit bounds the second one.
    let second = consumer.recv_batch(100, Duration::ZERO).unwrap();
    assert_eq!(list(&second), [3, 4, 5, 6, 7]);
    first.ack().unwrap();
    let third = consumer.recv_batch(100, Duration::ZERO).unwrap();
    assert_eq!(list(&third), [8, 9]);
    assert_eq!(third.iter().next_back_text(), "9");
}

trait LastText {
    fn next_back_text(self) -> String;
}

impl<'a, I: Iterator<Item = fanlog::DeliveryRef<'a>>> LastText for I {
    fn next_back_text(self) -> String {
        String::from_utf8(self.last().unwrap().payload().to_vec()).unwrap()
    }
}

#[test]
fn delivery_tags_count_from_one_for_each_consumer() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 4);
    let one = consume(&engine, "jobs", 10);
    let two = consume(&engine, "jobs", 10);
    let tags = |deliveries: &[Delivery]| -> Vec<u64> {
        deliveries.iter().map(|delivery| delivery.tag().0).collect()
    };
    let (first, second) = (ready(&one), ready(&two));
    assert_eq!((tags(&first), tags(&second)), (vec![1, 2], vec![1, 2]));
    drop(first);
    assert_eq!(next(&one).tag().0, 3);
}

#[test]
fn a_consumer_has_the_name_it_was_given_or_one_of_its_own() {
    let (_machine, engine) = with_jobs();
    let named = ConsumerOptions { tag: "worker-7".into(), ..ConsumerOptions::default() };
    assert_eq!(engine.consume("jobs", named).unwrap().tag(), "worker-7");
    let (one, two) = (consume(&engine, "jobs", 1), consume(&engine, "jobs", 1));
    assert_ne!(one.tag(), two.tag());
    let long = ConsumerOptions { tag: "t".repeat(256), ..ConsumerOptions::default() };
    let error = engine.consume("jobs", long).unwrap_err();
    assert!(matches!(error, Error::Name { what: "consumer tag", found: 256, limit: 255, .. }));
    assert_eq!(
        engine.consume("nobody", ConsumerOptions::default()).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn consumers_of_a_deleted_queue_are_told_awake_or_asleep() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let awake = consume(&engine, "jobs", 1);
    let asleep: Vec<_> = (0..3)
        .map(|_| {
            let consumer = consume(&engine, "jobs", 1);
            start(move || consumer.recv().map(drop).unwrap_err())
        })
        .collect();
    engine.delete_queue("jobs").unwrap();
    let mut errors: Vec<Error> = asleep.into_iter().map(|waiting| waiting.join()).collect();
    errors.push(awake.try_recv().unwrap_err());
    for error in errors {
        let Error::Cancelled { queue, why, .. } = error else { panic!("{error}") };
        assert_eq!((&*queue, why), ("jobs", Cancellation::QueueDeleted));
    }
}

/// The first message takes the queue off the list of those that wait; the others still sleep.
#[test]
fn consumers_that_slept_on_are_told_that_their_queue_was_deleted() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let (served, told) = std::sync::mpsc::channel();
    let asleep: Vec<_> = (0..3)
        .map(|_| {
            let consumer = consume(&engine, "jobs", 5);
            let served = served.clone();
            start(move || {
                loop {
                    match consumer.recv() {
                        Ok(delivery) => served.send(delivery.keep()).unwrap(),
                        Err(error) => return error.kind(),
                    }
                }
            })
        })
        .collect();
    publish(&engine, "jobs", b"a");
    told.recv_timeout(PATIENCE).unwrap();
    engine.delete_queue("jobs").unwrap();
    assert!(asleep.into_iter().all(|waiting| waiting.join() == ErrorKind::Cancelled));
}

#[test]
fn a_sparse_queue_reads_only_its_own_sealed_segments_records() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue("busy").unwrap();
    engine.declare_queue("sparse").unwrap();
    for number in 0..1000u64 {
        let queue = if number % 250 == 7 { "sparse" } else { "busy" };
        publish(&engine, queue, &pattern(number, 1000));
        settle(&engine);
    }
    let consumer = consume(&engine, "sparse", 10);
    assert_eq!(offsets(&ready(&consumer)), [7, 257, 507, 757]);
}

/// Behind the window a queue without messages in a batch has no reason to read that batch.
#[test]
fn a_sparse_queue_does_not_read_unsealed_batches_that_have_nothing_for_it() {
    let machine = Machine::new();
    let config = fanlog::Config { segment_bytes_max: 4 << 20, ..stepped() };
    let engine = machine.open_with(config.clone());
    engine.declare_queue("busy").unwrap();
    engine.declare_queue("sparse").unwrap();
    for number in 0..200u64 {
        let queue = if number % 50 == 7 { "sparse" } else { "busy" };
        publish(&engine, queue, &pattern(number, 1000));
    }
    drop(engine);
    let faults = FaultStorage::new(Arc::new(machine.disk.clone()));
    let engine = machine.open_through(Arc::new(faults.clone()), config).unwrap();
    let before = faults.calls(Call::Read);
    let consumer = consume(&engine, "sparse", 10);
    let deliveries = ready(&consumer);
    assert_eq!(offsets(&deliveries), [7, 57, 107, 157]);
    let reads = faults.calls(Call::Read) - before;
    assert!(reads <= 8, "{reads} reads for 4 messages");
}

#[test]
fn browsing_shows_all_that_is_stored_and_delivers_nothing() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 5);
    let consumer = consume(&engine, "jobs", 10);
    let mut held = ready(&consumer);
    held.remove(1).ack().unwrap().wait().unwrap();
    let shown: Vec<_> = engine.browse("jobs").unwrap().map(Result::unwrap).collect();
    let acked: Vec<bool> = shown.iter().map(|message| message.acked).collect();
    assert_eq!(acked, [false, true, false, false, false]);
    assert!(shown.iter().all(|message| message.routing_key == b"jobs"));
    drop(held);
    assert_eq!(texts(&ready(&consumer)), ["0", "2", "3", "4"]);
}
