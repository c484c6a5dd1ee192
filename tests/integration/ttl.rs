//! Messages whose time is over: never delivered, dropped from the head, with and without consumers.

use std::time::Duration;

use fanlog::{Engine, Message, QueueOptions};

use crate::support::{
    Machine, consume, next, nothing, publish, ready, settle, sound, texts, threaded, unacked, until,
};

fn ttl(seconds: u64) -> QueueOptions {
    QueueOptions { message_ttl: Some(Duration::from_secs(seconds)), ..QueueOptions::default() }
}

fn with_ttl(seconds: u64) -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue_with("q", &ttl(seconds)).unwrap();
    (machine, engine)
}

fn messages(engine: &Engine, queue: &str) -> u64 {
    engine.queue(queue).unwrap().messages
}

fn publish_for(engine: &Engine, queue: &str, payload: &[u8], seconds: u64) {
    let message = Message::new("", queue, payload).ttl(Duration::from_secs(seconds));
    engine.publisher().publish_confirmed(&message).unwrap();
}

/// Lets the background work, then writes the acks that it left.
fn pass(machine: &Machine, engine: &Engine, seconds: u64) {
    machine.clock.advance(Duration::from_secs(seconds));
    settle(engine);
    machine.clock.advance(Duration::from_millis(200));
    settle(engine);
}

#[test]
fn a_queues_ttl_is_over_to_the_millisecond_at_delivery() {
    let (machine, engine) = with_ttl(10);
    publish(&engine, "q", b"old");
    machine.clock.advance(Duration::from_secs(5));
    publish(&engine, "q", b"young");
    machine.clock.advance(Duration::from_millis(4999));
    let consumer = consume(&engine, "q", 1);
    let old = next(&consumer);
    assert_eq!(old.payload(), b"old");
    machine.clock.advance(Duration::from_millis(1));
    // It comes back past its time: it is not given out again.
    drop(old);
    assert_eq!(next(&consumer).payload(), b"young");
    assert_eq!(engine.stats().expired_messages, 1);
    settle(&engine);
    sound(&engine);
}

#[test]
fn what_a_consumer_holds_does_not_expire() {
    let (machine, engine) = with_ttl(10);
    publish(&engine, "q", b"a");
    let consumer = consume(&engine, "q", 1);
    let held = next(&consumer);
    pass(&machine, &engine, 60);
    assert_eq!(messages(&engine, "q"), 1);
    held.ack().unwrap().wait().unwrap();
    assert_eq!((messages(&engine, "q"), engine.stats().expired_messages), (0, 0));
    sound(&engine);
}

#[test]
fn the_background_drops_what_nobody_asks_for_and_gives_its_space_back() {
    let (machine, engine) = with_ttl(10);
    let payload = vec![1; 4000];
    for _ in 0..60 {
        engine.publisher().publish(&Message::new("", "q", &payload)).unwrap();
        settle(&engine);
    }
    assert!(engine.segments().len() > 3);
    pass(&machine, &engine, 9);
    assert_eq!(messages(&engine, "q"), 60);
    pass(&machine, &engine, 1);
    assert_eq!(messages(&engine, "q"), 0);
    assert_eq!(engine.stats().expired_messages, 60);
    sound(&engine);
    engine.reclaim(&mut |_| {}).unwrap();
    assert!(engine.segments().len() <= 2);
    sound(&machine.power_cut().open());
}

#[test]
fn a_message_brings_its_own_time_and_the_shorter_one_counts() {
    let (machine, engine) = with_ttl(10);
    engine.declare_queue("plain").unwrap();
    for queue in ["q", "plain"] {
        publish_for(&engine, queue, b"short", 5);
        publish_for(&engine, queue, b"long", 20);
        publish(&engine, queue, b"none");
    }
    machine.clock.advance(Duration::from_secs(5));
    assert_eq!(texts(&ready(&consume(&engine, "q", 9))), ["long", "none"]);
    assert_eq!(texts(&ready(&consume(&engine, "plain", 9))), ["long", "none"]);
    machine.clock.advance(Duration::from_secs(5));
    nothing(&consume(&engine, "q", 9));
    assert_eq!(texts(&ready(&consume(&engine, "plain", 9))), ["long", "none"]);
    machine.clock.advance(Duration::from_secs(10));
    assert_eq!(texts(&ready(&consume(&engine, "plain", 9))), ["none"]);
    settle(&engine);
    sound(&engine);
}

#[test]
fn a_queue_without_a_limit_is_looked_at_while_it_has_messages_with_a_time() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue("plain").unwrap();
    publish_for(&engine, "plain", b"a", 5);
    publish_for(&engine, "plain", b"b", 5);
    publish(&engine, "plain", b"c");
    pass(&machine, &engine, 4);
    assert_eq!(messages(&engine, "plain"), 3);
    pass(&machine, &engine, 2);
    assert_eq!(unacked(&engine, "plain"), ["c"]);
    sound(&engine);
}

#[test]
fn expired_messages_stay_away_after_a_crash_and_others_come_unflagged() {
    let (machine, engine) = with_ttl(10);
    publish(&engine, "q", b"old");
    machine.clock.advance(Duration::from_secs(9));
    publish(&engine, "q", b"young");
    machine.clock.advance(Duration::from_secs(1));
    settle(&engine);
    // The ack of the drop may be lost: the message is dropped again.
    for machine in [machine.power_cut(), machine.killed()] {
        let engine = machine.open();
        let consumer = consume(&engine, "q", 9);
        let delivery = next(&consumer);
        assert_eq!((delivery.payload(), delivery.redelivered()), (&b"young"[..], false));
        nothing(&consumer);
        settle(&engine);
        sound(&engine);
    }
}

#[test]
fn a_consumer_that_finds_thousands_expired_gets_the_first_that_is_not() {
    let (machine, engine) = with_ttl(10);
    let publisher = engine.publisher();
    for _ in 0..5000 {
        publisher.publish(&Message::new("", "q", b"old")).unwrap();
    }
    settle(&engine);
    machine.clock.advance(Duration::from_secs(10));
    publish(&engine, "q", b"young");
    assert_eq!(next(&consume(&engine, "q", 1)).payload(), b"young");
    machine.clock.advance(Duration::from_secs(1));
    settle(&engine);
    assert_eq!(messages(&engine, "q"), 1);
    sound(&engine);
}

#[test]
fn a_ttl_of_nothing_drops_everything_and_one_beyond_all_dates_drops_nothing() {
    let (machine, engine) = with_ttl(0);
    engine.declare_queue("plain").unwrap();
    publish(&engine, "q", b"a");
    let message = Message::new("", "plain", b"b").ttl(Duration::MAX);
    engine.publisher().publish_confirmed(&message).unwrap();
    nothing(&consume(&engine, "q", 1));
    pass(&machine, &engine, 1 << 30);
    assert_eq!(next(&consume(&engine, "plain", 1)).payload(), b"b");
    sound(&engine);
}

#[test]
fn a_purge_and_a_delete_leave_nothing_to_expire() {
    let (machine, engine) = with_ttl(10);
    publish(&engine, "q", b"a");
    machine.clock.advance(Duration::from_secs(9));
    publish(&engine, "q", b"b");
    machine.clock.advance(Duration::from_secs(1));
    settle(&engine);
    assert_eq!(engine.purge_queue("q").unwrap(), 1);
    pass(&machine, &engine, 100);
    assert_eq!((messages(&engine, "q"), engine.stats().expired_messages), (0, 1));
    publish(&engine, "q", b"c");
    engine.delete_queue("q").unwrap();
    pass(&machine, &engine, 100);
    assert_eq!(engine.stats().expired_messages, 1);
    sound(&engine);
}

/// What fell due stands before the others, so it is the head: its time, and theirs, is over all the
/// same.
#[test]
fn the_background_drops_what_fell_due_and_what_stands_behind_it() {
    let (machine, engine) = with_ttl(10);
    engine.declare_queue("plain").unwrap();
    for queue in ["q", "plain"] {
        let seconds = Duration::from_secs;
        let delayed = Message::new("", queue, b"delayed").delay(seconds(5)).ttl(seconds(1));
        engine.publisher().publish_confirmed(&delayed).unwrap();
        publish_for(&engine, queue, b"waits", 2);
    }
    // The cursor comes to both, and passes the first by.
    pass(&machine, &engine, 1);
    assert_eq!((messages(&engine, "q"), messages(&engine, "plain")), (2, 2));
    pass(&machine, &engine, 5);
    assert_eq!((messages(&engine, "q"), messages(&engine, "plain")), (0, 0));
    assert_eq!(engine.stats().expired_messages, 4);
    sound(&engine);
}

#[test]
fn the_background_drops_what_falls_due_before_others_that_nobody_took() {
    let (machine, engine) = with_ttl(1000);
    let seconds = Duration::from_secs;
    let expires = Message::new("", "q", b"expires").delay(seconds(9)).ttl(seconds(8));
    let stays = Message::new("", "q", b"stays").delay(seconds(5));
    for message in [expires, stays] {
        engine.publisher().publish_confirmed(&message).unwrap();
    }
    for (passed, left) in [(1, 2), (4, 2), (4, 1)] {
        pass(&machine, &engine, passed);
        assert_eq!(messages(&engine, "q"), left, "after {passed} seconds more");
    }
    assert_eq!(texts(&ready(&consume(&engine, "q", 9))), ["stays"]);
    sound(&engine);
}

#[test]
fn the_keeper_drops_by_itself() {
    let engine = threaded();
    let options =
        QueueOptions { message_ttl: Some(Duration::from_millis(20)), ..QueueOptions::default() };
    engine.declare_queue_with("q", &options).unwrap();
    publish(&engine, "q", b"a");
    until("the message is dropped", || messages(&engine, "q") == 0);
    sound(&engine);
}

#[test]
fn what_came_back_by_a_rewind_expires_in_a_queue_without_a_limit_too() {
    let machine = Machine::new();
    let engine = machine.open();
    let history = Some(fanlog::History::of_bytes(1 << 20));
    let options = fanlog::ExchangeOptions { history, ..fanlog::ExchangeOptions::default() };
    engine.declare_exchange_with("news", fanlog::ExchangeKind::Fanout, &options).unwrap();
    engine.declare_queue("plain").unwrap();
    engine.bind("plain", "news", "").unwrap();
    let message = Message::new("news", "", b"a").ttl(Duration::from_secs(9));
    engine.publisher().publish_confirmed(&message).unwrap();
    next(&consume(&engine, "plain", 1)).ack().unwrap().wait().unwrap();
    // Found empty, it is not looked at any more.
    pass(&machine, &engine, 1);
    assert_eq!(engine.rewind("plain", fanlog::StartAt::Earliest).unwrap().messages, 1);
    pass(&machine, &engine, 9);
    assert_eq!(messages(&engine, "plain"), 0);
    sound(&engine);
}

/// A queue `q` with options, whose dead letters come to `dead`.
fn with_dead(options: &QueueOptions) -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    let options = QueueOptions {
        dead_letter_exchange: Some(String::new()),
        dead_letter_key: Some("dead".to_owned()),
        ..options.clone()
    };
    engine.declare_queue_with("q", &options).unwrap();
    engine.declare_queue("dead").unwrap();
    (machine, engine)
}

#[test]
fn a_time_of_nothing_is_enough_for_whoever_waits_with_credit_and_for_nobody_else() {
    for options in [ttl(0), QueueOptions::default()] {
        let own = if options.message_ttl.is_some() { 1000 } else { 0 };
        let (machine, engine) = with_dead(&options);
        publish_for(&engine, "q", b"early", own);
        let consumer = consume(&engine, "q", 1);
        // It came when the message was there already.
        nothing(&consumer);
        publish_for(&engine, "q", b"waited for", own);
        publish_for(&engine, "q", b"no credit", own);
        let held = next(&consumer);
        assert_eq!(held.payload(), b"waited for");
        held.ack().unwrap().wait().unwrap();
        nothing(&consumer);
        publish_for(&engine, "q", b"again", own);
        pass(&machine, &engine, 2);
        let held = next(&consumer);
        assert_eq!(held.payload(), b"again");
        // What comes back was delivered once: its time is over.
        held.nack(true).unwrap();
        nothing(&consumer);
        pass(&machine, &engine, 1);
        assert_eq!(unacked(&engine, "dead"), ["early", "no credit", "again"]);
        assert_eq!(engine.stats().expired_messages, 3);
        sound(&engine);
    }
}

#[test]
fn a_time_of_nothing_is_over_where_nobody_consumes_also_for_a_get() {
    let (machine, engine) = with_dead(&ttl(0));
    publish(&engine, "q", b"a");
    assert!(engine.get("q").unwrap().is_none());
    publish(&engine, "q", b"b");
    pass(&machine, &engine, 1);
    assert_eq!(unacked(&engine, "dead"), ["a", "b"]);
    assert_eq!(messages(&engine, "q"), 0);
    sound(&engine);
}

/// As if it was sent to them when it came, which is what `RabbitMQ` does.
#[test]
fn what_a_slow_consumer_had_credit_for_is_its_own_and_the_rest_expires_behind_it() {
    let (machine, engine) = with_ttl(5);
    publish(&engine, "q", b"before");
    next(&consume(&engine, "q", 1)).ack().unwrap().wait().unwrap();
    let slow = consume(&engine, "q", 2);
    for text in ["0", "1", "2", "3"] {
        publish(&engine, "q", text.as_bytes());
    }
    pass(&machine, &engine, 60);
    pass(&machine, &engine, 1);
    let queue = engine.queue("q").unwrap();
    assert_eq!((queue.messages, queue.unacked), (2, 2));
    assert_eq!(texts(&ready(&slow)), ["0", "1"]);
    assert_eq!(engine.stats().expired_messages, 2);
    sound(&engine);
}

#[test]
fn only_the_active_one_waits_and_the_next_from_when_it_is() {
    let options = QueueOptions { single_active_consumer: true, ..ttl(0) };
    let (machine, engine) = with_dead(&options);
    let (first, second) = (consume(&engine, "q", 1), consume(&engine, "q", 1));
    publish(&engine, "q", b"a");
    let held = next(&first);
    publish(&engine, "q", b"b");
    held.ack().unwrap().wait().unwrap();
    drop(first);
    nothing(&second);
    publish(&engine, "q", b"c");
    assert_eq!(next(&second).payload(), b"c");
    pass(&machine, &engine, 1);
    assert_eq!(unacked(&engine, "dead"), ["b", "c"]);
    sound(&engine);
}

#[test]
fn a_delayed_message_is_waited_for_when_it_falls_due_in_its_time() {
    let (machine, engine) = with_dead(&ttl(0));
    let seconds = Duration::from_secs;
    let delayed = Message::new("", "q", b"due").delay(seconds(5));
    engine.publisher().publish_confirmed(&delayed).unwrap();
    engine.publisher().publish_confirmed(&delayed.ttl(seconds(4))).unwrap();
    machine.clock.advance(seconds(2));
    let consumer = consume(&engine, "q", 5);
    machine.clock.advance(seconds(4));
    // The other's own time was over before it was due.
    assert_eq!(texts(&ready(&consumer)), ["due"]);
    drop(consumer);
    engine.publisher().publish_confirmed(&delayed).unwrap();
    machine.clock.advance(seconds(6));
    nothing(&consume(&engine, "q", 5));
    pass(&machine, &engine, 1);
    assert_eq!(unacked(&engine, "dead"), ["due", "due", "due"]);
    sound(&engine);
}

#[test]
fn a_consumer_that_waits_gets_what_has_no_time_at_all() {
    let engine = threaded();
    engine.declare_queue_with("q", &ttl(0)).unwrap();
    std::thread::scope(|scope| {
        let consumer = consume(&engine, "q", 1);
        let waits = scope.spawn(move || {
            for _ in 0..100 {
                assert_eq!(consumer.recv().unwrap().payload(), b"a");
            }
        });
        // What is published while the last one is in hand is not waited for.
        while !waits.is_finished() {
            publish(&engine, "q", b"a");
        }
        waits.join().unwrap();
    });
    sound(&engine);
}

#[test]
fn what_ran_out_while_the_store_was_closed_is_dropped_though_nobody_consumes() {
    let machine = Machine::new();
    let engine = machine.open();
    for queue in ["expired", "later", "behind", "due", "none"] {
        engine.declare_queue(queue).unwrap();
    }
    publish_for(&engine, "expired", b"a", 5);
    publish_for(&engine, "expired", b"b", 6);
    publish(&engine, "expired", b"c");
    publish_for(&engine, "later", b"a", 50);
    publish(&engine, "behind", b"head");
    publish_for(&engine, "behind", b"a", 5);
    let seconds = Duration::from_secs;
    let due = Message::new("", "due", b"a").delay(seconds(40)).ttl(seconds(50));
    engine.publisher().publish_confirmed(&due).unwrap();
    publish(&engine, "none", b"a");
    let depths = |engine: &Engine| {
        ["expired", "later", "behind", "due", "none"].map(|queue| messages(engine, queue))
    };
    let machine = machine.power_cut();
    machine.clock.advance(seconds(10));
    let engine = machine.open();
    pass(&machine, &engine, 0);
    assert_eq!(depths(&engine), [1, 1, 2, 1, 1]);
    // Its head has no time: taken, the next is the head, and given back it is that again.
    let head = engine.get("behind").unwrap().unwrap();
    assert_eq!(head.payload(), b"head");
    pass(&machine, &engine, 1);
    assert_eq!(depths(&engine), [1, 1, 1, 1, 1]);
    drop(head);
    pass(&machine, &engine, 60);
    assert_eq!(depths(&engine), [1, 0, 1, 0, 1]);
    sound(&engine);
}

/// A piece of the queues at a time, and only those that were there.
#[test]
fn many_queues_are_looked_at_in_pieces_after_opening() {
    let machine = Machine::new();
    let engine = machine.open();
    let names: Vec<String> = (0..600).map(|queue| format!("q{queue}")).collect();
    let declares: Vec<_> = names.iter().map(|name| fanlog::Change::declare_queue(name)).collect();
    engine.change(&declares).unwrap();
    for name in &names {
        let message = Message::new("", name, b"a").ttl(Duration::from_secs(5));
        engine.publisher().publish(&message).unwrap();
    }
    settle(&engine);
    let machine = machine.power_cut();
    machine.clock.advance(Duration::from_secs(10));
    let engine = machine.open();
    let left = || names.iter().filter(|name| messages(&engine, name) > 0).count();
    let rounds = std::iter::repeat_with(|| {
        pass(&machine, &engine, 0);
        left()
    });
    let seen: Vec<usize> = rounds.take(4).collect();
    assert!(seen[0] > 0 && seen[3] == 0, "{seen:?}");
    sound(&engine);
}
