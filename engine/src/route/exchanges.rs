//! Declaring and deleting exchanges.

use std::{collections::HashSet, sync::Arc};

use fanlog_segment_format::{ExchangeId, control::Control};

use super::{
    Exchange, ExchangeKind, Tables,
    change::{DURABLE, Records, check_name},
    not_found, refused,
    rules::Rules,
    take_id,
};
use crate::{Error, Result};

impl Exchange {
    pub(super) fn new(name: &str, kind: ExchangeKind) -> Self {
        Self { name: name.into(), kind, rules: Rules::new(kind), sources: HashSet::new() }
    }
}

impl Tables {
    pub(super) fn declare_exchange(
        &mut self,
        name: &str,
        kind: ExchangeKind,
        records: &mut Records<'_>,
    ) -> Result<()> {
        check_name("exchange", name)?;
        let id = self.exchange_ids.get(name);
        if let Some(found) = id.and_then(|id| self.exchanges.get(id)) {
            if found.kind == kind {
                return Ok(());
            }
            return Err(Error::Mismatch {
                what: "exchange",
                name: name.to_owned(),
                argument: "kind".to_owned(),
                existing: found.kind.name().to_owned(),
                asked: kind.name().to_owned(),
            });
        }
        let id = ExchangeId(take_id(&mut self.next.exchange, "exchange")?);
        records.push(&Control::ExchangeDeclare {
            exchange: id,
            kind: kind.code(),
            flags: DURABLE,
            name,
            arguments: &[],
        });
        self.add_exchange(id, Exchange::new(name, kind));
        Ok(())
    }

    pub(super) fn delete_exchange(&mut self, name: &str, records: &mut Records<'_>) -> Result<()> {
        if name.is_empty() {
            return Err(refused("delete of the default exchange", "it can't be deleted"));
        }
        let id = *self.exchange_ids.get(name).ok_or_else(|| not_found("exchange", name))?;
        self.remove_exchange(id, Some(records));
        Ok(())
    }

    /// Forgets an exchange and its bindings, and appends the records of that.
    pub(super) fn remove_exchange(
        &mut self,
        id: ExchangeId,
        mut records: Option<&mut Records<'_>>,
    ) {
        let Some(found) = self.exchanges.get(&id) else { return };
        let (mut groups, mut links) = (Vec::new(), Vec::new());
        for (rule, group, exchanges) in found.rules.all() {
            groups.extend(group);
            links.extend(exchanges.iter().map(|&to| (id, Arc::clone(rule), to)));
        }
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
        self.take_exchange(id);
        if let Some(records) = records {
            records.push(&Control::ExchangeDelete { exchange: id });
        }
    }
}
