//! Binding and unbinding.

use std::sync::Arc;

use fanlog_segment_format::{ExchangeId, GroupId, control::Control, table::Table};

use super::{
    ExchangeKind, Tables,
    change::{Records, check_key},
    matcher::headers,
    not_found, refused,
    rules::Rule,
    take_id,
};
use crate::Result;

/// What a binding is asked to match.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) exchange: &'a str,
    pub(super) key: &'a str,
    pub(super) arguments: &'a Table,
}

/// The rule of an exchange that a binding stands for.
pub(super) struct Found {
    pub(super) exchange: ExchangeId,
    kind: ExchangeKind,
    pub(super) rule: Arc<Rule>,
}

impl Tables {
    pub(super) fn bind(
        &mut self,
        queue: &str,
        asked: Asked<'_>,
        records: &mut Records<'_>,
    ) -> Result<()> {
        let Found { exchange, kind, rule } = self.rule(asked, "bind")?;
        let queue = self.queue(queue)?;
        let group = match self.group_of(exchange, &rule) {
            Some(group) => group,
            None => self.define_group(exchange, kind, &rule, records)?,
        };
        if self.join(group, exchange, &rule, queue) {
            records.push(&Control::Bind { group, queue, from: records.at });
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
        asked: Asked<'_>,
        records: &mut Records<'_>,
    ) -> Result<()> {
        let Found { exchange, rule, .. } = self.rule(asked, "unbind")?;
        let id = self.queue(queue)?;
        let group = self.group_of(exchange, &rule);
        let left = group.filter(|&group| self.leave(group, id));
        let group = left.ok_or_else(|| missing(asked, queue))?;
        records.push(&Control::Unbind { group, queue: id, to: records.at });
        self.tidy([exchange], records);
        Ok(())
    }

    pub(super) fn bind_exchange(
        &mut self,
        destination: &str,
        asked: Asked<'_>,
        records: &mut Records<'_>,
    ) -> Result<()> {
        let Found { exchange: source, rule, .. } = self.rule(asked, "bind")?;
        let destination = self.destination(destination, "bind")?;
        if self.link(source, &rule, destination) {
            let (key, arguments) = (rule.key.as_bytes(), rule.arguments.as_bytes());
            records.push(&Control::ExchangeBind { source, destination, key, arguments });
        }
        Ok(())
    }

    pub(super) fn unbind_exchange(
        &mut self,
        name: &str,
        asked: Asked<'_>,
        records: &mut Records<'_>,
    ) -> Result<()> {
        let Found { exchange: source, rule, .. } = self.rule(asked, "unbind")?;
        let destination = self.destination(name, "unbind")?;
        if !self.unlink(source, &rule, destination) {
            return Err(missing(asked, name));
        }
        let (key, arguments) = (rule.key.as_bytes(), rule.arguments.as_bytes());
        records.push(&Control::ExchangeUnbind { source, destination, key, arguments });
        self.tidy([source], records);
        Ok(())
    }

    fn group_of(&self, exchange: ExchangeId, rule: &Rule) -> Option<GroupId> {
        self.exchanges.get(&exchange)?.rules.group(rule)
    }

    /// The exchange that is to get messages of another.
    fn destination(&self, name: &str, what: &str) -> Result<ExchangeId> {
        if name.is_empty() { Err(not_the_default(what)) } else { self.exchange_id(name) }
    }

    pub(super) fn rule(&self, asked: Asked<'_>, what: &str) -> Result<Found> {
        let Asked { exchange: name, key, arguments } = asked;
        if name.is_empty() {
            return Err(not_the_default(what));
        }
        check_key(key)?;
        let exchange = self.exchange_id(name)?;
        let found = self.exchanges.get(&exchange).ok_or_else(|| not_found("exchange", name))?;
        if found.kind == ExchangeKind::Headers {
            headers::check(arguments)?;
        }
        // Also where keys and arguments are not looked at they tell bindings apart.
        Ok(Found { exchange, kind: found.kind, rule: Arc::new(Rule::new(key, arguments)) })
    }
}

fn not_the_default(what: &str) -> crate::Error {
    let why = "it reaches every queue by its name, and nothing else";
    refused(&format!("{what} of the default exchange"), why)
}

fn missing(asked: Asked<'_>, destination: &str) -> crate::Error {
    let Asked { exchange, key, arguments } = asked;
    let name = format!("{exchange} -> {destination} ({key})");
    if arguments.is_empty() {
        return not_found("binding", &name);
    }
    not_found("binding", &format!("{name} {arguments:?}"))
}
