//! Batches: records that become durable together, between a header and a commit mark.
//!
//! B1. A batch starts and ends at a block boundary and lies within one segment.
//! B2. Its checksum covers header, records and commit mark, and its place: store, segment, epoch
//!     and position are in the seed.
//! B3. The checksum of a batch is repeated by its successor as `previous`.

use crate::checksum::{checksum, seed_batch};
use crate::layout::{
    BATCH_BODY_BYTES_MAX, BATCH_HEADER_BYTES, BATCH_MAGIC, BLOCK_BYTES, COMMIT_MAGIC,
    COMMIT_MARK_BYTES, MESSAGE_HEAD_BYTES, RECORD_ALIGN, RECORD_PREFIX_BYTES, align_up,
};
use crate::number::{u32_of, u64_of, usize_of};
use crate::record::verify_record;
use crate::wire::{Reader, SliceWriter, store_u32, u64_at};
use crate::{BatchNumber, DecodeError, Epoch, LogPosition, Offset, Record, SegmentId, StoreId};

const HEADER: &str = "batch header";
const MARK: &str = "commit mark";
const BATCH: &str = "batch";
const HEADER_CHECKSUM_AT: usize = BATCH_HEADER_BYTES - 4;
const MARK_CHECKSUM_AT: usize = COMMIT_MARK_BYTES - 4;

/// What a batch says about itself and about the log before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchHeader {
    /// The store that it belongs to.
    pub store: StoreId,
    /// The segment that it lies in.
    pub segment: SegmentId,
    /// The byte of the file at which it starts: a multiple of 4096.
    pub position: u64,
    /// The epoch in which it was written.
    pub epoch: Epoch,
    /// Its number: one more than the batch before.
    pub number: BatchNumber,
    /// The offset of its first message, or of the next one if it has none.
    pub first_offset: Offset,
    /// How many message records it has.
    pub messages: u32,
    /// How many control records it has.
    pub controls: u32,
    /// The bytes of its records, each padded to eight; not header, mark and padding.
    pub body_bytes: u32,
    /// All of the log before this was known to be durable when the batch was written.
    pub durable: LogPosition,
    /// The checksum of the batch before; 0 in the first of a store.
    pub previous: u32,
    /// When it was sealed: microseconds since 1970.
    pub time_us: u64,
    /// No flag is defined in version 1: written as 0, not looked at.
    pub flags: u32,
}

impl BatchHeader {
    /// Returns the size of the whole batch in bytes: a multiple of 4096.
    #[inline]
    pub fn total_bytes(&self) -> usize {
        align_up(
            usize_of(self.body_bytes).saturating_add(BATCH_HEADER_BYTES + COMMIT_MARK_BYTES),
            BLOCK_BYTES,
        )
    }

    /// Reads the header at the start of `bytes`, which come from `position` of that segment.
    ///
    /// The records are not looked at: a batch whose header is valid can be stepped over.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Mismatch`] if it is a valid header of another place, any other if it is none.
    pub fn decode(
        bytes: &[u8],
        store: StoreId,
        segment: SegmentId,
        position: u64,
    ) -> Result<Self, DecodeError> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES).unwrap_or(bytes);
        let mut reader = Reader::new(HEADER, bytes);
        reader.magic(BATCH_MAGIC)?;
        let mut header = Self {
            store: StoreId(reader.array()?),
            segment: SegmentId(reader.u64()?),
            position: reader.u64()?,
            number: BatchNumber(reader.u64()?),
            first_offset: Offset(reader.u64()?),
            durable: LogPosition { segment: SegmentId(reader.u64()?), position: reader.u64()? },
            time_us: reader.u64()?,
            epoch: Epoch(reader.u32()?),
            messages: reader.u32()?,
            controls: reader.u32()?,
            body_bytes: reader.u32()?,
            ..Self::default()
        };
        header.previous = reader.u32()?;
        header.flags = reader.u32()?;
        let reserved = reader.array::<20>()?;
        let found = reader.u32()?;
        let covered = bytes.get(..HEADER_CHECKSUM_AT).unwrap_or(bytes);
        let expected = checksum(header.seed(), &[covered]);
        if found != expected {
            return Err(DecodeError::Checksum { structure: HEADER, position: 0, expected, found });
        }
        if reserved != [0; 20] {
            return Err(reader.field(24, "reserved", "zero", 1));
        }
        header.check_place(store, segment, position)?;
        header.check_counts()?;
        Ok(header)
    }

    fn check_place(
        &self,
        store: StoreId,
        segment: SegmentId,
        position: u64,
    ) -> Result<(), DecodeError> {
        let mismatch = |at, field, expected, found| DecodeError::Mismatch {
            structure: HEADER,
            position: at,
            field,
            expected,
            found,
        };
        if self.store != store {
            return Err(mismatch(8, "store", start_of(store), start_of(self.store)));
        }
        if self.segment != segment {
            return Err(mismatch(24, "segment", segment.0, self.segment.0));
        }
        if self.position != position {
            return Err(mismatch(32, "position", position, self.position));
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<(), DecodeError> {
        let bytes = self.body_bytes;
        if bytes > BATCH_BODY_BYTES_MAX || !usize_of(bytes).is_multiple_of(RECORD_ALIGN) {
            return Err(DecodeError::Length {
                structure: HEADER,
                position: 92,
                least: 0,
                most: u64::from(BATCH_BODY_BYTES_MAX),
                found: u64::from(bytes),
            });
        }
        let least = u64::from(self.messages)
            .saturating_mul(u64_of(MESSAGE_HEAD_BYTES))
            .saturating_add(u64::from(self.controls).saturating_mul(u64_of(RECORD_PREFIX_BYTES)));
        if least > u64::from(bytes) || (least == 0) != (bytes == 0) {
            return Err(DecodeError::Field {
                structure: HEADER,
                position: 84,
                field: "messages and controls",
                expected: "records that body_bytes can hold",
                found: u64::from(self.messages).saturating_add(u64::from(self.controls)),
            });
        }
        Ok(())
    }

    /// Writes the header into its 128 bytes, with its checksum.
    fn encode(&self, seed: u32, out: &mut [u8]) {
        let mut writer = SliceWriter::new(out);
        writer.bytes(&BATCH_MAGIC);
        writer.bytes(&self.store.0);
        writer.u64(self.segment.0);
        writer.u64(self.position);
        writer.u64(self.number.0);
        writer.u64(self.first_offset.0);
        writer.u64(self.durable.segment.0);
        writer.u64(self.durable.position);
        writer.u64(self.time_us);
        writer.u32(self.epoch.0);
        writer.u32(self.messages);
        writer.u32(self.controls);
        writer.u32(self.body_bytes);
        writer.u32(self.previous);
        writer.u32(self.flags);
        writer.bytes(&[0; 20]);
        let (covered, _) = out.split_at(HEADER_CHECKSUM_AT);
        let crc = checksum(seed, &[covered]);
        store_u32(out, HEADER_CHECKSUM_AT, crc);
    }

    #[inline]
    fn seed(&self) -> u32 {
        seed_batch(self.store, self.segment, self.epoch, self.position)
    }
}

/// The first eight bytes of a store's id, for messages.
fn start_of(store: StoreId) -> u64 {
    u64_at(&store.0, 0).unwrap_or(0)
}

/// Completes a batch whose records stand at byte 128 of `batch`, and returns its checksum.
///
/// `batch` is the whole aligned region of [`total_bytes`](BatchHeader::total_bytes). Writes the
/// header and the commit mark and zeroes the padding; the records are not changed.
///
/// # Panics
///
/// If `batch` has another size than the header asks for, the header states an impossible size, or
/// it stands at no block boundary.
pub fn seal_batch(header: &BatchHeader, batch: &mut [u8]) -> u32 {
    assert_eq!(batch.len(), header.total_bytes(), "B1: a batch fills its blocks");
    assert!(header.position.is_multiple_of(u64_of(BLOCK_BYTES)), "B1: at a block boundary");
    header.check_counts().expect("the caller counted the records of the batch");
    let seed = header.seed();
    let body_end = usize_of(header.body_bytes).saturating_add(BATCH_HEADER_BYTES);
    let (head, _) = batch.split_at_mut(BATCH_HEADER_BYTES);
    header.encode(seed, head);
    let (_, tail) = batch.split_at_mut(body_end);
    let mut mark = SliceWriter::new(tail);
    mark.bytes(&COMMIT_MAGIC);
    mark.u64(header.number.0);
    mark.u32(header.body_bytes);
    mark.u32(header.epoch.0);
    mark.zero_rest();
    let checksum_at = body_end.saturating_add(MARK_CHECKSUM_AT);
    let (covered, _) = batch.split_at(checksum_at);
    let crc = checksum(seed, &[covered]);
    store_u32(batch, checksum_at, crc);
    crc
}

/// A batch whose checksum is right.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Its header.
    pub header: BatchHeader,
    /// Its checksum, which the next batch repeats.
    pub checksum: u32,
    /// Header and records.
    bytes: &'a [u8],
}

/// Reads the batch at the start of `bytes`, which come from `position` of that segment.
///
/// # Errors
///
/// What is wrong with the header, the commit mark or the checksum, or
/// [`DecodeError::Truncated`] if `bytes` ends before the commit mark does. The padding behind the
/// mark changes nothing and is not looked at.
pub fn open_batch(
    bytes: &[u8],
    store: StoreId,
    segment: SegmentId,
    position: u64,
) -> Result<Batch<'_>, DecodeError> {
    let header = BatchHeader::decode(bytes, store, segment, position)?;
    let body_end = usize_of(header.body_bytes).saturating_add(BATCH_HEADER_BYTES);
    let mut reader = Reader::new(BATCH, bytes);
    let body = reader.take(body_end)?;
    check_mark(&header, reader.rest()).map_err(|error| error.shifted(u64_of(body_end)))?;
    let mut reader = Reader::new(BATCH, bytes);
    let covered = reader.take(body_end.saturating_add(MARK_CHECKSUM_AT))?;
    let found = reader.u32()?;
    let expected = checksum(header.seed(), &[covered]);
    if found != expected {
        return Err(DecodeError::Checksum { structure: BATCH, position: 0, expected, found });
    }
    Ok(Batch { header, checksum: found, bytes: body })
}

fn check_mark(header: &BatchHeader, bytes: &[u8]) -> Result<(), DecodeError> {
    let mut reader = Reader::new(MARK, bytes);
    reader.magic(COMMIT_MAGIC)?;
    let mismatch = |position, field, expected, found| {
        if expected == found {
            return Ok(());
        }
        Err(DecodeError::Mismatch { structure: MARK, position, field, expected, found })
    };
    mismatch(8, "number", header.number.0, reader.u64()?)?;
    mismatch(16, "body_bytes", u64::from(header.body_bytes), u64::from(reader.u32()?))?;
    mismatch(20, "epoch", u64::from(header.epoch.0), u64::from(reader.u32()?))?;
    reader.zeros::<4>()
}

impl<'a> Batch<'a> {
    /// Returns the records in order, each with its position in the batch.
    pub fn records(&self) -> Records<'a> {
        records_in(self.bytes, BATCH_HEADER_BYTES)
    }

    /// Returns header and records: the slice that the positions of the records refer to.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Returns the records of `body` from byte `start` on.
///
/// `body` starts with the batch, ends with its records, and `start` is 128 or where a record is
/// known to start; the positions that are returned count from the start of `body`. Also for a
/// batch whose checksum is wrong: then with [`Records::verified`].
pub fn records_in(body: &[u8], start: usize) -> Records<'_> {
    Records { body, at: start, seed: None }
}

/// The records of a batch, in order, each with its position.
///
/// An error about one record is returned in its place. The walk goes on behind it if the record
/// states a possible length, and ends otherwise.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    body: &'a [u8],
    at: usize,
    /// When given, each record's own checksum is checked.
    seed: Option<u32>,
}

impl Records<'_> {
    /// Also checks each record's own checksum, seeded with [`seed_record`](crate::seed_record).
    pub fn verified(self, store_seed: u32) -> Self {
        Self { seed: Some(store_seed), ..self }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(u32, Record<'a>), DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.body.get(self.at..).filter(|bytes| !bytes.is_empty())?;
        let at = self.at;
        let framed = crate::record::record_bytes(bytes);
        // A length that is impossible leaves no place to go on at.
        self.at = match &framed {
            Ok(record) => at.saturating_add(align_up(record.len(), RECORD_ALIGN)),
            Err(_) => self.body.len(),
        };
        let decoded = framed.and_then(|_| {
            self.seed.map_or(Ok(()), |seed| verify_record(seed, bytes))?;
            let (record, _) = Record::decode(bytes)?;
            Ok((u32_of(at), record))
        });
        Some(decoded.map_err(|error| error.shifted(u64_of(at))))
    }
}
