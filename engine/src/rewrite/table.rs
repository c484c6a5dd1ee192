//! What is known of each segment, as far as it matters for the choice.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use fanlog_segment_format::SegmentId;

use super::{
    choose::{Live, Row},
    survivors::survivors,
};
use crate::{
    core::Core,
    ledger::{live::SegmentCount, queue_ledger::Amount},
    log::segment::Segment,
};

/// The least that a record takes beside its payload.
const RECORD_HEAD_BYTES: u64 = 40;
/// The least that a footer says of one.
const INDEX_BYTES: u64 = 8;

/// A segment rests for so many times what finding it out took.
const REST: u32 = 20;
/// And at least so long.
const REST_MIN: Duration = Duration::from_secs(1);

/// A segment's file: its number and generation.
type Key = (SegmentId, u32);

fn key_of(segment: &Segment) -> Key {
    (segment.id(), segment.header.generation)
}

/// What was found out of one segment.
#[derive(Debug)]
struct Known {
    /// Its outstanding when it was found out.
    outstanding: u64,
    /// What is live; `None` if it is left alone.
    live: Option<Live>,
    /// Why it is left alone.
    problem: Option<String>,
    /// Unless much was acked since, it is not found out again before.
    rests_until: Duration,
}

impl Known {
    /// Whether what is known may be too old, by so much outstanding now; or will be, after a rest.
    fn age(&self, outstanding: u64, now: Duration) -> Age {
        let fell = self.outstanding.saturating_sub(outstanding);
        let live = self.live.map_or(self.outstanding, |live| live.record_bytes);
        if fell >= self.outstanding.div_ceil(4) {
            Age::Old
        } else if fell < live.div_ceil(4) {
            Age::Fresh
        } else if now >= self.rests_until {
            Age::Old
        } else {
            Age::Rests
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Fresh,
    Rests,
    Old,
}

/// What is known of the segments of the log.
#[derive(Debug, Default)]
pub(super) struct Table {
    known: HashMap<Key, Known>,
    rows: Vec<Row>,
    /// A row may be too old, and is to be found out after a rest.
    puts_off: bool,
    /// A row is of a segment that is still to be found out.
    behind: bool,
}

impl Table {
    /// One row for each segment, as [`Self::find_out_one`] left them.
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Puts the rows together. If something about a segment has to be found out for that, does so
    /// for one and says true: to be called again. A segment that can't be read is left alone. If it
    /// may not, those that are not found out are put down as not to be chosen.
    pub(super) fn find_out_one(
        &mut self,
        core: &Core,
        segments: &[Arc<Segment>],
        now: Duration,
        may_find_out: bool,
    ) -> bool {
        let (counts, queues) = {
            let ledger = core.ledger();
            (ledger.counts().to_vec(), ledger.queues().count() as u64)
        };
        let mut counts = counts.iter().peekable();
        self.rows.clear();
        self.puts_off = false;
        self.behind = false;
        for segment in segments {
            while counts.next_if(|count| count.id < segment.id()).is_some() {}
            let count = counts.peek().filter(|count| count.id == segment.id());
            let mut row = Row {
                file_bytes: segment.header.file_bytes,
                live: None,
                first_offset: segment.first_offset().0,
                end_offset: segment.end_offset().map_or(u64::MAX, |end| end.0),
                fixed: true,
            };
            // One that is dead is about to be retired.
            let count = count.filter(|count| !count.uncounted && !count.is_dead());
            if let Some(count) = count.filter(|_| segment.is_sealed()) {
                let small = row.file_bytes < core.config.segment_bytes_max / 2;
                row.fixed = false;
                if small || may_be_sparse(count, row.file_bytes, queues) {
                    let outstanding = size_of(count.outstanding);
                    let known = self.known.get(&key_of(segment));
                    let age = known.map(|known| known.age(outstanding, now));
                    self.puts_off |= age == Some(Age::Rests);
                    if let Some(known) = known.filter(|_| age != Some(Age::Old)) {
                        row.live = known.live;
                        row.fixed = known.problem.is_some();
                    } else if may_find_out {
                        self.find_out(core, segment, outstanding, now);
                        return true;
                    } else {
                        row.fixed = true;
                        self.behind = true;
                    }
                }
            }
            self.rows.push(row);
        }
        let there: HashSet<Key> = segments.iter().map(|segment| key_of(segment)).collect();
        self.known.retain(|key, _| there.contains(key));
        false
    }

    /// Whether something is to be found out later, although nothing changes until then.
    pub(super) fn puts_off(&self) -> bool {
        self.puts_off
    }

    /// Whether segments are still to be found out.
    pub(super) fn is_behind(&self) -> bool {
        self.behind
    }

    fn find_out(&mut self, core: &Core, segment: &Arc<Segment>, outstanding: u64, now: Duration) {
        let found = core.log.reader_once(segment);
        let found = found.map(|reader| reader.map(|reader| survivors(core, &reader).live(&reader)));
        let took = core.clock.now().saturating_sub(now);
        let rests_until = now + (REST * took).max(REST_MIN);
        let (live, problem) = match found {
            Ok(live) => (live, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let known = Known { outstanding, live, problem, rests_until };
        self.known.insert(key_of(segment), known);
    }

    /// Leaves a segment alone, until its outstanding fell by a quarter.
    pub(super) fn leave_alone(&mut self, segment: &Segment, problem: String) {
        if let Some(known) = self.known.get_mut(&key_of(segment)) {
            known.problem = Some(problem);
        }
    }

    pub(super) fn problem_of(&self, segment: &Segment) -> Option<String> {
        self.known.get(&key_of(segment)).and_then(|known| known.problem.clone())
    }

    pub(super) fn left_alone(&self) -> u64 {
        self.known.values().filter(|known| known.problem.is_some()).count() as u64
    }
}

/// Bytes of records that are outstanding, at least.
fn size_of(outstanding: Amount) -> u64 {
    outstanding.bytes + RECORD_HEAD_BYTES * outstanding.messages
}

/// Whether the count allows that at most half of the file is live. Each live message is outstanding
/// in at most as many queues as it was routed to.
fn may_be_sparse(count: &SegmentCount, file_bytes: u64, queues: u64) -> bool {
    let each = if count.queues_max == 0 { queues } else { count.queues_max }.max(1);
    let messages = count.outstanding.messages.div_ceil(each);
    let record_bytes = size_of(count.outstanding) / each;
    let least = Live { record_bytes, index_bytes: INDEX_BYTES * messages };
    2 * least.file_bytes() <= file_bytes
}
