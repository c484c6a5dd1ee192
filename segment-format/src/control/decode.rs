//! Control records from bytes.

use super::{Control, STRUCTURE, kind};
use crate::ack::AckBytes;
use crate::layout::{ARGUMENTS_BYTES_MAX, NAME_BYTES_MAX, RECORD_ALIGN, align_up};
use crate::list::{CountList, RowList};
use crate::message::read_groups;
use crate::number::u64_of;
use crate::record::record_bytes;
use crate::wire::Reader;
use crate::{DecodeError, ExchangeId, GroupId, Offset, PublisherId, QueueId, RouteId};

impl<'a> Control<'a> {
    /// Reads the control record at the start of `bytes`, and its size padding included.
    ///
    /// The checksum is not looked at: the batch's, or [`verify_record`](crate::verify_record),
    /// comes first. The items of an ack set are checked when they are read.
    ///
    /// # Errors
    ///
    /// [`DecodeError::UnsupportedRecord`] for an unknown kind, else what is wrong with it.
    pub fn decode(bytes: &'a [u8]) -> Result<(Self, usize), DecodeError> {
        let record = record_bytes(bytes)?;
        let mut reader = Reader::new(STRUCTURE, record);
        reader.array::<8>()?;
        let kind = reader.u8()?;
        let known = matches!(kind, kind::ROUTE_DEFINE..=kind::CLOSE)
            || matches!(kind, kind::PUBLISHER_DECLARE..=kind::REWIND);
        if !known {
            return Err(DecodeError::UnsupportedRecord { position: 0, kind });
        }
        reader.zeros::<3>()?;
        let id = reader.u32()?;
        let control = match kind {
            kind::ROUTE_DEFINE..=kind::GROUP_DEFINE => {
                Self::decode_definition(kind, id, &mut reader)?
            }
            kind::BIND..=kind::CLOSE => Self::decode_change(kind, id, &mut reader)?,
            kind::TRANSIENT_ROUTE_DEFINE => {
                let (route, groups) = (RouteId(id), read_groups(&mut reader)?);
                Self::TransientRouteDefine { route, groups }
            }
            kind::REWIND => Self::decode_rewind(QueueId(id), &mut reader)?,
            _ => Self::decode_publisher(kind, PublisherId(id), &mut reader)?,
        };
        reader.finish()?;
        Ok((control, align_up(record.len(), RECORD_ALIGN)))
    }

    /// Reads the fields of what makes or deletes a route, exchange, queue or group.
    fn decode_definition(kind: u8, id: u32, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(match kind {
            kind::ROUTE_DEFINE => {
                Self::RouteDefine { route: RouteId(id), groups: read_groups(reader)? }
            }
            kind::EXCHANGE_DECLARE => {
                let (flags, kind) = (reader.u32()?, reader.u8()?);
                let (name, arguments) = read_named(reader)?;
                let name = text(name, arguments.len(), reader)?;
                Self::ExchangeDeclare { exchange: ExchangeId(id), kind, flags, name, arguments }
            }
            kind::EXCHANGE_DELETE => Self::ExchangeDelete { exchange: ExchangeId(id) },
            kind::QUEUE_DECLARE => {
                let (group, flags) = (GroupId(reader.u32()?), reader.u32()?);
                let from = Offset(reader.u64()?);
                let (name, arguments) = read_named(reader)?;
                let name = text(name, arguments.len(), reader)?;
                Self::QueueDeclare { queue: QueueId(id), group, flags, from, name, arguments }
            }
            kind::QUEUE_DELETE => Self::QueueDelete { queue: QueueId(id) },
            _ => {
                let (exchange, kind) = (ExchangeId(reader.u32()?), reader.u8()?);
                let (key, arguments) = read_named(reader)?;
                Self::GroupDefine { group: GroupId(id), exchange, kind, key, arguments }
            }
        })
    }

    /// Reads the fields of what concerns a named publisher.
    fn decode_publisher(
        kind: u8,
        publisher: PublisherId,
        reader: &mut Reader<'a>,
    ) -> Result<Self, DecodeError> {
        Ok(match kind {
            kind::PUBLISHER_DECLARE => {
                let time_us = reader.u64()?;
                let bytes = reader.take(reader.rest().len())?;
                if bytes.is_empty() || bytes.len() > NAME_BYTES_MAX {
                    let found = u64_of(bytes.len());
                    return Err(reader.field(bytes.len(), "name", "1 to 255 bytes", found));
                }
                Self::PublisherDeclare { publisher, time_us, name: text(bytes, 0, reader)? }
            }
            kind::PUBLISHER_SEQUENCE => {
                let (sequence, time_us) = (reader.u64()?, reader.u64()?);
                Self::PublisherSequence { publisher, sequence, time_us }
            }
            _ => Self::PublisherForget { publisher },
        })
    }

    /// Reads the fields of what brings messages of the past into a queue.
    fn decode_rewind(queue: QueueId, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let (to, mark) = (Offset(reader.u64()?), Offset(reader.u64()?));
        let (members, segments) = (u64::from(reader.u32()?), u64::from(reader.u32()?));
        let brought = u64::from(reader.u32()?);
        let rest = reader.rest().len();
        let (members_bytes, segments_bytes) =
            (members.saturating_mul(16), segments.saturating_mul(40));
        let members_bytes = reader.bounded(12, members_bytes, rest)?;
        let at = reader.take(members_bytes)?;
        let increasing = |reader: &Reader<'_>, found| {
            reader.field(0, "rows", "strictly increasing first numbers", found)
        };
        let members = RowList::from_bytes(at).ok_or_else(|| increasing(reader, members))?;
        if let Some(row) = members.iter().find(|row: &[u64; 2]| u32::try_from(row[0]).is_err()) {
            return Err(reader.field(members_bytes, "group", "at most 2^32 - 1", row[0]));
        }
        let segments_bytes = reader.bounded(0, segments_bytes, reader.rest().len())?;
        let rows = RowList::from_bytes(reader.take(segments_bytes)?);
        let segments = rows.ok_or_else(|| increasing(reader, segments))?;
        let brought = reader.bounded(0, brought, reader.rest().len())?;
        let brought = AckBytes(reader.take(brought)?);
        let passed = AckBytes(reader.take(reader.rest().len())?);
        Ok(Self::Rewind { queue, to, mark, members, segments, brought, passed })
    }

    /// Reads the fields of what changes a queue, a group or a binding, or closes the log.
    fn decode_change(kind: u8, id: u32, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let queue = QueueId(id);
        Ok(match kind {
            kind::BIND | kind::UNBIND => {
                let (group, queue) = (GroupId(id), QueueId(reader.u32()?));
                let offset = Offset(reader.u64()?);
                if kind == kind::BIND {
                    Self::Bind { group, queue, from: offset }
                } else {
                    Self::Unbind { group, queue, to: offset }
                }
            }
            kind::ACK => {
                let (messages, bytes) = (reader.u64()?, reader.u64()?);
                let acks = AckBytes(reader.take(reader.rest().len())?);
                Self::Ack { queue, messages, bytes, acks }
            }
            kind::DELIVERY_MARK => Self::DeliveryMark { queue, offset: Offset(reader.u64()?) },
            kind::DELIVERY_COUNT => {
                let at = reader.position();
                let bytes = reader.take(reader.rest().len())?;
                let entries = CountList::from_bytes(bytes).map_err(|error| error.shifted(at))?;
                Self::DeliveryCount { queue, entries }
            }
            kind::PURGE => {
                let to = Offset(reader.u64()?);
                let (messages, bytes) = (reader.u64()?, reader.u64()?);
                let kept = AckBytes(reader.take(reader.rest().len())?);
                Self::Purge { queue, to, messages, bytes, kept }
            }
            kind::EXCHANGE_BIND | kind::EXCHANGE_UNBIND => {
                let (source, destination) = (ExchangeId(id), ExchangeId(reader.u32()?));
                let (key, arguments) = read_named(reader)?;
                if kind == kind::EXCHANGE_BIND {
                    Self::ExchangeBind { source, destination, key, arguments }
                } else {
                    Self::ExchangeUnbind { source, destination, key, arguments }
                }
            }
            _ => {
                if id != 0 {
                    return Err(reader.field(4, "id", "zero", u64::from(id)));
                }
                Self::Close { next_offset: Offset(reader.u64()?) }
            }
        })
    }
}

fn read_named<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], &'a [u8]), DecodeError> {
    let name_bytes = usize::from(reader.u8()?);
    let arguments_bytes = reader.u32()?;
    let arguments_bytes = reader.bounded(4, u64::from(arguments_bytes), ARGUMENTS_BYTES_MAX)?;
    Ok((reader.take(name_bytes)?, reader.take(arguments_bytes)?))
}

/// Reads a name that ends `behind` bytes before the reader's place.
fn text<'a>(bytes: &'a [u8], behind: usize, reader: &Reader<'_>) -> Result<&'a str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let back = behind.saturating_add(bytes.len());
        reader.field(back, "name", "UTF-8", u64_of(error.valid_up_to()))
    })
}
