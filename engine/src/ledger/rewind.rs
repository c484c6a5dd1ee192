//! Bringing messages of the past into a queue.
//!
//! In: a rewind record. The queue is a member of histories from then on, up to the record's own
//! place in the log: those memberships have ended already, so no route counts for them. What it gets by
//! that is brought, and outstanding; or it is passed, and acked.
//!
//! B1. What is brought was acked by the queue, or not its own, before; so it adds to its depth, and
//!     to what is outstanding in its segment, by just its amount.
//! B2. A queue's floor falls to the first message that is brought. Segments that it had passed and
//!     has not now get a part each (Q3): all that they have left is what is brought.

use std::sync::Arc;

use fanlog_segment_format::{
    DecodeError, GroupId, Offset, checkpoint::MemberEntry, control::Control,
};

use super::{
    Ledger,
    ack_set::AckSet,
    queue_ledger::{Amount, How, QueueLedger},
};
use crate::queue::{Hold, Queue};

impl Ledger {
    /// Takes note of a rewind record; of no other.
    pub(super) fn rewound(
        &mut self,
        queue: &Arc<Queue>,
        record: &Control<'_>,
    ) -> Result<(), DecodeError> {
        let &Control::Rewind { to, mark, members, segments, brought, passed, .. } = record else {
            return Ok(());
        };
        let mut back = AckSet::new(0);
        back.apply(brought)?;
        let mut state = queue.ledger();
        let passed_below = self.live.first_at(state.floor());
        let runs = std::iter::once((0, back.floor())).filter(|run| run.1 > 0).chain(back.runs());
        state.acks = state.acks.without(runs);
        state.acks.apply(passed)?;
        state.mark = mark;
        for [group, from] in members.iter() {
            let group = GroupId(u32::try_from(group).unwrap_or(u32::MAX));
            state.was_member(group, Offset(from), to);
            self.holders.entry(group).or_default().insert(queue.id);
            // It kept still as long as this was not in the log.
            let history = self.owners.get(&group).and_then(|id| self.queues.get(id));
            if let Some(history) = history {
                history.set_hold(Hold::Free);
            }
        }
        let begins = self.live.first_at(state.floor());
        let counted = self.live.all().iter().map(|count| count.first);
        for first in counted.filter(|&first| begins <= first && first < passed_below) {
            if state.part(first).is_none() {
                state.set_part(first, How::Left(Amount::default()));
            }
        }
        for [first, messages, bytes, joined_messages, joined_bytes] in segments.iter() {
            let first = self.live.first_at(Offset(first));
            let brought = Amount { messages, bytes };
            let joined = Amount { messages: joined_messages, bytes: joined_bytes };
            state.add_left(brought);
            self.live.more(first, brought);
            if first < begins {
                // All of it is passed, and the floor is beyond.
                continue;
            }
            let acked = |acked: Amount| How::Acked(acked.plus(joined).less(brought));
            let how = match state.part(first) {
                Some(How::Left(left)) => How::Left(left.plus(brought)),
                Some(How::Acked(before)) => acked(before),
                None => acked(Amount::default()),
            };
            if how != How::Acked(Amount::default()) || state.part(first).is_some() {
                state.set_part(first, how);
            }
        }
        drop(state);
        self.rewinds += 1;
        queue.rewound(mark);
        Ok(())
    }

    /// How many rewinds there were: whoever noted which queues have messages somewhere notes it anew
    /// once this has changed.
    pub(crate) fn rewinds(&self) -> u64 {
        self.rewinds
    }
}

impl QueueLedger {
    /// Makes it a member of a group for a time that is over.
    fn was_member(&mut self, group: GroupId, from: Offset, to: Offset) {
        let touches = |member: &&mut MemberEntry| {
            let ended = member.to.filter(|_| member.group == group);
            ended.is_some_and(|ended| member.from <= to && from <= ended)
        };
        match self.members.iter_mut().find(touches) {
            Some(member) => {
                member.from = member.from.min(from);
                member.to = member.to.max(Some(to));
            }
            None => self.members.push(MemberEntry { group, from, to: Some(to) }),
        }
    }
}
