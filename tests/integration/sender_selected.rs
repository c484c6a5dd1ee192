//! Routing keys that a sender chooses in the headers: `CC` and `BCC`.

use fanlog::{
    Array, Engine, Error, ErrorKind, ExchangeKind, ExchangeOptions, Message, QueueOptions, Table,
    TableRef, Value,
};

use crate::support::{Machine, consume, next, settle, sound, unacked};

fn with_keys(cc: &[&str], bcc: &[&str]) -> Table {
    let mut table = Table::new().with("mine", 7);
    for (header, keys) in [("CC", cc), ("BCC", bcc)] {
        let mut bytes = Vec::new();
        for key in keys {
            Array::push(&mut bytes, *key);
        }
        if !keys.is_empty() {
            table.push(header, Value::Array(Array::new(&bytes).unwrap()));
        }
    }
    table
}

fn opened(queues: &[&str]) -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    for queue in queues {
        engine.declare_queue(queue).unwrap();
    }
    (machine, engine)
}

#[track_caller]
fn send(engine: &Engine, exchange: &str, key: &str, text: &str, headers: &Table) {
    let message = Message::new(exchange, key, text.as_bytes()).headers(headers.as_bytes());
    engine.publisher().publish_confirmed(&message).unwrap();
}

#[test]
fn a_message_goes_where_any_of_its_keys_leads_once_and_bcc_is_told_to_nobody() {
    let (machine, engine) = opened(&["a", "b", "c", "d"]);
    let headers = with_keys(&["b", "a"], &["c"]);
    // What the publisher remembers of a key is that of the key alone, before and after.
    let publisher = engine.publisher();
    for (text, headers) in [("plain", &Table::new()), ("all", &headers), ("again", &Table::new())] {
        let message = Message::new("", "a", text.as_bytes()).headers(headers.as_bytes());
        publisher.publish_confirmed(&message).unwrap();
    }
    let batch = ["x", "y"].map(|text| {
        Message::new("", "d", text.as_bytes()).headers(if text == "x" {
            headers.as_bytes()
        } else {
            b""
        })
    });
    publisher.publish_batch_confirmed(&batch).unwrap();
    for engine in [&engine, &machine.power_cut().open()] {
        assert_eq!(unacked(engine, "a"), ["plain", "all", "again", "x"]);
        assert_eq!([unacked(engine, "b"), unacked(engine, "c")], [["all", "x"], ["all", "x"]]);
        assert_eq!(unacked(engine, "d"), ["x", "y"]);
        let delivery = next(&consume(engine, "b", 1));
        let stored = TableRef::new(delivery.headers()).unwrap();
        assert!(stored.get("BCC").is_none() && stored.get("CC").is_some());
        assert_eq!(stored.get("mine"), Some(Value::I32(7)));
        assert_eq!(delivery.routing_key(), b"a");
        sound(engine);
    }
}

#[test]
fn exchanges_match_all_keys_together() {
    let (_machine, engine) = opened(&["t", "d", "other", "copy"]);
    let options =
        ExchangeOptions { alternate: Some("else".to_owned()), ..ExchangeOptions::default() };
    engine.declare_exchange("else", ExchangeKind::Fanout).unwrap();
    engine.bind("other", "else", "").unwrap();
    engine.declare_exchange_with("topic", ExchangeKind::Topic, &options).unwrap();
    engine.bind("t", "topic", "x.#").unwrap();
    engine.declare_exchange("direct", ExchangeKind::Direct).unwrap();
    engine.bind("d", "direct", "k").unwrap();
    engine.bind_exchange("direct", "topic", "to.*", &Table::new()).unwrap();
    // The alternate is for what no key leads anywhere with; and keys go along to other exchanges.
    send(&engine, "topic", "nowhere", "1", &with_keys(&["x.y", "to.direct", "k"], &[]));
    send(&engine, "topic", "nowhere", "2", &with_keys(&["none"], &["neither"]));
    send(&engine, "topic", "nowhere", "3", &with_keys(&[], &["x"]));
    assert_eq!(unacked(&engine, "t"), ["1", "3"]);
    assert_eq!(unacked(&engine, "d"), ["1"]);
    assert_eq!(unacked(&engine, "other"), ["2"]);
    sound(&engine);
}

#[test]
fn dead_letters_keep_the_keys_that_are_told_unless_their_queue_has_another() {
    let (machine, engine) = opened(&["dead", "told"]);
    let dead =
        QueueOptions { dead_letter_exchange: Some("dlx".to_owned()), ..QueueOptions::default() };
    engine.declare_queue_with("own", &dead).unwrap();
    let dead = QueueOptions { dead_letter_key: Some("dead".to_owned()), ..dead };
    engine.declare_queue_with("other", &dead).unwrap();
    engine.declare_exchange("dlx", ExchangeKind::Direct).unwrap();
    engine.bind("dead", "dlx", "dead").unwrap();
    engine.bind("told", "dlx", "told").unwrap();
    for queue in ["own", "other"] {
        send(&engine, "", queue, queue, &with_keys(&["told"], &["dead"]));
        engine.get(queue).unwrap().unwrap().nack(false).unwrap();
    }
    settle(&engine);
    machine.clock.advance(std::time::Duration::from_secs(1));
    settle(&engine);
    // The first and the third were published there, the second is a dead letter.
    assert_eq!(unacked(&engine, "told"), ["own", "own", "other"]);
    assert_eq!(unacked(&engine, "dead"), ["own", "other", "other"]);
    let deliveries = crate::support::ready(&consume(&engine, "dead", 9));
    let headers = TableRef::new(deliveries[2].headers()).unwrap();
    assert!(headers.get("CC").is_none(), "a key of the queue's goes alone");
    let Some(Value::Array(deaths)) = headers.get("x-death") else { panic!("no history") };
    let Some(Value::Table(death)) = deaths.iter().next() else { panic!("no entry") };
    let Some(Value::Array(keys)) = death.get("routing-keys") else { panic!("no keys") };
    assert!(keys.iter().filter_map(Value::as_text).eq(["other", "told"]));
    sound(&engine);
}

#[test]
fn what_is_no_array_of_texts_is_refused_by_name_and_opaque_headers_are_not() {
    let (machine, engine) = opened(&["a"]);
    let mut mixed = Vec::new();
    Array::push(&mut mixed, "a");
    Array::push(&mut mixed, 5);
    let mixed = Value::Array(Array::new(&mixed).unwrap());
    let long = "k".repeat(256);
    let before = machine.disk.operation_count();
    for (headers, words) in [
        (Table::new().with("CC", "a"), "\"CC\""),
        (Table::new().with("BCC", mixed), "\"BCC\""),
        (with_keys(&[&long], &[]), "256 bytes"),
    ] {
        let message = Message::new("", "a", b"x").headers(headers.as_bytes());
        let errors = [
            engine.publisher().publish(&message).map(drop).unwrap_err(),
            engine.publisher().publish_batch(&[message, message]).map(drop).unwrap_err(),
            engine.begin().publish(&message).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(matches!(error, Error::HeaderType { .. } | Error::Name { .. }));
            assert!(error.to_string().contains(words), "{error}");
        }
    }
    assert_eq!(machine.disk.operation_count(), before);
    let opaque = Message::new("", "a", b"x").headers(b"\xff CC is no table");
    engine.publisher().publish_confirmed(&opaque).unwrap();
    assert_eq!(unacked(&engine, "a"), ["x"]);
    sound(&engine);
}
