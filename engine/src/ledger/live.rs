//! How much is outstanding in each segment: what reclaim goes by.
//!
//! A segment's *outstanding* is the sum, over all queues, of the messages in it that were routed to
//! the queue and that it has not durably acked. It is kept by adding and subtracting: a batch adds
//! what it brings times the queues that get it, an ack record takes away what it acks. So nobody
//! walks queues or backlogs to find out that a segment is dead.
//!
//! V1. Outstanding is 0 only if no message of the segment is live. A count that could not be kept
//!     exact is marked, and then says nothing.
//! V2. It bounds the live messages from above; the live messages are at least outstanding divided by
//!     the largest number of queues that a message here was routed to.

use fanlog_segment_format::{Offset, SegmentId, checkpoint::SegmentEntry};

use super::queue_ledger::Amount;

/// What is outstanding in one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentCount {
    pub(crate) id: SegmentId,
    pub(crate) first: Offset,
    pub(crate) outstanding: Amount,
    /// The largest number of queues that a message was routed to; 0 if that is not known, as for
    /// what was written before the store was opened.
    pub(crate) queues_max: u64,
    /// The sum is not exact: it says nothing (V1).
    pub(crate) uncounted: bool,
    /// How often anything of it changed while the store was open.
    pub(crate) changes: u32,
}

impl SegmentCount {
    /// Whether no message of the segment is live.
    pub(crate) fn is_dead(&self) -> bool {
        !self.uncounted && self.outstanding.messages == 0
    }
}

/// The count of a segment, among those of all segments in the order of their numbers.
pub(crate) fn count_of(counts: &[SegmentCount], id: SegmentId) -> Option<&SegmentCount> {
    let at = counts.binary_search_by_key(&id, |count| count.id).ok()?;
    counts.get(at)
}

/// The counts of all segments of the log, in its order.
#[derive(Debug, Default)]
pub(crate) struct Live {
    segments: Vec<SegmentCount>,
}

impl Live {
    /// The counts that a checkpoint holds.
    pub(super) fn from_entries(entries: &[SegmentEntry]) -> Self {
        let segments = entries.iter().map(|entry| SegmentCount {
            id: entry.id,
            first: entry.first_offset,
            outstanding: Amount {
                messages: entry.outstanding_messages,
                bytes: entry.outstanding_bytes,
            },
            queues_max: 0,
            uncounted: entry.uncounted,
            changes: 0,
        });
        Self { segments: segments.collect() }
    }

    pub(super) fn all(&self) -> &[SegmentCount] {
        &self.segments
    }

    pub(super) fn of(&self, id: SegmentId) -> Option<&SegmentCount> {
        self.segments.iter().rev().find(|count| count.id == id)
    }

    pub(super) fn of_mut(&mut self, id: SegmentId) -> Option<&mut SegmentCount> {
        self.segments.iter_mut().rev().find(|count| count.id == id)
    }

    /// The same of the segment that starts at `first`.
    pub(super) fn mark_uncounted_at(&mut self, first: Offset) {
        if let Some(count) = self.segments.iter_mut().rev().find(|count| count.first == first) {
            count.uncounted = true;
        }
    }

    /// Takes note that batches of segment `id` come from here on.
    pub(super) fn begin(&mut self, id: SegmentId, first: Offset) {
        if self.of(id).is_some() {
            return;
        }
        let outstanding = Amount::default();
        let at = self.segments.partition_point(|count| count.id < id);
        self.segments.insert(
            at,
            SegmentCount { id, first, outstanding, queues_max: 0, uncounted: false, changes: 0 },
        );
    }

    /// Adds messages of a segment that went to so many queues each.
    ///
    /// While running it is the newest. At recovery the list may already name later ones, that were
    /// begun between the checkpoint's head and the moment when it was put together.
    pub(super) fn add(&mut self, id: SegmentId, amount: Amount, queues: u64) {
        let Some(count) = self.of_mut(id) else { return };
        count.changes = count.changes.wrapping_add(1);
        count.outstanding = count.outstanding.plus(amount.times(queues));
        count.queues_max = count.queues_max.max(queues);
    }

    /// Adds what a queue is to get, after all, of the segment that starts at `first`.
    pub(super) fn more(&mut self, first: Offset, amount: Amount) {
        let at = self.segments.partition_point(|count| count.first <= first);
        if let Some(count) = at.checked_sub(1).and_then(|at| self.segments.get_mut(at)) {
            count.changes = count.changes.wrapping_add(1);
            count.outstanding = count.outstanding.plus(amount);
            count.queues_max = 0;
        }
    }

    /// Puts what was found by counting anew in the place of what was counted.
    pub(super) fn replace(&mut self, id: SegmentId, outstanding: Amount) {
        if let Some(count) = self.of_mut(id) {
            (count.outstanding, count.queues_max, count.uncounted) = (outstanding, 0, false);
        }
    }

    /// Says that the count of a segment is not exact.
    pub(super) fn mark_uncounted(&mut self, id: SegmentId) {
        if let Some(count) = self.of_mut(id) {
            count.uncounted = true;
        }
    }

    /// Says that it is not known how many queues messages were routed to.
    pub(super) fn forget_queues_max(&mut self) {
        for count in &mut self.segments {
            count.queues_max = 0;
        }
    }

    /// Takes away what is acked, or no longer wanted, of the segment that starts at `first`.
    pub(super) fn less(&mut self, first: Offset, amount: Amount) {
        let at = self.segments.partition_point(|count| count.first <= first);
        let Some(count) = at.checked_sub(1).and_then(|at| self.segments.get_mut(at)) else {
            return;
        };
        count.changes = count.changes.wrapping_add(1);
        if count.outstanding.messages < amount.messages {
            // Never below what is there: better to keep a segment for ever than to lose a message.
            count.uncounted = true;
            return;
        }
        count.outstanding = count.outstanding.less(amount);
        if count.outstanding.messages == 0 {
            // The sizes of damaged messages are not known when they are acked.
            count.outstanding.bytes = 0;
        }
    }

    /// The first offset of the segment that holds `offset`; `offset` itself before all of them.
    pub(super) fn first_at(&self, offset: Offset) -> Offset {
        let at = self.segments.partition_point(|count| count.first <= offset);
        at.checked_sub(1).and_then(|at| self.segments.get(at)).map_or(offset, |count| count.first)
    }

    /// Forgets a segment.
    pub(super) fn remove(&mut self, id: SegmentId) {
        self.segments.retain(|count| count.id != id);
    }

    /// Puts one segment in the place of several neighbours.
    pub(super) fn merge(&mut self, old: &[SegmentId], id: SegmentId, first: Offset) {
        let mut merged = SegmentCount {
            id,
            first,
            outstanding: Amount::default(),
            queues_max: 0,
            uncounted: false,
            changes: 0,
        };
        self.segments.retain(|count| {
            if !old.contains(&count.id) {
                return true;
            }
            merged.outstanding = merged.outstanding.plus(count.outstanding);
            merged.queues_max = merged.queues_max.max(count.queues_max);
            merged.uncounted |= count.uncounted;
            false
        });
        let at = self.segments.partition_point(|count| count.id < id);
        self.segments.insert(at, merged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(messages: u64) -> Amount {
        Amount { messages, bytes: 10 * messages }
    }

    fn three() -> Live {
        let mut live = Live::default();
        for (id, first) in [(1, 0), (2, 100), (5, 100)] {
            live.begin(SegmentId(id), Offset(first));
        }
        live.add(SegmentId(5), amount(10), 3);
        live
    }

    #[test]
    fn an_offset_belongs_to_the_last_segment_that_starts_at_or_before_it() {
        let live = three();
        let firsts = [0, 99, 100, 5000].map(|offset| live.first_at(Offset(offset)).0);
        assert_eq!(firsts, [0, 0, 100, 100]);
        assert_eq!(live.of(SegmentId(5)).unwrap().outstanding, amount(30));
        assert!(live.of(SegmentId(2)).unwrap().is_dead());
    }

    #[test]
    fn a_count_that_would_fall_below_zero_says_nothing_from_then_on() {
        let mut live = three();
        live.less(Offset(100), amount(30));
        assert!(live.of(SegmentId(5)).unwrap().is_dead());
        live.less(Offset(100), amount(1));
        assert!(!live.of(SegmentId(5)).unwrap().is_dead());
    }

    #[test]
    fn merged_segments_have_the_sum_and_say_nothing_if_one_of_them_does() {
        let mut live = three();
        live.begin(SegmentId(6), Offset(200));
        live.add(SegmentId(6), amount(1), 1);
        live.merge(&[SegmentId(2), SegmentId(5)], SegmentId(2), Offset(100));
        assert_eq!(live.of(SegmentId(2)).unwrap().outstanding, amount(30));
        assert_eq!(live.all().iter().map(|count| count.id.0).collect::<Vec<_>>(), [1, 2, 6]);
        live.less(Offset(0), amount(1));
        live.merge(&[SegmentId(1), SegmentId(2)], SegmentId(1), Offset(0));
        assert!(live.of(SegmentId(1)).unwrap().uncounted);
    }
}
