//! What exchanges keep, and how it comes back.

use std::{collections::BTreeSet, time::Duration};

use fanlog::ErrorKind;

use crate::{
    broker::{Answer, Broker},
    declaring::shared,
    operations::Start,
    queue::{At, Entry, Flag, Place},
    routing::{Binding, Pattern, history_of},
};

impl Broker {
    /// What exchanges kept that are gone.
    pub(super) fn forget_histories(&mut self) {
        let exchanges = &self.topology.exchanges;
        let kept: BTreeSet<String> = exchanges.keys().map(|name| history_of(name)).collect();
        self.queues.retain(|name, queue| !queue.is_history || kept.contains(name));
    }

    /// By which bindings messages came that are gone: should they be made again, they are others.
    pub(super) fn forget_ways(&mut self) {
        let bindings = &self.topology.bindings;
        for ways in self.queues.values_mut().flat_map(|queue| queue.came.values_mut()) {
            ways.retain(|way| way.as_ref().is_none_or(|binding| bindings.contains(binding)));
        }
    }

    /// Whether it is certain what comes of bringing messages back: who has a message with a limit of
    /// deliveries, or what is not due, is not.
    pub(crate) fn may_rewind(&self, name: &str) -> bool {
        let Some(queue) = self.queues.get(name) else { return true };
        let kept = self.queues.values().filter(|queue| queue.is_history);
        let mut kept = kept.flat_map(|history| &history.entries);
        let vague = queue.drops_head() && kept.any(|entry| entry.since > self.now());
        let held = self.held.iter().any(|held| held.queue == name);
        let counted = queue.options.delivery_limit.is_some() && held;
        !counted && queue.roster.len() == 0 && !vague
    }

    /// What all exchanges keep that the queue is bound to, and that matches, is in the queue, from a
    /// place on, acked or not.
    pub(super) fn rewind(&mut self, name: &str, at: Start) -> Result<Answer, ErrorKind> {
        self.queue(name)?;
        let bindings = self.topology.bindings.iter().filter(|binding| binding.queue == name);
        let bindings: Vec<Binding> = bindings.cloned().collect();
        if !bindings.iter().any(|binding| self.keeps(&binding.exchange)) {
            return Err(ErrorKind::Usage);
        }
        self.bring(name, &bindings, at, true)
    }

    /// The same for a binding, which is made; but nothing that came by another since it was made.
    pub(super) fn bind_from(
        &mut self,
        queue: &str,
        exchange: &str,
        pattern: Pattern,
        at: Start,
    ) -> Result<Answer, ErrorKind> {
        self.exchange(exchange)?;
        let binding = self.binding(queue, exchange, pattern)?;
        if !matches!(at, Start::Latest) && !self.keeps(exchange) {
            return Err(ErrorKind::Usage);
        }
        let brought = self.bring(queue, std::slice::from_ref(&binding), at, false)?;
        self.topology.bindings.insert(binding);
        Ok(brought)
    }

    fn keeps(&self, exchange: &str) -> bool {
        self.queues.contains_key(&history_of(exchange))
    }

    /// What somebody has goes back, and what is kept comes into the queue.
    fn bring(
        &mut self,
        name: &str,
        bindings: &[Binding],
        at: Start,
        again: bool,
    ) -> Result<Answer, ErrorKind> {
        let (now, next) = (self.now(), self.next_place);
        let asked = |entry: &Entry| match at {
            Start::Latest => false,
            Start::Earliest => true,
            Start::Back(back) => entry.place >= next.saturating_sub(back),
            Start::Ago(seconds) => {
                entry.published >= now.saturating_sub(Duration::from_secs(seconds))
            }
        };
        if matches!(at, Start::Latest) {
            return Ok(Answer::Purged(0));
        }
        shared(self.queue(name)?)?;
        let got = |place: Place| !again && self.queues[name].got(place);
        let mut back: Vec<Entry> = Vec::new();
        for binding in bindings {
            let kind = self.topology.exchanges[&binding.exchange].kind;
            let Some(history) = self.queues.get(&history_of(&binding.exchange)) else { continue };
            let matching = |entry: &&Entry| {
                let mut keys = entry.keys().into_iter();
                keys.any(|key| binding.pattern.matches(kind, key, entry.headers))
            };
            let wanted = |entry: &&Entry| asked(entry) && !got(entry.place) && matching(entry);
            back.extend(history.entries.iter().filter(wanted).cloned());
        }
        for held in self.held.extract_if(.., |held| held.queue == name) {
            self.queues.get_mut(name).expect("it is there").give_back(held.place);
        }
        self.unwritten = true;
        let queue = self.queues.get_mut(name).expect("it is there");
        let has = |entries: &[Entry], place: Place| entries.iter().any(|one| one.place == place);
        let before = queue.entries.len();
        for entry in back {
            if !has(&queue.entries, entry.place) {
                queue.entries.push(entry);
            }
        }
        queue.entries.sort_by_key(|entry| entry.place);
        for entry in &mut queue.entries {
            (entry.at, entry.flag) = (At::Queue, Flag::Maybe);
            (entry.old, entry.fresh) = (true, true);
        }
        Ok(Answer::Purged((queue.entries.len() - before) as u64))
    }
}
