//! Headers exchanges.

use fanlog::{Engine, Error, ErrorKind, ExchangeKind, Message, Table, Value};

use crate::support::{Machine, sound, unacked};

fn opened(bindings: &[(&str, Table)]) -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("h", ExchangeKind::Headers).unwrap();
    for (queue, arguments) in bindings {
        engine.declare_queue(queue).unwrap();
        engine.bind_with(queue, "h", "", arguments).unwrap();
    }
    (machine, engine)
}

#[track_caller]
fn send(engine: &Engine, payload: &str, headers: &Table) {
    let message = Message::new("h", "key", payload.as_bytes()).headers(headers.as_bytes());
    engine.publisher().publish_confirmed(&message).unwrap();
}

fn with(x_match: &str) -> Table {
    Table::new().with("x-match", x_match)
}

#[test]
fn a_headers_exchange_matches_arguments_against_headers() {
    let pdf = |table: Table| table.with("format", "pdf").with("pages", 3);
    let (machine, engine) = opened(&[
        ("all", pdf(with("all"))),
        ("default", pdf(Table::new())),
        ("any", pdf(with("any"))),
        ("there", Table::new().with("urgent", Value::Void)),
        ("x", with("all-with-x").with("x-source", "scan")),
        ("no x", with("all").with("x-source", "scan")),
    ]);
    let publish = |engine: &Engine| {
        send(engine, "both", &Table::new().with("pages", 3_i64).with("format", "pdf"));
        send(engine, "one", &Table::new().with("pages", 4).with("format", "pdf"));
        send(engine, "type", &Table::new().with("pages", "3").with("format", 1));
        send(engine, "urgent", &Table::new().with("urgent", false));
        send(engine, "scan", &Table::new().with("x-source", "scan"));
        send(engine, "none", &Table::new());
    };
    publish(&engine);
    let compare = |engine: &Engine, rounds: usize| {
        let check = |queue, expected: &[&str]| {
            assert_eq!(unacked(engine, queue), expected.repeat(rounds), "{queue}");
        };
        check("all", &["both"]);
        check("default", &["both"]);
        check("any", &["both", "one"]);
        check("there", &["urgent"]);
        check("x", &["scan"]);
        check("no x", &["both", "one", "type", "urgent", "scan", "none"]);
        sound(engine);
    };
    compare(&engine, 1);
    let again = machine.power_cut().open();
    publish(&again);
    compare(&again, 2);
    again.checkpoint().unwrap();
    assert_eq!(again.topology().bindings, engine.topology().bindings);
}

#[test]
fn messages_with_one_key_and_other_headers_go_elsewhere_also_behind_another_exchange() {
    let (_machine, engine) =
        opened(&[("a", Table::new().with("to", "a")), ("b", Table::new().with("to", "b"))]);
    engine.declare_exchange("front", ExchangeKind::Topic).unwrap();
    engine.bind_exchange("h", "front", "key.#", &Table::new()).unwrap();
    let publisher = engine.publisher();
    for round in 0..10 {
        let to = ["a", "b"][round % 2];
        let headers = Table::new().with("to", to);
        for exchange in ["h", "front"] {
            let message = Message::new(exchange, "key", to.as_bytes()).headers(headers.as_bytes());
            publisher.publish_confirmed(&message).unwrap();
        }
    }
    assert_eq!(unacked(&engine, "a"), ["a"; 10]);
    assert_eq!(unacked(&engine, "b"), ["b"; 10]);
    sound(&engine);
}

#[test]
fn bindings_are_told_apart_by_their_arguments_whatever_the_order() {
    let (machine, engine) = opened(&[("q", Table::new().with("a", 1).with("b", 2))]);
    let same = Table::new().with("b", 2).with("a", 1);
    let before = machine.disk.operation_count();
    engine.bind_with("q", "h", "", &same).unwrap();
    assert_eq!(machine.disk.operation_count(), before);
    engine.bind_with("q", "h", "", &Table::new().with("a", 1)).unwrap();
    engine.bind_with("q", "h", "other", &same).unwrap();
    assert_eq!(engine.topology().bindings.len(), 3);
    send(&engine, "once", &same);
    assert_eq!(unacked(&engine, "q"), ["once"]);
    let missing = engine.unbind_with("q", "h", "", &Table::new().with("a", 2)).unwrap_err();
    assert!(matches!(missing, Error::NotFound { what: "binding", .. }), "{missing}");
    engine.unbind_with("q", "h", "", &same).unwrap();
    engine.unbind_with("q", "h", "other", &same).unwrap();
    assert_eq!(engine.topology().bindings.len(), 1);
    assert_eq!(engine.topology().bindings[0].arguments, Table::new().with("a", 1));
    // Other kinds keep arguments, and tell bindings apart by them.
    engine.declare_exchange("d", ExchangeKind::Direct).unwrap();
    engine.bind_with("q", "d", "k", &same).unwrap();
    engine.bind("q", "d", "k").unwrap();
    engine.publisher().publish_confirmed(&Message::new("d", "k", b"direct")).unwrap();
    assert_eq!(unacked(&engine, "q"), ["once", "direct"]);
    engine.unbind("q", "d", "k").unwrap();
    engine.publisher().publish_confirmed(&Message::new("d", "k", b"still")).unwrap();
    assert_eq!(unacked(&engine, "q").len(), 3);
    sound(&machine.power_cut().open());
}

#[test]
fn headers_that_are_no_table_and_an_x_match_that_is_none_are_named() {
    let (_machine, engine) = opened(&[("q", Table::new())]);
    for wrong in [with("some"), Table::new().with("x-match", 1)] {
        let error = engine.bind_with("q", "h", "", &wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(matches!(&error, Error::Argument { argument, .. } if argument == "x-match"));
    }
    assert_eq!(engine.topology().bindings.len(), 1);
    let end = engine.stats().end_offset;
    let message = Message::new("h", "", b"x").headers(b"no table");
    let error = engine.publisher().publish(&message).unwrap_err();
    assert!(matches!(error, Error::Headers { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(engine.stats().end_offset, end);
    // To other exchanges they are only bytes.
    engine
        .publisher()
        .publish_confirmed(&Message { exchange: "", routing_key: "q", ..message })
        .unwrap();
    assert_eq!(unacked(&engine, "q"), ["x"]);
}
