//! Random messages, control records, ack sets and checkpoints.

use fanlog_segment_format::*;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

#[derive(Debug, Clone)]
pub(crate) struct OwnedMessage {
    numbers: (u64, u32, u32, u32, u64, u8, u8),
    due_us: Option<u64>,
    expiry_us: Option<u64>,
    publisher: Option<(u64, u64)>,
    groups: Option<Vec<u32>>,
    parts: [Vec<u8>; 4],
}

impl OwnedMessage {
    pub(crate) fn record(&self) -> MessageRecord<'_> {
        let (offset, route, exchange, epoch, time_us, priority, mode) = self.numbers;
        let [key, properties, headers, payload] = &self.parts;
        MessageRecord {
            offset: Offset(offset),
            route: RouteId(route),
            exchange: ExchangeId(exchange),
            epoch: Epoch(epoch),
            time_us,
            priority,
            mode: match mode % 3 {
                0 => DurabilityMode::Synced,
                1 => DurabilityMode::Buffered,
                _ => DurabilityMode::Transient,
            },
            due_us: self.due_us,
            expiry_us: self.expiry_us,
            publisher: self.publisher,
            groups: self.groups.as_deref().map(U32List::from_slice),
            key,
            properties,
            headers,
            payload,
        }
    }
}

pub(crate) fn message() -> impl Strategy<Value = OwnedMessage> {
    let bytes = |most: usize| prop_oneof![Just(Vec::new()), vec(any::<u8>(), 0..most)];
    (
        any::<(u64, u32, u32, u32, u64, u8, u8)>(),
        any::<(Option<u64>, Option<u64>, Option<(u64, u64)>)>(),
        proptest::option::of(groups()),
        (bytes(256), bytes(100), bytes(100), bytes(500)),
    )
        .prop_map(|(numbers, (due_us, expiry_us, publisher), groups, parts)| OwnedMessage {
            numbers,
            due_us,
            expiry_us,
            publisher,
            groups,
            parts: parts.into(),
        })
}

fn groups() -> impl Strategy<Value = Vec<u32>> {
    btree_set(any::<u32>(), 0..20).prop_map(|set| set.into_iter().collect())
}

/// The parts that any control record is made of.
#[derive(Debug, Clone)]
pub(crate) struct ControlParts {
    pub(crate) ids: (u32, u32, u32, u8),
    pub(crate) numbers: (u64, u64, u64),
    pub(crate) name: String,
    pub(crate) key: Vec<u8>,
    pub(crate) arguments: Vec<u8>,
    pub(crate) groups: Vec<u32>,
    pub(crate) counts: Vec<(u64, u32)>,
    pub(crate) acks: Vec<u8>,
}

impl ControlParts {
    /// One record of each kind.
    pub(crate) fn records(&self) -> Vec<Control<'_>> {
        let (a, b, flags, kind) = self.ids;
        let (offset, messages, bytes) = self.numbers;
        let (name, key, arguments) = (self.name.as_str(), &*self.key, &*self.arguments);
        let (queue, group, exchange) = (QueueId(a), GroupId(b), ExchangeId(a));
        let (offset, destination) = (Offset(offset), ExchangeId(b));
        let source = exchange;
        let entries = CountList::from_slice(&self.counts);
        vec![
            Control::RouteDefine { route: RouteId(a), groups: U32List::from_slice(&self.groups) },
            Control::ExchangeDeclare { exchange, kind, flags, name, arguments },
            Control::ExchangeDelete { exchange },
            Control::QueueDeclare { queue, group, flags, from: offset, name, arguments },
            Control::QueueDelete { queue },
            Control::GroupDefine { group, exchange, kind, key, arguments },
            Control::Bind { group, queue, from: offset },
            Control::Unbind { group, queue, to: offset },
            Control::Ack { queue, messages, bytes, acks: AckBytes(&self.acks) },
            Control::DeliveryMark { queue, offset },
            Control::DeliveryCount { queue, entries },
            Control::Purge { queue, to: offset, messages, bytes, kept: AckBytes(&self.acks) },
            Control::ExchangeBind { source, destination, key, arguments },
            Control::ExchangeUnbind { source, destination, key, arguments },
            Control::Close { next_offset: offset },
            Control::PublisherDeclare {
                publisher: PublisherId(a),
                time_us: messages,
                name: if name.is_empty() { "p" } else { name },
            },
            Control::PublisherSequence {
                publisher: PublisherId(a),
                sequence: messages,
                time_us: bytes,
            },
            Control::PublisherForget { publisher: PublisherId(a) },
            Control::TransientRouteDefine {
                route: RouteId(a),
                groups: U32List::from_slice(&self.groups),
            },
            Control::Rewind {
                queue,
                to: offset,
                mark: Offset(messages),
                members: RowList::from_slice(&[[2, 30], [9, 31]]),
                segments: RowList::from_slice(&[[0, 3, 300, 4, 400]]),
                brought: AckBytes(&self.acks),
                passed: AckBytes(&self.acks),
            },
        ]
    }
}

pub(crate) fn control_parts() -> impl Strategy<Value = ControlParts> {
    (
        any::<((u32, u32, u32, u8), (u64, u64, u64))>(),
        "\\PC{0,40}",
        (vec(any::<u8>(), 0..=255), vec(any::<u8>(), 0..100)),
        groups(),
        btree_map(any::<u64>(), any::<u32>(), 0..10),
        ack_items(),
    )
        .prop_map(|((ids, numbers), name, (key, arguments), groups, counts, items)| {
            ControlParts {
                ids,
                numbers,
                name,
                key,
                arguments,
                groups,
                counts: counts.into_iter().collect(),
                acks: encode_acks(&items),
            }
        })
}

/// Items in increasing order, as an encoder takes them.
pub(crate) fn ack_items() -> impl Strategy<Value = Vec<AckItem>> {
    let bits = any::<[u64; 32]>().prop_filter("partial", |w| w.iter().any(|w| *w != 0));
    let gap = || prop_oneof![0..3_u64, 0..10_000_u64, 0..1_u64 << 40];
    let item = (any::<bool>(), gap(), gap(), bits);
    vec(item, 0..20).prop_map(|items| {
        let (mut out, mut end, mut after_run) = (Vec::new(), 0_u64, false);
        for (is_run, gap, length, bits) in items {
            if is_run {
                let start = end + gap + u64::from(after_run);
                end = start + length + 1;
                out.push(AckItem::Run { start, end });
            } else {
                let page = end.div_ceil(PAGE_OFFSETS) + gap % 100;
                let mut words = [0; PAGE_WORDS];
                words.iter_mut().zip(bits).for_each(|(word, bits)| *word = bits);
                end = (page + 1) * PAGE_OFFSETS;
                out.push(AckItem::Bits { page, words });
            }
            after_run = is_run;
        }
        out
    })
}

pub(crate) fn encode_acks(items: &[AckItem]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = AckEncoder::new(&mut out);
    for item in items {
        match item {
            AckItem::Run { start, end } => encoder.run(*start, *end),
            AckItem::Bits { page, words } => encoder.bits(*page, words),
        }
    }
    out
}

/// A checkpoint whose lists have entries made of the same parts.
pub(crate) fn checkpoint() -> impl Strategy<Value = Checkpoint> {
    let fixed = any::<([u8; 16], u64, u32, bool, u64, [u64; 4], [u32; 5], u64)>();
    (fixed, vec(control_parts(), 0..5)).prop_map(|(fixed, parts)| {
        let (store, number, epoch, clean, created_us, head, ids, segment) = fixed;
        let [head_segment, position, next_batch, next_offset] = head;
        let [previous, exchange, queue, group, route] = ids;
        let publishers: Vec<PublisherEntry> = parts.iter().skip(1).map(publisher_entry).collect();
        Checkpoint {
            store: StoreId(store),
            number,
            epoch: Epoch(epoch),
            clean,
            created_us,
            head: LogHead {
                position: LogPosition { segment: SegmentId(head_segment), position },
                next_batch: BatchNumber(next_batch),
                previous,
                next_offset: Offset(next_offset),
            },
            next_ids: NextIds { exchange, queue, group, route, segment },
            exchanges: parts.iter().map(exchange_entry).collect(),
            groups: parts.iter().map(group_entry).collect(),
            routes: parts.iter().map(route_entry).collect(),
            queues: parts.iter().map(queue_entry).collect(),
            segments: parts.iter().map(segment_entry).collect(),
            exchange_bindings: {
                let mut list: Vec<_> = parts.iter().map(exchange_binding_entry).collect();
                list.sort();
                list.dedup();
                list
            },
            next_publisher: publishers.first().map_or(0, |_| route.max(1)),
            publishers,
        }
    })
}

fn publisher_entry(parts: &ControlParts) -> PublisherEntry {
    PublisherEntry {
        id: PublisherId(parts.ids.0),
        sequence: parts.numbers.0,
        time_us: parts.numbers.1,
        name: parts.name.clone(),
    }
}

fn exchange_entry(parts: &ControlParts) -> ExchangeEntry {
    ExchangeEntry {
        id: ExchangeId(parts.ids.0),
        kind: parts.ids.3,
        flags: parts.ids.2,
        name: parts.name.clone(),
        arguments: parts.arguments.clone(),
    }
}

fn exchange_binding_entry(parts: &ControlParts) -> ExchangeBindingEntry {
    ExchangeBindingEntry {
        source: ExchangeId(parts.ids.0),
        destination: ExchangeId(parts.ids.1),
        key: parts.key.clone(),
        arguments: parts.arguments.clone(),
    }
}

fn group_entry(parts: &ControlParts) -> GroupEntry {
    GroupEntry {
        id: GroupId(parts.ids.0),
        exchange: ExchangeId(parts.ids.1),
        kind: parts.ids.3,
        key: parts.key.clone(),
        arguments: parts.arguments.clone(),
    }
}

fn route_entry(parts: &ControlParts) -> RouteEntry {
    let (_, messages, bytes) = parts.numbers;
    RouteEntry { id: RouteId(parts.ids.0), groups: parts.groups.clone(), messages, bytes }
}

fn queue_entry(parts: &ControlParts) -> QueueEntry {
    let (floor, messages, bytes) = parts.numbers;
    QueueEntry {
        id: QueueId(parts.ids.0),
        group: GroupId(parts.ids.1),
        flags: parts.ids.2,
        name: parts.name.clone(),
        arguments: parts.arguments.clone(),
        applied: BatchNumber(messages),
        floor: Offset(floor),
        acks: parts.acks.clone(),
        acked_messages: messages,
        acked_bytes: bytes,
        mark: Offset(bytes),
        left_messages: floor,
        left_bytes: bytes,
        members: (parts.groups.iter())
            .map(|group| MemberEntry {
                group: GroupId(*group),
                from: Offset(floor),
                to: group.is_multiple_of(2).then_some(Offset(messages)),
            })
            .collect(),
        bases: (parts.groups.iter())
            .map(|route| BaseEntry { route: RouteId(*route), messages, bytes })
            .collect(),
        counts: parts.counts.clone(),
        parts: (parts.groups.iter())
            .map(|&first| PartEntry {
                first_offset: Offset(first.into()),
                left: first.is_multiple_of(2),
                messages,
                bytes,
            })
            .collect(),
    }
}

fn segment_entry(parts: &ControlParts) -> SegmentEntry {
    let (id, first_offset, file_bytes) = parts.numbers;
    SegmentEntry {
        id: SegmentId(id),
        covers_to: SegmentId(file_bytes),
        generation: parts.ids.0,
        first_offset: Offset(first_offset),
        end_offset: parts.ids.3.is_multiple_of(2).then_some(Offset(file_bytes)),
        file_bytes,
        sealed: parts.ids.3.is_multiple_of(3),
        outstanding_messages: first_offset,
        outstanding_bytes: id,
        uncounted: parts.ids.3.is_multiple_of(5),
    }
}
