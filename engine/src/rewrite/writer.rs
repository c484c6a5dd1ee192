//! Writes one file from what is live in several sealed segments.
//!
//! In: neighbours, mapped, and which of their messages survive. Out: a file under its temporary
//! name, then under its own, durable. A piece at a time: one batch.
//!
//! R1. A record is copied as it is, once its own checksum, offset and route were found right. One
//!     that is not ends the work: the sources stay as they are.
//! R2. The file stands for all offsets and batches that its sources stood for, so the log around
//!     it is not changed; its own batches bear the numbers of the last ones that went into them.
//! R3. It bears its name only once its bytes are durable.

use std::{io::ErrorKind, ops::Range, sync::Arc};

use fanlog_segment_format::{
    BatchNumber, Epoch, LogPosition,
    batch::{BatchHeader, seal_batch},
    checksum::seed_record,
    file_name::{FileName, TemporaryOf},
    footer::{Footer, FooterBuilder},
    header::SegmentHeader,
    layout::{
        BATCH_HEADER_BYTES, BLOCK_BYTES, COMMIT_MARK_BYTES, RECORD_ALIGN, SEGMENT_HEADER_BYTES,
        align_up,
    },
    record::{MessageRecord, RecordHead, verify_record},
};

use super::survivors::Survivors;
use crate::{
    Damage, Error, Result,
    error::FileOp,
    log::{index::list_extras, sealed::SealedReader, segment::Segment},
    storage::{AlignedBuffer, Purpose, Storage, StorageFile, WriteSync},
};

/// A batch is ended, where one of the sources' ends, once its records have so many bytes.
pub(super) const BATCH_BYTES: usize = 1 << 20;
/// A batch of a source is not added to what would have more than so many bytes then.
const BATCH_BYTES_MAX: usize = 4 * BATCH_BYTES;

/// A segment that goes into the new file.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) reader: Arc<SealedReader>,
    pub(super) survivors: Survivors,
}

impl Source {
    fn segment(&self) -> &Arc<Segment> {
        &self.reader.segment
    }

    /// Reads a batch as a whole if much of it survives: one call instead of one for each record.
    fn read_ahead(&self, footer: &Footer<'_>, batch: u32, numbers: Range<u32>) {
        let records = self.survivors.within(numbers).count();
        if records * 2 * BLOCK_BYTES >= footer.batch(batch).total_bytes as usize {
            self.reader.read_ahead(batch);
        }
    }

    /// Bytes of the survivors among these messages, each padded.
    fn padded_bytes(&self, numbers: Range<u32>) -> Result<usize, Stopped> {
        let padded = |number| match self.reader.record_bytes(number) {
            Some(record) => Ok(align_up(record.len(), RECORD_ALIGN)),
            None => Err(self.damaged(number)),
        };
        self.survivors.within(numbers).map(padded).sum()
    }

    fn damaged(&self, number: u32) -> Stopped {
        Stopped::Damaged(Arc::clone(self.segment()), self.reader.damage_of(number))
    }
}

/// Why nothing more was written.
#[derive(Debug)]
pub(super) enum Stopped {
    /// A record that should have been copied is damaged.
    Damaged(Arc<Segment>, Damage),
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    storage: Arc<dyn Storage>,
    header: SegmentHeader,
    file: Arc<dyn StorageFile>,
    temporary: String,
    sources: Vec<Source>,
    /// The next batch to copy: of which source, which one.
    at: (usize, u32),
    /// Where the next batch goes.
    position: u64,
    /// Checksum of the last one.
    previous: u32,
    footer: FooterBuilder,
}

/// Some batches of one source that go into the same batch.
struct Piece {
    source: usize,
    /// Its messages.
    numbers: Range<u32>,
    last: BatchNumber,
}

impl Writer {
    /// Creates the file for these neighbours, of which there is at least one.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: there is no file then.
    pub(super) fn begin(
        storage: Arc<dyn Storage>,
        sources: Vec<Source>,
        epoch: Epoch,
        created_us: u64,
    ) -> Result<Self> {
        let (first, last) = (sources[0].segment().header, sources[sources.len() - 1].segment());
        let generations = sources.iter().map(|source| source.segment().header.generation);
        let header = SegmentHeader {
            generation: generations.max().unwrap_or(0) + 1,
            covers_to: last.header.covers_to,
            epoch,
            created_us,
            // Known at the end.
            file_bytes: 0,
            ..first
        };
        let temporary = TemporaryOf::Rewritten(header.segment, header.generation);
        let temporary = FileName::Temporary(temporary).to_string();
        let file = create(&*storage, &temporary)?;
        Ok(Self {
            position: SEGMENT_HEADER_BYTES as u64,
            previous: header.previous,
            footer: FooterBuilder::new(&header),
            at: (0, 0),
            storage,
            header,
            file,
            temporary,
            sources,
        })
    }

    pub(super) fn sources(&self) -> Vec<Arc<Segment>> {
        self.sources.iter().map(|source| Arc::clone(source.segment())).collect()
    }

    /// Copies the next batch. Says whether there was any.
    ///
    /// # Errors
    ///
    /// As [`Stopped`] says; the file is to be discarded then.
    pub(super) fn step(&mut self) -> Result<bool, Stopped> {
        let (pieces, bytes) = self.gather()?;
        let Some(last) = pieces.last() else { return Ok(false) };
        let frame = BATCH_HEADER_BYTES + COMMIT_MARK_BYTES;
        let mut buffer = AlignedBuffer::zeroed(align_up(bytes + frame, BLOCK_BYTES));
        let mut header = BatchHeader {
            store: self.header.store,
            segment: self.header.segment,
            position: self.position,
            epoch: self.header.epoch,
            number: last.last,
            durable: LogPosition { segment: self.header.segment, position: self.position },
            previous: self.previous,
            time_us: self.header.created_us,
            ..BatchHeader::default()
        };
        let first_message = self.footer.messages();
        let mut end = BATCH_HEADER_BYTES;
        for piece in &pieces {
            let source = &self.sources[piece.source];
            for number in source.survivors.within(piece.numbers.clone()) {
                let at = u32_of(self.position) + u32_of(end as u64);
                let record = copy_record(source, number, &mut buffer[end..], at, &mut self.footer)?;
                if header.messages == 0 {
                    header.first_offset = source.reader.footer().offset_of(number);
                }
                header.messages += 1;
                end += record;
            }
        }
        header.body_bytes = u32_of((end - BATCH_HEADER_BYTES) as u64);
        let total = header.total_bytes();
        self.previous = seal_batch(&header, &mut buffer[..total]);
        self.write(self.position, &buffer[..total])?;
        let total = total as u64;
        self.footer.batch(u32_of(self.position), u32_of(total), first_message, header.number);
        self.position += total;
        Ok(true)
    }

    /// The next batches of the sources that have survivors and make one batch; the bytes of their
    /// records.
    fn gather(&mut self) -> Result<(Vec<Piece>, usize), Stopped> {
        let mut pieces = Vec::new();
        let mut gathered = 0;
        while gathered < BATCH_BYTES && self.at.0 < self.sources.len() {
            let (at, batch) = self.at;
            let source = &self.sources[at];
            let footer = source.reader.footer();
            if batch == footer.batches() {
                self.at = (at + 1, 0);
                continue;
            }
            let numbers = messages_of(&footer, batch);
            source.read_ahead(&footer, batch, numbers.clone());
            let bytes = source.padded_bytes(numbers.clone())?;
            if gathered > 0 && gathered + bytes > BATCH_BYTES_MAX {
                break;
            }
            self.at.1 += 1;
            if bytes > 0 {
                gathered += bytes;
                pieces.push(Piece { source: at, numbers, last: footer.batch(batch).number });
            }
        }
        Ok((pieces, gathered))
    }

    /// Writes footer and header, makes the file durable and gives it its name.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the file is to be discarded then.
    pub(super) fn finish(&mut self) -> Result<Arc<Segment>> {
        let last = &self.sources[self.sources.len() - 1];
        let end_offset = last.reader.footer().end_offset();
        let mut footer = self.footer.clone();
        footer.cover_to(end_offset);
        // R2: the segment behind goes on from the batch that was the last when it was written.
        let of_last = last.reader.footer();
        footer.end(self.position, of_last.last_batch(), of_last.checksum());
        let start = footer.start();
        let bytes = footer.encode();
        let mut aligned = AlignedBuffer::zeroed(bytes.len());
        aligned.copy_from_slice(&bytes);
        self.write(start, &aligned)?;
        self.header.file_bytes = start + bytes.len() as u64;
        let mut block = AlignedBuffer::zeroed(SEGMENT_HEADER_BYTES);
        block.copy_from_slice(&self.header.encode());
        self.write(0, &block)?;
        let segment = Segment::sealed(self.header, end_offset, self.header.file_bytes);
        self.file.sync().map_err(|source| self.failed(FileOp::Sync, source))?;
        self.storage
            .rename(&self.temporary, &segment.name)
            .map_err(|source| self.failed(FileOp::Rename, source))?;
        self.temporary.clone_from(&segment.name);
        self.storage
            .sync_directory()
            .map_err(|source| Error::io(FileOp::SyncDirectory, self.storage.path(""), source))?;
        Ok(Arc::new(segment))
    }

    /// How much of the file is written.
    pub(super) fn written(&self) -> u64 {
        self.position
    }

    /// Removes the file, under whichever name it has.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(super) fn discard(self) -> Result<()> {
        self.storage.remove(&self.temporary).map_err(|source| self.failed(FileOp::Remove, source))
    }

    fn write(&self, position: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(position, bytes, WriteSync::None)
            .map_err(|source| self.failed(FileOp::Write, source))
    }

    fn failed(&self, op: FileOp, source: std::io::Error) -> Error {
        Error::io(op, self.storage.path(&self.temporary), source)
    }
}

/// Creates the file. One that an earlier attempt could not remove is in nobody's use.
fn create(storage: &dyn Storage, name: &str) -> Result<Arc<dyn StorageFile>> {
    let failed = |op| move |source| Error::io(op, storage.path(name), source);
    match storage.create(name, Purpose::Log) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            storage.remove(name).map_err(failed(FileOp::Remove))?;
            storage.create(name, Purpose::Log).map_err(failed(FileOp::Create))
        }
        created => created.map_err(failed(FileOp::Create)),
    }
}

/// The numbers of a batch's messages.
pub(super) fn messages_of(footer: &Footer<'_>, batch: u32) -> Range<u32> {
    let next = batch + 1;
    let end =
        if next == footer.batches() { footer.messages() } else { footer.batch(next).first_message };
    footer.batch(batch).first_message..end
}

/// R1: copies message `number` to the start of `to`, which lies at byte `at` of the file. Returns
/// its size, padding included.
fn copy_record(
    source: &Source,
    number: u32,
    to: &mut [u8],
    at: u32,
    footer: &mut FooterBuilder,
) -> Result<usize, Stopped> {
    let reader = &source.reader;
    let bad = || source.damaged(number);
    let bytes = reader.record_bytes(number).ok_or_else(bad)?;
    verify_record(seed_record(reader.segment.header.store), bytes).map_err(|_| bad())?;
    let head = RecordHead::peek(bytes).map_err(|_| bad())?;
    let (message, _) = MessageRecord::decode(bytes).map_err(|_| bad())?;
    if message.offset != reader.footer().offset_of(number) {
        return Err(bad());
    }
    to[..bytes.len()].copy_from_slice(bytes);
    footer.message(message.offset, at, head.route, head.payload_bytes, message.time_us);
    list_extras(footer, &head);
    Ok(align_up(bytes.len(), RECORD_ALIGN))
}

fn u32_of(n: u64) -> u32 {
    u32::try_from(n).expect("a segment is at most 1 GiB")
}
