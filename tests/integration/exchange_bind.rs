//! Bindings of exchanges to exchanges, and alternate exchanges.

use fanlog::{Engine, Error, ErrorKind, ExchangeKind, ExchangeOptions, Message, Table};

use crate::support::{Machine, consume, offsets, ready, sound, unacked};

const NONE: Table = Table::new();

fn opened(exchanges: &[(&str, ExchangeKind)], queues: &[&str]) -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    for (name, kind) in exchanges {
        engine.declare_exchange(name, *kind).unwrap();
    }
    for name in queues {
        engine.declare_queue(name).unwrap();
    }
    (machine, engine)
}

#[track_caller]
fn send(engine: &Engine, exchange: &str, key: &str) {
    engine.publisher().publish_confirmed(&Message::new(exchange, key, key.as_bytes())).unwrap();
}

#[test]
fn what_matches_goes_on_through_the_other_exchange_and_is_matched_there_anew() {
    let kinds =
        [("in", ExchangeKind::Topic), ("mid", ExchangeKind::Direct), ("out", ExchangeKind::Fanout)];
    let (machine, engine) = opened(&kinds, &["direct", "all", "near"]);
    engine.bind_exchange("mid", "in", "a.#", &NONE).unwrap();
    engine.bind_exchange("out", "mid", "a.b", &NONE).unwrap();
    engine.bind("direct", "mid", "a.c").unwrap();
    engine.bind("all", "out", "").unwrap();
    engine.bind("near", "in", "*").unwrap();
    for key in ["a.b", "a.c", "a"] {
        send(&engine, "in", key);
    }
    let error = engine.publisher().publish(&Message::new("in", "b.c", b"x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    let error = engine.publisher().publish(&Message::new("in", "a.d", b"x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable, "a match that leads to no queue is none");
    let compare = |engine: &Engine| {
        assert_eq!(unacked(engine, "direct"), ["a.c"]);
        assert_eq!(unacked(engine, "all"), ["a.b"]);
        assert_eq!(unacked(engine, "near"), ["a"]);
        assert_eq!(engine.topology().exchange_bindings.len(), 2);
        sound(engine);
    };
    compare(&engine);
    let again = machine.power_cut().open();
    compare(&again);
    send(&again, "in", "a.b");
    assert_eq!(unacked(&again, "all").len(), 2);
    again.checkpoint().unwrap();
    again.close(std::time::Duration::from_secs(1)).unwrap();
    drop((again, engine));
    let third = machine.power_cut().open();
    assert_eq!(third.topology().exchange_bindings.len(), 2);
}

#[test]
fn exchanges_in_a_circle_give_each_queue_a_message_once() {
    let kinds = ["a", "b", "c"].map(|name| (name, ExchangeKind::Fanout));
    let (machine, engine) = opened(&kinds, &["q", "p"]);
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "a"), ("a", "a"), ("a", "c")] {
        engine.bind_exchange(to, from, "", &NONE).unwrap();
    }
    for exchange in ["a", "b", "c"] {
        engine.bind("q", exchange, "").unwrap();
    }
    engine.bind("p", "c", "").unwrap();
    for exchange in ["a", "b", "c"] {
        send(&engine, exchange, exchange);
    }
    for engine in [&engine, &machine.power_cut().open()] {
        for queue in ["q", "p"] {
            assert_eq!(engine.queue(queue).unwrap().messages, 3);
            assert_eq!(offsets(&ready(&consume(engine, queue, 10))), [0, 1, 2]);
        }
        sound(engine);
    }
}

#[test]
fn deleting_either_exchange_removes_the_binding_and_so_does_unbinding() {
    let kinds = ["a", "b", "c"].map(|name| (name, ExchangeKind::Fanout));
    let (machine, engine) = opened(&kinds, &["q"]);
    engine.bind("q", "c", "").unwrap();
    engine.bind_exchange("b", "a", "", &NONE).unwrap();
    engine.bind_exchange("c", "b", "", &NONE).unwrap();
    engine.bind_exchange("c", "b", "", &NONE).unwrap();
    send(&engine, "a", "1");
    engine.unbind_exchange("c", "b", "", &NONE).unwrap();
    let error = engine.publisher().publish(&Message::new("a", "", b"x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    engine.bind_exchange("c", "b", "", &NONE).unwrap();
    send(&engine, "a", "2");
    engine.delete_exchange("b").unwrap();
    let error = engine.publisher().publish(&Message::new("a", "", b"x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    engine.declare_exchange("b", ExchangeKind::Fanout).unwrap();
    for engine in [&engine, &machine.power_cut().open()] {
        assert!(engine.topology().exchange_bindings.is_empty());
        assert_eq!(unacked(engine, "q"), ["1", "2"]);
        sound(engine);
    }
}

#[test]
fn bindings_of_exchanges_that_cannot_be_are_named_and_change_nothing() {
    let (_machine, engine) = opened(&[("a", ExchangeKind::Direct)], &["q"]);
    let long = "k".repeat(256);
    for (destination, source, key, kind) in [
        ("nobody", "a", "", ErrorKind::NotFound),
        ("a", "nobody", "", ErrorKind::NotFound),
        ("q", "a", "", ErrorKind::NotFound),
        ("", "a", "", ErrorKind::Usage),
        ("a", "", "", ErrorKind::Usage),
        ("a", "a", &long, ErrorKind::Usage),
    ] {
        let error = engine.bind_exchange(destination, source, key, &NONE).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    let error = engine.unbind_exchange("a", "a", "k", &NONE).unwrap_err();
    assert!(matches!(error, Error::NotFound { what: "binding", .. }), "{error}");
    assert!(engine.topology().exchange_bindings.is_empty());
}

#[test]
fn the_alternate_exchange_gets_what_no_binding_matches() {
    let (machine, engine) = opened(&[("lost", ExchangeKind::Fanout)], &["q", "found"]);
    let with = |alternate: &str| ExchangeOptions {
        alternate: Some(alternate.into()),
        ..ExchangeOptions::default()
    };
    engine.declare_exchange_with("second", ExchangeKind::Direct, &with("lost")).unwrap();
    engine.declare_exchange_with("first", ExchangeKind::Direct, &with("second")).unwrap();
    engine.declare_exchange_with("named", ExchangeKind::Direct, &with("")).unwrap();
    engine.declare_exchange_with("none", ExchangeKind::Direct, &with("missing")).unwrap();
    engine.declare_exchange_with("self", ExchangeKind::Direct, &with("self")).unwrap();
    engine.bind("q", "first", "k").unwrap();
    engine.bind("q", "second", "s").unwrap();
    engine.bind("found", "lost", "").unwrap();
    let check = |engine: &Engine| {
        for key in ["k", "s", "other"] {
            send(engine, "first", key);
        }
        send(engine, "named", "q");
        for (exchange, key) in [("named", "nobody"), ("none", "k"), ("self", "k")] {
            let error = engine.publisher().publish(&Message::new(exchange, key, b"x")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unroutable);
        }
        sound(engine);
    };
    check(&engine);
    assert_eq!(unacked(&engine, "q"), ["k", "s", "q"]);
    assert_eq!(unacked(&engine, "found"), ["other"]);
    let again = machine.power_cut().open();
    check(&again);
    assert_eq!(unacked(&again, "q").len(), 6);
    // One that is declared later is the alternate from then on.
    again.declare_exchange("missing", ExchangeKind::Fanout).unwrap();
    again.bind("found", "missing", "").unwrap();
    send(&again, "none", "late");
    assert_eq!(unacked(&again, "found"), ["other", "other", "late"]);
}

#[test]
fn a_message_that_only_another_exchange_matches_is_not_for_the_alternate() {
    let (_machine, engine) =
        opened(&[("lost", ExchangeKind::Fanout), ("dead", ExchangeKind::Fanout)], &["q"]);
    let options = ExchangeOptions { alternate: Some("lost".into()), ..ExchangeOptions::default() };
    engine.declare_exchange_with("e", ExchangeKind::Fanout, &options).unwrap();
    engine.bind("q", "lost", "").unwrap();
    send(&engine, "e", "1");
    engine.bind_exchange("dead", "e", "", &NONE).unwrap();
    let error = engine.publisher().publish(&Message::new("e", "2", b"x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    assert_eq!(unacked(&engine, "q"), ["1"]);
}
