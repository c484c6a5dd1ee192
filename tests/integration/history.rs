//! Exchanges that keep what passes through them, and queues that begin in the past.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use fanlog::{
    Change, Delivery, Engine, Error, ExchangeKind, ExchangeOptions, History, Landed, Message,
    Offset, Overflow, QueueOptions, StartAt, Table, clock::Clock,
};

use crate::support::{
    self, Machine, consume, declared, next, nothing, offsets, ready, settle, sound, start, texts,
    threaded, unacked,
};

fn keeping(history: History) -> ExchangeOptions {
    ExchangeOptions { history: Some(history), ..ExchangeOptions::default() }
}

/// A machine with an exchange `news` that keeps much.
fn with_news(kind: ExchangeKind) -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    let options = keeping(History::of_bytes(1 << 30));
    engine.declare_exchange_with("news", kind, &options).unwrap();
    (machine, engine)
}

#[track_caller]
fn publish(engine: &Engine, key: &str, payload: &str) -> u64 {
    let message = Message::new("news", key, payload.as_bytes());
    engine.publisher().publish_confirmed(&message).unwrap().first_offset.0
}

#[track_caller]
fn bind_from(engine: &Engine, queue: &str, key: &str, at: StartAt) -> Landed {
    engine.bind_from(queue, "news", key, &Table::new(), at).unwrap()
}

/// Acks deliveries, durably.
#[track_caller]
fn ack(deliveries: impl IntoIterator<Item = Delivery>) {
    for delivery in deliveries {
        delivery.ack().unwrap().wait().unwrap();
    }
}

/// The queue's messages as text, without delivering them, and nothing is miscounted.
#[track_caller]
fn holds(engine: &Engine, queue: &str, expected: &[&str]) {
    assert_eq!(unacked(engine, queue), expected);
    let bytes: usize = expected.iter().map(|text| text.len()).sum();
    let view = engine.queue(queue).unwrap();
    assert_eq!((view.messages, view.bytes), (expected.len() as u64, bytes as u64));
    sound(engine);
}

#[test]
fn a_queue_bound_from_the_earliest_gets_what_was_published_before_it_was_there() {
    let (machine, engine) = with_news(ExchangeKind::Fanout);
    for text in ["a", "bb", "ccc"] {
        publish(&engine, "", text);
    }
    sound(&engine);
    engine.declare_queue("late").unwrap();
    let landed = bind_from(&engine, "late", "", StartAt::Earliest);
    assert_eq!(landed, Landed { offset: Offset(0), clamped: false, messages: 3 });
    publish(&engine, "", "dddd");
    holds(&engine, "late", &["a", "bb", "ccc", "dddd"]);

    let consumer = consume(&engine, "late", 10);
    let all = ready(&consumer);
    assert_eq!(texts(&all), ["a", "bb", "ccc", "dddd"]);
    assert!(all.iter().all(|delivery| !delivery.redelivered()));
    ack(all.into_iter().take(2));
    drop(consumer);
    holds(&engine, "late", &["ccc", "dddd"]);
    for machine in [machine.power_cut(), machine.killed()] {
        holds(&machine.open(), "late", &["ccc", "dddd"]);
    }
}

#[test]
fn what_is_published_to_an_exchange_with_a_history_alone_is_stored() {
    let (machine, engine) = with_news(ExchangeKind::Topic);
    let message = Message::new("news", "a.b", b"kept");
    engine.publisher().publish_confirmed(&message).unwrap();
    assert_eq!(engine.stats().unroutable_dropped, 0);
    drop(engine);
    let engine = machine.power_cut().open();
    engine.declare_queue("late").unwrap();
    bind_from(&engine, "late", "#", StartAt::Earliest);
    holds(&engine, "late", &["kept"]);
    // Nobody sees the queue that it is.
    let topology = engine.topology();
    assert_eq!(topology.queues.len(), 1);
    assert!(matches!(engine.queue("news"), Err(Error::NotFound { .. })));
    assert_eq!(declared(&engine)[0].options, keeping(History::of_bytes(1 << 30)));
}

#[test]
fn keys_from_the_past_are_matched_again() {
    for kind in [ExchangeKind::Direct, ExchangeKind::Topic] {
        let (_machine, engine) = with_news(kind);
        for (key, text) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("a", "5")] {
            publish(&engine, key, text);
        }
        engine.declare_queue("late").unwrap();
        assert_eq!(bind_from(&engine, "late", "a", StartAt::Earliest).messages, 3);
        holds(&engine, "late", &["1", "3", "5"]);
        // What another binding brought already does not come twice.
        publish(&engine, "a", "6");
        publish(&engine, "b", "7");
        assert_eq!(bind_from(&engine, "late", "b", StartAt::Earliest).messages, 2);
        holds(&engine, "late", &["1", "2", "3", "5", "6", "7"]);
        let consumer = consume(&engine, "late", 10);
        let all = ready(&consumer);
        assert_eq!(texts(&all), ["1", "2", "3", "5", "6", "7"]);
        ack(all);
        holds(&engine, "late", &[]);
        assert_eq!(bind_from(&engine, "late", "c", StartAt::Earliest).messages, 1);
        holds(&engine, "late", &["4"]);
    }
}

#[test]
fn headers_from_the_past_are_matched_again() {
    let (_machine, engine) = with_news(ExchangeKind::Headers);
    let headers = |colour: &str| Table::new().with("colour", colour);
    for (colour, text) in [("red", "1"), ("blue", "2"), ("red", "3")] {
        let headers = headers(colour);
        let message = Message::new("news", "", text.as_bytes()).headers(headers.as_bytes());
        engine.publisher().publish_confirmed(&message).unwrap();
    }
    engine.declare_queue("late").unwrap();
    let landed = engine.bind_from("late", "news", "", &headers("red"), StartAt::Earliest).unwrap();
    assert_eq!(landed.messages, 2);
    holds(&engine, "late", &["1", "3"]);
}

#[test]
fn a_queue_begins_at_an_offset_or_a_time() {
    let (machine, engine) = with_news(ExchangeKind::Fanout);
    let mut times = Vec::new();
    for text in ["a", "b", "c", "d"] {
        times.push(UNIX_EPOCH + Duration::from_micros(machine.clock.wall_us()));
        publish(&engine, "", text);
        machine.clock.advance(Duration::from_secs(10));
    }
    let begins = [
        (StartAt::Offset(Offset(2)), 2, false, &["c", "d"][..]),
        (StartAt::Offset(Offset(9)), 4, true, &[]),
        (StartAt::Time(times[1]), 1, false, &["b", "c", "d"]),
        (StartAt::Time(times[1] + Duration::from_secs(1)), 2, false, &["c", "d"]),
        (StartAt::Time(times[3] + Duration::from_secs(1)), 4, false, &[]),
        (StartAt::Latest, 4, false, &[]),
        (StartAt::Earliest, 0, false, &["a", "b", "c", "d"]),
    ];
    for (number, (at, offset, clamped, expected)) in begins.into_iter().enumerate() {
        let name = format!("late-{number}");
        engine.declare_queue(&name).unwrap();
        let landed = bind_from(&engine, &name, "", at);
        assert_eq!((landed.offset.0, landed.clamped), (offset, clamped), "{at:?}");
        holds(&engine, &name, expected);
    }
    publish(&engine, "", "e");
    holds(&engine, "late-5", &["e"]);
    holds(&engine, "late-0", &["c", "d", "e"]);
}

#[test]
fn a_history_keeps_no_more_bytes_than_it_is_to() {
    let machine = Machine::new();
    let engine = machine.open();
    engine
        .declare_exchange_with("news", ExchangeKind::Fanout, &keeping(History::of_bytes(3000)))
        .unwrap();
    let text = "x".repeat(1000);
    for _ in 0..200 {
        publish(&engine, "", &text);
        machine.clock.advance(Duration::from_millis(200));
        settle(&engine);
    }
    settle(&engine);
    sound(&engine);
    machine.clock.advance(Duration::from_secs(100));
    settle(&engine);
    let stats = engine.stats();
    assert!(stats.segments <= 3, "segments before it are given back: {}", stats.segments);
    assert_eq!(stats.overflowed_messages, 0, "no queue of anyone dropped anything");
    engine.declare_queue("late").unwrap();
    let landed = bind_from(&engine, "late", "", StartAt::Offset(Offset(5)));
    assert_eq!(landed, Landed { offset: Offset(197), clamped: true, messages: 3 });
    // It is the queue's own by now: the history may go on.
    for _ in 0..200 {
        publish(&engine, "", &text);
        machine.clock.advance(Duration::from_millis(200));
        settle(&engine);
    }
    assert_eq!(engine.queue("late").unwrap().messages, 203);
    sound(&engine);
    let engine = machine.power_cut().open();
    assert_eq!(engine.queue("late").unwrap().messages, 203);
    sound(&engine);
}

#[test]
fn what_is_far_beyond_the_limit_goes_by_whole_segments() {
    let machine = Machine::new();
    let engine = machine.open();
    let options = keeping(History::of_bytes(50_000));
    engine.declare_exchange_with("news", ExchangeKind::Fanout, &options).unwrap();
    let publisher = engine.publisher();
    let message = Message::new("news", "", &[7; 50]);
    for _ in 0..20 {
        let tickets = (0..1000).map(|_| publisher.publish(&message).unwrap());
        for ticket in tickets.collect::<Vec<_>>() {
            ticket.wait().unwrap();
        }
        settle(&engine);
    }
    // Message by message this were twenty rounds.
    for _ in 0..3 {
        machine.clock.advance(Duration::from_millis(200));
        settle(&engine);
    }
    sound(&engine);
    engine.declare_queue("late").unwrap();
    let landed = bind_from(&engine, "late", "", StartAt::Earliest);
    assert!((1000..2500).contains(&landed.messages), "{landed:?}");
    assert_eq!(landed.offset.0 + landed.messages, 20_000);
    sound(&engine);
    let engine = machine.power_cut().open();
    assert_eq!(engine.queue("late").unwrap().messages, landed.messages);
    sound(&engine);
}

#[test]
fn whoever_asks_what_keeps_the_disk_is_told_of_histories() {
    let (machine, engine) = with_news(ExchangeKind::Fanout);
    engine.declare_queue("jobs").unwrap();
    engine.bind("jobs", "news", "").unwrap();
    publish(&engine, "", "a");
    let consumer = consume(&engine, "jobs", 10);
    machine.clock.advance(Duration::from_mins(1));
    assert_eq!(engine.stats().oldest_unacked_age, Some(Duration::from_mins(1)));
    ack(ready(&consumer));
    let pins = engine.pins(10, 10).unwrap();
    let pin = &pins.segments[0].queues[0];
    assert_eq!((pin.queue.as_str(), pin.history, pin.messages), ("news", true, 1));
    machine.clock.advance(Duration::from_mins(1));
    publish(&engine, "", "b");
    ack(ready(&consumer));
    machine.clock.advance(Duration::from_mins(1));
    assert_eq!(engine.stats().oldest_unacked_age, None, "a history waits for nobody");
    engine.rewind("jobs", StartAt::Earliest).unwrap();
    machine.clock.advance(Duration::from_secs(2));
    let age = Duration::from_mins(3) + Duration::from_secs(2);
    assert_eq!(engine.stats().oldest_unacked_age, Some(age));
}

#[test]
fn a_history_keeps_messages_no_longer_than_it_is_to() {
    let machine = Machine::new();
    let engine = machine.open();
    let minute = Duration::from_mins(1);
    engine
        .declare_exchange_with("news", ExchangeKind::Fanout, &keeping(History::of_age(minute)))
        .unwrap();
    publish(&engine, "", "old");
    machine.clock.advance(Duration::from_secs(40));
    // Its time begins when it is published, whenever it falls due.
    let delayed = Message::new("news", "", b"delayed").delay(Duration::from_hours(1));
    engine.publisher().publish_confirmed(&delayed).unwrap();
    publish(&engine, "", "new");
    machine.clock.advance(Duration::from_secs(40));
    settle(&engine);
    engine.declare_queue("late").unwrap();
    let landed = bind_from(&engine, "late", "", StartAt::Offset(Offset(0)));
    assert_eq!(landed, Landed { offset: Offset(1), clamped: true, messages: 2 });
    holds(&engine, "late", &["delayed", "new"]);
    assert_eq!(engine.stats().expired_messages, 0, "no queue of anyone dropped anything");
    engine.declare_queue("later").unwrap();
    machine.clock.advance(Duration::from_secs(40));
    settle(&engine);
    assert_eq!(bind_from(&engine, "later", "", StartAt::Earliest).messages, 0);
    let consumer = consume(&engine, "late", 10);
    assert_eq!(texts(&ready(&consumer)), ["new"], "the other is not due");
    sound(&engine);
}

#[test]
fn a_rewound_queue_gets_again_what_it_acked() {
    let (machine, engine) = with_news(ExchangeKind::Topic);
    engine.declare_queue("jobs").unwrap();
    publish(&engine, "a.1", "before");
    engine.bind("jobs", "news", "a.*").unwrap();
    for (key, text) in [("a.1", "1"), ("b", "no"), ("a.2", "2"), ("a.3", "3"), ("a.4", "4")] {
        publish(&engine, key, text);
    }
    engine.publisher().publish_confirmed(&Message::new("", "jobs", b"own")).unwrap();
    let consumer = consume(&engine, "jobs", 10);
    let mut all = ready(&consumer);
    let last = all.pop().unwrap();
    let held = all.pop().unwrap();
    for delivery in all {
        drop(delivery.ack().unwrap());
    }
    last.ack().unwrap();
    let landed = engine.rewind("jobs", StartAt::Offset(Offset(3))).unwrap();
    assert_eq!(landed, Landed { offset: Offset(3), clamped: false, messages: 2 });
    // The own one came by no exchange that keeps any.
    holds(&engine, "jobs", &["2", "3", "4"]);
    assert!(matches!(held.ack(), Err(Error::UnknownTag { .. })), "it went back");
    let again = ready(&consumer);
    assert_eq!(texts(&again), ["2", "3", "4"]);
    assert!(again[2].redelivered(), "it was handed out, and not acked");
    ack(again);
    holds(&engine, "jobs", &[]);

    assert_eq!(engine.rewind("jobs", StartAt::Earliest).unwrap().messages, 5);
    holds(&engine, "jobs", &["before", "1", "2", "3", "4"]);
    let engine = machine.power_cut().open();
    holds(&engine, "jobs", &["before", "1", "2", "3", "4"]);
    let consumer = consume(&engine, "jobs", 10);
    let all = ready(&consumer);
    assert_eq!(offsets(&all), [0, 1, 3, 4, 5]);
    publish(&engine, "a.5", "5");
    let last = next(&consumer);
    assert_eq!(last.payload(), b"5");
    nothing(&consumer);
}

#[test]
fn a_queue_may_be_purged_or_deleted_after_it_was_rewound() {
    let (machine, engine) = with_news(ExchangeKind::Direct);
    engine.declare_queue("jobs").unwrap();
    engine.bind("jobs", "news", "a").unwrap();
    let large = "x".repeat(3000);
    for number in 0..100 {
        publish(&engine, if number % 3 == 0 { "a" } else { "b" }, &large);
    }
    settle(&engine);
    let ack_all = |engine: &Engine| {
        let consumer = consume(engine, "jobs", 1000);
        ack(ready(&consumer));
        drop(consumer);
        settle(engine);
    };
    ack_all(&engine);
    assert_eq!(engine.rewind("jobs", StartAt::Offset(Offset(30))).unwrap().messages, 24);
    sound(&engine);
    assert_eq!(engine.purge_queue("jobs").unwrap(), 24);
    settle(&engine);
    sound(&engine);
    assert_eq!(engine.rewind("jobs", StartAt::Earliest).unwrap().messages, 34);
    settle(&engine);
    sound(&engine);
    let engine = machine.power_cut().open();
    sound(&engine);
    engine.delete_queue("jobs").unwrap();
    settle(&engine);
    sound(&engine);
    engine.declare_queue("late").unwrap();
    bind_from(&engine, "late", "b", StartAt::Earliest);
    engine.delete_exchange("news").unwrap();
    settle(&engine);
    sound(&engine);
    assert_eq!(engine.queue("late").unwrap().messages, 66);
    let engine = machine.power_cut().open();
    sound(&engine);
}

#[test]
fn what_was_got_without_a_subscription_goes_back_too() {
    let (_machine, engine) = with_news(ExchangeKind::Fanout);
    engine.declare_queue("jobs").unwrap();
    engine.bind("jobs", "news", "").unwrap();
    publish(&engine, "", "a");
    publish(&engine, "", "b");
    let first = engine.get("jobs").unwrap().unwrap();
    ack(engine.get("jobs").unwrap());
    assert_eq!(engine.rewind("jobs", StartAt::Earliest).unwrap().messages, 1);
    assert!(matches!(first.ack(), Err(Error::UnknownTag { .. })));
    let again = engine.get("jobs").unwrap().unwrap();
    assert_eq!((again.payload(), again.redelivered()), (&b"a"[..], true));
    ack([again]);
    let again = engine.get("jobs").unwrap().unwrap();
    assert_eq!((again.payload(), engine.queue("jobs").unwrap().unacked), (&b"b"[..], 1));
    sound(&engine);
}

#[test]
fn what_comes_back_to_a_queue_that_refuses_counts_and_is_not_refused() {
    let (machine, engine) = with_news(ExchangeKind::Fanout);
    let options = QueueOptions {
        messages_max: Some(2),
        overflow: Overflow::RejectPublish,
        ..QueueOptions::default()
    };
    engine.declare_queue_with("jobs", &options).unwrap();
    engine.bind("jobs", "news", "").unwrap();
    for text in ["a", "b", "c"] {
        publish(&engine, "", text);
        let consumer = consume(&engine, "jobs", 10);
        ack(ready(&consumer));
    }
    assert_eq!(engine.rewind("jobs", StartAt::Earliest).unwrap().messages, 3);
    let full = |engine: &Engine| {
        let message = Message::new("", "jobs", b"d");
        let error = engine.publisher().publish_confirmed(&message).unwrap_err();
        assert!(matches!(error, Error::QueueFull { .. }), "{error:?}");
    };
    full(&engine);
    let engine = machine.power_cut().open();
    full(&engine);
    holds(&engine, "jobs", &["a", "b", "c"]);
    let consumer = consume(&engine, "jobs", 10);
    ack(ready(&consumer).into_iter().take(2));
    publish(&engine, "", "d");
    drop(consumer);
    holds(&engine, "jobs", &["c", "d"]);
}

#[test]
fn a_queue_with_priorities_is_rewound_in_each() {
    let (_machine, engine) = with_news(ExchangeKind::Fanout);
    let options = QueueOptions { priority_max: Some(5), ..QueueOptions::default() };
    engine.declare_queue_with("jobs", &options).unwrap();
    engine.bind("jobs", "news", "").unwrap();
    let publisher = engine.publisher();
    for (priority, text) in [(0, b"a"), (3, b"b"), (5, b"c"), (3, b"d")] {
        let message = Message { priority, ..Message::new("news", "", text) };
        publisher.publish_confirmed(&message).unwrap();
    }
    let consumer = consume(&engine, "jobs", 10);
    for _ in 0..2 {
        let all = ready(&consumer);
        assert_eq!(texts(&all), ["c", "b", "d", "a"]);
        ack(all.into_iter().skip(1));
        engine.rewind("jobs", StartAt::Earliest).unwrap();
        sound(&engine);
    }
}

#[test]
fn what_does_not_survive_a_restart_is_in_no_history_after_it() {
    let (machine, engine) = with_news(ExchangeKind::Fanout);
    let options = ExchangeOptions { durable: false, ..keeping(History::of_bytes(1 << 20)) };
    engine.declare_exchange_with("passing", ExchangeKind::Fanout, &options).unwrap();
    for (exchange, text) in [("news", "a"), ("passing", "b")] {
        let message = Message::new(exchange, "", text.as_bytes());
        engine.publisher().publish_confirmed(&message).unwrap();
    }
    let message = Message::new("news", "", b"transient").transient();
    engine.publisher().publish_confirmed(&message).unwrap();
    engine.declare_queue("late").unwrap();
    bind_from(&engine, "late", "", StartAt::Earliest);
    let none = Table::new();
    engine.bind_from("late", "passing", "", &none, StartAt::Earliest).unwrap();
    holds(&engine, "late", &["a", "b", "transient"]);
    let engine = machine.power_cut().open();
    assert_eq!(declared(&engine).len(), 1);
    holds(&engine, "late", &["a", "b"]);
    engine.declare_queue("later").unwrap();
    bind_from(&engine, "later", "", StartAt::Earliest);
    holds(&engine, "later", &["a"]);
}

#[test]
fn an_exchange_that_is_declared_anew_has_kept_nothing_yet() {
    let (machine, engine) = with_news(ExchangeKind::Fanout);
    publish(&engine, "", "a");
    engine.declare_queue("late").unwrap();
    bind_from(&engine, "late", "", StartAt::Earliest);
    engine.delete_exchange("news").unwrap();
    let options = keeping(History::of_bytes(1 << 20));
    let declare =
        Change::DeclareExchangeWith { name: "news", kind: ExchangeKind::Fanout, options: &options };
    // All or nothing: what was declared is taken back.
    let bind = Change::Bind { queue: "none", exchange: "news", routing_key: "" };
    assert!(matches!(engine.change(&[declare, bind]), Err(Error::NotFound { .. })));
    assert!(declared(&engine).is_empty());
    engine.change(&[declare]).unwrap();
    publish(&engine, "", "b");
    assert_eq!(bind_from(&engine, "late", "", StartAt::Earliest).messages, 1);
    holds(&engine, "late", &["a", "b"]);
    let engine = machine.power_cut().open();
    publish(&engine, "", "c");
    holds(&engine, "late", &["a", "b", "c"]);
    engine.declare_queue("later").unwrap();
    assert_eq!(bind_from(&engine, "later", "", StartAt::Earliest).messages, 2);
    engine.delete_exchange("news").unwrap();
    settle(&engine);
    holds(&engine, "later", &["b", "c"]);
}

#[test]
fn what_can_not_be_rewound_says_why_and_stays_as_it_is() {
    let (_machine, engine) = with_news(ExchangeKind::Fanout);
    engine.declare_exchange("plain", ExchangeKind::Fanout).unwrap();
    engine.declare_queue("jobs").unwrap();
    engine.bind("jobs", "plain", "").unwrap();
    let refused = |outcome: Result<Landed, Error>, what: &str| {
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
    };
    refused(engine.rewind("jobs", StartAt::Earliest), "keeps a history");
    let none = Table::new();
    refused(engine.bind_from("jobs", "plain", "", &none, StartAt::Earliest), "keeps no history");
    refused(engine.bind_from("jobs", "", "", &none, StartAt::Earliest), "default exchange");
    for (queue, exchange) in [("none", "news"), ("jobs", "none")] {
        let error = engine.bind_from(queue, exchange, "", &none, StartAt::Earliest).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    }
    let error = engine.rewind("none", StartAt::Earliest).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    let exclusive = engine.declare_exclusive_queue("mine", &QueueOptions::default()).unwrap();
    refused(engine.bind_from("mine", "news", "", &none, StartAt::Earliest), "exclusive");
    drop(exclusive);
    let neither = keeping(History::default());
    let zero = keeping(History::of_age(Duration::ZERO));
    let half = keeping(History::of_age(Duration::from_micros(1)));
    for options in [neither, zero, half] {
        let declared = engine.declare_exchange_with("other", ExchangeKind::Fanout, &options);
        let error = declared.unwrap_err();
        assert!(
            matches!(&error, Error::Argument { argument, .. } if argument == "x-history-max-age")
        );
    }
    let other = keeping(History::of_bytes(7));
    let error = engine.declare_exchange_with("news", ExchangeKind::Fanout, &other).unwrap_err();
    assert!(
        matches!(&error, Error::Mismatch { argument, .. } if argument == "x-history-max-bytes")
    );
    sound(&engine);
}

/// Publishers, consumers and transactions go on while queues are bound from the past and rewound: each
/// late queue gets each message once, and nothing is miscounted.
#[test]
fn late_bindings_and_rewinds_among_threads_miss_nothing_and_double_nothing() {
    const MESSAGES: u64 = 1500;
    let engine = threaded();
    let options = keeping(History::of_bytes(1 << 30));
    engine.declare_exchange_with("news", ExchangeKind::Topic, &options).unwrap();
    for name in ["jobs", "done"] {
        engine.declare_queue(name).unwrap();
    }
    engine.bind("jobs", "news", "#").unwrap();
    let publishers: Vec<_> = (0..3)
        .map(|number| {
            let engine = engine.clone();
            start(move || {
                let publisher = engine.publisher();
                let key = ["a.1", "a.2", "b"][number];
                for _ in 0..MESSAGES {
                    publisher.publish(&Message::new("news", key, b"text")).unwrap().wait().unwrap();
                }
            })
        })
        .collect();
    let over = Arc::new(AtomicBool::new(false));
    let consumers: Vec<_> = (0..2)
        .map(|number| {
            let (engine, over) = (engine.clone(), Arc::clone(&over));
            start(move || {
                let consumer = consume(&engine, "jobs", 50);
                while !over.load(Ordering::Acquire) {
                    let received = consumer.recv_timeout(Duration::from_millis(5)).unwrap();
                    let Some(delivery) = received else { continue };
                    let mut transaction = engine.begin();
                    let settled = if number == 0 {
                        delivery.ack().map(drop)
                    } else {
                        transaction.publish(&Message::new("", "done", b"")).unwrap();
                        let acked = transaction.ack(delivery);
                        acked.and_then(|()| transaction.commit().map(drop))
                    };
                    if let Err(error) = settled {
                        assert!(matches!(error, Error::UnknownTag { .. }), "{error:?}");
                    }
                }
            })
        })
        .collect();
    let mut late = Vec::new();
    while engine.stats().published_messages < 3 * MESSAGES && late.len() < 60 {
        let name = format!("late-{}", late.len());
        engine.declare_queue(&name).unwrap();
        engine.bind_from(&name, "news", "a.*", &Table::new(), StartAt::Earliest).unwrap();
        late.push(name);
        engine.rewind("jobs", StartAt::Earliest).unwrap();
    }
    publishers.into_iter().for_each(support::Started::join);
    assert!(!late.is_empty());
    over.store(true, Ordering::Release);
    consumers.into_iter().for_each(support::Started::join);
    engine.rewind("jobs", StartAt::Earliest).unwrap();
    assert_eq!(engine.queue("jobs").unwrap().messages, 3 * MESSAGES);
    for name in &late {
        assert_eq!(engine.queue(name).unwrap().messages, 2 * MESSAGES, "{name}");
        assert_eq!(unacked(&engine, name).len() as u64, 2 * MESSAGES, "{name}");
    }
    sound(&engine);
    let consumer = consume(&engine, "jobs", 0);
    let all = consumer.recv_batch(10_000, Duration::from_secs(1)).unwrap();
    assert!(!all.is_empty());
}
