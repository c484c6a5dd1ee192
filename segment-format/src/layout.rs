//! Sizes, limits and magic numbers of the format, and the assertions that tie them together.

use crate::number::{u64_of, usize_of};

/// Version of the format that this crate reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Boundary of segment headers, batches and footers, in bytes.
pub const BLOCK_BYTES: usize = 4096;
/// Size of a segment header: one block, at position 0.
pub const SEGMENT_HEADER_BYTES: usize = 4096;
/// Size of a batch header.
pub const BATCH_HEADER_BYTES: usize = 128;
/// Size of the commit mark that follows a batch's records.
pub const COMMIT_MARK_BYTES: usize = 32;
/// Records start at multiples of this within their batch.
pub const RECORD_ALIGN: usize = 8;
/// Size of the part that all records share, and smallest size of a record.
pub const RECORD_PREFIX_BYTES: usize = 16;
/// Size of the part that all message records share.
pub const MESSAGE_HEAD_BYTES: usize = 40;
/// Size of the footer's fixed part, before its sections.
pub const FOOTER_HEAD_BYTES: usize = 128;
/// Size of the trailer at the very end of a sealed segment.
pub const FOOTER_TRAILER_BYTES: usize = 64;
/// What one due or expiry time adds to a footer.
pub const FOOTER_DUE_BYTES: usize = 16;
/// Size of a checkpoint's fixed part.
pub const CHECKPOINT_HEAD_BYTES: usize = 64;

/// Largest payload of a message: 64 MiB.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Longest routing key.
pub const KEY_BYTES_MAX: usize = 255;
/// Longest name of a queue or exchange.
pub const NAME_BYTES_MAX: usize = 255;
/// Largest encoded properties of a message: 1 MiB.
pub const PROPERTIES_BYTES_MAX: usize = 1 << 20;
/// Largest encoded headers of a message: 1 MiB.
pub const HEADERS_BYTES_MAX: usize = 1 << 20;
/// Largest encoded arguments of a queue, exchange or binding: 1 MiB.
pub const ARGUMENTS_BYTES_MAX: usize = 1 << 20;
/// Longest key of a table.
pub const TABLE_KEY_BYTES_MAX: usize = 255;
/// How deep tables and arrays nest in a table.
pub const TABLE_DEPTH_MAX: usize = 16;
/// Most binding groups of a route.
pub const ROUTE_GROUPS_MAX: usize = 1 << 20;
/// Largest record of any kind: 72 MiB.
pub const RECORD_BYTES_MAX: usize = 72 << 20;
/// Largest batch, header, commit mark and padding included: 80 MiB.
pub const BATCH_BYTES_MAX: u32 = 80 << 20;
/// Largest sum of a batch's records, in bytes.
pub const BATCH_BODY_BYTES_MAX: u32 = BATCH_BYTES_MAX - 160;

/// Starts a segment file.
pub const SEGMENT_MAGIC: [u8; 8] = *b"fanlogSG";
/// Starts a batch.
pub const BATCH_MAGIC: [u8; 8] = *b"fanlogBH";
/// Starts a commit mark.
pub const COMMIT_MAGIC: [u8; 8] = *b"fanlogCM";
/// Starts a footer.
pub const FOOTER_MAGIC: [u8; 8] = *b"fanlogFT";
/// Starts the trailer of a footer.
pub const TRAILER_MAGIC: [u8; 8] = *b"fanlogTR";
/// Starts a checkpoint file.
pub const CHECKPOINT_MAGIC: [u8; 8] = *b"fanlogCP";

/// Returns the smallest multiple of `to` that is at least `n`.
///
/// # Panics
///
/// If `to` is zero, or the result does not fit (in debug builds).
#[inline]
pub const fn align_up(n: usize, to: usize) -> usize {
    n.next_multiple_of(to)
}

const _: () = {
    assert!(SEGMENT_HEADER_BYTES == BLOCK_BYTES);
    assert!(BATCH_HEADER_BYTES.is_multiple_of(RECORD_ALIGN));
    assert!(BATCH_HEADER_BYTES + COMMIT_MARK_BYTES <= BLOCK_BYTES);
    assert!(RECORD_PREFIX_BYTES.is_multiple_of(RECORD_ALIGN));
    assert!(MESSAGE_HEAD_BYTES.is_multiple_of(RECORD_ALIGN));
    assert!(FOOTER_HEAD_BYTES.is_multiple_of(8) && FOOTER_TRAILER_BYTES.is_multiple_of(8));
    assert!(FOOTER_HEAD_BYTES + FOOTER_TRAILER_BYTES <= BLOCK_BYTES);
    assert!(BATCH_HEADER_BYTES + COMMIT_MARK_BYTES == 160);
    assert!(usize_of(BATCH_BYTES_MAX).is_multiple_of(BLOCK_BYTES));
    assert!(BATCH_BODY_BYTES_MAX.is_multiple_of(8));
    assert!(u64_of(KEY_BYTES_MAX) <= 0xff && u64_of(NAME_BYTES_MAX) <= 0xff);
    // Any message and any route definition fits into a record, and any record into a batch.
    let message_max = MESSAGE_HEAD_BYTES
        + 8
        + 8
        + 16
        + 8
        + 4
        + 4 * ROUTE_GROUPS_MAX
        + KEY_BYTES_MAX
        + PROPERTIES_BYTES_MAX
        + HEADERS_BYTES_MAX
        + MESSAGE_BYTES_MAX;
    assert!(message_max <= RECORD_BYTES_MAX);
    assert!(RECORD_BYTES_MAX.is_multiple_of(RECORD_ALIGN));
    assert!(RECORD_BYTES_MAX <= usize_of(BATCH_BODY_BYTES_MAX));
};
