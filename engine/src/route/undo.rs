//! The steps that changes of the tables are made of, and taking them back.
//!
//! A call of many changes is all or nothing: each step notes how it is taken back, and where a later
//! change can't be made, that is done, the last step first. Nobody sees what lies between: the tables
//! are locked, and their version changes once all is done.
//!
//! U1. A step is taken back in the state that it left.

use std::{
    collections::{BTreeSet, hash_map::Entry},
    sync::Arc,
};

use fanlog_segment_format::{ExchangeId, GroupId, QueueId};

use super::{Exchange, Group, NamedQueue, Tables, rules::Rule};

/// How a step is taken back.
#[derive(Debug)]
pub(super) enum Undo {
    AddExchange(ExchangeId),
    TakeExchange(ExchangeId, Box<Exchange>),
    AddQueue(QueueId),
    TakeQueue(QueueId, NamedQueue),
    Join(GroupId, QueueId),
    Leave(GroupId, ExchangeId, Arc<Rule>, QueueId),
    Link(ExchangeId, Arc<Rule>, ExchangeId),
    Unlink(ExchangeId, Arc<Rule>, ExchangeId),
}

impl Tables {
    /// What was changed stays.
    pub(super) fn keep_changes(&mut self) {
        self.undo = Vec::new();
    }

    /// Takes back what was changed since `keep_changes`.
    pub(super) fn roll_back(&mut self) {
        for step in std::mem::take(&mut self.undo).into_iter().rev() {
            match step {
                Undo::AddExchange(id) => drop(self.take_exchange(id)),
                Undo::TakeExchange(id, exchange) => self.add_exchange(id, *exchange),
                Undo::AddQueue(id) => drop(self.take_queue(id)),
                Undo::TakeQueue(id, queue) => self.add_queue(id, queue),
                Undo::Join(group, queue) => drop(self.leave(group, queue)),
                Undo::Leave(group, exchange, rule, queue) => {
                    self.join(group, exchange, &rule, queue);
                }
                Undo::Link(from, rule, to) => drop(self.unlink(from, &rule, to)),
                Undo::Unlink(from, rule, to) => drop(self.link(from, &rule, to)),
            }
        }
        self.undo = Vec::new();
    }

    /// Adds an exchange that has no binding.
    pub(super) fn add_exchange(&mut self, id: ExchangeId, exchange: Exchange) {
        self.exchange_ids.insert(Arc::clone(&exchange.name), id);
        self.exchanges.insert(id, exchange);
        self.undo.push(Undo::AddExchange(id));
    }

    /// Takes an exchange that has no binding. Says whether it was there.
    pub(super) fn take_exchange(&mut self, id: ExchangeId) -> bool {
        let Some(exchange) = self.exchanges.remove(&id) else { return false };
        if self.exchange_ids.get(&exchange.name) == Some(&id) {
            self.exchange_ids.remove(&exchange.name);
        }
        self.undo.push(Undo::TakeExchange(id, Box::new(exchange)));
        true
    }

    /// Adds a queue that is bound to nothing.
    pub(super) fn add_queue(&mut self, id: QueueId, queue: NamedQueue) {
        match queue.history_of {
            None => drop(self.queue_ids.insert(Arc::clone(&queue.name), id)),
            Some(of) => self.set_history(of, Some((id, queue.own))),
        }
        if let Some(gate) = &queue.gate {
            self.gates.entry(queue.own).or_default().insert(id, Arc::clone(gate));
        }
        self.queues.insert(id, queue);
        self.undo.push(Undo::AddQueue(id));
    }

    fn set_history(&mut self, of: ExchangeId, history: Option<(QueueId, GroupId)>) {
        if let Some(exchange) = self.exchanges.get_mut(&of) {
            exchange.history = history;
        }
    }

    /// Takes a queue that is bound to nothing. Says whether it was there.
    pub(super) fn take_queue(&mut self, id: QueueId) -> bool {
        let Some(queue) = self.queues.remove(&id) else { return false };
        if let Some(of) = queue.history_of {
            self.set_history(of, None);
        } else if self.queue_ids.get(&queue.name) == Some(&id) {
            self.queue_ids.remove(&queue.name);
        }
        self.gates.remove(&queue.own);
        self.group_is_gone(queue.own);
        self.undo.push(Undo::TakeQueue(id, queue));
        true
    }

    /// Makes a queue a member of a rule's group; says whether it was none. The group is the rule's,
    /// or, where that has none, new.
    pub(super) fn join(
        &mut self,
        group: GroupId,
        exchange: ExchangeId,
        rule: &Arc<Rule>,
        queue: QueueId,
    ) -> bool {
        let (Some(from), Some(bound)) =
            (self.exchanges.get_mut(&exchange), self.queues.get_mut(&queue))
        else {
            return false;
        };
        let found = match self.groups.entry(group) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(none) => {
                let rule = Arc::clone(rule);
                none.insert(Group { exchange, rule, members: BTreeSet::new() })
            }
        };
        if found.members.is_empty() {
            from.rules.set_group(rule, Some(group));
        }
        if !found.members.insert(queue) {
            return false;
        }
        bound.bound.push(group);
        if let Some(gate) = &bound.gate {
            self.gates.entry(group).or_default().insert(queue, Arc::clone(gate));
        }
        self.undo.push(Undo::Join(group, queue));
        true
    }

    /// Undoes `join`; says whether it was a member.
    pub(super) fn leave(&mut self, group: GroupId, queue: QueueId) -> bool {
        let Some(found) = self.groups.get_mut(&group) else { return false };
        if !found.members.remove(&queue) {
            return false;
        }
        if let Some(bound) = self.queues.get_mut(&queue) {
            bound.bound.retain(|&other| other != group);
        }
        if let Entry::Occupied(mut gates) = self.gates.entry(group) {
            gates.get_mut().remove(&queue);
            if gates.get().is_empty() {
                gates.remove();
            }
        }
        let (exchange, rule) = (found.exchange, Arc::clone(&found.rule));
        if found.members.is_empty() {
            // R3.
            self.groups.remove(&group);
            if let Some(from) = self.exchanges.get_mut(&exchange) {
                from.rules.set_group(&rule, None);
            }
            self.group_is_gone(group);
        }
        self.undo.push(Undo::Leave(group, exchange, rule, queue));
        true
    }

    /// Leads a rule of an exchange to an exchange; says whether it did not.
    pub(super) fn link(&mut self, from: ExchangeId, rule: &Arc<Rule>, to: ExchangeId) -> bool {
        if !self.exchanges.contains_key(&from) {
            return false;
        }
        let Some(exchange) = self.exchanges.get_mut(&to) else { return false };
        if !exchange.sources.insert((from, Arc::clone(rule))) {
            return false;
        }
        if let Some(source) = self.exchanges.get_mut(&from) {
            source.rules.link(rule, to);
        }
        self.undo.push(Undo::Link(from, Arc::clone(rule), to));
        true
    }

    /// Undoes `link`; says whether it led there.
    pub(super) fn unlink(&mut self, from: ExchangeId, rule: &Arc<Rule>, to: ExchangeId) -> bool {
        let Some(exchange) = self.exchanges.get_mut(&to) else { return false };
        if !exchange.sources.remove(&(from, Arc::clone(rule))) {
            return false;
        }
        if let Some(source) = self.exchanges.get_mut(&from) {
            source.rules.unlink(rule, to);
        }
        self.undo.push(Undo::Unlink(from, Arc::clone(rule), to));
        true
    }
}
