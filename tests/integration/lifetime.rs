//! Queues that end by themselves: with the process, with their owner, with their last consumer, with
//! their time. Nothing of them is left, in no count either.

use std::time::Duration;

use fanlog::{
    Config, ConsumerOptions, Engine, Error, ErrorKind, ExchangeKind, ExchangeOptions, History,
    Message, OnDamage, QueueOptions, StartAt, Table,
};

use crate::support::{
    Machine, consume, is_checkpoint, next, nothing, publish, ready, settle, sound, stepped, text,
    threaded, unacked, until,
};

fn plain() -> QueueOptions {
    QueueOptions::default()
}

fn transient() -> QueueOptions {
    QueueOptions { durable: false, ..plain() }
}

fn is_there(engine: &Engine, queue: &str) -> bool {
    match engine.queue(queue) {
        Ok(_) => true,
        Err(Error::NotFound { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// A fanout exchange to a durable queue and a transient one, of which the durable one has acked all.
fn with_both(machine: &Machine) -> Engine {
    let engine = machine.open();
    engine.declare_exchange("news", ExchangeKind::Fanout).unwrap();
    engine.declare_queue("kept").unwrap();
    engine.declare_queue_with("gone", &transient()).unwrap();
    for queue in ["kept", "gone"] {
        engine.bind(queue, "news", "").unwrap();
    }
    let payload = vec![7; 4000];
    for _ in 0..60 {
        engine.publisher().publish(&Message::new("news", "", &payload)).unwrap();
        settle(&engine);
    }
    let consumer = consume(&engine, "kept", 0);
    for delivery in ready(&consumer) {
        delivery.ack().unwrap();
    }
    machine.clock.advance(Duration::from_secs(1));
    settle(&engine);
    assert!(engine.segments().len() > 3, "what `gone` has not acked is there");
    engine
}

#[test]
fn a_transient_queue_is_gone_after_a_restart_and_pins_nothing() {
    for end in ["close", "power cut", "power cut after a checkpoint"] {
        let machine = Machine::new();
        let engine = with_both(&machine);
        assert_eq!(engine.queue("gone").unwrap().messages, 60);
        let machine = match end {
            "close" => {
                engine.close(Duration::ZERO).unwrap();
                machine
            }
            "power cut" => machine.power_cut(),
            _ => {
                engine.checkpoint().unwrap();
                machine.power_cut()
            }
        };
        let engine = machine.open();
        assert!(!is_there(&engine, "gone"), "{end}");
        assert_eq!(engine.topology().bindings.len(), 1);
        sound(&engine);
        engine.reclaim(&mut |_| {}).unwrap();
        assert!(engine.segments().len() <= 2, "{end}: {}", engine.segments().len());
        // Its name is free, for a queue that knows nothing of it.
        engine.declare_queue("gone").unwrap();
        assert_eq!(engine.queue("gone").unwrap().messages, 0);
        engine.publisher().publish_confirmed(&Message::new("news", "", b"later")).unwrap();
        assert_eq!(engine.queue("gone").unwrap().messages, 0);
        sound(&engine);
        sound(&machine.power_cut().open());
    }
}

#[test]
fn a_name_that_a_transient_queue_had_keeps_its_new_queue_when_an_older_checkpoint_is_used() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue_with("q", &transient()).unwrap();
    engine.checkpoint().unwrap();
    drop(engine);
    let engine = machine.open();
    engine.declare_queue("q").unwrap();
    publish(&engine, "q", b"kept");
    drop(engine);
    let newest = machine.files().into_keys().rfind(|name| is_checkpoint(name)).unwrap();
    let mut bytes = machine.disk.read_file(&newest).unwrap();
    bytes[70] ^= 1;
    machine.disk.write_file(&newest, &bytes).unwrap();
    let engine = machine.open_with(Config { on_damage: OnDamage::Quarantine, ..stepped() });
    assert_eq!(unacked(&engine, "q"), ["kept"]);
    sound(&engine);
}

#[test]
fn a_transient_queue_is_left_out_by_readers_too() {
    let machine = Machine::new();
    let engine = with_both(&machine);
    engine.checkpoint().unwrap();
    let backup = fanlog::storage::MemoryStorage::new();
    engine.backup_on(&backup, fanlog::BackupFiles::Copied, &mut |_| {}).unwrap();
    let again = Machine { disk: backup, clock: std::sync::Arc::clone(&machine.clock) }.open();
    assert!(is_there(&again, "kept") && !is_there(&again, "gone"));
    sound(&again);
}

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer_and_not_before_it_had_one() {
    let machine = Machine::new();
    let engine = machine.open();
    let options = QueueOptions { auto_delete: true, ..plain() };
    engine.declare_queue_with("q", &options).unwrap();
    publish(&engine, "q", b"a");
    settle(&engine);
    let (first, second) = (consume(&engine, "q", 1), consume(&engine, "q", 1));
    drop(first);
    assert!(is_there(&engine, "q"));
    let held = next(&second);
    drop(second);
    assert!(!is_there(&engine, "q"));
    assert!(matches!(engine.consume("q", ConsumerOptions::default()), Err(Error::NotFound { .. })));
    let error = engine.publisher().publish(&Message::new("", "q", b"b")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    assert_eq!(text(held.payload()), "a", "what was handed out stays readable");
    drop(held);
    settle(&engine);
    sound(&engine);
    assert!(!is_there(&machine.power_cut().open(), "q"));
}

#[test]
fn an_auto_delete_queue_survives_a_restart_until_its_next_last_consumer_goes() {
    let machine = Machine::new();
    let engine = machine.open();
    let options = QueueOptions { auto_delete: true, ..plain() };
    engine.declare_queue_with("q", &options).unwrap();
    publish(&engine, "q", b"a");
    let consumer = consume(&engine, "q", 1);
    engine.close(Duration::ZERO).unwrap();
    drop(consumer);
    let engine = machine.open();
    let consumer = consume(&engine, "q", 1);
    assert_eq!(next(&consumer).payload(), b"a");
    drop(consumer);
    assert!(!is_there(&engine, "q"));
}

#[test]
fn a_queue_ends_in_the_round_in_which_its_messages_expire() {
    let machine = Machine::new();
    let engine = machine.open();
    let time = Some(Duration::from_secs(10));
    let options = QueueOptions { expires: time, message_ttl: time, ..plain() };
    engine.declare_queue_with("q", &options).unwrap();
    publish(&engine, "q", b"a");
    machine.clock.advance(Duration::from_secs(10));
    settle(&engine);
    assert!(!is_there(&engine, "q"));
    sound(&engine);
}

#[test]
fn a_queue_expires_when_nobody_used_it_for_its_time() {
    let machine = Machine::new();
    let engine = machine.open();
    let options = QueueOptions { expires: Some(Duration::from_secs(10)), ..plain() };
    engine.declare_queue_with("q", &options).unwrap();
    publish(&engine, "q", b"a");
    let wait = |seconds| {
        machine.clock.advance(Duration::from_secs(seconds));
        settle(&engine);
        is_there(&engine, "q")
    };
    assert!(wait(9));
    engine.declare_queue_with("q", &options).unwrap();
    assert!(wait(9), "declaring it again is a use");
    let consumer = consume(&engine, "q", 1);
    assert!(wait(1000), "it has a consumer");
    drop(consumer);
    assert!(wait(9));
    assert!(!wait(1));
    sound(&engine);
    assert!(!is_there(&machine.power_cut().open(), "q"));
}

#[test]
fn a_restart_is_a_use_and_the_time_goes_on_from_there() {
    let machine = Machine::new();
    let engine = machine.open();
    let options = QueueOptions { expires: Some(Duration::from_secs(10)), ..plain() };
    engine.declare_queue_with("q", &options).unwrap();
    machine.clock.advance(Duration::from_mins(1));
    let machine = machine.power_cut();
    let engine = machine.open();
    settle(&engine);
    assert!(is_there(&engine, "q"));
    machine.clock.advance(Duration::from_secs(10));
    settle(&engine);
    assert!(!is_there(&engine, "q"));
}

#[test]
fn the_background_looks_by_itself() {
    let engine = threaded();
    let options = QueueOptions { expires: Some(Duration::from_millis(50)), ..plain() };
    engine.declare_queue_with("q", &options).unwrap();
    until("the queue expires", || !is_there(&engine, "q"));
}

#[test]
fn an_exclusive_queue_is_its_owners_alone_and_goes_with_it() {
    let machine = Machine::new();
    let engine = machine.open();
    let owned = engine.declare_exclusive_queue("mine", &plain()).unwrap();
    assert_eq!(owned.name(), "mine");
    assert!(engine.queue("mine").unwrap().options.exclusive);
    publish(&engine, "mine", b"a");
    publish(&engine, "mine", b"b");
    let consumer = owned.consume(&ConsumerOptions::prefetch(1)).unwrap();
    let held = next(&consumer);
    let refused = [
        engine.consume("mine", ConsumerOptions::default()).map(drop),
        engine.purge_queue("mine").map(drop),
        engine.delete_queue("mine"),
        engine.declare_queue("mine").map(drop),
        engine.declare_exclusive_queue("mine", &plain()).map(drop),
        engine.declare_queue_with("other", &QueueOptions { exclusive: true, ..plain() }).map(drop),
        engine.declare_queue_with("", &QueueOptions { exclusive: true, ..plain() }).map(drop),
    ];
    for outcome in refused {
        assert!(matches!(outcome, Err(Error::Refused { .. })), "{outcome:?}");
    }
    assert_eq!(owned.purge().unwrap(), 1);
    held.ack().unwrap();
    drop(owned);
    assert!(!is_there(&engine, "mine"));
    settle(&engine);
    assert_eq!(consumer.try_recv().unwrap_err().kind(), ErrorKind::Cancelled);
    sound(&engine);
    let owned = engine.declare_exclusive_queue("mine", &plain()).unwrap();
    publish(&engine, "mine", b"c");
    let again = machine.power_cut().open();
    assert!(!is_there(&again, "mine"));
    sound(&again);
    engine.close(Duration::ZERO).unwrap();
    drop(owned);
    assert!(!is_there(&machine.open(), "mine"));
}

#[test]
fn a_queue_that_is_gone_is_not_deleted_in_place_of_its_successor() {
    let machine = Machine::new();
    let engine = machine.open();
    let options = QueueOptions { auto_delete: true, ..plain() };
    engine.declare_queue_with("q", &options).unwrap();
    let consumer = consume(&engine, "q", 1);
    engine.delete_queue("q").unwrap();
    engine.declare_queue_with("q", &options).unwrap();
    drop(consumer);
    assert!(is_there(&engine, "q"));
    nothing(&consume(&engine, "q", 1));
    assert!(!is_there(&engine, "q"));
}

/// A subscriber of its own, for as long as it lives, from the beginning of what is kept.
#[test]
fn an_owner_gets_binds_from_the_past_and_rewinds() {
    let machine = Machine::new();
    let engine = machine.open();
    let history = Some(History::of_bytes(1 << 20));
    let keeps = ExchangeOptions { history, ..ExchangeOptions::default() };
    engine.declare_exchange_with("news", ExchangeKind::Topic, &keeps).unwrap();
    for payload in [b"1", b"2", b"3"] {
        engine.publisher().publish_confirmed(&Message::new("news", "a", payload)).unwrap();
    }
    let owned = engine.declare_exclusive_queue("mine", &plain()).unwrap();
    let none = Table::new();
    let of_others = engine.bind_from("mine", "news", "a", &none, StartAt::Earliest);
    assert_eq!(of_others.unwrap_err().kind(), ErrorKind::Usage);
    let landed = owned.bind_from("news", "a", &none, StartAt::Earliest).unwrap();
    assert_eq!((landed.messages, landed.clamped), (3, false));
    let got = owned.get().unwrap().unwrap();
    assert_eq!(got.payload(), b"1");
    got.ack().unwrap().wait().unwrap();
    assert_eq!(engine.rewind("mine", StartAt::Earliest).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(owned.rewind(StartAt::Earliest).unwrap().messages, 1);
    assert_eq!(unacked(&engine, "mine"), ["1", "2", "3"]);
    sound(&engine);
    // One that took its name is not the owner's.
    let options = QueueOptions { auto_delete: true, single_active_consumer: true, ..plain() };
    let gone = engine.declare_exclusive_queue("brief", &options).unwrap();
    drop(gone.consume(&ConsumerOptions::default()).unwrap());
    settle(&engine);
    engine.declare_queue("brief").unwrap();
    for error in [
        gone.get().map(drop).unwrap_err(),
        gone.purge().map(drop).unwrap_err(),
        gone.rewind(StartAt::Earliest).map(drop).unwrap_err(),
        gone.bind_from("news", "a", &none, StartAt::Latest).map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    assert!(engine.topology().bindings.iter().all(|binding| binding.queue != "brief"));
    drop(gone);
    settle(&engine);
    assert!(is_there(&engine, "brief"));
}
