use std::{sync::Arc, time::Duration};

use crate::{
    Config, ConsumerOptions, Engine, Message, QueueOptions, clock::ManualClock,
    storage::MemoryStorage,
};

/// Whoever deletes a queue on condition has the tables and wants the queue's dispatch lock, which a
/// rejection has: so it must not wait for the tables.
#[test]
fn while_the_topology_changes_a_rejected_message_waits_and_nobody_waits_for_it() {
    let config = Config { stepped: true, segment_bytes_max: 64 << 10, ..Config::default() };
    let clock = Arc::new(ManualClock::new());
    let storage = Arc::new(MemoryStorage::new());
    let engine = Engine::open_on(storage, Arc::clone(&clock) as _, config).unwrap();
    let dead_letters = Some(String::new());
    let key = Some("dead".to_owned());
    let options = QueueOptions {
        dead_letter_exchange: dead_letters,
        dead_letter_key: key,
        ..QueueOptions::default()
    };
    engine.declare_queue_with("work", &options).unwrap();
    engine.declare_queue("dead").unwrap();
    engine.publisher().publish_confirmed(&Message::new("", "work", b"a")).unwrap();
    let consumer = engine.consume("work", ConsumerOptions::prefetch(1)).unwrap();
    let delivery = consumer.recv().unwrap();

    let tables = engine.core().tables.write().unwrap();
    delivery.nack(false).unwrap();
    drop(tables);
    let depths = || ["work", "dead"].map(|name| engine.queue(name).unwrap().messages);
    assert_eq!(depths(), [1, 0]);
    assert!(consumer.try_recv().unwrap().is_none(), "it is on its way out");

    for _ in 0..20 {
        clock.advance(Duration::from_millis(100));
        while engine.step().unwrap() {}
    }
    assert_eq!(depths(), [0, 1]);
    assert_eq!(engine.check(&mut |_| {}).unwrap().problems, []);
}
