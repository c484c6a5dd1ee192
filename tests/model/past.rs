//! What exchanges keep, and how it comes back.

use std::collections::BTreeSet;

use fanlog::ErrorKind;

use crate::{
    broker::{Answer, Broker},
    queue::{At, Entry, Flag, Place},
    routing::history_of,
};

impl Broker {
    /// What exchanges kept that are gone.
    pub(super) fn forget_histories(&mut self) {
        let exchanges = &self.topology.exchanges;
        let kept: BTreeSet<String> = exchanges.keys().map(|name| history_of(name)).collect();
        self.queues.retain(|name, queue| !queue.is_history || kept.contains(name));
    }

    /// Whether it is certain what comes of a rewind: who has a message with a limit of deliveries, or
    /// what is not due, is not.
    pub(crate) fn may_rewind(&self, name: &str) -> bool {
        let Some(queue) = self.queues.get(name) else { return true };
        let kept = self.queues.values().filter(|queue| queue.is_history);
        let mut kept = kept.flat_map(|history| &history.entries);
        let vague = queue.drops_head() && kept.any(|entry| entry.since > self.now());
        queue.options.delivery_limit.is_none() && queue.roster.len() == 0 && !vague
    }

    /// What consumers have goes back; then all that the exchanges keep that the queue is bound to, and
    /// that matches, is in the queue, from a place on.
    pub(super) fn rewind(&mut self, name: &str, back: u64) -> Result<Answer, ErrorKind> {
        self.queue(name)?;
        let from = self.next_place.saturating_sub(back);
        let bindings: Vec<_> =
            self.topology.bindings.iter().filter(|binding| binding.queue == name).collect();
        let keeps = |exchange: &str| self.queues.contains_key(&history_of(exchange));
        if !bindings.iter().any(|binding| keeps(&binding.exchange)) {
            return Err(ErrorKind::Usage);
        }
        let mut back: Vec<Entry> = Vec::new();
        for binding in bindings {
            let kind = self.topology.exchanges[&binding.exchange].kind;
            let Some(history) = self.queues.get(&history_of(&binding.exchange)) else { continue };
            let wanted = |entry: &&Entry| {
                entry.place >= from && binding.pattern.matches(kind, &entry.key, entry.headers)
            };
            back.extend(history.entries.iter().filter(wanted).cloned());
        }
        for held in self.held.extract_if(.., |held| held.queue == name) {
            self.queues.get_mut(name).expect("it is there").give_back(held.place);
        }
        self.unwritten = true;
        let queue = self.queues.get_mut(name).expect("it is there");
        let has = |entries: &[Entry], place: Place| entries.iter().any(|one| one.place == place);
        // Some of it may have a time of its own.
        queue.watched = true;
        let before = queue.entries.len();
        for entry in back {
            if !has(&queue.entries, entry.place) {
                queue.entries.push(entry);
            }
        }
        queue.entries.sort_by_key(|entry| entry.place);
        for entry in &mut queue.entries {
            (entry.at, entry.flag, entry.old) = (At::Queue, Flag::Maybe, true);
        }
        Ok(Answer::Purged((queue.entries.len() - before) as u64))
    }
}
