//! Exchanges, queues and bindings come and go.

use fanlog::{DeleteQueue, ErrorKind, ExchangeKind, ExchangeOptions, QueueOptions};

use crate::{
    broker::{Answer, Broker},
    queue::{Entry, Queue},
    routing::{Binding, Exchange, Headers, Lead, Pattern, history_of},
};

impl Broker {
    pub(super) fn declare_exchange(
        &mut self,
        name: &str,
        kind: ExchangeKind,
        options: &ExchangeOptions,
    ) -> Result<Answer, ErrorKind> {
        let asked = Exchange { kind, options: options.clone() };
        if options.history.is_some() && !self.topology.exchanges.contains_key(name) {
            let kept = QueueOptions { durable: options.durable, ..QueueOptions::default() };
            let history = Queue {
                is_history: true,
                watched: true,
                ..Queue::new(&kept, self.declared, self.now())
            };
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
            if found.options != *options {
                return Err(ErrorKind::Mismatch);
            }
            found.used = now;
            return Ok(Answer::Done);
        }
        self.queues.insert(name.to_owned(), Queue::new(options, self.declared, now));
        self.declared += 1;
        Ok(Answer::Done)
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

    fn binding(
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

    /// The queues that get a message.
    pub(super) fn route(
        &self,
        exchange: &str,
        key: &str,
        headers: Headers,
    ) -> Result<Vec<String>, ErrorKind> {
        let queues: Vec<String> = if exchange.is_empty() {
            self.queues.contains_key(key).then(|| key.to_owned()).into_iter().collect()
        } else {
            self.exchange(exchange)?;
            let found = self.topology.queues_of(exchange, key, headers);
            found.into_iter().collect()
        };
        if queues.is_empty() { Err(ErrorKind::Unroutable) } else { Ok(queues) }
    }
}

/// What undoing a binding answers.
pub(crate) fn known(was: bool) -> Result<Answer, ErrorKind> {
    if was { Ok(Answer::Done) } else { Err(ErrorKind::NotFound) }
}
