//! A checkpoint: all state that would otherwise have to be replayed, as one file.
//!
//! Owns the encoding. What the entries mean to each other is the engine's matter: a checkpoint
//! that decodes has the bytes that were written, not necessarily sense.

mod decode;
mod encode;

use crate::{
    BatchNumber, Epoch, ExchangeId, GroupId, LogPosition, Offset, PublisherId, QueueId, RouteId,
    SegmentId, StoreId,
};

const STRUCTURE: &str = "checkpoint";
/// Set in the flags of a checkpoint that was written by a clean close.
const FLAG_CLEAN: u32 = 1;
/// Set in the flags of a checkpoint with bindings of exchanges to exchanges.
const FLAG_EXCHANGE_BINDINGS: u32 = 1 << 1;
/// Set in a membership that has ended.
const FLAG_ENDED: u8 = 1;
/// Set in a segment that has an end offset.
const FLAG_END: u32 = 1;
/// Set in a segment that has a footer.
const FLAG_SEALED: u32 = 1 << 1;
/// Set in a segment whose outstanding messages are not known exactly.
const FLAG_UNCOUNTED: u32 = 1 << 2;
/// Set in a part whose amount is what is left.
const FLAG_LEFT: u8 = 1;

/// The state of a store at a position of its log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The store.
    pub store: StoreId,
    /// The number of the checkpoint, which is also in its file name: the highest valid one counts.
    pub number: u64,
    /// The epoch in which it was written.
    pub epoch: Epoch,
    /// Written by a clean close: from then on any missing byte is damage.
    pub clean: bool,
    /// When it was written: microseconds since 1970.
    pub created_us: u64,
    /// Where replay starts.
    pub head: LogHead,
    /// The ids that come next.
    pub next_ids: NextIds,
    /// All exchanges.
    pub exchanges: Vec<ExchangeEntry>,
    /// All binding groups.
    pub groups: Vec<GroupEntry>,
    /// All routes.
    pub routes: Vec<RouteEntry>,
    /// All queues.
    pub queues: Vec<QueueEntry>,
    /// All segments.
    pub segments: Vec<SegmentEntry>,
    /// All bindings of exchanges to exchanges, strictly increasing.
    pub exchange_bindings: Vec<ExchangeBindingEntry>,
    /// The next [`PublisherId`]: all below were used. 0 if there never was a named publisher.
    pub next_publisher: u32,
    /// All named publishers; none where `next_publisher` is 0.
    pub publishers: Vec<PublisherEntry>,
}

/// Where replay starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogHead {
    /// Replay starts here; all of the log below is durable.
    pub position: LogPosition,
    /// The number of the batch there.
    pub next_batch: BatchNumber,
    /// The checksum of the batch before.
    pub previous: u32,
    /// The offset of the first message at or behind the position.
    pub next_offset: Offset,
}

/// The ids that come next: all below were used, and are not used again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NextIds {
    /// The next [`ExchangeId`].
    pub exchange: u32,
    /// The next [`QueueId`].
    pub queue: u32,
    /// The next [`GroupId`].
    pub group: u32,
    /// The next [`RouteId`].
    pub route: u32,
    /// The next [`SegmentId`].
    pub segment: u64,
}

/// An exchange.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExchangeEntry {
    /// Its id.
    pub id: ExchangeId,
    /// Its kind, as in [`Control::ExchangeDeclare`](crate::Control::ExchangeDeclare).
    pub kind: u8,
    /// Bits that the engine defines.
    pub flags: u32,
    /// Its name.
    pub name: String,
    /// Its arguments, opaque.
    pub arguments: Vec<u8>,
}

/// A binding group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupEntry {
    /// Its id.
    pub id: GroupId,
    /// The exchange that it belongs to.
    pub exchange: ExchangeId,
    /// The sort of rule, as the engine defines it.
    pub kind: u8,
    /// The key or pattern.
    pub key: Vec<u8>,
    /// The arguments of the rule, opaque.
    pub arguments: Vec<u8>,
}

/// A binding of an exchange to an exchange.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExchangeBindingEntry {
    /// Where messages come from.
    pub source: ExchangeId,
    /// Where they go.
    pub destination: ExchangeId,
    /// The key or pattern.
    pub key: Vec<u8>,
    /// The arguments, opaque.
    pub arguments: Vec<u8>,
}

/// A route and what was published to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteEntry {
    /// Its id.
    pub id: RouteId,
    /// Its binding groups, strictly increasing.
    pub groups: Vec<u32>,
    /// How many messages it has got since it was defined.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

/// A queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueEntry {
    /// Its id.
    pub id: QueueId,
    /// Its implicit group in the default exchange.
    pub group: GroupId,
    /// Bits that the engine defines.
    pub flags: u32,
    /// Its name.
    pub name: String,
    /// Its arguments, opaque.
    pub arguments: Vec<u8>,
    /// The control records of all batches below this one are in the entry.
    pub applied: BatchNumber,
    /// Every offset below is acked.
    pub floor: Offset,
    /// The acked offsets at or above the floor: an encoding for [`AckBytes`](crate::AckBytes).
    pub acks: Vec<u8>,
    /// How many messages were acked since the queue was made.
    pub acked_messages: u64,
    /// Their payload bytes.
    pub acked_bytes: u64,
    /// Messages below this may have been handed out.
    pub mark: Offset,
    /// How many messages it had got from memberships that have ended.
    pub left_messages: u64,
    /// Their payload bytes.
    pub left_bytes: u64,
    /// Its memberships.
    pub members: Vec<MemberEntry>,
    /// What its routes had got when it joined them.
    pub bases: Vec<BaseEntry>,
    /// (offset, how often handed out), for single messages.
    pub counts: Vec<(u64, u32)>,
    /// What it has acked of the segments that it is partly through, in order of offset.
    pub parts: Vec<PartEntry>,
}

/// A named publisher.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublisherEntry {
    /// Its id.
    pub id: PublisherId,
    /// The highest sequence number that it has used, 0 if none.
    pub sequence: u64,
    /// When it published last, or was made: microseconds since 1970.
    pub time_us: u64,
    /// Its name.
    pub name: String,
}

/// How far a queue is through one segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartEntry {
    /// The first offset that the segment stands for.
    pub first_offset: Offset,
    /// The amount is what is left there unacked; else it is what the queue has acked of what the
    /// segment's file holds for it.
    pub left: bool,
    /// How many messages.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

/// A membership of a queue in a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemberEntry {
    /// The group.
    pub group: GroupId,
    /// The first offset that the queue gets from it.
    pub from: Offset,
    /// The offset after the last, or `None` while it lasts.
    pub to: Option<Offset>,
}

/// What a route had got when a queue joined it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BaseEntry {
    /// The route.
    pub route: RouteId,
    /// How many messages.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

/// A segment file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Its number.
    pub id: SegmentId,
    /// The last segment number that it stands for.
    pub covers_to: SegmentId,
    /// Its generation.
    pub generation: u32,
    /// The first offset that it stands for.
    pub first_offset: Offset,
    /// The offset after the last, or `None` for the active one.
    pub end_offset: Option<Offset>,
    /// Its size in bytes.
    pub file_bytes: u64,
    /// It has a footer.
    pub sealed: bool,
    /// For each queue, how many messages here were routed to it and not acked: the sum over all.
    pub outstanding_messages: u64,
    /// Their payload bytes.
    pub outstanding_bytes: u64,
    /// That sum is not exact: it says nothing.
    pub uncounted: bool,
}
