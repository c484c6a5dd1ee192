//! Acks: what is durable when, and what a wrong one leaves alone.

use std::time::Duration;

use fanlog::{
    DeliveryTag, Engine, Error, ExchangeKind, Message, QueueView, storage::OperationKind,
};

use crate::support::{
    Machine, consume, next, nothing, offsets, publish, publish_numbers, ready, settle, sound,
    stepped, texts, unacked, with_jobs,
};

fn view(engine: &Engine) -> QueueView {
    engine.queue("jobs").unwrap()
}

#[test]
fn an_ack_that_was_waited_for_survives_a_power_cut() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 3);
    let consumer = consume(&engine, "jobs", 10);
    let mut held = ready(&consumer);
    held.remove(1).ack().unwrap().wait().unwrap();
    let again = machine.power_cut().open();
    assert_eq!(texts(&ready(&consume(&again, "jobs", 10))), ["0", "2"]);
    assert_eq!(again.queue("jobs").unwrap().messages, 2);
    sound(&again);
}

#[test]
fn an_ack_that_nobody_waits_for_is_written_after_the_stated_time() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"a");
    let consumer = consume(&engine, "jobs", 10);
    next(&consumer).ack().unwrap();
    settle(&engine);
    machine.clock.advance(Duration::from_millis(99));
    settle(&engine);
    let lost = machine.killed().open();
    assert!(next(&consume(&lost, "jobs", 1)).redelivered());
    machine.clock.advance(Duration::from_millis(1));
    settle(&engine);
    nothing(&consume(&machine.killed().open(), "jobs", 1));
    assert_eq!(view(&engine).messages, 0);
}

#[test]
fn an_ack_rides_along_with_the_next_publish_and_costs_no_sync_of_its_own() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"a");
    let consumer = consume(&engine, "jobs", 10);
    let delivery = next(&consumer);
    settle(&engine);
    let before = engine.stats();
    let ack = delivery.ack().unwrap();
    publish(&engine, "jobs", b"b");
    ack.wait().unwrap();
    let after = engine.stats();
    assert_eq!((after.syncs - before.syncs, after.batches - before.batches), (1, 1));
    assert_eq!(unacked(&machine.power_cut().open(), "jobs"), ["b"]);
}

#[test]
fn an_ack_can_be_waited_for_again_and_in_copies() {
    let (_machine, engine) = with_jobs();
    publish(&engine, "jobs", b"a");
    let consumer = consume(&engine, "jobs", 10);
    let ack = next(&consumer).ack().unwrap();
    let copy = ack.clone();
    ack.wait().unwrap();
    ack.wait_timeout(Duration::ZERO).unwrap();
    copy.wait().unwrap();
}

#[test]
fn an_ack_through_a_consumer_that_is_gone_says_so_and_the_message_comes_again() {
    let (_machine, engine) = with_jobs();
    publish(&engine, "jobs", b"a");
    let consumer = consume(&engine, "jobs", 10);
    let delivery = next(&consumer);
    drop(consumer);
    assert!(matches!(delivery.ack(), Err(Error::Closed)));
    let other = consume(&engine, "jobs", 10);
    assert!(next(&other).redelivered());
}

#[test]
fn an_ack_outlives_its_consumer() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"a");
    let consumer = consume(&engine, "jobs", 10);
    let ack = next(&consumer).ack().unwrap();
    drop(consumer);
    ack.wait().unwrap();
    assert!(unacked(&machine.power_cut().open(), "jobs").is_empty());
}

#[test]
fn acking_multiple_settles_all_up_to_the_tag_and_nothing_of_other_consumers() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 8);
    let one = consume(&engine, "jobs", 10);
    let two = consume(&engine, "jobs", 10);
    let tags: Vec<DeliveryTag> = ready(&one).into_iter().map(fanlog::Delivery::keep).collect();
    let others = ready(&two);
    assert_eq!(offsets(&others), [1, 3, 5, 7]);
    one.ack_multiple(tags[2]).unwrap().wait().unwrap();
    assert_eq!(unacked(&engine, "jobs"), ["1", "3", "5", "6", "7"]);
    assert_eq!(view(&engine).unacked, 5);
    one.ack(tags[3]).unwrap().wait().unwrap();
    assert_eq!(unacked(&machine.power_cut().open(), "jobs"), ["1", "3", "5", "7"]);
}

#[test]
fn acking_multiple_passes_over_what_was_settled_before() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 5);
    let consumer = consume(&engine, "jobs", 10);
    let tags: Vec<DeliveryTag> = ready(&consumer).into_iter().map(fanlog::Delivery::keep).collect();
    consumer.ack(tags[1]).unwrap();
    consumer.nack(tags[0], false).unwrap();
    consumer.ack_multiple(tags[3]).unwrap().wait().unwrap();
    assert_eq!(view(&engine).messages, 1);
    assert_eq!(unacked(&engine, "jobs"), ["4"]);
    sound(&engine);
}

#[test]
fn an_unknown_tag_is_an_error_that_changes_nothing() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 3);
    let consumer = consume(&engine, "jobs", 2);
    let held = ready(&consumer);
    settle(&engine);
    let before = view(&engine);
    for tag in [0, 3, 4, 1 << 40, u64::MAX - 1, u64::MAX] {
        let tag = DeliveryTag(tag);
        for error in [
            consumer.ack(tag).unwrap_err(),
            consumer.ack_multiple(tag).unwrap_err(),
            consumer.nack(tag, true).unwrap_err(),
            consumer.nack(tag, false).unwrap_err(),
        ] {
            let Error::UnknownTag { consumer: named, tag: found } = error else { panic!() };
            assert_eq!((&*named, found), (consumer.tag(), tag.0));
        }
    }
    settle(&engine);
    assert_eq!(view(&engine), before);
    assert_eq!(offsets(&held), [0, 1]);
    for delivery in held {
        delivery.ack().unwrap();
    }
    assert_eq!(offsets(&ready(&consumer)), [2]);
}

#[test]
fn settling_twice_is_an_error_that_changes_nothing() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 4);
    let consumer = consume(&engine, "jobs", 10);
    let tags: Vec<DeliveryTag> = ready(&consumer).into_iter().map(fanlog::Delivery::keep).collect();
    consumer.ack(tags[0]).unwrap().wait().unwrap();
    consumer.ack(tags[2]).unwrap().wait().unwrap();
    let before = view(&engine);
    for tag in [tags[0], tags[2]] {
        for error in [
            consumer.ack(tag).unwrap_err(),
            consumer.nack(tag, true).unwrap_err(),
            consumer.nack(tag, false).unwrap_err(),
        ] {
            assert!(matches!(error, Error::UnknownTag { .. }), "{error}");
        }
    }
    // Tag 1 and all before it are settled.
    assert!(matches!(consumer.ack_multiple(tags[0]), Err(Error::UnknownTag { .. })));
    assert_eq!(view(&engine), before);
    assert_eq!(unacked(&machine.power_cut().open(), "jobs"), ["1", "3"]);
    sound(&engine);
}

#[test]
fn a_message_acked_twice_over_a_redelivery_counts_once() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 2);
    let consumer = consume(&engine, "jobs", 10);
    next(&consumer).ack().unwrap();
    // Lost with the process; acked again, by way of a redelivery, after it.
    let again = machine.killed().open();
    let consumer = consume(&again, "jobs", 10);
    for delivery in ready(&consumer) {
        delivery.ack().unwrap().wait().unwrap();
    }
    assert_eq!((view(&again).messages, view(&again).bytes), (0, 0));
    sound(&again);
}

#[test]
fn a_nack_without_requeue_puts_the_message_away_like_an_ack() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 5);
    let consumer = consume(&engine, "jobs", 10);
    let mut held = ready(&consumer);
    held.remove(0).nack(false).unwrap();
    let tag = held.remove(0).keep();
    consumer.nack(tag, false).unwrap();
    drop(held);
    let batch = consumer.recv_batch(2, Duration::ZERO).unwrap();
    batch.nack(false).unwrap();
    machine.clock.advance(Duration::from_millis(100));
    settle(&engine);
    assert_eq!(unacked(&engine, "jobs"), ["4"]);
    assert_eq!(unacked(&machine.killed().open(), "jobs"), ["4"]);
}

#[test]
fn a_batch_is_acked_as_one_also_where_parts_were_settled_by_tag() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 10);
    let consumer = consume(&engine, "jobs", 10);
    let batch = consumer.recv_batch(5, Duration::ZERO).unwrap();
    let tags: Vec<DeliveryTag> = batch.iter().map(|delivery| delivery.tag()).collect();
    consumer.ack(tags[1]).unwrap();
    consumer.nack(tags[3], false).unwrap();
    batch.ack().unwrap().wait().unwrap();
    assert_eq!(view(&engine).messages, 5);
    let rest = consumer.recv_batch(5, Duration::ZERO).unwrap();
    consumer.ack_multiple(rest.iter().last().unwrap().tag()).unwrap().wait().unwrap();
    assert!(matches!(rest.ack(), Err(Error::UnknownTag { .. })));
    assert_eq!(view(&engine).messages, 0);
    assert!(unacked(&machine.power_cut().open(), "jobs").is_empty());
    sound(&engine);
}

#[test]
fn messages_acked_in_any_order_leave_exactly_the_others() {
    let (machine, engine) = with_jobs();
    let total = 9000u64;
    publish_numbers(&engine, "jobs", usize::try_from(total).unwrap());
    let consumer = consume(&engine, "jobs", 0);
    let mut tags = Vec::new();
    while tags.len() < 9000 {
        tags.extend(consumer.recv_batch(5000, Duration::ZERO).unwrap().keep());
    }
    // 7 and 9,000 have no common divisor: every one is met once, in a scattered order.
    for step in 0..total {
        let at = usize::try_from(step * 7 % total).unwrap();
        if at % 3 != 1 {
            consumer.ack(tags[at]).unwrap();
        }
    }
    consumer.ack(tags[1]).unwrap().wait().unwrap();
    let expected: Vec<String> =
        (0..total).filter(|at| at % 3 == 1 && *at != 1).map(|at| at.to_string()).collect();
    assert_eq!(unacked(&engine, "jobs"), expected);
    let again = machine.power_cut().open();
    assert_eq!(unacked(&again, "jobs"), expected);
    assert_eq!(again.queue("jobs").unwrap().messages, expected.len() as u64);
    assert_eq!(again.queue("jobs").unwrap().ack_floor.0, 4);
    sound(&again);
    drop(engine);
    let clean = machine.open();
    let found = ready(&consume(&clean, "jobs", 0));
    assert_eq!(texts(&found), expected);
}

#[test]
fn acks_of_one_queue_touch_no_other() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("results", ExchangeKind::Fanout).unwrap();
    for queue in ["jobs", "other"] {
        engine.declare_queue(queue).unwrap();
        engine.bind(queue, "results", "").unwrap();
    }
    for text in ["a", "b", "c"] {
        let message = Message::new("results", "", text.as_bytes());
        engine.publisher().publish_confirmed(&message).unwrap();
    }
    let consumer = consume(&engine, "jobs", 10);
    let held = consumer.recv_batch(2, Duration::ZERO).unwrap();
    held.ack().unwrap().wait().unwrap();
    let again = machine.power_cut().open();
    assert_eq!(unacked(&again, "jobs"), ["c"]);
    assert_eq!(unacked(&again, "other"), ["a", "b", "c"]);
}

#[test]
fn closing_writes_acks_that_nobody_waited_for() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 3);
    let consumer = consume(&engine, "jobs", 10);
    next(&consumer).ack().unwrap();
    engine.close(Duration::ZERO).unwrap();
    assert_eq!(unacked(&machine.power_cut().open(), "jobs"), ["1", "2"]);
}

#[test]
fn acks_for_a_deleted_queue_harm_nobody() {
    let (machine, engine) = with_jobs();
    engine.declare_queue("other").unwrap();
    publish_numbers(&engine, "jobs", 3);
    let consumer = consume(&engine, "jobs", 10);
    let mut held = ready(&consumer);
    let early = held.remove(0).ack().unwrap();
    engine.delete_queue("jobs").unwrap();
    early.wait().unwrap();
    held.remove(0).ack().unwrap().wait().unwrap();
    held.remove(0).nack(true).unwrap();
    drop(consumer);
    publish(&engine, "other", b"a");
    let again = machine.power_cut().open();
    assert_eq!(unacked(&again, "other"), ["a"]);
    sound(&again);
}

#[test]
fn acks_go_into_the_log_behind_what_they_name() {
    let (machine, engine) = with_jobs();
    let before = machine.disk.operation_count();
    publish(&engine, "jobs", b"a");
    let consumer = consume(&engine, "jobs", 1);
    next(&consumer).ack().unwrap().wait().unwrap();
    let operations = machine.disk.operations();
    let writes = operations.iter().skip(usize::try_from(before).unwrap());
    let written: Vec<_> = writes
        .filter(|one| matches!(one.kind, OperationKind::Write | OperationKind::WriteData))
        .collect();
    // One file, and every write behind the one before.
    assert!(written.iter().all(|one| one.name == written[0].name));
    assert!(written.windows(2).all(|pair| pair[0].position < pair[1].position));
}

#[test]
fn depth_counts_messages_and_bytes_that_are_not_durably_acked() {
    let (machine, engine) = with_jobs();
    for text in ["1", "22", "333"] {
        publish(&engine, "jobs", text.as_bytes());
    }
    assert_eq!((view(&engine).messages, view(&engine).bytes, view(&engine).ready), (3, 6, 3));
    let consumer = consume(&engine, "jobs", 1);
    let ack = next(&consumer).ack().unwrap();
    assert_eq!((view(&engine).messages, view(&engine).ready, view(&engine).unacked), (3, 2, 0));
    ack.wait().unwrap();
    assert_eq!((view(&engine).messages, view(&engine).bytes), (2, 5));
    let _held = next(&consumer);
    assert_eq!((view(&engine).ready, view(&engine).unacked), (1, 1));
    let again = machine.power_cut().open_with(stepped());
    assert_eq!((view(&again).messages, view(&again).bytes, view(&again).ready), (2, 5, 2));
}
