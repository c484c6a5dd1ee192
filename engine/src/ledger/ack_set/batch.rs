//! Acks on their way into the next ack record.

use super::encode::encode_runs;
use super::pages::Pages;

/// Acks gathered since the last ack record.
///
/// A set of offsets like [`AckSet`](super::AckSet), but without a floor: it holds what was
/// inserted, no more. An insert that extends the range of the last one, or falls into the page of
/// the last one, costs the same however much was gathered.
#[derive(Debug, Clone, Default)]
pub(crate) struct AckBatch {
    /// Short-lived, so speed comes before size: a page with two runs gets a bitmap at once.
    pages: Pages<0>,
}

impl AckBatch {
    /// Adds the offsets from `start` to `end`, exclusive; nothing if there are none. Those that it
    /// holds already may come again.
    ///
    /// Offsets of the very last page (2^64 - 4096 and above) are left out, as in an ack set.
    #[inline]
    pub(crate) fn insert(&mut self, start: u64, end: u64) {
        if start < end {
            self.pages.insert(start, end);
        }
    }

    /// Returns whether there is nothing to write.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Returns the maximal ranges that it holds, half-open and increasing.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.pages.runs(0)
    }

    /// Appends all that it holds to `out` as the items of an ack record: sorted, merged, the same
    /// bytes for the same acks in whatever order they came. Nothing is removed.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        encode_runs(self.runs(), out);
    }

    /// The same of those that are at or past `start` and before `end`.
    pub(crate) fn encode_within(&self, start: u64, end: u64, out: &mut Vec<u8>) {
        let clipped = self.runs().map(|run| (run.0.max(start), run.1.min(end)));
        encode_runs(clipped.filter(|run| run.0 < run.1), out);
    }

    /// Removes everything and keeps no memory: many queues that are idle by now have had acks.
    pub(crate) fn clear(&mut self) {
        self.pages.clear();
    }

    /// Returns the bytes that it holds on the heap, the allocator's own not counted.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.pages.heap_bytes()
    }
}
