//! Exchanges, queues and bindings come and go.

use std::collections::BTreeSet;

use fanlog::{DeleteQueue, ErrorKind, ExchangeKind, ExchangeOptions, QueueOptions};

use crate::{
    broker::{Answer, Broker},
    operations::Operation,
    queue::{Entry, Queue},
    routing::{Binding, Exchange, Headers, Lead, Pattern, Ways, history_of},
};

impl Broker {
    /// Changes the topology.
    pub(super) fn change(&mut self, operation: &Operation) -> Result<Answer, ErrorKind> {
        match operation {
            Operation::DeclareExchange { name, kind, options } => {
                self.declare_exchange(name, *kind, options)
            }
            Operation::BindExchange { destination, source, pattern } => {
                let lead = self.lead(destination, source, *pattern);
                lead.map(|lead| {
                    self.topology.leads.insert(lead);
                    Answer::Done
                })
            }
            Operation::UnbindExchange { destination, source, pattern } => {
                let lead = self.lead(destination, source, *pattern);
                lead.and_then(|lead| known(self.topology.leads.remove(&lead)))
            }
            Operation::DeleteExchange { name, if_unused } => self.delete_exchange(name, *if_unused),
            Operation::DeclareQueue { name, options } => self.declare_queue(name, options),
            Operation::DeleteQueue { name, conditions } => self.delete_queue_if(name, *conditions),
            Operation::Bind { queue, exchange, pattern } => self.bind(queue, exchange, *pattern),
            Operation::Unbind { queue, exchange, pattern } => {
                self.unbind(queue, exchange, *pattern)
            }
            Operation::DeclareExclusive { name, options } => self.declare_exclusive(name, options),
            Operation::Disown { which } => {
                self.disown(which.index(self.owners.len()));
                Ok(Answer::Done)
            }
            other => panic!("{other:?} is no change"),
        }
    }

    pub(super) fn declare_exchange(
        &mut self,
        name: &str,
        kind: ExchangeKind,
        options: &ExchangeOptions,
    ) -> Result<Answer, ErrorKind> {
        let asked = Exchange { kind, options: options.clone() };
        if options.history.is_some() && !self.topology.exchanges.contains_key(name) {
            let kept = QueueOptions { durable: options.durable, ..QueueOptions::default() };
            let history =
                Queue { is_history: true, ..Queue::new(&kept, self.declared, self.now()) };
            self.queues.insert(history_of(name), history);
            self.declared += 1;
        }
        let found = self.topology.exchanges.entry(name.to_owned()).or_insert(asked.clone());
        if *found == asked { Ok(Answer::Done) } else { Err(ErrorKind::Mismatch) }
    }

    pub(super) fn lead(
        &self,
        destination: &str,
        source: &str,
        pattern: Pattern,
    ) -> Result<Lead, ErrorKind> {
        self.exchange(destination)?;
        self.exchange(source)?;
        let [destination, source] = [destination, source].map(str::to_owned);
        Ok(Lead { destination, source, pattern })
    }

    pub(super) fn declare_queue(
        &mut self,
        name: &str,
        options: &QueueOptions,
    ) -> Result<Answer, ErrorKind> {
        let now = self.now();
        if let Some(found) = self.queues.get_mut(name) {
            shared(found)?;
            if found.options != *options {
                return Err(ErrorKind::Mismatch);
            }
            found.used = now;
            return Ok(Answer::Done);
        }
        self.declare_new(name, options);
        Ok(Answer::Done)
    }

    /// It has an owner from then on, who may lose it.
    pub(super) fn declare_exclusive(
        &mut self,
        name: &str,
        options: &QueueOptions,
    ) -> Result<Answer, ErrorKind> {
        if self.queues.contains_key(name) {
            return Err(ErrorKind::Usage);
        }
        self.owners.push((name.to_owned(), self.declared));
        let options = QueueOptions { exclusive: true, ..options.clone() };
        self.declare_new(name, &options);
        Ok(Answer::Done)
    }

    /// An owner gives up its queue, if that is there still.
    pub(super) fn disown(&mut self, which: usize) {
        let (name, number) = self.owners.remove(which);
        if self.queues.get(&name).is_some_and(|queue| queue.number == number) {
            self.delete_queue(&name).expect("it is there");
        }
    }

    /// The name of an owner's queue, if that is there still.
    pub(super) fn owned(&self, which: usize) -> Result<String, ErrorKind> {
        let (name, number) = &self.owners[which];
        let there = self.queues.get(name).filter(|queue| queue.number == *number);
        there.map(|_| name.clone()).ok_or(ErrorKind::NotFound)
    }

    fn declare_new(&mut self, name: &str, options: &QueueOptions) {
        self.queues.insert(name.to_owned(), Queue::new(options, self.declared, self.now()));
        self.declared += 1;
    }

    pub(super) fn delete_exchange(
        &mut self,
        name: &str,
        if_unused: bool,
    ) -> Result<Answer, ErrorKind> {
        self.exchange(name)?;
        if if_unused && self.topology.sources().contains(name) {
            return Err(ErrorKind::InUse);
        }
        self.topology.exchanges.remove(name).ok_or(ErrorKind::NotFound)?;
        self.topology.forget_exchange(name);
        Ok(Answer::Done)
    }

    pub(super) fn delete_queue_if(
        &mut self,
        name: &str,
        conditions: DeleteQueue,
    ) -> Result<Answer, ErrorKind> {
        let queue = self.queue(name)?;
        shared(queue)?;
        let used = conditions.if_unused && queue.roster.len() > 0;
        let not_empty = conditions.if_empty && queue.entries.iter().any(Entry::waits);
        if used || not_empty { Err(ErrorKind::InUse) } else { self.delete_queue(name) }
    }

    pub(super) fn delete_queue(&mut self, name: &str) -> Result<Answer, ErrorKind> {
        self.queues.remove(name).ok_or(ErrorKind::NotFound)?;
        self.topology.bindings.retain(|binding| binding.queue != name);
        self.held.retain(|held| held.queue != name);
        self.consumers.retain(|(queue, _)| queue != name);
        Ok(Answer::Done)
    }

    pub(super) fn binding(
        &mut self,
        queue: &str,
        exchange: &str,
        pattern: Pattern,
    ) -> Result<Binding, ErrorKind> {
        self.queue(queue)?;
        self.exchange(exchange)?;
        let [queue, exchange] = [queue, exchange].map(str::to_owned);
        Ok(Binding { queue, exchange, pattern })
    }

    pub(super) fn bind(
        &mut self,
        queue: &str,
        to: &str,
        pattern: Pattern,
    ) -> Result<Answer, ErrorKind> {
        let binding = self.binding(queue, to, pattern)?;
        self.topology.bindings.insert(binding);
        Ok(Answer::Done)
    }

    pub(super) fn unbind(
        &mut self,
        queue: &str,
        from: &str,
        pattern: Pattern,
    ) -> Result<Answer, ErrorKind> {
        let binding = self.binding(queue, from, pattern)?;
        known(self.topology.bindings.remove(&binding))
    }

    /// The queues that get a message, and how.
    pub(super) fn route(
        &self,
        exchange: &str,
        keys: &[&str],
        headers: Headers,
    ) -> Result<Ways, ErrorKind> {
        let ways: Ways = if exchange.is_empty() {
            let named = keys.iter().filter(|key| self.queues.contains_key(**key));
            named.map(|name| ((*name).to_owned(), BTreeSet::from([None]))).collect()
        } else {
            self.exchange(exchange)?;
            self.topology.ways_of(exchange, keys, headers)
        };
        if ways.is_empty() { Err(ErrorKind::Unroutable) } else { Ok(ways) }
    }
}

/// A queue is nobody's.
pub(crate) fn shared(queue: &Queue) -> Result<(), ErrorKind> {
    if queue.options.exclusive { Err(ErrorKind::Usage) } else { Ok(()) }
}

/// What undoing a binding answers.
pub(crate) fn known(was: bool) -> Result<Answer, ErrorKind> {
    if was { Ok(Answer::Done) } else { Err(ErrorKind::NotFound) }
}
