//! The segment header: one block at position 0 of every segment file.

use crate::checksum::{checksum, seed_file};
use crate::layout::{FORMAT_VERSION, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC};
use crate::wire::{Reader, SliceWriter, store_u32};
use crate::{BatchNumber, DecodeError, Epoch, Offset, SegmentId, StoreId};

const STRUCTURE: &str = "segment header";
const VERSION_AT: usize = 8;
/// Where the checksum stands: at the end of the block, so that it covers every other byte.
const CHECKSUM_AT: usize = SEGMENT_HEADER_BYTES - 4;
/// Zeros between the fields and the checksum.
const RESERVED_BYTES: usize = CHECKSUM_AT - 88;

/// What a segment file says about itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The store that the file belongs to.
    pub store: StoreId,
    /// The number of the segment.
    pub segment: SegmentId,
    /// The last segment number that the file stands for: `segment`, unless rewriting merged some.
    pub covers_to: SegmentId,
    /// 0 as written by publishing; rewriting raises it.
    pub generation: u32,
    /// The epoch in which the file was made.
    pub epoch: Epoch,
    /// The offset of the first message that the file has, or would have.
    pub first_offset: Offset,
    /// The number of its first batch.
    pub first_batch: BatchNumber,
    /// The checksum of the batch before the first; 0 before the first of a store.
    pub previous: u32,
    /// The size that the file was prepared with, in bytes.
    pub file_bytes: u64,
    /// When it was made: microseconds since 1970.
    pub created_us: u64,
}

impl SegmentHeader {
    /// Returns the block that [`decode`](Self::decode) reads.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut block = [0; SEGMENT_HEADER_BYTES];
        let mut out = SliceWriter::new(&mut block);
        out.bytes(&SEGMENT_MAGIC);
        out.u32(FORMAT_VERSION);
        out.u32(self.generation);
        out.bytes(&self.store.0);
        out.u64(self.segment.0);
        out.u64(self.covers_to.0);
        out.u64(self.first_offset.0);
        out.u64(self.first_batch.0);
        out.u64(self.file_bytes);
        out.u64(self.created_us);
        out.u32(self.epoch.0);
        out.u32(self.previous);
        let crc = self.checksum(&block);
        store_u32(&mut block, CHECKSUM_AT, crc);
        block
    }

    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`DecodeError::UnsupportedVersion`] if the magic is right and the version another: it is
    /// looked at before the checksum, as another version may keep its checksum elsewhere; unless this
    /// is a valid header but for its version, which is damaged then. Any other [`DecodeError`]: no
    /// valid header.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES).unwrap_or(bytes);
        let mut reader = Reader::new(STRUCTURE, bytes);
        reader.magic(SEGMENT_MAGIC)?;
        let found = reader.u32()?;
        if found != FORMAT_VERSION {
            return Err(Self::of_another_version(bytes, found));
        }
        let generation = reader.u32()?;
        let header = Self {
            generation,
            store: StoreId(reader.array()?),
            segment: SegmentId(reader.u64()?),
            covers_to: SegmentId(reader.u64()?),
            first_offset: Offset(reader.u64()?),
            first_batch: BatchNumber(reader.u64()?),
            file_bytes: reader.u64()?,
            created_us: reader.u64()?,
            epoch: Epoch(reader.u32()?),
            previous: reader.u32()?,
        };
        let reserved = reader.take(RESERVED_BYTES)?;
        let found = reader.u32()?;
        let expected = header.checksum(bytes);
        if found != expected {
            let structure = STRUCTURE;
            return Err(DecodeError::Checksum { structure, position: 0, expected, found });
        }
        if !is_blank(reserved) {
            return Err(reader.field(RESERVED_BYTES + 4, "reserved", "zero", 1));
        }
        if header.covers_to < header.segment {
            let (field, expected) = ("covers_to", "segment or more");
            return Err(DecodeError::Field {
                structure: STRUCTURE,
                position: 40,
                field,
                expected,
                found: header.covers_to.0,
            });
        }
        Ok(header)
    }

    fn of_another_version(bytes: &[u8], found: u32) -> DecodeError {
        let mut own = [0; SEGMENT_HEADER_BYTES];
        if own.len() == bytes.len() {
            own.copy_from_slice(bytes);
            store_u32(&mut own, VERSION_AT, FORMAT_VERSION);
            if Self::decode(&own).is_ok() {
                return DecodeError::of_damaged_version(STRUCTURE, found);
            }
        }
        DecodeError::UnsupportedVersion { found, supported: FORMAT_VERSION }
    }

    fn checksum(&self, block: &[u8]) -> u32 {
        let covered = block.get(..CHECKSUM_AT).unwrap_or(block);
        checksum(seed_file(self.store, self.segment.0), &[covered])
    }
}

/// Tells whether all bytes are zero: a block that was prepared and never written.
pub fn is_blank(block: &[u8]) -> bool {
    block.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
