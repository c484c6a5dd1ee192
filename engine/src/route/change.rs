//! Changes of the topology: checked as a whole, then applied to the tables as a whole.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use fanlog_segment_format::{
    DecodeError, ExchangeId, GroupId, Offset, QueueId, RouteId,
    checkpoint::Checkpoint,
    control::Control,
    layout::{KEY_BYTES_MAX, NAME_BYTES_MAX},
};

use super::{
    Exchange, ExchangeKind, Group, NamedQueue, Tables, not_found, rehearsal::Rehearsal, take_id,
};
use crate::{Error, QueueOptions, Result};

/// Flag of a declared exchange: it survives a restart.
const DURABLE: u32 = 1;

/// One change of the topology, for [`Engine::change`](crate::Engine::change).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Declares a durable exchange. It is no change if it exists with the same kind.
    DeclareExchange {
        /// 1 to 255 bytes; not `""`, the default exchange's.
        name: &'a str,
        /// How it routes.
        kind: ExchangeKind,
    },
    /// Deletes an exchange and its bindings. Messages already stored stay in their queues.
    DeleteExchange {
        /// Its name.
        name: &'a str,
    },
    /// Declares a queue. It is no change if it exists with the same options.
    DeclareQueue {
        /// 1 to 255 bytes.
        name: &'a str,
        /// How it is to be.
        options: &'a QueueOptions,
    },
    /// Deletes a queue, its bindings and its claim on every message.
    DeleteQueue {
        /// Its name.
        name: &'a str,
    },
    /// Binds a queue: messages published from now on that match go to it. It is no change if the
    /// binding exists.
    Bind {
        /// The queue.
        queue: &'a str,
        /// The exchange; not the default one, which reaches every queue by its name.
        exchange: &'a str,
        /// At most 255 bytes. A fanout exchange does not look at it.
        routing_key: &'a str,
    },
    /// Undoes a binding; what it brought to the queue stays there.
    Unbind {
        /// The queue.
        queue: &'a str,
        /// The exchange.
        exchange: &'a str,
        /// The key that it was bound with.
        routing_key: &'a str,
    },
}

impl<'a> Change<'a> {
    /// Declares a durable queue with plain options.
    pub const fn declare_queue(name: &'a str) -> Self {
        Self::DeclareQueue { name, options: QueueOptions::plain() }
    }

    /// An upper bound of its control records' bytes, but for the bindings that deleting an exchange
    /// undoes.
    pub(crate) fn record_bytes_max(&self) -> usize {
        128 + match *self {
            Self::DeclareExchange { name, .. }
            | Self::DeleteExchange { name }
            | Self::DeleteQueue { name } => name.len(),
            Self::DeclareQueue { name, options } => name.len() + options.record_bytes_max(),
            Self::Bind { routing_key, .. } | Self::Unbind { routing_key, .. } => routing_key.len(),
        }
    }
}

/// The control records of a change, encoded, and what they need to know.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    pub(crate) bytes: &'a mut Vec<u8>,
    /// The offset that the next message would get.
    pub(crate) at: Offset,
}

impl Records<'_> {
    fn push(&mut self, control: &Control<'_>) {
        control.encode(self.bytes);
    }
}

impl Tables {
    /// Applies changes and appends their records: all of them, or, on an error, none.
    ///
    /// # Errors
    ///
    /// [`Error::Name`], [`Error::NotFound`], [`Error::Mismatch`], [`Error::Refused`],
    /// [`Error::Argument`].
    pub(crate) fn apply_all(
        &mut self,
        changes: &[Change<'_>],
        records: &mut Records<'_>,
    ) -> Result<()> {
        if let [change] = changes {
            return self.apply(change, records);
        }
        Rehearsal::new(self).check_all(changes)?;
        for change in changes {
            self.apply(change, records)?;
        }
        Ok(())
    }

    /// Applies one change and appends its records; on an error nothing is changed.
    fn apply(&mut self, change: &Change<'_>, records: &mut Records<'_>) -> Result<()> {
        match *change {
            Change::DeclareExchange { name, kind } => self.declare_exchange(name, kind, records),
            Change::DeleteExchange { name } => self.delete_exchange(name, records),
            Change::DeclareQueue { name, options } => self.declare_queue(name, options, records),
            Change::DeleteQueue { name } => self.delete_queue(name, records),
            Change::Bind { queue, exchange, routing_key } => {
                self.bind(queue, exchange, routing_key, records)
            }
            Change::Unbind { queue, exchange, routing_key } => {
                self.unbind(queue, exchange, routing_key, records)
            }
        }
    }

    fn declare_exchange(
        &mut self,
        name: &str,
        kind: ExchangeKind,
        records: &mut Records<'_>,
    ) -> Result<()> {
        check_name("exchange", name)?;
        if let Some(found) = self.exchanges.get(name) {
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
        self.insert_exchange(id, name, kind);
        Ok(())
    }

    fn insert_exchange(&mut self, id: ExchangeId, name: &str, kind: ExchangeKind) {
        let name: Arc<str> = name.into();
        self.exchange_names.insert(id, Arc::clone(&name));
        self.exchanges
            .insert(name, Exchange { id, kind, groups: std::collections::HashMap::new() });
    }

    fn delete_exchange(&mut self, name: &str, records: &mut Records<'_>) -> Result<()> {
        if name.is_empty() {
            return Err(refused("delete of the default exchange", "it can't be deleted"));
        }
        let found = self.exchanges.remove(name).ok_or_else(|| not_found("exchange", name))?;
        self.exchange_names.remove(&found.id);
        for &group in found.groups.values() {
            let members = self.groups.get(&group).map(|group| group.members.clone());
            for queue in members.into_iter().flatten() {
                self.leave(group, queue);
                records.push(&Control::Unbind { group, queue, to: records.at });
            }
            self.groups.remove(&group);
            self.routes.remove(&group);
        }
        records.push(&Control::ExchangeDelete { exchange: found.id });
        Ok(())
    }

    fn declare_queue(
        &mut self,
        name: &str,
        options: &QueueOptions,
        records: &mut Records<'_>,
    ) -> Result<()> {
        check_name("queue", name)?;
        options.validate()?;
        if let Some(id) = self.queue_ids.get(name) {
            return self.options(*id).check_same(name, options);
        }
        let id = QueueId(take_id(&mut self.next.queue, "queue")?);
        let group = GroupId(take_id(&mut self.next.group, "binding group")?);
        records.push(&Control::QueueDeclare {
            queue: id,
            group,
            flags: options.flags(),
            from: records.at,
            name,
            arguments: options.to_arguments().as_bytes(),
        });
        self.insert_queue(id, group, name, options.kept());
        Ok(())
    }

    /// The options of a queue that exists.
    pub(super) fn options(&self, id: QueueId) -> &QueueOptions {
        let options = self.queues.get(&id).and_then(|queue| queue.options.as_deref());
        options.unwrap_or(QueueOptions::plain())
    }

    fn insert_queue(
        &mut self,
        id: QueueId,
        own: GroupId,
        name: &str,
        options: Option<Box<QueueOptions>>,
    ) {
        let name: Arc<str> = name.into();
        self.queue_ids.insert(Arc::clone(&name), id);
        self.queues.insert(id, NamedQueue { name, own, bound: Vec::new(), options });
    }

    /// Forgets a queue, its route and its bindings.
    fn remove_queue(&mut self, id: QueueId) {
        let Some(found) = self.queues.remove(&id) else { return };
        self.queue_ids.remove(&found.name);
        self.routes.remove(&found.own);
        for group in found.bound {
            if let Some(group) = self.groups.get_mut(&group) {
                group.members.remove(&id);
            }
        }
    }

    fn delete_queue(&mut self, name: &str, records: &mut Records<'_>) -> Result<()> {
        let id = self.queue(name)?;
        self.remove_queue(id);
        records.push(&Control::QueueDelete { queue: id });
        Ok(())
    }

    fn bind(
        &mut self,
        queue: &str,
        exchange: &str,
        key: &str,
        records: &mut Records<'_>,
    ) -> Result<()> {
        let (queue, key) = self.binding(queue, exchange, key, "bind")?;
        let found = self.exchanges.get_mut(exchange).expect("checked in `binding`");
        let group = if let Some(&group) = found.groups.get(key) {
            group
        } else {
            let group = GroupId(take_id(&mut self.next.group, "binding group")?);
            found.groups.insert(key.into(), group);
            let exchange = found.id;
            let members = BTreeSet::new();
            self.groups.insert(group, Group { exchange, key: key.into(), members });
            records.push(&Control::GroupDefine {
                group,
                exchange,
                kind: found.kind.code(),
                key: key.as_bytes(),
                arguments: &[],
            });
            group
        };
        if self.join(group, queue) {
            records.push(&Control::Bind { group, queue, from: records.at });
        }
        Ok(())
    }

    fn unbind(
        &mut self,
        queue: &str,
        exchange: &str,
        key: &str,
        records: &mut Records<'_>,
    ) -> Result<()> {
        let missing = || not_found("binding", &format!("{exchange} -> {queue} ({key})"));
        let (id, stored) = self.binding(queue, exchange, key, "unbind")?;
        let group = *self.exchanges[exchange].groups.get(stored).ok_or_else(missing)?;
        if !self.leave(group, id) {
            return Err(missing());
        }
        records.push(&Control::Unbind { group, queue: id, to: records.at });
        Ok(())
    }

    /// The queue, and the key under which the exchange keeps such a binding.
    fn binding<'k>(
        &self,
        queue: &str,
        exchange: &str,
        key: &'k str,
        what: &str,
    ) -> Result<(QueueId, &'k str)> {
        if exchange.is_empty() {
            let why = "it reaches every queue by its name, and nothing else";
            return Err(refused(&format!("{what} of the default exchange"), why));
        }
        check_key(key)?;
        let found = self.exchanges.get(exchange).ok_or_else(|| not_found("exchange", exchange))?;
        let key = if found.kind == ExchangeKind::Fanout { "" } else { key };
        Ok((self.queue(queue)?, key))
    }

    /// The tables as a checkpoint has them.
    pub(crate) fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, DecodeError> {
        let mut tables = Self { next: checkpoint.next_ids, ..Self::default() };
        for entry in &checkpoint.exchanges {
            tables.recover_exchange(entry.id, &entry.name, entry.kind)?;
        }
        for entry in &checkpoint.groups {
            tables.recover_group(entry.id, entry.exchange, &entry.key);
        }
        for entry in &checkpoint.queues {
            let options = QueueOptions::stored(entry.flags, &entry.arguments)?;
            tables.insert_queue(entry.id, entry.group, &entry.name, options);
        }
        for entry in &checkpoint.queues {
            for member in entry.members.iter().filter(|member| member.to.is_none()) {
                tables.join(member.group, entry.id);
            }
        }
        // A route outlives what it led to.
        let own: HashSet<GroupId> = tables.queues.values().map(|queue| queue.own).collect();
        let leads = |group: &u32| {
            let group = GroupId(*group);
            own.contains(&group) || tables.groups.contains_key(&group)
        };
        let leading = checkpoint.routes.iter().filter(|entry| entry.groups.iter().all(leads));
        let leading: Vec<_> = leading.collect();
        for entry in leading {
            tables.recover_route(entry.id, &entry.groups);
        }
        Ok(tables)
    }

    fn recover_exchange(
        &mut self,
        id: ExchangeId,
        name: &str,
        code: u8,
    ) -> Result<(), DecodeError> {
        let kind = ExchangeKind::from_code(code).ok_or_else(|| unknown_kind(code))?;
        self.insert_exchange(id, name, kind);
        self.next.exchange = self.next.exchange.max(id.0 + 1);
        Ok(())
    }

    fn recover_group(&mut self, id: GroupId, exchange: ExchangeId, key: &[u8]) {
        let key: Box<str> = String::from_utf8_lossy(key).into();
        self.next.group = self.next.group.max(id.0 + 1);
        let name = self.exchange_names.get(&exchange);
        let Some(found) = name.and_then(|name| self.exchanges.get_mut(name)) else { return };
        found.groups.insert(key.clone(), id);
        self.groups.insert(id, Group { exchange, key, members: BTreeSet::new() });
    }

    /// Makes a queue a member of a group; says whether it was none.
    fn join(&mut self, group: GroupId, queue: QueueId) -> bool {
        let (Some(found), Some(queue_found)) =
            (self.groups.get_mut(&group), self.queues.get_mut(&queue))
        else {
            return false;
        };
        let joined = found.members.insert(queue);
        if joined {
            queue_found.bound.push(group);
        }
        joined
    }

    /// Undoes `join`; says whether it was a member.
    fn leave(&mut self, group: GroupId, queue: QueueId) -> bool {
        if let Some(found) = self.queues.get_mut(&queue) {
            found.bound.retain(|&other| other != group);
        }
        self.groups.get_mut(&group).is_some_and(|found| found.members.remove(&queue))
    }

    pub(crate) fn recover_route(&mut self, id: RouteId, groups: &[u32]) {
        self.next.route = self.next.route.max(id.0 + 1);
        if let [group] = *groups {
            self.routes.insert(GroupId(group), id);
        }
    }

    /// Does to the tables what a control record of the log says.
    pub(crate) fn replay(&mut self, control: &Control<'_>) -> Result<(), DecodeError> {
        match *control {
            Control::ExchangeDeclare { exchange, kind, name, .. } => {
                self.recover_exchange(exchange, name, kind)?;
            }
            Control::ExchangeDelete { exchange } => {
                let name = self.exchange_names.remove(&exchange);
                let found = name.and_then(|name| self.exchanges.remove(&name));
                for group in found.iter().flat_map(|found| found.groups.values()) {
                    self.groups.remove(group);
                    self.routes.remove(group);
                }
            }
            Control::QueueDeclare { queue, group, flags, name, arguments, .. } => {
                self.insert_queue(queue, group, name, QueueOptions::stored(flags, arguments)?);
                self.next.queue = self.next.queue.max(queue.0 + 1);
                self.next.group = self.next.group.max(group.0 + 1);
            }
            Control::QueueDelete { queue } => self.remove_queue(queue),
            Control::GroupDefine { group, exchange, key, .. } => {
                self.recover_group(group, exchange, key);
            }
            // The declaration of a queue may be lost by damage.
            Control::Bind { group, queue, .. } if self.queues.contains_key(&queue) => {
                self.join(group, queue);
            }
            Control::Unbind { group, queue, .. } => {
                self.leave(group, queue);
            }
            Control::RouteDefine { route, ref groups } => {
                let groups: Vec<u32> = groups.iter().collect();
                self.recover_route(route, &groups);
            }
            _ => {}
        }
        Ok(())
    }
}

fn unknown_kind(code: u8) -> DecodeError {
    DecodeError::Field {
        structure: "exchange",
        position: 0,
        field: "kind",
        expected: "1 (fanout) or 2 (direct)",
        found: u64::from(code),
    }
}

pub(super) fn refused(what: &str, why: &str) -> Error {
    Error::Refused { what: what.to_owned(), why: why.to_owned() }
}

pub(super) fn check_name(what: &'static str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let shown = name.chars().take(64).collect();
        return Err(Error::Name { what, name: shown, found: name.len(), limit: NAME_BYTES_MAX });
    }
    Ok(())
}

/// A routing key may be empty, but not too long.
pub(crate) fn check_key(key: &str) -> Result<()> {
    if key.len() > KEY_BYTES_MAX {
        let name = key.chars().take(64).collect();
        let found = key.len();
        return Err(Error::Name { what: "routing key", name, found, limit: KEY_BYTES_MAX });
    }
    Ok(())
}
