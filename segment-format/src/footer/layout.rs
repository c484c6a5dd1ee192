//! Where the sections of a footer lie, and the check of a whole footer.

use std::ops::Range;

use super::check::check;
use super::{
    BATCH_ENTRY, DUE_ENTRY, FLAG_DENSE, FLAG_PRIORITIES, Footer, NUMBER_ENTRY, ROUTE_ENTRY,
    STRUCTURE, TRAILER,
};
use crate::checksum::{checksum, seed_file};
use crate::layout::{
    BLOCK_BYTES, FOOTER_HEAD_BYTES, FOOTER_MAGIC, FOOTER_TRAILER_BYTES, SEGMENT_HEADER_BYTES,
    TRAILER_MAGIC,
};
use crate::number::{u64_of, usize_of, usize_saturating};
use crate::wire::{Reader, SliceWriter, store_u32};
use crate::{BatchNumber, DecodeError, Offset, SegmentHeader, SegmentId, StoreId};

const TRAILER_CHECKSUM_AT: usize = FOOTER_TRAILER_BYTES - 4;

/// How many entries each section has: all that decides where the sections lie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) batches: u32,
    pub(super) messages: u32,
    pub(super) dense: bool,
    pub(super) routes: u32,
    /// Message numbers in the lists of all routes.
    pub(super) listed: u32,
    pub(super) controls: u32,
    pub(super) dues: u32,
    /// Whether priorities are stored.
    pub(super) priorities: bool,
}

/// Where the sections start, counted from the start of the footer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sections {
    pub(super) batches: usize,
    pub(super) positions: usize,
    pub(super) deltas: usize,
    pub(super) routes: usize,
    pub(super) lists: usize,
    pub(super) controls: usize,
    pub(super) dues: usize,
    pub(super) priorities: usize,
    pub(super) end: usize,
}

impl Sections {
    /// F2. Saturates: what does not fit into memory is beyond the end of any slice.
    pub(super) fn of(counts: &Counts) -> Self {
        let mut at = FOOTER_HEAD_BYTES;
        let mut section = |entries: u32, entry: usize| {
            let start = at;
            let bytes = usize_of(entries).saturating_mul(entry);
            // Whole words; the largest multiple of eight stands for "too large".
            at = start.saturating_add(bytes).checked_next_multiple_of(8).unwrap_or(usize::MAX - 7);
            start
        };
        let deltas = if counts.dense { 0 } else { counts.messages };
        let priorities = if counts.priorities { counts.messages } else { 0 };
        Self {
            batches: section(counts.batches, BATCH_ENTRY),
            positions: section(counts.messages, NUMBER_ENTRY),
            deltas: section(deltas, NUMBER_ENTRY),
            routes: section(counts.routes, ROUTE_ENTRY),
            lists: section(counts.listed, NUMBER_ENTRY),
            controls: section(counts.controls, NUMBER_ENTRY),
            dues: section(counts.dues, DUE_ENTRY),
            priorities: section(priorities, 1),
            end: section(0, 1),
        }
    }

    /// The size of the whole footer, trailer included: a multiple of 4096.
    pub(super) fn footer_bytes(&self) -> usize {
        let bytes = self.end.saturating_add(FOOTER_TRAILER_BYTES);
        bytes.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(usize::MAX)
    }
}

/// What is needed to look things up in the bytes of a footer that was checked once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FooterLayout {
    pub(super) counts: Counts,
    pub(super) sections: Sections,
    pub(super) footer_bytes: usize,
    pub(super) first_offset: Offset,
    pub(super) end_offset: Offset,
    pub(super) log_end: u64,
    pub(super) last_batch: BatchNumber,
    pub(super) checksum: u32,
    pub(super) min_time_us: u64,
    pub(super) max_time_us: u64,
}

impl FooterLayout {
    /// Returns a view of `footer_bytes`: those that were checked by [`Footer::parse`], unchanged.
    ///
    /// # Panics
    ///
    /// If they have another length than those that were checked.
    #[inline]
    pub fn view<'a>(&'a self, footer_bytes: &'a [u8]) -> Footer<'a> {
        assert_eq!(footer_bytes.len(), self.footer_bytes, "the bytes that were checked");
        Footer::new(footer_bytes, self)
    }

    /// Returns the size of the footer in bytes.
    pub fn footer_bytes(&self) -> usize {
        self.footer_bytes
    }

    /// Writes the fixed part into its 128 bytes.
    pub(super) fn encode(&self, header: &SegmentHeader, out: &mut [u8]) {
        let mut writer = SliceWriter::new(out);
        writer.bytes(&FOOTER_MAGIC);
        writer.bytes(&header.store.0);
        writer.u64(header.segment.0);
        writer.u32(header.generation);
        let dense = if self.counts.dense { FLAG_DENSE } else { 0 };
        writer.u32(dense | if self.counts.priorities { FLAG_PRIORITIES } else { 0 });
        writer.u32(self.counts.batches);
        writer.u32(self.counts.messages);
        writer.u32(self.counts.routes);
        writer.u32(self.counts.listed);
        writer.u32(self.counts.controls);
        writer.u32(self.counts.dues);
        writer.u64(self.first_offset.0);
        writer.u64(self.end_offset.0);
        writer.u64(self.log_end);
        writer.u64(self.last_batch.0);
        writer.u64(self.min_time_us);
        writer.u64(self.max_time_us);
        writer.u32(self.checksum);
        writer.zero_rest();
    }

    /// Reads the fixed part, and checks that it speaks of that segment and fits into its size.
    fn decode(bytes: &[u8], header: &SegmentHeader) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(STRUCTURE, bytes);
        reader.magic(FOOTER_MAGIC)?;
        let (store, segment) = (StoreId(reader.array()?), reader.u64()?);
        let generation = reader.u32()?;
        if store != header.store {
            return Err(reader.field(28, "store", "that of the segment's header", segment));
        }
        same(&reader, 12, "segment", header.segment.0, segment)?;
        same(&reader, 4, "generation", header.generation.into(), generation.into())?;
        let flags = reader.u32()?;
        if flags & !(FLAG_DENSE | FLAG_PRIORITIES) != 0 {
            return Err(reader.field(4, "flags", "known flags only", flags.into()));
        }
        let counts = Counts {
            dense: flags & FLAG_DENSE != 0,
            priorities: flags & FLAG_PRIORITIES != 0,
            batches: reader.u32()?,
            messages: reader.u32()?,
            routes: reader.u32()?,
            listed: reader.u32()?,
            controls: reader.u32()?,
            dues: reader.u32()?,
        };
        let sections = Sections::of(&counts);
        let layout = Self {
            counts,
            sections,
            footer_bytes: bytes.len(),
            first_offset: Offset(reader.u64()?),
            end_offset: Offset(reader.u64()?),
            log_end: reader.u64()?,
            last_batch: BatchNumber(reader.u64()?),
            min_time_us: reader.u64()?,
            max_time_us: reader.u64()?,
            checksum: reader.u32()?,
        };
        reader.zeros::<12>()?;
        same(&reader, 64, "first_offset", header.first_offset.0, layout.first_offset.0)?;
        let room = bytes.len().saturating_sub(FOOTER_TRAILER_BYTES);
        reader.bounded(0, u64_of(sections.end), room)?;
        Ok(layout)
    }
}

impl<'a> Footer<'a> {
    /// Finds the footer of a sealed segment from the last bytes of its file.
    ///
    /// `last_block` ends where the file does and has at least 64 bytes; `file_bytes` is the size
    /// of the file. Returns the bytes of the file that are the footer, trailer included: whole
    /// blocks, from a block boundary to the end of the file.
    ///
    /// # Errors
    ///
    /// There is no trailer of that segment. A full segment that was never sealed has none.
    pub fn locate(
        last_block: &[u8],
        file_bytes: u64,
        store: StoreId,
        segment: SegmentId,
    ) -> Result<Range<u64>, DecodeError> {
        let (_, trailer) = split_trailer(last_block)?;
        let (range, _) = decode_trailer(trailer, store, segment)?;
        if range.end != file_bytes {
            return Err(DecodeError::Mismatch {
                structure: TRAILER,
                position: 8,
                field: "footer_position and footer_bytes",
                expected: file_bytes,
                found: range.end,
            });
        }
        Ok(range)
    }

    /// Checks a whole footer and returns what is needed to use it.
    ///
    /// `header` is the header of the segment. Afterwards no accessor of the
    /// [view](FooterLayout::view) can leave the slice, whatever the footer says.
    ///
    /// # Errors
    ///
    /// What is wrong with it: a footer with a valid checksum and numbers out of order is refused.
    pub fn parse(
        footer_bytes: &'a [u8],
        header: &SegmentHeader,
    ) -> Result<FooterLayout, DecodeError> {
        let (body, trailer) = split_trailer(footer_bytes)?;
        let trailer_at = u64_of(body.len());
        let (range, stored) = decode_trailer(trailer, header.store, header.segment)
            .map_err(|error| error.shifted(trailer_at))?;
        let size = range.end.saturating_sub(range.start);
        if usize_saturating(size) != footer_bytes.len() {
            return Err(DecodeError::Mismatch {
                structure: TRAILER,
                position: trailer_at.saturating_add(16),
                field: "footer_bytes",
                expected: u64_of(footer_bytes.len()),
                found: size,
            });
        }
        let expected = checksum(seed_file(header.store, header.segment.0), &[body]);
        if stored != expected {
            let (structure, found) = (STRUCTURE, stored);
            return Err(DecodeError::Checksum { structure, position: 0, expected, found });
        }
        let layout = FooterLayout::decode(footer_bytes, header)?;
        check(&layout.view(footer_bytes), range.start)?;
        Ok(layout)
    }
}

/// Writes the trailer of a footer that starts at byte `start` of the file.
pub(super) fn encode_trailer(header: &SegmentHeader, start: u64, footer: &mut [u8]) {
    let footer_bytes = u64_of(footer.len());
    let seed = seed_file(header.store, header.segment.0);
    let body_bytes = footer.len().saturating_sub(FOOTER_TRAILER_BYTES);
    let (body, trailer) = footer.split_at_mut(body_bytes);
    let mut writer = SliceWriter::new(trailer);
    writer.bytes(&TRAILER_MAGIC);
    writer.u64(start);
    writer.u64(footer_bytes);
    writer.u64(header.segment.0);
    writer.u32(checksum(seed, &[body]));
    writer.zero_rest();
    let (covered, _) = trailer.split_at(TRAILER_CHECKSUM_AT);
    let crc = checksum(seed, &[covered]);
    store_u32(trailer, TRAILER_CHECKSUM_AT, crc);
}

/// Returns the bytes before the trailer, and the trailer.
fn split_trailer(bytes: &[u8]) -> Result<(&[u8], &[u8; FOOTER_TRAILER_BYTES]), DecodeError> {
    bytes.split_last_chunk().ok_or(DecodeError::Truncated {
        structure: TRAILER,
        position: 0,
        needed: u64_of(FOOTER_TRAILER_BYTES),
        found: u64_of(bytes.len()),
    })
}

/// Returns which bytes of the file the footer is, and its checksum.
fn decode_trailer(
    trailer: &[u8; FOOTER_TRAILER_BYTES],
    store: StoreId,
    segment: SegmentId,
) -> Result<(Range<u64>, u32), DecodeError> {
    let mut reader = Reader::new(TRAILER, trailer);
    reader.magic(TRAILER_MAGIC)?;
    let (start, bytes, found_segment) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let stored = reader.u32()?;
    let reserved = reader.array::<24>()?;
    let found = reader.u32()?;
    let (covered, _) = trailer.split_at(TRAILER_CHECKSUM_AT);
    let expected = checksum(seed_file(store, segment.0), &[covered]);
    if found != expected {
        return Err(DecodeError::Checksum { structure: TRAILER, position: 0, expected, found });
    }
    same(&reader, 40, "segment", segment.0, found_segment)?;
    if reserved != [0; 24] {
        return Err(reader.field(28, "reserved", "zero", 1));
    }
    let block = u64_of(BLOCK_BYTES);
    let end = start.checked_add(bytes);
    match end {
        Some(end)
            if bytes > 0
                && start >= u64_of(SEGMENT_HEADER_BYTES)
                && start.is_multiple_of(block)
                && bytes.is_multiple_of(block) =>
        {
            Ok((start..end, stored))
        }
        _ => Err(reader.field(56, "footer_position", "whole blocks behind the header", start)),
    }
}

fn same(
    reader: &Reader<'_>,
    back: usize,
    field: &'static str,
    expected: u64,
    found: u64,
) -> Result<(), DecodeError> {
    if expected == found {
        return Ok(());
    }
    let position = reader.position().saturating_sub(u64_of(back));
    Err(DecodeError::Mismatch { structure: STRUCTURE, position, field, expected, found })
}
