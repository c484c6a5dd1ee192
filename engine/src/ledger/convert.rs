//! Putting a rewritten segment in the place of its sources.

use std::sync::Arc;

use fanlog_segment_format::{Offset, SegmentId};

use super::{
    Ledger, count,
    queue_ledger::{Amount, How, Part},
};
use crate::{
    Result,
    log::{Log, segment::Segment},
    queue::Queue,
};

impl Ledger {
    /// Counts segment `id` in the place of `sources`, which it replaces.
    ///
    /// `sources` are sealed neighbours, in order, and still in the log; the new segment starts where
    /// the first of them does. Parts of queues there become what is left, which does not depend on
    /// what the file holds. Returns false, having changed nothing, while departures wait to be
    /// counted off: those need the old files.
    ///
    /// # Errors
    ///
    /// A footer could not be read: nothing was changed.
    pub(crate) fn rewritten(
        &mut self,
        log: &Log,
        sources: &[Arc<Segment>],
        id: SegmentId,
    ) -> Result<bool> {
        let (Some(first), Some(last)) = (sources.first(), sources.last()) else { return Ok(true) };
        if self.has_departures() {
            return Ok(false);
        }
        let (first, end) = (first.first_offset(), last.end_offset().unwrap_or(Offset(u64::MAX)));
        let mut parts = Vec::new();
        for queue in self.queues_in(log, sources)? {
            let state = queue.ledger();
            let begun = state.parts.iter().any(|part| first <= part.first && part.first < end);
            // Where it is not begun, its messages there all stay, and are counted when it begins.
            let counted = state.floor() < end && (begun || state.floor() > first);
            drop(state);
            if counted {
                let left = left_of(&queue, log, sources)?;
                parts.push((queue, left));
            }
        }
        for (queue, left) in parts {
            let mut state = queue.ledger();
            state.parts.retain(|part| part.first < first || end <= part.first);
            let at = state.parts.partition_point(|part| part.first < first);
            state.parts.insert(at, Part { first, how: How::Left(left) });
        }
        let ids: Vec<SegmentId> = sources.iter().map(|segment| segment.id()).collect();
        self.live.merge(&ids, id, first);
        Ok(true)
    }
}

impl Ledger {
    /// The queues that messages of these segments went to, each once.
    pub(crate) fn queues_in(
        &self,
        log: &Log,
        segments: &[Arc<Segment>],
    ) -> Result<Vec<Arc<Queue>>> {
        let mut groups = Vec::new();
        for segment in segments {
            for route in count::routes(log, segment)? {
                groups.extend(log.route_groups(route).iter().flat_map(|groups| groups.to_vec()));
            }
        }
        groups.sort_unstable();
        groups.dedup();
        Ok(self.holders_of(&groups))
    }
}

/// What the queue has left in these segments.
fn left_of(queue: &Queue, log: &Log, segments: &[Arc<Segment>]) -> Result<Amount> {
    let mut sum = Amount::default();
    for segment in segments {
        let (part, members, floor) = {
            let state = queue.ledger();
            (state.part(segment.first_offset()), state.members.clone(), state.floor())
        };
        let left = match part {
            Some(How::Left(left)) => left,
            Some(How::Acked(acked)) => {
                count::routed(log, segment, &members, Offset(u64::MAX))?.less(acked)
            }
            None if segment.end_offset().is_some_and(|end| end <= floor) => Amount::default(),
            None => {
                let state = queue.ledger();
                let unacked = |offset| !state.acks.contains(offset);
                count::routed_if(log, segment, &members, unacked)?
            }
        };
        sum = sum.plus(left);
    }
    Ok(sum)
}
