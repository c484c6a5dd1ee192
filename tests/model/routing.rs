//! Which queues a message goes to, found out by trying every binding.

use std::collections::BTreeSet;

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
        _ => pattern == key,
    }
}

/// The queues that an exchange of this kind sends a message to, each once.
pub(crate) fn queues_of<'a>(
    bindings: &'a BTreeSet<Binding>,
    exchange: &str,
    kind: ExchangeKind,
    key: &str,
) -> BTreeSet<&'a str> {
    bindings
        .iter()
        .filter(|binding| binding.exchange == exchange && matches(kind, &binding.key, key))
        .map(|binding| binding.queue.as_str())
        .collect()
}
