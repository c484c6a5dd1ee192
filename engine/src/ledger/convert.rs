//! Putting a rewritten segment in the place of its sources.
//!
//! What a queue has left in a file does not depend on what else is in it: so parts are brought to
//! that form first, a few queues at a time, and commits go on in between. The moment in which the
//! new file takes the place of the old ones then reads no footer, however many queues there are.

use std::{ops::Range, sync::Arc};

use fanlog_segment_format::{Offset, SegmentId};

use super::{
    Ledger,
    count::{self, ByGroup},
    queue_ledger::{Amount, How, QueueLedger},
};
use crate::{
    Result,
    log::{Log, segment::Segment},
    queue::Queue,
};

/// The offsets of neighbours, given in order.
fn range_of(segments: &[Arc<Segment>]) -> Range<Offset> {
    let first = segments.first().map_or(Offset(0), |segment| segment.first_offset());
    let end = segments.last().and_then(|segment| segment.end_offset());
    first..end.unwrap_or(Offset(u64::MAX))
}

/// Whether a queue has parts in these offsets, or should have: where it has not begun, its messages
/// all stay, and are counted when it begins.
fn is_within(state: &QueueLedger, range: &Range<Offset>) -> bool {
    let begun = state.parts.iter().any(|part| range.contains(&part.first));
    state.floor() < range.end && (begun || state.floor() > range.start)
}

/// Sealed neighbours, in order, about to be replaced by one segment, and what is listed in each.
pub(crate) struct Sources<'a> {
    segments: &'a [Arc<Segment>],
    listed: Vec<ByGroup>,
}

impl<'a> Sources<'a> {
    /// # Errors
    ///
    /// A footer could not be read.
    pub(crate) fn of(log: &Log, segments: &'a [Arc<Segment>]) -> Result<Self> {
        let listed = segments.iter().map(|segment| ByGroup::of(log, segment));
        Ok(Self { segments, listed: listed.collect::<Result<_>>()? })
    }

    /// Those that hold messages. A part that starts where an empty one does is the next one's.
    fn filled(&self) -> impl Iterator<Item = (&Arc<Segment>, &ByGroup)> {
        self.segments.iter().zip(&self.listed).filter(|(source, _)| !source.is_empty())
    }
}

impl Ledger {
    /// Has the parts of these queues in `sources` say what is left.
    ///
    /// The caller keeps checkpoints from being put together meanwhile, and gives the ledger back
    /// before the next few: acks go on.
    #[expect(clippy::unused_self, reason = "whoever has the ledger keeps acks from being applied")]
    pub(crate) fn convert(&self, log: &Log, sources: &Sources<'_>, queues: &[Arc<Queue>]) {
        let range = range_of(sources.segments);
        for queue in queues {
            if !is_within(&queue.ledger(), &range) {
                continue;
            }
            for (source, listed) in sources.filled() {
                let left = left_of(queue, log, source, listed);
                let mut state = queue.ledger();
                if source.end_offset().is_some_and(|end| state.floor() < end) {
                    state.set_part(source.first_offset(), How::Left(left));
                }
            }
        }
    }

    /// Counts segment `id` in the place of `sources`, which it replaces.
    ///
    /// `sources` are sealed neighbours, in order, and still in the log; the new segment starts where
    /// the first of them does. `queues` are all that [`queues_in`](Self::queues_in) found there, and
    /// were [converted](Self::convert) but for what began since. Returns false, having changed
    /// nothing, while departures wait to be counted off: those need the old files.
    pub(crate) fn rewritten(
        &mut self,
        log: &Log,
        sources: &Sources<'_>,
        queues: &[Arc<Queue>],
        id: SegmentId,
    ) -> bool {
        if self.has_departures() {
            return false;
        }
        let range = range_of(sources.segments);
        let mut parts = Vec::new();
        for queue in queues {
            if is_within(&queue.ledger(), &range) {
                let mut left = Amount::default();
                for (source, listed) in sources.filled() {
                    left = left.plus(left_of(queue, log, source, listed));
                }
                parts.push((queue, left));
            }
        }
        for (queue, left) in parts {
            let mut state = queue.ledger();
            state.parts.retain(|part| !range.contains(&part.first));
            state.set_part(range.start, How::Left(left));
        }
        let ids: Vec<SegmentId> = sources.segments.iter().map(|segment| segment.id()).collect();
        self.live.merge(&ids, id, range.start);
        true
    }

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

/// What the queue has left in this segment.
fn left_of(queue: &Queue, log: &Log, segment: &Segment, listed: &ByGroup) -> Amount {
    let state = queue.ledger();
    let part = state.part(segment.first_offset());
    match part {
        Some(How::Left(left)) => left,
        Some(How::Acked(acked)) => {
            let members = state.members.clone();
            drop(state);
            listed.routed(log, &members, Offset(u64::MAX)).less(acked)
        }
        None if segment.end_offset().is_some_and(|end| end <= state.floor()) => Amount::default(),
        None => {
            let unacked = |offset| !state.acks.contains(offset);
            listed.routed_if(log, &state.members, unacked)
        }
    }
}
