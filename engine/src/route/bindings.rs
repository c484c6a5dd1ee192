//! Binding and unbinding.

use std::sync::Arc;

use fanlog_segment_format::{ExchangeId, GroupId, QueueId, control::Control, table::Table};

use super::{
    ExchangeKind, Tables,
    change::{Records, check_key},
    not_found, refused,
    rules::Rule,
    take_id,
};
use crate::Result;

/// A binding of a queue, found out to be possible.
struct Asked {
    exchange: ExchangeId,
    kind: ExchangeKind,
    rule: Arc<Rule>,
    queue: QueueId,
}

impl Tables {
    pub(super) fn bind(
        &mut self,
        queue: &str,
        exchange: &str,
        key: &str,
        records: &mut Records<'_>,
    ) -> Result<()> {
        let asked = self.binding(queue, exchange, key, "bind")?;
        let Asked { exchange, kind, rule, queue } = &asked;
        let group = match self.group_of(*exchange, rule) {
            Some(group) => group,
            None => self.define_group(*exchange, *kind, rule, records)?,
        };
        if self.join(group, *exchange, rule, *queue) {
            records.push(&Control::Bind { group, queue: *queue, from: records.at });
        }
        Ok(())
    }

    fn define_group(
        &mut self,
        exchange: ExchangeId,
        kind: ExchangeKind,
        rule: &Rule,
        records: &mut Records<'_>,
    ) -> Result<GroupId> {
        let group = GroupId(take_id(&mut self.next.group, "binding group")?);
        records.push(&Control::GroupDefine {
            group,
            exchange,
            kind: kind.code(),
            key: rule.key.as_bytes(),
            arguments: rule.arguments.as_bytes(),
        });
        Ok(group)
    }

    pub(super) fn unbind(
        &mut self,
        queue: &str,
        exchange: &str,
        key: &str,
        records: &mut Records<'_>,
    ) -> Result<()> {
        let asked = self.binding(queue, exchange, key, "unbind")?;
        let group = self.group_of(asked.exchange, &asked.rule);
        let left = group.filter(|&group| self.leave(group, asked.queue));
        let missing = || not_found("binding", &format!("{exchange} -> {queue} ({key})"));
        let group = left.ok_or_else(missing)?;
        records.push(&Control::Unbind { group, queue: asked.queue, to: records.at });
        Ok(())
    }

    fn group_of(&self, exchange: ExchangeId, rule: &Rule) -> Option<GroupId> {
        self.exchanges.get(&exchange)?.rules.group(rule)
    }

    /// Finds the ends of a binding, and how the exchange keeps its rule.
    fn binding(&self, queue: &str, exchange: &str, key: &str, what: &str) -> Result<Asked> {
        let (exchange, kind, rule) = self.rule(exchange, key, what)?;
        Ok(Asked { exchange, kind, rule, queue: self.queue(queue)? })
    }

    /// The rule of an exchange that a key stands for.
    fn rule(
        &self,
        exchange: &str,
        key: &str,
        what: &str,
    ) -> Result<(ExchangeId, ExchangeKind, Arc<Rule>)> {
        if exchange.is_empty() {
            let why = "it reaches every queue by its name, and nothing else";
            return Err(refused(&format!("{what} of the default exchange"), why));
        }
        check_key(key)?;
        let id = self.exchange_id(exchange)?;
        let found = self.exchanges.get(&id).ok_or_else(|| not_found("exchange", exchange))?;
        let key = if found.kind == ExchangeKind::Fanout { "" } else { key };
        Ok((id, found.kind, Arc::new(Rule { key: key.into(), arguments: Table::new() })))
    }
}
