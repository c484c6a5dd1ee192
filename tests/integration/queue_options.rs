//! What a queue is declared with: kept, compared, shown and refused.

use std::time::Duration;

use fanlog::{Change, Engine, Error, ErrorKind, Overflow, QueueOptions, Table};

use crate::support::{Machine, settle};

fn limited() -> QueueOptions {
    QueueOptions {
        expires: Some(Duration::from_hours(1)),
        message_ttl: Some(Duration::from_mins(1)),
        messages_max: Some(10),
        bytes_max: Some(1 << 20),
        overflow: Overflow::RejectPublish,
        dead_letter_exchange: Some("dead".to_owned()),
        dead_letter_key: Some("letters".to_owned()),
        delivery_limit: Some(5),
        priority_max: Some(9),
        ack_timeout: Some(Duration::MAX),
        arguments: Table::new().with("x-queue-mode", "lazy"),
        ..QueueOptions::default()
    }
}

fn options_of(engine: &Engine, queue: &str) -> QueueOptions {
    engine.queue(queue).unwrap().options
}

#[test]
fn options_are_there_after_a_checkpoint_a_clean_close_and_a_power_cut() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue_with("limited", &limited()).unwrap();
    engine.declare_queue("plain").unwrap();
    let see = |engine: &Engine| {
        assert_eq!(options_of(engine, "limited"), limited());
        assert_eq!(options_of(engine, "plain"), QueueOptions::default());
        engine.declare_queue_with("limited", &limited()).unwrap();
        assert!(engine.declare_queue("limited").is_err());
        let shown = engine.topology().queues;
        assert_eq!(shown.iter().find(|queue| queue.name == "limited").unwrap().options, limited());
    };
    see(&engine);
    // From the log alone.
    see(&machine.power_cut().open());
    engine.checkpoint().unwrap();
    settle(&engine);
    see(&machine.power_cut().open());
    engine.close(Duration::ZERO).unwrap();
    see(&machine.open());
}

#[test]
fn declaring_with_other_options_names_argument_and_both_values_and_changes_nothing() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue_with("q", &limited()).unwrap();
    let asked = QueueOptions { message_ttl: Some(Duration::from_secs(5)), ..limited() };
    let error = engine.declare_queue_with("q", &asked).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let Error::Mismatch { what, name, argument, existing, asked } = error else { panic!() };
    assert_eq!((what, &*name, &*argument), ("queue", "q", "x-message-ttl"));
    assert_eq!((&*existing, &*asked), ("60000", "5000"));
    assert_eq!(options_of(&engine, "q"), limited());
}

#[test]
fn options_that_can_not_be_are_refused_and_nothing_is_declared() {
    let machine = Machine::new();
    let engine = machine.open();
    let wrong = QueueOptions { expires: Some(Duration::ZERO), ..QueueOptions::default() };
    let error = engine.declare_queue_with("q", &wrong).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    let Error::Argument { argument, found, .. } = error else { panic!("{error}") };
    assert_eq!((&*argument, &*found), ("x-expires", "0ns"));
    let change =
        [Change::declare_queue("first"), Change::DeclareQueue { name: "second", options: &wrong }];
    assert!(matches!(engine.change(&change), Err(Error::Argument { .. })));
    assert!(engine.topology().queues.is_empty());
}

#[test]
fn names_of_the_brokers_own_are_refused() {
    let machine = Machine::new();
    let engine = machine.open();
    for error in [
        engine.declare_queue("amq.mine").unwrap_err(),
        engine.declare_exclusive_queue("amq.mine", &QueueOptions::default()).unwrap_err(),
    ] {
        assert!(matches!(&error, Error::Refused { what, .. } if what.contains("amq.mine")));
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
    assert!(engine.topology().queues.is_empty());
}

#[test]
fn one_call_of_many_changes_compares_options_with_what_it_declared_before() {
    let machine = Machine::new();
    let engine = machine.open();
    let limited = limited();
    let declare = Change::DeclareQueue { name: "q", options: &limited };
    let plain = Change::declare_queue("q");
    assert!(matches!(engine.change(&[declare, plain]), Err(Error::Mismatch { .. })));
    assert!(engine.topology().queues.is_empty());
    engine.change(&[declare, declare]).unwrap();
    assert!(matches!(engine.change(&[plain, plain]), Err(Error::Mismatch { .. })));
    engine.change(&[Change::DeleteQueue { name: "q" }, plain]).unwrap();
    assert_eq!(options_of(&engine, "q"), QueueOptions::default());
}
