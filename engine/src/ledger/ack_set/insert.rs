//! Inserting into a set of offsets: which form a page has, and when it changes.
//!
//! Bitmaps are fast to fill, lists are small. A list becomes a bitmap when it outgrows
//! `FRESH_WORDS`; the pages for which that happened wait in a row, and by the time that
//! [`WARM_PAGES`] others have followed, or again when the page has filled up but for a few, the
//! bitmap is packed into a list if that is smaller.

use super::PAGE_OFFSETS;
use super::directory::Place;
use super::list::{Edited, List};
use super::page::{Bitmap, PACKED_WORDS_MAX, PAGE, PAGE_WORDS};
use super::pages::{OFFSET_END, Pages, RECENT_PLACES};
use super::stretch::{Stretch, page_of, page_start, position_in};

/// Bitmaps that stay unpacked because they were made last: 128 Ki offsets, twice the most that a
/// queue has in flight.
const WARM_PAGES: usize = 32;

/// A bitmap in which so many are acked is looked at again: a list of the missing may be smaller.
const NEARLY_FULL: usize = PAGE - PACKED_WORDS_MAX;

/// Whether a run can go somewhere as it is.
enum Free {
    /// After this place.
    After(Option<Place>),
    /// Other stretches have some of its pages.
    No,
}

impl<const FRESH_WORDS: usize> Pages<FRESH_WORDS> {
    /// Adds a range. What is at or past [`OFFSET_END`] is left out.
    #[inline]
    pub(super) fn insert(&mut self, start: u64, end: u64) {
        debug_assert!(start < end);
        let recent = self.recent(slot_of(page_of(start)));
        match self.directory.get_mut(recent) {
            Some(Stretch::Bits { page, bitmap })
                if page_of(start) == *page && page_of(end - 1) == *page =>
            {
                let before = bitmap.acked();
                let base = page_start(*page);
                bitmap.insert(position(start - base), position(end - base));
                let (page, after) = (*page, bitmap.acked());
                if before < NEARLY_FULL && after >= NEARLY_FULL || after == PAGE {
                    self.filled(recent, page, after);
                }
            }
            Some(Stretch::Run { start: run_start, end: run_end })
                if *run_start <= start && start <= *run_end =>
            {
                if end > *run_end {
                    self.extend(recent, start, end);
                }
            }
            _ => self.insert_elsewhere(start, end),
        }
    }

    /// Extends the run at `place`, if nothing else is near.
    #[inline(never)]
    fn extend(&mut self, place: Place, start: u64, end: u64) {
        // A page that starts before `end` is shared; so is one in which `end` stands.
        let free = page_start(page_of(self.directory.start_after(Some(place))));
        match self.directory.get_mut(place) {
            Some(Stretch::Run { end: run_end, .. }) if end < free && end <= OFFSET_END => {
                *run_end = end;
            }
            _ => self.insert_elsewhere(start, end),
        }
    }

    fn insert_elsewhere(&mut self, start: u64, end: u64) {
        let end = end.min(OFFSET_END);
        if start >= end {
            return;
        }
        let (first, last) = (page_of(start), page_of(end - 1));
        if first == last && end - start < PAGE as u64 {
            self.insert_in_page(first, start, end);
        } else if let Free::After(before) = self.free_after(start, end) {
            self.put_run_after(before, start, end);
        } else {
            self.insert_across(start, end);
        }
    }

    /// The place after which a run can go, if no page of the range has a stretch, but for a run
    /// that touches its start.
    #[inline]
    fn free_after(&self, start: u64, end: u64) -> Free {
        let place = self.directory.locate(start);
        let before = match place.and_then(|place| self.directory.get(place)) {
            None => true,
            Some(Stretch::Run { end: run_end, .. }) if *run_end >= start => true,
            Some(stretch) => stretch.end() <= page_start(page_of(start)),
        };
        let behind = page_start(page_of(end - 1) + 1);
        if before && self.directory.start_after(place) >= behind {
            Free::After(place)
        } else {
            Free::No
        }
    }

    /// Adds a range of several pages, or of a whole one: its whole pages, then what is left at
    /// both sides.
    fn insert_across(&mut self, start: u64, end: u64) {
        let whole_start = page_start(start.div_ceil(PAGE as u64));
        let whole_end = page_start(page_of(end));
        if whole_start < whole_end {
            let run_end = self.directory.remove_between(whole_start, whole_end);
            self.put_run(whole_start, run_end.map_or(whole_end, |end| end.max(whole_end)));
        }
        if start < whole_start {
            self.insert_in_page(page_of(start), start, whole_start);
        }
        if whole_end < end {
            self.insert_in_page(page_of(whole_end), whole_end, end);
        }
    }

    /// Adds a range that lies in one page.
    fn insert_in_page(&mut self, page: u64, start: u64, end: u64) {
        let Some((place, stretch)) = self.stretch_of(page) else {
            return self.put_run(start, end);
        };
        let (from, to) = (position_in(page, start), position_in(page, end));
        match stretch {
            Stretch::Run { start: run_start, end: run_end } => {
                let (run_start, run_end) = (*run_start, *run_end);
                if start <= run_end && run_start <= end {
                    self.put_run(start.min(run_start), end.max(run_end));
                } else {
                    self.split_run(place, page, (from, to));
                }
            }
            Stretch::List { list, .. } => {
                let edited = list.insert(from, to);
                self.apply_edit(place, page, edited);
            }
            Stretch::Bits { bitmap, .. } => {
                let before = bitmap.acked();
                bitmap.insert(from, to);
                let after = bitmap.acked();
                self.note(page, place);
                if before < NEARLY_FULL && after >= NEARLY_FULL || after == PAGE {
                    self.filled(place, page, after);
                }
            }
        }
    }

    /// The stretch that holds something of `page`.
    fn stretch_of(&mut self, page: u64) -> Option<(Place, &mut Stretch)> {
        let place = self.directory.locate(page_start(page + 1) - 1)?;
        let stretch = self.directory.get_mut(place)?;
        (stretch.end() > page_start(page)).then_some((place, stretch))
    }

    /// Puts a run where no other stretch is, apart from runs that it touches or covers.
    fn put_run(&mut self, start: u64, end: u64) {
        self.put_run_after(self.directory.locate(start), start, end);
    }

    /// As [`Self::put_run`], with the last stretch that starts at or before `start`.
    fn put_run_after(&mut self, before: Option<Place>, start: u64, mut end: u64) {
        let mut place = match self.run_to_extend(before, start, end) {
            Some(place) => place,
            None => self.directory.insert_after(before, Stretch::Run { start, end }),
        };
        loop {
            if let Some(Stretch::Run { end: run_end, .. }) = self.directory.get_mut(place) {
                end = end.max(*run_end);
                *run_end = end;
            }
            let next = self.directory.after(Some(place));
            match next.and_then(|next| Some((next, self.directory.get(next)?))) {
                Some((next, Stretch::Run { start: next_start, end: next_end }))
                    if *next_start <= end =>
                {
                    end = end.max(*next_end);
                    self.directory.remove(next);
                    place = self.directory.locate(start).unwrap_or_default();
                }
                _ => break,
            }
        }
        self.note(page_of(start), place);
        self.note(page_of(end), place);
    }

    /// The run that the range touches at its start, else the next one, made to start with it.
    fn run_to_extend(&mut self, before: Option<Place>, start: u64, end: u64) -> Option<Place> {
        if let Some(place) = before
            && let Some(Stretch::Run { end: run_end, .. }) = self.directory.get(place)
            && *run_end >= start
        {
            return before;
        }
        let next = self.directory.after(before)?;
        match self.directory.get_mut(next)? {
            Stretch::Run { start: run_start, .. } if *run_start <= end => {
                *run_start = start;
                Some(next)
            }
            _ => None,
        }
    }

    #[inline]
    fn note(&mut self, page: u64, place: Place) {
        self.set_recent(slot_of(page), place);
    }

    /// Gives `page`, in which a run starts or ends that `added` does not touch, its own form.
    fn split_run(&mut self, place: Place, page: u64, added: (usize, usize)) {
        let inside = self.cut_run(place, page);
        let runs = if inside < added { [inside, added] } else { [added, inside] };
        if let Some(list) = List::of_two(runs, FRESH_WORDS) {
            self.put_page(page, Stretch::List { page, list });
        } else {
            let bitmap = Bitmap::of_runs(runs.into_iter());
            self.put_page(page, Stretch::Bits { page, bitmap });
            self.pack_later(page);
        }
    }

    /// Takes what a run has in `page` out of it; the page is then free.
    fn cut_run(&mut self, place: Place, page: u64) -> (usize, usize) {
        let Some(&Stretch::Run { start, end }) = self.directory.get(place) else { return (0, 0) };
        let (page_from, page_to) = (page_start(page), page_start(page + 1));
        self.directory.remove(place);
        for (start, end) in [(start, end.min(page_from)), (start.max(page_to), end)] {
            if start < end {
                self.directory
                    .insert_after(self.directory.locate(start), Stretch::Run { start, end });
            }
        }
        (position_in(page, start), position_in(page, end))
    }

    fn put_page(&mut self, page: u64, stretch: Stretch) -> Place {
        let before = self.directory.locate(page_start(page));
        let place = self.directory.insert_after(before, stretch);
        self.note(page, place);
        place
    }

    pub(super) fn apply_edit(&mut self, place: Place, page: u64, edited: Edited) {
        match edited {
            Edited::List => self.note(page, place),
            Edited::Run(from, to) => {
                self.directory.remove(place);
                self.put_run(page_start(page) + from as u64, page_start(page) + to as u64);
            }
            Edited::Bits(bitmap) => {
                if let Some(stretch) = self.directory.get_mut(place) {
                    *stretch = Stretch::Bits { page, bitmap };
                }
                self.note(page, place);
                self.pack_later(page);
            }
        }
    }

    /// A bitmap has become full, or nearly so.
    #[cold]
    fn filled(&mut self, place: Place, page: u64, acked: usize) {
        if acked == PAGE {
            self.directory.remove(place);
            self.put_run(page_start(page), page_start(page + 1));
        } else if !self.warm().contains(&page) {
            self.pack_later(page);
        }
    }

    /// Notes a page with a bitmap, to be packed later, and packs the one noted longest ago.
    fn pack_later(&mut self, page: u64) {
        let warm = self.warm();
        warm.push_back(page);
        if warm.len() <= WARM_PAGES {
            return;
        }
        let Some(oldest) = warm.pop_front() else { return };
        if let Some((place, Stretch::Bits { page, bitmap })) = self.stretch_of(oldest)
            && *page == oldest
        {
            let packed = bitmap.pack();
            self.settle(place, oldest, packed);
        }
    }

    /// Replaces a bitmap by the list that it packs into.
    fn settle(&mut self, place: Place, page: u64, packed: Option<List>) {
        let Some(list) = packed else { return };
        let mut runs = list.runs();
        let only = runs.next().filter(|_| runs.next().is_none());
        if let Some((from, to)) = only {
            self.directory.remove(place);
            self.put_run(page_start(page) + from as u64, page_start(page) + to as u64);
        } else if let Some(stretch) = self.directory.get_mut(place) {
            *stretch = Stretch::List { page, list };
        }
    }

    /// Adds what a bitmap of `page` says.
    pub(super) fn insert_words(&mut self, page: u64, words: &[u64; PAGE_WORDS]) {
        let mut bitmap = Bitmap::of_words(words);
        if bitmap.acked() == 0 || page_start(page) >= OFFSET_END {
            return;
        }
        match self.stretch_of(page) {
            None => {}
            Some((place, Stretch::Run { .. })) => {
                let (from, to) = self.cut_run(place, page);
                bitmap.insert(from, to);
            }
            Some((place, Stretch::List { list, .. })) => {
                list.runs().for_each(|(from, to)| bitmap.insert(from, to));
                self.directory.remove(place);
            }
            Some((place, Stretch::Bits { bitmap: old, .. })) => {
                bitmap.insert_words(old.words());
                self.directory.remove(place);
            }
        }
        if bitmap.acked() == PAGE {
            return self.put_run(page_start(page), page_start(page + 1));
        }
        let packed = bitmap.pack();
        let place = self.put_page(page, Stretch::Bits { page, bitmap });
        self.settle(place, page, packed);
    }
}

#[inline]
fn slot_of(page: u64) -> usize {
    usize::try_from(page).map_or(0, |page| page % RECENT_PLACES)
}

/// A distance within a page.
#[inline]
fn position(distance: u64) -> usize {
    usize::try_from(distance % (2 * PAGE_OFFSETS)).expect("at most 8,191")
}
