//! Messages that leave a queue and go to its dead-letter exchange: once, whatever happens.

use std::time::Duration;

use fanlog::{
    Delivery, Engine, ExchangeKind, Message, QueueOptions, Table, TableRef, Value,
    storage::CrashMode,
};

use crate::support::{
    Machine, consume, next, nothing, publish, publish_numbers, ready, settle, sound, text, texts,
    unacked,
};

fn dead() -> QueueOptions {
    QueueOptions { dead_letter_exchange: Some("dlx".to_owned()), ..QueueOptions::default() }
}

/// `work` with these options, whose dead letters go to `dead`.
fn with(options: &QueueOptions) -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("dlx", ExchangeKind::Fanout).unwrap();
    engine.declare_queue_with("work", options).unwrap();
    engine.declare_queue("dead").unwrap();
    engine.bind("dead", "dlx", "").unwrap();
    (machine, engine)
}

fn pass(machine: &Machine, engine: &Engine) {
    for _ in 0..3 {
        machine.clock.advance(Duration::from_millis(200));
        settle(engine);
    }
}

/// The entries of a delivery's history: queue, reason, count.
fn history(delivery: &Delivery) -> Vec<(String, String, i64)> {
    let headers = TableRef::new(delivery.headers()).unwrap();
    let Some(Value::Array(deaths)) = headers.get("x-death") else { return Vec::new() };
    let of = |death: Value<'_>| {
        let Value::Table(death) = death else { panic!("{death:?}") };
        let name = |key| death.get(key).and_then(Value::as_text).unwrap().to_owned();
        (name("queue"), name("reason"), death.get("count").and_then(Value::as_integer).unwrap())
    };
    deaths.iter().map(of).collect()
}

fn entry(queue: &str, reason: &str, count: i64) -> (String, String, i64) {
    (queue.to_owned(), reason.to_owned(), count)
}

#[test]
fn a_rejected_message_goes_there_with_all_that_it_has_and_its_history() {
    let (machine, engine) = with(&dead());
    let headers = Table::new().with("mine", 7_i32);
    let message = Message {
        priority: 3,
        ..Message::new("", "work", b"a").properties(b"props").headers(headers.as_bytes())
    };
    engine.publisher().publish_confirmed(&message).unwrap();
    let consumer = consume(&engine, "work", 1);
    next(&consumer).nack(false).unwrap();
    nothing(&consumer);
    settle(&engine);
    assert_eq!(engine.queue("work").unwrap().messages, 0);
    assert_eq!(engine.stats().dead_lettered_messages, 1);
    let letter = next(&consume(&engine, "dead", 1));
    assert_eq!(
        (letter.payload(), letter.properties(), letter.priority()),
        (&b"a"[..], &b"props"[..], 3)
    );
    assert_eq!((text(letter.routing_key()), &*letter.exchange()), ("work".to_owned(), "dlx"));
    assert_eq!(history(&letter), [entry("work", "rejected", 1)]);
    assert!(!letter.redelivered());
    let headers = TableRef::new(letter.headers()).unwrap();
    assert_eq!(headers.get("mine"), Some(Value::I32(7)));
    let first = ["x-first-death-queue", "x-first-death-reason", "x-first-death-exchange"];
    let first = first.map(|key| headers.get(key).and_then(Value::as_text).unwrap());
    assert_eq!(first, ["work", "rejected", ""]);
    sound(&engine);
    let engine = machine.power_cut().open();
    assert_eq!(
        (unacked(&engine, "work").len(), unacked(&engine, "dead")),
        (0, vec!["a".to_owned()])
    );
    sound(&engine);
}

#[test]
fn the_copy_of_a_transient_message_is_transient_and_of_others_it_is_not() {
    let (machine, engine) = with(&dead());
    for (text, transient) in [("t", true), ("kept", false), ("u", true)] {
        let message = Message::new("", "work", text.as_bytes());
        let message = if transient { message.transient() } else { message };
        engine.publisher().publish(&message).unwrap();
    }
    let consumer = consume(&engine, "work", 9);
    for delivery in ready(&consumer) {
        delivery.nack(false).unwrap();
    }
    settle(&engine);
    assert_eq!(unacked(&engine, "dead"), ["t", "kept", "u"]);
    sound(&engine);
    for machine in [machine.killed(), machine.power_cut()] {
        let engine = machine.open();
        assert_eq!(unacked(&engine, "dead"), ["kept"]);
        assert_eq!(engine.queue("work").unwrap().messages, 0);
        sound(&engine);
    }
}

#[test]
fn get_takes_and_peek_shows_only_what_stays_and_a_rejection_there_counts_too() {
    let options = QueueOptions { message_ttl: Some(Duration::from_secs(5)), ..dead() };
    let (machine, engine) = with(&options);
    publish(&engine, "work", b"old");
    machine.clock.advance(Duration::from_secs(5));
    publish(&engine, "work", b"young");
    let shown = engine.peek("work", 9).unwrap();
    assert_eq!(shown.iter().map(|one| text(&one.payload)).collect::<Vec<_>>(), ["young"]);
    engine.get("work").unwrap().unwrap().nack(false).unwrap();
    assert!(engine.get("work").unwrap().is_none());
    settle(&engine);
    assert_eq!(unacked(&engine, "dead"), ["old", "young"]);
    sound(&engine);
}

#[test]
fn many_are_rejected_by_tag_and_as_a_batch() {
    let (_machine, engine) = with(&dead());
    publish_numbers(&engine, "work", 300);
    let consumer = consume(&engine, "work", 0);
    let batch = consumer.recv_batch(100, Duration::ZERO).unwrap();
    batch.nack(false).unwrap();
    for delivery in ready(&consumer) {
        delivery.nack(false).unwrap();
    }
    settle(&engine);
    assert_eq!(engine.queue("work").unwrap().messages, 0);
    let expected: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    assert_eq!(unacked(&engine, "dead"), expected);
    sound(&engine);
}

#[test]
fn a_key_of_its_own_replaces_the_messages() {
    let options = QueueOptions {
        dead_letter_exchange: Some(String::new()),
        dead_letter_key: Some("dead".to_owned()),
        ..QueueOptions::default()
    };
    let (_machine, engine) = with(&options);
    publish(&engine, "work", b"a");
    next(&consume(&engine, "work", 1)).nack(false).unwrap();
    settle(&engine);
    assert_eq!(unacked(&engine, "dead"), ["a"]);
    sound(&engine);
}

#[test]
fn an_expired_message_goes_there_and_does_not_expire_again() {
    let options = QueueOptions { message_ttl: Some(Duration::from_secs(5)), ..dead() };
    let (machine, engine) = with(&options);
    publish(&engine, "work", b"by the queue");
    let message = Message::new("", "work", b"by itself").ttl(Duration::from_secs(1));
    engine.publisher().publish_confirmed(&message).unwrap();
    machine.clock.advance(Duration::from_secs(5));
    pass(&machine, &engine);
    machine.clock.advance(Duration::from_secs(100));
    let letters = ready(&consume(&engine, "dead", 9));
    assert_eq!(texts(&letters), ["by the queue", "by itself"]);
    assert_eq!(history(&letters[0]), [entry("work", "expired", 1)]);
    assert_eq!(engine.queue("work").unwrap().messages, 0);
    sound(&engine);
}

#[test]
fn what_is_over_the_length_goes_there() {
    let options = QueueOptions { messages_max: Some(2), ..dead() };
    let (machine, engine) = with(&options);
    publish_numbers(&engine, "work", 5);
    pass(&machine, &engine);
    assert_eq!(unacked(&engine, "work"), ["3", "4"]);
    let letters = ready(&consume(&engine, "dead", 9));
    assert_eq!(texts(&letters), ["0", "1", "2"]);
    assert_eq!(history(&letters[0]), [entry("work", "maxlen", 1)]);
    sound(&engine);
}

#[test]
fn a_message_that_comes_back_too_often_goes_there_and_its_neighbours_stay() {
    let options = QueueOptions { delivery_limit: Some(2), ..dead() };
    let (_machine, engine) = with(&options);
    publish_numbers(&engine, "work", 2);
    let consumer = consume(&engine, "work", 1);
    for count in 0..3 {
        let delivery = next(&consumer);
        assert_eq!((delivery.payload(), delivery.delivery_count()), (&b"0"[..], count));
        drop(delivery);
    }
    assert_eq!(next(&consumer).payload(), b"1");
    settle(&engine);
    let letter = next(&consume(&engine, "dead", 1));
    assert_eq!(history(&letter), [entry("work", "delivery_limit", 1)]);
    assert_eq!(engine.stats().over_delivered_messages, 1);
    sound(&engine);
}

#[test]
fn a_message_that_kills_its_host_reaches_the_delivery_limit_without_an_exchange_too() {
    let options = QueueOptions { delivery_limit: Some(3), ..QueueOptions::default() };
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue_with("work", &options).unwrap();
    publish(&engine, "work", b"poison");
    drop(engine);
    let mut machine = machine.power_cut();
    let mut hand_outs = 0;
    loop {
        let engine = machine.open();
        let consumer = consume(&engine, "work", 1);
        let Some(delivery) = consumer.recv_timeout(Duration::ZERO).unwrap() else {
            settle(&engine);
            pass(&machine, &engine);
            assert_eq!(engine.queue("work").unwrap().messages, 0);
            sound(&engine);
            break;
        };
        hand_outs += 1;
        assert!(hand_outs < 10, "it comes for ever");
        // The host dies with it: what the system had is there.
        let dies = machine.killed();
        delivery.keep();
        drop(consumer);
        machine = dies;
    }
    assert!(hand_outs >= 4, "{hand_outs}");
}

#[test]
fn where_it_goes_nowhere_it_is_dropped() {
    for (exchange, declared) in [("nowhere", false), ("empty", true)] {
        let machine = Machine::new();
        let engine = machine.open();
        if declared {
            engine.declare_exchange(exchange, ExchangeKind::Fanout).unwrap();
        }
        let options = QueueOptions { dead_letter_exchange: Some(exchange.to_owned()), ..dead() };
        engine.declare_queue_with("work", &options).unwrap();
        publish(&engine, "work", b"a");
        next(&consume(&engine, "work", 1)).nack(false).unwrap();
        pass(&machine, &engine);
        assert_eq!(engine.queue("work").unwrap().messages, 0);
        sound(&engine);
    }
}

#[test]
fn a_circle_ends_where_nobody_rejects_and_goes_on_where_somebody_does() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_exchange("dlx", ExchangeKind::Fanout).unwrap();
    let options = QueueOptions { message_ttl: Some(Duration::from_secs(1)), ..dead() };
    for queue in ["a", "b"] {
        engine.declare_queue_with(queue, &options).unwrap();
        engine.bind(queue, "dlx", "").unwrap();
    }
    publish(&engine, "a", b"expires");
    machine.clock.advance(Duration::from_secs(1));
    pass(&machine, &engine);
    // Of the two queues there only `b` gets it, as it came from `a`.
    assert_eq!((unacked(&engine, "a").len(), unacked(&engine, "b").len()), (0, 1));
    machine.clock.advance(Duration::from_secs(1));
    pass(&machine, &engine);
    assert_eq!((unacked(&engine, "a").len(), unacked(&engine, "b").len()), (0, 0));
    sound(&engine);

    publish(&engine, "a", b"rejected");
    let consumer = consume(&engine, "a", 1);
    next(&consumer).nack(false).unwrap();
    let again = next(&consumer);
    assert_eq!(history(&again), [entry("a", "rejected", 1)]);
    again.nack(false).unwrap();
    let again = next(&consumer);
    assert_eq!(history(&again), [entry("a", "rejected", 2)]);
    again.ack().unwrap();
    pass(&machine, &engine);
    sound(&engine);
}

#[test]
fn headers_that_are_no_table_are_kept_beside_the_history() {
    let (_machine, engine) = with(&dead());
    let message = Message::new("", "work", b"a").headers(b"\xff\xff\xff");
    engine.publisher().publish_confirmed(&message).unwrap();
    next(&consume(&engine, "work", 1)).nack(false).unwrap();
    settle(&engine);
    let letter = next(&consume(&engine, "dead", 1));
    let headers = TableRef::new(letter.headers()).unwrap();
    assert_eq!(headers.get("x-opaque-headers"), Some(Value::Bytes(b"\xff\xff\xff")));
}

#[test]
fn while_there_is_no_room_it_waits_and_a_crash_brings_it_back() {
    let (machine, engine) = with(&dead());
    publish(&engine, "work", b"a");
    let consumer = consume(&engine, "work", 1);
    let delivery = next(&consumer);
    // The buffer is full of what is not written yet.
    let large = vec![0; 1 << 20];
    engine.publisher().publish(&Message::new("", "dead", &large)).unwrap();
    delivery.nack(false).unwrap();
    assert_eq!(engine.queue("work").unwrap().messages, 1);
    nothing_yet(&machine);
    pass(&machine, &engine);
    assert_eq!(engine.queue("work").unwrap().messages, 0);
    assert_eq!(engine.queue("dead").unwrap().messages, 2);
    sound(&engine);
}

/// What was rejected has left the queue: a purge drops neither it nor, for ever, the way there.
#[test]
fn a_purge_leaves_what_waits_for_room_and_what_comes_later_goes_as_ever() {
    let (machine, engine) = with(&dead());
    publish_numbers(&engine, "work", 3);
    let consumer = consume(&engine, "work", 1);
    let delivery = next(&consumer);
    let large = vec![0; 1 << 20];
    engine.publisher().publish(&Message::new("", "dead", &large)).unwrap();
    delivery.nack(false).unwrap();
    assert_eq!(engine.purge_queue("work").unwrap(), 2);
    let view = engine.queue("work").unwrap();
    assert_eq!((view.messages, view.ready, view.unacked), (1, 1, 0));
    let again = machine.killed().open();
    assert_eq!(unacked(&again, "work"), ["0"]);
    sound(&again);
    pass(&machine, &engine);
    publish(&engine, "work", b"later");
    next(&consumer).nack(false).unwrap();
    pass(&machine, &engine);
    let view = engine.queue("work").unwrap();
    assert_eq!((view.messages, view.ready, view.unacked), (0, 0, 0));
    assert_eq!(unacked(&engine, "dead")[1..], ["0", "later"]);
    sound(&engine);
}

#[test]
fn a_queue_that_comes_to_its_end_is_there_until_its_dead_letters_have_room() {
    for (auto_delete, expires) in [(true, None), (false, Some(Duration::from_millis(300)))] {
        let (machine, engine) = with(&QueueOptions { auto_delete, expires, ..dead() });
        publish(&engine, "work", b"a");
        let consumer = consume(&engine, "work", 1);
        let delivery = next(&consumer);
        let large = vec![0; 1 << 20];
        engine.publisher().publish(&Message::new("", "dead", &large)).unwrap();
        delivery.nack(false).unwrap();
        drop(consumer);
        assert_eq!(engine.queue("work").unwrap().messages, 1);
        for _ in 0..3 {
            pass(&machine, &engine);
        }
        assert!(engine.queue("work").is_err(), "{auto_delete}");
        assert_eq!(unacked(&engine, "dead")[1..], ["a"]);
        sound(&engine);
    }
}

fn nothing_yet(machine: &Machine) {
    let again = machine.killed().open();
    let consumer = consume(&again, "work", 1);
    let delivery = next(&consumer);
    assert_eq!((delivery.payload(), delivery.redelivered()), (&b"a"[..], true));
}

/// Power is cut at every operation while messages are rejected, expire and overflow: each is in one
/// of the two queues, whatever the disk kept.
#[test]
fn no_cut_loses_or_doubles_a_message() {
    let options = QueueOptions {
        message_ttl: Some(Duration::from_secs(10)),
        messages_max: Some(4),
        ..dead()
    };
    let (machine, engine) = with(&options);
    for number in 0..6_u8 {
        publish(&engine, "work", &vec![number; 9000]);
    }
    drop(engine);
    let (mut there, mut moved) = (0, 0);
    for cut in 0..40 {
        let trial = Machine { disk: machine.disk.deep_copy(), clock: std::sync::Arc::default() };
        let engine = trial.open();
        trial.disk.cut_at(trial.disk.operation_count() + cut);
        // The cut ends it somewhere.
        drop(run_down(&trial, &engine));
        for seed in 0..6 {
            let mode = [CrashMode::LoseUnsynced, CrashMode::KeepAll, CrashMode::Random];
            let disk = trial.disk.crash_image(seed, mode[(seed % 3) as usize]);
            let again = Machine { disk, clock: std::sync::Arc::default() }.open();
            let mut found: Vec<u8> = Vec::new();
            for queue in ["work", "dead"] {
                let messages = again.browse(queue).unwrap().map(|message| message.unwrap());
                let left: Vec<u8> = messages
                    .filter(|message| !message.acked)
                    .map(|message| message.payload[0])
                    .collect();
                assert_eq!(again.queue(queue).unwrap().messages, left.len() as u64);
                if queue == "dead" {
                    moved += left.len();
                } else {
                    there += left.len();
                }
                found.extend(left);
            }
            found.sort_unstable();
            assert_eq!(found, [0, 1, 2, 3, 4, 5], "cut at {cut}, seed {seed}");
            sound(&again);
        }
    }
    assert!(there > 50 && moved > 50, "{there} {moved}");
}

/// Rejects one message, lets others overflow, and the rest expire.
fn run_down(machine: &Machine, engine: &Engine) -> fanlog::Result<()> {
    let consumer = engine.consume("work", fanlog::ConsumerOptions::prefetch(1))?;
    if let Some(delivery) = consumer.recv_timeout(Duration::ZERO)? {
        delivery.nack(false)?;
    }
    drop(consumer);
    for _ in 0..4 {
        machine.clock.advance(Duration::from_secs(4));
        while engine.step()? {}
    }
    Ok(())
}

/// The entry of a history that stands first: its `time` and `original-expiration`.
fn newest(delivery: &Delivery) -> (u64, Option<String>) {
    let headers = TableRef::new(delivery.headers()).unwrap();
    let Some(Value::Array(deaths)) = headers.get("x-death") else { panic!("no history") };
    let Some(Value::Table(death)) = deaths.iter().next() else { panic!("no entry") };
    let Some(Value::Timestamp(time)) = death.get("time") else { panic!("no time") };
    (time, death.get("original-expiration").map(|text| text.as_text().unwrap().to_owned()))
}

#[test]
fn the_copy_has_no_time_of_its_own_and_its_history_tells_what_it_was() {
    let (machine, engine) = with(&dead());
    let message = Message::new("", "work", b"a").ttl(Duration::from_millis(1500));
    engine.publisher().publish_confirmed(&message).unwrap();
    machine.clock.advance(Duration::from_secs(2));
    settle(&engine);
    // It would be over there too.
    machine.clock.advance(Duration::from_secs(100));
    settle(&engine);
    let letter = engine.get("dead").unwrap().unwrap();
    assert_eq!(history(&letter), [entry("work", "expired", 1)]);
    let (first_time, expiration) = newest(&letter);
    assert_eq!(expiration.as_deref(), Some("1500"));
    // The same again: the entry stays what it was, and is counted.
    let again = Message::new("", "work", b"a").headers(letter.headers()).ttl(Duration::ZERO);
    engine.publisher().publish_confirmed(&again).unwrap();
    machine.clock.advance(Duration::from_secs(1));
    pass(&machine, &engine);
    let counted = engine.get("dead").unwrap().unwrap();
    assert_eq!(history(&counted), [entry("work", "expired", 2)]);
    assert_eq!(newest(&counted), (first_time, Some("1500".to_owned())));
    // For another reason it is told as well; where there was none it is not.
    let plain = Message::new("", "work", b"b");
    for (message, told) in
        [(plain.ttl(Duration::from_secs(9)), Some("9000".to_owned())), (plain, None)]
    {
        engine.publisher().publish_confirmed(&message).unwrap();
        engine.get("work").unwrap().unwrap().nack(false).unwrap();
        pass(&machine, &engine);
        let letter = engine.get("dead").unwrap().unwrap();
        assert_eq!(newest(&letter).1, told);
        letter.ack().unwrap();
    }
    sound(&engine);
}
