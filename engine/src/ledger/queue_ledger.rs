//! What the durable log says of one queue: its members, what it acked, how far it may have delivered.
//!
//! Q1. It changes only by control records that are confirmed, in their order: so at any moment it
//!     is what a replay of the log up to there would make.
//! Q2. Depth is arithmetic: what its routes counted since it joined, less what was acked.
//! Q3. It has a part for every segment that ends above its floor and in which it has acked anything.
//!     Where it has none, all that was routed to it in that segment is outstanding.

use fanlog_segment_format::{
    BatchNumber, DecodeError, GroupId, Offset, RouteId,
    ack::AckBytes,
    checkpoint::{BaseEntry, MemberEntry, PartEntry, QueueEntry},
};

use super::{ack_set::AckSet, delivery_counts::DeliveryCounts};
use crate::on_demand::OnDemand;

/// How much of something: messages and their payload bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Amount {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { messages: self.messages + other.messages, bytes: self.bytes + other.bytes }
    }

    pub(crate) fn times(self, times: u64) -> Self {
        Self { messages: self.messages * times, bytes: self.bytes.saturating_mul(times) }
    }

    /// Less `other`; never below zero, so that a damaged count can't panic.
    pub(crate) fn less(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(other.messages),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

/// How far a queue is through one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where the segment starts.
    pub(crate) first: Offset,
    pub(crate) how: How,
}

/// What a part says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// So much is acked of what the segment's file holds for the queue.
    Acked(Amount),
    /// So much is left. The form that outlives the rewriting of the file.
    Left(Amount),
}

impl Part {
    pub(crate) fn of_entry(entry: &PartEntry) -> Self {
        let amount = Amount { messages: entry.messages, bytes: entry.bytes };
        let how = if entry.left { How::Left(amount) } else { How::Acked(amount) };
        Self { first: entry.first_offset, how }
    }

    pub(crate) fn entry(&self) -> PartEntry {
        let (left, amount) = match self.how {
            How::Acked(amount) => (false, amount),
            How::Left(amount) => (true, amount),
        };
        let Amount { messages, bytes } = amount;
        PartEntry { first_offset: self.first, left, messages, bytes }
    }
}

/// What routes counted while the queue had no part in them, or has none any more.
#[derive(Debug, Default)]
struct Past {
    /// What came over routes that the queue has left.
    left: Amount,
    /// Counts of its routes when it joined them, where they were not zero.
    bases: Vec<BaseEntry>,
}

impl Past {
    fn heap_bytes(&self) -> usize {
        size_of::<Self>() + self.bases.capacity() * size_of::<BaseEntry>()
    }
}

/// The durable state of one queue.
#[derive(Debug)]
pub(crate) struct QueueLedger {
    /// Control records of earlier batches are in this state.
    pub(crate) applied: BatchNumber,
    pub(crate) acks: AckSet,
    pub(crate) acked: Amount,
    /// Everything below it may have been handed out.
    pub(crate) mark: Offset,
    /// How often messages that came back were handed out.
    pub(crate) counts: DeliveryCounts,
    past: OnDemand<Past>,
    pub(crate) members: Vec<MemberEntry>,
    /// In order of offset (Q3).
    pub(crate) parts: Vec<Part>,
    /// The last capture that has taken it.
    pub(crate) captured: u32,
}

impl QueueLedger {
    pub(crate) fn new(applied: BatchNumber, from: Offset, group: GroupId) -> Self {
        Self {
            applied,
            acks: AckSet::new(from.0),
            acked: Amount::default(),
            mark: from,
            counts: DeliveryCounts::default(),
            past: OnDemand::default(),
            members: vec![MemberEntry { group, from, to: None }],
            parts: Vec::new(),
            captured: 0,
        }
    }

    /// The state that a checkpoint holds.
    ///
    /// # Errors
    ///
    /// If its acks do not decode.
    pub(crate) fn of_entry(entry: &QueueEntry) -> Result<Self, DecodeError> {
        let mut acks = AckSet::new(entry.floor.0);
        acks.apply(AckBytes(&entry.acks))?;
        let left = Amount { messages: entry.left_messages, bytes: entry.left_bytes };
        let mut past = OnDemand::default();
        if left != Amount::default() || !entry.bases.is_empty() {
            *past.make() = Past { left, bases: entry.bases.clone() };
        }
        Ok(Self {
            applied: entry.applied,
            counts: DeliveryCounts::of_entries(&entry.counts, &acks),
            acks,
            acked: Amount { messages: entry.acked_messages, bytes: entry.acked_bytes },
            mark: entry.mark,
            past,
            members: entry.members.clone(),
            captured: 0,
            parts: entry.parts.iter().map(Part::of_entry).collect(),
        })
    }

    /// Makes it a member of a group.
    pub(crate) fn join(&mut self, group: GroupId, from: Offset) {
        // Most queues have two memberships, and there may be very many queues.
        if self.members.len() < 4 {
            self.members.reserve_exact(1);
        }
        self.members.push(MemberEntry { group, from, to: None });
    }

    /// Every offset below it is acked.
    pub(crate) fn floor(&self) -> Offset {
        Offset(self.acks.floor())
    }

    /// Whether the queue gets what is published to this group now.
    pub(crate) fn is_member(&self, group: GroupId) -> bool {
        self.members.iter().any(|member| member.group == group && member.to.is_none())
    }

    /// Offset ranges in which messages of a route with these groups went to this queue.
    pub(crate) fn ranges(&self, groups: &[GroupId]) -> Vec<(Offset, Offset)> {
        ranges_of(&self.members, groups)
    }

    /// The groups that the queue is a member of now.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.members.iter().filter(|member| member.to.is_none()).map(|member| member.group)
    }

    /// Takes note of an ack record. Returns one past the last offset that it acks.
    ///
    /// # Errors
    ///
    /// If the record's set does not decode.
    pub(crate) fn ack(&mut self, amount: Amount, acks: AckBytes<'_>) -> Result<u64, DecodeError> {
        let end = self.acks.apply(acks)?;
        self.counts.acked(acks, &self.acks);
        self.acked = self.acked.plus(amount);
        Ok(end)
    }

    /// Takes note that so much was acked in the segment that starts at `first`.
    pub(crate) fn part_acked(&mut self, first: Offset, amount: Amount) {
        if amount == Amount::default() {
            return;
        }
        let at = self.parts.partition_point(|part| part.first < first);
        match self.parts.get_mut(at).filter(|part| part.first == first) {
            Some(Part { how: How::Acked(acked), .. }) => *acked = acked.plus(amount),
            Some(Part { how: How::Left(left), .. }) => *left = left.less(amount),
            None => self.begin_part(at, Part { first, how: How::Acked(amount) }),
        }
    }

    /// Says how far the queue is through the segment that starts at `first`.
    pub(crate) fn set_part(&mut self, first: Offset, how: How) {
        let at = self.parts.partition_point(|part| part.first < first);
        match self.parts.get_mut(at).filter(|part| part.first == first) {
            Some(part) => part.how = how,
            None => self.begin_part(at, Part { first, how }),
        }
    }

    fn begin_part(&mut self, at: usize, part: Part) {
        // Most queues are in one segment, at the log's end.
        if self.parts.len() < 2 {
            self.parts.reserve_exact(1);
        }
        self.parts.insert(at, part);
    }

    /// What the queue has of the segment that starts at `first`, if it is partly through it.
    pub(crate) fn part(&self, first: Offset) -> Option<How> {
        let at = self.parts.binary_search_by_key(&first, |part| part.first).ok()?;
        self.parts.get(at).map(|part| part.how)
    }

    /// Takes note that everything below `to` was dropped, but what is `kept`, increasing.
    pub(crate) fn purge(&mut self, to: Offset, amount: Amount, kept: &[u64]) {
        let mut from = self.acks.floor();
        for &offset in kept {
            self.acks.insert(from, offset);
            from = from.max(offset + 1);
        }
        self.acks.insert(from, to.0);
        self.counts.retain(|offset| !self.acks.contains(offset));
        self.acked = self.acked.plus(amount);
    }

    /// Forgets what lies wholly before `first`, where the segment of the floor starts. Memberships
    /// that ended there have no message left that could be delivered or counted. Returns the groups
    /// of those.
    pub(crate) fn forget_before(&mut self, first: Offset) -> Vec<GroupId> {
        let passed = self.parts.partition_point(|part| part.first < first);
        self.parts.drain(..passed);
        let mut left = Vec::new();
        if self.members.iter().any(|member| member.to.is_some_and(|to| to <= first)) {
            self.members.retain(|member| {
                let keep = member.to.is_none_or(|to| to > first);
                if !keep {
                    left.push(member.group);
                }
                keep
            });
            left.retain(|group| !self.members.iter().any(|member| member.group == *group));
        }
        left
    }

    pub(crate) fn base(&self, route: RouteId) -> Amount {
        let base = self.bases().iter().find(|base| base.route == route);
        base.map_or(Amount::default(), |base| Amount { messages: base.messages, bytes: base.bytes })
    }

    /// Counts of its routes when it joined them, where they were not zero.
    pub(crate) fn bases(&self) -> &[BaseEntry] {
        self.past.get().map_or(&[], |past| &past.bases)
    }

    /// Takes note of what a route had counted when the queue joined it.
    pub(crate) fn push_base(&mut self, base: BaseEntry) {
        let bases = &mut self.past.make().bases;
        // As for memberships.
        if bases.len() < 4 {
            bases.reserve_exact(1);
        }
        bases.push(base);
    }

    pub(crate) fn retain_bases(&mut self, keep: impl FnMut(&BaseEntry) -> bool) {
        let Some(past) = self.past.get_mut() else { return };
        past.bases.retain(keep);
        if past.bases.is_empty() && past.left == Amount::default() {
            self.past.forget();
        }
    }

    /// What came over routes that the queue has left.
    pub(crate) fn left(&self) -> Amount {
        self.past.get().map_or(Amount::default(), |past| past.left)
    }

    pub(crate) fn add_left(&mut self, amount: Amount) {
        if amount != Amount::default() {
            let past = self.past.make();
            past.left = past.left.plus(amount);
        }
    }

    /// Heap bytes, beside the struct itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.acks.heap_bytes()
            + self.counts.heap_bytes()
            + self.members.capacity() * size_of::<MemberEntry>()
            + self.past.get().map_or(0, Past::heap_bytes)
            + self.parts.capacity() * size_of::<Part>()
    }
}

/// Offset ranges in which messages of a route with these groups went to a queue with these
/// memberships: increasing, and no two touch, in however many of the groups it was at once.
pub(crate) fn ranges_of(members: &[MemberEntry], groups: &[GroupId]) -> Vec<(Offset, Offset)> {
    debug_assert!(groups.is_sorted(), "the groups of a route increase");
    let of_route = members.iter().filter(|member| groups.binary_search(&member.group).is_ok());
    let mut ranges: Vec<_> =
        of_route.map(|member| (member.from, member.to.unwrap_or(Offset(u64::MAX)))).collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let touches = next.0 <= last.1;
        if touches {
            last.1 = last.1.max(next.1);
        }
        touches
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_of_the_same_time_make_one_range() {
        let member = |group, from, to: Option<u64>| MemberEntry {
            group: GroupId(group),
            from: Offset(from),
            to: to.map(Offset),
        };
        let members = [
            member(2, 50, Some(90)),
            member(1, 0, Some(10)),
            member(1, 20, None),
            member(3, 5, None),
        ];
        let ranges = ranges_of(&members, &[GroupId(1), GroupId(2)]);
        assert_eq!(ranges, [(Offset(0), Offset(10)), (Offset(20), Offset(u64::MAX))]);
    }
}
