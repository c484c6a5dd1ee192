//! Exchanges, queues and bindings: what they route, and that they stay.

use fanlog::{Change, Engine, Error, ErrorKind, ExchangeKind, Message, TopologyView};

use crate::support::{
    Machine, consume, declared, next, nothing, offsets, publish, ready, settle, sound, start,
    texts, threaded, unacked,
};

fn machine_with_fanout(queues: &[&str]) -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("results", ExchangeKind::Fanout).unwrap();
    for queue in queues {
        engine.declare_queue(queue).unwrap();
        engine.bind(queue, "results", "").unwrap();
    }
    (machine, engine)
}

#[track_caller]
fn send(engine: &Engine, exchange: &str, key: &str, payload: &str) {
    let message = Message::new(exchange, key, payload.as_bytes());
    engine.publisher().publish_confirmed(&message).unwrap();
}

#[track_caller]
fn refused(engine: &Engine, exchange: &str, key: &str) -> ErrorKind {
    engine.publisher().publish(&Message::new(exchange, key, b"x")).unwrap_err().kind()
}

/// What a topology says, in comparable form.
fn described(view: &TopologyView) -> String {
    let queues: Vec<_> =
        view.queues.iter().map(|queue| (&queue.name, queue.messages, queue.bytes)).collect();
    format!("{:?} {queues:?} {:?}", view.exchanges, view.bindings)
}

#[test]
fn a_fanout_exchange_gives_every_bound_queue_every_message_whatever_the_key() {
    let (_machine, engine) = machine_with_fanout(&["query", "monitor", "link"]);
    send(&engine, "results", "", "a");
    send(&engine, "results", "some.key", "b");
    for queue in ["query", "monitor", "link"] {
        let consumer = consume(&engine, queue, 10);
        assert_eq!(texts(&ready(&consumer)), ["a", "b"]);
    }
    sound(&engine);
}

#[test]
fn a_message_has_the_same_offset_in_every_queue_that_it_was_routed_to() {
    let (_machine, engine) = machine_with_fanout(&["query", "monitor"]);
    publish(&engine, "query", b"for one");
    send(&engine, "results", "", "for both");
    assert_eq!(offsets(&ready(&consume(&engine, "query", 10))), [0, 1]);
    assert_eq!(offsets(&ready(&consume(&engine, "monitor", 10))), [1]);
}

#[test]
fn a_direct_exchange_gives_a_message_to_queues_bound_with_exactly_its_key() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("rules", ExchangeKind::Direct).unwrap();
    for (queue, key) in [("red", "r"), ("red", "R"), ("blue", "b"), ("both", "r"), ("both", "b")] {
        engine.declare_queue(queue).unwrap();
        engine.bind(queue, "rules", key).unwrap();
    }
    for key in ["r", "b", "R"] {
        send(&engine, "rules", key, key);
    }
    assert_eq!(refused(&engine, "rules", "r "), ErrorKind::Unroutable);
    assert_eq!(refused(&engine, "rules", ""), ErrorKind::Unroutable);
    assert_eq!(unacked(&engine, "red"), ["r", "R"]);
    assert_eq!(unacked(&engine, "blue"), ["b"]);
    assert_eq!(unacked(&engine, "both"), ["r", "b"]);
    sound(&engine);
}

#[test]
fn the_empty_key_of_a_direct_exchange_is_a_key_like_any_other() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("rules", ExchangeKind::Direct).unwrap();
    engine.declare_queue("plain").unwrap();
    engine.bind("plain", "rules", "").unwrap();
    send(&engine, "rules", "", "a");
    assert_eq!(refused(&engine, "rules", "k"), ErrorKind::Unroutable);
    assert_eq!(unacked(&engine, "plain"), ["a"]);
}

#[test]
fn the_default_exchange_reaches_every_queue_by_its_name_and_no_other() {
    let (_machine, engine) = machine_with_fanout(&["query", "monitor"]);
    publish(&engine, "monitor", b"a");
    assert_eq!(unacked(&engine, "monitor"), ["a"]);
    assert_eq!(unacked(&engine, "query"), [""; 0]);
    assert_eq!(refused(&engine, "", "nobody"), ErrorKind::Unroutable);
}

#[test]
fn declaring_and_binding_alike_again_changes_and_writes_nothing() {
    let (machine, engine) = machine_with_fanout(&["query"]);
    let before = (described(&engine.topology()), machine.disk.operation_count());
    engine.declare_exchange("results", ExchangeKind::Fanout).unwrap();
    engine.declare_queue("query").unwrap();
    engine.bind("query", "results", "").unwrap();
    assert_eq!((described(&engine.topology()), machine.disk.operation_count()), before);
}

#[test]
fn declaring_another_kind_is_a_mismatch_that_names_argument_and_values() {
    let (machine, engine) = machine_with_fanout(&["query"]);
    let before = (described(&engine.topology()), machine.disk.operation_count());
    let error = engine.declare_exchange("results", ExchangeKind::Direct).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let Error::Mismatch { what, name, argument, existing, asked } = error else { panic!() };
    assert_eq!((what, &*name, &*argument), ("exchange", "results", "kind"));
    assert_eq!((&*existing, &*asked), ("fanout", "direct"));
    assert_eq!((described(&engine.topology()), machine.disk.operation_count()), before);
}

#[test]
fn names_are_one_to_255_bytes_long_and_an_error_names_the_limit() {
    let machine = Machine::new();
    let engine = machine.open();
    let long = "q".repeat(256);
    for name in ["", &long] {
        for error in [
            engine.change(&[Change::declare_queue(name)]).unwrap_err(),
            engine.declare_exchange(name, ExchangeKind::Direct).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Usage);
            let Error::Name { found, limit, .. } = error else { panic!("{error}") };
            assert_eq!((found, limit), (name.len(), 255));
        }
    }
    // Bytes count, not characters.
    assert_eq!(engine.declare_queue(&"ü".repeat(128)).unwrap_err().kind(), ErrorKind::Usage);
    let longest = "ü".repeat(127);
    engine.declare_queue(&longest).unwrap();
    publish(&engine, &longest, b"a");
    assert_eq!(unacked(&engine, &longest), ["a"]);
    assert_eq!(engine.topology().queues.len(), 1);
    assert!(declared(&engine).is_empty());
}

#[test]
fn a_routing_key_over_255_bytes_is_refused_when_bound_and_when_published() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("rules", ExchangeKind::Direct).unwrap();
    engine.declare_queue("q").unwrap();
    let (longest, long) = ("k".repeat(255), "k".repeat(256));
    assert_eq!(engine.bind("q", "rules", &long).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(refused(&engine, "rules", &long), ErrorKind::Usage);
    engine.bind("q", "rules", &longest).unwrap();
    send(&engine, "rules", &longest, "a");
    assert_eq!(next(&consume(&engine, "q", 1)).routing_key(), longest.as_bytes());
}

#[test]
fn what_is_named_must_exist() {
    let (_machine, engine) = machine_with_fanout(&["query"]);
    engine.declare_queue("loose").unwrap();
    for error in [
        engine.bind("nobody", "results", "").unwrap_err(),
        engine.bind("query", "nothing", "").unwrap_err(),
        engine.unbind("loose", "results", "").unwrap_err(),
        engine.delete_queue("nobody").unwrap_err(),
        engine.delete_exchange("nothing").unwrap_err(),
        engine.queue("nobody").unwrap_err(),
        engine.browse("nobody").unwrap_err(),
        engine.publisher().publish(&Message::new("nothing", "", b"x")).map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let text = error.to_string();
        assert!(["nobody", "nothing", "loose"].iter().any(|name| text.contains(name)), "{text}");
    }
    assert_eq!(engine.topology().bindings.len(), 1);
}

#[test]
fn the_default_exchange_can_be_neither_bound_nor_deleted() {
    let (_machine, engine) = machine_with_fanout(&["query"]);
    for error in [
        engine.bind("query", "", "key").unwrap_err(),
        engine.unbind("query", "", "query").unwrap_err(),
        engine.delete_exchange("").unwrap_err(),
    ] {
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
    publish(&engine, "query", b"still");
    assert_eq!(unacked(&engine, "query"), ["still"]);
}

#[test]
fn a_change_with_one_bad_step_changes_and_writes_nothing() {
    let (machine, engine) = machine_with_fanout(&["query"]);
    let before = (described(&engine.topology()), machine.disk.operation_count());
    let good = [
        Change::declare_queue("new"),
        Change::Bind { queue: "new", exchange: "results", routing_key: "" },
        Change::Unbind { queue: "query", exchange: "results", routing_key: "" },
        Change::DeleteQueue { name: "query" },
        Change::DeclareExchange { name: "other", kind: ExchangeKind::Direct },
    ];
    for bad in [
        Change::declare_queue(""),
        Change::DeclareExchange { name: "results", kind: ExchangeKind::Direct },
        Change::DeclareExchange { name: "other", kind: ExchangeKind::Fanout },
        Change::DeleteQueue { name: "query" },
        Change::DeleteQueue { name: "nobody" },
        Change::DeleteExchange { name: "" },
        Change::Bind { queue: "query", exchange: "results", routing_key: "" },
        Change::Unbind { queue: "new", exchange: "results", routing_key: "k".repeat(256).leak() },
    ] {
        let mut changes = good.to_vec();
        changes.push(bad);
        assert!(engine.change(&changes).is_err(), "{bad:?}");
        assert_eq!((described(&engine.topology()), machine.disk.operation_count()), before);
    }
    send(&engine, "results", "", "a");
    assert_eq!(unacked(&engine, "query"), ["a"]);
    drop(engine);
    assert_eq!(described(&machine.open().topology()).matches("other").count(), 0);
}

#[test]
fn later_changes_of_one_call_see_the_earlier_ones() {
    let machine = Machine::new();
    let engine = machine.open();
    let bind = Change::Bind { queue: "q", exchange: "x", routing_key: "k" };
    engine
        .change(&[
            Change::DeclareExchange { name: "x", kind: ExchangeKind::Direct },
            Change::declare_queue("gone"),
            Change::declare_queue("q"),
            bind,
            bind,
            Change::DeleteQueue { name: "gone" },
            Change::Unbind { queue: "q", exchange: "x", routing_key: "k" },
            bind,
        ])
        .unwrap();
    send(&engine, "x", "k", "a");
    assert_eq!(unacked(&engine, "q"), ["a"]);
    assert_eq!(engine.topology().queues.len(), 1);
    let again = machine.killed().open();
    assert_eq!(described(&again.topology()), described(&engine.topology()));
    assert_eq!(unacked(&again, "q"), ["a"]);
}

#[test]
fn an_exchange_replaced_in_one_change_has_the_new_kind_and_none_of_the_old_bindings() {
    let (machine, engine) = machine_with_fanout(&["query"]);
    engine
        .change(&[
            Change::DeleteExchange { name: "results" },
            Change::DeclareExchange { name: "results", kind: ExchangeKind::Direct },
        ])
        .unwrap();
    assert_eq!(refused(&engine, "results", ""), ErrorKind::Unroutable);
    engine.bind("query", "results", "k").unwrap();
    let again = machine.power_cut().open();
    send(&again, "results", "k", "a");
    assert_eq!(refused(&again, "results", ""), ErrorKind::Unroutable);
    assert_eq!(unacked(&again, "query"), ["a"]);
}

#[test]
fn a_binding_brings_only_what_is_published_while_it_stands() {
    let (machine, engine) = machine_with_fanout(&["always"]);
    engine.declare_queue("late").unwrap();
    send(&engine, "results", "", "before");
    engine.bind("late", "results", "").unwrap();
    send(&engine, "results", "", "first");
    engine.unbind("late", "results", "").unwrap();
    send(&engine, "results", "", "between");
    engine.bind("late", "results", "").unwrap();
    send(&engine, "results", "", "second");
    let expected = ["first", "second"];
    assert_eq!(unacked(&engine, "late"), expected);
    assert_eq!(engine.queue("late").unwrap().messages, 2);
    assert_eq!(engine.queue("late").unwrap().bytes, 11);
    sound(&engine);
    let again = machine.power_cut().open();
    assert_eq!(texts(&ready(&consume(&again, "late", 10))), expected);
    assert_eq!(again.queue("always").unwrap().messages, 4);
    sound(&again);
}

#[test]
fn unbinding_leaves_what_the_binding_brought_in_the_queue() {
    let (machine, engine) = machine_with_fanout(&["query"]);
    send(&engine, "results", "", "a");
    engine.unbind("query", "results", "").unwrap();
    assert_eq!(refused(&engine, "results", ""), ErrorKind::Unroutable);
    assert_eq!(texts(&ready(&consume(&engine, "query", 10))), ["a"]);
    drop(engine);
    let again = machine.open();
    assert_eq!(unacked(&again, "query"), ["a"]);
    assert_eq!(again.queue("query").unwrap().messages, 1);
    sound(&again);
}

#[test]
fn deleting_an_exchange_leaves_its_messages_in_their_queues() {
    let (machine, engine) = machine_with_fanout(&["query", "link"]);
    send(&engine, "results", "", "a");
    engine.delete_exchange("results").unwrap();
    assert_eq!(refused(&engine, "results", ""), ErrorKind::NotFound);
    assert!(engine.topology().bindings.is_empty());
    let again = machine.power_cut().open();
    for engine in [&engine, &again] {
        let delivery = next(&consume(engine, "query", 1));
        assert_eq!((delivery.payload(), &*delivery.exchange()), (&b"a"[..], ""));
        assert_eq!(engine.queue("link").unwrap().messages, 1);
        sound(engine);
    }
}

#[test]
fn a_delivery_names_the_exchange_that_it_was_published_to() {
    let (_machine, engine) = machine_with_fanout(&["query"]);
    send(&engine, "results", "", "a");
    publish(&engine, "query", b"b");
    let deliveries = ready(&consume(&engine, "query", 2));
    assert_eq!((&*deliveries[0].exchange(), &*deliveries[1].exchange()), ("results", ""));
}

#[test]
fn a_queue_declared_again_after_its_deletion_is_empty() {
    let (machine, engine) = machine_with_fanout(&["query", "link"]);
    send(&engine, "results", "", "old");
    publish(&engine, "query", b"old too");
    engine.delete_queue("query").unwrap();
    assert_eq!(refused(&engine, "", "query"), ErrorKind::Unroutable);
    assert_eq!(engine.topology().bindings.len(), 1);
    engine.declare_queue("query").unwrap();
    send(&engine, "results", "", "not bound");
    publish(&engine, "query", b"new");
    let again = machine.power_cut().open();
    for engine in [&engine, &again] {
        assert_eq!(unacked(engine, "query"), ["new"]);
        assert_eq!(texts(&ready(&consume(engine, "query", 10))), ["new"]);
        assert_eq!(unacked(engine, "link"), ["old", "not bound"]);
        sound(engine);
    }
}

#[test]
fn a_fanout_binding_does_not_match_its_key_which_tells_it_from_others_all_the_same() {
    let (machine, engine) = machine_with_fanout(&["query"]);
    engine.bind("query", "results", "another").unwrap();
    send(&engine, "results", "third", "once");
    engine.unbind("query", "results", "").unwrap();
    let error = engine.unbind("query", "results", "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    engine.checkpoint().unwrap();
    for engine in [machine.power_cut().open(), engine] {
        let bindings = engine.topology().bindings;
        assert_eq!(bindings.len(), 1);
        assert_eq!(bindings[0].routing_key, "another");
        send(&engine, "results", "", "still");
        assert_eq!(unacked(&engine, "query"), ["once", "still"]);
        engine.unbind("query", "results", "another").unwrap();
        assert_eq!(refused(&engine, "results", ""), ErrorKind::Unroutable);
        sound(&engine);
    }
}

#[test]
fn topology_survives_a_clean_close_a_kill_and_a_power_cut() {
    let (machine, engine) = machine_with_fanout(&["a", "b"]);
    engine.declare_exchange("rules", ExchangeKind::Direct).unwrap();
    engine.bind("a", "rules", "k").unwrap();
    engine.checkpoint().unwrap();
    engine.bind("b", "rules", "l").unwrap();
    engine.unbind("b", "results", "").unwrap();
    engine.declare_queue("c").unwrap();
    send(&engine, "rules", "k", "x");
    let expected = described(&engine.topology());
    for crashed in [machine.power_cut(), machine.killed()] {
        assert_eq!(described(&crashed.open().topology()), expected);
    }
    drop(engine);
    let again = machine.open();
    assert!(again.recovery().clean);
    assert_eq!(described(&again.topology()), expected);
    send(&again, "rules", "l", "y");
    assert_eq!(unacked(&again, "b"), ["y"]);
    sound(&again);
}

#[test]
fn a_thousand_declares_and_binds_in_one_change_are_one_commit_and_one_sync() {
    let (machine, engine) = machine_with_fanout(&[]);
    let names: Vec<String> = (0..1000).map(|number| format!("q{number:04}")).collect();
    let mut changes = Vec::new();
    for name in &names {
        changes.push(Change::declare_queue(name));
        changes.push(Change::Bind { queue: name, exchange: "results", routing_key: "" });
    }
    let before = engine.stats();
    engine.change(&changes).unwrap();
    let after = engine.stats();
    assert_eq!((after.batches - before.batches, after.syncs - before.syncs), (1, 1));
    send(&engine, "results", "", "a");
    let again = machine.power_cut().open();
    assert_eq!(again.topology().bindings.len(), 1000);
    assert!(names.iter().all(|name| again.queue(name).unwrap().messages == 1));
}

#[test]
fn the_ten_thousandth_declare_and_bind_write_what_the_first_did() {
    let (_machine, engine) = machine_with_fanout(&[]);
    let mut written = Vec::new();
    for round in 0..20 {
        let names: Vec<String> = (0..500).map(|n| format!("q{:05}", round * 500 + n)).collect();
        let mut changes = Vec::new();
        for name in &names {
            changes.push(Change::declare_queue(name));
            changes.push(Change::Bind { queue: name, exchange: "results", routing_key: "" });
        }
        let before = engine.stats().log_bytes_written;
        engine.change(&changes).unwrap();
        written.push(engine.stats().log_bytes_written - before);
    }
    // Whole blocks are counted.
    assert!(written[19] <= written[0] + 4096, "{written:?}");
}

#[test]
fn a_message_is_routed_before_a_change_or_after_it_never_between() {
    let engine = threaded();
    engine.declare_exchange("results", ExchangeKind::Fanout).unwrap();
    engine.declare_queue("always").unwrap();
    engine.bind("always", "results", "").unwrap();
    for name in ["x", "y"] {
        engine.declare_queue(name).unwrap();
    }
    let publishing: Vec<_> = (0..2)
        .map(|_| {
            let publisher = engine.publisher();
            start(move || {
                for _ in 0..2000 {
                    publisher.publish(&Message::new("results", "", b"m")).unwrap();
                }
                publisher.publish_confirmed(&Message::new("results", "", b"last")).unwrap();
            })
        })
        .collect();
    let both = |bind: bool| {
        let [one, two] = ["x", "y"].map(|queue| {
            if bind {
                Change::Bind { queue, exchange: "results", routing_key: "" }
            } else {
                Change::Unbind { queue, exchange: "results", routing_key: "" }
            }
        });
        engine.change(&[one, two]).unwrap();
    };
    for _ in 0..20 {
        both(true);
        both(false);
    }
    for thread in publishing {
        thread.join();
    }
    let [x, y] = ["x", "y"].map(|queue| {
        let messages = engine.browse(queue).unwrap().map(|message| message.unwrap().offset.0);
        messages.collect::<Vec<_>>()
    });
    assert_eq!(x, y);
    assert_eq!(engine.queue("x").unwrap().messages, x.len() as u64);
    assert_eq!(engine.queue("always").unwrap().messages, 4002);
    sound(&engine);
}

#[test]
fn a_queue_bound_to_many_keys_gets_their_messages_in_the_order_of_the_log() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("rules", ExchangeKind::Direct).unwrap();
    engine.declare_queue("all").unwrap();
    let keys: Vec<String> = (0..50).map(|key| key.to_string()).collect();
    for key in &keys {
        engine.bind("all", "rules", key).unwrap();
    }
    for round in 0..4 {
        for at in 0..50 {
            send(&engine, "rules", &keys[(at * 7 + round) % 50], "m");
        }
    }
    settle(&engine);
    let all: Vec<u64> = (0..200).collect();
    let consumer = consume(&engine, "all", 1000);
    let deliveries = ready(&consumer);
    assert_eq!(offsets(&deliveries), all);
    nothing(&consumer);
    drop(deliveries);
    drop(engine);
    assert_eq!(offsets(&ready(&consume(&machine.open(), "all", 1000))), all);
}
