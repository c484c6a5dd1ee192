//! A footer answers as a plain list of the same messages would.

use fanlog_segment_format::*;
use proptest::prelude::*;

use crate::samples;

#[derive(Debug, Clone)]
struct Message {
    offset: u64,
    position: u32,
    route: u32,
    payload_bytes: u32,
    time_us: u64,
    priority: u8,
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let gap = prop_oneof![9 => Just(0_u64), 1 => 0..1000_u64];
    let priority = prop_oneof![9 => Just(0_u8), 1 => any::<u8>()];
    let message = (gap, 1..20_u32, 0..6_u32, 0..1000_u32, any::<u64>(), priority);
    let routes = prop_oneof![Just(1_u32), Just(6_u32)];
    (proptest::collection::vec(message, 0..200), any::<bool>(), routes).prop_map(
        |(list, dense, routes)| {
            let (mut offset, mut position) = (1000, 4096 + 128);
            let build = |(gap, size, route, payload_bytes, time_us, priority)| {
                offset += if dense { 0 } else { gap };
                let route = route % routes;
                let message = Message { offset, position, route, payload_bytes, time_us, priority };
                offset += 1;
                position += size * 8;
                message
            };
            list.into_iter().map(build).collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_answers_as_a_list_of_the_messages_would(
        list in messages(),
        mut dues in proptest::collection::vec(
            (any::<u64>(), any::<prop::sample::Index>(), any::<bool>()),
            0..20,
        ),
        file_bytes in prop_oneof![Just(0), Just(1 << 20)],
    ) {
        let header = SegmentHeader { file_bytes, ..samples::segment_header() };
        let end = list.last().map_or(4096, |last| last.position + 160);
        let total = align_up(end as usize, BLOCK_BYTES) as u32 - 4096;
        let mut builder = FooterBuilder::new(&header);
        builder.batch(4096, total.max(4096), 0, BatchNumber(500));
        for m in &list {
            builder.message(Offset(m.offset), m.position, RouteId(m.route), m.payload_bytes, m.time_us);
            builder.priority(m.priority);
        }
        if list.is_empty() {
            dues.clear();
        }
        let mut dues: Vec<_> =
            dues.into_iter().map(|(time, i, kind)| (time, i.index(list.len()) as u32, kind)).collect();
        for (time, message, expiry) in &dues {
            if *expiry {
                builder.expiry(*time, *message);
            } else {
                builder.due(*time, *message);
            }
        }
        dues.sort_unstable();
        let log_end = u64::from(total.max(4096)) + 4096;
        builder.end(log_end, BatchNumber(500), 77);
        let (start, size) = (builder.start(), builder.encoded_bytes());
        let bytes = builder.encode();
        prop_assert_eq!(bytes.len(), size);
        prop_assert_eq!(start + size as u64, file_bytes.max(log_end + size as u64));
        let routes: std::collections::BTreeSet<u32> = list.iter().map(|m| m.route).collect();
        let bound = FooterBuilder::projected_bytes(list.len(), 1, 0, routes.len());
        let more = dues.len() * FOOTER_DUE_BYTES + list.len() + 8;
        prop_assert!(size <= align_up(bound + more, BLOCK_BYTES));
        let file_end = start + size as u64;
        let range = Footer::locate(&bytes, file_end, header.store, header.segment);
        prop_assert_eq!(range, Ok(start..file_end));

        let layout = Footer::parse(&bytes, &header).unwrap();
        let footer = layout.view(&bytes);
        compare(&footer, &list, &routes);
        let entry = |k| (footer.due(k).0, footer.due(k).1, footer.is_expiry(k));
        prop_assert_eq!((0..footer.dues()).map(entry).collect::<Vec<_>>(), &*dues);
        for time in dues.iter().map(|due| due.0).chain([0, 1 << 63, u64::MAX]) {
            let until = dues.iter().filter(|due| due.0 <= time).count();
            prop_assert_eq!(footer.dues_until(time) as usize, until);
        }
        prop_assert_eq!(footer.has_priorities(), list.iter().any(|m| m.priority > 0));
        prop_assert_eq!((footer.log_end(), footer.checksum()), (log_end, 77));
    }
}

fn compare(footer: &Footer<'_>, list: &[Message], routes: &std::collections::BTreeSet<u32>) {
    assert_eq!(footer.messages() as usize, list.len());
    assert_eq!(footer.end_offset().0, list.last().map_or(1000, |last| last.offset + 1));
    assert_eq!(footer.min_time_us(), list.iter().map(|m| m.time_us).min().unwrap_or(0));
    assert_eq!(footer.max_time_us(), list.iter().map(|m| m.time_us).max().unwrap_or(0));
    for (i, message) in (0..).zip(list) {
        assert_eq!(footer.offset_of(i), Offset(message.offset));
        assert_eq!(footer.position_of(i), message.position);
        assert_eq!(footer.priority_of(i), message.priority);
        assert_eq!(footer.index_of(Offset(message.offset)), Some(i));
        assert_eq!(footer.lower_bound(Offset(message.offset)), i);
        let after = list.iter().position(|other| other.offset > message.offset);
        let after = after.map_or(footer.messages(), |after| after as u32);
        assert_eq!(footer.lower_bound(Offset(message.offset + 1)), after);
        assert_eq!(footer.batch_of_position(message.position), 0);
    }
    assert_eq!(footer.index_of(footer.end_offset()), None);
    assert_eq!(footer.index_of(Offset(999)), None);
    assert_eq!(footer.index_of(Offset(u64::MAX)), None);
    assert_eq!(footer.lower_bound(Offset(u64::MAX)), footer.messages());
    assert_eq!(footer.routes() as usize, routes.len());
    for (k, route) in (0..).zip(routes) {
        let of_route: Vec<u32> =
            (0..).zip(list).filter(|(_, m)| m.route == *route).map(|(i, _)| i).collect();
        let bytes: u64 =
            list.iter().filter(|m| m.route == *route).map(|m| u64::from(m.payload_bytes)).sum();
        let summary = footer.route(k);
        assert_eq!((summary.route, summary.bytes), (RouteId(*route), bytes));
        assert_eq!(summary.dense, of_route.len() == list.len());
        assert_eq!(footer.route_messages(k).collect::<Vec<_>>(), of_route);
        for (j, message) in (0..).zip(&of_route) {
            assert_eq!(footer.route_message(k, j), *message);
            assert_eq!(footer.route_lower_bound(k, *message), j);
            assert_eq!(footer.route_lower_bound(k, *message + 1), j + 1);
        }
        assert_eq!(footer.find_route(RouteId(*route)), Some(k));
    }
    assert_eq!(footer.find_route(RouteId(999)), None);
}

#[test]
fn batches_and_controls_are_found_by_position() {
    let bytes = samples::footer(false);
    let layout = Footer::parse(&bytes, &samples::segment_header()).unwrap();
    let footer = layout.view(&bytes);
    assert_eq!(footer.batches(), 2);
    for (position, batch) in [(0, 0), (4096, 0), (8191, 0), (8192, 1), (u32::MAX, 1)] {
        assert_eq!(footer.batch_of_position(position), batch);
    }
    let expected = FooterBatch {
        position: 8192,
        total_bytes: 4096,
        first_message: 5,
        number: BatchNumber(501),
    };
    assert_eq!(footer.batch(1), expected);
    assert_eq!((footer.controls(), footer.control(1)), (2, 8192 + 448));
    assert_eq!(footer.end_offset(), Offset(2000), "covered although no message is there");
}

#[test]
fn the_projection_is_not_exceeded_by_the_worst_case() {
    for messages in [0, 1, 1000, 1023, 1024, 5000] {
        let header = SegmentHeader::default();
        let mut builder = FooterBuilder::new(&header);
        for i in 0..messages as u32 {
            let offset = Offset(u64::from(i) * 2);
            builder.message(offset, 4096 + i * 8, RouteId(i), 0, 0);
            builder.batch(4096, 4096, i, BatchNumber(u64::from(i)));
            builder.control(4096 + i * 8);
        }
        let bound = FooterBuilder::projected_bytes(messages, messages, messages, messages);
        let size = builder.encode().len();
        assert!(size <= bound, "{messages}: {size} > {bound}");
        assert!(bound <= size + BLOCK_BYTES, "{messages}: the bound is close");
    }
}
