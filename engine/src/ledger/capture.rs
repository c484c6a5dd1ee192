//! Taking what a checkpoint holds of the ledger, while commits go on.
//!
//! A checkpoint shows the ledger as it was at one moment. Of many queues it takes long to take them
//! all, and every commit needs the ledger. So at that moment only what is small is taken, and the
//! rest in its turn, a piece at a time; what is about to change before its turn is taken first.
//!
//! T1. Every entry of a capture says what was so when the capture began: a change of a queue, route
//!     or group is announced, under the ledger's lock, before it is made; if that is the first since
//!     the capture began, and the entry's turn has not come, the entry is taken there and then. Its
//!     turn passes over what was taken. What came into being since is not in the capture.
//! T2. So the counts of the segments, taken at the beginning, agree with the queues' entries as they
//!     do in memory, and so does what replay makes of both: it applies every record behind the head
//!     to both. Were queues taken at moments of their own, an ack between the two would be in the
//!     queue's entry and not in the segment's count; replay passes over it, as it is in the entry,
//!     and the count would stay too high for ever; or, applied to the count alone, what a purge or a
//!     delete takes off it would depend on which of the two had been taken when.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use fanlog_segment_format::{
    BatchNumber, ExchangeId, GroupId, QueueId, RouteId,
    checkpoint::{Checkpoint, GroupEntry, QueueEntry, RouteEntry},
};

use super::{
    Ledger, Route,
    live::SegmentCount,
    queue_ledger::{Amount, Part, QueueLedger},
};
use crate::queue::Queue;

/// Entries that are taken while the ledger is locked once: some microseconds.
const PIECE: usize = if cfg!(test) { 3 } else { 256 };

/// A capture under way.
#[derive(Debug)]
pub(super) struct Capture {
    /// Told to queues once they are taken.
    number: u32,
    applied: BatchNumber,
    /// Where each kind is; ids from `end` on came later.
    groups: Turn<GroupId>,
    routes: Turn<RouteId>,
    queues: Turn<QueueId>,
    early: Early,
}

#[derive(Debug, Clone, Copy)]
struct Turn<Id> {
    next: Id,
    end: Id,
}

impl<Id: Copy + Ord> Turn<Id> {
    fn waits(&self, id: Id) -> bool {
        self.next <= id && id < self.end
    }
}

/// What was taken before its turn.
#[derive(Debug, Default)]
pub(crate) struct Early {
    groups: BTreeMap<GroupId, Arc<GroupEntry>>,
    routes: BTreeMap<RouteId, RouteEntry>,
    queues: Vec<QueueEntry>,
}

/// What was taken of the ledger at a time; its queues are still to be looked at.
#[derive(Debug)]
pub(crate) struct Piece {
    number: u32,
    applied: BatchNumber,
    groups: Vec<Arc<GroupEntry>>,
    routes: Vec<(RouteId, Arc<[GroupId]>, Amount)>,
    queues: Vec<Arc<Queue>>,
}

impl Ledger {
    /// Takes everything at once, where nobody else has the ledger yet.
    pub(crate) fn capture(&mut self, checkpoint: &mut Checkpoint) -> Vec<SegmentCount> {
        let counts = self.begin_capture(checkpoint);
        while let Some(piece) = self.capture_piece() {
            piece.add_to(checkpoint);
        }
        self.end_capture().add_to(checkpoint);
        counts
    }

    /// Begins a capture: takes what is small, and the counts of the segments. Until it ends, all else
    /// is to be taken by pieces.
    pub(crate) fn begin_capture(&mut self, checkpoint: &mut Checkpoint) -> Vec<SegmentCount> {
        debug_assert!(self.departures.is_empty(), "what they left is counted off first");
        checkpoint.head = self.head;
        checkpoint.next_ids = self.next;
        checkpoint.exchanges = self.exchanges.values().cloned().collect();
        self.named.add_to(checkpoint);
        checkpoint.exchange_bindings = self.exchange_bindings.iter().cloned().collect();
        checkpoint.routes.reserve_exact(self.routes.len());
        checkpoint.queues.reserve_exact(self.queues.len());
        self.captures += 1;
        self.capturing = Some(Capture {
            number: self.captures,
            applied: self.head.next_batch,
            groups: Turn { next: GroupId(0), end: GroupId(self.next.group) },
            routes: Turn { next: RouteId(0), end: RouteId(self.next.route) },
            queues: Turn { next: QueueId(0), end: QueueId(self.next.queue) },
            early: Early::default(),
        });
        let mut counts = self.live.all().to_vec();
        if let Some(last) = counts.last_mut().filter(|_| self.transients) {
            // Queues' entries have what they acked of transient messages: whoever opens the store
            // counts anew.
            last.uncounted = true;
        }
        counts
    }

    /// Takes the next piece, to be looked at without the ledger's lock; `None` once there is none.
    pub(crate) fn capture_piece(&mut self) -> Option<Piece> {
        let capture = self.capturing.as_mut()?;
        let mut piece = Piece {
            number: capture.number,
            applied: capture.applied,
            groups: Vec::new(),
            routes: Vec::new(),
            queues: Vec::new(),
        };
        let Capture { groups, routes, queues, early, .. } = capture;
        let mut left = Vec::new();
        for (&id, group) in self.groups.range(groups.next..groups.end).take(PIECE) {
            groups.next = GroupId(id.0 + 1);
            if let Some(entry) = &group.entry
                && !early.groups.contains_key(&id)
            {
                piece.groups.push(Arc::clone(entry));
                // No queue got anything through it that is still there, and none will: publishers
                // gave it up with its last queue. The next checkpoint is without it.
                if !self.holders.contains_key(&id) {
                    left.push(id);
                }
            }
        }
        for id in left {
            self.groups.remove(&id);
        }
        for (&id, route) in self.routes.range(routes.next..routes.end).take(PIECE) {
            routes.next = RouteId(id.0 + 1);
            if !early.routes.contains_key(&id) {
                let (groups, counted) = route.lasting();
                piece.routes.push((id, groups, counted));
            }
        }
        for (&id, queue) in self.queues.range(queues.next..queues.end).take(PIECE) {
            queues.next = QueueId(id.0 + 1);
            piece.queues.push(Arc::clone(queue));
        }
        let more = self.groups.range(groups.next..groups.end).next().is_some()
            || self.routes.range(routes.next..routes.end).next().is_some()
            || self.queues.range(queues.next..queues.end).next().is_some();
        let any = piece.groups.len() + piece.routes.len() + piece.queues.len() > 0;
        (any || more).then_some(piece)
    }

    /// Ends a capture whose pieces were all looked at.
    pub(crate) fn end_capture(&mut self) -> Early {
        self.capturing.take().map(|capture| capture.early).unwrap_or_default()
    }

    /// A queue is about to change, or to go (T1).
    pub(super) fn queue_changes(&mut self, id: QueueId) {
        let Some(capture) = &mut self.capturing else { return };
        if id >= capture.queues.end {
            return;
        }
        let Some(queue) = self.queues.get(&id) else { return };
        // Its turn may have come and not be over: the queue itself knows whether it was taken.
        capture.early.queues.extend(take(queue, capture.number, capture.applied));
    }

    /// What a route counted is about to change (T1).
    pub(super) fn route_changes(capturing: &mut Option<Capture>, id: RouteId, route: &Route) {
        let Some(capture) = capturing else { return };
        if capture.routes.waits(id) {
            let (groups, counted) = route.lasting();
            let now = || route_entry(id, &groups, counted);
            capture.early.routes.entry(id).or_insert_with(now);
        }
    }

    /// The groups of an exchange are about to go (T1).
    pub(super) fn exchange_goes(&mut self, exchange: ExchangeId) {
        let Some(capture) = &mut self.capturing else { return };
        for (&id, group) in &self.groups {
            if let Some(entry) = group.entry.as_ref().filter(|entry| entry.exchange == exchange)
                && capture.groups.waits(id)
            {
                capture.early.groups.insert(id, Arc::clone(entry));
            }
        }
    }
}

impl Route {
    /// What of it outlasts the epoch: of a route of transient messages that it was one.
    fn lasting(&self) -> (Arc<[GroupId]>, Amount) {
        if self.transient {
            return (Arc::from([]), Amount::default());
        }
        (Arc::clone(&self.groups), self.counted)
    }
}

impl Piece {
    /// Adds its entries to a checkpoint. The ledger is not locked: queues are, one at a time.
    pub(crate) fn add_to(self, checkpoint: &mut Checkpoint) {
        checkpoint.groups.extend(self.groups.iter().map(|entry| GroupEntry::clone(entry)));
        let routes = self.routes.iter();
        checkpoint
            .routes
            .extend(routes.map(|(id, groups, counted)| route_entry(*id, groups, *counted)));
        let queues = self.queues.iter();
        checkpoint.queues.extend(queues.filter_map(|queue| take(queue, self.number, self.applied)));
    }
}

impl Early {
    /// Adds its entries to a checkpoint, and puts all that it has in the order of ids.
    pub(crate) fn add_to(self, checkpoint: &mut Checkpoint) {
        checkpoint.groups.extend(self.groups.into_values().map(Arc::unwrap_or_clone));
        checkpoint.routes.extend(self.routes.into_values());
        checkpoint.queues.extend(self.queues);
        checkpoint.groups.sort_by_key(|entry| entry.id);
        checkpoint.routes.sort_by_key(|entry| entry.id);
        checkpoint.queues.sort_by_key(|entry| entry.id);
    }
}

/// The queue's entry, if capture `number` does not have it.
fn take(queue: &Queue, number: u32, applied: BatchNumber) -> Option<QueueEntry> {
    let mut state = queue.ledger();
    if state.captured == number {
        return None;
    }
    state.captured = number;
    Some(queue_entry(queue, &state, applied))
}

fn route_entry(id: RouteId, groups: &[GroupId], counted: Amount) -> RouteEntry {
    let groups = groups.iter().map(|group| group.0).collect();
    RouteEntry { id, groups, messages: counted.messages, bytes: counted.bytes }
}

fn queue_entry(queue: &Queue, state: &QueueLedger, applied: BatchNumber) -> QueueEntry {
    let mut acks = Vec::new();
    state.acks.encode(&mut acks);
    QueueEntry {
        id: queue.id,
        group: queue.group,
        flags: queue.flags(),
        name: queue.name.to_string(),
        arguments: queue.options().to_arguments().as_bytes().to_vec(),
        applied,
        floor: state.floor(),
        acks,
        acked_messages: state.acked.messages,
        acked_bytes: state.acked.bytes,
        mark: state.mark,
        left_messages: state.left().messages,
        left_bytes: state.left().bytes,
        members: state.members.clone(),
        bases: state.bases().to_vec(),
        counts: state.counts.entries(),
        parts: state.parts.iter().map(Part::entry).collect(),
    }
}
