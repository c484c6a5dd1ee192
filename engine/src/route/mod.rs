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
//! R3. A group of a rule has members; with the last of them it goes, and a later one gets a new id.

mod bindings;
mod cache;
mod change;
mod exchanges;
mod kind;
mod matcher;
mod past;
mod queues;
mod recover;
mod resolve;
mod routes;
mod rules;
mod server_named;
#[cfg(test)]
mod tests;
mod undo;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use fanlog_segment_format::{ExchangeId, GroupId, QueueId, RouteId, checkpoint::NextIds};

pub(crate) use self::{
    cache::{Entry, RouteCache, SharedRoutes},
    change::{Records, check_key, check_name},
    past::{Past, Rewindable},
    resolve::{Matched, unroutable},
};
pub use self::{change::Change, kind::ExchangeKind};
use self::{
    routes::Routes,
    rules::{Rule, Rules},
    undo::Undo,
};
use crate::{
    Error, ExchangeOptions, QueueOptions, Result,
    gate::{Gate, Gates},
    ledger::Ledger,
};

/// The default exchange: routes to the queue named by the key, can't be bound or deleted.
pub(crate) const DEFAULT_EXCHANGE: ExchangeId = ExchangeId(0);

#[derive(Debug)]
struct Exchange {
    name: Arc<str>,
    kind: ExchangeKind,
    /// `None` if they are plain.
    options: Option<Box<ExchangeOptions>>,
    /// What it keeps: the queue, and its own group.
    history: Option<(QueueId, GroupId)>,
    rules: Rules,
    /// The bindings that lead here from exchanges.
    sources: HashSet<(ExchangeId, Arc<Rule>)>,
}

#[derive(Debug)]
struct NamedQueue {
    name: Arc<str>,
    /// The group through which the default exchange reaches it. It has no entry among the groups:
    /// its one member is this queue.
    own: GroupId,
    /// Of a history: the exchange that it is of.
    history_of: Option<ExchangeId>,
    /// The groups that it was bound to by name.
    bound: Vec<GroupId>,
    /// `None` if they are plain.
    options: Option<Box<QueueOptions>>,
    /// Of one that refuses what it has no room for.
    gate: Option<Arc<Gate>>,
}

#[derive(Debug)]
struct Group {
    exchange: ExchangeId,
    rule: Arc<Rule>,
    members: BTreeSet<QueueId>,
}

/// What a publish was routed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Routed {
    pub(crate) route: RouteId,
    pub(crate) exchange: ExchangeId,
    pub(crate) version: u64,
    pub(crate) holds: Holds,
    /// Of those of its queues that refuse what they have no room for, if there are any.
    pub(crate) gates: Option<Gates>,
}

/// What has the same route as a message.
///
/// As wide as a word: beside a byte, what is copied with it is copied in pieces, and the processor
/// waits until they are together. That was a twentieth of a publisher's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Holds {
    /// Every message with its exchange and key.
    ForKey,
    /// Perhaps no other: its headers count.
    Once,
}

/// Names, bindings and routes, as publishers see them.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) version: u64,
    exchanges: HashMap<ExchangeId, Exchange>,
    exchange_ids: HashMap<Arc<str>, ExchangeId>,
    queue_ids: HashMap<Arc<str>, QueueId>,
    queues: HashMap<QueueId, NamedQueue>,
    /// Those that queues are bound to by name.
    groups: HashMap<GroupId, Group>,
    /// Those of their members that have one, by group; queues' own groups too.
    gates: HashMap<GroupId, BTreeMap<QueueId, Arc<Gate>>>,
    routes: Routes,
    /// Those of transient messages: each opening begins with none.
    transient_routes: Routes,
    pub(crate) next: NextIds,
    /// A reserved name that was made up, and may be declared.
    granted: Option<String>,
    /// Names made up since the store was opened.
    names_made: u64,
    /// How to take back what the call under way has changed so far.
    undo: Vec<Undo>,
}

impl Tables {
    pub(crate) fn queue(&self, name: &str) -> Result<QueueId> {
        self.queue_ids.get(name).copied().ok_or_else(|| not_found("queue", name))
    }

    pub(crate) fn exchange_name(&self, id: ExchangeId) -> Option<Arc<str>> {
        self.exchanges.get(&id).map(|exchange| Arc::clone(&exchange.name))
    }

    /// The route of these groups, if it was defined before.
    pub(crate) fn route_of(&self, matched: &Matched, transient: bool) -> Option<Routed> {
        let routes = if transient { &self.transient_routes } else { &self.routes };
        let route = routes.get(&matched.groups)?;
        Some(self.routed(route, matched))
    }

    /// Gives a set of groups a route. The caller writes its definition before its first use.
    pub(crate) fn define_route(&mut self, matched: &Matched, transient: bool) -> Result<Routed> {
        let route = RouteId(take_id(&mut self.next.route, "route")?);
        let routes = if transient { &mut self.transient_routes } else { &mut self.routes };
        routes.insert(&matched.groups, route);
        Ok(self.routed(route, matched))
    }

    fn routed(&self, route: RouteId, matched: &Matched) -> Routed {
        let Matched { exchange, by_headers, .. } = *matched;
        let gates = self.gates_of(&matched.groups);
        let holds = if by_headers { Holds::Once } else { Holds::ForKey };
        Routed { route, exchange, version: self.version, holds, gates }
    }

    fn gates_of(&self, groups: &[GroupId]) -> Option<Gates> {
        if self.gates.is_empty() {
            return None;
        }
        let gates = groups.iter().filter_map(|group| self.gates.get(group)).flatten();
        let gates: BTreeMap<QueueId, &Arc<Gate>> = gates.map(|(&id, gate)| (id, gate)).collect();
        (!gates.is_empty()).then(|| gates.into_values().cloned().collect())
    }

    /// The store is open: what queues were sent before is known.
    pub(crate) fn open_gates(&self, ledger: &Ledger) {
        for (id, gate) in self.gates.values().flatten() {
            if let Some(queue) = ledger.queue(*id) {
                gate.opened(&queue, ledger.sent(&queue));
            }
        }
    }

    /// No message goes to this group any more.
    fn group_is_gone(&mut self, group: GroupId) {
        let lasting = self.routes.remove(group);
        if self.transient_routes.remove(group) || lasting {
            self.retain_routes();
        }
    }

    /// Those of some things with a route that no message takes.
    pub(crate) fn retain_unled<T>(
        &self,
        mut all: Vec<T>,
        route_of: impl Fn(&T) -> (&[GroupId], RouteId),
    ) -> Vec<T> {
        let mut own = None;
        all.retain(|one| {
            let (groups, route) = route_of(one);
            let [lasting, transient] = [&self.routes, &self.transient_routes];
            if lasting.get(groups) != Some(route) && transient.get(groups) != Some(route) {
                return true;
            }
            // It may not be forgotten yet although one of its groups is.
            let own: &HashSet<GroupId> =
                own.get_or_insert_with(|| self.queues.values().map(|queue| queue.own).collect());
            !groups.iter().all(|group| self.groups.contains_key(group) || own.contains(group))
        });
        all
    }

    /// Forgets the routes of which a group is gone.
    fn retain_routes(&mut self) {
        let own: HashSet<GroupId> = self.queues.values().map(|queue| queue.own).collect();
        let groups = &self.groups;
        let exists = |group| groups.contains_key(&group) || own.contains(&group);
        self.routes.retain(exists);
        self.transient_routes.retain(exists);
    }
}

fn not_found(what: &'static str, name: &str) -> Error {
    Error::NotFound { what, name: name.to_owned() }
}

fn refused(what: &str, why: &str) -> Error {
    Error::Refused { what: what.to_owned(), why: why.to_owned() }
}

fn take_id(next: &mut u32, what: &'static str) -> Result<u32> {
    let id = *next;
    *next = id.checked_add(1).ok_or(Error::Exhausted { what })?;
    Ok(id)
}
