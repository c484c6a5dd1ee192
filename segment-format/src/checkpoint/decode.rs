//! A checkpoint from bytes. Nothing is reserved that the bytes that are left could not fill.

use super::{
    BaseEntry, Checkpoint, ExchangeBindingEntry, ExchangeEntry, FLAG_CLEAN, FLAG_END, FLAG_ENDED,
    FLAG_EXCHANGE_BINDINGS, FLAG_LEFT, FLAG_SEALED, FLAG_UNCOUNTED, GroupEntry, LogHead,
    MemberEntry, NextIds, PartEntry, PublisherEntry, QueueEntry, RouteEntry, STRUCTURE,
    SegmentEntry,
};
use crate::checksum::{checksum, seed_file};
use crate::layout::{
    ARGUMENTS_BYTES_MAX, CHECKPOINT_HEAD_BYTES, CHECKPOINT_MAGIC, FORMAT_VERSION, KEY_BYTES_MAX,
    NAME_BYTES_MAX, ROUTE_GROUPS_MAX,
};
use crate::number::{u64_of, usize_of};
use crate::wire::Reader;
use crate::{
    AckBytes, BatchNumber, DecodeError, Epoch, ExchangeId, GroupId, LogPosition, Offset,
    PublisherId, QueueId, RouteId, SegmentId, StoreId,
};

/// Bytes of a part.
const PART_BYTES: usize = 25;

impl Checkpoint {
    /// How long a file is that begins with `head`: so that not more is read than a checkpoint has.
    ///
    /// `None` if it does not begin a checkpoint of this version.
    pub fn stated_length(head: &[u8]) -> Option<u64> {
        let mut reader = Reader::new(STRUCTURE, head);
        reader.magic(CHECKPOINT_MAGIC).ok()?;
        let version = reader.u32().ok()?;
        reader.u32().ok()?;
        reader.array::<16>().ok()?;
        reader.u64().ok()?;
        reader.u64().ok().filter(|_| version == FORMAT_VERSION)
    }

    /// The same of one whose version is another: if it has this length, that may be damage.
    pub fn stated_length_but_for_version(head: &[u8]) -> Option<u64> {
        let mut own = head.to_vec();
        own.get_mut(8..12)?.copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        Self::stated_length(&own)
    }

    /// Reads the bytes of a whole file.
    ///
    /// Needs memory in proportion to `bytes`, whatever they say.
    ///
    /// # Errors
    ///
    /// [`DecodeError::UnsupportedVersion`] if the magic is right and the version another, unless all
    /// else is as in this one: then it is damaged. Any other [`DecodeError`]: no valid checkpoint.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(STRUCTURE, bytes);
        let (mut checkpoint, flags) = read_header(&mut reader, bytes)?;
        checkpoint.head = LogHead {
            position: LogPosition { segment: SegmentId(reader.u64()?), position: reader.u64()? },
            next_batch: BatchNumber(reader.u64()?),
            next_offset: Offset(reader.u64()?),
            previous: reader.u32()?,
        };
        checkpoint.next_ids = NextIds {
            exchange: reader.u32()?,
            queue: reader.u32()?,
            group: reader.u32()?,
            route: reader.u32()?,
            segment: reader.u64()?,
        };
        checkpoint.exchanges = read_list(&mut reader, 15, read_exchange)?;
        checkpoint.groups = read_list(&mut reader, 15, read_group)?;
        checkpoint.routes = read_list(&mut reader, 24, read_route)?;
        checkpoint.queues = read_list(&mut reader, 94, read_queue)?;
        checkpoint.segments = read_list(&mut reader, 56, read_segment)?;
        if flags & FLAG_EXCHANGE_BINDINGS != 0 {
            checkpoint.exchange_bindings = read_exchange_bindings(&mut reader)?;
        }
        if !reader.rest().is_empty() {
            checkpoint.next_publisher = reader.u32()?;
            if checkpoint.next_publisher == 0 {
                return Err(reader.field(4, "next publisher", "above zero", 0));
            }
            checkpoint.publishers = read_list(&mut reader, 22, read_publisher)?;
        }
        reader.finish()?;
        Ok(checkpoint)
    }
}

/// Reads the fixed part, and checks the length and the checksum of the file.
fn read_header(reader: &mut Reader<'_>, bytes: &[u8]) -> Result<(Checkpoint, u32), DecodeError> {
    reader.magic(CHECKPOINT_MAGIC)?;
    let found = reader.u32()?;
    if found != FORMAT_VERSION {
        return Err(of_another_version(bytes, found));
    }
    let flags = reader.u32()?;
    let store = StoreId(reader.array()?);
    let number = reader.u64()?;
    let length = reader.u64()?;
    if length != u64_of(bytes.len()) {
        let whole = u64_of(bytes.len());
        let (structure, position, found) = (STRUCTURE, 40, length);
        return Err(DecodeError::Length { structure, position, least: whole, most: whole, found });
    }
    let created_us = reader.u64()?;
    let epoch = Epoch(reader.u32()?);
    let found = reader.u32()?;
    let covered = bytes.get(..CHECKPOINT_HEAD_BYTES.saturating_sub(4)).unwrap_or(bytes);
    let expected = checksum(seed_file(store, number), &[covered, reader.rest()]);
    if found != expected {
        return Err(DecodeError::Checksum { structure: STRUCTURE, position: 0, expected, found });
    }
    if flags & !(FLAG_CLEAN | FLAG_EXCHANGE_BINDINGS) != 0 {
        return Err(reader.field(52, "flags", "known flags only", flags.into()));
    }
    let clean = flags & FLAG_CLEAN != 0;
    Ok((Checkpoint { store, number, epoch, clean, created_us, ..Checkpoint::default() }, flags))
}

fn of_another_version(bytes: &[u8], found: u32) -> DecodeError {
    let mut own = bytes.to_vec();
    if let Some(version) = own.get_mut(8..12) {
        version.copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        if Checkpoint::decode(&own).is_ok() {
            return DecodeError::of_damaged_version(STRUCTURE, found);
        }
    }
    DecodeError::UnsupportedVersion { found, supported: FORMAT_VERSION }
}

/// Reads a count and that many entries of at least `entry` bytes each.
fn read_list<'a, T>(
    reader: &mut Reader<'a>,
    entry: usize,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = usize_of(reader.u32()?);
    let most = reader.rest().len().checked_div(entry).unwrap_or(0);
    let count = reader.bounded(4, u64_of(count), most)?;
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        list.push(read(reader)?);
    }
    Ok(list)
}

fn read_short<'a>(reader: &mut Reader<'a>, most: usize) -> Result<&'a [u8], DecodeError> {
    let length = reader.u16()?;
    let length = reader.bounded(2, u64::from(length), most)?;
    reader.take(length)
}

fn read_name(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let bytes = read_short(reader, NAME_BYTES_MAX)?;
    match std::str::from_utf8(bytes) {
        Ok(name) => Ok(name.to_owned()),
        Err(error) => Err(reader.field(bytes.len(), "name", "UTF-8", u64_of(error.valid_up_to()))),
    }
}

fn read_exchange(reader: &mut Reader<'_>) -> Result<ExchangeEntry, DecodeError> {
    Ok(ExchangeEntry {
        id: ExchangeId(reader.u32()?),
        kind: reader.u8()?,
        flags: reader.u32()?,
        name: read_name(reader)?,
        arguments: reader.long_bytes(ARGUMENTS_BYTES_MAX)?.to_vec(),
    })
}

/// Reads the bindings of exchanges to exchanges: at least one, in strictly increasing order.
fn read_exchange_bindings(
    reader: &mut Reader<'_>,
) -> Result<Vec<ExchangeBindingEntry>, DecodeError> {
    let start = reader.rest().len();
    let list = read_list(reader, 14, |reader| {
        Ok(ExchangeBindingEntry {
            source: ExchangeId(reader.u32()?),
            destination: ExchangeId(reader.u32()?),
            key: read_short(reader, KEY_BYTES_MAX)?.to_vec(),
            arguments: reader.long_bytes(ARGUMENTS_BYTES_MAX)?.to_vec(),
        })
    })?;
    if list.is_empty() || !list.is_sorted_by(|a, b| a < b) {
        let back = start.saturating_sub(reader.rest().len());
        let found = u64_of(list.len());
        return Err(reader.field(back, "exchange bindings", "some, strictly increasing", found));
    }
    Ok(list)
}

fn read_group(reader: &mut Reader<'_>) -> Result<GroupEntry, DecodeError> {
    Ok(GroupEntry {
        id: GroupId(reader.u32()?),
        exchange: ExchangeId(reader.u32()?),
        kind: reader.u8()?,
        key: read_short(reader, KEY_BYTES_MAX)?.to_vec(),
        arguments: reader.long_bytes(ARGUMENTS_BYTES_MAX)?.to_vec(),
    })
}

fn read_route(reader: &mut Reader<'_>) -> Result<RouteEntry, DecodeError> {
    let (id, messages, bytes) = (RouteId(reader.u32()?), reader.u64()?, reader.u64()?);
    let groups = read_list(reader, 4, Reader::u32)?;
    if groups.len() > ROUTE_GROUPS_MAX || !groups.is_sorted_by(|a, b| a < b) {
        let back = groups.len().saturating_mul(4);
        return Err(reader.field(back, "groups", "strictly increasing ids", u64_of(groups.len())));
    }
    Ok(RouteEntry { id, groups, messages, bytes })
}

fn read_queue(reader: &mut Reader<'_>) -> Result<QueueEntry, DecodeError> {
    Ok(QueueEntry {
        id: QueueId(reader.u32()?),
        group: GroupId(reader.u32()?),
        flags: reader.u32()?,
        name: read_name(reader)?,
        arguments: reader.long_bytes(ARGUMENTS_BYTES_MAX)?.to_vec(),
        applied: BatchNumber(reader.u64()?),
        floor: Offset(reader.u64()?),
        acked_messages: reader.u64()?,
        acked_bytes: reader.u64()?,
        mark: Offset(reader.u64()?),
        left_messages: reader.u64()?,
        left_bytes: reader.u64()?,
        acks: read_acks(reader)?,
        members: read_list(reader, 13, read_member)?,
        bases: read_list(reader, 20, read_base)?,
        counts: read_list(reader, 12, |reader| Ok((reader.u64()?, reader.u32()?)))?,
        parts: read_parts(reader)?,
    })
}

fn read_publisher(reader: &mut Reader<'_>) -> Result<PublisherEntry, DecodeError> {
    Ok(PublisherEntry {
        id: PublisherId(reader.u32()?),
        sequence: reader.u64()?,
        time_us: reader.u64()?,
        name: read_name(reader)?,
    })
}

fn read_parts(reader: &mut Reader<'_>) -> Result<Vec<PartEntry>, DecodeError> {
    let parts = read_list(reader, PART_BYTES, read_part)?;
    if !parts.is_sorted_by(|a, b| a.first_offset < b.first_offset) {
        let back = parts.len().saturating_mul(PART_BYTES);
        let expected = "strictly increasing offsets";
        return Err(reader.field(back, "parts", expected, u64_of(parts.len())));
    }
    Ok(parts)
}

fn read_part(reader: &mut Reader<'_>) -> Result<PartEntry, DecodeError> {
    let flags = reader.u8()?;
    if flags & !FLAG_LEFT != 0 {
        return Err(reader.field(1, "part flags", "known flags only", flags.into()));
    }
    Ok(PartEntry {
        first_offset: Offset(reader.u64()?),
        left: flags & FLAG_LEFT != 0,
        messages: reader.u64()?,
        bytes: reader.u64()?,
    })
}

/// Reads an ack set, every item of which is checked.
fn read_acks(reader: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let bytes = reader.long_bytes(usize::MAX)?;
    let start = reader.position().saturating_sub(u64_of(bytes.len()));
    for item in AckBytes(bytes).items() {
        item.map_err(|error| error.shifted(start))?;
    }
    Ok(bytes.to_vec())
}

fn read_member(reader: &mut Reader<'_>) -> Result<MemberEntry, DecodeError> {
    let flags = reader.u8()?;
    if flags & !FLAG_ENDED != 0 {
        return Err(reader.field(1, "member flags", "known flags only", flags.into()));
    }
    let (group, from) = (GroupId(reader.u32()?), Offset(reader.u64()?));
    let to = if flags & FLAG_ENDED == 0 { None } else { Some(Offset(reader.u64()?)) };
    Ok(MemberEntry { group, from, to })
}

fn read_base(reader: &mut Reader<'_>) -> Result<BaseEntry, DecodeError> {
    Ok(BaseEntry { route: RouteId(reader.u32()?), messages: reader.u64()?, bytes: reader.u64()? })
}

fn read_segment(reader: &mut Reader<'_>) -> Result<SegmentEntry, DecodeError> {
    let flags = reader.u32()?;
    if flags & !(FLAG_END | FLAG_SEALED | FLAG_UNCOUNTED) != 0 {
        return Err(reader.field(4, "segment flags", "known flags only", flags.into()));
    }
    let mut entry = SegmentEntry {
        id: SegmentId(reader.u64()?),
        covers_to: SegmentId(reader.u64()?),
        generation: reader.u32()?,
        first_offset: Offset(reader.u64()?),
        file_bytes: reader.u64()?,
        outstanding_messages: reader.u64()?,
        outstanding_bytes: reader.u64()?,
        sealed: flags & FLAG_SEALED != 0,
        uncounted: flags & FLAG_UNCOUNTED != 0,
        end_offset: None,
    };
    if flags & FLAG_END != 0 {
        entry.end_offset = Some(Offset(reader.u64()?));
    }
    Ok(entry)
}
