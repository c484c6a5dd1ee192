//! What is known of each segment, as far as it matters for the choice.

use std::{collections::HashMap, sync::Arc};

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
}

/// What is known of the segments of the log.
#[derive(Debug, Default)]
pub(super) struct Table {
    known: HashMap<Key, Known>,
    rows: Vec<Row>,
}

impl Table {
    /// One row for each segment, as [`Self::find_out_one`] left them.
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Puts the rows together. If something about a segment has to be found out for that, does so
    /// for one and says true: to be called again. A segment that can't be read is left alone.
    pub(super) fn find_out_one(&mut self, core: &Core, segments: &[Arc<Segment>]) -> bool {
        let (counts, queues) = {
            let ledger = core.ledger();
            (ledger.counts().to_vec(), ledger.queues().count() as u64)
        };
        let mut counts = counts.iter().peekable();
        self.known.retain(|key, _| segments.iter().any(|segment| key_of(segment) == *key));
        self.rows.clear();
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
                    let Some(known) = self.fresh(segment, count) else {
                        self.find_out(core, segment, count);
                        return true;
                    };
                    row.live = known.live;
                    row.fixed = known.problem.is_some();
                }
            }
            self.rows.push(row);
        }
        false
    }

    /// What is known of a segment, unless its outstanding fell by a quarter since (W4).
    fn fresh(&self, segment: &Segment, count: &SegmentCount) -> Option<&Known> {
        let known = self.known.get(&key_of(segment))?;
        (size_of(count.outstanding) > known.outstanding / 4 * 3).then_some(known)
    }

    fn find_out(&mut self, core: &Core, segment: &Arc<Segment>, count: &SegmentCount) {
        let outstanding = size_of(count.outstanding);
        let found = core.log.reader_once(segment);
        let found = found.map(|reader| reader.map(|reader| survivors(core, &reader).live(&reader)));
        let known = match found {
            Ok(live) => Known { outstanding, live, problem: None },
            Err(error) => Known { outstanding, live: None, problem: Some(error.to_string()) },
        };
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
