//! Futures: on any runtime, woken when there is something, free to be dropped.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use fanlog::{Config, ErrorKind, Message, WhenFull};

use crate::support::{
    Machine, PATIENCE, Wakes, block_on, consume, next, nothing, publish, settle, start, stepped,
    text, threaded, unacked, until, with_jobs,
};

fn poll<F: Future>(future: &mut Pin<&mut F>, counter: &Arc<Wakes>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(counter));
    future.as_mut().poll(&mut Context::from_waker(&waker))
}

#[test]
fn a_confirm_can_be_awaited_without_any_runtime() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let publisher = engine.publisher();
    let confirm = block_on(async {
        let ticket = publisher.publish_async(&Message::new("", "jobs", b"a")).await?;
        ticket.confirmed().await
    });
    assert_eq!(confirm.unwrap().first_offset.0, 0);
}

#[test]
fn a_message_and_its_ack_can_be_awaited_without_any_runtime() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let consumer = consume(&engine, "jobs", 1);
    let receiving = start(move || {
        block_on(async {
            let delivery = consumer.recv_async().await.unwrap();
            let text = text(delivery.payload());
            delivery.ack().unwrap().durable().await.unwrap();
            text
        })
    });
    publish(&engine, "jobs", b"a");
    assert_eq!(receiving.join(), "a");
    assert_eq!(engine.queue("jobs").unwrap().messages, 0);
}

#[test]
fn a_future_is_pending_until_the_event_and_is_woken_by_it() {
    let (_machine, engine) = with_jobs();
    let consumer = consume(&engine, "jobs", 1);
    let (confirm_wakes, receive_wakes) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
    let ticket = engine.publisher().publish(&Message::new("", "jobs", b"a")).unwrap();
    let mut confirmed = pin!(ticket.confirmed());
    let mut received = pin!(consumer.recv_async());
    assert!(poll(&mut confirmed, &confirm_wakes).is_pending());
    assert!(poll(&mut received, &receive_wakes).is_pending());
    assert_eq!((confirm_wakes.count(), receive_wakes.count()), (0, 0));
    settle(&engine);
    assert!(confirm_wakes.count() > 0);
    assert!(matches!(poll(&mut confirmed, &confirm_wakes), Poll::Ready(Ok(_))));
    // It is woken for the message, then perhaps once more for the lease.
    for _ in 0..3 {
        assert!(receive_wakes.count() > 0);
        if let Poll::Ready(delivery) = poll(&mut received, &receive_wakes) {
            assert_eq!(delivery.unwrap().payload(), b"a");
            return;
        }
        settle(&engine);
    }
    panic!("the consumer's future did not become ready");
}

/// Polling runs in the executor's thread: it must not write to the disk.
#[test]
fn polling_never_commits() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"a");
    let consumer = consume(&engine, "jobs", 1);
    let delivery = next(&consumer);
    settle(&engine);
    let before = machine.disk.operation_count();
    let wakes = Arc::new(Wakes::default());
    let ticket = engine.publisher().publish(&Message::new("", "jobs", b"b")).unwrap();
    let mut confirmed = pin!(ticket.confirmed());
    let ack = delivery.ack().unwrap();
    let mut durable = pin!(ack.durable());
    for _ in 0..3 {
        assert!(poll(&mut confirmed, &wakes).is_pending());
        assert!(poll(&mut durable, &wakes).is_pending());
    }
    assert_eq!(machine.disk.operation_count(), before);
    settle(&engine);
    assert!(poll(&mut confirmed, &wakes).is_ready());
    assert!(poll(&mut durable, &wakes).is_ready());
}

#[test]
fn dropping_a_wait_for_a_confirm_gives_nothing_up() {
    let (machine, engine) = with_jobs();
    let wakes = Arc::new(Wakes::default());
    let ticket = engine.publisher().publish(&Message::new("", "jobs", b"a")).unwrap();
    for _ in 0..3 {
        assert!(poll(&mut pin!(ticket.confirmed()), &wakes).is_pending());
    }
    settle(&engine);
    assert_eq!(block_on(ticket.confirmed()).unwrap(), ticket.wait().unwrap());
    assert_eq!(unacked(&machine.power_cut().open(), "jobs"), ["a"]);
}

#[test]
fn dropping_a_receive_loses_no_message_and_no_wake_up() {
    let (_machine, engine) = with_jobs();
    let one = consume(&engine, "jobs", 1);
    let other = consume(&engine, "jobs", 1);
    let wakes = Arc::new(Wakes::default());
    assert!(poll(&mut pin!(one.recv_async()), &wakes).is_pending());
    for number in 0..10 {
        let mut waiting = pin!(other.recv_async());
        assert!(poll(&mut waiting, &wakes).is_pending());
        assert!(poll(&mut pin!(one.recv_async()), &wakes).is_pending());
        publish(&engine, "jobs", &[number]);
        settle(&engine);
        // Whoever was dealt it has it; the other has nothing.
        let first = one.recv_timeout(Duration::ZERO).unwrap();
        let second = other.recv_timeout(Duration::ZERO).unwrap();
        assert!(first.is_some() != second.is_some());
        let delivery = first.or(second).unwrap();
        assert_eq!(delivery.payload(), [number]);
        delivery.ack().unwrap();
    }
    nothing(&one);
}

#[test]
fn dropping_a_publish_that_waits_for_room_publishes_nothing() {
    let machine = Machine::new();
    let engine = machine.open_with(Config { when_full: WhenFull::Fail, ..stepped() });
    engine.declare_queue("jobs").unwrap();
    let publisher = engine.publisher();
    let payload = vec![0; 100_000];
    let message = Message::new("", "jobs", &payload);
    let mut placed = 0;
    while publisher.publish(&message).is_ok() {
        placed += 1;
    }
    let wakes = Arc::new(Wakes::default());
    let mut kept = Box::pin(publisher.publish_async(&message));
    {
        let mut dropped = pin!(publisher.publish_async(&message));
        assert!(poll(&mut dropped, &wakes).is_pending());
        assert!(poll(&mut kept.as_mut(), &wakes).is_pending());
    }
    assert_eq!(wakes.count(), 0);
    settle(&engine);
    assert!(wakes.count() > 0);
    assert_eq!(engine.stats().published_messages, placed);
    let Poll::Ready(ticket) = poll(&mut kept.as_mut(), &wakes) else { panic!() };
    assert_eq!(ticket.unwrap().wait().unwrap().first_offset.0, placed);
    assert_eq!(engine.queue("jobs").unwrap().messages, placed + 1);
}

#[test]
fn an_error_comes_through_a_publish_future_without_waiting() {
    let (_machine, engine) = with_jobs();
    let publisher = engine.publisher();
    let error = block_on(publisher.publish_async(&Message::new("", "nobody", b"x"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
}

#[test]
fn thousands_of_waits_in_one_thread_all_end() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let publisher = engine.publisher();
    let tickets: Vec<_> = (0..3000)
        .map(|_| publisher.publish(&Message::new("", "jobs", &[0; 100])).unwrap())
        .collect();
    let mut waits: Vec<_> = tickets.iter().map(|ticket| Box::pin(ticket.confirmed())).collect();
    let wakes = Arc::new(Wakes::default());
    until("all are confirmed", || {
        waits.retain_mut(|wait| poll(&mut wait.as_mut(), &wakes).is_pending());
        waits.is_empty()
    });
}

#[test]
fn futures_can_move_between_threads() {
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let publisher = engine.publisher();
    let message = Message::new("", "jobs", b"a");
    let ticket = block_on(sendable(publisher.publish_async(&message))).unwrap();
    block_on(sendable(ticket.confirmed())).unwrap();
    let consumer = consume(&engine, "jobs", 1);
    let delivery = block_on(sendable(consumer.recv_async())).unwrap();
    block_on(sendable(delivery.ack().unwrap().durable())).unwrap();
    assert!(engine.close(PATIENCE).unwrap().unconfirmed == 0);
    assert!(consumer.recv_timeout(Duration::ZERO).is_err());
}

#[test]
fn a_dropped_receive_takes_no_wake_up_from_another_consumer() {
    let (_machine, engine) = with_jobs();
    let (first, second) = (consume(&engine, "jobs", 1), consume(&engine, "jobs", 1));
    publish(&engine, "jobs", b"held");
    let held = next(&first);
    let wakes = Arc::new(Wakes::default());
    {
        // It has no credit, waits all the same, and is given up before anything comes.
        let mut dropped = pin!(first.recv_async());
        assert!(poll(&mut dropped, &Arc::new(Wakes::default())).is_pending());
    }
    let mut received = pin!(second.recv_async());
    assert!(poll(&mut received, &wakes).is_pending());
    publish(&engine, "jobs", b"for the other");
    assert!(wakes.count() > 0, "the consumer with credit slept on");
    let Poll::Ready(delivery) = poll(&mut received, &wakes) else { panic!("nothing came") };
    assert_eq!(delivery.unwrap().payload(), b"for the other");
    drop(held);
}

#[test]
fn a_wake_up_given_to_a_receive_that_is_then_dropped_is_passed_on() {
    let (_machine, engine) = with_jobs();
    let (first, second) = (consume(&engine, "jobs", 1), consume(&engine, "jobs", 1));
    publish(&engine, "jobs", b"held");
    let held = next(&first);
    let (early, late) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
    let mut received = pin!(second.recv_async());
    {
        let mut dropped = pin!(first.recv_async());
        assert!(poll(&mut dropped, &early).is_pending());
        assert!(poll(&mut received, &late).is_pending());
        publish(&engine, "jobs", b"for the other");
    }
    assert!(late.count() > 0, "whoever was woken took the wake-up along");
    drop(held);
}
