//! What the durable log says of one queue: its members, what it acked, how far it may have delivered.
//!
//! Q1. It changes only by control records that are confirmed, in their order: so at any moment it
//!     is what a replay of the log up to there would make.
//! Q2. Depth is arithmetic: what its routes counted since it joined, less what was acked.

use fanlog_segment_format::{
    BatchNumber, DecodeError, GroupId, Offset, RouteId,
    ack::AckBytes,
    checkpoint::{BaseEntry, MemberEntry},
};

use super::ack_set::AckSet;

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

    /// Less `other`; never below zero, so that a damaged count can't panic.
    pub(crate) fn less(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(other.messages),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
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
    /// What came over routes that the queue has left.
    pub(crate) left: Amount,
    pub(crate) members: Vec<MemberEntry>,
    /// Counts of its routes when it joined them, where they were not zero.
    pub(crate) bases: Vec<BaseEntry>,
}

impl QueueLedger {
    pub(crate) fn new(applied: BatchNumber, from: Offset, group: GroupId) -> Self {
        Self {
            applied,
            acks: AckSet::new(from.0),
            acked: Amount::default(),
            mark: from,
            left: Amount::default(),
            members: vec![MemberEntry { group, from, to: None }],
            bases: Vec::new(),
        }
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
        let of_route = self.members.iter().filter(|member| groups.contains(&member.group));
        of_route.map(|member| (member.from, member.to.unwrap_or(Offset(u64::MAX)))).collect()
    }

    /// The groups that the queue is a member of now.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.members.iter().filter(|member| member.to.is_none()).map(|member| member.group)
    }

    /// Takes note of an ack record.
    ///
    /// # Errors
    ///
    /// If the record's set does not decode.
    pub(crate) fn ack(&mut self, amount: Amount, acks: AckBytes<'_>) -> Result<(), DecodeError> {
        self.acks.apply(acks)?;
        self.acked = self.acked.plus(amount);
        self.forget_left();
        Ok(())
    }

    /// Takes note that everything below `to` was dropped, but what is `kept`.
    ///
    /// # Errors
    ///
    /// If the set of what is kept does not decode; nothing is dropped then.
    pub(crate) fn purge(
        &mut self,
        to: Offset,
        amount: Amount,
        kept: AckBytes<'_>,
    ) -> Result<(), DecodeError> {
        let mut set = AckSet::new(0);
        set.apply(kept)?;
        let mut from = self.acks.floor();
        for (start, end) in std::iter::once((0, set.floor())).chain(set.runs()) {
            self.acks.insert(from, start.min(to.0));
            from = from.max(end);
        }
        self.acks.insert(from, to.0);
        self.acked = self.acked.plus(amount);
        self.forget_left();
        Ok(())
    }

    /// Memberships that ended below the floor have no message left that could be delivered.
    fn forget_left(&mut self) {
        let floor = self.floor();
        self.members.retain(|member| member.to.is_none_or(|to| to > floor));
    }

    pub(crate) fn base(&self, route: RouteId) -> Amount {
        let base = self.bases.iter().find(|base| base.route == route);
        base.map_or(Amount::default(), |base| Amount { messages: base.messages, bytes: base.bytes })
    }

    /// Heap bytes, beside the struct itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.acks.heap_bytes()
            + self.members.capacity() * size_of::<MemberEntry>()
            + self.bases.capacity() * size_of::<BaseEntry>()
    }
}
