//! Counting what a queue got in a segment: from route summaries where these do, else one by one.
//!
//! Pure reading of footers and indexes; no lock of the ledger is needed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use fanlog_segment_format::{GroupId, Offset, RouteId, checkpoint::MemberEntry};

use super::queue_ledger::{Amount, QueueLedger, ranges_of};
use crate::{
    Result,
    log::{Log, index::BatchIndex, sealed::SealedReader, segment::Segment, view::View},
};

/// Offset ranges, half-open, increasing, that do not touch.
pub(crate) type Ranges = Vec<(u64, u64)>;

/// Where the messages of a segment are listed: its footer, or the index of one of its batches.
pub(crate) enum Listing {
    Sealed(Arc<SealedReader>),
    Batch(Arc<BatchIndex>),
}

impl Listing {
    /// How many routes have messages here.
    pub(crate) fn routes(&self) -> u32 {
        match self {
            Self::Sealed(reader) => reader.footer().routes(),
            Self::Batch(index) => u32::try_from(index.routes().len()).unwrap_or(u32::MAX),
        }
    }

    /// The `at`-th route, and how much of it there is.
    pub(crate) fn route(&self, at: u32) -> (RouteId, Amount) {
        match self {
            Self::Sealed(reader) => {
                let summary = reader.footer().route(at);
                let messages = u64::from(summary.messages);
                (summary.route, Amount { messages, bytes: summary.bytes })
            }
            Self::Batch(index) => {
                let count = index.routes()[at as usize];
                (count.route, Amount { messages: count.messages.into(), bytes: count.bytes })
            }
        }
    }

    /// First and end of the offsets that it stands for.
    pub(crate) fn offsets(&self) -> (u64, u64) {
        match self {
            Self::Sealed(reader) => {
                (reader.segment.first_offset().0, reader.footer().end_offset().0)
            }
            Self::Batch(index) => (index.first_offset.0, index.end_offset().0),
        }
    }

    /// Number and offset of the `nth` message of the `at`-th route.
    pub(crate) fn offset_of(&self, at: u32, nth: u32) -> (u32, u64) {
        match self {
            Self::Sealed(reader) => {
                let footer = reader.footer();
                let number = footer.route_message(at, nth);
                (number, footer.offset_of(number).0)
            }
            Self::Batch(index) => {
                let number = index.route_message(at, nth);
                (number, index.first_offset.0 + u64::from(number))
            }
        }
    }

    /// The first of the `at`-th route's `messages` messages at or past `offset`.
    pub(crate) fn lower_bound(&self, at: u32, messages: u32, offset: u64) -> u32 {
        let (mut low, mut high) = (0, messages);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.offset_of(at, middle).1 < offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// What of the `at`-th route, which has these groups, went to a queue with these memberships.
    pub(crate) fn routed(
        &self,
        at: u32,
        members: &[MemberEntry],
        groups: &[fanlog_segment_format::GroupId],
        before: Offset,
    ) -> Amount {
        self.within(at, &ranges(members, groups, before.0))
    }

    /// What of the `at`-th route lies in these ranges.
    pub(crate) fn within(&self, at: u32, ranges: &Ranges) -> Amount {
        let (first, end) = self.offsets();
        let (_, all) = self.route(at);
        if ranges.iter().any(|range| range.0 <= first && end <= range.1) {
            return all;
        }
        if ranges.is_empty() {
            return Amount::default();
        }
        one_by_one(self, at, all, ranges, |_| true)
    }

    fn payload_bytes(&self, number: u32) -> u64 {
        match self {
            Self::Sealed(reader) => View::Sealed(Arc::clone(reader)).payload_bytes(number),
            Self::Batch(index) => index.payload_bytes_of(number),
        }
    }
}

/// The listings of a segment; none if it was taken out of the log.
pub(crate) fn listings(log: &Log, segment: &Arc<Segment>) -> Result<Vec<Listing>> {
    if !segment.is_sealed() {
        let batches = segment.batches();
        // Sealed meanwhile: its batches may be gone already.
        if !segment.is_sealed() {
            return Ok(batches.into_iter().map(Listing::Batch).collect());
        }
    }
    Ok(log.reader(segment)?.map(Listing::Sealed).into_iter().collect())
}

/// A route in a segment: where it is listed, each with its place in the list of the listing's routes.
pub(crate) type Places<'a> = Vec<(&'a Listing, u32)>;

/// The routes of these listings, each once.
pub(crate) fn routes_in(listings: &[Listing]) -> BTreeMap<RouteId, Places<'_>> {
    let mut routes: BTreeMap<RouteId, Places<'_>> = BTreeMap::new();
    for listing in listings {
        for at in 0..listing.routes() {
            routes.entry(listing.route(at).0).or_default().push((listing, at));
        }
    }
    routes
}

/// All that is listed of a route, and the offsets that its listings stand for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whole {
    pub(crate) amount: Amount,
    pub(crate) first: u64,
    pub(crate) end: u64,
}

impl Whole {
    pub(crate) fn of(places: &Places<'_>) -> Self {
        let mut whole = Self { amount: Amount::default(), first: u64::MAX, end: 0 };
        for (listing, at) in places {
            let (first, end) = listing.offsets();
            whole.amount = whole.amount.plus(listing.route(*at).1);
            (whole.first, whole.end) = (whole.first.min(first), whole.end.max(end));
        }
        whole
    }
}

/// What a queue got of something, and what of that it has not acked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) routed: Amount,
    pub(crate) left: Amount,
}

impl Got {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { routed: self.routed.plus(other.routed), left: self.left.plus(other.left) }
    }

    /// All of an amount, of which all is acked, or nothing.
    fn all(routed: Amount, acked: bool) -> Self {
        Self { routed, left: if acked { Amount::default() } else { routed } }
    }
}

/// What a queue got of a route with these groups, and has not acked. Messages are looked at one by one
/// only where some are acked, or went to the queue, and others not. Adds to `looks` what was looked at.
pub(crate) fn got(
    state: &QueueLedger,
    groups: &[GroupId],
    places: &Places<'_>,
    whole: Whole,
    looks: &mut u64,
) -> Got {
    *looks += 1;
    let ranges = ranges(&state.members, groups, u64::MAX);
    if let Some(got) = got_at_once(state, &ranges, whole) {
        return got;
    }
    let mut sum = Got::default();
    for (listing, at) in places {
        *looks += 1;
        let ((first, end), (_, amount)) = (listing.offsets(), listing.route(*at));
        let part = got_at_once(state, &ranges, Whole { amount, first, end });
        sum = sum.plus(part.unwrap_or_else(|| {
            *looks += amount.messages;
            let unacked = |offset| !state.acks.contains(offset);
            Got {
                routed: listing.within(*at, &ranges),
                left: one_by_one(listing, *at, amount, &ranges, unacked),
            }
        }));
    }
    sum
}

/// The same, where all of it went to the queue, or nothing, and all is acked, or nothing.
fn got_at_once(state: &QueueLedger, ranges: &Ranges, whole: Whole) -> Option<Got> {
    let Whole { amount, first, end } = whole;
    if !ranges.iter().any(|range| range.0 < end && first < range.1) {
        return Some(Got::default());
    }
    if !ranges.iter().any(|range| range.0 <= first && end <= range.1) {
        return None;
    }
    let mut missing = state.acks.missing(first, end);
    match missing.next() {
        None => Some(Got::all(amount, true)),
        Some(all) if all == (first, end) => Some(Got::all(amount, false)),
        Some(_) => None,
    }
}

/// Where, before `before`, a message of a route with these groups went to the queue.
pub(crate) fn ranges(members: &[MemberEntry], groups: &[GroupId], before: u64) -> Ranges {
    let all = ranges_of(members, groups).into_iter().map(|(from, to)| (from.0, to.0.min(before)));
    all.filter(|range| range.0 < range.1).collect()
}

/// What of the segment's file went, before `before`, to a queue with these memberships.
///
/// # Errors
///
/// [`Error::Io`](crate::Error::Io) or [`Error::Corrupt`](crate::Error::Corrupt) if its footer can't
/// be read.
pub(crate) fn routed(
    log: &Log,
    segment: &Arc<Segment>,
    members: &[MemberEntry],
    before: Offset,
) -> Result<Amount> {
    let mut sum = Amount::default();
    for listing in listings(log, segment)? {
        for at in 0..listing.routes() {
            let Some(groups) = log.route_groups(listing.route(at).0) else { continue };
            sum = sum.plus(listing.routed(at, members, &groups, before));
        }
    }
    Ok(sum)
}

/// The same of those messages alone of which `counts` says so, given their offsets.
///
/// # Errors
///
/// As [`routed`].
pub(crate) fn routed_if(
    log: &Log,
    segment: &Arc<Segment>,
    members: &[MemberEntry],
    counts: impl Fn(u64) -> bool + Copy,
) -> Result<Amount> {
    let mut sum = Amount::default();
    for listing in listings(log, segment)? {
        for at in 0..listing.routes() {
            let (route, all) = listing.route(at);
            let Some(groups) = log.route_groups(route) else { continue };
            let ranges = ranges(members, &groups, u64::MAX);
            if !ranges.is_empty() {
                sum = sum.plus(one_by_one(&listing, at, all, &ranges, counts));
            }
        }
    }
    Ok(sum)
}

/// A segment's listings by group: what a queue got there is found without a look at the routes of others,
/// of which there may be a hundred thousand.
pub(crate) struct ByGroup {
    listings: Vec<Listing>,
    /// Listings, and places in the lists of their routes.
    places: HashMap<GroupId, Vec<(u32, u32)>>,
}

impl ByGroup {
    /// # Errors
    ///
    /// As [`routed`].
    pub(crate) fn of(log: &Log, segment: &Arc<Segment>) -> Result<Self> {
        let listings = listings(log, segment)?;
        let mut places: HashMap<GroupId, Vec<(u32, u32)>> = HashMap::new();
        for (number, listing) in (0..).zip(&listings) {
            for at in 0..listing.routes() {
                let Some(groups) = log.route_groups(listing.route(at).0) else { continue };
                for &group in &*groups {
                    places.entry(group).or_default().push((number, at));
                }
            }
        }
        Ok(Self { listings, places })
    }

    /// The routes of which a queue with these memberships may have got something, each once.
    fn of_members(&self, members: &[MemberEntry]) -> impl Iterator<Item = (&Listing, u32)> {
        let groups = members.iter().filter_map(|member| self.places.get(&member.group));
        let mut places: Vec<(u32, u32)> = groups.flatten().copied().collect();
        places.sort_unstable();
        places.dedup();
        places.into_iter().filter_map(|(number, at)| {
            self.listings.get(number as usize).map(|listing| (listing, at))
        })
    }

    /// What went, before `before`, to a queue with these memberships.
    pub(crate) fn routed(&self, log: &Log, members: &[MemberEntry], before: Offset) -> Amount {
        let parts = self.of_members(members).filter_map(|(listing, at)| {
            let groups = log.route_groups(listing.route(at).0)?;
            Some(listing.routed(at, members, &groups, before))
        });
        parts.fold(Amount::default(), Amount::plus)
    }

    /// The same of those messages alone of which `counts` says so, given their offsets.
    pub(crate) fn routed_if(
        &self,
        log: &Log,
        members: &[MemberEntry],
        counts: impl Fn(u64) -> bool + Copy,
    ) -> Amount {
        let parts = self.of_members(members).filter_map(|(listing, at)| {
            let (route, all) = listing.route(at);
            let ranges = ranges(members, &log.route_groups(route)?, u64::MAX);
            (!ranges.is_empty()).then(|| one_by_one(listing, at, all, &ranges, counts))
        });
        parts.fold(Amount::default(), Amount::plus)
    }
}

fn one_by_one(
    listing: &Listing,
    at: u32,
    all: Amount,
    ranges: &Ranges,
    counts: impl Fn(u64) -> bool,
) -> Amount {
    let mut sum = Amount::default();
    for nth in 0..u32::try_from(all.messages).unwrap_or(u32::MAX) {
        let (number, offset) = listing.offset_of(at, nth);
        let mine = ranges.iter().any(|range| range.0 <= offset && offset < range.1);
        if mine && counts(offset) {
            sum = sum.plus(Amount { messages: 1, bytes: listing.payload_bytes(number) });
        }
    }
    sum
}

/// The routes that a segment has messages of.
///
/// # Errors
///
/// As [`routed`].
pub(crate) fn routes(log: &Log, segment: &Arc<Segment>) -> Result<Vec<RouteId>> {
    let mut routes = Vec::new();
    for listing in listings(log, segment)? {
        routes.extend((0..listing.routes()).map(|at| listing.route(at).0));
    }
    routes.sort_unstable();
    routes.dedup();
    Ok(routes)
}
