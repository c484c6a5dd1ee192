//! Counting anew, by looking at every message that is stored: for `check`, and after damage.

use std::sync::Arc;

use fanlog_segment_format::{Offset, SegmentId};

use super::{
    Ledger, count,
    live::{Live, SegmentCount},
    queue_ledger::{Amount, How, Part},
};
use crate::{
    Result,
    log::{Log, segment::Segment},
    queue::Queue,
};

/// What a queue got in a segment, and what of it is not acked.
struct Share {
    queue: Arc<Queue>,
    routed: Amount,
    left: Amount,
}

impl Ledger {
    /// What is outstanding in a segment, by brute force.
    ///
    /// # Errors
    ///
    /// A footer could not be read.
    pub(crate) fn counted_anew(&self, log: &Log, segment: &Arc<Segment>) -> Result<Amount> {
        let shares = self.shares(log, segment)?;
        Ok(shares.iter().fold(Amount::default(), |sum, share| sum.plus(share.left)))
    }

    fn shares(&self, log: &Log, segment: &Arc<Segment>) -> Result<Vec<Share>> {
        let mut shares = Vec::new();
        for queue in self.queues_in(log, std::slice::from_ref(segment))? {
            let state = queue.ledger();
            let routed = count::routed(log, segment, &state.members, Offset(u64::MAX))?;
            let unacked = |offset| !state.acks.contains(offset);
            let left = count::routed_if(log, segment, &state.members, unacked)?;
            drop(state);
            shares.push(Share { queue, routed, left });
        }
        Ok(shares)
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
        let mut depths = std::collections::HashMap::new();
        let mut live = Live::default();
        for segment in log.segments() {
            live.begin(segment.id(), segment.first_offset());
            let Ok(shares) = self.shares(log, &segment) else {
                live.mark_uncounted(segment.id());
                continue;
            };
            for share in shares {
                live.add(segment.id(), share.left, 1);
                let depth: &mut Amount = depths.entry(share.queue.id).or_default();
                *depth = depth.plus(share.left);
                let mut state = share.queue.ledger();
                let ended = segment.end_offset().is_some_and(|end| end <= state.floor());
                if share.left == share.routed || ended {
                    continue;
                }
                let first = segment.first_offset();
                let how = if segment.is_sealed() {
                    How::Left(share.left)
                } else {
                    How::Acked(share.routed.less(share.left))
                };
                state.parts.retain(|part| part.first != first);
                state.parts.push(Part { first, how });
            }
        }
        live.forget_queues_max();
        self.live = live;
        for queue in queues {
            let depth = depths.get(&queue.id).copied().unwrap_or_default();
            self.set_depth(&queue, depth);
        }
    }

    /// Corrects what a queue acked, or was sent, so that so much is left.
    fn set_depth(&self, queue: &Queue, depth: Amount) {
        let sent = self.sent(queue);
        let mut state = queue.ledger();
        state.acked = sent.less(depth);
        let missing = depth.less(sent);
        state.left = state.left.plus(missing);
    }

    /// Whether the count of a segment says anything. One that has no batch yet has none.
    pub(crate) fn is_counted(&self, id: SegmentId) -> bool {
        self.live.of(id).is_none_or(|count| !count.uncounted)
    }

    /// What is counted as outstanding in a segment, and what there is, if they do not agree.
    ///
    /// # Errors
    ///
    /// A footer could not be read.
    pub(crate) fn miscount(
        &self,
        log: &Log,
        segment: &Arc<Segment>,
    ) -> Result<Option<(Amount, Amount)>> {
        let counted: Option<&SegmentCount> = self.live.of(segment.id());
        let Some(counted) = counted.filter(|count| !count.uncounted) else { return Ok(None) };
        let found = self.counted_anew(log, segment)?;
        let agree = counted.outstanding.messages == found.messages;
        Ok((!agree).then_some((counted.outstanding, found)))
    }
}
