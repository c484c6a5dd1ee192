//! What an engine says of itself, compared with the broker.

use std::collections::{BTreeMap, BTreeSet};

use fanlog::{Engine, Table};

use crate::{broker::Broker, queue::Queue, routing::Exchange};

/// Compares everything.
pub(crate) fn compare(engine: &Engine, broker: &Broker) {
    compare_topology(engine, broker);
    for (name, queue) in broker.visible() {
        compare_queue(engine, name, queue, broker.all_written());
    }
    let report = engine.check(&mut |_| {}).unwrap();
    assert!(report.problems.is_empty() && report.uncounted == 0, "{report:?}");
}

/// A binding, to be compared.
fn rule(to: &str, from: &str, key: &str, arguments: &Table) -> (String, String, String, String) {
    (to.to_owned(), from.to_owned(), key.to_owned(), format!("{arguments:?}"))
}

fn compare_topology(engine: &Engine, broker: &Broker) {
    let topology = engine.topology();
    let exchanges: BTreeMap<_, _> = topology
        .exchanges
        .iter()
        .map(|one| (one.name.clone(), Exchange { kind: one.kind, options: one.options.clone() }))
        .collect();
    assert_eq!(exchanges, broker.topology.exchanges);
    let bindings = topology.bindings.iter();
    let bindings: BTreeSet<_> = bindings
        .map(|one| rule(&one.queue, &one.exchange, &one.routing_key, &one.arguments))
        .collect();
    let expected = broker.topology.bindings.iter();
    let expected: BTreeSet<_> = expected
        .map(|one| rule(&one.queue, &one.exchange, one.pattern.key, &one.pattern.arguments()))
        .collect();
    assert_eq!(bindings, expected);
    let leads = topology.exchange_bindings.iter();
    let leads: BTreeSet<_> = leads
        .map(|one| rule(&one.destination, &one.source, &one.routing_key, &one.arguments))
        .collect();
    let expected = broker.topology.leads.iter();
    let expected: BTreeSet<_> = expected
        .map(|one| rule(&one.destination, &one.source, one.pattern.key, &one.pattern.arguments()))
        .collect();
    assert_eq!(leads, expected);
    let queues = topology.queues.iter().map(|one| (&one.name, &one.options));
    assert!(queues.eq(broker.visible().map(|(name, queue)| (name, &queue.options))));
}

/// Messages and their bytes.
fn sum(queue: &Queue, waits: bool) -> (u64, u64) {
    let entries = queue.entries.iter().filter(|entry| entry.waits() == waits);
    entries.fold((0, 0), |(messages, bytes), entry| (messages + 1, bytes + entry.bytes as u64))
}

/// An ack counts in the whole once it is written, in what is ready and unacked at once.
fn compare_queue(engine: &Engine, name: &str, queue: &Queue, all_written: bool) {
    let found = engine.queue(name).unwrap();
    let (ready, unacked) = (sum(queue, true), sum(queue, false));
    assert_eq!((found.ready, found.ready_bytes), ready, "{found:?}");
    assert_eq!((found.unacked, found.unacked_bytes), unacked, "{found:?}");
    assert_eq!(found.consumers, queue.roster.len(), "{found:?}");
    let whole = (ready.0 + unacked.0, ready.1 + unacked.1);
    if all_written {
        assert_eq!((found.messages, found.bytes), whole, "{found:?}");
    } else {
        assert!(found.messages >= whole.0 && found.bytes >= whole.1, "{found:?}");
    }
}
