//! What a queue leaves behind when it is deleted or purged, to be counted off segment by segment.
//!
//! The commit only notes it; the keeper reads the footers. Until then the segments count more as
//! outstanding than there is, which keeps them a little longer.

use std::{cell::OnceCell, sync::Arc};

use fanlog_segment_format::{Offset, SegmentId, checkpoint::MemberEntry};

use super::{
    count::{self, ByGroup},
    queue_ledger::{Amount, How, Part, QueueLedger},
};
use crate::log::{Log, segment::Segment};

/// Messages of a queue, up to an offset, that it no longer wants.
#[derive(Debug)]
pub(crate) struct Departure {
    floor: Offset,
    to: Offset,
    /// Unacked before `to`, and wanted all the same; increasing.
    kept: Vec<u64>,
    members: Vec<MemberEntry>,
    parts: Vec<Part>,
    /// By where a segment that goes on past `to` starts: what its part has of acks at or past `to`,
    /// which may stand in the log before this. `None` where that can't be told.
    beyond: Vec<(Offset, Option<Amount>)>,
}

impl Departure {
    /// Everything before `to` that the queue has not acked, but what is `kept`.
    pub(super) fn of(state: &QueueLedger, to: Offset, kept: Vec<u64>) -> Self {
        let (members, parts) = (state.members.clone(), state.parts.clone());
        Self { floor: state.floor(), to, kept, members, parts, beyond: Vec::new() }
    }

    /// The same of a queue that stays, and may have acked messages past `to` by now.
    pub(super) fn of_purge(state: &QueueLedger, to: Offset, kept: Vec<u64>, log: &Log) -> Self {
        let mut departure = Self::of(state, to, kept);
        if state.acks.end() > to.0 {
            let acked = |offset| offset >= to.0 && state.acks.contains(offset);
            for segment in log.segments() {
                if departure.concerns(&segment) && departure.reaches_beyond(&segment) {
                    let found = count::routed_if(log, &segment, &departure.members, acked);
                    departure.beyond.push((segment.first_offset(), found.ok()));
                }
            }
        }
        departure
    }

    fn acked_beyond(&self, segment: &Segment) -> Option<Amount> {
        let first = segment.first_offset();
        let found = self.beyond.iter().find(|one| one.0 == first);
        found.map_or(Some(Amount::default()), |one| one.1)
    }

    pub(super) fn kept(&self) -> &[u64] {
        &self.kept
    }

    /// Whether anything in the segment may be concerned. Nothing is in an empty one, and the part that
    /// starts where it does is the next one's.
    fn concerns(&self, segment: &Segment) -> bool {
        !segment.is_empty()
            && segment.first_offset() < self.to
            && segment.end_offset().is_none_or(|end| end > self.floor)
    }

    /// Whether the segment goes on at or past `to`.
    fn reaches_beyond(&self, segment: &Segment) -> bool {
        segment.end_offset().is_none_or(|end| end > self.to)
    }

    fn part(&self, segment: &Segment) -> Option<How> {
        let first = segment.first_offset();
        self.parts.iter().find(|part| part.first == first).map(|part| part.how)
    }

    fn kept_in(&self, segment: &Segment) -> &[u64] {
        let end = segment.end_offset().unwrap_or(self.to);
        let from = self.kept.partition_point(|&offset| offset < segment.first_offset().0);
        let to = self.kept.partition_point(|&offset| offset < end.0);
        &self.kept[from..to]
    }

    /// What the queue's parts are afterwards; `None` where that can't be told.
    ///
    /// Of what is kept the messages are counted and their sizes are not.
    pub(super) fn parts_left(&self, log: &Log) -> Vec<(Offset, Option<How>)> {
        let segments = log.segments().into_iter().filter(|segment| self.concerns(segment));
        segments.map(|segment| (segment.first_offset(), self.part_left(log, &segment))).collect()
    }

    fn part_left(&self, log: &Log, segment: &Arc<Segment>) -> Option<How> {
        let kept = Amount { messages: self.kept_in(segment).len() as u64, bytes: 0 };
        if !self.reaches_beyond(segment) {
            return Some(How::Left(kept));
        }
        if let Some(How::Left(_)) = self.part(segment) {
            return None;
        }
        let routed = count::routed(log, segment, &self.members, self.to).ok()?;
        Some(How::Acked(routed.less(kept).plus(self.acked_beyond(segment)?)))
    }

    /// How much all of them together are to be counted off in each segment; `None` where it can't be
    /// told.
    ///
    /// Segment by segment, so that each is looked through once, whatever the number of queues that went.
    pub(crate) fn count_off(all: &[Self], log: &Log) -> Vec<(SegmentId, Option<Amount>)> {
        let mut counted = Vec::new();
        for segment in log.segments() {
            let mut concerned = all.iter().filter(|one| one.concerns(&segment)).peekable();
            if concerned.peek().is_none() {
                continue;
            }
            // Read once, whatever the number of queues that went; not at all if none needs it.
            let listed = OnceCell::new();
            let listed = || {
                let listed = listed.get_or_init(|| ByGroup::of(log, &segment).ok());
                listed.as_ref()
            };
            let sum = concerned.try_fold(Amount::default(), |sum, one| {
                one.left_in(log, &segment, &listed).map(|left| sum.plus(left))
            });
            counted.push((segment.id(), sum));
        }
        counted
    }

    fn left_in<'a>(
        &self,
        log: &Log,
        segment: &Segment,
        listed: &impl Fn() -> Option<&'a ByGroup>,
    ) -> Option<Amount> {
        let left = match self.part(segment) {
            Some(How::Left(_)) if self.reaches_beyond(segment) => return None,
            Some(How::Left(left)) => left,
            part => {
                let routed = listed()?.routed(log, &self.members, self.to);
                let acked = match part {
                    Some(How::Acked(acked)) => acked.less(self.acked_beyond(segment)?),
                    _ => Amount::default(),
                };
                (routed.messages >= acked.messages).then(|| routed.less(acked))?
            }
        };
        let kept = self.kept_in(segment);
        if kept.is_empty() {
            return Some(left);
        }
        let is_kept = |offset: u64| kept.binary_search(&offset).is_ok();
        let kept = listed()?.routed_if(log, &self.members, is_kept);
        (left.messages >= kept.messages).then(|| left.less(kept))
    }
}
