//! What exchanges are declared with, exchanges that go by themselves, and those that are always there.

use fanlog::{
    Change, Engine, Error, ErrorKind, ExchangeKind, ExchangeOptions, Message, Table, Value,
};

use crate::support::{Machine, consume, declared, publish, ready, settle, sound, unacked};

fn opened() -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue("q").unwrap();
    (machine, engine)
}

fn names(engine: &Engine) -> Vec<String> {
    declared(engine).into_iter().map(|exchange| exchange.name).collect()
}

#[track_caller]
fn send(engine: &Engine, exchange: &str, key: &str) {
    engine.publisher().publish_confirmed(&Message::new(exchange, key, b"x")).unwrap();
}

#[test]
fn options_are_kept_compared_and_shown_and_a_difference_is_named() {
    let (machine, engine) = opened();
    let options = ExchangeOptions {
        auto_delete: true,
        internal: true,
        alternate: Some("other".into()),
        arguments: Table::new().with("x-note", 7),
        ..ExchangeOptions::default()
    };
    let declare = |engine: &Engine, options: &ExchangeOptions| {
        engine.declare_exchange_with("e", ExchangeKind::Topic, options)
    };
    declare(&engine, &options).unwrap();
    let compare = |engine: &Engine| {
        assert_eq!(declared(engine)[0].options, options);
        let before = machine.disk.operation_count();
        declare(engine, &options).unwrap();
        let plain = engine.declare_exchange("e", ExchangeKind::Topic).unwrap_err();
        assert!(matches!(plain, Error::Mismatch { .. }), "{plain}");
        let other = |change: &dyn Fn(&mut ExchangeOptions)| {
            let mut other = options.clone();
            change(&mut other);
            match declare(engine, &other).unwrap_err() {
                Error::Mismatch { argument, existing, asked, .. } => (argument, existing, asked),
                error => panic!("{error}"),
            }
        };
        let said = |argument: &str, existing: &str, asked: &str| {
            (argument.to_owned(), existing.to_owned(), asked.to_owned())
        };
        assert_eq!(other(&|o| o.durable = false), said("durable", "true", "false"));
        assert_eq!(other(&|o| o.auto_delete = false), said("auto-delete", "true", "false"));
        assert_eq!(other(&|o| o.internal = false), said("internal", "true", "false"));
        let alternate = other(&|o| o.alternate = None);
        assert_eq!(alternate, said("alternate-exchange", "\"other\"", "none"));
        let arguments = other(&|o| o.arguments = Table::new().with("x-note", 8));
        assert_eq!(arguments, said("x-note", "I32(7)", "I32(8)"));
        assert_eq!(machine.disk.operation_count(), before, "nothing was written");
    };
    compare(&engine);
    compare(&machine.power_cut().open());
    engine.checkpoint().unwrap();
    compare(&machine.power_cut().open());
}

#[test]
fn options_that_cannot_be_are_named_and_change_nothing() {
    let (_machine, engine) = opened();
    let long = ExchangeOptions { alternate: Some("e".repeat(256)), ..ExchangeOptions::default() };
    let wrong = Table::new().with("alternate-exchange", 7);
    let twice = ExchangeOptions { arguments: wrong.clone(), ..ExchangeOptions::default() };
    for error in [
        engine.declare_exchange_with("e", ExchangeKind::Fanout, &long).unwrap_err(),
        engine.declare_exchange_with("e", ExchangeKind::Fanout, &twice).unwrap_err(),
        ExchangeOptions::from_arguments(&wrong).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Usage);
        let Error::Argument { argument, .. } = error else { panic!("{error}") };
        assert_eq!(argument, "alternate-exchange");
    }
    assert!(names(&engine).is_empty());
    let table = Table::new().with("alternate-exchange", "a").with("x", Value::Void);
    let read = ExchangeOptions::from_arguments(&table).unwrap();
    assert_eq!(read.alternate.as_deref(), Some("a"));
    assert_eq!(ExchangeOptions::from_arguments(&read.to_arguments()).unwrap(), read);
}

#[test]
fn nobody_publishes_to_an_internal_exchange_but_other_exchanges() {
    let (_machine, engine) = opened();
    let internal = ExchangeOptions { internal: true, ..ExchangeOptions::default() };
    engine.declare_exchange_with("inner", ExchangeKind::Fanout, &internal).unwrap();
    engine.declare_exchange("outer", ExchangeKind::Fanout).unwrap();
    engine.bind("q", "inner", "").unwrap();
    engine.bind_exchange("inner", "outer", "", &Table::new()).unwrap();
    let error = engine.publisher().publish(&Message::new("inner", "", b"x")).unwrap_err();
    assert!(matches!(&error, Error::Refused { what, .. } if what.contains("inner")), "{error}");
    send(&engine, "outer", "");
    assert_eq!(unacked(&engine, "q").len(), 1);
}

#[test]
fn an_auto_delete_exchange_goes_with_its_last_binding_and_not_before_it_had_one() {
    let (machine, engine) = opened();
    let auto = ExchangeOptions { auto_delete: true, ..ExchangeOptions::default() };
    for name in ["a", "b", "c"] {
        engine.declare_exchange_with(name, ExchangeKind::Direct, &auto).unwrap();
    }
    engine.declare_queue("p").unwrap();
    engine.bind("q", "a", "k").unwrap();
    engine.bind("p", "a", "k").unwrap();
    // One that leads to another goes when that one goes.
    engine.bind_exchange("a", "b", "k", &Table::new()).unwrap();
    send(&engine, "b", "k");
    engine.unbind("q", "a", "k").unwrap();
    assert_eq!(names(&engine), ["a", "b", "c"]);
    send(&engine, "b", "k");
    engine.delete_queue("p").unwrap();
    assert_eq!(names(&engine), ["c"]);
    assert!(engine.topology().exchange_bindings.is_empty());
    let error = engine.publisher().publish(&Message::new("b", "k", b"x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(unacked(&engine, "q").len(), 1);
    sound(&engine);
    let again = machine.power_cut().open();
    assert_eq!(names(&again), ["c"]);
    sound(&again);
}

#[test]
fn a_transient_exchange_is_gone_with_its_bindings_once_the_store_is_opened_again() {
    let (machine, engine) = opened();
    let transient = ExchangeOptions { durable: false, ..ExchangeOptions::default() };
    engine.declare_exchange_with("t", ExchangeKind::Fanout, &transient).unwrap();
    engine.declare_exchange("d", ExchangeKind::Fanout).unwrap();
    engine.bind("q", "t", "").unwrap();
    engine.bind_exchange("t", "d", "", &Table::new()).unwrap();
    send(&engine, "t", "");
    send(&engine, "d", "");
    settle(&engine);
    // Killed, killed again at once, closed, and from a checkpoint.
    for machine in [machine.killed(), machine.killed(), machine.power_cut()] {
        let again = machine.open();
        assert_eq!(names(&again), ["d"]);
        assert!(again.topology().bindings.is_empty());
        assert!(again.topology().exchange_bindings.is_empty());
        assert_eq!(unacked(&again, "q").len(), 2);
        sound(&again);
        // Under its name there may be another.
        again.declare_exchange("t", ExchangeKind::Direct).unwrap();
        again.bind("q", "t", "k").unwrap();
        send(&again, "t", "k");
        let third = machine.killed().open();
        assert_eq!(names(&third), ["d", "t"]);
        assert_eq!(unacked(&third, "q").len(), 3);
        sound(&third);
    }
}

#[test]
fn deleting_if_unused_leaves_an_exchange_that_has_bindings() {
    let (_machine, engine) = opened();
    engine.declare_exchange("e", ExchangeKind::Fanout).unwrap();
    engine.declare_exchange("from", ExchangeKind::Fanout).unwrap();
    engine.bind("q", "e", "").unwrap();
    engine.bind_exchange("e", "from", "", &Table::new()).unwrap();
    let error = engine.delete_exchange_if_unused("e").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(matches!(error, Error::StillUsed { what: "exchange", by: "bindings", .. }));
    send(&engine, "from", "");
    engine.unbind("q", "e", "").unwrap();
    // That something leads to it does not count.
    engine.delete_exchange_if_unused("e").unwrap();
    assert_eq!(names(&engine), ["from"]);
    assert!(engine.topology().exchange_bindings.is_empty());
    assert_eq!(engine.delete_exchange_if_unused("e").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn predeclared_exchanges_are_there_and_stay() {
    let (machine, engine) = opened();
    let all = [
        ("amq.direct", ExchangeKind::Direct),
        ("amq.fanout", ExchangeKind::Fanout),
        ("amq.headers", ExchangeKind::Headers),
        ("amq.match", ExchangeKind::Headers),
        ("amq.topic", ExchangeKind::Topic),
    ];
    let shown = |engine: &Engine| {
        let shown = engine.topology().exchanges.into_iter();
        shown.map(|one| (one.name, one.kind)).collect::<Vec<_>>()
    };
    let expected = all.map(|(name, kind)| (name.to_owned(), kind));
    assert_eq!(shown(&engine), expected);
    for (name, kind) in all {
        engine.bind("q", name, "k").unwrap();
        send(&engine, name, "k");
        engine.declare_exchange(name, kind).unwrap();
        let error = engine.delete_exchange(name).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
    let error = engine.declare_exchange("amq.topic", ExchangeKind::Fanout).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let error = engine.declare_exchange("amq.mine", ExchangeKind::Fanout).unwrap_err();
    assert!(matches!(&error, Error::Refused { what, .. } if what.contains("amq.mine")), "{error}");
    engine.checkpoint().unwrap();
    for again in [&engine, &machine.power_cut().open()] {
        assert_eq!(shown(again), expected);
        assert_eq!(unacked(again, "q").len(), 5);
        sound(again);
    }
    let again = machine.power_cut().open();
    send(&again, "amq.topic", "k");
    let got = ready(&consume(&again, "q", 10));
    assert_eq!(&*got[5].exchange(), "amq.topic");
    again.unbind("q", "amq.topic", "k").unwrap();
    assert_eq!(shown(&again), expected);
}

#[test]
fn optional_messages_that_go_nowhere_are_confirmed_counted_and_not_stored() {
    let (_machine, engine) = opened();
    engine.declare_exchange("e", ExchangeKind::Direct).unwrap();
    engine.bind("q", "e", "k").unwrap();
    let publisher = engine.publisher();
    let lost = Message::new("e", "nowhere", b"x").optional();
    let end = engine.stats().end_offset;
    let ticket = publisher.publish(&lost).unwrap();
    assert_eq!(ticket.try_wait().unwrap().unwrap().messages, 0);
    assert_eq!(publisher.publish_confirmed(&lost).unwrap().messages, 0);
    assert_eq!(engine.stats().end_offset, end);
    // Of a batch the others are stored.
    let kept = Message::new("e", "k", b"kept").optional();
    let confirm = publisher.publish_batch(&[lost, kept, lost, kept]).unwrap().wait().unwrap();
    assert_eq!((confirm.first_offset, confirm.messages), (end, 2));
    assert_eq!(unacked(&engine, "q"), ["kept", "kept"]);
    let stats = engine.stats();
    assert_eq!((stats.unroutable_dropped, stats.unroutable_messages), (4, 0));
    // A mandatory one beside it: nothing is stored.
    let error = publisher.publish_batch(&[kept, Message::new("e", "nowhere", b"x")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    assert_eq!(engine.stats().unroutable_messages, 1);
    assert_eq!(unacked(&engine, "q").len(), 2);
    // No such exchange is another matter.
    let error = publisher.publish(&Message::new("none", "k", b"x").optional()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    sound(&engine);
}

#[test]
fn a_call_with_one_change_that_cannot_be_made_makes_none() {
    let (machine, engine) = opened();
    let auto = ExchangeOptions { auto_delete: true, ..ExchangeOptions::default() };
    engine.declare_exchange_with("e", ExchangeKind::Fanout, &auto).unwrap();
    engine.declare_exchange("f", ExchangeKind::Fanout).unwrap();
    engine.bind("q", "e", "").unwrap();
    engine.bind_exchange("f", "e", "", &Table::new()).unwrap();
    let before = (format!("{:?}", engine.topology()), machine.disk.operation_count());
    let none = Table::new();
    let changes = [
        Change::Unbind { queue: "q", exchange: "e", routing_key: "" },
        Change::UnbindExchange { destination: "f", source: "e", routing_key: "", arguments: &none },
        Change::DeleteQueue { name: "q" },
        Change::BindExchange { destination: "e", source: "f", routing_key: "", arguments: &none },
    ];
    // `e` went with its last binding.
    assert_eq!(engine.change(&changes).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!((format!("{:?}", engine.topology()), machine.disk.operation_count()), before);
    send(&engine, "e", "");
    publish(&engine, "q", b"y");
    assert_eq!(unacked(&engine, "q").len(), 2);
}
