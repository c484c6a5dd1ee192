//! Which queues a message goes to, found out by trying every binding.

use std::collections::{BTreeMap, BTreeSet};

use fanlog::ExchangeKind;

/// A binding of a queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Binding {
    pub(crate) queue: String,
    pub(crate) exchange: String,
    pub(crate) key: String,
}

/// Whether a binding with `pattern` takes a message with `key`.
pub(crate) fn matches(kind: ExchangeKind, pattern: &str, key: &str) -> bool {
    match kind {
        ExchangeKind::Fanout => true,
        ExchangeKind::Topic => {
            let (pattern, key): (Vec<_>, Vec<_>) = (words(pattern), words(key));
            matches_words(&pattern, &key)
        }
        _ => pattern == key,
    }
}

fn words(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split('.').collect() }
}

/// `*` stands for one word, `#` for any number of them.
fn matches_words(pattern: &[&str], key: &[&str]) -> bool {
    match pattern {
        [] => key.is_empty(),
        ["#", rest @ ..] => (0..=key.len()).any(|skipped| matches_words(rest, &key[skipped..])),
        [word, rest @ ..] => {
            key.first().is_some_and(|first| *word == "*" || word == first)
                && matches_words(rest, &key[1..])
        }
    }
}

/// An exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) kind: ExchangeKind,
    /// Gets what no binding takes.
    pub(crate) alternate: Option<String>,
}

/// A binding of an exchange to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lead {
    pub(crate) destination: String,
    pub(crate) source: String,
    pub(crate) key: String,
}

/// Exchanges and all bindings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Topology {
    pub(crate) exchanges: BTreeMap<String, Exchange>,
    pub(crate) bindings: BTreeSet<Binding>,
    pub(crate) leads: BTreeSet<Lead>,
}

impl Topology {
    /// The queues that a message goes to from an exchange that there is, each once.
    pub(crate) fn queues_of(&self, entered: &str, key: &str) -> BTreeSet<&str> {
        let mut queues = BTreeSet::new();
        let (mut next, mut seen) = (vec![entered], BTreeSet::new());
        while let Some(at) = next.pop() {
            let Some(exchange) = self.exchanges.get(at) else { continue };
            if !seen.insert(at) {
                continue;
            }
            let wanted = |pattern: &str| matches(exchange.kind, pattern, key);
            let of_queues = self.bindings.iter().filter(|one| one.exchange == at);
            let of_exchanges = self.leads.iter().filter(|one| one.source == at);
            let taken: Vec<&str> =
                of_queues.filter(|one| wanted(&one.key)).map(|one| &*one.queue).collect();
            let led: Vec<&str> =
                of_exchanges.filter(|one| wanted(&one.key)).map(|one| &*one.destination).collect();
            if taken.is_empty() && led.is_empty() {
                next.extend(exchange.alternate.as_deref());
            }
            queues.extend(taken);
            next.extend(led);
        }
        queues
    }

    pub(crate) fn forget_exchange(&mut self, name: &str) {
        self.bindings.retain(|binding| binding.exchange != name);
        self.leads.retain(|lead| lead.source != name && lead.destination != name);
    }
}
