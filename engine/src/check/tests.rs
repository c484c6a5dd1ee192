use std::{sync::Arc, time::Duration};

use super::*;
use crate::{Change, ConsumerOptions, ExchangeKind, Message, clock::ManualClock};

/// So many queues, each of which gets messages of its own and those of an exchange, in several segments;
/// every tenth has acked some.
fn store(queues: usize) -> Engine {
    let storage = crate::storage::MemoryStorage::new();
    let config = Config { stepped: true, segment_bytes_max: 64 << 10, ..Config::default() };
    let engine = Engine::open_on(Arc::new(storage), Arc::new(ManualClock::new()), config).unwrap();
    let names: Vec<String> = (0..queues).map(|number| format!("q{number}")).collect();
    engine.change(&[Change::DeclareExchange { name: "f", kind: ExchangeKind::Fanout }]).unwrap();
    let declare: Vec<_> = names.iter().map(|name| Change::declare_queue(name)).collect();
    engine.change(&declare).unwrap();
    let bind = |queue| Change::Bind { queue, exchange: "f", routing_key: "" };
    let bind: Vec<_> = names.iter().map(|name| bind(name)).collect();
    engine.change(&bind).unwrap();
    let publisher = engine.publisher();
    for _ in 0..5 {
        publisher.publish_confirmed(&Message::new("f", "", &vec![1; 40_000])).unwrap();
        for name in &names {
            publisher.publish(&Message::new("", name, b"own")).unwrap();
        }
    }
    for name in names.iter().step_by(10) {
        let consumer = engine.consume(name, ConsumerOptions::prefetch(0)).unwrap();
        let all: Vec<_> =
            std::iter::from_fn(|| consumer.recv_timeout(Duration::ZERO).unwrap()).collect();
        for one in all.into_iter().skip(1).step_by(3) {
            one.ack().unwrap();
        }
    }
    while engine.step().unwrap() {}
    engine
}

/// What recounting looks at; nothing is wrong.
fn looks(engine: &Engine) -> u64 {
    let core = engine.core();
    let segments = core.log.segments();
    let mut report = Report::default();
    let looks = recount(core, &segments, &vec![false; segments.len()], &mut report).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert!(segments.len() > 3);
    looks / segments.len() as u64
}

#[test]
fn segments_are_looked_through_once_for_all_queues() {
    let (few, many) = (looks(&store(100)), looks(&store(800)));
    // A queue has two routes, and a tenth of them messages that are looked at one by one.
    assert!(few <= 100 * 5, "{few}");
    assert!(many <= 800 * 5, "{many}");
}

#[test]
fn a_depth_and_a_count_that_are_wrong_are_told() {
    let engine = store(100);
    let core = engine.core();
    let queue = core.ledger().queues().next().cloned().unwrap();
    queue.ledger().acked.messages += 1;
    let report = check(core, &mut |_| {}).unwrap();
    assert_eq!(report.problems.len(), 1, "{report:?}");
    assert!(report.problems[0].text.starts_with("queue q0 should hold"), "{report:?}");
    queue.ledger().acked.messages -= 1;
    let one = Amount { messages: 1, bytes: 3 };
    let id = core.log.segments()[0].id();
    core.ledger().count_off(vec![(id, Some(one))]);
    let report = check(core, &mut |_| {}).unwrap();
    assert_eq!(report.problems.len(), 1, "{report:?}");
    assert!(report.problems[0].text.contains("outstanding messages are counted"), "{report:?}");
}
