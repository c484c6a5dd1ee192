//! Message records: what a publisher sent, with all that the engine notes about it.
//!
//! The fixed part is written and read in one go; fields that most messages do not have follow it
//! only where a flag says so. The payload comes last, so that it can be copied after the rest.

use crate::layout::{
    HEADERS_BYTES_MAX, KEY_BYTES_MAX, MESSAGE_BYTES_MAX, MESSAGE_HEAD_BYTES, PROPERTIES_BYTES_MAX,
    RECORD_ALIGN, ROUTE_GROUPS_MAX, align_up,
};
use crate::list::U32List;
use crate::number::{u32_of, u64_of, usize_of};
use crate::record::{KIND_MESSAGE, RecordHead, record_bytes};
use crate::wire::{Reader, SliceWriter};
use crate::{DecodeError, Epoch, ExchangeId, Offset, RouteId};

pub(crate) const STRUCTURE: &str = "message record";

const BUFFERED: u8 = 1;
const TRANSIENT: u8 = 1 << 1;
const DUE: u8 = 1 << 2;
const EXPIRY: u8 = 1 << 3;
const PUBLISHER: u8 = 1 << 4;
const PROPERTIES: u8 = 1 << 5;
const INLINE_GROUPS: u8 = 1 << 6;
const KNOWN: u8 = BUFFERED | TRANSIENT | DUE | EXPIRY | PUBLISHER | PROPERTIES | INLINE_GROUPS;

const _: () = assert!(KEY_BYTES_MAX == 255, "the key's length is one byte");

/// What a message's confirm promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum DurabilityMode {
    /// Confirmed once on stable storage. The default.
    #[default]
    Synced,
    /// Confirmed once the operating system has it: survives the process, not a power cut.
    Buffered,
    /// Counts as acked after the epoch in which it was published.
    Transient,
}

/// A message, borrowed: to be encoded, or as decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageRecord<'a> {
    /// Its number in the log.
    pub offset: Offset,
    /// The binding groups that it was routed to; not used when `groups` is given.
    pub route: RouteId,
    /// The exchange that it was published to.
    pub exchange: ExchangeId,
    /// The epoch in which it was published: (epoch, offset) is its identity.
    pub epoch: Epoch,
    /// When it was published: microseconds since 1970.
    pub time_us: u64,
    /// Its priority; 0 is the lowest and the default.
    pub priority: u8,
    /// What its confirm promised.
    pub mode: DurabilityMode,
    /// Not to be delivered before: microseconds since 1970.
    pub due_us: Option<u64>,
    /// Not to be delivered from then on: microseconds since 1970.
    pub expiry_us: Option<u64>,
    /// Publisher id and sequence, by which a repeated publish is known.
    pub publisher: Option<(u64, u64)>,
    /// The binding groups themselves, strictly increasing, where no route is defined for them.
    pub groups: Option<U32List<'a>>,
    /// The routing key, at most 255 bytes.
    pub key: &'a [u8],
    /// Properties, opaque, at most 1 MiB.
    pub properties: &'a [u8],
    /// Headers, opaque, at most 1 MiB.
    pub headers: &'a [u8],
    /// The payload, at most 64 MiB.
    pub payload: &'a [u8],
}

impl<'a> MessageRecord<'a> {
    /// Returns the size of the record in bytes, before it is padded to eight.
    #[inline]
    pub fn encoded_bytes(&self) -> usize {
        self.head_bytes().saturating_add(self.payload.len())
    }

    /// Returns the size of everything before the payload, in bytes.
    #[inline]
    pub fn head_bytes(&self) -> usize {
        let mut bytes = MESSAGE_HEAD_BYTES.saturating_add(self.key.len());
        let flags = self.flags();
        if flags & !(BUFFERED | TRANSIENT) != 0 {
            let optional = [(DUE, 8), (EXPIRY, 8), (PUBLISHER, 16), (PROPERTIES, 8)];
            for (flag, size) in optional {
                bytes = bytes.saturating_add(if flags & flag == 0 { 0 } else { size });
            }
            bytes = bytes.saturating_add(self.properties.len()).saturating_add(self.headers.len());
            if let Some(groups) = &self.groups {
                bytes = bytes.saturating_add(groups.len().saturating_mul(4)).saturating_add(4);
            }
        }
        bytes
    }

    /// Writes the record into `out` and returns its size, padding included.
    ///
    /// The padding is zero. The checksum is left 0: [`seal_record`](crate::seal_record) stores it.
    ///
    /// # Panics
    ///
    /// As [`encode_head`](Self::encode_head).
    #[inline]
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let payload_at = self.encode_head(self.payload.len(), out);
        let padded = align_up(payload_at.saturating_add(self.payload.len()), RECORD_ALIGN);
        let (record, _) = out.split_at_mut(padded);
        let (_, tail) = record.split_at_mut(payload_at);
        let mut writer = SliceWriter::new(tail);
        writer.bytes(self.payload);
        writer.zero_rest();
        padded
    }

    /// Writes everything but a payload of `payload_bytes`, and returns where the payload starts.
    ///
    /// The field `payload` is not looked at. The caller copies the payload, zeroes the padding and
    /// calls [`seal_record`](crate::seal_record).
    ///
    /// # Panics
    ///
    /// If `out` is too small, or a field or the payload is over its limit: the caller checks
    /// limits before anything is written.
    #[inline]
    pub fn encode_head(&self, payload_bytes: usize, out: &mut [u8]) -> usize {
        assert!(payload_bytes <= MESSAGE_BYTES_MAX, "the payload is over its limit");
        let flags = self.flags();
        let start = self.head_bytes();
        let length = u32_of(start.saturating_add(payload_bytes));
        let key_bytes = u8::try_from(self.key.len()).expect("the routing key is over its limit");
        let (head, _) = out.split_at_mut(start);
        let (fixed, rest) = head.split_at_mut(MESSAGE_HEAD_BYTES);
        let mut writer = SliceWriter::new(fixed);
        writer.u32(length);
        writer.u32(0);
        writer.bytes(&[KIND_MESSAGE, flags, self.priority, key_bytes]);
        writer.u32(self.route.0);
        writer.u64(self.offset.0);
        writer.u32(self.exchange.0);
        writer.u32(self.epoch.0);
        writer.u64(self.time_us);
        let mut writer = SliceWriter::new(rest);
        if flags & !(BUFFERED | TRANSIENT) == 0 {
            writer.bytes(self.key);
        } else {
            self.encode_optional(&mut writer);
        }
        start
    }

    /// Writes the optional fields, key, properties and headers.
    fn encode_optional(&self, writer: &mut SliceWriter<'_>) {
        if let Some(due_us) = self.due_us {
            writer.u64(due_us);
        }
        if let Some(expiry_us) = self.expiry_us {
            writer.u64(expiry_us);
        }
        if let Some((publisher, sequence)) = self.publisher {
            writer.u64(publisher);
            writer.u64(sequence);
        }
        if self.has_properties() {
            assert!(self.properties.len() <= PROPERTIES_BYTES_MAX, "properties over their limit");
            assert!(self.headers.len() <= HEADERS_BYTES_MAX, "headers over their limit");
            writer.u32(u32_of(self.properties.len()));
            writer.u32(u32_of(self.headers.len()));
        }
        if let Some(groups) = &self.groups {
            assert!(groups.is_group_set(), "groups strictly increase and are not too many");
            writer.u32(u32_of(groups.len()));
            groups.write(|bytes| writer.bytes(bytes));
        }
        writer.bytes(self.key);
        writer.bytes(self.properties);
        writer.bytes(self.headers);
    }

    /// Reads the message record at the start of `bytes`, and its size padding included.
    ///
    /// The checksum is not looked at: the batch's, or [`verify_record`](crate::verify_record), comes first. The padding
    /// may lie beyond the end of `bytes`.
    ///
    /// # Errors
    ///
    /// [`DecodeError::UnsupportedRecord`] if it is of another kind, else what is wrong with it.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<(Self, usize), DecodeError> {
        let record = record_bytes(bytes)?;
        let (fixed, rest) = record.split_at_checked(MESSAGE_HEAD_BYTES).unwrap_or((record, &[]));
        let mut reader = Reader::new(STRUCTURE, fixed);
        reader.array::<8>()?;
        let [kind, flags, priority, key_bytes] = reader.array()?;
        if kind != KIND_MESSAGE {
            return Err(DecodeError::UnsupportedRecord { position: 0, kind });
        }
        let mode = mode_of(flags)?;
        let mut message = Self {
            priority,
            mode,
            route: RouteId(reader.u32()?),
            offset: Offset(reader.u64()?),
            exchange: ExchangeId(reader.u32()?),
            epoch: Epoch(reader.u32()?),
            time_us: reader.u64()?,
            ..Self::default()
        };
        let mut reader = Reader::new(STRUCTURE, rest);
        message
            .decode_rest(flags, key_bytes, &mut reader)
            .map_err(|error| error.shifted(u64_of(MESSAGE_HEAD_BYTES)))?;
        message.payload = reader.rest();
        Ok((message, align_up(record.len(), RECORD_ALIGN)))
    }

    /// Reads what lies between the fixed part and the payload.
    #[inline]
    fn decode_rest(
        &mut self,
        flags: u8,
        key_bytes: u8,
        reader: &mut Reader<'a>,
    ) -> Result<(), DecodeError> {
        let (mut properties, mut headers) = (0, 0);
        if flags & !(BUFFERED | TRANSIENT) != 0 {
            (properties, headers) = self.decode_optional(flags, reader)?;
        }
        self.key = reader.take(usize::from(key_bytes))?;
        self.properties = reader.take(properties)?;
        self.headers = reader.take(headers)?;
        reader.bounded(0, u64_of(reader.rest().len()), MESSAGE_BYTES_MAX)?;
        Ok(())
    }

    /// Reads the optional fields; returns the sizes of the properties and of the headers.
    fn decode_optional(
        &mut self,
        flags: u8,
        reader: &mut Reader<'a>,
    ) -> Result<(usize, usize), DecodeError> {
        if flags & DUE != 0 {
            self.due_us = Some(reader.u64()?);
        }
        if flags & EXPIRY != 0 {
            self.expiry_us = Some(reader.u64()?);
        }
        if flags & PUBLISHER != 0 {
            self.publisher = Some((reader.u64()?, reader.u64()?));
        }
        let (mut properties, mut headers) = (0, 0);
        if flags & PROPERTIES != 0 {
            let bytes = reader.u32()?;
            properties = reader.bounded(4, u64::from(bytes), PROPERTIES_BYTES_MAX)?;
            let bytes = reader.u32()?;
            headers = reader.bounded(4, u64::from(bytes), HEADERS_BYTES_MAX)?;
            if properties == 0 && headers == 0 {
                return Err(reader.field(8, "properties_bytes", "properties or headers", 0));
            }
        }
        if flags & INLINE_GROUPS != 0 {
            self.groups = Some(read_groups(reader)?);
        }
        Ok((properties, headers))
    }

    #[inline]
    fn has_properties(&self) -> bool {
        !(self.properties.is_empty() && self.headers.is_empty())
    }

    #[inline]
    fn flags(&self) -> u8 {
        let mode = match self.mode {
            DurabilityMode::Synced => 0,
            DurabilityMode::Buffered => BUFFERED,
            DurabilityMode::Transient => TRANSIENT,
        };
        let flag = |present: bool, flag: u8| if present { flag } else { 0 };
        mode | flag(self.due_us.is_some(), DUE)
            | flag(self.expiry_us.is_some(), EXPIRY)
            | flag(self.publisher.is_some(), PUBLISHER)
            | flag(self.has_properties(), PROPERTIES)
            | flag(self.groups.is_some(), INLINE_GROUPS)
    }
}

/// Reads a count and that many strictly increasing group ids.
pub(crate) fn read_groups<'a>(reader: &mut Reader<'a>) -> Result<U32List<'a>, DecodeError> {
    let count = reader.u32()?;
    let count = reader.bounded(4, u64::from(count), ROUTE_GROUPS_MAX)?;
    let bytes = reader.take(count.saturating_mul(4))?;
    match U32List::from_bytes(bytes) {
        Some(groups) if groups.is_group_set() => Ok(groups),
        _ => Err(reader.field(bytes.len(), "groups", "strictly increasing ids", u64_of(count))),
    }
}

#[inline]
fn mode_of(flags: u8) -> Result<DurabilityMode, DecodeError> {
    let error = |expected| DecodeError::Field {
        structure: STRUCTURE,
        position: 9,
        field: "flags",
        expected,
        found: u64::from(flags),
    };
    if flags & !KNOWN != 0 {
        return Err(error("known flags only"));
    }
    match flags & (BUFFERED | TRANSIENT) {
        0 => Ok(DurabilityMode::Synced),
        BUFFERED => Ok(DurabilityMode::Buffered),
        TRANSIENT => Ok(DurabilityMode::Transient),
        _ => Err(error("not both BUFFERED and TRANSIENT")),
    }
}

/// Takes what an index needs from the message record `record`.
#[inline]
pub(crate) fn peek_message(record: &[u8], head: &mut RecordHead) -> Result<(), DecodeError> {
    let mut reader = Reader::new(STRUCTURE, record);
    reader.array::<8>()?;
    let [_, flags, priority, key_bytes] = reader.array()?;
    (head.route, head.offset) = (RouteId(reader.u32()?), Offset(reader.u64()?));
    head.priority = priority;
    reader.array::<16>()?;
    mode_of(flags)?;
    if flags & !(BUFFERED | TRANSIENT) == 0 {
        reader.take(usize::from(key_bytes))?;
    } else {
        peek_optional(flags, key_bytes, &mut reader, head)?;
    }
    head.payload_bytes = u32_of(reader.rest().len());
    Ok(())
}

/// Takes the times, and skips the rest of what lies between the fixed part and the payload.
fn peek_optional(
    flags: u8,
    key_bytes: u8,
    reader: &mut Reader<'_>,
    head: &mut RecordHead,
) -> Result<(), DecodeError> {
    if flags & DUE != 0 {
        head.due_us = Some(reader.u64()?);
    }
    if flags & EXPIRY != 0 {
        head.expiry_us = Some(reader.u64()?);
    }
    if flags & PUBLISHER != 0 {
        reader.take(16)?;
    }
    let (mut properties, mut headers) = (0, 0);
    if flags & PROPERTIES != 0 {
        properties = usize_of(reader.u32()?);
        headers = usize_of(reader.u32()?);
    }
    if flags & INLINE_GROUPS != 0 {
        let count = reader.u32()?;
        reader.take(usize_of(count).saturating_mul(4))?;
    }
    for bytes in [usize::from(key_bytes), properties, headers] {
        reader.take(bytes)?;
    }
    Ok(())
}
