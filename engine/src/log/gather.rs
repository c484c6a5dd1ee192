//! Finds what a segment's file still holds by walking its batches, whatever became of the rest.
//!
//! In: the file's bytes and what is known of the segment. Out: the records that are whole, and from
//! them a footer. Used where the footer is bad, and where a damaged segment is salvaged.
//!
//! N1. A record counts only under a right checksum, the batch's or its own, and with an offset that
//!     fits between its neighbours'.
//! N2. Of two batches that can't both be of the log, the one of the lower epoch was cut by an
//!     earlier recovery and does not count.

use std::ops::Range;

use fanlog_segment_format::{
    BatchNumber, DecodeError, Epoch, Offset,
    batch::{BatchHeader, open_batch, records_in},
    checksum::seed_record,
    footer::FooterBuilder,
    header::SegmentHeader,
    layout::{
        BATCH_HEADER_BYTES, BLOCK_BYTES, COMMIT_MAGIC, COMMIT_MARK_BYTES, RECORD_ALIGN,
        RECORD_BYTES_MAX, RECORD_PREFIX_BYTES, SEGMENT_HEADER_BYTES, align_up,
    },
    record::{Record, RecordHead},
};

use super::index::list_extras;

/// Gives bytes of the file, or `None` where they can't be read.
pub(crate) type Bytes<'a> = dyn Fn(Range<usize>) -> Option<&'a [u8]> + 'a;

/// A message that is whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WholeMessage {
    pub(crate) offset: Offset,
    /// Where its record is in the file, and how long.
    pub(crate) position: u32,
    pub(crate) length: u32,
    head: RecordHead,
    time_us: u64,
}

impl WholeMessage {
    pub(crate) fn time_us(&self) -> u64 {
        self.time_us
    }

    /// Lists the message in a footer, with its record at `position` of that file.
    pub(crate) fn list_at(&self, position: u32, footer: &mut FooterBuilder) {
        let RecordHead { route, payload_bytes, .. } = self.head;
        footer.message(self.offset, position, route, payload_bytes, self.time_us);
        list_extras(footer, &self.head);
    }
}

/// A batch, or what is left of one.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) position: u64,
    pub(crate) total_bytes: u32,
    /// `None` where it is damaged: the records were found without it.
    pub(crate) header: Option<BatchHeader>,
    /// Of a batch that is whole.
    pub(crate) checksum: Option<u32>,
    /// As the header says, or as it must have been.
    pub(crate) number: BatchNumber,
    pub(crate) epoch: Epoch,
    /// Where its offsets begin as far as its place tells.
    from: Offset,
    pub(crate) messages: Vec<WholeMessage>,
    /// Where its control records are in the file.
    pub(crate) controls: Vec<u32>,
    /// Some of them may be missing.
    pub(crate) controls_lost: bool,
}

impl Gathered {
    pub(crate) fn end(&self) -> u64 {
        self.position + u64::from(self.total_bytes)
    }

    /// The first offset that it has, or had.
    pub(crate) fn first_offset(&self) -> Offset {
        let first = self.messages.first().map_or(self.from, |message| message.offset);
        self.header.map_or(first, |header| header.first_offset)
    }

    /// One past the last offset that it has, or had.
    pub(crate) fn end_offset(&self) -> Offset {
        let last = self.messages.last().map_or(self.from, |message| message.offset.next());
        self.header.as_ref().map_or(last, |header| end_offset(header).max(last))
    }
}

/// What is known of a segment whose batches are gathered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// Its header, as read or as it has to be.
    pub(crate) header: SegmentHeader,
    /// One past the last offset that it stands for, where that is known.
    pub(crate) end_offset: Option<Offset>,
    /// One past its last batch, where that is known.
    pub(crate) end_batch: Option<BatchNumber>,
    /// Size of its file.
    pub(crate) file_bytes: u64,
}

fn end_offset(header: &BatchHeader) -> Offset {
    Offset(header.first_offset.0.saturating_add(u64::from(header.messages)))
}

/// A record of a newer version: where in the file, and what was found.
#[derive(Debug)]
pub(crate) struct Newer(pub(crate) u64, pub(crate) DecodeError);

/// Gathers what the file still holds, in order.
///
/// # Errors
///
/// A valid batch holds a record of a newer version.
pub(crate) fn gather(bytes: &Bytes<'_>, known: &Known) -> Result<Vec<Gathered>, Newer> {
    let headers = headers(bytes, known);
    let mut found: Vec<Gathered> = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES as u64;
    let SegmentHeader { epoch, first_offset, first_batch, .. } = known.header;
    let mut before = (epoch, first_offset, first_batch);
    for (at_header, header) in headers.iter().enumerate() {
        let next = headers.get(at_header + 1).map(|next| next.first_offset).or(known.end_offset);
        let gap = Gap {
            range: at..header.position,
            offsets: before.1..header.first_offset,
            epoch: (before.0 == header.epoch).then_some(before.0),
            numbers: before.2..header.number,
        };
        found.extend(headless(bytes, known, gap));
        let batch = gather_batch(bytes, known, header, next)?;
        at = header.position + header.total_bytes() as u64;
        // In a rewritten segment it reaches further than its header counts.
        before = (header.epoch, batch.end_offset(), BatchNumber(header.number.0 + 1));
        found.push(batch);
    }
    if let Some(end) = known.end_offset {
        let gap = Gap {
            range: at..known.file_bytes,
            offsets: before.1..end,
            epoch: Some(before.0),
            numbers: before.2..known.end_batch.unwrap_or(BatchNumber(u64::MAX)),
        };
        found.extend(headless(bytes, known, gap));
    }
    let mut least = known.header.first_offset;
    for batch in &mut found {
        batch.messages.retain(|message| {
            // What stands in a wrong place may be whole, and out of order (N1). A footer counts
            // offsets from the first in 32 bits.
            let fits = message.offset >= least
                && u32::try_from(message.offset.0 - known.header.first_offset.0).is_ok();
            if fits {
                least = message.offset.next();
            }
            fits
        });
    }
    Ok(found)
}

/// The headers of the segment's batches that are valid in their place, in order (N2).
fn headers(bytes: &Bytes<'_>, known: &Known) -> Vec<BatchHeader> {
    let SegmentHeader { store, segment, first_offset, first_batch, epoch, .. } = known.header;
    let mut found: Vec<BatchHeader> = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES;
    while at as u64 + BLOCK_BYTES as u64 <= known.file_bytes {
        let block = bytes(at..at + BLOCK_BYTES);
        let decoded = block.map(|block| BatchHeader::decode(block, store, segment, at as u64));
        let Some(Ok(header)) = decoded else {
            at += BLOCK_BYTES;
            continue;
        };
        let end = at + header.total_bytes();
        let whole = end as u64 <= known.file_bytes
            && bytes(at..end)
                .is_some_and(|batch| open_batch(batch, store, segment, at as u64).is_ok());
        // Another one may stand in what seems to be a damaged one and was only cut.
        at = if whole { end } else { at + BLOCK_BYTES };
        let fits = header.first_offset >= first_offset
            && header.number >= first_batch
            && header.epoch >= epoch
            && known.end_batch.is_none_or(|end| header.number < end)
            && known.end_offset.is_none_or(|end| end_offset(&header) <= end);
        if fits {
            take_in(&mut found, header);
        }
    }
    found
}

fn take_in(found: &mut Vec<BatchHeader>, header: BatchHeader) {
    while let Some(last) = found.last() {
        let follows = last.number < header.number
            && end_offset(last) <= header.first_offset
            && last.epoch <= header.epoch
            && last.position + last.total_bytes() as u64 <= header.position;
        if follows {
            break;
        }
        if last.epoch >= header.epoch {
            return;
        }
        found.pop();
    }
    found.push(header);
}

/// The records of a batch whose header is valid. `next` is where the offsets of the one after it
/// begin: of a rewritten segment offsets may be missing in between.
fn gather_batch(
    bytes: &Bytes<'_>,
    known: &Known,
    header: &BatchHeader,
    next: Option<Offset>,
) -> Result<Gathered, Newer> {
    let dense = known.header.generation == 0;
    let end = if dense { end_offset(header) } else { next.unwrap_or(Offset(u64::MAX)) };
    let offsets = header.first_offset..end;
    let (store, segment) = (known.header.store, known.header.segment);
    let total_bytes = u32::try_from(header.total_bytes()).unwrap_or(u32::MAX);
    let mut batch = Gathered {
        position: header.position,
        total_bytes,
        header: Some(*header),
        checksum: None,
        number: header.number,
        epoch: header.epoch,
        from: header.first_offset,
        messages: Vec::new(),
        controls: Vec::new(),
        controls_lost: false,
    };
    let start = usize_of(header.position);
    let end = usize_of(batch.end().min(known.file_bytes));
    let Some(slice) = readable(bytes, start..end) else {
        batch.controls_lost = header.controls > 0;
        return Ok(batch);
    };
    if let Ok(open) = open_batch(slice, store, segment, header.position) {
        batch.checksum = Some(open.checksum);
        for record in open.records() {
            match record {
                Ok((at, record)) => note(&mut batch, slice, at, &record, &offsets),
                Err(source) if source.is_version() => return Err(Newer(header.position, source)),
                Err(_) => {}
            }
        }
        return Ok(batch);
    }
    let body = BATCH_HEADER_BYTES + header.body_bytes as usize;
    let body = slice.get(..body).unwrap_or(slice);
    salvage(&mut batch, body, known, &offsets, true);
    batch.controls_lost = header.controls as usize != batch.controls.len();
    Ok(batch)
}

/// The longest readable start of `range`.
fn readable<'a>(bytes: &Bytes<'a>, range: Range<usize>) -> Option<&'a [u8]> {
    let mut end = range.end;
    while end > range.start {
        if let Some(slice) = bytes(range.start..end) {
            return Some(slice);
        }
        end = range.start + (end - range.start) / 2;
    }
    None
}

/// A stretch of the file in which no batch header is valid.
struct Gap {
    range: Range<u64>,
    /// Offsets that lie between its neighbours.
    offsets: Range<Offset>,
    /// That of both neighbours: else what stands there may have been cut.
    epoch: Option<Epoch>,
    /// Numbers that lie between them.
    numbers: Range<BatchNumber>,
}

/// Records of batches whose headers are damaged.
fn headless(bytes: &Bytes<'_>, known: &Known, gap: Gap) -> Vec<Gathered> {
    let mut found: Vec<Gathered> = Vec::new();
    let (mut offsets, mut number) = (gap.offsets, gap.numbers.start);
    let nothing_missing = offsets.start >= offsets.end && gap.numbers.end.0 == u64::MAX;
    let Some(epoch) = gap.epoch.filter(|_| !nothing_missing) else { return found };
    let mut at = usize_of(gap.range.start);
    let end = usize_of(gap.range.end.min(known.file_bytes));
    while at + BLOCK_BYTES <= end && number < gap.numbers.end {
        let begins = bytes(at..at + BLOCK_BYTES).is_some_and(may_begin);
        let Some(body) = begins.then(|| readable(bytes, at..end)).flatten() else {
            at += BLOCK_BYTES;
            continue;
        };
        let mut batch = Gathered {
            position: at as u64,
            total_bytes: 0,
            header: None,
            checksum: None,
            number,
            epoch,
            from: offsets.start,
            messages: Vec::new(),
            controls: Vec::new(),
            controls_lost: true,
        };
        let mark = find_mark(body).filter(|mark| {
            mark.epoch == epoch && mark.number >= number && mark.number < gap.numbers.end
        });
        let records_end = if let Some(mark) = mark {
            // It is the batch that belongs here: its control records count, too.
            batch.number = mark.number;
            salvage(&mut batch, &body[..mark.at], known, &offsets, true);
            batch.controls_lost = batch.messages.len() + batch.controls.len() != mark.records;
            mark.at
        } else {
            salvage(&mut batch, body, known, &offsets, false);
            let Some(last) = batch.messages.last() else {
                at += BLOCK_BYTES;
                continue;
            };
            align_up((last.position + last.length) as usize - at, RECORD_ALIGN)
        };
        offsets.start = batch.messages.last().map_or(offsets.start, |last| last.offset.next());
        number = BatchNumber(batch.number.0 + 1);
        let total = align_up(records_end + COMMIT_MARK_BYTES, BLOCK_BYTES).min(end - at);
        batch.total_bytes = u32::try_from(total).unwrap_or(u32::MAX);
        at += total;
        found.push(batch);
    }
    found
}

/// A commit mark, found without the header that says where it is.
struct Mark {
    at: usize,
    /// How many records stand before it.
    records: usize,
    number: BatchNumber,
    epoch: Epoch,
}

/// Goes from record to record by their lengths to the mark behind the last one.
fn find_mark(body: &[u8]) -> Option<Mark> {
    let (mut at, mut records) = (BATCH_HEADER_BYTES, 0);
    loop {
        let rest = body.get(at..)?;
        if rest.starts_with(&COMMIT_MAGIC) {
            let mark = rest.get(..COMMIT_MARK_BYTES)?;
            let number = u64::from_le_bytes(mark[8..16].try_into().ok()?);
            let epoch = u32::from_le_bytes(mark[20..24].try_into().ok()?);
            let body_bytes = u32::from_le_bytes(mark[16..20].try_into().ok()?);
            let fits = body_bytes as usize == at - BATCH_HEADER_BYTES;
            let (number, epoch) = (BatchNumber(number), Epoch(epoch));
            return fits.then_some(Mark { at, records, number, epoch });
        }
        records += 1;
        at += align_up(frame(rest)?, RECORD_ALIGN);
    }
}

/// The length of the record that begins `bytes`, if it is possible.
fn frame(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    (RECORD_PREFIX_BYTES..=RECORD_BYTES_MAX).contains(&length).then_some(length)
}

/// Whether records, or a mark, may begin behind a batch header at the start of `block`.
fn may_begin(block: &[u8]) -> bool {
    let body = block.get(BATCH_HEADER_BYTES..).unwrap_or_default();
    body.starts_with(&COMMIT_MAGIC) || frame(body).is_some()
}

/// The records of a damaged batch whose own checksums are right (N1).
///
/// Control records say nothing of their place: they count where the batch is known to be the right
/// one.
fn salvage(
    batch: &mut Gathered,
    body: &[u8],
    known: &Known,
    offsets: &Range<Offset>,
    controls: bool,
) {
    if body.len() <= BATCH_HEADER_BYTES {
        return;
    }
    let records = records_in(body, BATCH_HEADER_BYTES).verified(seed_record(known.header.store));
    for (at, record) in records.flatten() {
        let counts = match &record {
            Record::Message(message) => message.epoch == batch.epoch,
            Record::Control(_) => controls,
        };
        if counts {
            note(batch, body, at, &record, offsets);
        }
    }
}

/// Takes a record in, if its offset fits (N1).
fn note(batch: &mut Gathered, slice: &[u8], at: u32, record: &Record<'_>, offsets: &Range<Offset>) {
    let position = u32::try_from(batch.position).unwrap_or(u32::MAX).saturating_add(at);
    let Record::Message(message) = record else {
        batch.controls.push(position);
        return;
    };
    let least = batch.messages.last().map_or(offsets.start, |last| last.offset.next());
    if message.offset < least || message.offset >= offsets.end {
        return;
    }
    let Ok(head) = RecordHead::peek(&slice[at as usize..]) else { return };
    batch.messages.push(WholeMessage {
        offset: message.offset,
        position,
        length: head.length,
        head,
        time_us: message.time_us,
    });
}

/// Whether what was gathered is all that the segment ever had.
///
/// A file as published has every offset. One that was rewritten has gaps; there all its batches have
/// to be whole and side by side, and the footer made of them has to end where the file does.
fn is_complete(batches: &[Gathered], known: &Known, footer: &FooterBuilder) -> bool {
    if known.header.generation > 0 {
        let mut at = SEGMENT_HEADER_BYTES as u64;
        for batch in batches {
            if batch.position != at || batch.checksum.is_none() {
                return false;
            }
            at = batch.end();
        }
        return at + footer.encoded_bytes() as u64 == known.file_bytes;
    }
    let Some(end) = known.end_offset else { return false };
    let mut next = known.header.first_offset;
    for message in batches.iter().flat_map(|batch| &batch.messages) {
        if message.offset != next {
            return false;
        }
        next = next.next();
    }
    next == end
}

/// The footer that the segment must have had, from its batches; `None` if anything is missing.
///
/// # Errors
///
/// As [`gather`].
pub(crate) fn rebuild_footer(bytes: &Bytes<'_>, known: &Known) -> Result<Option<Vec<u8>>, Newer> {
    let batches = gather(bytes, known)?;
    let footer = footer_of(&batches, known);
    Ok(is_complete(&batches, known, &footer).then(|| footer.encode()))
}

fn footer_of(batches: &[Gathered], known: &Known) -> FooterBuilder {
    let mut footer = FooterBuilder::new(&known.header);
    let mut messages = 0;
    for batch in batches {
        let number = batch.number;
        let position = u32::try_from(batch.position).unwrap_or(u32::MAX);
        footer.batch(position, batch.total_bytes, messages, number);
        for message in &batch.messages {
            message.list_at(message.position, &mut footer);
            messages += 1;
        }
        for &control in &batch.controls {
            footer.control(control);
        }
        footer.end(batch.end(), number, batch.checksum.unwrap_or_default());
    }
    if let Some(end) = known.end_offset {
        footer.cover_to(end);
    }
    footer
}

fn usize_of(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
