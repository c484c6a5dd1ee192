//! What one queue has acked: a floor, and the set of offsets acked above it.
//!
//! Pure memory: no files, clock or locks. In: ranges of acked offsets (from consumers, and as the
//! items of ack records at replay). Out: answers to "is it acked", "what is next", "how many", and
//! the stored form. What a queue was not routed counts as acked and comes in with the message
//! behind it, so that ranges are the normal case.
//!
//! A1. Every offset below the floor is acked; the floor is not.
//! A2. Above the floor the set is exact. Below it the pages hold whatever they happen to.
//! A3. Memory follows the number of runs of the set, and hardly passes a bit per offset of the
//!     pages with several runs: a stuck head costs one run, however much is acked behind it.
//!
//! Offsets of the very last page (2^64 - 4096 and above) are never acked; no log gets there.
//! Nothing fails but [`AckSet::apply`], which reads stored bytes.

mod batch;
mod directory;
mod encode;
mod insert;
mod list;
mod page;
mod pages;
mod stretch;
#[cfg(test)]
mod tests;

use fanlog_segment_format::{AckBytes, AckItem, DecodeError};

pub(crate) use batch::AckBatch;
use page::Bitmap;
use pages::Pages;
use stretch::{page_of, page_start};

/// Offsets of a page: a page starts at each multiple of it.
pub(crate) const PAGE_OFFSETS: u64 = 4096;

const _: () = assert!(PAGE_OFFSETS == fanlog_segment_format::PAGE_OFFSETS);

/// Words that a page's list may grow to before the page becomes a bitmap (528 bytes).
const FRESH_WORDS: usize = 8;

/// The offsets that one queue has acked.
///
/// Ranges are half-open. Two sets are equal if they hold the same offsets, whatever their history.
#[derive(Debug, Clone, Default)]
pub(crate) struct AckSet {
    floor: u64,
    pages: Pages<FRESH_WORDS>,
}

impl PartialEq for AckSet {
    fn eq(&self, other: &Self) -> bool {
        self.floor == other.floor && self.runs().eq(other.runs())
    }
}

impl Eq for AckSet {}

impl AckSet {
    /// Makes a set in which all below `floor` is acked and nothing else.
    pub(crate) fn new(floor: u64) -> Self {
        Self { floor, pages: Pages::default() }
    }

    /// Returns the ack floor: the first offset that is not acked.
    #[inline]
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// Acks the offsets from `start` to `end`, exclusive; nothing if there are none. What is acked
    /// already may come again. The floor has passed all that is then contiguous with it.
    #[inline]
    pub(crate) fn insert(&mut self, start: u64, end: u64) {
        if start > self.floor {
            if start < end {
                self.pages.insert(start, end);
            }
        } else if end > self.floor {
            self.raise(end);
        }
    }

    /// Raises the floor to `end` and over what is acked from there on.
    #[inline]
    fn raise(&mut self, end: u64) {
        let end = end.min(pages::OFFSET_END);
        if end < self.pages.start() {
            self.floor = self.floor.max(end);
            return;
        }
        self.floor = self.pages.first_missing(end).max(self.floor);
        self.pages.remove_below(self.floor);
        if self.pages.end() <= self.floor {
            self.pages.clear();
        }
    }

    /// Returns whether `offset` is acked.
    pub(crate) fn contains(&self, offset: u64) -> bool {
        offset < self.floor || self.pages.contains(offset)
    }

    /// Returns the first offset at or after `from` that is not acked.
    pub(crate) fn first_missing(&self, from: u64) -> u64 {
        if from <= self.floor { self.floor } else { self.pages.first_missing(from) }
    }

    /// Returns the maximal acked ranges above the floor, half-open and increasing.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.pages.runs(self.floor)
    }

    /// Returns the maximal ranges between `from` and `to` that are not acked, half-open and
    /// increasing. Costs what there is between the two, wherever they lie.
    pub(crate) fn missing(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> {
        let mut at = from.max(self.floor);
        let mut runs = self.pages.runs_from(at);
        std::iter::from_fn(move || {
            while at < to {
                let (start, end) = runs.next().unwrap_or((to, to));
                let missing = (at, start.min(to));
                at = end.max(at);
                if missing.0 < missing.1 {
                    return Some(missing);
                }
            }
            None
        })
    }

    /// Returns the offset after the last acked one; the floor if nothing is acked above it.
    pub(crate) fn end(&self) -> u64 {
        self.pages.end().max(self.floor)
    }

    /// Returns whether nothing is acked above the floor.
    pub(crate) fn is_empty_above_floor(&self) -> bool {
        self.end() == self.floor
    }

    /// Appends what is acked above the floor to `out`, in the stored form: per page as runs or as
    /// a bitmap, whichever is shorter. Equal sets give equal bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        encode::encode_runs(self.runs(), out);
    }

    /// Acks all that stored acks name. Returns one past the last offset of it, 0 if it is nothing.
    ///
    /// # Errors
    ///
    /// The first item that does not decode; what stood before it is acked.
    pub(crate) fn apply(&mut self, acks: AckBytes<'_>) -> Result<u64, DecodeError> {
        let mut last = 0;
        for item in acks.items() {
            match item? {
                AckItem::Run { start, end } => {
                    self.insert(start, end);
                    last = end;
                }
                AckItem::Bits { page, words } if page > page_of(self.floor) => {
                    self.pages.insert_words(page, &words);
                    last = page_start(page) + Bitmap::of_words(&words).end() as u64;
                }
                AckItem::Bits { page, words } => {
                    let base = page_start(page);
                    for (start, end) in Bitmap::of_words(&words).runs() {
                        self.insert(base + start as u64, base + end as u64);
                        last = base + end as u64;
                    }
                }
            }
        }
        Ok(last)
    }

    /// The same set without these ranges, half-open and increasing.
    pub(crate) fn without(&self, gone: impl Iterator<Item = (u64, u64)>) -> Self {
        let mut gone = gone.peekable();
        let floor = gone.peek().map_or(self.floor, |first| first.0.min(self.floor));
        let mut set = Self::new(floor);
        for (start, end) in std::iter::once((floor, self.floor)).chain(self.runs()) {
            let mut at = start;
            while at < end {
                while gone.next_if(|range| range.1 <= at).is_some() {}
                let Some(&(from, to)) = gone.peek().filter(|range| range.0 < end) else {
                    set.insert(at, end);
                    break;
                };
                set.insert(at, from.max(at));
                at = to;
            }
        }
        set
    }

    /// Forgets everything at or past `end`, the floor included; returns whether anything was acked
    /// there.
    pub(crate) fn clip(&mut self, end: u64) -> bool {
        if self.end() <= end {
            return false;
        }
        self.pages.remove_from(end);
        self.floor = self.floor.min(end);
        if self.is_empty_above_floor() {
            self.pages.clear();
        }
        true
    }

    /// Returns the bytes that it holds on the heap, the allocator's own not counted.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.pages.heap_bytes()
    }
}
