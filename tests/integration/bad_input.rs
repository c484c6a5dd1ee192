//! What can't be: each kind with its error, which names what was wrong, and nothing is changed.

use std::time::{Duration, SystemTime};

use fanlog::{
    Change, Consumer, ConsumerOptions, DeliveryTag, Engine, ErrorKind, ExchangeKind,
    ExchangeOptions, History, Message, Offset, QueueOptions, Result, StartAt, Table,
};

use crate::support::{Machine, consume, next, publish, settle, sound};

const MIB: usize = 1 << 20;

/// A store with something of each kind.
fn filled() -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    let history = Some(History::of_bytes(1 << 20));
    let keeps = ExchangeOptions { history, ..ExchangeOptions::default() };
    engine.declare_exchange_with("news", ExchangeKind::Topic, &keeps).unwrap();
    engine.declare_exchange("plain", ExchangeKind::Headers).unwrap();
    engine.declare_queue("jobs").unwrap();
    engine.bind("jobs", "news", "#").unwrap();
    engine.declare_publisher("named").unwrap();
    publish(&engine, "jobs", b"first");
    settle(&engine);
    (machine, engine)
}

/// All that a bad call must not change.
fn state(machine: &Machine, engine: &Engine) -> String {
    settle(engine);
    let stats = engine.stats();
    let (end, published) = (stats.end_offset, stats.published_messages);
    let topology = format!("{:?}", engine.topology());
    format!("{} {end:?} {published} {topology}", machine.disk.operation_count())
}

type Call<'a> = Box<dyn Fn() -> Result<()> + 'a>;

fn call<'a, T>(make: impl Fn() -> Result<T> + 'a) -> Call<'a> {
    Box::new(move || make().map(drop))
}

/// Makes each call: its error is of that kind, says these words, and nothing is changed.
#[track_caller]
fn refused(machine: &Machine, engine: &Engine, kind: ErrorKind, words: &str, calls: &[Call<'_>]) {
    for (number, call) in calls.iter().enumerate() {
        let before = state(machine, engine);
        let error = call().expect_err(words);
        assert_eq!(error.kind(), kind, "call {number} for {words:?}: {error}");
        assert!(error.to_string().contains(words), "call {number}: {error}, not {words:?}");
        assert_eq!(state(machine, engine), before, "call {number} for {words:?}: {error}");
    }
}

#[test]
fn names_that_are_empty_or_too_long() {
    let (machine, engine) = filled();
    let long = "n".repeat(256);
    let options = QueueOptions::default();
    for (name, words) in [("", "0 bytes long"), (long.as_str(), "256 bytes long")] {
        let declare = Change::DeclareExchange { name, kind: ExchangeKind::Fanout };
        let calls = [
            call(|| engine.change(&[Change::declare_queue(name)])),
            call(|| engine.change(&[Change::declare_queue("good"), declare])),
            call(|| engine.declare_publisher(name)),
        ];
        refused(&machine, &engine, ErrorKind::Usage, words, &calls);
    }
    // A queue that has none is given one.
    let calls = [
        call(|| engine.declare_queue(&long)),
        call(|| engine.declare_exclusive_queue(&long, &QueueOptions::default())),
    ];
    refused(&machine, &engine, ErrorKind::Usage, "256 bytes long", &calls);
    let tag = ConsumerOptions { tag: long.clone(), ..ConsumerOptions::default() };
    let none = Table::new();
    let calls = [
        call(|| engine.consume("jobs", tag.clone())),
        call(|| engine.bind("jobs", "news", &long)),
        call(|| engine.unbind("jobs", "news", &long)),
        call(|| engine.bind_exchange("plain", "news", &long, &none)),
        call(|| engine.bind_from("jobs", "news", &long, &none, StartAt::Earliest)),
        call(|| engine.publisher().publish(&Message::new("news", &long, b""))),
    ];
    refused(&machine, &engine, ErrorKind::Usage, "256 bytes long", &calls);
    let dead = QueueOptions { dead_letter_exchange: Some(long.clone()), ..options.clone() };
    let key = QueueOptions {
        dead_letter_exchange: Some(String::new()),
        dead_letter_key: Some(long.clone()),
        ..options
    };
    let other = ExchangeOptions { alternate: Some(long.clone()), ..ExchangeOptions::default() };
    let calls = [
        call(|| engine.declare_queue_with("good", &dead)),
        call(|| engine.declare_queue_with("good", &key)),
        call(|| engine.declare_exchange_with("good", ExchangeKind::Fanout, &other)),
    ];
    refused(&machine, &engine, ErrorKind::Usage, "256 bytes long", &calls);
    sound(&engine);
}

#[test]
fn names_of_what_is_not_there() {
    let (machine, engine) = filled();
    let none = Table::new();
    let queue = "no queue named \"nobody\"";
    let calls = [
        call(|| engine.bind("nobody", "news", "")),
        call(|| engine.unbind("nobody", "news", "")),
        call(|| engine.bind_from("nobody", "news", "", &none, StartAt::Earliest)),
        call(|| engine.rewind("nobody", StartAt::Offset(Offset(0)))),
        call(|| engine.delete_queue("nobody")),
        call(|| engine.delete_queue_with("nobody", fanlog::DeleteQueue::default())),
        call(|| engine.purge_queue("nobody")),
        call(|| engine.consume("nobody", ConsumerOptions::default())),
        call(|| engine.get("nobody")),
        call(|| engine.peek("nobody", 1)),
        call(|| engine.browse("nobody")),
        call(|| engine.queue("nobody")),
    ];
    refused(&machine, &engine, ErrorKind::NotFound, queue, &calls);
    let message = Message::new("nowhere", "", b"");
    let exchange = "no exchange named \"nowhere\"";
    let calls = [
        call(|| engine.bind("jobs", "nowhere", "")),
        call(|| engine.unbind("jobs", "nowhere", "")),
        call(|| engine.bind_exchange("nowhere", "news", "", &none)),
        call(|| engine.bind_exchange("news", "nowhere", "", &none)),
        call(|| engine.unbind_exchange("nowhere", "news", "", &none)),
        call(|| engine.bind_from("jobs", "nowhere", "", &none, StartAt::Earliest)),
        call(|| engine.delete_exchange("nowhere")),
        call(|| engine.delete_exchange_if_unused("nowhere")),
        call(|| engine.publisher().publish(&message)),
        call(|| engine.publisher().publish(&message.optional())),
        call(|| engine.publisher().publish_batch(&[Message::new("", "jobs", b""), message])),
        call(|| engine.begin().publish(&message)),
        call(|| engine.named_publisher("named")?.publish(1, &message)),
    ];
    refused(&machine, &engine, ErrorKind::NotFound, exchange, &calls);
    let calls = [call(|| engine.named_publisher("stranger"))];
    refused(&machine, &engine, ErrorKind::NotFound, "stranger", &calls);
    let calls = [
        call(|| engine.unbind("jobs", "news", "other")),
        call(|| engine.unbind_exchange("plain", "news", "other", &none)),
    ];
    refused(&machine, &engine, ErrorKind::NotFound, "no binding named", &calls);
    assert_eq!(engine.named_publisher("named").unwrap().last_sequence(), 0);
    sound(&engine);
}

#[test]
fn tags_that_are_unknown_or_settled() {
    let (machine, engine) = filled();
    let consumer: Consumer = consume(&engine, "jobs", 5);
    let tag = next(&consumer).keep();
    consumer.ack(tag).unwrap().wait().unwrap();
    for tag in [tag, DeliveryTag(77)] {
        let words = format!("holds no delivery with tag {tag}");
        let calls = [
            call(|| consumer.ack(tag)),
            call(|| consumer.ack_multiple(tag)),
            call(|| consumer.nack(tag, true)),
            call(|| consumer.nack(tag, false)),
            call(|| consumer.reject(tag, true)),
            call(|| consumer.nack_multiple(tag, true)),
            call(|| engine.begin().ack_tag(&consumer, tag)),
        ];
        refused(&machine, &engine, ErrorKind::NotFound, &words, &calls);
    }
    sound(&engine);
}

#[test]
fn arguments_of_a_wrong_type_and_values_that_can_not_be() {
    let (machine, engine) = filled();
    for (argument, table) in [
        ("x-message-ttl", Table::new().with("x-message-ttl", "soon")),
        ("x-message-ttl", Table::new().with("x-message-ttl", -1)),
        ("x-expires", Table::new().with("x-expires", 0)),
        ("x-max-length", Table::new().with("x-max-length", 1.5)),
        ("x-max-length-bytes", Table::new().with("x-max-length-bytes", true)),
        ("x-overflow", Table::new().with("x-overflow", "drop-tail")),
        ("x-dead-letter-exchange", Table::new().with("x-dead-letter-exchange", 7)),
        ("x-dead-letter-routing-key", Table::new().with("x-dead-letter-routing-key", "alone")),
        ("x-delivery-limit", Table::new().with("x-delivery-limit", -1)),
        ("x-max-priority", Table::new().with("x-max-priority", 256)),
        ("x-single-active-consumer", Table::new().with("x-single-active-consumer", "yes")),
        ("x-consumer-timeout", Table::new().with("x-consumer-timeout", 0)),
    ] {
        let declare = || engine.declare_queue_with("good", &QueueOptions::from_arguments(&table)?);
        refused(&machine, &engine, ErrorKind::Usage, argument, &[call(declare)]);
    }
    for (argument, table) in [
        ("alternate-exchange", Table::new().with("alternate-exchange", 7)),
        ("x-history-max-age", Table::new().with("x-history-max-age", "long")),
        ("x-history-max-bytes", Table::new().with("x-history-max-bytes", -1)),
    ] {
        let declare = || {
            let options = ExchangeOptions::from_arguments(&table)?;
            engine.declare_exchange_with("good", ExchangeKind::Fanout, &options)
        };
        refused(&machine, &engine, ErrorKind::Usage, argument, &[call(declare)]);
    }
    let some = Table::new().with("x-match", "some");
    let calls = [
        call(|| engine.bind_with("jobs", "plain", "", &some)),
        call(|| engine.bind_exchange("news", "plain", "", &some)),
    ];
    refused(&machine, &engine, ErrorKind::Usage, "x-match", &calls);
    sound(&engine);
}

#[test]
fn what_is_too_large_or_beyond_the_end_of_time() {
    let (machine, engine) = filled();
    let (long, over) = (vec![0; MIB + 1], vec![0; 64 * MIB + 1]);
    let plain = Message::new("", "jobs", b"m");
    let numbered = |message: &Message<'_>| engine.named_publisher("named")?.publish(1, message);
    for (message, kind, words) in [
        (plain.headers(&long), ErrorKind::TooLarge, "headers has 1048577 bytes"),
        (plain.properties(&long), ErrorKind::TooLarge, "properties has 1048577 bytes"),
        (Message::new("", "jobs", &over), ErrorKind::TooLarge, "message has 67108865 bytes"),
        (plain.delay(Duration::MAX), ErrorKind::Usage, "beyond the end of time"),
        (
            plain.due_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60)),
            ErrorKind::Usage,
            "beyond the end of time",
        ),
    ] {
        let calls = [
            call(|| engine.publisher().publish(&message)),
            call(|| engine.publisher().publish(&message.optional())),
            call(|| engine.publisher().publish_batch(&[plain, message])),
            call(|| engine.begin().publish(&message)),
            call(|| numbered(&message)),
        ];
        refused(&machine, &engine, kind, words, &calls);
    }
    // No table grows over its limit, and no declaration takes one that is too large for it.
    let text = "t".repeat(MIB);
    let mut table = Table::new();
    let error = table.try_push("large", text.as_str()).unwrap_err();
    assert!(error.to_string().contains("1048576") && table.is_empty(), "{error}");
    let arguments = Table::new().with("mine", &text[..MIB - 100]);
    let queue = QueueOptions { arguments: arguments.clone(), ..QueueOptions::default() };
    let exchange = ExchangeOptions { arguments, ..ExchangeOptions::default() };
    let calls = [
        call(|| engine.declare_queue_with("good", &queue)),
        call(|| engine.declare_exchange_with("good", ExchangeKind::Fanout, &exchange)),
    ];
    refused(&machine, &engine, ErrorKind::TooLarge, "arguments has", &calls);
    assert_eq!(engine.named_publisher("named").unwrap().last_sequence(), 0);
    sound(&engine);
}
