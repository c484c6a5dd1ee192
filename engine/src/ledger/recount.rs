//! Counting anew, by looking at every message that is stored: for `check`, and after damage.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use fanlog_segment_format::{GroupId, QueueId, SegmentId};

use super::{
    Ledger,
    count::{self, Got, Whole},
    live::Live,
    queue_ledger::{Amount, How},
};
use crate::{
    Result,
    log::{Log, segment::Segment},
    queue::Queue,
};

/// What a queue got in a segment, and what of it is not acked.
pub(crate) struct Share {
    pub(crate) queue: Arc<Queue>,
    pub(crate) got: Got,
}

/// What each queue got in a segment.
pub(crate) struct Shares {
    pub(crate) of: Vec<Share>,
    /// Routes of queues, listings and single messages that were looked at for it.
    pub(crate) looks: u64,
}

impl Shares {
    /// Goes through the segment's listings once, for all queues that `holders` names for the groups of
    /// a route.
    ///
    /// # Errors
    ///
    /// A footer could not be read.
    pub(crate) fn of(
        log: &Log,
        segment: &Arc<Segment>,
        holders: impl Fn(&[GroupId]) -> Vec<Arc<Queue>>,
    ) -> Result<Self> {
        let listings = count::listings(log, segment)?;
        let mut shares: HashMap<QueueId, Share> = HashMap::new();
        let mut looks = 0;
        for (route, places) in count::routes_in(&listings) {
            let Some(groups) = log.route_groups(route) else { continue };
            let whole = Whole::of(&places);
            for queue in holders(&groups) {
                let got = count::got(&queue.ledger(), &groups, &places, whole, &mut looks);
                if got == Got::default() {
                    continue;
                }
                let share = shares.entry(queue.id);
                let share = share.or_insert_with(|| Share { queue, got: Got::default() });
                share.got = share.got.plus(got);
            }
        }
        Ok(Self { of: shares.into_values().collect(), looks })
    }

    /// What is outstanding in the segment.
    pub(crate) fn left(&self) -> Amount {
        self.of.iter().fold(Amount::default(), |sum, share| sum.plus(share.got.left))
    }
}

/// What a count was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    id: SegmentId,
    changes: u32,
    rewinds: u64,
}

/// Takes note of what a queue has left of a segment in which it had no part (Q3).
fn note_part(queue: &Queue, segment: &Segment, got: Got) {
    let mut state = queue.ledger();
    let ended = segment.end_offset().is_some_and(|end| end <= state.floor());
    if got.left == got.routed || ended {
        return;
    }
    let how = if segment.is_sealed() {
        How::Left(got.left)
    } else {
        How::Acked(got.routed.less(got.left))
    };
    state.set_part(segment.first_offset(), how);
}

impl Ledger {
    fn shares(&self, log: &Log, segment: &Arc<Segment>) -> Result<Shares> {
        Shares::of(log, segment, |groups| self.holders_of(groups))
    }

    /// Makes every count say what is stored and not acked: of the segments, of the queues' parts in
    /// them, and the depths. For a log that lost messages, or state that is older than the files.
    ///
    /// A segment whose listing can't be read is marked as not counted, and what queues have there is
    /// not in their depths.
    pub(crate) fn recount(&mut self, log: &Log) {
        self.departures.clear();
        let queues: Vec<Arc<Queue>> = self.queues.values().cloned().collect();
        for queue in &queues {
            queue.ledger().parts.clear();
        }
        let mut depths = HashMap::new();
        let mut live = Live::default();
        for segment in log.segments() {
            live.begin(segment.id(), segment.first_offset());
            let Ok(shares) = self.shares(log, &segment) else {
                live.mark_uncounted(segment.id());
                continue;
            };
            for Share { queue, got } in shares.of {
                live.add(segment.id(), got.left, 1);
                let depth: &mut Amount = depths.entry(queue.id).or_default();
                *depth = depth.plus(got.left);
                note_part(&queue, &segment, got);
            }
        }
        live.forget_queues_max();
        self.live = live;
        for queue in queues {
            let depth = depths.get(&queue.id).copied().unwrap_or_default();
            self.set_depth(&queue, depth);
        }
    }

    /// What a count of a segment has to be compared with before it takes the place of another; `None`
    /// while something waits to be counted off.
    pub(crate) fn stamp(&self, id: SegmentId) -> Option<Stamp> {
        let count = self.live.of(id).filter(|_| self.departures.is_empty())?;
        Some(Stamp { id, changes: count.changes, rewinds: self.rewinds })
    }

    /// Makes the count of a sealed segment, and the queues' parts in it, say what was found. Says whether
    /// it did: not if anything of it changed since the stamp was taken.
    pub(crate) fn replace_count(
        &mut self,
        stamp: Stamp,
        segment: &Segment,
        shares: Shares,
    ) -> bool {
        if self.stamp(stamp.id) != Some(stamp) {
            return false;
        }
        let left = shares.left();
        let first = segment.first_offset();
        let stale = |queue: &&Arc<Queue>| queue.ledger().part(first).is_some();
        let stale: Vec<Arc<Queue>> = self.queues.values().filter(stale).cloned().collect();
        for queue in stale {
            self.queue_changes(queue.id);
            queue.ledger().parts.retain(|part| part.first != first);
        }
        for Share { queue, got } in shares.of {
            self.queue_changes(queue.id);
            note_part(&queue, segment, got);
        }
        self.live.replace(stamp.id, left);
        true
    }

    /// A sealed segment whose count says nothing, but for these.
    pub(crate) fn uncounted(&self, but: &HashSet<SegmentId>) -> Option<SegmentId> {
        let mut counts = self.live.all().iter().filter(|count| count.uncounted);
        counts.find(|count| !but.contains(&count.id)).map(|count| count.id)
    }

    /// Corrects what a queue acked, or was sent, so that so much is left.
    fn set_depth(&self, queue: &Queue, depth: Amount) {
        let sent = self.sent(queue);
        let mut state = queue.ledger();
        state.acked = sent.less(depth);
        let missing = depth.less(sent);
        state.add_left(missing);
    }

    /// Whether the count of a segment says anything. One that has no batch yet has none.
    pub(crate) fn is_counted(&self, id: SegmentId) -> bool {
        self.live.of(id).is_none_or(|count| !count.uncounted)
    }

    /// What is counted as outstanding in a segment, where that says anything.
    pub(crate) fn counted(&self, id: SegmentId) -> Option<Amount> {
        let count = self.live.of(id).filter(|count| !count.uncounted);
        count.map(|count| count.outstanding)
    }
}
