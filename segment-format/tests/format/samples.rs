//! One fixed example of each structure: the golden files hold their bytes.

use fanlog_segment_format::*;

pub(crate) const STORE: StoreId = StoreId(*b"golden store id.");
pub(crate) const SEGMENT: SegmentId = SegmentId(42);
pub(crate) const EPOCH: Epoch = Epoch(7);
const TIME_US: u64 = 1_800_000_000_000_000;

pub(crate) fn segment_header() -> SegmentHeader {
    SegmentHeader {
        store: STORE,
        segment: SEGMENT,
        covers_to: SegmentId(43),
        generation: 2,
        epoch: EPOCH,
        first_offset: Offset(1000),
        first_batch: BatchNumber(500),
        previous: 0xdead_beef,
        file_bytes: 20480,
        created_us: TIME_US,
    }
}

pub(crate) fn plain_message() -> MessageRecord<'static> {
    MessageRecord {
        offset: Offset(1000),
        route: RouteId(3),
        exchange: ExchangeId(2),
        epoch: EPOCH,
        time_us: TIME_US,
        key: b"orders.new",
        payload: b"a payload",
        ..MessageRecord::default()
    }
}

pub(crate) fn full_message() -> MessageRecord<'static> {
    MessageRecord {
        offset: Offset(1001),
        route: RouteId(0),
        priority: 9,
        mode: DurabilityMode::Buffered,
        due_us: Some(TIME_US + 1),
        expiry_us: Some(TIME_US + 2),
        publisher: Some((77, 78)),
        groups: Some(U32List::from_slice(&[1, 5, 0xffff_ffff])),
        properties: b"properties",
        headers: b"some headers",
        ..plain_message()
    }
}

pub(crate) fn transient_message() -> MessageRecord<'static> {
    let mode = DurabilityMode::Transient;
    MessageRecord { offset: Offset(1002), mode, key: b"", payload: b"", ..plain_message() }
}

pub(crate) fn ack_set() -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = AckEncoder::new(&mut out);
    let mut words = [0_u64; PAGE_WORDS];
    words[0] = 0b1011;
    words[63] = 1 << 63;
    encoder.run(0, 3);
    encoder.run(4, 4000);
    encoder.bits(1, &words);
    encoder.run(8192, 8193);
    encoder.bits(100, &[1; PAGE_WORDS]);
    encoder.run(1 << 60, u64::MAX);
    out
}

/// All kinds of control records, with the names of their golden files.
pub(crate) fn controls(acks: &[u8]) -> Vec<(&'static str, Control<'_>)> {
    let (queue, group, exchange) = (QueueId(11), GroupId(12), ExchangeId(13));
    let (name, arguments, key) = ("a name é", b"arguments".as_slice(), b"a.*.#".as_slice());
    let (source, destination) = (exchange, ExchangeId(14));
    let groups = U32List::from_slice(&[2, 3, 1000]);
    let counts = CountList::from_slice(&[(5, 1), (6, 2), (1 << 40, 3)]);
    vec![
        ("route_define", Control::RouteDefine { route: RouteId(3), groups }),
        (
            "exchange_declare",
            Control::ExchangeDeclare { exchange, kind: 1, flags: 5, name, arguments },
        ),
        ("exchange_delete", Control::ExchangeDelete { exchange }),
        (
            "queue_declare",
            Control::QueueDeclare { queue, group, flags: 3, from: Offset(9), name, arguments },
        ),
        ("queue_delete", Control::QueueDelete { queue }),
        ("group_define", Control::GroupDefine { group, exchange, kind: 3, key, arguments }),
        ("bind", Control::Bind { group, queue, from: Offset(1000) }),
        ("unbind", Control::Unbind { group, queue, to: Offset(2000) }),
        ("ack", Control::Ack { queue, messages: 9, bytes: 900, acks: AckBytes(acks) }),
        ("delivery_mark", Control::DeliveryMark { queue, offset: Offset(1024) }),
        ("delivery_count", Control::DeliveryCount { queue, entries: counts }),
        (
            "purge",
            Control::Purge { queue, to: Offset(99), messages: 8, bytes: 800, kept: AckBytes(acks) },
        ),
        ("exchange_bind", Control::ExchangeBind { source, destination, key, arguments }),
        ("exchange_unbind", Control::ExchangeUnbind { source, destination, key, arguments }),
        ("close", Control::Close { next_offset: Offset(1003) }),
    ]
}

/// Control records that came later, likewise; the batch of all records is from before them.
pub(crate) fn later_controls() -> Vec<(&'static str, Control<'static>)> {
    let (publisher, time_us) = (PublisherId(15), TIME_US);
    vec![
        ("publisher_declare", Control::PublisherDeclare { publisher, time_us, name: "a name é" }),
        ("publisher_sequence", Control::PublisherSequence { publisher, sequence: 77, time_us }),
        ("publisher_forget", Control::PublisherForget { publisher }),
        (
            "transient_route_define",
            Control::TransientRouteDefine {
                route: RouteId(4),
                groups: U32List::from_slice(&[2, 9]),
            },
        ),
        (
            "rewind",
            Control::Rewind {
                queue: QueueId(6),
                to: Offset(120),
                mark: Offset(31),
                members: RowList::from_slice(&[[2, 30], [9, 31]]),
                segments: RowList::from_slice(&[[0, 3, 300, 4, 400], [64, 0, 0, 2, 20]]),
                // Run 31 to 34; run 40 to 44.
                brought: AckBytes(&[0, 31, 3]),
                passed: AckBytes(&[0, 40, 4]),
            },
        ),
    ]
}

/// The checkpoint with named publishers.
pub(crate) fn checkpoint_with_publishers() -> Checkpoint {
    let entry = PublisherEntry {
        id: PublisherId(15),
        sequence: 77,
        time_us: TIME_US,
        name: "a publisher".into(),
    };
    let other =
        PublisherEntry { id: PublisherId(3), name: "p".into(), ..PublisherEntry::default() };
    Checkpoint { next_publisher: 16, publishers: vec![entry, other], ..checkpoint() }
}

pub(crate) fn sealed_message(message: &MessageRecord<'_>) -> Vec<u8> {
    let mut out = vec![0xaa; align_up(message.encoded_bytes(), RECORD_ALIGN)];
    assert_eq!(message.encode(&mut out), out.len());
    seal_record(seed_record(STORE), &mut out);
    out
}

pub(crate) fn sealed_control(control: &Control<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    control.encode(&mut out);
    seal_record(seed_record(STORE), &mut out);
    out
}

/// A batch header for those records, at that position.
pub(crate) fn batch_header(position: u64, number: u64, records: &[Vec<u8>]) -> BatchHeader {
    let messages = records.iter().filter(|record| record[8] == 1).count();
    BatchHeader {
        store: STORE,
        segment: SEGMENT,
        position,
        epoch: EPOCH,
        number: BatchNumber(number),
        first_offset: Offset(1000),
        messages: messages as u32,
        controls: (records.len() - messages) as u32,
        body_bytes: records.iter().map(Vec::len).sum::<usize>() as u32,
        durable: LogPosition { segment: SegmentId(41), position: 8192 },
        previous: 0xdead_beef,
        time_us: TIME_US,
        flags: 0,
    }
}

pub(crate) fn batch(header: &BatchHeader, records: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0xaa; header.total_bytes()];
    let body = records.concat();
    out[BATCH_HEADER_BYTES..][..body.len()].copy_from_slice(&body);
    seal_batch(header, &mut out);
    out
}

pub(crate) fn all_records() -> Vec<Vec<u8>> {
    let acks = ack_set();
    let mut records: Vec<_> =
        [plain_message(), full_message(), transient_message()].iter().map(sealed_message).collect();
    records.extend(controls(&acks).iter().map(|(_, control)| sealed_control(control)));
    records
}

/// The footer of a segment with two batches; with gaps between the offsets, or without.
pub(crate) fn footer(gaps: bool) -> Vec<u8> {
    let mut builder = FooterBuilder::new(&segment_header());
    let step = if gaps { 3 } else { 1 };
    builder.batch(4096, 4096, 0, BatchNumber(500));
    builder.batch(8192, 4096, 5, BatchNumber(501));
    for i in 0..10_u32 {
        let batch = 4096 + 4096 * (i / 5);
        let route = RouteId([9, 4, 4, 700][i as usize % 4]);
        let offset = Offset(1000 + u64::from(i) * step);
        builder.message(offset, batch + 128 + 64 * (i % 5), route, 10 + i, TIME_US + u64::from(i));
    }
    builder.control(4096 + 128 + 320);
    builder.control(8192 + 128 + 320);
    builder.due(TIME_US + 50, 7);
    builder.due(TIME_US + 40, 8);
    builder.due(TIME_US + 50, 2);
    builder.end(12288, BatchNumber(501), 0x1234_5678);
    builder.cover_to(Offset(2000));
    assert_eq!(builder.start(), 16384);
    builder.encode()
}

/// A footer of messages with due times, expiry times and priorities.
pub(crate) fn footer_of_times_and_priorities() -> Vec<u8> {
    let mut builder = FooterBuilder::new(&segment_header());
    builder.batch(4096, 4096, 0, BatchNumber(500));
    for i in 0..7_u32 {
        let position = 4096 + 128 + 64 * i;
        builder.message(Offset(1000 + u64::from(i)), position, RouteId(3), 10, TIME_US);
        builder.priority([0, 4, 0, 9, 255, 0, 0][i as usize]);
    }
    builder.due(TIME_US + 60, 3);
    builder.expiry(TIME_US + 50, 5);
    builder.expiry(TIME_US + 70, 3);
    builder.due(TIME_US + 50, 6);
    builder.end(8192, BatchNumber(500), 0x1234_5678);
    builder.encode()
}

/// A footer in which every message has the same route.
pub(crate) fn footer_of_one_route() -> Vec<u8> {
    let mut builder = FooterBuilder::new(&segment_header());
    builder.batch(4096, 4096, 0, BatchNumber(500));
    for i in 0..5_u32 {
        let position = 4096 + 128 + 64 * i;
        builder.message(Offset(1000 + u64::from(i)), position, RouteId(3), 10, TIME_US);
    }
    builder.end(8192, BatchNumber(500), 0x1234_5678);
    builder.encode()
}

/// A whole segment file: header, two batches, footer.
pub(crate) fn sealed_segment() -> Vec<u8> {
    let header = SegmentHeader { file_bytes: 16384, generation: 0, ..segment_header() };
    let header = SegmentHeader { covers_to: SEGMENT, ..header };
    let mut file = header.encode().to_vec();
    let mut builder = FooterBuilder::new(&header);
    let mut previous = header.previous;
    let records = all_records();
    for (number, records) in [(500, &records[..2]), (501, &records[2..])] {
        let position = file.len() as u64;
        let first_message = builder.messages();
        let first_offset = Offset(1000 + u64::from(first_message));
        let mut head = batch_header(position, number, records);
        head = BatchHeader { previous, first_offset, ..head };
        let bytes = batch(&head, records);
        let opened = open_batch(&bytes, STORE, SEGMENT, position).expect("it was just sealed");
        previous = opened.checksum;
        let start = position as u32;
        builder.batch(start, bytes.len() as u32, first_message, head.number);
        for record in opened.records() {
            let (at, record) = record.expect("it was just encoded");
            match record {
                Record::Message(message) => {
                    let bytes = message.payload.len() as u32;
                    let at = start + at;
                    builder.message(message.offset, at, message.route, bytes, message.time_us);
                    for time in [message.due_us, message.expiry_us].into_iter().flatten() {
                        builder.due(time, builder.messages() - 1);
                    }
                }
                Record::Control(_) => builder.control(start + at),
            }
        }
        file.extend_from_slice(&bytes);
        builder.end(file.len() as u64, head.number, previous);
    }
    assert_eq!(builder.start(), file.len() as u64);
    file.extend_from_slice(&builder.encode());
    assert_eq!(file.len() as u64, header.file_bytes);
    file
}

pub(crate) fn checkpoint() -> Checkpoint {
    let queue = QueueEntry {
        id: QueueId(1),
        group: GroupId(2),
        flags: 3,
        name: "a queue".into(),
        arguments: b"arguments".to_vec(),
        applied: BatchNumber(499),
        floor: Offset(17),
        acks: ack_set(),
        acked_messages: 18,
        acked_bytes: 1800,
        mark: Offset(1024),
        left_messages: 4,
        left_bytes: 400,
        members: vec![
            MemberEntry { group: GroupId(2), from: Offset(0), to: None },
            MemberEntry { group: GroupId(3), from: Offset(5), to: Some(Offset(10)) },
        ],
        bases: vec![BaseEntry { route: RouteId(1), messages: 6, bytes: 600 }],
        counts: vec![(19, 2), (23, 1)],
        parts: vec![
            PartEntry { first_offset: Offset(0), left: true, messages: 3, bytes: 300 },
            PartEntry { first_offset: Offset(1000), left: false, messages: 2, bytes: 200 },
        ],
    };
    let segment = SegmentEntry {
        id: SegmentId(40),
        covers_to: SegmentId(41),
        generation: 1,
        first_offset: Offset(0),
        end_offset: Some(Offset(1000)),
        file_bytes: 1 << 26,
        sealed: true,
        outstanding_messages: 5,
        outstanding_bytes: 500,
        uncounted: true,
    };
    Checkpoint {
        next_publisher: 0,
        publishers: Vec::new(),
        store: STORE,
        number: 3,
        epoch: EPOCH,
        clean: true,
        created_us: TIME_US,
        head: LogHead {
            position: LogPosition { segment: SEGMENT, position: 4096 },
            next_batch: BatchNumber(500),
            previous: 0xdead_beef,
            next_offset: Offset(1000),
        },
        next_ids: NextIds { exchange: 3, queue: 4, group: 5, route: 6, segment: 43 },
        exchanges: vec![ExchangeEntry {
            id: ExchangeId(1),
            kind: 1,
            flags: 1,
            name: "rt_compute_data".into(),
            arguments: Vec::new(),
        }],
        groups: vec![GroupEntry {
            id: GroupId(2),
            exchange: ExchangeId(1),
            kind: 2,
            key: b"key".to_vec(),
            arguments: b"x".to_vec(),
        }],
        routes: vec![RouteEntry { id: RouteId(1), groups: vec![2, 3], messages: 9, bytes: 900 }],
        queues: vec![queue, QueueEntry::default()],
        segments: vec![segment, SegmentEntry { id: SEGMENT, ..SegmentEntry::default() }],
        exchange_bindings: Vec::new(),
    }
}

pub(crate) fn checkpoint_with_exchange_bindings() -> Checkpoint {
    let binding = ExchangeBindingEntry {
        source: ExchangeId(1),
        destination: ExchangeId(2),
        key: b"a.*".to_vec(),
        arguments: b"x".to_vec(),
    };
    let other = ExchangeBindingEntry { source: ExchangeId(2), ..binding.clone() };
    Checkpoint { exchange_bindings: vec![binding, other], ..Checkpoint::default() }
}
