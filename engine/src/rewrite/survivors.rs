//! Which messages of a segment are live: not durably acked by some queue that they went to.
//!
//! The exact union. It is built for candidates only, from the footer and the queues' ack sets,
//! without reading a message; an ack that comes in meanwhile is seen or not, both are right: what
//! is acked stays so.

use std::ops::Range;

use fanlog_segment_format::{
    GroupId, Offset,
    footer::Footer,
    layout::{BLOCK_BYTES, COMMIT_MARK_BYTES, FOOTER_DUE_BYTES},
};

use super::choose::Live;
use crate::{core::Core, log::sealed::SealedReader, queue::Queue};

/// Runs of unacked offsets taken at a time: the queue's ledger is locked for no longer.
const RUNS: usize = 1024;
/// What a footer says of one message: position, distance, place in its route's list.
const INDEX_BYTES: u64 = 12;
/// What it says of one route.
const ROUTE_BYTES: u64 = 24;
/// A record's bytes beside its payload, with a key of some length.
const TYPICAL_HEAD_BYTES: u64 = 96;

/// Messages of a segment, by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Survivors {
    words: Box<[u64]>,
}

impl Survivors {
    fn none(messages: u32) -> Self {
        Self { words: vec![0; messages.div_ceil(64) as usize].into() }
    }

    fn insert(&mut self, number: u32) {
        self.words[(number / 64) as usize] |= 1 << (number % 64);
    }

    /// Those within a range, increasing.
    pub(super) fn within(&self, range: Range<u32>) -> impl Iterator<Item = u32> + '_ {
        let first = range.start / 64;
        let words = self.words.get(first as usize..).unwrap_or(&[]).iter();
        (first..range.end.div_ceil(64)).zip(words).flat_map(move |(at, &word)| {
            let range = range.clone();
            bits(word).map(move |bit| at * 64 + bit).filter(move |number| range.contains(number))
        })
    }

    /// What they take in a file, estimated without reading them.
    pub(super) fn live(&self, reader: &SealedReader) -> Live {
        let footer = reader.footer();
        let messages: u32 = self.words.iter().map(|word| word.count_ones()).sum();
        let share = |all: u64| all * u64::from(messages) / u64::from(footer.messages().max(1));
        let dues = share(u64::from(footer.dues())) * FOOTER_DUE_BYTES as u64;
        let priorities = if footer.has_priorities() { u64::from(messages) } else { 0 };
        let index_bytes = u64::from(messages) * INDEX_BYTES
            + u64::from(footer.routes()) * ROUTE_BYTES
            + dues
            + priorities;
        let payload: u64 = (0..footer.routes()).map(|at| footer.route(at).bytes).sum();
        let typical = payload / u64::from(footer.messages().max(1)) + TYPICAL_HEAD_BYTES;
        let mut batches = (0..footer.batches()).map(|at| footer.batch(at));
        let mut batch_end = 0;
        let mut record_bytes = 0;
        for number in self.within(0..footer.messages()) {
            while u64::from(footer.position_of(number)) >= batch_end {
                let Some(batch) = batches.next() else { break };
                batch_end = u64::from(batch.position) + u64::from(batch.total_bytes);
            }
            record_bytes += estimate(reader, number, batch_end, typical);
        }
        Live { record_bytes, index_bytes }
    }
}

fn bits(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
}

/// The size of a record, padded. Behind the last one of a batch lies padding, and maybe control
/// records: there it is as large as is `typical`, or is looked up where that may be far off.
fn estimate(reader: &SealedReader, number: u32, batch_end: u64, typical: u64) -> u64 {
    let footer = reader.footer();
    let start = u64::from(footer.position_of(number));
    let next = u64::from(footer.position_of(number + 1));
    if next > start && next < batch_end {
        return next - start;
    }
    let room = (batch_end - COMMIT_MARK_BYTES as u64).saturating_sub(start);
    if room <= typical + BLOCK_BYTES as u64 {
        return room.min(typical);
    }
    reader.record_bytes(number).map_or(room, |record| record.len() as u64)
}

/// The messages of a sealed segment that are live.
pub(super) fn survivors(core: &Core, reader: &SealedReader) -> Survivors {
    let footer = reader.footer();
    let mut found = Survivors::none(footer.messages());
    for at in 0..footer.routes() {
        let route = footer.route(at);
        let Some(groups) = core.log.route_groups(route.route) else {
            // Nobody knows whom it went to: it stays.
            footer.route_messages(at).for_each(|number| found.insert(number));
            continue;
        };
        let takers = core.ledger().holders_of(&groups);
        for queue in takers {
            let add = |number| found.insert(number);
            if unacked(&footer, at, &queue, &groups, add) == route.messages {
                // One that has touched nothing: no other can add to it.
                break;
            }
        }
    }
    found
}

/// Calls `add` for the messages of a route that a queue got and has not acked; how many.
fn unacked(
    footer: &Footer<'_>,
    at: u32,
    queue: &Queue,
    groups: &[GroupId],
    mut add: impl FnMut(u32),
) -> u32 {
    let (first, end) = (footer.first_offset(), footer.end_offset());
    let mut found = 0;
    let ranges = queue.ledger().ranges(groups);
    for (from, to) in ranges {
        let (mut from, to) = (from.max(first).0, to.min(end).0);
        while from < to {
            let runs: Vec<_> = queue.ledger().acks.missing(from, to).take(RUNS).collect();
            from = if runs.len() < RUNS { to } else { runs[RUNS - 1].1 };
            for (start, end) in runs {
                let nth = |offset| footer.route_lower_bound(at, footer.lower_bound(Offset(offset)));
                for nth in nth(start)..nth(end) {
                    add(footer.route_message(at, nth));
                    found += 1;
                }
            }
        }
    }
    found
}
