//! The acks of one page of 4,096 offsets as a bitmap.
//!
//! Positions are counted from the start of the page; ranges are half-open.

use super::PAGE_OFFSETS;
use super::list::{List, Runs};

/// Offsets of a page, as a position.
pub(super) const PAGE: usize = 4096;
/// Words of a bitmap.
pub(super) const PAGE_WORDS: usize = PAGE / 64;
/// A bitmap becomes a list if that takes at most so many words (five sixths of the bitmap).
pub(super) const PACKED_WORDS_MAX: usize = 216;
/// By how many words a packed list may grow before it becomes a bitmap again.
const PACKED_ROOM_WORDS: usize = 32;

const _: () = assert!(PAGE as u64 == PAGE_OFFSETS);

/// One bit per offset.
#[derive(Debug, Clone)]
pub(super) struct Bitmap {
    words: [u64; PAGE_WORDS],
    acked: u32,
}

impl Bitmap {
    pub(super) fn empty() -> Box<Self> {
        Box::new(Self { words: [0; PAGE_WORDS], acked: 0 })
    }

    pub(super) fn of_words(words: &[u64; PAGE_WORDS]) -> Box<Self> {
        Box::new(Self { words: *words, acked: words.iter().map(|word| word.count_ones()).sum() })
    }

    pub(super) fn of_runs(runs: impl Iterator<Item = (usize, usize)>) -> Box<Self> {
        let mut bitmap = Self::empty();
        runs.for_each(|(start, end)| bitmap.insert(start, end));
        bitmap
    }

    pub(super) fn words(&self) -> &[u64; PAGE_WORDS] {
        &self.words
    }

    /// How many offsets are acked.
    pub(super) fn acked(&self) -> usize {
        self.acked as usize
    }

    #[inline]
    pub(super) fn insert(&mut self, start: usize, end: usize) {
        debug_assert!(start < end && end <= PAGE);
        if start / 64 == (end - 1) / 64 {
            self.insert_word(start / 64, mask_from(start) & mask_to(end));
        } else {
            self.insert_wide(start, end);
        }
    }

    #[inline(never)]
    fn insert_wide(&mut self, start: usize, end: usize) {
        let (first, last) = (start / 64, (end - 1) / 64);
        self.insert_word(first, mask_from(start));
        (first + 1..last).for_each(|at| self.insert_word(at, u64::MAX));
        self.insert_word(last, mask_to(end));
    }

    #[inline]
    fn insert_word(&mut self, at: usize, mask: u64) {
        let word = &mut self.words[at % PAGE_WORDS];
        let added = mask & !*word;
        *word |= mask;
        // Mostly one bit; to count more takes a dozen instructions where the target has none for it.
        let one = added & added.wrapping_sub(1) == 0;
        self.acked += if one { u32::from(added != 0) } else { count(added) };
    }

    pub(super) fn insert_words(&mut self, words: &[u64; PAGE_WORDS]) {
        words.iter().enumerate().for_each(|(at, &word)| self.insert_word(at, word));
    }

    pub(super) fn remove_from(&mut self, start: usize) {
        for at in start / 64..PAGE_WORDS {
            let mask = if at == start / 64 { mask_from(start) } else { u64::MAX };
            self.acked -= (self.words[at] & mask).count_ones();
            self.words[at] &= !mask;
        }
    }

    pub(super) fn contains(&self, position: usize) -> bool {
        self.words[position / 64] >> (position % 64) & 1 == 1
    }

    /// The first missing position at or after `from`, or [`PAGE`].
    #[inline]
    pub(super) fn first_missing(&self, from: usize) -> usize {
        self.first_set(from, u64::MAX)
    }

    /// The first acked position at or after `from`, or [`PAGE`].
    #[inline]
    pub(super) fn first_acked(&self, from: usize) -> usize {
        self.first_set(from, 0)
    }

    #[inline]
    fn first_set(&self, from: usize, flip: u64) -> usize {
        let mut at = from / 64;
        if at >= PAGE_WORDS {
            return PAGE;
        }
        let mut word = (self.words[at] ^ flip) & mask_from(from);
        while word == 0 {
            at += 1;
            if at == PAGE_WORDS {
                return PAGE;
            }
            word = self.words[at] ^ flip;
        }
        at * 64 + word.trailing_zeros() as usize
    }

    /// One past the last acked position; 0 if none is acked.
    pub(super) fn end(&self) -> usize {
        let last = self.words.iter().rposition(|&word| word != 0);
        last.map_or(0, |at| at * 64 + 64 - self.words[at].leading_zeros() as usize)
    }

    /// The acked runs, increasing.
    pub(super) fn runs(&self) -> BitmapRuns<'_> {
        BitmapRuns { bitmap: self, at: 0 }
    }

    /// How many runs [`Self::runs`] gives.
    fn run_count(&self) -> usize {
        let mut before = 0;
        let mut starts = 0;
        for &word in &self.words {
            starts += (word & !(word << 1 | before)).count_ones() as usize;
            before = word >> 63;
        }
        starts
    }

    /// The same acks as a list, if that takes at most [`PACKED_WORDS_MAX`] words.
    pub(super) fn pack(&self) -> Option<List> {
        // A list of missing runs has at most one run fewer than that of acked ones.
        if self.run_count() > PACKED_WORDS_MAX + 1 {
            return None;
        }
        let mut runs = Runs::default();
        self.runs().for_each(|run| runs.push(run));
        let mut list = List::of_runs(&runs, PACKED_WORDS_MAX)?;
        list.make_room(PACKED_ROOM_WORDS);
        Some(list)
    }
}

#[inline(never)]
fn count(word: u64) -> u32 {
    word.count_ones()
}

/// Bits of a word from that of `start` on.
#[inline]
fn mask_from(start: usize) -> u64 {
    u64::MAX << (start % 64)
}

/// Bits of a word before that of `end`, which is not 0.
#[inline]
fn mask_to(end: usize) -> u64 {
    u64::MAX >> (63 - (end - 1) % 64)
}

/// The acked runs of a bitmap.
#[derive(Debug, Clone)]
pub(super) struct BitmapRuns<'a> {
    bitmap: &'a Bitmap,
    at: usize,
}

impl Iterator for BitmapRuns<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let start = self.bitmap.first_acked(self.at);
        if start == PAGE {
            self.at = PAGE;
            return None;
        }
        self.at = self.bitmap.first_missing(start);
        Some((start, self.at))
    }
}
