//! Sets of acked offsets, as bytes: runs and bitmaps of pages, in increasing order.
//!
//! K1. Items do not overlap and increase; a bitmap stands for its whole page.
//! K2. Two runs do not touch: they would be one.
//! K3. A bitmap is neither empty nor full: it would be nothing, or a run.

use crate::DecodeError;
use crate::number::u64_of;
use crate::varint::{read_varint, write_varint};
use crate::wire::Reader;

const STRUCTURE: &str = "ack set";
const TAG_RUN: u8 = 0;
const TAG_BITS: u8 = 1;

/// Offsets in a page: page n holds the offsets from n * 4096 on.
pub const PAGE_OFFSETS: u64 = 4096;
/// Words in the bitmap of a page.
pub const PAGE_WORDS: usize = 64;

/// A part of a set of offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "made and used up one at a time, never stored")]
pub enum AckItem {
    /// All offsets from `start` to `end`.
    Run {
        /// The first offset.
        start: u64,
        /// The offset after the last.
        end: u64,
    },
    /// Some offsets of one page.
    Bits {
        /// Which page: offset / 4096.
        page: u64,
        /// Bit b of word w stands for offset page * 4096 + w * 64 + b.
        words: [u64; PAGE_WORDS],
    },
}

/// Appends a set of offsets to a vector, item by item in increasing order.
#[derive(Debug)]
pub struct AckEncoder<'a> {
    out: &'a mut Vec<u8>,
    cursor: Cursor,
}

/// Where the last item ended.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    end: u64,
    after_run: bool,
}

impl Cursor {
    /// The first page that lies wholly behind the last item.
    fn page(self) -> u64 {
        self.end.div_ceil(PAGE_OFFSETS)
    }
}

impl<'a> AckEncoder<'a> {
    /// Starts an empty set at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, cursor: Cursor::default() }
    }

    /// Appends all offsets from `start` to `end`, exclusive.
    ///
    /// # Panics
    ///
    /// If the run is empty, or starts before the last item's end or, after a run, at it.
    pub fn run(&mut self, start: u64, end: u64) {
        let gap = start.checked_sub(self.cursor.end).expect("K1: items increase");
        assert!(gap > 0 || !self.cursor.after_run, "K2: runs do not touch");
        let length = end.checked_sub(start).expect("K1: a run ends behind its start");
        assert!(length > 0, "K1: a run is not empty");
        self.out.push(TAG_RUN);
        write_varint(gap, self.out);
        write_varint(length, self.out);
        self.cursor = Cursor { end, after_run: true };
    }

    /// Appends the offsets of one page whose bits are set.
    ///
    /// # Panics
    ///
    /// If the page starts before the last item's end or is the very last of all, or if no bit or
    /// every bit is set.
    pub fn bits(&mut self, page: u64, words: &[u64; PAGE_WORDS]) {
        let gap = page.checked_sub(self.cursor.page()).expect("K1: items increase");
        let end = page_end(page).expect("K1: the page ends within the offsets");
        assert!(is_partial(words), "K3: a bitmap is neither empty nor full");
        self.out.push(TAG_BITS);
        write_varint(gap, self.out);
        for word in words {
            self.out.extend_from_slice(&word.to_le_bytes());
        }
        self.cursor = Cursor { end, after_run: false };
    }
}

fn page_end(page: u64) -> Option<u64> {
    page.checked_add(1)?.checked_mul(PAGE_OFFSETS)
}

fn is_partial(words: &[u64; PAGE_WORDS]) -> bool {
    words.iter().any(|word| *word != 0) && words.iter().any(|word| *word != u64::MAX)
}

/// The encoding of a set of offsets; its items are checked as they are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AckBytes<'a>(pub &'a [u8]);

impl<'a> AckBytes<'a> {
    /// Returns the items in increasing order; after an error nothing follows.
    pub fn items(&self) -> AckItems<'a> {
        AckItems { whole: self.0.len(), rest: self.0, cursor: Cursor::default() }
    }
}

/// The items of an encoded set, in increasing order.
#[derive(Debug, Clone)]
pub struct AckItems<'a> {
    whole: usize,
    rest: &'a [u8],
    cursor: Cursor,
}

impl Iterator for AckItems<'_> {
    type Item = Result<AckItem, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let start = u64_of(self.whole.saturating_sub(self.rest.len()));
        let mut reader = Reader::new(STRUCTURE, self.rest);
        let item = read_item(&mut reader, &mut self.cursor);
        self.rest = if item.is_ok() { reader.rest() } else { &[] };
        Some(item.map_err(|error| error.shifted(start)))
    }
}

fn read_item(reader: &mut Reader<'_>, cursor: &mut Cursor) -> Result<AckItem, DecodeError> {
    let tag = reader.u8()?;
    let gap = read_varint(reader)?;
    match tag {
        TAG_RUN => {
            if gap == 0 && cursor.after_run {
                return Err(reader.field(1, "gap", "runs that do not touch", gap));
            }
            let length = read_varint(reader)?;
            let start = cursor.end.checked_add(gap);
            let end = start.and_then(|start| start.checked_add(length));
            let (Some(start), Some(end), true) = (start, end, length > 0) else {
                return Err(reader.field(1, "length", "a run within the offsets", length));
            };
            *cursor = Cursor { end, after_run: true };
            Ok(AckItem::Run { start, end })
        }
        TAG_BITS => {
            let page = cursor.page().checked_add(gap);
            let (Some(page), Some(end)) = (page, page.and_then(page_end)) else {
                return Err(reader.field(1, "page gap", "a page within the offsets", gap));
            };
            let mut words = [0; PAGE_WORDS];
            for word in &mut words {
                *word = reader.u64()?;
            }
            if !is_partial(&words) {
                let expected = "neither empty nor full";
                return Err(reader.field(PAGE_WORDS * 8, "bitmap", expected, page));
            }
            *cursor = Cursor { end, after_run: false };
            Ok(AckItem::Bits { page, words })
        }
        _ => Err(reader.field(1, "tag", "0 or 1", u64::from(tag))),
    }
}
