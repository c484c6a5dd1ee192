//! The ledger: what the confirmed log says, and nothing else.
//!
//! Owns the durable state of topology, route counters and queues. In: batches, in order, once they
//! are confirmed (or, at recovery, read). Out: depths, checkpoints, what reclaim may take. The same
//! code applies a record while running and at recovery, so the state is always what a replay would
//! make of it.
//!
//! G1. Batches are applied in the order of their numbers, each once.
//! G2. Nothing is applied before it is confirmed.
//! G3. Within a batch, records that change membership are applied before its messages are counted.
//! G4. Every queue that has a membership in a group, also one that has ended, is among its holders;
//!     of its own group a queue is the one holder, and the owner.

pub(crate) mod ack_set;
mod capture;
pub(crate) mod closed;
pub(crate) mod convert;
pub(crate) mod count;
mod delivery_counts;
pub(crate) mod departure;
mod exchanges;
pub(crate) mod live;
mod named;
pub(crate) mod queue_ledger;
pub(crate) mod recount;
mod rewind;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, MutexGuard},
};

use fanlog_segment_format::{
    BatchNumber, DecodeError, ExchangeId, GroupId, Offset, QueueId, RouteId, SegmentId,
    ack::AckBytes,
    checkpoint::{
        BaseEntry, Checkpoint, ExchangeBindingEntry, ExchangeEntry, GroupEntry, LogHead, NextIds,
    },
    control::Control,
};

use self::{
    ack_set::AckSet,
    capture::Capture,
    closed::Closed,
    departure::Departure,
    live::{Live, SegmentCount},
    named::Named,
    queue_ledger::{Amount, QueueLedger},
};
use crate::{
    QueueOptions,
    history::HISTORY,
    log::{Log, index::BatchIndex},
    queue::Queue,
};

#[derive(Debug)]
struct Route {
    groups: Arc<[GroupId]>,
    counted: Amount,
    /// Queues that get what is published to it now.
    queues: u64,
    /// Of transient messages of this epoch: a checkpoint does not count them.
    transient: bool,
    /// Its messages are not before this offset, as far as is known, ..
    from: Offset,
    /// .. nor at or past this one.
    to: Offset,
}

#[derive(Debug, Default)]
struct Group {
    /// `None` for a queue's own group, which its queue's entry names.
    entry: Option<Arc<GroupEntry>>,
    routes: Vec<RouteId>,
    /// Queues that are members of it now.
    members: u64,
}

/// What else has to happen once a batch is applied.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Queues whose consumers may go on: their lease was extended.
    pub(crate) granted: Vec<Arc<Queue>>,
    /// Queues in which those who sleep wait for something of their own.
    pub(crate) counted: Vec<Arc<Queue>>,
    /// Queues that became members of a group.
    pub(crate) bound: Vec<(GroupId, Arc<Queue>)>,
    /// Queues that messages of the past came into.
    pub(crate) rewound: Vec<Arc<Queue>>,
    /// Queues whose membership of a group ended.
    pub(crate) unbound: Vec<(GroupId, Arc<Queue>)>,
    /// Queues that came into being.
    pub(crate) declared: Vec<Arc<Queue>>,
    /// Queues that are gone.
    pub(crate) deleted: Vec<Arc<Queue>>,
}

/// The state that the confirmed log describes.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) head: LogHead,
    exchanges: BTreeMap<ExchangeId, ExchangeEntry>,
    exchange_bindings: BTreeSet<ExchangeBindingEntry>,
    /// Queues' own groups are here only if a route leads to them.
    groups: BTreeMap<GroupId, Group>,
    routes: BTreeMap<RouteId, Route>,
    closed: Closed,
    queues: BTreeMap<QueueId, Arc<Queue>>,
    next: NextIds,
    named: Named,
    /// The log is being read: what is transient in it is of an earlier epoch, and nobody's.
    recovering: bool,
    /// There are transient routes of this epoch, or, while recovering, of those that are read.
    transients: bool,
    live: Live,
    /// Queues by the groups that they are, or were, members of (G4).
    holders: HashMap<GroupId, HashSet<QueueId>>,
    owners: HashMap<GroupId, QueueId>,
    departures: Vec<Departure>,
    capturing: Option<Capture>,
    /// How many captures there were.
    captures: u32,
    /// How many rewinds there were.
    rewinds: u64,
}

impl Ledger {
    /// The state that a checkpoint holds. Routes are told to `log` as well.
    pub(crate) fn from_checkpoint(checkpoint: &Checkpoint, log: &Log) -> Result<Self, DecodeError> {
        let mut ledger = Self {
            head: checkpoint.head,
            exchanges: checkpoint.exchanges.iter().map(|entry| (entry.id, entry.clone())).collect(),
            exchange_bindings: checkpoint.exchange_bindings.iter().cloned().collect(),
            groups: BTreeMap::new(),
            routes: BTreeMap::new(),
            closed: Closed::default(),
            queues: BTreeMap::new(),
            next: checkpoint.next_ids,
            named: Named::of(checkpoint),
            recovering: true,
            transients: false,
            live: Live::from_entries(&checkpoint.segments),
            holders: HashMap::new(),
            owners: HashMap::new(),
            departures: Vec::new(),
            capturing: None,
            captures: 0,
            rewinds: 0,
        };
        for entry in &checkpoint.groups {
            let group = Group { entry: Some(Arc::new(entry.clone())), ..Group::default() };
            ledger.groups.insert(entry.id, group);
        }
        for entry in &checkpoint.routes {
            let groups: Arc<[GroupId]> = entry.groups.iter().map(|&group| GroupId(group)).collect();
            ledger.define_route(entry.id, groups, log);
            if let Some(route) = ledger.routes.get_mut(&entry.id) {
                route.counted = Amount { messages: entry.messages, bytes: entry.bytes };
                (route.from, route.to) = (Offset(0), checkpoint.head.next_offset);
            }
        }
        for entry in &checkpoint.queues {
            let mut state = QueueLedger::of_entry(entry)?;
            // What is nobody's any more is not counted off.
            let of = |base: &BaseEntry| ledger.routes.get(&base.route);
            state.retain_bases(|base| of(base).is_none_or(|route| !route.groups.is_empty()));
            let queue = Queue::from_entry(entry, state)?;
            ledger.owners.insert(entry.group, entry.id);
            for member in entry.members.iter().filter(|member| member.group != entry.group) {
                ledger.holders.entry(member.group).or_default().insert(entry.id);
            }
            ledger.queues.insert(entry.id, Arc::new(queue));
        }
        let routes: Vec<RouteId> = ledger.routes.keys().copied().collect();
        for route in routes {
            let groups = ledger.routes.get(&route).map(|route| Arc::clone(&route.groups));
            let queues = ledger.members_of(groups.as_deref().unwrap_or_default());
            if let Some(route) = ledger.routes.get_mut(&route) {
                route.queues = queues;
            }
        }
        ledger.find_closed(checkpoint);
        Ok(ledger)
    }

    /// Queues that a message with these groups goes to now.
    fn members_of(&self, groups: &[GroupId]) -> u64 {
        let member = |queue: &&Arc<Queue>| {
            let state = queue.ledger();
            groups.iter().any(|&group| state.is_member(group))
        };
        self.holders_of(groups).iter().filter(member).count() as u64
    }

    /// Queues that messages with these groups went to, now or before, each once.
    pub(crate) fn holders_of(&self, groups: &[GroupId]) -> Vec<Arc<Queue>> {
        let mut ids: Vec<QueueId> =
            groups.iter().filter_map(|group| self.holders.get(group)).flatten().copied().collect();
        ids.extend(groups.iter().filter_map(|group| self.owners.get(group)));
        if groups.len() > 1 {
            ids.sort_unstable();
            ids.dedup();
        }
        ids.iter().filter_map(|id| self.queues.get(id)).cloned().collect()
    }

    /// What is outstanding in each segment, in the order of the log.
    pub(crate) fn counts(&self) -> &[SegmentCount] {
        self.live.all()
    }

    /// Forgets the count of a segment that was taken out of the log.
    pub(crate) fn retired(&mut self, id: SegmentId) {
        self.live.remove(id);
    }

    /// Takes what deleted and purged queues left, to be counted off.
    pub(crate) fn take_departures(&mut self) -> Vec<Departure> {
        std::mem::take(&mut self.departures)
    }

    /// Counts off all that waits for it, where nobody else has the ledger yet.
    pub(crate) fn settle(&mut self, log: &Log) {
        let departures = self.take_departures();
        let counted = Departure::count_off(&departures, log);
        self.count_off(counted);
    }

    /// Whether something waits to be counted off.
    pub(crate) fn has_departures(&self) -> bool {
        !self.departures.is_empty()
    }

    /// Counts off what a departure left in each segment.
    pub(crate) fn count_off(&mut self, counted: Vec<(SegmentId, Option<Amount>)>) {
        for (id, amount) in counted {
            let Some(count) = self.live.of_mut(id) else { continue };
            match amount {
                Some(amount) => {
                    let first = count.first;
                    self.live.less(first, amount);
                }
                None => count.uncounted = true,
            }
        }
    }

    pub(crate) fn queue(&self, id: QueueId) -> Option<Arc<Queue>> {
        self.queues.get(&id).cloned()
    }

    pub(crate) fn queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.queues.values()
    }

    /// Those from an id on, in the order of their ids.
    pub(crate) fn queues_from(&self, id: QueueId) -> impl Iterator<Item = &Arc<Queue>> {
        self.queues.range(id..).map(|(_, queue)| queue)
    }

    /// Applies the control records of one batch, then counts its messages.
    ///
    /// # Errors
    ///
    /// A record that does not decode. Cannot be for a batch made by this process.
    pub(crate) fn apply(
        &mut self,
        index: &BatchIndex,
        batch: &[u8],
        checksum: u32,
        log: &Log,
    ) -> Result<Effects, DecodeError> {
        assert_eq!(index.number, self.head.next_batch, "G1: batches are applied in order");
        let mut effects = Effects::default();
        self.live.begin(index.segment, index.first_offset);
        for &position in &*index.controls {
            let (control, _) = Control::decode(&batch[position as usize..])?;
            self.apply_control(index.number, index.first_offset, &control, log, &mut effects)?;
        }
        for count in index.routes() {
            if let Some(route) = self.routes.get_mut(&count.route) {
                Self::route_changes(&mut self.capturing, count.route, route);
                route.from = route.from.min(index.first_offset);
                route.to = index.end_offset();
                let amount = Amount { messages: count.messages.into(), bytes: count.bytes };
                route.counted = route.counted.plus(amount);
                self.live.add(index.segment, amount, route.queues);
            }
        }
        self.head.next_batch = BatchNumber(index.number.0 + 1);
        self.head.previous = checksum;
        self.head.next_offset = index.end_offset();
        self.head.position.segment = index.segment;
        self.head.position.position = index.position + u64::from(index.total_bytes);
        Ok(effects)
    }

    /// Passes over batches and offsets that are lost.
    pub(crate) fn skip_to(&mut self, number: BatchNumber, offset: Offset) {
        self.head.next_batch = number;
        self.head.next_offset = offset;
    }

    /// Applies control records that are not in the log: what opening makes of what is.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply).
    pub(crate) fn apply_at_opening(
        &mut self,
        records: &[u8],
        log: &Log,
    ) -> Result<(), DecodeError> {
        let (number, first) = (self.head.next_batch, self.head.next_offset);
        let mut rest = records;
        while !rest.is_empty() {
            let (control, bytes) = Control::decode(rest)?;
            self.apply_control(number, first, &control, log, &mut Effects::default())?;
            rest = &rest[bytes..];
        }
        Ok(())
    }

    fn apply_control(
        &mut self,
        number: BatchNumber,
        first_offset: Offset,
        control: &Control<'_>,
        log: &Log,
        effects: &mut Effects,
    ) -> Result<(), DecodeError> {
        match *control {
            Control::RouteDefine { route, ref groups } => {
                self.next.route = self.next.route.max(route.0 + 1);
                self.define_route(route, groups.iter().map(GroupId).collect(), log);
            }
            Control::TransientRouteDefine { route, ref groups } => {
                self.next.route = self.next.route.max(route.0 + 1);
                self.define_transient(route, groups.iter().map(GroupId).collect(), log);
            }
            Control::QueueDeclare { queue: id, group, flags, from, name, arguments } => {
                let options = QueueOptions::stored(flags, arguments)?;
                let state = QueueLedger::new(number, from, group);
                let queue =
                    Arc::new(Queue::new(id, group, name, options, flags & HISTORY != 0, state));
                if queue.options().has_limits() {
                    effects.declared.push(Arc::clone(&queue));
                }
                self.declared(queue);
            }
            Control::QueueDelete { queue } => {
                self.queue_changes(queue);
                if let Some(queue) = self.queues.remove(&queue) {
                    self.depart(&queue, first_offset);
                    self.groups.remove(&queue.group);
                    effects.deleted.push(queue);
                }
            }
            Control::GroupDefine { group: id, exchange, kind, key, arguments } => {
                self.next.group = self.next.group.max(id.0 + 1);
                let (key, arguments) = (key.to_vec(), arguments.to_vec());
                let entry = Arc::new(GroupEntry { id, exchange, kind, key, arguments });
                self.groups.insert(id, Group { entry: Some(entry), ..Group::default() });
            }
            Control::Bind { group, queue, from } => {
                self.queue_changes(queue);
                self.bind(group, queue, from);
                if let Some(queue) = self.queues.get(&queue) {
                    effects.bound.push((group, Arc::clone(queue)));
                }
            }
            Control::Unbind { group, queue, to } => {
                self.queue_changes(queue);
                self.unbind(group, queue, to);
                let found = self.queues.get(&queue);
                effects.unbound.extend(found.map(|queue| (group, Arc::clone(queue))));
            }
            Control::Ack { queue, messages, bytes, acks } => {
                if let Some(queue) = self.changing(queue, number).cloned() {
                    self.acked(&queue, Amount { messages, bytes }, acks)?;
                }
            }
            Control::Purge { queue, to, messages, bytes, kept } => {
                if let Some(queue) = self.changing(queue, number).cloned() {
                    self.purged(&queue, to, Amount { messages, bytes }, kept, log)?;
                }
            }
            Control::Rewind { queue, .. } => {
                if let Some(queue) = self.changing(queue, number).cloned() {
                    self.rewound(&queue, control)?;
                    effects.rewound.push(queue);
                }
            }
            Control::DeliveryMark { queue, offset } => {
                if let Some(queue) = self.changing(queue, number) {
                    let awaited = queue.grant(offset);
                    effects.granted.push(Arc::clone(queue));
                    effects.counted.extend(awaited.then(|| Arc::clone(queue)));
                }
            }
            Control::DeliveryCount { queue, entries } => {
                let queue = self.changing(queue, number).filter(|queue| queue.counted(entries));
                effects.counted.extend(queue.cloned());
            }
            Control::ExchangeDeclare { .. }
            | Control::ExchangeDelete { .. }
            | Control::ExchangeBind { .. }
            | Control::ExchangeUnbind { .. } => self.apply_to_exchange(control),
            // Those of publishers; others say nothing that is kept.
            _ => self.named.apply(control),
        }
        Ok(())
    }

    /// The queue, which is about to change, if a record of batch `number` is not in its state yet.
    fn changing(&mut self, queue: QueueId, number: BatchNumber) -> Option<&Arc<Queue>> {
        self.queue_changes(queue);
        let queue = self.queues.get(&queue)?;
        (queue.ledger().applied <= number).then_some(queue)
    }

    fn declared(&mut self, queue: Arc<Queue>) {
        let (id, group) = (queue.id, queue.group);
        self.next.queue = self.next.queue.max(id.0 + 1);
        self.next.group = self.next.group.max(group.0 + 1);
        self.owners.insert(group, id);
        self.gains_members(group, 1);
        for route in self.routes_through(group) {
            self.gains(route, 1);
        }
        self.queues.insert(id, queue);
    }

    pub(crate) fn define_route(&mut self, route: RouteId, groups: Arc<[GroupId]>, log: &Log) {
        for group in &*groups {
            if let Some(group) = self.groups.get_mut(group) {
                group.routes.push(route);
            } else {
                // A queue's own group is known only once its queue is; recovery adds those last.
                let members = u64::from(self.owners.contains_key(group));
                self.groups.insert(*group, Group { entry: None, routes: vec![route], members });
            }
        }
        log.define_route(route, Arc::clone(&groups));
        let queues = self.members_of(&groups);
        let (counted, transient) = (Amount::default(), false);
        let (from, to) = (Offset(u64::MAX), Offset(0));
        let defined = Route { groups, counted, queues, transient, from, to };
        if self.is_closed(&defined.groups) {
            self.closed.add(route);
        }
        self.routes.insert(route, defined);
    }

    /// A route of transient messages: of this epoch, or, while the log is read, of an earlier one.
    pub(crate) fn define_transient(&mut self, route: RouteId, groups: Arc<[GroupId]>, log: &Log) {
        self.transients = true;
        let groups = if self.recovering { Arc::from([]) } else { groups };
        self.define_route(route, groups, log);
        if let Some(route) = self.routes.get_mut(&route) {
            route.transient = !self.recovering;
        }
    }

    /// The log was read: ends what was transient in it. Counts that had it are made anew, from
    /// footers and ack sets; routes are forgotten of which no segment has a message.
    pub(crate) fn recovered(&mut self, log: &Log, recount: bool) {
        if recount || self.transients || self.live.all().iter().any(|count| count.uncounted) {
            self.recount(log);
            self.forget_dead_routes(log);
        }
        self.transients = false;
        self.recovering = false;
    }

    fn forget_dead_routes(&mut self, log: &Log) {
        if self.routes.values().all(|route| !route.groups.is_empty()) {
            return;
        }
        let mut stored = HashSet::new();
        for segment in log.segments() {
            let Ok(routes) = count::routes(log, &segment) else { return };
            stored.extend(routes);
        }
        self.routes.retain(|id, route| !route.groups.is_empty() || stored.contains(id));
    }

    /// More, or fewer, queues get what is published to a route.
    fn gains(&mut self, route: RouteId, queues: i64) {
        if let Some(route) = self.routes.get_mut(&route) {
            route.queues = route.queues.saturating_add_signed(queues);
        }
    }

    /// The routes through a group.
    fn routes_through(&self, group: GroupId) -> Vec<RouteId> {
        self.groups.get(&group).map_or_else(Vec::new, |group| group.routes.clone())
    }

    /// Makes a queue a member: what its routes counted so far is not for it.
    fn bind(&mut self, group: GroupId, queue: QueueId, from: Offset) {
        let Some(queue) = self.queues.get(&queue).cloned() else { return };
        let mut state = queue.ledger();
        if state.is_member(group) {
            return;
        }
        for route in self.routes_through(group) {
            let Some(found) = self.routes.get_mut(&route) else { continue };
            if found.groups.iter().any(|&group| state.is_member(group)) {
                continue;
            }
            found.queues += 1;
            if found.counted != Amount::default() {
                let Amount { messages, bytes } = found.counted;
                state.push_base(BaseEntry { route, messages, bytes });
            }
        }
        state.join(group, from);
        drop(state);
        self.holders.entry(group).or_default().insert(queue.id);
        self.gains_members(group, 1);
    }

    /// Ends a membership: what its routes counted while it lasted stays the queue's.
    fn unbind(&mut self, group: GroupId, queue: QueueId, to: Offset) {
        let Some(queue) = self.queues.get(&queue).cloned() else { return };
        let mut state = queue.ledger();
        if !state.is_member(group) {
            return;
        }
        for member in &mut state.members {
            if member.group == group && member.to.is_none() {
                member.to = Some(to);
            }
        }
        for route in self.routes_through(group) {
            let Some(found) = self.routes.get_mut(&route) else { continue };
            if !found.groups.iter().any(|&group| state.is_member(group)) {
                found.queues = found.queues.saturating_sub(1);
                let since = found.counted.less(state.base(route));
                state.add_left(since);
                state.retain_bases(|base| base.route != route);
            }
        }
        // A membership that saw no message needs no memory.
        state.members.retain(|member| member.to.is_none_or(|to| to > member.from));
        if !state.members.iter().any(|member| member.group == group) {
            self.no_longer_held(group, queue.id);
        }
        drop(state);
        self.gains_members(group, -1);
    }

    fn no_longer_held(&mut self, group: GroupId, queue: QueueId) {
        if let Some(holders) = self.holders.get_mut(&group) {
            holders.remove(&queue);
            if holders.is_empty() {
                self.holders.remove(&group);
            }
        }
    }

    /// Takes note of an ack record: all that it acks lies in the segment of its last offset.
    fn acked(
        &mut self,
        queue: &Queue,
        amount: Amount,
        acks: AckBytes<'_>,
    ) -> Result<(), DecodeError> {
        let mut state = queue.ledger();
        let end = state.ack(amount, acks)?;
        let first = self.live.first_at(Offset(end.saturating_sub(1)));
        state.part_acked(first, amount);
        self.live.less(first, amount);
        self.floor_rose(queue, state);
        Ok(())
    }

    /// Lets go of what a queue keeps of segments that its floor has left.
    fn floor_rose(&mut self, queue: &Queue, mut state: MutexGuard<'_, QueueLedger>) {
        let floor = state.floor();
        let gone = state.forget_before(self.live.first_at(floor));
        drop(state);
        for group in gone {
            self.no_longer_held(group, queue.id);
        }
    }

    /// Takes note that everything of a queue before `to` was dropped, but what is `kept`.
    fn purged(
        &mut self,
        queue: &Queue,
        to: Offset,
        amount: Amount,
        kept: AckBytes<'_>,
        log: &Log,
    ) -> Result<(), DecodeError> {
        let mut state = queue.ledger();
        let mut set = AckSet::new(0);
        set.apply(kept)?;
        let runs = std::iter::once((0, set.floor())).chain(set.runs());
        let kept: Vec<u64> = runs
            .flat_map(|(start, end)| start..end.min(to.0))
            .filter(|&offset| !state.acks.contains(offset))
            .collect();
        let departure = Departure::of_purge(&state, to, kept, log);
        for (first, how) in departure.parts_left(log) {
            match how {
                Some(how) => state.set_part(first, how),
                None => self.live.mark_uncounted_at(first),
            }
        }
        state.purge(to, amount, departure.kept());
        self.departures.push(departure);
        self.floor_rose(queue, state);
        Ok(())
    }

    /// A queue is gone: its memberships end, and nothing of it before `to` is wanted any more.
    fn depart(&mut self, queue: &Queue, to: Offset) {
        let state = queue.ledger();
        let mut left: Vec<RouteId> = Vec::new();
        for group in state.groups() {
            left.extend(self.groups.get(&group).into_iter().flat_map(|group| &group.routes));
        }
        left.sort_unstable();
        left.dedup();
        for route in left {
            self.gains(route, -1);
        }
        for member in &state.members {
            self.no_longer_held(member.group, queue.id);
        }
        for group in state.groups() {
            self.gains_members(group, -1);
        }
        self.owners.remove(&queue.group);
        self.departures.push(Departure::of(&state, to, Vec::new()));
    }

    /// Takes out the queues that do not survive a restart, as if they were deleted at the end of the
    /// log. Returns them.
    pub(crate) fn end_transient(&mut self) -> Vec<QueueId> {
        let transient = self.queues.values().filter(|queue| !queue.options().survives_restart());
        let transient: Vec<Arc<Queue>> = transient.cloned().collect();
        for queue in &transient {
            self.queues.remove(&queue.id);
            self.depart(queue, self.head.next_offset);
            self.groups.remove(&queue.group);
        }
        transient.iter().map(|queue| queue.id).collect()
    }

    /// What the queue was sent since it was declared.
    pub(crate) fn sent(&self, queue: &Queue) -> Amount {
        let state = queue.ledger();
        let mut routes: Vec<RouteId> = Vec::new();
        for group in state.groups() {
            routes.extend(self.groups.get(&group).into_iter().flat_map(|group| &group.routes));
        }
        routes.sort_unstable();
        routes.dedup();
        routes.iter().fold(state.left(), |sum, route| {
            let counted = self.routes.get(route).map_or(Amount::default(), |route| route.counted);
            sum.plus(counted.less(state.base(*route)))
        })
    }

    /// What the queue was sent and has not durably acked.
    pub(crate) fn depth(&self, queue: &Queue) -> Amount {
        self.sent_and_depth(queue).1
    }

    /// What the queue was sent since it was declared, and what of that it has not durably acked.
    pub(crate) fn sent_and_depth(&self, queue: &Queue) -> (Amount, Amount) {
        let sent = self.sent(queue);
        let depth = sent.less(queue.ledger().acked);
        // The size of a message whose bytes are damaged is not known, so its ack counts none.
        (sent, if depth.messages == 0 { Amount::default() } else { depth })
    }

    /// Forgets what the queues' state says of offsets that recovery did not find. Returns how many
    /// queues had any.
    pub(crate) fn clip(&mut self, end: Offset) -> usize {
        let clip = |queue: &&Arc<Queue>| {
            let mut state = queue.ledger();
            state.counts.retain(|offset| offset < end.0);
            state.acks.clip(end.0)
        };
        self.queues.values().filter(clip).count()
    }

    /// Takes note that a route is in use.
    pub(crate) fn use_route(&mut self, route: RouteId) {
        self.next.route = self.next.route.max(route.0 + 1);
    }

    /// Passes over ids that lost records may have used.
    pub(crate) fn skip_ids(&mut self, count: u32) {
        let next = &mut self.next;
        for id in [&mut next.exchange, &mut next.queue, &mut next.group, &mut next.route] {
            *id = id.saturating_add(count);
        }
        self.named.skip_ids(count);
    }

    /// How far named publishers are.
    pub(crate) fn named(&self) -> &Named {
        &self.named
    }

    /// Ids that come next, at least as high as these.
    pub(crate) fn next_ids(&self) -> NextIds {
        self.next
    }
}
