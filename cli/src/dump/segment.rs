//! A segment file, walked from its header to its footer; what is damaged is named and passed over.
//!
//! Memory is bounded by the largest batch and by the footer, whatever the file's size.

use std::ops::Range;

use fanlog_segment_format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, DecodeError, Footer, SEGMENT_HEADER_BYTES,
    SegmentHeader, SegmentId, StoreId, is_blank, open_batch, records_in, seed_record,
};

use super::{Dump, file::File, item::Item, record::item_of};
use crate::failure::Failure;

/// What of a segment is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    All,
    Batches,
    Records,
}

/// A segment file being walked.
pub(super) struct Segment<'a> {
    file: File<'a>,
    id: SegmentId,
    store: StoreId,
    shown: Shown,
    /// Number and checksum of the last batch that is valid.
    last: Option<(u64, u32)>,
}

impl<'a> Segment<'a> {
    /// `store`: what other files say, where this one's header does not.
    pub(super) fn new(file: File<'a>, id: SegmentId, store: Option<StoreId>, shown: Shown) -> Self {
        Self { file, id, store: store.unwrap_or_default(), shown, last: None }
    }

    pub(super) fn dump(&mut self, dump: &mut Dump<'_>) -> Result<(), Failure> {
        let Some(header) = self.header(dump)? else { return Ok(()) };
        let footer = self.find_footer();
        let end = footer.as_ref().map_or(self.file.bytes, |range| range.start);
        let log_end = match (&header, &footer) {
            (Some(header), Some(range)) => self.footer(header, range, dump)?,
            _ => None,
        };
        self.batches(end, log_end, dump)?;
        self.missing(header.as_ref(), dump)
    }

    /// Bytes that the header speaks of and the file does not have.
    fn missing(&self, header: Option<&SegmentHeader>, dump: &mut Dump<'_>) -> Result<(), Failure> {
        let expected = header.map_or(0, |header| header.file_bytes);
        let missing = expected.saturating_sub(self.file.bytes);
        if missing == 0 {
            return Ok(());
        }
        let text = format!("the file ends here, it should have {expected} bytes");
        dump.damaged(&self.file, self.file.bytes, Some(missing), &text)
    }

    /// The header; `None` where there is nothing else to look for.
    #[expect(
        clippy::option_option,
        reason = "a bad header does not end the walk, a blank one does"
    )]
    fn header(&mut self, dump: &mut Dump<'_>) -> Result<Option<Option<SegmentHeader>>, Failure> {
        let block = match self.file.read(0, SEGMENT_HEADER_BYTES) {
            Ok(block) => block,
            Err(error) => {
                dump.damaged(&self.file, 0, None, &error.to_string())?;
                return Ok(Some(None));
            }
        };
        if is_blank(&block) {
            let item = Item::new("blank", 0).with("bytes", self.file.bytes);
            dump.item(&self.file, &item)?;
            return Ok(None);
        }
        match SegmentHeader::decode(&block) {
            Ok(header) => {
                self.store = header.store;
                if self.shown != Shown::Records {
                    dump.item(&self.file, &of_header(&header))?;
                }
                if header.segment != self.id {
                    let text = format!("it is segment {}, under another name", header.segment);
                    dump.damaged(&self.file, 32, None, &text)?;
                    self.id = header.segment;
                }
                Ok(Some(Some(header)))
            }
            Err(error) => {
                dump.undecoded(&self.file, 0, None, &error)?;
                Ok(Some(None))
            }
        }
    }

    /// Where the footer is, if there is one.
    fn find_footer(&mut self) -> Option<Range<u64>> {
        let start = self.file.bytes.checked_sub(BLOCK_BYTES as u64)?;
        let block = self.file.read(start, BLOCK_BYTES).ok()?;
        Footer::locate(&block, self.file.bytes, self.store, self.id).ok()
    }

    /// Shows the footer. Returns where it says that the log ends.
    fn footer(
        &mut self,
        header: &SegmentHeader,
        range: &Range<u64>,
        dump: &mut Dump<'_>,
    ) -> Result<Option<u64>, Failure> {
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let bytes = match self.file.read(range.start, length) {
            Ok(bytes) => bytes,
            Err(error) => {
                dump.damaged(&self.file, range.start, Some(length as u64), &error.to_string())?;
                return Ok(None);
            }
        };
        let layout = match Footer::parse(&bytes, header) {
            Ok(layout) => layout,
            Err(error) => {
                dump.undecoded(&self.file, range.start, Some(length as u64), &error)?;
                return Ok(None);
            }
        };
        let footer = layout.view(&bytes);
        if self.shown != Shown::Records {
            dump.item(&self.file, &of_footer(&footer, range.start, length))?;
            for at in 0..footer.routes() {
                let route = footer.route(at);
                let item = Item::new("footer route", range.start)
                    .with("route", route.route.0)
                    .with("messages", route.messages)
                    .with("bytes", route.bytes)
                    .with("dense", route.dense);
                dump.item(&self.file, &item.inner())?;
            }
        }
        Ok(Some(footer.log_end()))
    }

    /// Walks the batches up to `end`; `log_end` is where they end by the footer.
    fn batches(
        &mut self,
        end: u64,
        log_end: Option<u64>,
        dump: &mut Dump<'_>,
    ) -> Result<(), Failure> {
        let mut at = SEGMENT_HEADER_BYTES as u64;
        // Since where no batch was found, and the first reason.
        let mut gap: Option<(u64, String)> = None;
        while at + BLOCK_BYTES as u64 <= end {
            let header = match self.file.block(at) {
                Ok(block) => BatchHeader::decode(block, self.store, self.id, at)
                    .map_err(|error| (error.is_version(), error.to_string())),
                Err(error) => Err((false, error.to_string())),
            };
            match header {
                Ok(header) => {
                    self.gap(gap.take(), at, true, dump)?;
                    self.batch(&header, at, end, dump)?;
                    at += header.total_bytes() as u64;
                }
                Err((_, text)) => {
                    gap.get_or_insert((at, text));
                    at += BLOCK_BYTES as u64;
                }
            }
        }
        let missing = gap.as_ref().is_some_and(|(from, _)| log_end.is_some_and(|end| *from < end));
        self.gap(gap, end, missing, dump)
    }

    /// Bytes in which no batch was found: damage if there should be some.
    fn gap(
        &mut self,
        gap: Option<(u64, String)>,
        to: u64,
        damaged: bool,
        dump: &mut Dump<'_>,
    ) -> Result<(), Failure> {
        let Some((from, text)) = gap else { return Ok(()) };
        if damaged {
            return dump.damaged(&self.file, from, Some(to - from), &text);
        }
        if self.shown == Shown::Records {
            return Ok(());
        }
        dump.item(&self.file, &Item::new("unused", from).with("bytes", to - from))
    }

    fn batch(
        &mut self,
        header: &BatchHeader,
        at: u64,
        end: u64,
        dump: &mut Dump<'_>,
    ) -> Result<(), Failure> {
        let total = header.total_bytes() as u64;
        let bytes = if at + total > end {
            Err(format!("it has {total} bytes, only {} are left", end - at))
        } else {
            self.file.read(at, header.total_bytes()).map_err(|error| error.to_string())
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(text) => {
                if self.shown != Shown::Records {
                    dump.item(&self.file, &self.of_batch(header, at, None))?;
                }
                return dump.damaged(&self.file, at, Some(total.min(end - at)), &text);
            }
        };
        let opened = open_batch(&bytes, self.store, self.id, at);
        let checksum = opened.as_ref().ok().map(|batch| batch.checksum);
        if self.shown != Shown::Records {
            dump.item(&self.file, &self.of_batch(header, at, checksum))?;
        }
        if let Some(checksum) = checksum {
            self.last = Some((header.number.0, checksum));
        }
        if let Err(error) = &opened {
            dump.undecoded(&self.file, at, Some(total), error)?;
        }
        if self.shown == Shown::Batches {
            return Ok(());
        }
        self.records(header, at, &bytes, opened.is_err(), dump)
    }

    /// Shows the records; those of a damaged batch by their own checksums.
    fn records(
        &self,
        header: &BatchHeader,
        at: u64,
        bytes: &[u8],
        damaged: bool,
        dump: &mut Dump<'_>,
    ) -> Result<(), Failure> {
        let body_end = BATCH_HEADER_BYTES + header.body_bytes as usize;
        let records = records_in(&bytes[..body_end.min(bytes.len())], BATCH_HEADER_BYTES);
        let records = if damaged { records.verified(seed_record(self.store)) } else { records };
        for record in records {
            match record {
                Ok((position, record)) => {
                    let item = item_of(&record, at + u64::from(position), dump.whole);
                    dump.item(&self.file, &item)?;
                }
                Err(error) => {
                    let error = error.shifted(at);
                    dump.undecoded(&self.file, error.position(), None, &error)?;
                }
            }
        }
        Ok(())
    }

    fn of_batch(&self, header: &BatchHeader, at: u64, checksum: Option<u32>) -> Item {
        // What was cut by a recovery, and not written over yet, stands behind what counts.
        let follows = self.last.is_none_or(|(number, checksum)| {
            header.number.0 == number + 1 && header.previous == checksum
        });
        Item::new("batch", at)
            .with("number", header.number.0)
            .with("epoch", header.epoch.0)
            .with("first_offset", header.first_offset.0)
            .with("messages", header.messages)
            .with("controls", header.controls)
            .with("body_bytes", header.body_bytes)
            .with("total_bytes", header.total_bytes())
            .with("durable", header.durable.to_string())
            .with("time_us", header.time_us)
            .with("previous", format!("{:08x}", header.previous))
            .with_some("checksum", checksum.map(|checksum| format!("{checksum:08x}")))
            .with_some("follows", (!follows).then_some(false))
    }
}

fn of_header(header: &SegmentHeader) -> Item {
    Item::new("segment", 0)
        .with("segment", header.segment.0)
        .with("generation", header.generation)
        .with("covers_to", header.covers_to.0)
        .with("first_offset", header.first_offset.0)
        .with("first_batch", header.first_batch.0)
        .with("file_bytes", header.file_bytes)
        .with("created_us", header.created_us)
        .with("epoch", header.epoch.0)
        .with("previous", format!("{:08x}", header.previous))
        .with("store", header.store.to_string())
}

fn of_footer(footer: &Footer<'_>, at: u64, length: usize) -> Item {
    Item::new("footer", at)
        .with("bytes", length)
        .with("batches", footer.batches())
        .with("messages", footer.messages())
        .with("routes", footer.routes())
        .with("controls", footer.controls())
        .with("dues", footer.dues())
        .with("priorities", footer.has_priorities())
        .with("first_offset", footer.first_offset().0)
        .with("end_offset", footer.end_offset().0)
        .with("log_end", footer.log_end())
        .with("last_batch", footer.last_batch().0)
        .with("min_time_us", footer.min_time_us())
        .with("max_time_us", footer.max_time_us())
        .with("checksum", format!("{:08x}", footer.checksum()))
}

/// The store that a segment's header names.
pub(super) fn store_of(file: &mut File<'_>) -> Option<StoreId> {
    let block = file.read(0, SEGMENT_HEADER_BYTES).ok()?;
    let decoded: Result<SegmentHeader, DecodeError> = SegmentHeader::decode(&block);
    decoded.ok().map(|header| header.store)
}
