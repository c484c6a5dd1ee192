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
