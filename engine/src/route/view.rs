//! The topology in the order of names, to be looked at.

use std::sync::Arc;

use fanlog_segment_format::{QueueId, table::Table};

use super::{ExchangeKind, Tables};

/// A binding, as the tables know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binding {
    /// The queue.
    pub(crate) destination: Arc<str>,
    pub(crate) exchange: Arc<str>,
    pub(crate) routing_key: String,
    pub(crate) arguments: Table,
}

impl Tables {
    /// Exchanges by name, without the default one.
    pub(crate) fn list_exchanges(&self) -> Vec<(Arc<str>, ExchangeKind)> {
        let exchanges = self.exchanges.values();
        let mut list: Vec<_> =
            exchanges.map(|found| (Arc::clone(&found.name), found.kind)).collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list
    }

    /// Queues by name.
    pub(crate) fn list_queues(&self) -> Vec<(Arc<str>, QueueId)> {
        let mut list: Vec<_> =
            self.queue_ids.iter().map(|(name, &id)| (Arc::clone(name), id)).collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list
    }

    /// Every binding of a queue made by name; not the default exchange's.
    pub(crate) fn list_bindings(&self) -> Vec<Binding> {
        let mut list = Vec::new();
        for group in self.groups.values() {
            let Some(exchange) = self.exchanges.get(&group.exchange) else { continue };
            for queue in group.members.iter().filter_map(|id| self.queues.get(id)) {
                list.push(Binding {
                    destination: Arc::clone(&queue.name),
                    exchange: Arc::clone(&exchange.name),
                    routing_key: group.rule.key.to_string(),
                    arguments: group.rule.arguments.clone(),
                });
            }
        }
        sort(&mut list);
        list
    }
}

fn sort(list: &mut [Binding]) {
    let order = |a: &Binding, b: &Binding| {
        (&a.destination, &a.exchange, &a.routing_key, a.arguments.as_bytes()).cmp(&(
            &b.destination,
            &b.exchange,
            &b.routing_key,
            b.arguments.as_bytes(),
        ))
    };
    list.sort_by(order);
}
