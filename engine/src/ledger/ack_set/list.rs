//! The acks of one page of 4,096 offsets as a short list of runs.
//!
//! Positions are counted from the start of the page; ranges are half-open.
//!
//! A [`List`] is a row of 16-bit words. The upper 12 bits of a word are where a run starts, the
//! lower 4 its length less one; 15 there means that the next word is the length. The runs are those
//! of the acked offsets or those of the missing ones, whichever takes fewer words.

use super::page::{Bitmap, PACKED_WORDS_MAX, PAGE, PAGE_WORDS};

/// No list is longer; what an edit may add beyond [`PACKED_WORDS_MAX`] is the hysteresis.
const LIST_WORDS_MAX: usize = 240;
/// Runs that fit a list, those of the other polarity and one inserted included.
const LIST_RUNS_MAX: usize = LIST_WORDS_MAX + 3;
/// Code for a length that stands in a word of its own.
const LONG: u16 = 15;

const _: () = assert!(PACKED_WORDS_MAX < LIST_WORDS_MAX && LIST_WORDS_MAX * 2 < PAGE_WORDS * 8);

/// Few runs, of acked offsets or of missing ones.
#[derive(Debug, Clone)]
pub(super) struct List {
    words: Box<[u16]>,
    words_max: u16,
    missing: bool,
}

/// What a page's list has become after an edit.
#[derive(Debug)]
pub(super) enum Edited {
    /// Still a list, edited in place.
    List,
    /// One run.
    Run(usize, usize),
    /// More words than the list may have.
    Bits(Box<Bitmap>),
}

impl List {
    /// A list of two runs that do not touch, the earlier one first, which may grow to `words_max`;
    /// none if it is already longer.
    pub(super) fn of_two(runs: [(usize, usize); 2], words_max: usize) -> Option<Self> {
        let mut all = Runs::default();
        for run in runs {
            all.push(run);
        }
        Self::of_runs(&all, words_max.min(LIST_WORDS_MAX))
    }

    /// A list of these runs, which may grow to `words_max`; none if it is already longer.
    pub(super) fn of_runs(runs: &Runs, words_max: usize) -> Option<Self> {
        let missing = runs.missing_words() < runs.acked_words;
        let len = runs.missing_words().min(runs.acked_words);
        if len > words_max {
            return None;
        }
        let mut words = Vec::with_capacity(len);
        if missing {
            runs.gaps().for_each(|run| push_words(&mut words, run));
        } else {
            runs.iter().for_each(|run| push_words(&mut words, run));
        }
        let words_max = to_u16(words_max);
        Some(Self { words: words.into_boxed_slice(), words_max, missing })
    }

    /// Lets it grow by so many words from here, up to [`LIST_WORDS_MAX`].
    pub(super) fn make_room(&mut self, words: usize) {
        self.words_max = to_u16((self.words.len() + words).min(LIST_WORDS_MAX));
    }

    /// The acked runs, increasing.
    pub(super) fn runs(&self) -> ListRuns<'_> {
        ListRuns { words: &self.words, missing: self.missing, at: 0 }
    }

    /// Adds a range; on anything but [`Edited::List`] the list is to be replaced.
    pub(super) fn insert(&mut self, start: usize, end: usize) -> Edited {
        let (mut start, mut end) = (start, end);
        let mut runs = Runs::default();
        let mut rest = self.runs().peekable();
        while let Some(run) = rest.next_if(|&(_, run_end)| run_end < start) {
            runs.push(run);
        }
        while let Some((run_start, run_end)) = rest.next_if(|&(run_start, _)| run_start <= end) {
            (start, end) = (start.min(run_start), end.max(run_end));
        }
        runs.push((start, end));
        rest.for_each(|run| runs.push(run));
        self.replace(&runs)
    }

    /// Forgets everything from `start` on; none if nothing is left.
    pub(super) fn remove_from(&mut self, start: usize) -> Option<Edited> {
        let mut runs = Runs::default();
        for (run_start, run_end) in self.runs().take_while(|&(run_start, _)| run_start < start) {
            runs.push((run_start, run_end.min(start)));
        }
        (runs.len > 0).then(|| self.replace(&runs))
    }

    fn replace(&mut self, runs: &Runs) -> Edited {
        if runs.len == 1 {
            return Edited::Run(usize::from(runs.listed[0].0), runs.end);
        }
        match Self::of_runs(runs, usize::from(self.words_max)) {
            Some(list) => {
                *self = list;
                Edited::List
            }
            None => Edited::Bits(Bitmap::of_runs(runs.iter())),
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.words)
    }
}

#[inline]
fn push_words(words: &mut Vec<u16>, (start, end): (usize, usize)) {
    let (start, length) = (to_u16(start), to_u16(end - start));
    if length > LONG {
        words.extend([start << 4 | LONG, length]);
    } else {
        words.push(start << 4 | (length - 1));
    }
}

/// The acked runs of a list.
#[derive(Debug, Clone)]
pub(super) struct ListRuns<'a> {
    words: &'a [u16],
    missing: bool,
    at: usize,
}

impl ListRuns<'_> {
    /// The next run as listed, acked or missing.
    #[inline]
    fn listed(&mut self) -> Option<(usize, usize)> {
        let (&word, mut rest) = self.words.split_first()?;
        let mut length = (word & LONG) + 1;
        if length > LONG {
            (length, rest) = rest.split_first().map(|(&long, rest)| (long, rest))?;
        }
        self.words = rest;
        let start = usize::from(word >> 4);
        Some((start, start + usize::from(length)))
    }
}

impl Iterator for ListRuns<'_> {
    type Item = (usize, usize);

    #[inline]
    fn next(&mut self) -> Option<(usize, usize)> {
        if !self.missing {
            return self.listed();
        }
        while self.at < PAGE {
            let start = self.at;
            let (gap_start, gap_end) = self.listed().unwrap_or((PAGE, PAGE));
            self.at = gap_end;
            if start < gap_start {
                return Some((start, gap_start));
            }
        }
        None
    }
}

/// Runs on their way from one form to another, and what they would take as a list.
pub(super) struct Runs {
    listed: [(u16, u16); LIST_RUNS_MAX],
    len: usize,
    end: usize,
    acked_words: usize,
    missing_words: usize,
}

impl Default for Runs {
    fn default() -> Self {
        Self { listed: [(0, 0); LIST_RUNS_MAX], len: 0, end: 0, acked_words: 0, missing_words: 0 }
    }
}

impl Runs {
    #[inline]
    pub(super) fn push(&mut self, (start, end): (usize, usize)) {
        self.listed[self.len] = (to_u16(start), to_u16(end));
        self.len += 1;
        self.acked_words += words_of(end - start);
        self.missing_words += words_of(start - self.end);
        self.end = end;
    }

    #[inline]
    fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        let runs = self.listed[..self.len].iter();
        runs.map(|&(start, end)| (usize::from(start), usize::from(end)))
    }

    fn missing_words(&self) -> usize {
        self.missing_words + words_of(PAGE - self.end)
    }

    /// What is missing between, before and after the runs.
    fn gaps(&self) -> impl Iterator<Item = (usize, usize)> {
        let starts = std::iter::once(0).chain(self.iter().map(|(_, end)| end));
        let ends = self.iter().map(|(start, _)| start).chain([PAGE]);
        starts.zip(ends).filter(|(start, end)| start < end)
    }
}

/// Words that a listed run of this length takes; none if there is no run.
#[inline]
fn words_of(length: usize) -> usize {
    usize::from(length > 0) + usize::from(length > usize::from(LONG))
}

#[inline]
fn to_u16(position: usize) -> u16 {
    u16::try_from(position % (2 * PAGE)).expect("at most 8,191")
}
