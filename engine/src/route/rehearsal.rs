//! Tries a list of changes on paper, so that a call of many is all or nothing.

use std::collections::HashMap;

use super::{
    Change, ExchangeKind, Tables,
    change::{check_key, check_name, refused},
    not_found,
};
use crate::{Error, QueueOptions, Result};

/// What the changes of one call would have made of the tables so far.
pub(super) struct Rehearsal<'t, 'c> {
    tables: &'t Tables,
    /// Declared, or deleted (`None`), by this call; so with queues.
    exchanges: HashMap<&'c str, Option<ExchangeKind>>,
    queues: HashMap<&'c str, Option<&'c QueueOptions>>,
    bindings: HashMap<(&'c str, &'c str, &'c str), bool>,
}

impl<'t, 'c> Rehearsal<'t, 'c> {
    pub(super) fn new(tables: &'t Tables) -> Self {
        Self { tables, exchanges: HashMap::new(), queues: HashMap::new(), bindings: HashMap::new() }
    }

    pub(super) fn check_all(mut self, changes: &[Change<'c>]) -> Result<()> {
        changes.iter().try_for_each(|change| self.check(change))
    }

    fn check(&mut self, change: &Change<'c>) -> Result<()> {
        match *change {
            Change::DeclareExchange { name, kind } => self.declare_exchange(name, kind),
            Change::DeleteExchange { name } => {
                if name.is_empty() {
                    return Err(refused("delete of the default exchange", "it can't be deleted"));
                }
                self.exchange(name)?;
                self.exchanges.insert(name, None);
                self.bindings.retain(|binding, _| binding.1 != name);
                Ok(())
            }
            Change::DeclareQueue { name, options } => self.declare_queue(name, options),
            Change::DeleteQueue { name } => {
                self.queue(name)?;
                self.queues.insert(name, None);
                self.bindings.retain(|binding, _| binding.0 != name);
                Ok(())
            }
            Change::Bind { queue, exchange, routing_key } => {
                let key = self.binding(queue, exchange, routing_key, "bind")?;
                self.bindings.insert((queue, exchange, key), true);
                Ok(())
            }
            Change::Unbind { queue, exchange, routing_key } => {
                let key = self.binding(queue, exchange, routing_key, "unbind")?;
                self.unbind(queue, exchange, key)
            }
        }
    }

    fn declare_exchange(&mut self, name: &'c str, kind: ExchangeKind) -> Result<()> {
        check_name("exchange", name)?;
        let existing = self.exchange(name).ok();
        if let Some(existing) = existing.filter(|&existing| existing != kind) {
            return Err(Error::Mismatch {
                what: "exchange",
                name: name.to_owned(),
                argument: "kind".to_owned(),
                existing: existing.name().to_owned(),
                asked: kind.name().to_owned(),
            });
        }
        self.exchanges.insert(name, Some(kind));
        Ok(())
    }

    fn unbind(&mut self, queue: &'c str, exchange: &'c str, key: &'c str) -> Result<()> {
        let known = self.bindings.get(&(queue, exchange, key)).copied();
        if !known.unwrap_or_else(|| self.bound_before(queue, exchange, key)) {
            return Err(not_found("binding", &format!("{exchange} -> {queue} ({key})")));
        }
        self.bindings.insert((queue, exchange, key), false);
        Ok(())
    }

    /// Whether the binding stood before this call and neither end was deleted by it.
    fn bound_before(&self, queue: &str, exchange: &str, key: &str) -> bool {
        if matches!(self.queues.get(queue), Some(None))
            || self.exchanges.get(exchange) == Some(&None)
        {
            return false;
        }
        let group = self.tables.exchanges.get(exchange).and_then(|found| found.groups.get(key));
        let members = group.and_then(|group| self.tables.groups.get(group));
        let queue = self.tables.queue_ids.get(queue);
        members.zip(queue).is_some_and(|(group, queue)| group.members.contains(queue))
    }

    fn exchange(&self, name: &str) -> Result<ExchangeKind> {
        let known = match self.exchanges.get(name) {
            Some(known) => *known,
            None => self.tables.exchanges.get(name).map(|found| found.kind),
        };
        known.ok_or_else(|| not_found("exchange", name))
    }

    fn queue(&self, name: &str) -> Result<()> {
        let known = self.queues.get(name).map(Option::is_some);
        if known.unwrap_or_else(|| self.tables.queue_ids.contains_key(name)) {
            return Ok(());
        }
        Err(not_found("queue", name))
    }

    fn declare_queue(&mut self, name: &'c str, options: &'c QueueOptions) -> Result<()> {
        check_name("queue", name)?;
        options.validate()?;
        let declared = self.queues.get(name).copied();
        let before = self.tables.queue_ids.get(name).map(|&id| self.tables.options(id));
        if let Some(existing) = declared.unwrap_or(before) {
            existing.check_same(name, options)?;
        }
        self.queues.insert(name, Some(options));
        Ok(())
    }

    fn binding(&self, queue: &str, exchange: &str, key: &'c str, what: &str) -> Result<&'c str> {
        if exchange.is_empty() {
            let why = "it reaches every queue by its name, and nothing else";
            return Err(refused(&format!("{what} of the default exchange"), why));
        }
        check_key(key)?;
        let kind = self.exchange(exchange)?;
        self.queue(queue)?;
        Ok(if kind == ExchangeKind::Fanout { "" } else { key })
    }
}
