//! The topology in the order of names, to be looked at.

use std::sync::Arc;

use fanlog_segment_format::{QueueId, table::Table};

use super::{Exchange, ExchangeKind, Tables};
use crate::ExchangeOptions;

/// A binding, as the tables know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binding {
    /// The queue, or exchange.
    pub(crate) destination: Arc<str>,
    pub(crate) exchange: Arc<str>,
    pub(crate) routing_key: String,
    pub(crate) arguments: Table,
}

impl Tables {
    /// Exchanges by name, without the default one.
    pub(crate) fn list_exchanges(&self) -> Vec<(Arc<str>, ExchangeKind, ExchangeOptions)> {
        let view =
            |found: &Exchange| (Arc::clone(&found.name), found.kind, found.options().clone());
        let mut list: Vec<_> = self.exchanges.values().map(view).collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list
    }

    /// Every binding of an exchange to an exchange.
    pub(crate) fn list_exchange_bindings(&self) -> Vec<Binding> {
        let mut list = Vec::new();
        for destination in self.exchanges.values() {
            for (source, rule) in &destination.sources {
                let Some(source) = self.exchanges.get(source) else { continue };
                list.push(Binding {
                    destination: Arc::clone(&destination.name),
                    exchange: Arc::clone(&source.name),
                    routing_key: rule.key.to_string(),
                    arguments: rule.arguments.clone(),
                });
            }
        }
        sort(&mut list);
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
