//! Which segments to rewrite next: a pure function of a table.
//!
//! In: one [`Row`] per segment, in the order of the log. Out: neighbours that become one file.
//!
//! W1. What is written for gain frees at least as much as it writes. A byte dies once and a file
//!     just written holds nothing dead, so all rewriting for gain writes less than was published.
//! W2. Small neighbours are merged only where what results holds at least twice what any of them
//!     does: a byte takes part in a logarithmic number of merges.
//! W3. Once nothing is chosen any more the files take at most twice what is live, as files of their
//!     own, and [`Limits::slack_bytes`]; and no [`MERGED_MIN`] small neighbours could be merged.
//!
//! So doing what is chosen comes to an end, whatever the table.

use fanlog_segment_format::layout::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, COMMIT_MARK_BYTES, FOOTER_HEAD_BYTES, FOOTER_TRAILER_BYTES,
    SEGMENT_HEADER_BYTES,
};

use super::writer::BATCH_BYTES;

/// As many small neighbours are merged, at least.
pub(super) const MERGED_MIN: usize = 8;
/// As many segments become one, at most: their maps are open at the same time.
const SOURCES_MAX: usize = 64;
/// A file is small up to this part of a segment.
const SMALL_PART: u64 = 4;
/// Distances of offsets within a file are stored in 32 bits.
const SPAN_MAX: u64 = u32::MAX as u64;

/// What of a segment is live, as stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Live {
    /// Records, padded.
    pub(super) record_bytes: u64,
    /// What the footer says of them.
    pub(super) index_bytes: u64,
}

impl Live {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            record_bytes: self.record_bytes + other.record_bytes,
            index_bytes: self.index_bytes + other.index_bytes,
        }
    }

    fn bytes(self) -> u64 {
        self.record_bytes + self.index_bytes
    }

    /// Size of a file that holds just that: at most so many bytes.
    pub(super) fn file_bytes(self) -> u64 {
        const FRAME: u64 = (BATCH_HEADER_BYTES + COMMIT_MARK_BYTES) as u64;
        const BLOCK: u64 = BLOCK_BYTES as u64;
        const BATCH_ENTRY: u64 = 24;
        const SECTIONS_PADDED: u64 = 64;
        // Every batch but the last is full.
        let batches = 1 + self.record_bytes / BATCH_BYTES as u64;
        let log = (self.record_bytes + batches * FRAME).next_multiple_of(BLOCK);
        let head = (FOOTER_HEAD_BYTES + FOOTER_TRAILER_BYTES) as u64 + SECTIONS_PADDED;
        let footer = (self.index_bytes + head + batches * BATCH_ENTRY).next_multiple_of(BLOCK);
        SEGMENT_HEADER_BYTES as u64 + log + (batches - 1) * BLOCK + footer
    }
}

/// A segment, as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) file_bytes: u64,
    /// What is live; `None` if that is known to be more than half, or not known.
    pub(super) live: Option<Live>,
    /// First offset, and the one after the last.
    pub(super) first_offset: u64,
    pub(super) end_offset: u64,
    /// Stays as it is, and parts its neighbours: appended to, damaged, not counted.
    pub(super) fixed: bool,
}

impl Row {
    /// What its live part would take as a file of its own.
    fn compact_bytes(&self) -> u64 {
        self.live.map_or(self.file_bytes, Live::file_bytes).min(self.file_bytes)
    }

    /// What it takes beyond twice that.
    fn waste(&self) -> u64 {
        if self.fixed { 0 } else { self.file_bytes.saturating_sub(2 * self.compact_bytes()) }
    }

    fn is_sparse(&self) -> bool {
        self.file_bytes >= 2 * self.compact_bytes()
    }
}

/// Sizes that the choice goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// No file grows larger.
    pub(super) segment_bytes: u64,
    /// Waste that is let be: rewriting a little later gains more for what it writes.
    pub(super) slack_bytes: u64,
    /// Nothing larger can be written now, in bytes.
    pub(super) room: u64,
}

/// Neighbours that become one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    /// The first of them.
    pub(super) first: usize,
    pub(super) count: usize,
    /// What is written, at most.
    pub(super) bytes: u64,
}

/// What all files take beyond twice what is live in them.
pub(super) fn waste(rows: &[Row]) -> u64 {
    rows.iter().map(Row::waste).sum()
}

/// The next neighbours that are worth the work; `None` if nothing is.
pub(super) fn choose(rows: &[Row], limits: &Limits) -> Option<Choice> {
    let gaining = (waste(rows) > limits.slack_bytes).then(|| most_gain(rows, limits)).flatten();
    gaining.or_else(|| most_merged(rows, limits))
}

/// Neighbours that begin at `first`, one more at a time, as long as they fit one file.
fn neighbours<'a>(
    rows: &'a [Row],
    first: usize,
    limits: &'a Limits,
    wanted: impl Fn(&Row) -> bool + 'a,
) -> impl Iterator<Item = Window> + 'a {
    let mut window = Window::default();
    rows[first..].iter().take(SOURCES_MAX).map_while(move |row| {
        if row.fixed || !wanted(row) {
            return None;
        }
        let live = row.live?;
        if window.count == 0 {
            window.first_offset = row.first_offset;
        }
        window.count += 1;
        window.live = window.live.plus(live);
        window.file_bytes += row.file_bytes;
        window.largest = window.largest.max(live.bytes());
        let spans = row.end_offset - window.first_offset <= SPAN_MAX;
        // One that was made larger, for a batch that is, may stay larger.
        let fits = window.count == 1 || window.bytes() <= limits.segment_bytes;
        let fits = fits && window.bytes() <= limits.room;
        (spans && fits).then_some(window)
    })
}

#[derive(Debug, Clone, Copy, Default)]
struct Window {
    count: usize,
    live: Live,
    file_bytes: u64,
    largest: u64,
    first_offset: u64,
}

impl Window {
    fn bytes(&self) -> u64 {
        self.live.file_bytes()
    }

    fn choice(&self, first: usize) -> Choice {
        Choice { first, count: self.count, bytes: self.bytes() }
    }
}

/// W1: the neighbours that free most beyond what is written for them, small ones along with them.
fn most_gain(rows: &[Row], limits: &Limits) -> Option<Choice> {
    let mut best: Option<(u64, Choice)> = None;
    for first in (0..rows.len()).filter(|&first| rows[first].is_sparse()) {
        let fits = |row: &Row| row.is_sparse() || is_small(row, limits);
        for window in neighbours(rows, first, limits, fits) {
            let Some(gain) = window.file_bytes.checked_sub(2 * window.bytes()) else { continue };
            if gain > best.map_or(0, |(gain, _)| gain) {
                best = Some((gain, window.choice(first)));
            }
        }
    }
    best.map(|(_, choice)| choice)
}

/// W2: the most small neighbours.
fn most_merged(rows: &[Row], limits: &Limits) -> Option<Choice> {
    let mut best: Option<Choice> = None;
    for first in 0..rows.len() {
        for window in neighbours(rows, first, limits, |row| is_small(row, limits)) {
            let grows = 2 * window.largest <= window.live.bytes();
            let frees = window.bytes() < window.file_bytes;
            let more = window.count > best.map_or(MERGED_MIN - 1, |choice| choice.count);
            if grows && frees && more {
                best = Some(window.choice(first));
            }
        }
    }
    best
}

fn is_small(row: &Row, limits: &Limits) -> bool {
    row.file_bytes * SMALL_PART <= limits.segment_bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEGMENT: u64 = 1 << 20;
    const LIMITS: Limits =
        Limits { segment_bytes: SEGMENT, slack_bytes: 2 * SEGMENT, room: u64::MAX };
    const EAGER: Limits = Limits { slack_bytes: 0, ..LIMITS };

    fn row(at: usize, file_bytes: u64, record_bytes: u64) -> Row {
        let live = Some(Live { record_bytes, index_bytes: record_bytes / 16 });
        let first_offset = at as u64 * 1000;
        Row { file_bytes, live, first_offset, end_offset: first_offset + 1000, fixed: false }
    }

    /// Full segments with so many per mille of live records.
    fn full(live: &[u64]) -> Vec<Row> {
        let rows = live.iter().enumerate();
        rows.map(|(at, live)| row(at, SEGMENT, SEGMENT * live / 1000)).collect()
    }

    fn small(count: usize, records: u64) -> Vec<Row> {
        let compact = Live { record_bytes: records, index_bytes: records / 16 }.file_bytes();
        (0..count).map(|at| row(at, compact, records)).collect()
    }

    /// What the table is once the choice was carried out.
    fn done(rows: &mut Vec<Row>, choice: Choice) {
        let merged = rows.drain(choice.first..choice.first + choice.count).collect::<Vec<_>>();
        let live = merged.iter().filter_map(|row| row.live).fold(Live::default(), Live::plus);
        let file_bytes = live.file_bytes();
        assert!(file_bytes <= choice.bytes);
        let (first, last) = (merged[0], merged[merged.len() - 1]);
        let new = Row { file_bytes, live: Some(live), end_offset: last.end_offset, ..first };
        rows.insert(choice.first, new);
    }

    /// Carries out choices until there are none; the bytes written.
    fn finish(rows: &mut Vec<Row>, limits: &Limits) -> u64 {
        let mut written = 0;
        while let Some(choice) = choose(rows, limits) {
            written += choice.bytes;
            done(rows, choice);
        }
        written
    }

    fn file_bytes(rows: &[Row]) -> u64 {
        rows.iter().map(|row| row.file_bytes).sum()
    }

    #[test]
    fn full_segments_are_left_alone() {
        assert_eq!(choose(&full(&[900, 600, 990, 510]), &EAGER), None);
    }

    #[test]
    fn a_little_waste_is_let_be_until_space_is_short() {
        let rows = full(&[900, 100, 900]);
        assert_eq!(choose(&rows, &LIMITS), None);
        let choice = choose(&rows, &EAGER).unwrap();
        assert_eq!((choice.first, choice.count), (1, 1));
    }

    #[test]
    fn sparse_neighbours_become_one() {
        let choice = choose(&full(&[900, 100, 50, 300, 900, 100]), &LIMITS).unwrap();
        assert_eq!((choice.first, choice.count), (1, 3));
        assert!(choice.bytes < SEGMENT / 2);
    }

    #[test]
    fn what_is_not_known_or_fixed_parts_its_neighbours() {
        let mut rows = full(&[10; 9]);
        rows[3].live = None;
        rows[6].fixed = true;
        let choice = choose(&rows, &LIMITS).unwrap();
        assert!(choice.count <= 3, "{choice:?}");
        let choice = choose(&full(&[10; 9]), &LIMITS).unwrap();
        assert_eq!((choice.first, choice.count), (0, 9));
    }

    #[test]
    fn few_small_files_are_let_be_and_many_are_merged() {
        assert_eq!(choose(&small(MERGED_MIN - 1, 100), &EAGER), None);
        let choice = choose(&small(MERGED_MIN + 3, 100), &LIMITS).unwrap();
        assert_eq!((choice.first, choice.count), (0, MERGED_MIN + 3));
    }

    #[test]
    fn a_large_neighbour_is_not_copied_again_for_every_few_small_ones() {
        let mut rows = small(MERGED_MIN, 100);
        rows.insert(0, row(0, SEGMENT / 4, SEGMENT / 4 - 40_000));
        let choice = choose(&rows, &LIMITS).unwrap();
        assert_eq!((choice.first, choice.count), (1, MERGED_MIN));
    }

    #[test]
    fn offsets_of_one_file_never_lie_further_apart_than_it_can_tell() {
        let mut rows = full(&[10, 10]);
        rows[1].first_offset = 1 << 32;
        rows[1].end_offset = (1 << 32) + 10;
        assert_eq!(choose(&rows, &EAGER).unwrap().count, 1);
    }

    /// One message stays in every segment that goes by: each is rewritten, then merged, with
    /// little work.
    #[test]
    fn a_trickle_that_stays_costs_little() {
        let (mut rows, mut written, mut published) = (Vec::new(), 0, 0);
        for at in 0..2000 {
            rows.push(row(at, SEGMENT, 200));
            published += SEGMENT;
            written += finish(&mut rows, &LIMITS);
            let live: u64 = 200 * (at as u64 + 1);
            assert!(file_bytes(&rows) <= 2 * live + 4 * SEGMENT, "{at}: {}", file_bytes(&rows));
        }
        assert!(rows.len() < 40, "{}", rows.len());
        assert!(written * 20 < published, "{written} of {published}");
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let one = (1..=256_u64, 0..=1000_u64, 0..20_u8, 0..=SEGMENT / 64);
        proptest::collection::vec(one, 0..40).prop_map(|rows| {
            rows.into_iter()
                .enumerate()
                .map(|(at, (blocks, live, sort, tiny))| {
                    let records = if sort < 8 { tiny } else { blocks * 4096 * live / 1000 };
                    let mut made = row(at, blocks * 4096, records);
                    made.file_bytes = made.file_bytes.max(made.live.unwrap().file_bytes());
                    made.live = made.live.filter(|_| sort != 18);
                    made.fixed = sort == 19;
                    made
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn a_choice_is_of_neighbours_that_fit(rows in rows(), eager: bool) {
            let limits = if eager { EAGER } else { LIMITS };
            if let Some(choice) = choose(&rows, &limits) {
                let chosen = &rows[choice.first..choice.first + choice.count];
                prop_assert!(!chosen.is_empty() && choice.bytes <= SEGMENT);
                prop_assert!(chosen.iter().all(|row| !row.fixed && row.live.is_some()));
                let before: u64 = chosen.iter().map(|row| row.file_bytes).sum();
                prop_assert!(choice.bytes < before, "W1, W2: something is gained");
            }
        }

        #[test]
        fn the_work_ends_and_is_worth_it(rows in rows(), eager: bool) {
            let limits = if eager { EAGER } else { LIMITS };
            let mut rows = rows;
            let mut gained = 0;
            let mut for_gain = 0;
            while let Some(choice) = choose(&rows, &limits) {
                let before = file_bytes(&rows);
                let waste = waste(&rows);
                done(&mut rows, choice);
                let freed = before - file_bytes(&rows);
                prop_assert!(freed > 0, "the work would not end");
                if waste > limits.slack_bytes && freed >= choice.bytes {
                    for_gain += choice.bytes;
                    gained += freed;
                }
            }
            prop_assert!(for_gain <= gained, "W1");
            // What is fixed or not known is full as far as the choice goes.
            let most = |row: &Row| if row.fixed { row.file_bytes } else { 2 * row.compact_bytes() };
            let twice: u64 = rows.iter().map(most).sum();
            prop_assert!(file_bytes(&rows) <= twice + limits.slack_bytes, "W3");
        }
    }
}
