//! A set of offsets without a floor: what an ack set holds above its floor, and an ack batch.
//!
//! In and out: half-open ranges of offsets. A run costs the same whatever its length and however
//! many pages it covers; only a page with two or more runs gets a form of its own: a list of runs
//! while they are few, a bitmap when they are many. A page that fills melts into the run beside it.
//!
//! P1. Neighbouring runs never touch: those that would are one.
//! P2. Every page form holds at least one offset and not all.

use std::collections::VecDeque;

use super::PAGE_OFFSETS;
use super::directory::{Directory, Place};
#[cfg(test)]
use super::stretch::page_of;
use super::stretch::{Stretch, page_start, position_in};

/// Offsets at and past this one, those of the last page of all, are never held: the end of every
/// page can then be written as a number. No log gets there.
pub(super) const OFFSET_END: u64 = u64::MAX - (u64::MAX % PAGE_OFFSETS);

/// Places remembered, one per page modulo their number: what is in flight mostly lies within so
/// many pages.
pub(super) const RECENT_PLACES: usize = 8;

/// A set of offsets. A fresh list may grow to `FRESH_WORDS` words before it becomes a bitmap.
///
/// Empty it takes no heap, and little else: most of the sets of many queues are.
#[derive(Debug, Clone, Default)]
pub(super) struct Pages<const FRESH_WORDS: usize> {
    pub(super) directory: Directory,
    /// Made with the first stretch.
    hints: Option<Box<Hints>>,
}

/// What makes inserting fast; nothing depends on it.
#[derive(Debug, Clone, Default)]
struct Hints {
    /// Where the last insert of each page went.
    recent: [Place; RECENT_PLACES],
    /// Pages whose bitmap is to be packed, oldest first.
    warm: VecDeque<u64>,
}

impl<const FRESH_WORDS: usize> Pages<FRESH_WORDS> {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.directory.is_empty()
    }

    /// Where the first stretch starts; no offset below is held. `u64::MAX` if the set is empty.
    #[inline]
    pub(super) fn start(&self) -> u64 {
        self.directory.first().map_or(u64::MAX, Stretch::start)
    }

    /// One past the last offset held; 0 if the set is empty.
    pub(super) fn end(&self) -> u64 {
        self.directory.last().map_or(0, Stretch::acked_end)
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        let stretch = self.directory.locate(offset).and_then(|place| self.directory.get(place));
        stretch.is_some_and(|stretch| stretch.contains(offset))
    }

    /// The first offset at or after `from` that is not held.
    pub(super) fn first_missing(&self, mut from: u64) -> u64 {
        let Some(place) = self.directory.locate(from) else { return from };
        for stretch in self.directory.iter_from(place) {
            from = stretch.first_missing(from);
            if from < stretch.end() {
                break;
            }
        }
        from
    }

    /// The maximal runs at and above `floor`, increasing.
    pub(super) fn runs(&self, floor: u64) -> impl Iterator<Item = (u64, u64)> {
        Self::runs_of(self.directory.iter(), floor)
    }

    /// As [`Self::runs`], found without passing what lies below.
    pub(super) fn runs_from(&self, from: u64) -> impl Iterator<Item = (u64, u64)> {
        let place = self.directory.locate(from).unwrap_or_default();
        Self::runs_of(self.directory.iter_from(place), from)
    }

    fn runs_of<'a>(
        stretches: impl Iterator<Item = &'a Stretch>,
        floor: u64,
    ) -> impl Iterator<Item = (u64, u64)> {
        let parts = stretches.flat_map(Stretch::runs);
        let parts = parts.filter(move |&(_, end)| end > floor);
        Merged { parts: parts.map(move |(start, end)| (start.max(floor), end)), next: None }
    }

    /// Forgets what ends at or before `floor`; what stands below it in a page that goes on above
    /// may stay.
    #[inline]
    pub(super) fn remove_below(&mut self, floor: u64) {
        if self.directory.first().is_some_and(|stretch| stretch.end() <= floor) {
            self.directory.remove_below(floor);
        }
    }

    /// Forgets everything at or past `end`.
    pub(super) fn remove_from(&mut self, end: u64) {
        self.directory.remove_from(end);
        let Some(place) = self.directory.last_place() else { return };
        match self.directory.get_mut(place) {
            Some(Stretch::Run { end: run_end, .. }) => *run_end = end.min(*run_end),
            Some(Stretch::List { page, list }) if end < page_start(*page + 1) => {
                let page = *page;
                match list.remove_from(position_in(page, end)) {
                    Some(edited) => self.apply_edit(place, page, edited),
                    None => self.directory.remove(place),
                }
            }
            Some(Stretch::Bits { page, bitmap }) if end < page_start(*page + 1) => {
                bitmap.remove_from(position_in(*page, end));
                if bitmap.acked() == 0 {
                    self.directory.remove(place);
                }
            }
            _ => {}
        }
    }

    /// Where the last insert of a page went that has this slot.
    #[inline]
    pub(super) fn recent(&self, slot: usize) -> Place {
        self.hints.as_ref().map_or(Place::default(), |hints| hints.recent[slot])
    }

    #[inline]
    pub(super) fn set_recent(&mut self, slot: usize, place: Place) {
        self.hints.get_or_insert_default().recent[slot] = place;
    }

    /// Pages whose bitmap is to be packed, oldest first.
    pub(super) fn warm(&mut self) -> &mut VecDeque<u64> {
        &mut self.hints.get_or_insert_default().warm
    }

    /// Forgets everything and keeps no memory.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let hints = self
            .hints
            .as_ref()
            .map_or(0, |hints| size_of::<Hints>() + hints.warm.capacity() * size_of::<u64>());
        self.directory.heap_bytes() + hints
    }
}

/// Joins runs that touch.
struct Merged<I> {
    parts: I,
    next: Option<(u64, u64)>,
}

impl<I: Iterator<Item = (u64, u64)>> Iterator for Merged<I> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let (start, mut end) = self.next.take().or_else(|| self.parts.next())?;
        for (next_start, next_end) in self.parts.by_ref() {
            if next_start > end {
                self.next = Some((next_start, next_end));
                break;
            }
            end = next_end;
        }
        Some((start, end))
    }
}

#[cfg(test)]
impl<const FRESH_WORDS: usize> Pages<FRESH_WORDS> {
    /// Asserts the invariants.
    pub(super) fn check(&self) {
        self.directory.check();
        let mut before: Option<&Stretch> = None;
        for stretch in self.directory.iter() {
            let runs: Vec<_> = stretch.runs().collect();
            assert!(!runs.is_empty(), "P2");
            if let Stretch::Run { start, end } = stretch {
                assert!(start < end && *end <= OFFSET_END);
            } else {
                assert_ne!(runs, [(stretch.start(), stretch.end())], "P2");
                assert!(runs.is_sorted_by(|one, next| one.1 < next.0));
            }
            if let Some(Stretch::Run { end, .. }) = before
                && let Stretch::Run { start, .. } = stretch
            {
                assert!(end < start, "P1");
            }
            if let Some(before) = before {
                assert!(page_of(before.end() - 1) < page_of(stretch.start()), "D2");
            }
            before = Some(stretch);
        }
    }
}
