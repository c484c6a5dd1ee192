//! One stretch of a set: a run of any length, or a page with several runs.

use super::PAGE_OFFSETS;
use super::list::{List, ListRuns};
use super::page::{Bitmap, BitmapRuns, PAGE};

/// A part of a set, told apart from its neighbours by pages.
#[derive(Debug, Clone)]
pub(super) enum Stretch {
    /// All acked. May start and end anywhere, but shares no page with another stretch.
    Run { start: u64, end: u64 },
    /// A page with few runs.
    List { page: u64, list: List },
    /// A page with many runs.
    Bits { page: u64, bitmap: Box<Bitmap> },
}

const _: () = assert!(size_of::<Stretch>() <= 40);

/// First offset of a page.
pub(super) const fn page_start(page: u64) -> u64 {
    page * PAGE_OFFSETS
}

/// The page of an offset.
pub(super) const fn page_of(offset: u64) -> u64 {
    offset / PAGE_OFFSETS
}

/// Where in its page an offset stands.
pub(super) const fn position_of(offset: u64) -> usize {
    (offset % PAGE_OFFSETS) as usize
}

/// Where in `page` an offset stands that is in it or bounds it: 0 before it, 4,096 past it.
pub(super) fn position_in(page: u64, offset: u64) -> usize {
    let position = offset.saturating_sub(page_start(page)).min(PAGE_OFFSETS);
    usize::try_from(position).expect("at most 4,096")
}

impl Stretch {
    /// Where it starts: the run, or the page.
    #[inline]
    pub(super) fn start(&self) -> u64 {
        match self {
            Self::Run { start, .. } => *start,
            Self::List { page, .. } | Self::Bits { page, .. } => page_start(*page),
        }
    }

    /// Where it ends: the run, or the page.
    #[inline]
    pub(super) fn end(&self) -> u64 {
        match self {
            Self::Run { end, .. } => *end,
            Self::List { page, .. } | Self::Bits { page, .. } => page_start(page + 1),
        }
    }

    /// One past its last acked offset; its start if it has none.
    pub(super) fn acked_end(&self) -> u64 {
        match self {
            Self::Run { end, .. } => *end,
            Self::List { page, list } => {
                page_start(*page) + list.runs().last().map_or(0, |(_, end)| end as u64)
            }
            Self::Bits { page, bitmap } => page_start(*page) + bitmap.end() as u64,
        }
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        match self {
            Self::Run { start, end } => (*start..*end).contains(&offset),
            Self::List { page, list } => {
                let position = position_of(offset);
                page_of(offset) == *page
                    && list.runs().any(|(start, end)| (start..end).contains(&position))
            }
            Self::Bits { page, bitmap } => {
                page_of(offset) == *page && bitmap.contains(position_of(offset))
            }
        }
    }

    /// The first offset at or after `from` that it does not hold.
    pub(super) fn first_missing(&self, from: u64) -> u64 {
        if from < self.start() || from >= self.end() {
            return from;
        }
        match self {
            Self::Run { end, .. } => *end,
            Self::List { page, list } => {
                let position = position_of(from);
                let run = list.runs().find(|&(_, end)| position < end);
                match run {
                    Some((start, end)) if start <= position => page_start(*page) + end as u64,
                    _ => from,
                }
            }
            Self::Bits { page, bitmap } => {
                page_start(*page) + bitmap.first_missing(position_of(from)) as u64
            }
        }
    }

    /// Its runs, increasing.
    pub(super) fn runs(&self) -> StretchRuns<'_> {
        match self {
            Self::Run { start, end } => StretchRuns::Run(Some((*start, *end))),
            Self::List { page, list } => StretchRuns::List(page_start(*page), list.runs()),
            Self::Bits { page, bitmap } => StretchRuns::Bits(page_start(*page), bitmap.runs()),
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Run { .. } => 0,
            Self::List { list, .. } => list.heap_bytes(),
            Self::Bits { .. } => size_of::<Bitmap>(),
        }
    }
}

/// The runs of a stretch.
#[derive(Debug, Clone)]
pub(super) enum StretchRuns<'a> {
    Run(Option<(u64, u64)>),
    List(u64, ListRuns<'a>),
    Bits(u64, BitmapRuns<'a>),
}

impl Iterator for StretchRuns<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let (base, (start, end)) = match self {
            Self::Run(run) => return run.take(),
            Self::List(base, runs) => (*base, runs.next()?),
            Self::Bits(base, runs) => (*base, runs.next()?),
        };
        debug_assert!(start < end && end <= PAGE);
        Some((base + start as u64, base + end as u64))
    }
}
