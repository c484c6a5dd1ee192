//! Queues that refuse what they have no room for, and what their publishers are told.

use std::time::Duration;

use fanlog::{
    Confirm, Durability, Engine, Error, ErrorKind, ExchangeKind, Message, Overflow, QueueOptions,
    Result, Table, TableRef, Value,
};

use crate::support::{
    Machine, consume, next, publish, ready, settle, sound, text, threaded, unacked,
};

fn options(messages: Option<u64>, bytes: Option<u64>) -> QueueOptions {
    QueueOptions {
        messages_max: messages,
        bytes_max: bytes,
        overflow: Overflow::RejectPublish,
        ..QueueOptions::default()
    }
}

/// `small` has room for two messages, `large` for all; both are bound to `all`.
fn with_two() -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("all", ExchangeKind::Fanout).unwrap();
    engine.declare_queue_with("small", &options(Some(2), None)).unwrap();
    engine.declare_queue("large").unwrap();
    for queue in ["small", "large"] {
        engine.bind(queue, "all", "").unwrap();
    }
    (machine, engine)
}

fn to_all(engine: &Engine, payload: &[u8]) -> Result<Confirm> {
    engine.publisher().publish_confirmed(&Message::new("all", "", payload))
}

fn to(engine: &Engine, queue: &str, payload: &[u8]) -> Result<Confirm> {
    engine.publisher().publish_confirmed(&Message::new("", queue, payload))
}

/// The queues that refused, and the confirm for the others.
#[track_caller]
fn refusal<T>(outcome: Result<T>) -> (Vec<String>, Option<Confirm>) {
    match outcome {
        Err(Error::QueueFull { queues, stored }) => (queues, stored),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("nobody refused"),
    }
}

fn of_small(stored: Option<Confirm>) -> (Vec<String>, Option<Confirm>) {
    (vec!["small".to_owned()], stored)
}

#[test]
fn a_full_queue_is_left_out_the_others_get_it_and_the_publisher_is_told() {
    let (machine, engine) = with_two();
    for payload in [b"0", b"1"] {
        to_all(&engine, payload).unwrap();
    }
    let error = to_all(&engine, b"2").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueFull);
    assert_eq!(error.to_string(), "no room in [\"small\"]: only other queues got it");
    let (queues, stored) = refusal(to_all(&engine, b"3"));
    assert_eq!((queues, stored.unwrap().messages), (vec!["small".to_owned()], 1));
    assert_eq!(unacked(&engine, "small"), ["0", "1"]);
    assert_eq!(unacked(&engine, "large"), ["0", "1", "2", "3"]);
    assert_eq!((engine.stats().refused_messages, engine.stats().published_messages), (2, 4));
    sound(&engine);
    for engine in [machine.killed().open(), machine.power_cut().open()] {
        assert_eq!(unacked(&engine, "small"), ["0", "1"]);
        assert_eq!(unacked(&engine, "large"), ["0", "1", "2", "3"]);
        sound(&engine);
    }
}

#[test]
fn where_no_queue_is_left_nothing_is_stored() {
    let (_machine, engine) = with_two();
    engine.declare_queue_with("none", &options(Some(0), None)).unwrap();
    engine.bind("none", "all", "").unwrap();
    assert_eq!(refusal(to(&engine, "none", b"x")), (vec!["none".to_owned()], None));
    for payload in [b"0", b"1"] {
        assert_eq!(refusal(to_all(&engine, payload)).0, ["none"]);
    }
    assert_eq!(refusal(to_all(&engine, b"2")).0, ["small", "none"]);
    let optional = Message::new("", "small", b"x").optional();
    let refused = engine.publisher().publish(&optional);
    assert_eq!(refusal(refused), of_small(None), "that a message may go nowhere is another matter");
    assert_eq!(unacked(&engine, "large"), ["0", "1", "2"]);
    assert_eq!(engine.stats().published_messages, 3);
    sound(&engine);
}

#[test]
fn it_takes_again_what_it_has_room_for_and_only_what_is_ready_counts() {
    let (_machine, engine) = with_two();
    for payload in [b"0", b"1"] {
        publish(&engine, "small", payload);
    }
    refusal(to(&engine, "small", b"2"));
    let consumer = consume(&engine, "small", 2);
    let mut held = ready(&consumer);
    assert_eq!(held.len(), 2);
    // Both are in somebody's hands.
    for payload in [b"3", b"4"] {
        publish(&engine, "small", payload);
    }
    refusal(to(&engine, "small", b"5"));
    held.remove(0).ack().unwrap();
    refusal(to(&engine, "small", b"5"));
    // What comes back counts again.
    drop(held);
    drop(consumer);
    let consumer = consume(&engine, "small", 1);
    next(&consumer).ack().unwrap();
    drop(consumer);
    refusal(to(&engine, "small", b"5"));
    engine.get("small").unwrap().unwrap().ack().unwrap();
    publish(&engine, "small", b"6");
    refusal(to(&engine, "small", b"7"));
    assert_eq!(engine.purge_queue("small").unwrap(), 2);
    publish(&engine, "small", b"8");
    assert_eq!(unacked(&engine, "small"), ["8"]);
    sound(&engine);
}

#[test]
fn what_is_on_its_way_counts_too() {
    let (_machine, engine) = with_two();
    let publisher = engine.publisher();
    let tickets: Vec<_> =
        (0..4).map(|_| publisher.publish(&Message::new("all", "", b"x")).unwrap()).collect();
    let outcomes: Vec<_> = tickets.iter().map(|ticket| ticket.wait().is_ok()).collect();
    assert_eq!(outcomes, [true, true, false, false]);
    // Asked again it says the same.
    assert_eq!(refusal(tickets[3].try_wait().unwrap()).1.unwrap().first_offset.0, 3);
    assert_eq!((unacked(&engine, "small").len(), unacked(&engine, "large").len()), (2, 4));
    sound(&engine);
}

#[test]
fn bytes_count_as_messages_do() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue_with("small", &options(Some(9), Some(1000))).unwrap();
    refusal(to(&engine, "small", &[0; 1001]));
    for _ in 0..3 {
        publish(&engine, "small", &[0; 300]);
    }
    refusal(to(&engine, "small", &[0; 101]));
    publish(&engine, "small", &[0; 100]);
    refusal(to(&engine, "small", &[0; 1]));
    publish(&engine, "small", b"");
    assert_eq!(engine.queue("small").unwrap().bytes, 1000);
    sound(&engine);
}

#[test]
fn after_a_restart_it_has_the_room_that_it_had() {
    let (machine, engine) = with_two();
    for payload in [b"0", b"1"] {
        to_all(&engine, payload).unwrap();
    }
    next(&consume(&engine, "small", 1)).ack().unwrap().wait().unwrap();
    to_all(&engine, b"2").unwrap();
    settle(&engine);
    engine.close(Duration::MAX).unwrap();
    let engine = machine.open();
    refusal(to_all(&engine, b"3"));
    next(&consume(&engine, "small", 1)).ack().unwrap().wait().unwrap();
    to_all(&engine, b"4").unwrap();
    refusal(to_all(&engine, b"5"));
    let engine = machine.killed().open();
    refusal(to_all(&engine, b"6"));
    assert_eq!(unacked(&engine, "small"), ["2", "4"]);
    assert_eq!(unacked(&engine, "large"), ["0", "1", "2", "3", "4", "5", "6"]);
    sound(&engine);
}

#[test]
fn a_batch_is_taken_whole_or_not_at_all() {
    let (_machine, engine) = with_two();
    let publisher = engine.publisher();
    let messages = [b"0", b"1", b"2"].map(|payload| Message::new("all", "", payload));
    assert_eq!(refusal(publisher.publish_batch(&messages)), of_small(None));
    publisher.publish_batch(&messages[..2]).unwrap().wait().unwrap();
    assert_eq!(refusal(publisher.publish_batch(&messages[..1])), of_small(None));
    assert_eq!(unacked(&engine, "large"), ["0", "1"]);
    sound(&engine);
}

#[test]
fn a_transaction_is_refused_as_a_whole_and_can_be_committed_later() {
    let (_machine, engine) = with_two();
    publish(&engine, "large", b"order");
    for payload in [b"0", b"1"] {
        publish(&engine, "small", payload);
    }
    let consumer = consume(&engine, "large", 1);
    let mut transaction = engine.begin();
    transaction.publish(&Message::new("all", "", b"2")).unwrap();
    transaction.ack(next(&consumer)).unwrap();
    assert_eq!(refusal(transaction.commit()), of_small(None));
    assert_eq!((transaction.messages(), transaction.acks()), (1, 1));
    assert_eq!(unacked(&engine, "large"), ["order"]);
    next(&consume(&engine, "small", 1)).ack().unwrap();
    transaction.commit().unwrap().wait().unwrap();
    assert_eq!(
        (unacked(&engine, "small"), unacked(&engine, "large")),
        (vec!["1".to_owned(), "2".to_owned()], vec!["2".to_owned()],)
    );
    sound(&engine);
}

#[test]
fn bindings_and_declarations_that_come_and_go_are_seen() {
    let (_machine, engine) = with_two();
    engine.declare_exchange("keyed", ExchangeKind::Topic).unwrap();
    engine.bind("small", "keyed", "a.*").unwrap();
    engine.bind("small", "keyed", "#").unwrap();
    let keyed = || engine.publisher().publish_confirmed(&Message::new("keyed", "a.b", b"k"));
    // Over two bindings it gets it once.
    keyed().unwrap();
    keyed().unwrap();
    assert_eq!(refusal(keyed()), of_small(None));
    engine.bind("large", "keyed", "a.b").unwrap();
    assert!(refusal(keyed()).1.is_some());
    for key in ["a.*", "#"] {
        engine.unbind("small", "keyed", key).unwrap();
    }
    keyed().unwrap();
    engine.bind("small", "keyed", "a.b").unwrap();
    assert!(refusal(keyed()).1.is_some(), "what it has it got over bindings that are gone");
    engine.delete_queue("small").unwrap();
    keyed().unwrap();
    engine.declare_queue_with("small", &options(Some(1), None)).unwrap();
    publish(&engine, "small", b"new");
    assert_eq!(refusal(to(&engine, "small", b"x")), of_small(None));
    assert_eq!(unacked(&engine, "large").len(), 4);
    sound(&engine);
}

#[test]
fn transient_and_numbered_messages_are_refused_too() {
    let (machine, engine) = with_two();
    let transient = Message { durability: Durability::Transient, ..Message::new("all", "", b"t") };
    for _ in 0..2 {
        engine.publisher().publish_confirmed(&transient).unwrap();
    }
    let refused = engine.publisher().publish_confirmed(&transient);
    assert!(refusal(refused).1.is_some());
    let meter = engine.declare_publisher("meter").unwrap();
    let direct = Message::new("", "small", b"n");
    assert_eq!(refusal(meter.publish(1, &direct)), of_small(None));
    assert_eq!(meter.last_sequence(), 0, "the number is free");
    next(&consume(&engine, "small", 1)).ack().unwrap();
    let ticket = meter.publish(1, &direct).unwrap();
    assert!(!ticket.is_repeat());
    ticket.wait().unwrap();
    assert_eq!((unacked(&engine, "small").len(), unacked(&engine, "large").len()), (2, 3));
    sound(&engine);
    // With the transient ones gone there is room for one more.
    let engine = machine.killed().open();
    to_all(&engine, b"p").unwrap();
    refusal(to_all(&engine, b"q"));
    assert_eq!((unacked(&engine, "small").len(), unacked(&engine, "large").len()), (2, 2));
    sound(&engine);
}

#[test]
fn dead_letters_come_in_all_the_same_and_count() {
    let (machine, engine) = with_two();
    let dead = QueueOptions {
        dead_letter_exchange: Some(String::new()),
        dead_letter_key: Some("small".to_owned()),
        ..QueueOptions::default()
    };
    engine.declare_queue_with("work", &dead).unwrap();
    for payload in [b"0", b"1", b"2"] {
        publish(&engine, "work", payload);
    }
    for _ in 0..3 {
        engine.get("work").unwrap().unwrap().nack(false).unwrap();
    }
    for _ in 0..3 {
        machine.clock.advance(Duration::from_millis(200));
        settle(&engine);
    }
    assert_eq!(unacked(&engine, "small"), ["0", "1", "2"]);
    for _ in 0..2 {
        refusal(to(&engine, "small", b"x"));
        engine.get("small").unwrap().unwrap().ack().unwrap();
    }
    publish(&engine, "small", b"3");
    assert_eq!(unacked(&engine, "small"), ["2", "3"]);
    sound(&engine);
}

#[test]
fn of_many_threads_each_puts_one_message_too_many_at_the_most() {
    let engine = threaded();
    engine.declare_queue_with("small", &options(Some(50), None)).unwrap();
    let taken: usize = std::thread::scope(|scope| {
        let publish = || {
            let publisher = engine.publisher();
            let message = Message::new("", "small", b"x");
            (0..100).filter(|_| publisher.publish_confirmed(&message).is_ok()).count()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(publish)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!((50..54).contains(&taken), "{taken}");
    assert_eq!(engine.queue("small").unwrap().messages, taken as u64);
    assert_eq!(engine.stats().refused_messages, 400 - taken as u64);
}

/// As [`with_two`], and what `small` refuses goes to `dead`.
fn with_dead() -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    for exchange in ["all", "dlx"] {
        engine.declare_exchange(exchange, ExchangeKind::Fanout).unwrap();
    }
    let dead = QueueOptions {
        overflow: Overflow::RejectPublishDlx,
        dead_letter_exchange: Some("dlx".to_owned()),
        dead_letter_key: Some("gone".to_owned()),
        ..options(Some(2), None)
    };
    engine.declare_queue_with("small", &dead).unwrap();
    for (queue, exchange) in [("small", "all"), ("large", "all"), ("dead", "dlx")] {
        if queue != "small" {
            engine.declare_queue(queue).unwrap();
        }
        engine.bind(queue, exchange, "").unwrap();
    }
    (machine, engine)
}

#[test]
fn what_is_refused_is_dead_lettered_in_the_batch_of_the_message() {
    let (machine, engine) = with_dead();
    for payload in [b"0", b"1"] {
        to_all(&engine, payload).unwrap();
    }
    let headers = Table::new().with("mine", 7_i32);
    let message = Message {
        priority: 3,
        ..Message::new("all", "k", b"2").properties(b"props").headers(headers.as_bytes())
    };
    let batches = engine.stats().batches;
    let refused = refusal(engine.publisher().publish_confirmed(&message));
    let stored = refused.1.unwrap();
    assert_eq!((stored.messages, engine.stats().batches - batches), (1, 1));
    for engine in [machine.power_cut().open(), engine] {
        assert_eq!(unacked(&engine, "small"), ["0", "1"]);
        assert_eq!(unacked(&engine, "large"), ["0", "1", "2"]);
        let letter = next(&consume(&engine, "dead", 1));
        assert_eq!(letter.offset().0, stored.first_offset.0 + 1);
        assert_eq!(
            (letter.payload(), letter.properties(), letter.priority()),
            (&b"2"[..], &b"props"[..], 3)
        );
        assert_eq!((text(letter.routing_key()), &*letter.exchange()), ("gone".to_owned(), "dlx"));
        let headers = TableRef::new(letter.headers()).unwrap();
        assert_eq!(headers.get("mine"), Some(Value::I32(7)));
        let first = ["x-first-death-queue", "x-first-death-reason", "x-first-death-exchange"];
        let first = first.map(|key| headers.get(key).and_then(Value::as_text).unwrap());
        assert_eq!(first, ["small", "maxlen", "all"]);
        sound(&engine);
    }
}

#[test]
fn with_no_other_queue_only_the_copy_is_stored() {
    let (machine, engine) = with_dead();
    for payload in [b"0", b"1"] {
        publish(&engine, "small", payload);
    }
    let ticket = engine.publisher().publish(&Message::new("", "small", b"2")).unwrap();
    assert_eq!(refusal(ticket.wait()), of_small(None));
    let meter = engine.declare_publisher("meter").unwrap();
    let numbered = Message::new("", "small", b"3");
    assert_eq!(refusal(meter.publish(1, &numbered).unwrap().wait()), of_small(None));
    assert!(meter.publish(1, &numbered).unwrap().is_repeat());
    let stats = engine.stats();
    assert_eq!((stats.dead_lettered_messages, stats.refused_messages), (2, 2));
    assert_eq!((stats.unroutable_messages, stats.unroutable_dropped), (0, 0));
    sound(&engine);
    let engine = machine.killed().open();
    assert_eq!(
        (unacked(&engine, "small"), unacked(&engine, "dead")),
        (vec!["0".to_owned(), "1".to_owned()], vec!["2".to_owned(), "3".to_owned()],)
    );
    assert_eq!(engine.named_publisher("meter").unwrap().last_sequence(), 1);
    sound(&engine);
}

#[test]
fn without_a_way_for_the_copy_or_in_a_batch_it_is_refused_as_without_one() {
    let (_machine, engine) = with_dead();
    for payload in [b"0", b"1"] {
        publish(&engine, "small", payload);
    }
    let message = Message::new("", "small", b"x");
    assert_eq!(refusal(engine.publisher().publish_batch(&[message; 2])), of_small(None));
    engine.unbind("dead", "dlx", "").unwrap();
    assert_eq!(refusal(engine.publisher().publish(&message)), of_small(None));
    // In a circle.
    engine.bind("small", "dlx", "").unwrap();
    assert_eq!(refusal(engine.publisher().publish(&message)), of_small(None));
    engine.delete_exchange("dlx").unwrap();
    assert_eq!(refusal(engine.publisher().publish(&message)), of_small(None));
    assert_eq!((unacked(&engine, "small").len(), unacked(&engine, "dead").len()), (2, 0));
    assert_eq!(engine.stats().dead_lettered_messages, 0);
    sound(&engine);
}
