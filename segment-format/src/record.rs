//! Records: messages and control records, as they stand in a batch.
//!
//! A record starts at a multiple of eight bytes with its length, its own checksum and its kind.
//! The checksum is seeded with the store alone, so that a record keeps it when it is rewritten to
//! another segment, and so that damage inside a batch can be pinned to single records. The zeros
//! that pad a record to eight bytes are not part of it; the checksum of the batch covers them.

use crate::checksum::checksum;
use crate::control::Control;
use crate::layout::{RECORD_ALIGN, RECORD_BYTES_MAX, RECORD_PREFIX_BYTES, align_up};
use crate::message::peek_message;
pub use crate::message::{DurabilityMode, MessageRecord};
use crate::number::{u32_of, u64_of, usize_of};
use crate::wire::{Reader, store_u32, u32_at};
use crate::{DecodeError, Offset, RouteId};

/// The kind of a message record.
pub(crate) const KIND_MESSAGE: u8 = 1;
/// Where the checksum stands in a record.
const CRC_AT: usize = 4;

/// A record of either sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// A message.
    Message(MessageRecord<'a>),
    /// A change of topology or of a queue.
    Control(Control<'a>),
}

impl<'a> Record<'a> {
    /// Reads the record at the start of `bytes`, and its size padding included.
    ///
    /// # Errors
    ///
    /// [`DecodeError::UnsupportedRecord`] for an unknown kind, else what is wrong with it. The
    /// checksum is not looked at.
    pub fn decode(bytes: &'a [u8]) -> Result<(Self, usize), DecodeError> {
        if bytes.get(8) == Some(&KIND_MESSAGE) {
            let (message, padded) = MessageRecord::decode(bytes)?;
            return Ok((Self::Message(message), padded));
        }
        let (control, padded) = Control::decode(bytes)?;
        Ok((Self::Control(control), padded))
    }
}

/// What an index needs to know of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHead {
    /// The kind: 1 is a message.
    pub kind: u8,
    /// The size in bytes, before padding.
    pub length: u32,
    /// The size in bytes, padding included: the next record starts there.
    pub padded: u32,
    /// The route of a message; 0 for others.
    pub route: RouteId,
    /// The offset of a message; 0 for others.
    pub offset: Offset,
    /// The size of a message's payload in bytes; 0 for others.
    pub payload_bytes: u32,
    /// The priority of a message; 0 for others.
    pub priority: u8,
    /// When a message is due, if it says so.
    pub due_us: Option<u64>,
    /// When a message expires, if it says so.
    pub expiry_us: Option<u64>,
}

impl RecordHead {
    /// Reads only what an index needs of the record at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// The length is impossible or goes beyond the end of `bytes`, or, in a message, the flags or
    /// the sizes of its parts are impossible. Nothing else is checked.
    #[inline]
    pub fn peek(bytes: &[u8]) -> Result<Self, DecodeError> {
        let record = record_bytes(bytes)?;
        let length = u32_of(record.len());
        let padded = u32_of(align_up(record.len(), RECORD_ALIGN));
        let kind = record.get(8).copied().unwrap_or_default();
        let mut head = Self {
            kind,
            length,
            padded,
            route: RouteId(0),
            offset: Offset(0),
            payload_bytes: 0,
            priority: 0,
            due_us: None,
            expiry_us: None,
        };
        if kind == KIND_MESSAGE {
            peek_message(record, &mut head)?;
        }
        Ok(head)
    }

    /// Tells whether the record is a message.
    #[inline]
    pub const fn is_message(&self) -> bool {
        self.kind == KIND_MESSAGE
    }
}

/// Computes and stores the checksum of a complete record.
///
/// `record` starts with it and may go on behind it. `store_seed` is that of
/// [`seed_record`](crate::seed_record).
///
/// # Panics
///
/// If `record` is shorter than the length that it states.
#[inline]
pub fn seal_record(store_seed: u32, record: &mut [u8]) {
    let length = u32_at(record, 0).map_or(0, usize_of);
    assert!(
        length >= RECORD_PREFIX_BYTES && length <= record.len(),
        "a record of {length} bytes in a slice of {}",
        record.len()
    );
    let (head, rest) = record.split_at(CRC_AT + 4);
    let (length_field, _) = head.split_at(CRC_AT);
    let covered = rest.get(..length.saturating_sub(CRC_AT + 4)).unwrap_or(rest);
    let crc = checksum(store_seed, &[length_field, covered]);
    store_u32(record, CRC_AT, crc);
}

/// Checks the checksum of the record at the start of `record`.
///
/// # Errors
///
/// [`DecodeError::Checksum`] if its bytes are not those that were sealed for this store;
/// [`DecodeError::Length`] or [`DecodeError::Truncated`] if it cannot be a record at all.
#[inline]
pub fn verify_record(store_seed: u32, record: &[u8]) -> Result<(), DecodeError> {
    let bytes = record_bytes(record)?;
    let mut reader = Reader::new("record", bytes);
    let length = reader.array::<4>()?;
    let found = reader.u32()?;
    let expected = checksum(store_seed, &[&length, reader.rest()]);
    if expected == found {
        return Ok(());
    }
    Err(DecodeError::Checksum { structure: "record", position: 0, expected, found })
}

/// Returns the bytes of the record at the start of `bytes`, without padding.
#[inline]
pub(crate) fn record_bytes(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    let length = Reader::new("record", bytes).u32()?;
    let size = usize_of(length);
    if !(RECORD_PREFIX_BYTES..=RECORD_BYTES_MAX).contains(&size) {
        return Err(DecodeError::Length {
            structure: "record",
            position: 0,
            least: u64_of(RECORD_PREFIX_BYTES),
            most: u64_of(RECORD_BYTES_MAX),
            found: u64::from(length),
        });
    }
    bytes.get(..size).ok_or(DecodeError::Truncated {
        structure: "record",
        position: 0,
        needed: u64::from(length),
        found: u64_of(bytes.len()),
    })
}
