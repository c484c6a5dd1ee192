//! Records: encoded, sealed, decoded.

use arbitrary::Arbitrary;
use fanlog_segment_format::{
    AckBytes, AckEncoder, AckItem, Control, CountList, DurabilityMode, Epoch, ExchangeId, GroupId,
    MessageRecord, Offset, PAGE_WORDS, PublisherId, QueueId, RECORD_ALIGN, Record, RouteId,
    RowList, U32List, align_up, seal_record, seed_record, verify_record,
};

use crate::STORE;

/// The fields of a message.
#[derive(Arbitrary, Debug)]
pub struct MessageFields<'a> {
    offset: u64,
    route: u32,
    exchange: u32,
    epoch: u32,
    time_us: u64,
    priority: u8,
    mode: u8,
    due_us: Option<u64>,
    expiry_us: Option<u64>,
    publisher: Option<(u64, u64)>,
    groups: Option<Vec<u32>>,
    key: &'a [u8],
    properties: &'a [u8],
    headers: &'a [u8],
    payload: &'a [u8],
}

/// The fields of a control record.
#[derive(Arbitrary, Debug)]
pub struct ControlFields<'a> {
    which: u8,
    ids: (u32, u32, u32),
    flags: u32,
    kind: u8,
    numbers: (u64, u64, u64),
    name: &'a str,
    arguments: &'a [u8],
    list: Vec<u32>,
    runs: Vec<(u16, u16)>,
    counts: Vec<(u64, u32)>,
}

/// What a record is made of.
#[derive(Arbitrary, Debug)]
pub enum Fields<'a> {
    /// A message.
    Message(MessageFields<'a>),
    /// A control record.
    Control(ControlFields<'a>),
}

/// Makes a record and expects it back.
pub fn run(fields: &Fields<'_>) {
    match fields {
        Fields::Message(fields) => message(fields),
        Fields::Control(fields) => control(fields),
    }
}

fn increasing(list: &[u32]) -> Vec<u32> {
    let mut list = list.to_vec();
    list.sort_unstable();
    list.dedup();
    list
}

fn message(fields: &MessageFields<'_>) {
    let groups = fields.groups.as_deref().map(increasing);
    let record = MessageRecord {
        offset: Offset(fields.offset),
        // Where the groups stand in the record the route is not used.
        route: RouteId(fields.route),
        exchange: ExchangeId(fields.exchange),
        epoch: Epoch(fields.epoch),
        time_us: fields.time_us,
        priority: fields.priority,
        mode: match fields.mode % 3 {
            0 => DurabilityMode::Synced,
            1 => DurabilityMode::Buffered,
            _ => DurabilityMode::Transient,
        },
        due_us: fields.due_us,
        expiry_us: fields.expiry_us,
        publisher: fields.publisher,
        groups: groups.as_deref().map(U32List::from_slice),
        key: &fields.key[..fields.key.len().min(255)],
        properties: fields.properties,
        headers: fields.headers,
        payload: fields.payload,
    };
    let mut bytes = vec![0xa5; align_up(record.encoded_bytes(), RECORD_ALIGN)];
    assert_eq!(record.encode(&mut bytes), bytes.len());
    let expected = Record::Message(record);
    expect(&mut bytes, &expected);
}

fn control(fields: &ControlFields<'_>) {
    let (a, b, c) = fields.ids;
    let (x, y, z) = fields.numbers;
    let name = fields.name.get(..fields.name.floor_char_boundary(255)).unwrap_or_default();
    let (key, arguments) = (name.as_bytes(), fields.arguments);
    let list = increasing(&fields.list);
    let mut counts = fields.counts.clone();
    counts.sort_unstable();
    counts.dedup_by_key(|&mut (offset, _)| offset);
    let acks = ack_set(&fields.runs);
    let (members, segments) = ([[1, x], [2, y]], [[3, x, y, z, x]]);
    let control = match fields.which % 20 {
        0 => Control::RouteDefine { route: RouteId(a), groups: U32List::from_slice(&list) },
        1 => Control::ExchangeDeclare {
            exchange: ExchangeId(a),
            kind: fields.kind % 5,
            flags: fields.flags,
            name,
            arguments,
        },
        2 => Control::ExchangeDelete { exchange: ExchangeId(a) },
        3 => Control::QueueDeclare {
            queue: QueueId(a),
            group: GroupId(b),
            flags: fields.flags,
            from: Offset(x),
            name,
            arguments,
        },
        4 => Control::QueueDelete { queue: QueueId(a) },
        5 => Control::GroupDefine {
            group: GroupId(a),
            exchange: ExchangeId(b),
            kind: fields.kind,
            key,
            arguments,
        },
        6 => Control::Bind { group: GroupId(a), queue: QueueId(b), from: Offset(x) },
        7 => Control::Unbind { group: GroupId(a), queue: QueueId(b), to: Offset(x) },
        8 => Control::Ack { queue: QueueId(a), messages: x, bytes: y, acks: AckBytes(&acks) },
        9 => Control::DeliveryMark { queue: QueueId(a), offset: Offset(x) },
        10 => Control::DeliveryCount { queue: QueueId(a), entries: CountList::from_slice(&counts) },
        11 => {
            let (queue, kept) = (QueueId(a), AckBytes(&acks));
            Control::Purge { queue, to: Offset(x), messages: y, bytes: z, kept }
        }
        12 => Control::ExchangeBind {
            source: ExchangeId(a),
            destination: ExchangeId(c),
            key,
            arguments,
        },
        13 => Control::ExchangeUnbind {
            source: ExchangeId(a),
            destination: ExchangeId(c),
            key,
            arguments,
        },
        14 => {
            let name = if name.is_empty() { "p" } else { name };
            Control::PublisherDeclare { publisher: PublisherId(a), time_us: x, name }
        }
        15 => Control::PublisherSequence { publisher: PublisherId(a), sequence: x, time_us: y },
        17 => {
            Control::TransientRouteDefine { route: RouteId(a), groups: U32List::from_slice(&list) }
        }
        16 => Control::PublisherForget { publisher: PublisherId(a) },
        18 => Control::Rewind {
            queue: QueueId(a),
            to: Offset(x),
            mark: Offset(y),
            members: RowList::from_slice(&members),
            segments: RowList::from_slice(&segments),
            brought: AckBytes(&acks),
            passed: AckBytes(&acks),
        },
        _ => Control::Close { next_offset: Offset(x) },
    };
    let mut bytes = Vec::new();
    control.encode(&mut bytes);
    assert_eq!(bytes.len(), align_up(control.encoded_bytes(), RECORD_ALIGN));
    expect(&mut bytes, &Record::Control(control));
}

/// Runs and bitmaps, encoded and read back.
fn ack_set(runs: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = AckEncoder::new(&mut bytes);
    let mut expected = Vec::new();
    let mut end = 0_u64;
    for &(gap, length) in runs {
        if length % 8 == 7 {
            let page = end.div_ceil(4096) + u64::from(gap % 4);
            let mut words = [u64::from(gap); PAGE_WORDS];
            words[0] = 1;
            encoder.bits(page, &words);
            expected.push(AckItem::Bits { page, words });
            end = (page + 1) * 4096;
        } else {
            let start = end + u64::from(gap) + 1;
            end = start + u64::from(length) + 1;
            encoder.run(start, end);
            expected.push(AckItem::Run { start, end });
        }
    }
    let found: Result<Vec<AckItem>, _> = AckBytes(&bytes).items().collect();
    assert_eq!(found.expect("just encoded"), expected);
    bytes
}

/// Seals, verifies and decodes; then flips each bit of a few bytes and expects it to be noticed.
fn expect(bytes: &mut [u8], expected: &Record<'_>) {
    let seed = seed_record(STORE);
    let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    seal_record(seed, bytes);
    verify_record(seed, bytes).expect("just sealed");
    let (found, padded) = Record::decode(bytes).expect("just encoded");
    assert_eq!(padded, bytes.len());
    assert_eq!(format!("{found:?}"), format!("{expected:?}"));
    let step = (length / 16).max(1);
    for at in (0..length).step_by(step) {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            assert!(verify_record(seed, bytes).is_err(), "a flipped bit at byte {at}");
            bytes[at] ^= 1 << bit;
        }
    }
}
