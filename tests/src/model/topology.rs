//! Exchanges, queues and bindings, and where a message goes: found out by trying every binding.

use std::collections::{BTreeMap, BTreeSet};

use fanlog::ExchangeKind;

use super::QueueId;
use super::special::{HEADS, ODD, OTHERWISE, matches_headers};

/// Exchanges, queues and bindings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// Exchanges by name, but for the default one.
    pub exchanges: BTreeMap<String, ExchangeKind>,
    /// Queues by name.
    pub queues: BTreeMap<String, QueueId>,
    /// Queue, exchange, routing key.
    pub bindings: BTreeSet<(String, String, String)>,
    /// Where messages go, the exchange that they come from, routing key.
    pub exchange_bindings: BTreeSet<(String, String, String)>,
}

impl Topology {
    /// A queue without any options: of one letter.
    pub fn plain_queue(&self) -> Option<String> {
        self.queues.keys().find(|name| name.len() == 1).cloned()
    }

    /// The queues that a message goes to, each once; `None` if there is no such exchange.
    pub fn route(&self, exchange: &str, key: &str) -> Option<Vec<QueueId>> {
        if exchange.is_empty() {
            return Some(self.queues.get(key).copied().into_iter().collect());
        }
        self.exchanges.get(exchange)?;
        let headers = if exchange == HEADS { key } else { "" };
        let taken = self.taken(exchange, key, headers);
        Some(
            taken
                .into_iter()
                .filter(|(_, is_queue)| *is_queue)
                .map(|(to, _)| self.queues[to])
                .collect(),
        )
    }

    /// Whether an exchange has no binding for such a message, so that it goes elsewhere if it can.
    pub fn is_unwanted(&self, exchange: &str, key: &str) -> bool {
        self.matching(exchange, key, "").is_empty()
    }

    /// The queues and exchanges that bindings of an exchange take a message to, and whether it is a queue.
    fn matching<'t>(&'t self, at: &str, key: &str, headers: &str) -> BTreeSet<(&'t str, bool)> {
        let Some(&kind) = self.exchanges.get(at) else { return BTreeSet::new() };
        let wanted = |from: &str, by: &str| from == at && matches(kind, by, key, headers);
        let queues = self.bindings.iter().filter(|(_, from, by)| wanted(from, by));
        let exchanges = self.exchange_bindings.iter().filter(|(_, from, by)| wanted(from, by));
        let queues = queues.map(|(queue, _, _)| (queue.as_str(), true));
        queues.chain(exchanges.map(|(to, _, _)| (to.as_str(), false))).collect()
    }

    /// All that a message comes to, and whether it is a queue.
    fn taken<'t>(
        &'t self,
        entered: &'t str,
        key: &str,
        headers: &str,
    ) -> BTreeSet<(&'t str, bool)> {
        let mut taken = BTreeSet::new();
        let mut next = vec![(entered, false)];
        while let Some(one) = next.pop() {
            if !taken.insert(one) || one.1 {
                continue;
            }
            let matching = self.matching(one.0, key, headers);
            if matching.is_empty() && one.0 == ODD {
                next.push((OTHERWISE, false));
            }
            next.extend(matching);
        }
        taken
    }

    /// The same without a queue and its bindings.
    pub fn without_queue(&self, name: &str) -> Self {
        let mut next = self.clone();
        next.queues.remove(name);
        next.bindings.retain(|(queue, _, _)| queue != name);
        next
    }

    /// The same without an exchange and its bindings.
    pub fn without_exchange(&self, name: &str) -> Self {
        let mut next = self.clone();
        next.exchanges.remove(name);
        next.bindings.retain(|(_, exchange, _)| exchange != name);
        next.exchange_bindings.retain(|(to, from, _)| to != name && from != name);
        next
    }
}

/// Whether a message with this key matches a binding.
fn matches(kind: ExchangeKind, binding: &str, key: &str, headers: &str) -> bool {
    match kind {
        ExchangeKind::Fanout => true,
        ExchangeKind::Headers => matches_headers(binding, headers),
        ExchangeKind::Topic => {
            let words = |text: &str| -> Vec<String> {
                if text.is_empty() { Vec::new() } else { text.split('.').map(Into::into).collect() }
            };
            matches_words(&words(binding), &words(key))
        }
        _ => binding == key,
    }
}

fn matches_words(pattern: &[String], key: &[String]) -> bool {
    let Some((first, pattern)) = pattern.split_first() else { return key.is_empty() };
    match first.as_str() {
        "#" => (0..=key.len()).any(|taken| matches_words(pattern, &key[taken..])),
        "*" => !key.is_empty() && matches_words(pattern, &key[1..]),
        word => key.first().is_some_and(|key| key == word) && matches_words(pattern, &key[1..]),
    }
}
