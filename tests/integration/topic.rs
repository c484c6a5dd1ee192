//! Topic exchanges, and messages that match several bindings of one queue.

use fanlog::{Change, Engine, ErrorKind, ExchangeKind, Message};

use crate::support::{
    Machine, PATIENCE, consume, is_checkpoint, offsets, publish, ready, settle, sound, stepped,
    unacked,
};

fn with_topic(bindings: &[(&str, &str)]) -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("log", ExchangeKind::Topic).unwrap();
    for (queue, pattern) in bindings {
        engine.declare_queue(queue).unwrap();
        engine.bind(queue, "log", pattern).unwrap();
    }
    (machine, engine)
}

#[track_caller]
fn send(engine: &Engine, key: &str) {
    engine.publisher().publish_confirmed(&Message::new("log", key, key.as_bytes())).unwrap();
}

#[test]
fn a_topic_exchange_gives_a_message_to_queues_whose_pattern_matches_its_key() {
    let patterns = [
        ("all", "#"),
        ("errors", "*.error"),
        ("kernel", "kern.#"),
        ("middle", "kern.#.disk"),
        ("one", "*"),
        ("exact", "kern.error"),
    ];
    let (machine, engine) = with_topic(&patterns);
    for key in ["kern.error", "kern", "app.error", "kern.io.slow.disk", "kern.disk", "", "a."] {
        send(&engine, key);
    }
    let compare = |engine: &Engine| {
        assert_eq!(unacked(engine, "all").len(), 7);
        assert_eq!(unacked(engine, "errors"), ["kern.error", "app.error"]);
        let kernel = ["kern.error", "kern", "kern.io.slow.disk", "kern.disk"];
        assert_eq!(unacked(engine, "kernel"), kernel);
        assert_eq!(unacked(engine, "middle"), ["kern.io.slow.disk", "kern.disk"]);
        assert_eq!(unacked(engine, "one"), ["kern"]);
        assert_eq!(unacked(engine, "exact"), ["kern.error"]);
        sound(engine);
    };
    compare(&engine);
    let again = machine.power_cut().open();
    compare(&again);
    assert_eq!(again.topology().bindings, engine.topology().bindings);
    send(&again, "kern.disk");
    assert_eq!(unacked(&again, "middle").len(), 3);
}

#[test]
fn a_key_that_no_pattern_matches_is_unroutable() {
    let (_machine, engine) = with_topic(&[("q", "a.*")]);
    for key in ["a", "a.b.c", "b.a", ""] {
        let error = engine.publisher().publish(&Message::new("log", key, b"x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unroutable);
    }
    engine.unbind("q", "log", "a.*").unwrap();
    let error = engine.publisher().publish(&Message::new("log", "a.b", b"x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
}

#[test]
fn a_queue_gets_a_message_once_however_many_of_its_patterns_match() {
    let patterns = ["#", "a.#", "*.b", "a.b", "a.*"].map(|pattern| ("q", pattern));
    let (machine, engine) = with_topic(&patterns);
    engine.declare_queue("p").unwrap();
    engine.bind("p", "log", "a.#").unwrap();
    for key in ["a.b", "a.c", "x", "a.b"] {
        send(&engine, key);
    }
    let compare = |engine: &Engine| {
        assert_eq!(unacked(engine, "q"), ["a.b", "a.c", "x", "a.b"]);
        assert_eq!(engine.queue("q").unwrap().messages, 4);
        assert_eq!(engine.queue("p").unwrap().messages, 3);
        assert_eq!(offsets(&ready(&consume(engine, "q", 10))), [0, 1, 2, 3]);
        sound(engine);
    };
    compare(&engine);
    compare(&machine.power_cut().open());
    engine.checkpoint().unwrap();
    compare(&machine.power_cut().open());
}

/// A queue joins and leaves one rule of a route while it is in another: depth and outstanding counts
/// have to be right at each step, and after each way of opening again.
#[test]
fn joining_and_leaving_a_second_rule_of_a_route_gives_and_takes_nothing() {
    let (machine, engine) = with_topic(&[("q", "a.#"), ("p", "#")]);
    let mut sent = 0;
    let mut check = |engine: &Engine, expected: u64| {
        send(engine, "a.b");
        sent += 1;
        assert_eq!(engine.queue("q").unwrap().messages, expected);
        assert_eq!(engine.queue("p").unwrap().messages, sent);
        sound(engine);
        let again = machine.power_cut().open();
        assert_eq!(again.queue("q").unwrap().messages, expected);
        sound(&again);
    };
    check(&engine, 1);
    engine.bind("q", "log", "#").unwrap();
    check(&engine, 2);
    engine.bind("q", "log", "a.b").unwrap();
    check(&engine, 3);
    engine.unbind("q", "log", "a.#").unwrap();
    check(&engine, 4);
    engine.checkpoint().unwrap();
    engine.unbind("q", "log", "a.b").unwrap();
    check(&engine, 5);
    engine.unbind("q", "log", "#").unwrap();
    // It is in none of them now.
    check(&engine, 5);
    engine.bind("q", "log", "a.b").unwrap();
    check(&engine, 6);
    let consumer = consume(&engine, "q", 10);
    let got = ready(&consumer);
    assert_eq!(offsets(&got), [0, 1, 2, 3, 4, 6]);
    for delivery in got {
        delivery.ack().unwrap().wait().unwrap();
    }
    assert_eq!(engine.queue("q").unwrap().messages, 0);
    sound(&engine);
    let again = machine.power_cut().open();
    assert_eq!(again.queue("q").unwrap().messages, 0);
    sound(&again);
}

#[test]
fn a_route_of_many_rules_survives_that_its_segments_are_sealed_and_given_back() {
    let patterns = ["#", "a.#", "*.b"].map(|pattern| ("q", pattern));
    let (machine, engine) = with_topic(&patterns);
    engine.declare_queue("slow").unwrap();
    engine.bind("slow", "log", "a.b").unwrap();
    let payload = vec![7; 8 << 10];
    for at in 0..40 {
        let key = ["a.b", "a.c", "z"][at % 3];
        engine.publisher().publish_confirmed(&Message::new("log", key, &payload)).unwrap();
    }
    let consumer = consume(&engine, "q", 100);
    for delivery in ready(&consumer) {
        delivery.ack().unwrap().wait().unwrap();
    }
    settle(&engine);
    engine.checkpoint().unwrap();
    settle(&engine);
    engine.checkpoint().unwrap();
    settle(&engine);
    sound(&engine);
    assert_eq!(engine.queue("slow").unwrap().messages, 14);
    let again = machine.power_cut().open();
    sound(&again);
    assert_eq!(again.queue("slow").unwrap().messages, 14);
    assert_eq!(again.queue("q").unwrap().messages, 0);
}

#[test]
fn queues_come_and_go_by_patterns_of_their_own_and_nothing_of_them_stays() {
    let (machine, engine) = with_topic(&[("all", "#")]);
    for round in 0..300 {
        let name = format!("reply {round}");
        let key = format!("reply.{round}");
        engine
            .change(&[
                Change::declare_queue(&name),
                Change::Bind { queue: &name, exchange: "log", routing_key: &key },
            ])
            .unwrap();
        send(&engine, &key);
        assert_eq!(unacked(&engine, &name), [&*key]);
        engine.delete_queue(&name).unwrap();
    }
    let consumer = consume(&engine, "all", 1000);
    for delivery in ready(&consumer) {
        drop(delivery.ack().unwrap());
    }
    drop(consumer);
    settle(&engine);
    sound(&engine);
    assert_eq!(engine.topology().bindings.len(), 1);
    for _ in 0..3 {
        engine.checkpoint().unwrap();
    }
    let newest = machine.files().into_iter().rfind(|(name, _)| is_checkpoint(name));
    let bytes = newest.unwrap().1;
    let rule = b"reply.1";
    assert!(!bytes.windows(rule.len()).any(|window| window == rule), "a rule that is gone is kept");
}

#[test]
fn more_keys_than_a_publisher_remembers_are_routed_alike() {
    let (_machine, engine) = with_topic(&[("even", "*.0.#"), ("odd", "*.1.#"), ("all", "#")]);
    let publisher = engine.publisher();
    for round in 0..3 {
        for at in 0..500 {
            let key = format!("k{at}.{}", at % 2);
            publisher.publish(&Message::new("log", &key, b"x")).unwrap();
        }
        if round == 1 {
            engine.bind("odd", "log", "*.0").unwrap();
        }
    }
    settle(&engine);
    let depth = |queue| engine.queue(queue).unwrap().messages;
    assert_eq!((depth("even"), depth("odd"), depth("all")), (750, 1000, 1500));
    sound(&engine);
}

#[test]
fn a_sleeping_consumer_is_woken_by_whichever_of_its_patterns_matches() {
    let engine = crate::support::threaded();
    engine.declare_exchange("log", ExchangeKind::Topic).unwrap();
    engine.declare_queue("q").unwrap();
    for pattern in ["a.*", "*.b", "c.#"] {
        engine.bind("q", "log", pattern).unwrap();
    }
    let consumer = consume(&engine, "q", 10);
    for key in ["a.x", "a.b", "x.b", "c", "c.d.e"] {
        send(&engine, key);
        let delivery = consumer.recv_timeout(PATIENCE).unwrap().expect("it is woken");
        assert_eq!(delivery.payload(), key.as_bytes());
        delivery.ack().unwrap().wait().unwrap();
    }
    assert_eq!(engine.queue("q").unwrap().messages, 0);
    sound(&engine);
}

#[test]
fn a_topic_exchange_comes_back_from_a_backlog_larger_than_the_window() {
    let machine = Machine::new();
    let engine = machine.open_with(stepped());
    engine.declare_exchange("log", ExchangeKind::Topic).unwrap();
    engine.declare_queue("q").unwrap();
    engine.bind("q", "log", "a.#").unwrap();
    engine.bind("q", "log", "#.z").unwrap();
    publish(&engine, "q", b"by name");
    for at in 0..200 {
        let key = ["a.z", "a.y", "b.z"][at % 3];
        let payload = vec![b'x'; 4000];
        engine.publisher().publish_confirmed(&Message::new("log", key, &payload)).unwrap();
    }
    settle(&engine);
    let again = machine.killed().open();
    let got = ready(&consume(&again, "q", 1000));
    assert_eq!(offsets(&got), (0..201).collect::<Vec<_>>());
    sound(&again);
}
