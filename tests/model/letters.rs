//! Where messages go that leave a queue by themselves.

use crate::{
    broker::Broker,
    queue::{At, Death, Entry, Flag, Gone, Reason},
    routing::without,
};

/// The queues that a message must not come to again, as it would go in a circle in which nobody
/// rejected it.
fn been_in(deaths: &[Death], queue: &str, reason: Reason) -> Vec<String> {
    if reason == Reason::Rejected {
        return Vec::new();
    }
    let before = deaths.iter().take_while(|death| death.reason != Reason::Rejected);
    let mut names: Vec<String> = before.map(|death| death.queue.clone()).collect();
    names.push(queue.to_owned());
    names
}

/// The history of a message with one more death: again for the same reason is counted.
fn with_death(entry: &Entry, queue: &str, reason: Reason) -> Vec<Death> {
    let same = |death: &&Death| death.queue == queue && death.reason == reason;
    let first = || Death {
        queue: queue.to_owned(),
        reason,
        count: 0,
        expiration: entry
            .expiry
            .map(|expiry| expiry.saturating_sub(entry.published).as_millis().to_string()),
    };
    let before = entry.deaths.iter().find(same).cloned().unwrap_or_else(first);
    let newest = Death { count: before.count + 1, ..before };
    let others = entry.deaths.iter().filter(|death| !same(death)).cloned();
    std::iter::once(newest).chain(others).collect()
}

impl Broker {
    /// What left a queue goes to its dead-letter exchange, if it has one and a queue there takes it.
    pub(super) fn leave(&mut self, from: &str, gone: Gone) {
        for (entry, reason) in gone {
            self.unwritten = true;
            let Some((copy, queues)) = self.letter(from, &entry, reason) else { continue };
            let copy = Entry { place: self.next_place, ..copy };
            self.next_place += 1;
            self.arriving.extend(queues.into_iter().map(|queue| (queue, copy.clone())));
        }
    }

    /// The copy of a message that leaves a queue, and the queues that get it, if any does.
    pub(super) fn letter(
        &self,
        from: &str,
        entry: &Entry,
        reason: Reason,
    ) -> Option<(Entry, Vec<String>)> {
        let options = &self.queues[from].options;
        let exchange = options.dead_letter_exchange.as_ref()?;
        let other = options.dead_letter_key.as_ref();
        let key = other.unwrap_or(&entry.key);
        let cc = if other.is_some() { &[] } else { entry.cc };
        let keys: Vec<&str> = std::iter::once(&**key).chain(cc.iter().copied()).collect();
        let not_to = been_in(&entry.deaths, from, reason);
        let ways = self.route(exchange, &keys, entry.headers).unwrap_or_default();
        let ways = without(&ways, &not_to);
        let queues: Vec<String> = ways.keys().cloned().collect();
        let copy = Entry {
            key: key.clone(),
            cc,
            since: self.now(),
            expiry: None,
            deaths: with_death(entry, from, reason),
            flag: Flag::No,
            returns: 0,
            at: At::Queue,
            fresh: true,
            old: false,
            published: self.now(),
            ways,
            ..entry.clone()
        };
        (!queues.is_empty()).then_some((copy, queues))
    }
}
