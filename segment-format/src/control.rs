//! Control records: changes of the topology and of queues, in the same log as the messages.
//!
//! All start with the common sixteen bytes, whose last four name what the record is about. Fields
//! of fixed size follow, then those of variable size, and nothing else.

mod decode;

use crate::ack::AckBytes;
use crate::layout::{
    ARGUMENTS_BYTES_MAX, KEY_BYTES_MAX, NAME_BYTES_MAX, RECORD_ALIGN, RECORD_BYTES_MAX,
    RECORD_PREFIX_BYTES, align_up,
};
use crate::list::{CountList, RowList, U32List};
use crate::number::u32_of;
use crate::wire::{VecWriter, store_u32};
use crate::{ExchangeId, GroupId, Offset, PublisherId, QueueId, RouteId};

const STRUCTURE: &str = "control record";

/// The kinds, as they stand at byte 8 of a record.
mod kind {
    pub(super) const ROUTE_DEFINE: u8 = 16;
    pub(super) const EXCHANGE_DECLARE: u8 = 17;
    pub(super) const EXCHANGE_DELETE: u8 = 18;
    pub(super) const QUEUE_DECLARE: u8 = 19;
    pub(super) const QUEUE_DELETE: u8 = 20;
    pub(super) const GROUP_DEFINE: u8 = 21;
    pub(super) const BIND: u8 = 22;
    pub(super) const UNBIND: u8 = 23;
    pub(super) const ACK: u8 = 24;
    pub(super) const DELIVERY_MARK: u8 = 25;
    pub(super) const DELIVERY_COUNT: u8 = 26;
    pub(super) const PURGE: u8 = 27;
    pub(super) const EXCHANGE_BIND: u8 = 28;
    pub(super) const EXCHANGE_UNBIND: u8 = 29;
    pub(super) const CLOSE: u8 = 30;
    pub(super) const PUBLISHER_DECLARE: u8 = 40;
    pub(super) const PUBLISHER_SEQUENCE: u8 = 41;
    pub(super) const PUBLISHER_FORGET: u8 = 42;
    pub(super) const TRANSIENT_ROUTE_DEFINE: u8 = 43;
    pub(super) const REWIND: u8 = 44;
}

/// A control record, borrowed: to be encoded, or as decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control<'a> {
    /// Names a set of binding groups, before the first message that was routed to it.
    RouteDefine {
        /// The name.
        route: RouteId,
        /// The groups, strictly increasing.
        groups: U32List<'a>,
    },
    /// The same for transient messages: after its epoch they are nobody's.
    TransientRouteDefine {
        /// The name.
        route: RouteId,
        /// The groups, strictly increasing.
        groups: U32List<'a>,
    },
    /// Makes an exchange.
    ExchangeDeclare {
        /// Its id.
        exchange: ExchangeId,
        /// 0 default, 1 fanout, 2 direct, 3 topic, 4 headers.
        kind: u8,
        /// Bits that the engine defines: durable, auto-delete, internal.
        flags: u32,
        /// Its name, at most 255 bytes.
        name: &'a str,
        /// Its arguments, opaque, at most 1 MiB.
        arguments: &'a [u8],
    },
    /// Deletes an exchange and all its bindings.
    ExchangeDelete {
        /// Its id.
        exchange: ExchangeId,
    },
    /// Makes a queue.
    QueueDeclare {
        /// Its id.
        queue: QueueId,
        /// Its implicit group in the default exchange.
        group: GroupId,
        /// Bits that the engine defines.
        flags: u32,
        /// The first offset that it can get.
        from: Offset,
        /// Its name, at most 255 bytes.
        name: &'a str,
        /// Its arguments, opaque, at most 1 MiB.
        arguments: &'a [u8],
    },
    /// Deletes a queue; all its messages count as acked.
    QueueDelete {
        /// Its id.
        queue: QueueId,
    },
    /// Makes a binding group: what one fanout exchange, key, pattern or header rule matches.
    GroupDefine {
        /// Its id.
        group: GroupId,
        /// The exchange that it belongs to.
        exchange: ExchangeId,
        /// The sort of rule, as the engine defines it.
        kind: u8,
        /// The key or pattern, at most 255 bytes.
        key: &'a [u8],
        /// The arguments of the rule, opaque, at most 1 MiB.
        arguments: &'a [u8],
    },
    /// Makes a queue a member of a group.
    Bind {
        /// The group.
        group: GroupId,
        /// The queue.
        queue: QueueId,
        /// The first offset that it gets from the group.
        from: Offset,
    },
    /// Ends the membership of a queue in a group.
    Unbind {
        /// The group.
        group: GroupId,
        /// The queue.
        queue: QueueId,
        /// The offset after the last that it gets from the group.
        to: Offset,
    },
    /// Acks messages of a queue.
    Ack {
        /// The queue.
        queue: QueueId,
        /// How many messages, routed to the queue and not acked before, the set acks.
        messages: u64,
        /// Their payload bytes.
        bytes: u64,
        /// The set.
        acks: AckBytes<'a>,
    },
    /// Says that messages below `offset` may have been handed out.
    DeliveryMark {
        /// The queue.
        queue: QueueId,
        /// The end of the lease, exclusive.
        offset: Offset,
    },
    /// Says how often single messages were handed out.
    DeliveryCount {
        /// The queue.
        queue: QueueId,
        /// (offset, count), offsets strictly increasing.
        entries: CountList<'a>,
    },
    /// Acks all messages of a queue below `to`, but for some.
    Purge {
        /// The queue.
        queue: QueueId,
        /// The end, exclusive.
        to: Offset,
        /// How many messages that acks.
        messages: u64,
        /// Their payload bytes.
        bytes: u64,
        /// What it does not ack.
        kept: AckBytes<'a>,
    },
    /// Brings messages that exchanges keep into a queue: those that it never got, and those that it
    /// acked.
    Rewind {
        /// The queue.
        queue: QueueId,
        /// The end of what is brought, exclusive.
        to: Offset,
        /// The queue's delivery mark from here on.
        mark: Offset,
        /// Groups whose member it becomes, up to `to`, and from which offset on, in the order of
        /// the groups.
        members: RowList<'a, 2>,
        /// By the first offset of a segment, in their order: messages that are brought and their
        /// payload bytes, and those that become the queue's by its new memberships, brought or not.
        segments: RowList<'a, 5>,
        /// What is brought: it counts as acked no more.
        brought: AckBytes<'a>,
        /// What becomes the queue's and is not brought: it counts as acked.
        passed: AckBytes<'a>,
    },
    /// Binds an exchange to an exchange.
    ExchangeBind {
        /// Where messages come from.
        source: ExchangeId,
        /// Where they go.
        destination: ExchangeId,
        /// The key or pattern, at most 255 bytes.
        key: &'a [u8],
        /// The arguments, opaque, at most 1 MiB.
        arguments: &'a [u8],
    },
    /// Removes a binding of an exchange to an exchange.
    ExchangeUnbind {
        /// Where messages came from.
        source: ExchangeId,
        /// Where they went.
        destination: ExchangeId,
        /// The key or pattern, at most 255 bytes.
        key: &'a [u8],
        /// The arguments, opaque, at most 1 MiB.
        arguments: &'a [u8],
    },
    /// The last record before a clean close.
    Close {
        /// The offset that the next message would have got.
        next_offset: Offset,
    },
    /// Makes a named publisher.
    PublisherDeclare {
        /// Its id.
        publisher: PublisherId,
        /// When: microseconds since 1970.
        time_us: u64,
        /// Its name, 1 to 255 bytes.
        name: &'a str,
    },
    /// Says how far the messages of a named publisher in the same batch go.
    PublisherSequence {
        /// The publisher.
        publisher: PublisherId,
        /// The highest sequence number that it has used.
        sequence: u64,
        /// When: microseconds since 1970.
        time_us: u64,
    },
    /// Forgets a named publisher.
    PublisherForget {
        /// Its id.
        publisher: PublisherId,
    },
}

impl Control<'_> {
    /// Returns the size of the record in bytes, before it is padded to eight.
    pub fn encoded_bytes(&self) -> usize {
        let more = match self {
            Self::ExchangeDelete { .. }
            | Self::QueueDelete { .. }
            | Self::PublisherForget { .. } => 0,
            Self::PublisherDeclare { name, .. } => name.len().saturating_add(8),
            Self::PublisherSequence { .. } => 16,
            Self::DeliveryMark { .. } | Self::Close { .. } => 8,
            Self::Bind { .. } | Self::Unbind { .. } => 12,
            Self::Purge { kept, .. } => kept.0.len().saturating_add(24),
            Self::Rewind { members, segments, brought, passed, .. } => 28_usize
                .saturating_add(members.len().saturating_mul(16))
                .saturating_add(segments.len().saturating_mul(40))
                .saturating_add(brought.0.len())
                .saturating_add(passed.0.len()),
            Self::RouteDefine { groups, .. } | Self::TransientRouteDefine { groups, .. } => {
                groups.len().saturating_mul(4).saturating_add(4)
            }
            Self::DeliveryCount { entries, .. } => entries.len().saturating_mul(12),
            Self::Ack { acks, .. } => acks.0.len().saturating_add(16),
            Self::ExchangeDeclare { name, arguments, .. } => {
                name.len().saturating_add(arguments.len()).saturating_add(10)
            }
            Self::QueueDeclare { name, arguments, .. } => {
                name.len().saturating_add(arguments.len()).saturating_add(21)
            }
            Self::GroupDefine { key, arguments, .. } => {
                key.len().saturating_add(arguments.len()).saturating_add(10)
            }
            Self::ExchangeBind { key, arguments, .. }
            | Self::ExchangeUnbind { key, arguments, .. } => {
                key.len().saturating_add(arguments.len()).saturating_add(9)
            }
        };
        more.saturating_add(RECORD_PREFIX_BYTES)
    }

    /// Appends the record to `out`, padded with zeros to a multiple of eight bytes.
    ///
    /// The checksum is left 0: [`seal_record`](crate::seal_record) stores it.
    ///
    /// # Panics
    ///
    /// If a field is over its limit or a list does not increase: the caller checks them before
    /// anything is written.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(align_up(self.encoded_bytes(), RECORD_ALIGN));
        let (kind, id) = self.kind_and_id();
        let mut writer = VecWriter::new(out);
        writer.u64(0);
        writer.u8(kind);
        writer.bytes(&[0; 3]);
        writer.u32(id);
        self.encode_fields(&mut writer);
        let length = out.len().saturating_sub(start);
        assert!(length <= RECORD_BYTES_MAX, "a control record is over its limit");
        debug_assert_eq!(length, self.encoded_bytes(), "the size is what was promised");
        store_u32(out, start, u32_of(length));
        out.resize(start.saturating_add(align_up(length, RECORD_ALIGN)), 0);
    }

    fn kind_and_id(&self) -> (u8, u32) {
        match self {
            Self::RouteDefine { route, .. } => (kind::ROUTE_DEFINE, route.0),
            Self::TransientRouteDefine { route, .. } => (kind::TRANSIENT_ROUTE_DEFINE, route.0),
            Self::ExchangeDeclare { exchange, .. } => (kind::EXCHANGE_DECLARE, exchange.0),
            Self::ExchangeDelete { exchange } => (kind::EXCHANGE_DELETE, exchange.0),
            Self::QueueDeclare { queue, .. } => (kind::QUEUE_DECLARE, queue.0),
            Self::QueueDelete { queue } => (kind::QUEUE_DELETE, queue.0),
            Self::GroupDefine { group, .. } => (kind::GROUP_DEFINE, group.0),
            Self::Bind { group, .. } => (kind::BIND, group.0),
            Self::Unbind { group, .. } => (kind::UNBIND, group.0),
            Self::Ack { queue, .. } => (kind::ACK, queue.0),
            Self::DeliveryMark { queue, .. } => (kind::DELIVERY_MARK, queue.0),
            Self::DeliveryCount { queue, .. } => (kind::DELIVERY_COUNT, queue.0),
            Self::Purge { queue, .. } => (kind::PURGE, queue.0),
            Self::Rewind { queue, .. } => (kind::REWIND, queue.0),
            Self::ExchangeBind { source, .. } => (kind::EXCHANGE_BIND, source.0),
            Self::ExchangeUnbind { source, .. } => (kind::EXCHANGE_UNBIND, source.0),
            Self::Close { .. } => (kind::CLOSE, 0),
            Self::PublisherDeclare { publisher, .. } => (kind::PUBLISHER_DECLARE, publisher.0),
            Self::PublisherSequence { publisher, .. } => (kind::PUBLISHER_SEQUENCE, publisher.0),
            Self::PublisherForget { publisher } => (kind::PUBLISHER_FORGET, publisher.0),
        }
    }

    /// Appends what follows the common sixteen bytes.
    fn encode_fields(&self, out: &mut VecWriter<'_>) {
        match *self {
            Self::RouteDefine { groups, .. } | Self::TransientRouteDefine { groups, .. } => {
                assert!(groups.is_group_set(), "groups strictly increase and are not too many");
                out.u32(u32_of(groups.len()));
                groups.write(|bytes| out.bytes(bytes));
            }
            Self::ExchangeDeclare { kind, flags, name, arguments, .. } => {
                out.u32(flags);
                out.u8(kind);
                write_named(out, name.as_bytes(), arguments);
            }
            Self::QueueDeclare { group, flags, from, name, arguments, .. } => {
                out.u32(group.0);
                out.u32(flags);
                out.u64(from.0);
                write_named(out, name.as_bytes(), arguments);
            }
            Self::GroupDefine { exchange, kind, key, arguments, .. } => {
                out.u32(exchange.0);
                out.u8(kind);
                write_named(out, key, arguments);
            }
            Self::ExchangeBind { destination, key, arguments, .. }
            | Self::ExchangeUnbind { destination, key, arguments, .. } => {
                out.u32(destination.0);
                write_named(out, key, arguments);
            }
            Self::Bind { queue, from: offset, .. } | Self::Unbind { queue, to: offset, .. } => {
                out.u32(queue.0);
                out.u64(offset.0);
            }
            Self::Ack { messages, bytes, acks, .. } => {
                out.u64(messages);
                out.u64(bytes);
                out.bytes(acks.0);
            }
            Self::DeliveryCount { entries, .. } => {
                assert!(entries.iter().is_sorted_by(|a, b| a.0 < b.0), "offsets increase");
                for (offset, count) in entries.iter() {
                    out.u64(offset.0);
                    out.u32(count);
                }
            }
            Self::Purge { to, messages, bytes, kept, .. } => {
                out.u64(to.0);
                out.u64(messages);
                out.u64(bytes);
                out.bytes(kept.0);
            }
            Self::Rewind { to, mark, members, segments, brought, passed, .. } => {
                out.u64(to.0);
                out.u64(mark.0);
                write_rewind(out, members, segments, brought, passed);
            }
            Self::DeliveryMark { offset, .. } | Self::Close { next_offset: offset } => {
                out.u64(offset.0);
            }
            Self::PublisherDeclare { time_us, name, .. } => {
                assert!((1..=NAME_BYTES_MAX).contains(&name.len()), "a name is out of its limits");
                out.u64(time_us);
                out.bytes(name.as_bytes());
            }
            Self::PublisherSequence { sequence, time_us, .. } => {
                out.u64(sequence);
                out.u64(time_us);
            }
            Self::ExchangeDelete { .. }
            | Self::QueueDelete { .. }
            | Self::PublisherForget { .. } => {}
        }
    }
}

/// Numbers of members, segments and bytes of the first set, then all of them and the second set.
fn write_rewind(
    out: &mut VecWriter<'_>,
    members: RowList<'_, 2>,
    segments: RowList<'_, 5>,
    brought: AckBytes<'_>,
    passed: AckBytes<'_>,
) {
    assert!(members.increases() && segments.increases(), "groups and segments increase");
    out.u32(u32_of(members.len()));
    out.u32(u32_of(segments.len()));
    out.u32(u32_of(brought.0.len()));
    let members = members.iter().flatten();
    members.chain(segments.iter().flatten()).for_each(|number| out.u64(number));
    out.bytes(brought.0);
    out.bytes(passed.0);
}

/// Length of a name or key as `u8`, length of the arguments as `u32`, name, arguments.
fn write_named(out: &mut VecWriter<'_>, name: &[u8], arguments: &[u8]) {
    assert!(name.len() <= NAME_BYTES_MAX.min(KEY_BYTES_MAX), "a name or key is over its limit");
    assert!(arguments.len() <= ARGUMENTS_BYTES_MAX, "arguments are over their limit");
    out.u8(u8::try_from(name.len()).expect("checked above"));
    out.u32(u32_of(arguments.len()));
    out.bytes(name);
    out.bytes(arguments);
}
