//! Routing: exchange and routing key to a route id. Memory only.
//!
//! Owns the publishers' side of the topology: names, bindings, and which route each set of binding
//! groups has. In: changes, checked here before anything is written. Out: routes, and the control
//! records that make a change durable.
//!
//! The tables are changed in place under a lock that publishers take only when the route they
//! remember is of another version: so the n-th declare and bind cost what the first did, and a
//! publish under an unchanged topology touches no shared table.
//!
//! R1. The tables, their version and the version under the append lock change together, while both
//!     locks are held: a message is routed before or after a change, never between.
//! R2. Ids of exchanges, queues, groups and routes are never used again.

mod cache;
mod change;
mod rehearsal;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use fanlog_segment_format::{ExchangeId, GroupId, QueueId, RouteId, checkpoint::NextIds};

pub(crate) use self::cache::RouteCache;
pub use self::change::Change;
pub(crate) use self::change::{Records, check_key};
use crate::{Error, QueueOptions, Result};

/// How an exchange chooses among its bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExchangeKind {
    /// Every bound queue gets every message; routing keys are not looked at.
    Fanout,
    /// Queues bound with exactly the message's routing key get it.
    Direct,
}

impl ExchangeKind {
    /// The number that stands for it on disk.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Fanout => 1,
            Self::Direct => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Fanout),
            2 => Some(Self::Direct),
            _ => None,
        }
    }

    /// Its name: `"fanout"`, `"direct"`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fanout => "fanout",
            Self::Direct => "direct",
        }
    }
}

/// The default exchange: routes to the queue named by the key, can't be bound or deleted.
pub(crate) const DEFAULT_EXCHANGE: ExchangeId = ExchangeId(0);

#[derive(Debug)]
struct Exchange {
    id: ExchangeId,
    kind: ExchangeKind,
    /// One group per routing key; a fanout exchange has one, under "".
    groups: HashMap<Box<str>, GroupId>,
}

#[derive(Debug)]
struct NamedQueue {
    name: Arc<str>,
    /// The group through which the default exchange reaches it. It has no entry among the groups:
    /// its one member is this queue.
    own: GroupId,
    /// The groups that it was bound to by name.
    bound: Vec<GroupId>,
    /// `None` if they are plain.
    options: Option<Box<QueueOptions>>,
}

#[derive(Debug)]
struct Group {
    exchange: ExchangeId,
    key: Box<str>,
    members: BTreeSet<QueueId>,
}

/// What a publish was routed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Routed {
    pub(crate) route: RouteId,
    pub(crate) exchange: ExchangeId,
    pub(crate) version: u64,
}

/// A binding, as the tables know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Binding {
    pub(crate) queue: Arc<str>,
    pub(crate) exchange: Arc<str>,
    pub(crate) routing_key: String,
}

/// Names, bindings and routes, as publishers see them.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) version: u64,
    exchanges: HashMap<Arc<str>, Exchange>,
    exchange_names: HashMap<ExchangeId, Arc<str>>,
    queue_ids: HashMap<Arc<str>, QueueId>,
    queues: HashMap<QueueId, NamedQueue>,
    /// Those that queues are bound to by name.
    groups: HashMap<GroupId, Group>,
    routes: HashMap<GroupId, RouteId>,
    pub(crate) next: NextIds,
}

impl Tables {
    pub(crate) fn queue(&self, name: &str) -> Result<QueueId> {
        self.queue_ids.get(name).copied().ok_or_else(|| not_found("queue", name))
    }

    pub(crate) fn exchange_name(&self, id: ExchangeId) -> Option<Arc<str>> {
        self.exchange_names.get(&id).cloned()
    }

    /// The group that a message goes to: `None` if no queue would get it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such exchange.
    pub(crate) fn group(&self, exchange: &str, key: &str) -> Result<Option<(ExchangeId, GroupId)>> {
        if exchange.is_empty() {
            let queue = self.queue_ids.get(key).and_then(|id| self.queues.get(id));
            return Ok(queue.map(|queue| (DEFAULT_EXCHANGE, queue.own)));
        }
        let found = self.exchanges.get(exchange).ok_or_else(|| not_found("exchange", exchange))?;
        let key = match found.kind {
            ExchangeKind::Fanout => "",
            ExchangeKind::Direct => key,
        };
        let group = found.groups.get(key);
        let bound = group.filter(|group| !self.groups[*group].members.is_empty());
        Ok(bound.map(|&group| (found.id, group)))
    }

    /// The route of a message, if it was defined before; else the group that needs one.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Unroutable`].
    pub(crate) fn route(&self, exchange: &str, key: &str) -> Result<Result<Routed, Undefined>> {
        let Some((id, group)) = self.group(exchange, key)? else {
            return Err(Error::Unroutable {
                exchange: exchange.to_owned(),
                routing_key: key.to_owned(),
            });
        };
        Ok(match self.routes.get(&group) {
            Some(&route) => Ok(Routed { route, exchange: id, version: self.version }),
            None => Err(Undefined { exchange: id, group }),
        })
    }

    /// Gives a group a route. The caller writes its definition before its first use.
    pub(crate) fn define_route(&mut self, undefined: Undefined) -> Result<Routed> {
        let route = RouteId(take_id(&mut self.next.route, "route")?);
        self.routes.insert(undefined.group, route);
        Ok(Routed { route, exchange: undefined.exchange, version: self.version })
    }

    /// Exchanges by name, without the default one.
    pub(crate) fn exchanges(&self) -> Vec<(Arc<str>, ExchangeKind)> {
        let mut list: Vec<_> =
            self.exchanges.iter().map(|(name, found)| (Arc::clone(name), found.kind)).collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list
    }

    /// Queues by name.
    pub(crate) fn queues(&self) -> Vec<(Arc<str>, QueueId)> {
        let mut list: Vec<_> =
            self.queue_ids.iter().map(|(name, &id)| (Arc::clone(name), id)).collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list
    }

    /// Every binding made by name; not the default exchange's.
    pub(crate) fn bindings(&self) -> Vec<Binding> {
        let mut list = Vec::new();
        for group in self.groups.values() {
            let Some(exchange) = self.exchange_names.get(&group.exchange) else { continue };
            for queue in &group.members {
                list.push(Binding {
                    queue: Arc::clone(&self.queues[queue].name),
                    exchange: Arc::clone(exchange),
                    routing_key: group.key.to_string(),
                });
            }
        }
        list.sort();
        list
    }
}

/// A group that messages go to for the first time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Undefined {
    pub(crate) exchange: ExchangeId,
    pub(crate) group: GroupId,
}

fn not_found(what: &'static str, name: &str) -> Error {
    Error::NotFound { what, name: name.to_owned() }
}

fn take_id(next: &mut u32, what: &'static str) -> Result<u32> {
    let id = *next;
    *next = id.checked_add(1).ok_or(Error::Exhausted { what })?;
    Ok(id)
}
