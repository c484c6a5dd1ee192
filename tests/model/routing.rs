//! Which queues a message goes to, found out by trying every binding.

use std::collections::{BTreeMap, BTreeSet};

use fanlog::{ExchangeKind, ExchangeOptions, Table};

/// Headers of a message, or what a binding wants of them.
pub(crate) type Headers = &'static [(&'static str, i32)];

/// What a binding is made with: a key, and for a headers exchange `x-match` and headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pattern {
    pub(crate) key: &'static str,
    pub(crate) x_match: Option<&'static str>,
    pub(crate) headers: Headers,
}

impl Pattern {
    /// Whether a binding of an exchange of this kind takes a message.
    pub(crate) fn matches(self, kind: ExchangeKind, key: &str, headers: Headers) -> bool {
        match kind {
            ExchangeKind::Fanout => true,
            ExchangeKind::Topic => matches_words(&words(self.key), &words(key)),
            ExchangeKind::Headers => self.matches_headers(headers),
            _ => self.key == key,
        }
    }

    fn matches_headers(self, found: Headers) -> bool {
        let how = self.x_match.unwrap_or("all");
        let counts = |name: &str| how.ends_with("-with-x") || !name.starts_with("x-");
        let mut wanted = self.headers.iter().filter(|(name, _)| counts(name));
        if how.starts_with("any") {
            wanted.any(|one| found.contains(one))
        } else {
            wanted.all(|one| found.contains(one))
        }
    }

    /// `x-match` and headers as arguments, in the order of their names.
    pub(crate) fn arguments(self) -> Table {
        let mut names: Vec<&str> = self.headers.iter().map(|(name, _)| *name).collect();
        names.extend(self.x_match.map(|_| "x-match"));
        names.sort_unstable();
        names.into_iter().fold(Table::new(), |table, name| {
            match self.headers.iter().find(|(header, _)| *header == name) {
                Some((_, value)) => table.with(name, *value),
                None => table.with(name, self.x_match.unwrap_or_default()),
            }
        })
    }
}

/// The name of what an exchange keeps: no queue has such a one.
pub(crate) fn history_of(exchange: &str) -> String {
    format!("history of {exchange}")
}

/// How a message comes to its queues: by which bindings, or, without one, by the queue's name.
pub(crate) type Ways = BTreeMap<String, BTreeSet<Option<Binding>>>;

/// The same without some queues: of those that are bound like one of them, each gets it by its name.
pub(crate) fn without(ways: &Ways, gone: &[String]) -> Ways {
    let its = |name: &&String| gone.contains(name);
    let of_gone: Vec<&Binding> =
        ways.keys().filter(its).flat_map(|name| &ways[name]).flatten().collect();
    let alike = |binding: &Binding| {
        let same = |other: &&&Binding| {
            other.exchange == binding.exchange && other.pattern == binding.pattern
        };
        of_gone.iter().any(|other| same(&other))
    };
    let others = ways.iter().filter(|(name, _)| !gone.contains(name));
    let stand_in = |way: &Option<Binding>| way.clone().filter(|binding| !alike(binding));
    others.map(|(name, ways)| (name.clone(), ways.iter().map(stand_in).collect())).collect()
}

/// A binding of a queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Binding {
    pub(crate) queue: String,
    pub(crate) exchange: String,
    pub(crate) pattern: Pattern,
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
    pub(crate) options: ExchangeOptions,
}

/// A binding of an exchange to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lead {
    pub(crate) destination: String,
    pub(crate) source: String,
    pub(crate) pattern: Pattern,
}

/// Exchanges and all bindings.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    pub(crate) exchanges: BTreeMap<String, Exchange>,
    pub(crate) bindings: BTreeSet<Binding>,
    pub(crate) leads: BTreeSet<Lead>,
}

impl Default for Topology {
    /// With the exchanges that are always there.
    fn default() -> Self {
        let kinds = [
            ("amq.direct", ExchangeKind::Direct),
            ("amq.fanout", ExchangeKind::Fanout),
            ("amq.headers", ExchangeKind::Headers),
            ("amq.match", ExchangeKind::Headers),
            ("amq.topic", ExchangeKind::Topic),
        ];
        let exchange = |kind| Exchange { kind, options: ExchangeOptions::default() };
        let exchanges = kinds.map(|(name, kind)| (name.to_owned(), exchange(kind)));
        Self { exchanges: exchanges.into(), bindings: BTreeSet::new(), leads: BTreeSet::new() }
    }
}

impl Topology {
    /// The queues that a message goes to from an exchange that there is, and how.
    pub(crate) fn ways_of(&self, entered: &str, keys: &[&str], headers: Headers) -> Ways {
        let mut ways = Ways::new();
        let (mut next, mut seen) = (vec![entered], BTreeSet::new());
        while let Some(at) = next.pop() {
            let Some(exchange) = self.exchanges.get(at) else { continue };
            if !seen.insert(at) {
                continue;
            }
            let wanted = |pattern: Pattern| {
                keys.iter().any(|key| pattern.matches(exchange.kind, key, headers))
            };
            let of_queues = self.bindings.iter().filter(|one| one.exchange == at);
            let of_exchanges = self.leads.iter().filter(|one| one.source == at);
            let taken: Vec<&Binding> = of_queues.filter(|one| wanted(one.pattern)).collect();
            let led: Vec<&str> = of_exchanges
                .filter(|one| wanted(one.pattern))
                .map(|one| &*one.destination)
                .collect();
            if taken.is_empty() && led.is_empty() {
                next.extend(exchange.options.alternate.as_deref());
            }
            for binding in taken {
                let ways = ways.entry(binding.queue.clone()).or_default();
                ways.insert(Some(binding.clone()));
            }
            ways.extend(exchange.options.history.map(|_| (history_of(at), BTreeSet::new())));
            next.extend(led);
        }
        ways
    }

    /// Exchanges with bindings from them.
    pub(crate) fn sources(&self) -> BTreeSet<String> {
        let of_queues = self.bindings.iter().map(|binding| &binding.exchange);
        of_queues.chain(self.leads.iter().map(|lead| &lead.source)).cloned().collect()
    }

    /// Of those that had bindings from them, deletes the ones that do not outlast the last of these.
    pub(crate) fn delete_unused(&mut self, had: &BTreeSet<String>) {
        let unused = |topology: &Self| {
            let sources = topology.sources();
            let ends = |name: &&String| {
                topology.exchanges.get(*name).is_some_and(|found| found.options.auto_delete)
            };
            had.iter().filter(ends).find(|name| !sources.contains(*name)).cloned()
        };
        while let Some(name) = unused(self) {
            self.exchanges.remove(&name);
            self.forget_exchange(&name);
        }
    }

    /// Forgets the bindings of an exchange.
    pub(crate) fn forget_exchange(&mut self, name: &str) {
        self.bindings.retain(|binding| binding.exchange != name);
        self.leads.retain(|lead| lead.source != name && lead.destination != name);
    }
}
