//! CRC-32, seeded with the place that the bytes belong to.
//!
//! A checksum continues from a seed, so that the same bytes in another store, segment, epoch or
//! position have another checksum. The polynomial is that of zlib and Ethernet (reflected
//! `0xEDB88320`), which `crc32fast` computes with the machine's instructions.

use crc32fast::Hasher;

use crate::ids::{Epoch, SegmentId, StoreId};

/// Returns the seed of the batch at `position` of a segment, written in `epoch`.
#[inline]
pub fn seed_batch(store: StoreId, segment: SegmentId, epoch: Epoch, position: u64) -> u32 {
    checksum(
        0,
        &[&store.0, &segment.0.to_le_bytes(), &epoch.0.to_le_bytes(), &position.to_le_bytes()],
    )
}

/// Returns the seed of a record: the same in all segments, as rewriting moves records.
#[inline]
pub fn seed_record(store: StoreId) -> u32 {
    checksum(0, &[&store.0])
}

/// Returns the seed of what exists once per file: segment header, footer, checkpoint.
#[inline]
pub fn seed_file(store: StoreId, number: u64) -> u32 {
    checksum(0, &[&store.0, &number.to_le_bytes()])
}

/// Returns the CRC-32 of `parts`, one after the other, continued from `seed`.
#[inline]
pub fn checksum(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}
