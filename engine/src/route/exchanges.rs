//! Declaring and deleting exchanges.

use std::{collections::HashSet, sync::Arc};

use fanlog_segment_format::{ExchangeId, control::Control};

use super::{
    Exchange, ExchangeKind, Tables,
    change::{Records, check_name},
    not_found, refused,
    rules::Rules,
    take_id,
};
use crate::{Error, ExchangeOptions, Result};

/// Exchanges that every store has. Nothing on disk declares them; their ids are the highest.
const PREDECLARED: [(&str, ExchangeKind); 5] = [
    ("amq.direct", ExchangeKind::Direct),
    ("amq.fanout", ExchangeKind::Fanout),
    ("amq.headers", ExchangeKind::Headers),
    ("amq.match", ExchangeKind::Headers),
    ("amq.topic", ExchangeKind::Topic),
];
const FIRST_PREDECLARED: ExchangeId = ExchangeId(u32::MAX - 4);
/// Begins names that only predeclared exchanges have.
const RESERVED: &str = "amq.";

/// Whether whoever declares something may give it this name.
pub(super) fn check_not_reserved(what: &str, name: &str) -> Result<()> {
    if !name.starts_with(RESERVED) {
        return Ok(());
    }
    let why = "names that begin with \"amq.\" are reserved";
    Err(refused(&format!("declaration of {what} {name:?}"), why))
}

impl Exchange {
    fn new(name: &str, kind: ExchangeKind, options: Option<Box<ExchangeOptions>>) -> Self {
        let rules = Rules::new(kind);
        Self { name: name.into(), kind, options, history: None, rules, sources: HashSet::new() }
    }

    pub(super) fn options(&self) -> &ExchangeOptions {
        self.options.as_deref().unwrap_or(ExchangeOptions::plain())
    }
}

impl Tables {
    /// Adds the exchanges that every store has.
    pub(super) fn predeclare(&mut self) {
        for (id, (name, kind)) in (FIRST_PREDECLARED.0..=u32::MAX).zip(PREDECLARED) {
            self.add_exchange(ExchangeId(id), Exchange::new(name, kind, None));
        }
    }

    pub(super) fn declare_exchange(
        &mut self,
        name: &str,
        kind: ExchangeKind,
        options: &ExchangeOptions,
        records: &mut Records<'_>,
    ) -> Result<()> {
        check_name("exchange", name)?;
        options.validate()?;
        let id = self.exchange_ids.get(name);
        if let Some(found) = id.and_then(|id| self.exchanges.get(id)) {
            return found.check_same(kind, options);
        }
        check_not_reserved("exchange", name)?;
        let id = ExchangeId(take_id(&mut self.next.exchange, "exchange")?);
        if id >= FIRST_PREDECLARED {
            return Err(Error::Exhausted { what: "exchange" });
        }
        let arguments = options.to_arguments();
        records.push(&Control::ExchangeDeclare {
            exchange: id,
            kind: kind.code(),
            flags: options.flags(),
            name,
            arguments: arguments.as_bytes(),
        });
        self.add_exchange(id, Exchange::new(name, kind, options.kept()));
        match options.history {
            Some(history) => self.declare_history(id, name, history, records),
            None => Ok(()),
        }
    }

    /// Adds an exchange that was declared before.
    pub(super) fn declare_again(
        &mut self,
        id: ExchangeId,
        name: &str,
        kind: ExchangeKind,
        options: Option<Box<ExchangeOptions>>,
    ) {
        self.add_exchange(id, Exchange::new(name, kind, options));
        self.next.exchange = self.next.exchange.max(id.0.saturating_add(1));
    }

    pub(super) fn delete_exchange(
        &mut self,
        name: &str,
        if_unused: bool,
        records: &mut Records<'_>,
    ) -> Result<()> {
        if name.is_empty() {
            return Err(refused("delete of the default exchange", "it can't be deleted"));
        }
        let id = *self.exchange_ids.get(name).ok_or_else(|| not_found("exchange", name))?;
        if id >= FIRST_PREDECLARED {
            let why = "it is there by itself, and can't be deleted";
            return Err(refused(&format!("delete of exchange {name:?}"), why));
        }
        if if_unused && self.exchanges.get(&id).is_some_and(|found| !found.rules.is_empty()) {
            let name = name.to_owned();
            return Err(Error::StillUsed { what: "exchange", name, by: "bindings" });
        }
        self.delete_exchanges(vec![id], records);
        Ok(())
    }

    /// Deletes exchanges, and those that delete themselves as they lose their last binding.
    fn delete_exchanges(&mut self, mut doomed: Vec<ExchangeId>, records: &mut Records<'_>) {
        while let Some(id) = doomed.pop() {
            let sources = self.remove_exchange(id, Some(&mut *records));
            doomed.extend(sources.into_iter().filter(|&source| self.is_left_alone(source)));
        }
    }

    /// Deletes those of some exchanges, which lost bindings, that delete themselves now.
    pub(super) fn tidy(
        &mut self,
        lost_some: impl IntoIterator<Item = ExchangeId>,
        records: &mut Records<'_>,
    ) {
        let once: HashSet<ExchangeId> = lost_some.into_iter().collect();
        let mut doomed: Vec<ExchangeId> =
            once.into_iter().filter(|&id| self.is_left_alone(id)).collect();
        // The same records, whatever the order of the set.
        doomed.sort_unstable();
        self.delete_exchanges(doomed, records);
    }

    fn is_left_alone(&self, id: ExchangeId) -> bool {
        let found = self.exchanges.get(&id);
        found.is_some_and(|found| found.options().auto_delete && found.rules.is_empty())
    }

    /// Deletes what does not survive a restart.
    pub(crate) fn delete_transient(&mut self, records: &mut Records<'_>) {
        let exchanges = self.exchanges.iter();
        let mut transient: Vec<ExchangeId> =
            exchanges.filter(|(_, found)| !found.options().durable).map(|(&id, _)| id).collect();
        transient.sort_unstable();
        self.delete_exchanges(transient, records);
        self.keep_changes();
    }

    /// Forgets an exchange and its bindings, and appends the records of that. Returns the exchanges
    /// that led to it.
    pub(super) fn remove_exchange(
        &mut self,
        id: ExchangeId,
        mut records: Option<&mut Records<'_>>,
    ) -> Vec<ExchangeId> {
        let Some(found) = self.exchanges.get(&id) else { return Vec::new() };
        let history = found.history;
        let (mut groups, mut links) = (Vec::new(), Vec::new());
        for (rule, group, exchanges) in found.rules.all() {
            groups.extend(group);
            links.extend(exchanges.iter().map(|&to| (id, Arc::clone(rule), to)));
        }
        let mut sources: Vec<ExchangeId> = found.sources.iter().map(|(from, _)| *from).collect();
        sources.sort_unstable();
        sources.dedup();
        links.extend(found.sources.iter().map(|(from, rule)| (*from, Arc::clone(rule), id)));
        for group in groups {
            let members = self.groups.get(&group).map(|group| group.members.clone());
            for queue in members.into_iter().flatten() {
                self.leave(group, queue);
                if let Some(records) = &mut records {
                    let to = records.at;
                    records.push(&Control::Unbind { group, queue, to });
                }
            }
        }
        for (from, rule, to) in links {
            self.unlink(from, &rule, to);
        }
        if let Some((queue, _)) = history {
            self.take_queue(queue);
            if let Some(records) = &mut records {
                records.push(&Control::QueueDelete { queue });
            }
        }
        self.take_exchange(id);
        if let Some(records) = records {
            records.push(&Control::ExchangeDelete { exchange: id });
        }
        sources
    }
}

impl Exchange {
    fn check_same(&self, kind: ExchangeKind, options: &ExchangeOptions) -> Result<()> {
        if self.kind != kind {
            return Err(Error::Mismatch {
                what: "exchange",
                name: self.name.to_string(),
                argument: "kind".to_owned(),
                existing: self.kind.name().to_owned(),
                asked: kind.name().to_owned(),
            });
        }
        self.options().check_same(&self.name, options)
    }
}
