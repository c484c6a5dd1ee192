//! Who keeps which segment from being given back.
//!
//! In: the ledger's counts, the queues' ack states, footers and indexes. Out: per segment its
//! queues, with what each has not acked there. Looks only; holds each lock for moments.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fanlog_segment_format::{Offset, QueueId, RouteId};

use crate::{
    Result,
    core::Core,
    inspect,
    ledger::{
        count::{self, Listing, Places, Whole, routes_in},
        live::SegmentCount,
        queue_ledger::{Amount, How},
    },
    log::{Sought, segment::Segment},
    queue::Queue,
};

/// The oldest message that somebody has not acked is looked for at most this often.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// What keeps the disk: see [`Engine::pins`](crate::Engine::pins).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Pins {
    /// Segments in which something is not acked; those with the most of it first.
    pub segments: Vec<SegmentPins>,
    /// Further segments, for which there was no room in the list.
    pub segments_left_off: u64,
}

/// A segment, and who keeps it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SegmentPins {
    /// Its file.
    pub path: PathBuf,
    /// Its number.
    pub number: u64,
    /// How often it was rewritten.
    pub generation: u32,
    /// `"active"`, `"full"` (no footer yet) or `"sealed"`.
    pub state: &'static str,
    /// Size of the file, in bytes.
    pub file_bytes: u64,
    /// Messages that are not durably acked, counted once for each queue that they were routed to.
    /// `None` where that is not known exactly: such a segment is kept until it is counted anew.
    pub outstanding_messages: Option<u64>,
    /// Their payload bytes.
    pub outstanding_bytes: Option<u64>,
    /// The queues that have not acked all of it; those with the most bytes first.
    pub queues: Vec<Pin>,
    /// Further queues, for which there was no room in the list.
    pub queues_left_off: u64,
}

/// A queue that keeps a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pin {
    /// The queue; of a history, the exchange that keeps it.
    pub queue: String,
    /// It is the history of an exchange.
    pub history: bool,
    /// Messages in the segment that it has not durably acked.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// The first of them.
    pub oldest_offset: Offset,
    /// How long ago that one was published; `None` if its bytes are damaged.
    pub oldest_age: Option<Duration>,
    /// The tag of the consumer that has that one; `None` if it is ready.
    pub consumer: Option<String>,
}

/// The oldest message that somebody has not acked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Oldest {
    offset: Offset,
    published_us: Option<u64>,
    /// Size of the file that it lies in.
    pub(crate) file_bytes: u64,
}

impl Oldest {
    pub(crate) fn age(&self, core: &Core) -> Option<Duration> {
        self.published_us.map(|published| age(core, published))
    }
}

/// What was found when last looked, and after which batch that was.
#[derive(Debug, Default)]
pub(crate) struct OldestSeen(Mutex<Option<Seen>>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Duration,
    batch: u64,
    oldest: Option<Oldest>,
    /// Everything below is acked, and acks are taken back by rewinds alone: how many there were.
    from: Offset,
    rewinds: u64,
}

impl OldestSeen {
    /// The oldest message that is not acked, as it was at most a second ago.
    pub(crate) fn get(&self, core: &Core) -> Option<Oldest> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, batch) = (core.clock.now(), core.ledger().head.next_batch.0);
        if let Some(seen) = *seen
            && (seen.batch == batch || now < seen.at + LOOK_AFTER)
        {
            return seen.oldest;
        }
        let rewinds = core.ledger().rewinds();
        let from = seen.filter(|seen| seen.rewinds == rewinds);
        let from = from.map_or(Offset(0), |seen| seen.from);
        let end = core.log.visible();
        let (oldest, from) = match find_oldest(core, from) {
            Ok(Some(oldest)) => (Some(oldest), oldest.offset),
            Ok(None) => (None, end),
            // What can't be read now is looked for again.
            Err(_) => (None, from),
        };
        *seen = Some(Seen { at: now, batch, oldest, from, rewinds });
        oldest
    }
}

fn find_oldest(core: &Core, from: Offset) -> Result<Option<Oldest>> {
    let counts = counts(core);
    for segment in core.log.segments() {
        let passed = segment.end_offset().is_some_and(|end| end <= from);
        if passed || counts.get(&segment.id().0).is_some_and(SegmentCount::is_dead) {
            continue;
        }
        for listing in count::listings(&core.log, &segment)? {
            if listing.offsets().1 <= from.0 {
                continue;
            }
            if let Some(offset) = first_unacked(core, &listing, from) {
                let published_us = published_us(core, offset)?;
                let file_bytes = segment.header.file_bytes;
                return Ok(Some(Oldest { offset, published_us, file_bytes }));
            }
        }
    }
    Ok(None)
}

/// The first message listed, at or past `from`, that a queue has not acked. What a history keeps waits
/// for nobody.
fn first_unacked(core: &Core, listing: &Listing, from: Offset) -> Option<Offset> {
    let mut first: Option<u64> = None;
    for at in 0..listing.routes() {
        let (route, amount) = listing.route(at);
        let Some(groups) = core.log.route_groups(route) else { continue };
        let queues = core.ledger().holders_of(&groups);
        for queue in queues.into_iter().filter(|queue| !queue.is_history()) {
            let missing = queue.ledger().acks.first_missing(from.0);
            if first.is_some_and(|first| first <= missing) {
                continue;
            }
            let found = own_unacked(listing, at, amount, &queue, &groups, missing);
            first = [first, found].into_iter().flatten().min();
        }
    }
    first.map(Offset)
}

/// The first message of the `at`-th route, at or past `from`, that the queue got and has not acked.
fn own_unacked(
    listing: &Listing,
    at: u32,
    amount: Amount,
    queue: &Queue,
    groups: &[fanlog_segment_format::GroupId],
    from: u64,
) -> Option<u64> {
    let messages = u32::try_from(amount.messages).unwrap_or(u32::MAX);
    let state = queue.ledger();
    let ranges = count::ranges(&state.members, groups, u64::MAX);
    let mut offset = from;
    loop {
        let nth = listing.lower_bound(at, messages, offset);
        if nth == messages {
            return None;
        }
        let (_, found) = listing.offset_of(at, nth);
        let range = ranges.iter().find(|range| found < range.1)?;
        offset = if found < range.0 {
            range.0
        } else if state.acks.contains(found) {
            state.acks.first_missing(found)
        } else {
            return Some(found);
        };
    }
}

/// Who keeps which segment, at most so many of each.
pub(crate) fn pins(core: &Core, segments_max: usize, queues_max: usize) -> Result<Pins> {
    drop(core.keeper.settle(core));
    let counts = counts(core);
    let mut kept: Vec<(Arc<Segment>, Option<SegmentCount>)> = Vec::new();
    for segment in core.log.segments() {
        let count = counts.get(&segment.id().0).filter(|count| !count.uncounted).copied();
        if count.is_none_or(|count| !count.is_dead()) {
            kept.push((segment, count));
        }
    }
    // What is not counted is kept for no reason that is known: it comes first.
    let bytes = |count: Option<SegmentCount>| count.map_or(u64::MAX, |one| one.outstanding.bytes);
    kept.sort_by_key(|(segment, count)| (std::cmp::Reverse(bytes(*count)), segment.id()));
    let left_off = kept.len().saturating_sub(segments_max);
    kept.truncate(segments_max);
    let mut segments = Vec::new();
    for (segment, count) in kept {
        segments.push(of_segment(core, &segment, count, queues_max)?);
    }
    Ok(Pins { segments, segments_left_off: left_off as u64 })
}

fn counts(core: &Core) -> HashMap<u64, SegmentCount> {
    core.ledger().counts().iter().map(|count| (count.id.0, *count)).collect()
}

fn of_segment(
    core: &Core,
    segment: &Arc<Segment>,
    count: Option<SegmentCount>,
    queues_max: usize,
) -> Result<SegmentPins> {
    let (shares, left_off) = shares(core, segment, count.is_some(), queues_max)?;
    let mut queues = Vec::new();
    for share in shares {
        queues.push(pin(core, share)?);
    }
    Ok(SegmentPins {
        path: core.storage.path(&segment.name),
        number: segment.id().0,
        generation: segment.header.generation,
        state: inspect::state_of(segment),
        file_bytes: segment.header.file_bytes,
        outstanding_messages: count.map(|count| count.outstanding.messages),
        outstanding_bytes: count.map(|count| count.outstanding.bytes),
        queues,
        queues_left_off: left_off,
    })
}

/// What a queue has not acked of a segment.
struct Share {
    queue: Arc<Queue>,
    left: Amount,
    oldest: Offset,
}

/// Those who have most left of a segment, at most so many, and how many others have anything.
///
/// Of very many queues only sums are made: for those alone that are told it is looked which message
/// is their oldest.
fn shares(
    core: &Core,
    segment: &Arc<Segment>,
    counted: bool,
    queues_max: usize,
) -> Result<(Vec<Share>, u64)> {
    let listings = count::listings(&core.log, segment)?;
    let routes = routes_in(&listings);
    let mut shares = Vec::new();
    for (queue, routed) in routed_to(core, segment, &routes) {
        let left = left_of(core, segment, &queue, routed, counted)?;
        if left.messages > 0 {
            shares.push((queue, left));
        }
    }
    let most_first = |a: &(Arc<Queue>, Amount), b: &(Arc<Queue>, Amount)| {
        (b.1.bytes, &a.0.name).cmp(&(a.1.bytes, &b.0.name))
    };
    let mut others = 0;
    if queues_max < shares.len() {
        others = shares.len() - queues_max;
        shares.select_nth_unstable_by(queues_max, most_first);
        shares.truncate(queues_max);
    }
    shares.sort_by(most_first);
    let shares = shares.into_iter().filter_map(|(queue, left)| {
        let oldest = oldest_of(core, &routes, &queue)?;
        Some(Share { queue, left, oldest })
    });
    Ok((shares.collect(), others as u64))
}

/// What each queue that is not past the segment got of it.
fn routed_to(
    core: &Core,
    segment: &Arc<Segment>,
    routes: &BTreeMap<RouteId, Places<'_>>,
) -> Vec<(Arc<Queue>, Amount)> {
    let mut sums: HashMap<QueueId, (Arc<Queue>, Amount)> = HashMap::new();
    for (&route, places) in routes {
        let Some(groups) = core.log.route_groups(route) else { continue };
        let Whole { amount: whole, first, end } = Whole::of(places);
        let queues = core.ledger().holders_of(&groups);
        for queue in queues {
            let ranges = {
                let state = queue.ledger();
                if segment.end_offset().is_some_and(|end| end <= state.floor()) {
                    continue;
                }
                count::ranges(&state.members, &groups, u64::MAX)
            };
            let got = if ranges.iter().any(|range| range.0 <= first && end <= range.1) {
                whole
            } else {
                let parts = places.iter().map(|(listing, at)| listing.within(*at, &ranges));
                parts.fold(Amount::default(), Amount::plus)
            };
            let sum = sums.entry(queue.id).or_insert_with(|| (queue, Amount::default()));
            sum.1 = sum.1.plus(got);
        }
    }
    sums.into_values().collect()
}

/// The first message of these that the queue got and has not acked.
fn oldest_of(core: &Core, routes: &BTreeMap<RouteId, Places<'_>>, queue: &Queue) -> Option<Offset> {
    let floor = queue.ledger().floor().0;
    let firsts = routes.iter().filter_map(|(&route, places)| {
        let groups = core.log.route_groups(route)?;
        // In the order of the log: the first that has any has the first.
        let mut places = places.iter();
        places.find_map(|(listing, at)| {
            own_unacked(listing, *at, listing.route(*at).1, queue, &groups, floor)
        })
    });
    firsts.min().map(Offset)
}

/// What the queue, which got `routed` of the segment, has left of it.
fn left_of(
    core: &Core,
    segment: &Arc<Segment>,
    queue: &Queue,
    routed: Amount,
    counted: bool,
) -> Result<Amount> {
    let (part, uncounted) = {
        let state = queue.ledger();
        let uncounted = (!counted).then(|| (state.members.clone(), state.acks.clone()));
        (state.part(segment.first_offset()), uncounted)
    };
    if let Some((members, acks)) = uncounted {
        return count::routed_if(&core.log, segment, &members, |offset| !acks.contains(offset));
    }
    Ok(match part {
        Some(How::Left(left)) => left,
        Some(How::Acked(acked)) => routed.less(acked),
        None => routed,
    })
}

fn pin(core: &Core, share: Share) -> Result<Pin> {
    let Share { queue, left, oldest } = share;
    let published_us = published_us(core, oldest)?;
    let dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
    let consumer = dispatch.get().and_then(|dispatch| dispatch.holder_of(oldest));
    drop(dispatch);
    Ok(Pin {
        queue: queue.name.to_string(),
        history: queue.is_history(),
        messages: left.messages,
        bytes: left.bytes,
        oldest_offset: oldest,
        oldest_age: published_us.map(|published| age(core, published)),
        consumer,
    })
}

/// When a message was published; `None` if its bytes are damaged, or gone by now.
fn published_us(core: &Core, offset: Offset) -> Result<Option<u64>> {
    let Sought::View(view) = core.log.seek(offset, &|_| true)? else { return Ok(None) };
    let number = view.lower_bound(offset);
    if view.end_offset() <= offset || view.offset_of(number) != offset {
        return Ok(None);
    }
    Ok(view.message(number).ok().map(|record| record.time_us))
}

/// The age of a message; `None` if it can't be read.
pub(crate) fn age_of(core: &Core, offset: Offset) -> Option<Duration> {
    let published = published_us(core, offset).ok().flatten()?;
    Some(age(core, published))
}

fn age(core: &Core, published_us: u64) -> Duration {
    Duration::from_micros(core.clock.wall_us().saturating_sub(published_us))
}
