//! How often single messages of a queue were handed out: of those that came back, and no others.
//!
//! In: delivery count records. An ack takes a message out, so that there are never more than what
//! consumers once had and did not ack.

use std::collections::BTreeMap;

use fanlog_segment_format::{AckBytes, AckItem, CountList, PAGE_OFFSETS};

use super::ack_set::AckSet;
use crate::on_demand::OnDemand;

/// What an entry takes on the heap, about: a B-tree's nodes are two thirds full.
const ENTRY_BYTES: usize = 20;

/// Delivery counts by offset. Most queues have none.
#[derive(Debug, Default)]
pub(crate) struct DeliveryCounts(OnDemand<BTreeMap<u64, u32>>);

impl DeliveryCounts {
    /// The counts of a checkpoint, but those of messages that are acked.
    pub(crate) fn of_entries(entries: &[(u64, u32)], acks: &AckSet) -> Self {
        let mut counts = Self::default();
        counts.record(CountList::from_slice(entries), acks);
        counts
    }

    pub(crate) fn entries(&self) -> Vec<(u64, u32)> {
        let counts = self.0.get().into_iter().flatten();
        counts.map(|(&offset, &count)| (offset, count)).collect()
    }

    /// How often a message is recorded to have been handed out.
    pub(crate) fn of(&self, offset: u64) -> u32 {
        self.0.get().and_then(|counts| counts.get(&offset).copied()).unwrap_or(0)
    }

    /// Takes note of a record. What is acked by now is left out; no count goes back.
    pub(crate) fn record(&mut self, entries: CountList<'_>, acks: &AckSet) {
        for (offset, count) in entries.iter().filter(|(offset, _)| !acks.contains(offset.0)) {
            let known = self.0.make().entry(offset.0).or_default();
            *known = count.max(*known);
        }
    }

    /// Forgets what an ack record names, which is part of `acks` by now.
    pub(crate) fn acked(&mut self, named: AckBytes<'_>, acks: &AckSet) {
        let Some(counts) = self.0.get_mut() else { return };
        for item in named.items().flatten() {
            let (start, end) = match item {
                AckItem::Run { start, end } => (start, end),
                AckItem::Bits { page, .. } => {
                    let start = page.saturating_mul(PAGE_OFFSETS);
                    (start, start.saturating_add(PAGE_OFFSETS))
                }
            };
            let gone: Vec<u64> =
                counts.range(start..end.max(start)).map(|(&offset, _)| offset).collect();
            for offset in gone.into_iter().filter(|&offset| acks.contains(offset)) {
                counts.remove(&offset);
            }
        }
        if counts.is_empty() {
            self.0.forget();
        }
    }

    /// Forgets what is not wanted any more.
    pub(crate) fn retain(&mut self, wanted: impl Fn(u64) -> bool) {
        let Some(counts) = self.0.get_mut() else { return };
        counts.retain(|&offset, _| wanted(offset));
        if counts.is_empty() {
            self.0.forget();
        }
    }

    /// Heap bytes, about.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.0.get().map_or(0, |counts| size_of_val(counts) + counts.len() * ENTRY_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use fanlog_segment_format::Offset;

    use super::*;
    use crate::ledger::ack_set::AckBatch;

    fn ack(acks: &mut AckSet, counts: &mut DeliveryCounts, ranges: &[(u64, u64)]) {
        let mut batch = AckBatch::default();
        for &(start, end) in ranges {
            batch.insert(start, end);
        }
        let mut bytes = Vec::new();
        batch.encode(&mut bytes);
        acks.apply(AckBytes(&bytes)).unwrap();
        counts.acked(AckBytes(&bytes), acks);
    }

    #[test]
    fn an_ack_takes_out_what_it_names_and_nothing_else() {
        let mut acks = AckSet::new(0);
        let entries: Vec<(u64, u32)> = (0..10_000).step_by(3).map(|offset| (offset, 1)).collect();
        let mut counts = DeliveryCounts::of_entries(&entries, &acks);
        let every_other: Vec<(u64, u64)> =
            (4098..8192).step_by(6).map(|offset| (offset, offset + 1)).collect();
        ack(&mut acks, &mut counts, &[(0, 300)]);
        ack(&mut acks, &mut counts, &every_other);
        let left: Vec<u64> = counts.entries().iter().map(|&(offset, _)| offset).collect();
        let expected = (0..10_000).step_by(3).filter(|&offset| !acks.contains(offset));
        assert_eq!(left, expected.collect::<Vec<_>>());
        assert!(left.len() < entries.len() - 100);
        ack(&mut acks, &mut counts, &[(0, 10_000)]);
        assert_eq!((counts.entries(), counts.heap_bytes()), (Vec::new(), 0));
    }

    #[test]
    fn a_count_never_goes_back_and_none_is_kept_of_what_is_acked() {
        let acks = AckSet::new(5);
        let mut counts = DeliveryCounts::of_entries(&[(4, 9), (7, 3)], &acks);
        counts.record(CountList::from_slice(&[(2, 1), (7, 2), (8, 1)]), &acks);
        assert_eq!(counts.entries(), [(7, 3), (8, 1)]);
        assert_eq!((counts.of(7), counts.of(Offset(4).0)), (3, 0));
    }
}
