//! What a queue is declared with: kept, compared, shown and refused.

use std::time::Duration;

use fanlog::{Change, Engine, Error, ErrorKind, Overflow, QueueOptions, Table};

use crate::support::{Machine, publish, settle, sound, unacked};

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

#[test]
fn a_queue_without_a_name_is_given_one_that_no_other_ever_has() {
    let mut machine = Machine::new();
    let mut engine = machine.open();
    let mut names = std::collections::BTreeSet::new();
    let options = QueueOptions { messages_max: Some(3), ..QueueOptions::default() };
    for _ in 0..3 {
        for _ in 0..5 {
            let name = engine.declare_queue("").unwrap();
            let digits = name.strip_prefix("amq.gen-").unwrap();
            let plain = |digit: char| digit.is_ascii_alphanumeric() || "-_".contains(digit);
            assert!(digits.len() == 22 && digits.chars().all(plain), "{name}");
            publish(&engine, &name, b"a");
            assert_eq!(unacked(&engine, &name), ["a"]);
            // It is there: declaring it is no change, and it goes like any other.
            assert_eq!(engine.declare_queue(&name).unwrap(), name);
            engine.delete_queue(&name).unwrap();
            assert!(engine.declare_queue(&name).is_err(), "nobody else gives such a name");
            assert!(names.insert(name));
        }
        let limited = engine.declare_queue_with("", &options).unwrap();
        assert_eq!(engine.queue(&limited).unwrap().options, options);
        assert!(names.insert(limited));
        let own = engine.declare_exclusive_queue("", &options).unwrap();
        assert!(own.name().starts_with("amq.gen-"));
        assert!(engine.queue(own.name()).unwrap().options.exclusive);
        assert!(names.insert(own.name().to_owned()));
        sound(&engine);
        machine = machine.power_cut();
        engine = machine.open();
    }
    // What can't be takes no name, and leaves none that could be declared.
    let wrong = QueueOptions { priority_max: Some(0), ..QueueOptions::default() };
    assert!(engine.declare_queue_with("", &wrong).is_err());
    let exclusive = QueueOptions { exclusive: true, ..QueueOptions::default() };
    assert!(engine.declare_queue_with("", &exclusive).is_err());
    assert!(engine.topology().queues.iter().all(|queue| names.contains(&queue.name)));
    sound(&engine);
}
