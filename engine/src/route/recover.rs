//! The tables as a checkpoint and the log behind it have them.

use std::{collections::BTreeSet, sync::Arc};

use fanlog_segment_format::{
    DecodeError, ExchangeId, GroupId, RouteId,
    checkpoint::{Checkpoint, ExchangeEntry},
    control::Control,
    table::Table,
};

use super::{ExchangeKind, Group, NamedQueue, Tables, rules::Rule};
use crate::{ExchangeOptions, QueueOptions};

impl Tables {
    /// The tables as a checkpoint has them. Once the log behind it was replayed,
    /// [`recovered`](Self::recovered) is called.
    pub(crate) fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, DecodeError> {
        let mut tables = Self { next: checkpoint.next_ids, ..Self::default() };
        tables.predeclare();
        for entry in &checkpoint.exchanges {
            let ExchangeEntry { id, kind, flags, name, arguments } = entry;
            tables.recover_exchange(*id, name, *kind, *flags, arguments)?;
        }
        for entry in &checkpoint.groups {
            tables.recover_group(entry.id, entry.exchange, &entry.key, &entry.arguments)?;
        }
        for entry in &checkpoint.queues {
            let options = QueueOptions::stored(entry.flags, &entry.arguments)?;
            let queue = NamedQueue::new(entry.id, &entry.name, entry.group, options);
            tables.declare_queue_again(entry.id, entry.flags, queue);
        }
        for entry in &checkpoint.queues {
            for member in entry.members.iter().filter(|member| member.to.is_none()) {
                tables.join_again(member.group, entry.id);
            }
        }
        for entry in &checkpoint.exchange_bindings {
            let rule = recovered_rule(&entry.key, &entry.arguments)?;
            tables.link(entry.source, &rule, entry.destination);
        }
        for entry in &checkpoint.routes {
            tables.recover_route(entry.id, &entry.groups);
        }
        // A route outlives what it led to.
        tables.retain_routes();
        tables.keep_changes();
        Ok(tables)
    }

    /// Forgets what replay needed and nothing else does.
    pub(crate) fn recovered(&mut self) {
        self.groups.retain(|_, group| !group.members.is_empty());
        self.retain_routes();
    }

    fn recover_exchange(
        &mut self,
        id: ExchangeId,
        name: &str,
        code: u8,
        flags: u32,
        arguments: &[u8],
    ) -> Result<(), DecodeError> {
        let kind = ExchangeKind::from_code(code).ok_or_else(|| unknown_kind(code))?;
        self.declare_again(id, name, kind, ExchangeOptions::stored(flags, arguments)?);
        Ok(())
    }

    fn recover_group(
        &mut self,
        id: GroupId,
        exchange: ExchangeId,
        key: &[u8],
        arguments: &[u8],
    ) -> Result<(), DecodeError> {
        self.next.group = self.next.group.max(id.0 + 1);
        let rule = recovered_rule(key, arguments)?;
        self.groups.insert(id, Group { exchange, rule, members: BTreeSet::new() });
        Ok(())
    }

    /// Makes a queue a member of a group that was defined.
    fn join_again(&mut self, group: GroupId, queue: fanlog_segment_format::QueueId) {
        // The definition of a group, or of a queue, may be lost by damage.
        if let Some(found) = self.groups.get(&group) {
            let (exchange, rule) = (found.exchange, Arc::clone(&found.rule));
            self.join(group, exchange, &rule, queue);
        }
    }

    pub(crate) fn recover_route(&mut self, id: RouteId, groups: &[u32]) {
        self.next.route = self.next.route.max(id.0 + 1);
        let groups: Vec<GroupId> = groups.iter().copied().map(GroupId).collect();
        if groups.is_empty() {
            // Of transient messages of an earlier epoch.
            return;
        }
        self.routes.insert(&groups, id);
    }

    /// Does to the tables what a control record of the log says.
    pub(crate) fn replay(&mut self, control: &Control<'_>) -> Result<(), DecodeError> {
        match *control {
            Control::ExchangeDeclare { exchange, kind, flags, name, arguments } => {
                self.recover_exchange(exchange, name, kind, flags, arguments)?;
            }
            Control::ExchangeDelete { exchange } => drop(self.remove_exchange(exchange, None)),
            Control::ExchangeBind { source, destination, key, arguments } => {
                self.link(source, &recovered_rule(key, arguments)?, destination);
            }
            Control::ExchangeUnbind { source, destination, key, arguments } => {
                self.unlink(source, &recovered_rule(key, arguments)?, destination);
            }
            Control::QueueDeclare { queue, group, flags, name, arguments, .. } => {
                let options = QueueOptions::stored(flags, arguments)?;
                let named = NamedQueue::new(queue, name, group, options);
                self.declare_queue_again(queue, flags, named);
                self.next.queue = self.next.queue.max(queue.0 + 1);
                self.next.group = self.next.group.max(group.0 + 1);
            }
            Control::QueueDelete { queue } => self.remove_queue(queue),
            Control::GroupDefine { group, exchange, key, arguments, .. } => {
                self.recover_group(group, exchange, key, arguments)?;
            }
            Control::Bind { group, queue, .. } => self.join_again(group, queue),
            Control::Unbind { group, queue, .. } => {
                self.leave(group, queue);
            }
            Control::TransientRouteDefine { route, .. } => {
                self.next.route = self.next.route.max(route.0 + 1);
            }
            Control::RouteDefine { route, ref groups } => {
                let groups: Vec<u32> = groups.iter().collect();
                self.recover_route(route, &groups);
            }
            _ => {}
        }
        self.keep_changes();
        Ok(())
    }
}

fn recovered_rule(key: &[u8], arguments: &[u8]) -> Result<Arc<Rule>, DecodeError> {
    let key = String::from_utf8_lossy(key).into();
    let arguments = Table::from_bytes(arguments.to_vec())?;
    Ok(Arc::new(Rule { key, arguments }))
}

fn unknown_kind(code: u8) -> DecodeError {
    DecodeError::Field {
        structure: "exchange",
        position: 0,
        field: "kind",
        expected: "1 (fanout), 2 (direct), 3 (topic) or 4 (headers)",
        found: u64::from(code),
    }
}
