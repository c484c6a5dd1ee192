//! One batch in memory: its bytes as they stand in the file, and its index.

use std::{
    ops::Deref,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use fanlog_segment_format::{
    Offset, StoreId,
    batch::{BatchHeader, open_batch},
    checksum::seed_record,
    record::{MessageRecord, Record, RecordHead, seal_record, verify_record},
};

use super::{
    index::{BatchIndex, IndexBuilder},
    view::Damage,
};
use crate::{append::arena::Frozen, storage::AlignedBuffer};

/// Where a batch's bytes live.
#[derive(Debug)]
pub(crate) enum BatchBytes {
    /// In the buffer that it was appended to.
    Appended(Frozen),
    /// Read back from the file.
    ReadBack(ReadBack),
}

/// Bytes that were read back, counted as long as anybody holds them.
#[derive(Debug)]
pub(crate) struct ReadBack {
    bytes: AlignedBuffer,
    held: ReadBackBytes,
}

impl Drop for ReadBack {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// How much of what was read back is held.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadBackBytes(Arc<AtomicUsize>);

impl ReadBackBytes {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn hold(&self, bytes: AlignedBuffer) -> ReadBack {
        self.0.fetch_add(bytes.len(), Ordering::Relaxed);
        ReadBack { bytes, held: self.clone() }
    }
}

impl Deref for BatchBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Appended(bytes) => bytes,
            Self::ReadBack(read) => &read.bytes,
        }
    }
}

/// A batch and its index, which was made when its bytes were written or checked by this process.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) index: Arc<BatchIndex>,
    pub(crate) bytes: BatchBytes,
    pub(crate) store: StoreId,
    /// Its file, if what was read back from there is no longer what was written.
    pub(crate) damaged: Option<PathBuf>,
}

impl Batch {
    /// A batch that was appended by this process.
    pub(crate) fn appended(index: Arc<BatchIndex>, bytes: Frozen, store: StoreId) -> Self {
        Self { index, bytes: BatchBytes::Appended(bytes), store, damaged: None }
    }

    /// A batch read back from its file.
    pub(crate) fn read_back(
        index: Arc<BatchIndex>,
        bytes: ReadBack,
        store: StoreId,
        damaged: Option<PathBuf>,
    ) -> Self {
        Self { index, bytes: BatchBytes::ReadBack(bytes), store, damaged }
    }

    /// The record of message `number`.
    ///
    /// # Errors
    ///
    /// Where it is damaged: of a damaged batch, those whose own checksum is wrong.
    pub(crate) fn message(&self, number: u32) -> Result<MessageRecord<'_>, Damage> {
        let start = self.index.position_of(number) as usize;
        let Some(path) = &self.damaged else {
            let decoded = MessageRecord::decode(&self.bytes[start..]);
            let (record, _) = decoded.expect("the batch was made or checked by this process");
            return Ok(record);
        };
        let offset = Offset(self.index.first_offset.0 + u64::from(number));
        let position = self.index.position + start as u64;
        let damage = || Damage { offset, path: path.clone(), position };
        salvage(&self.bytes[start..], self.store)
            .filter(|record| record.offset == offset)
            .ok_or_else(damage)
    }
}

/// The record at the start of `bytes`, if its own checksum is right.
pub(crate) fn salvage(bytes: &[u8], store: StoreId) -> Option<MessageRecord<'_>> {
    let head = RecordHead::peek(bytes).ok()?;
    verify_record(seed_record(store), bytes.get(..head.length as usize)?).ok()?;
    MessageRecord::decode(bytes).ok().map(|(record, _)| record)
}

/// Walks freshly appended records: gives each its checksum, notes it in `builder`.
///
/// `records` starts at `start` within the batch and holds whole records made by this process.
pub(crate) fn seal_records(
    store: StoreId,
    records: &mut [u8],
    start: usize,
    builder: &mut IndexBuilder,
) {
    let seed = seed_record(store);
    let mut at = 0;
    while at < records.len() {
        let head = RecordHead::peek(&records[at..]).expect("a record made by this process");
        let position = u32::try_from(start + at).expect("a batch's bytes fit u32");
        let record = &mut records[at..at + head.length as usize];
        seal_record(seed, record);
        if head.is_message() {
            builder.message(position, &head, time_of(record));
        } else {
            builder.control(position);
        }
        at += head.padded as usize;
    }
}

/// The publishing time that a message's head carries.
fn time_of(record: &[u8]) -> u64 {
    let bytes = record[32..40].try_into().expect("eight bytes");
    u64::from_le_bytes(bytes)
}

/// Checks a batch read from a file and makes its index.
///
/// # Errors
///
/// What does not decode, with its byte within the batch.
pub(crate) fn index_batch(
    bytes: &[u8],
    header: &BatchHeader,
    builder: &mut IndexBuilder,
) -> Result<(BatchIndex, u32), fanlog_segment_format::DecodeError> {
    let batch = open_batch(bytes, header.store, header.segment, header.position)?;
    for record in batch.records() {
        let (position, record) = record?;
        match record {
            Record::Message(message) => {
                let start = position as usize;
                let head = RecordHead::peek(&bytes[start..])?;
                builder.message(position, &head, message.time_us);
            }
            Record::Control(_) => builder.control(position),
        }
    }
    let total = u32::try_from(header.total_bytes()).expect("bounded by the header's decoder");
    let first: Offset = header.first_offset;
    let index = builder.build(header.number, header.segment, header.position, total, first);
    Ok((index, batch.checksum))
}
