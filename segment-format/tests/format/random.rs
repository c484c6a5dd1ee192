//! No decoder panics, whatever the bytes; also behind a checksum that fits.

use fanlog_segment_format::*;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::samples::{self, SEGMENT, STORE};

/// Calls every decoder, and reads all that those which succeed return.
fn decode_everything(bytes: &[u8]) {
    drop(SegmentHeader::decode(bytes));
    drop(BatchHeader::decode(bytes, STORE, SEGMENT, 4096));
    if let Ok(batch) = open_batch(bytes, STORE, SEGMENT, 4096) {
        read_records(batch.records());
    }
    for start in [0, 1, BATCH_HEADER_BYTES, usize::MAX] {
        read_records(records_in(bytes, start));
        read_records(records_in(bytes, start).verified(seed_record(STORE)));
    }
    drop(verify_record(0, bytes));
    drop(RecordHead::peek(bytes));
    drop(MessageRecord::decode(bytes));
    drop(Control::decode(bytes));
    read_acks(AckBytes(bytes));
    drop(CountList::from_bytes(bytes));
    drop(Checkpoint::decode(bytes));
    drop(Footer::locate(bytes, bytes.len() as u64, STORE, SEGMENT));
    if let Ok(layout) = Footer::parse(bytes, &samples::segment_header()) {
        read_footer(&layout.view(bytes));
    }
}

fn read_records(records: Records<'_>) {
    for record in records {
        match record {
            Ok((_, Record::Control(Control::Ack { acks, .. }))) => read_acks(acks),
            Ok((_, record)) => assert!(!format!("{record:?}").is_empty()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn read_acks(acks: AckBytes<'_>) {
    let mut end = 0;
    for item in acks.items().map_while(Result::ok) {
        let (start, after) = match item {
            AckItem::Run { start, end } => (start, end),
            AckItem::Bits { page, .. } => (page * PAGE_OFFSETS, (page + 1) * PAGE_OFFSETS),
        };
        assert!(end <= start && start < after, "K1");
        end = after;
    }
}

/// Asks for everything, also beyond the ends.
fn read_footer(footer: &Footer<'_>) {
    let some = |count: u32| (0..count.min(100)).chain([count, u32::MAX]);
    for i in some(footer.messages()) {
        let offset = footer.offset_of(i);
        footer.batch_of_position(footer.position_of(i));
        footer.index_of(offset);
        footer.lower_bound(offset);
    }
    for k in some(footer.routes()) {
        let route = footer.route(k);
        footer.find_route(route.route);
        footer.route_lower_bound(k, 5);
        for j in some(route.messages) {
            assert!(footer.route_message(k, j) < footer.messages().max(1), "F3");
        }
    }
    some(footer.batches()).for_each(|k| drop(format!("{:?}", footer.batch(k))));
    some(footer.controls()).for_each(|k| assert!(u64::from(footer.control(k)) < footer.log_end()));
    some(footer.dues()).for_each(|k| assert!(footer.due(k).1 < footer.messages().max(1), "F3"));
}

/// Changes to make to valid bytes: where, and to what.
fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    let value = prop_oneof![any::<u8>(), Just(0), Just(1), Just(0xff)];
    vec((any::<prop::sample::Index>(), value), 1..6)
}

fn change(bytes: &mut [u8], changes: &[(prop::sample::Index, u8)]) {
    for (index, value) in changes {
        let at = index.index(bytes.len());
        bytes[at] = *value;
    }
}

fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..600)) {
        decode_everything(&bytes);
    }

    #[test]
    fn random_records_do_not_panic(mut bytes in vec(any::<u8>(), 16..600), kind in 0..32_u8) {
        let length = bytes.len() as u32;
        set_u32(&mut bytes, 0, length);
        bytes[8] = kind;
        decode_everything(&bytes);
        bytes[9..12].fill(0);
        decode_everything(&bytes);
    }

    #[test]
    fn changed_records_do_not_panic(changes in changes()) {
        for mut record in samples::all_records() {
            change(&mut record, &changes);
            decode_everything(&record);
        }
    }

    #[test]
    fn changed_batches_with_a_valid_checksum_do_not_panic(changes in changes()) {
        let records = samples::all_records();
        let header = samples::batch_header(4096, 500, &records);
        let mut bytes = samples::batch(&header, &records);
        let body = BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + header.body_bytes as usize;
        change(&mut bytes[body], &changes);
        seal_batch(&header, &mut bytes);
        prop_assert!(open_batch(&bytes, STORE, SEGMENT, 4096).is_ok());
        decode_everything(&bytes);
        change(&mut bytes, &changes);
        decode_everything(&bytes);
    }

    #[test]
    fn changed_footers_with_a_valid_checksum_do_not_panic(
        changes in changes(),
        which in 0..3_u8,
        used in 128..600_usize,
    ) {
        let header = samples::segment_header();
        let mut bytes = match which {
            0 => samples::footer(false),
            1 => samples::footer(true),
            _ => samples::footer_of_one_route(),
        };
        // Most of the page is padding: change the part that is used.
        change(&mut bytes[44..used], &changes);
        let seed = seed_file(header.store, header.segment.0);
        let trailer = bytes.len() - FOOTER_TRAILER_BYTES;
        let crc = checksum(seed, &[&bytes[..trailer]]);
        set_u32(&mut bytes, trailer + 32, crc);
        let crc = checksum(seed, &[&bytes[trailer..trailer + 60]]);
        set_u32(&mut bytes, trailer + 60, crc);
        let parsed = Footer::parse(&bytes, &header);
        let sums = matches!(parsed, Err(DecodeError::Checksum { .. }));
        prop_assert!(!sums, "the checksums fit");
        decode_everything(&bytes);
    }

    #[test]
    fn changed_checkpoints_with_a_valid_checksum_do_not_panic(changes in changes()) {
        let checkpoint = samples::checkpoint();
        let mut bytes = checkpoint.encode();
        change(&mut bytes[CHECKPOINT_HEAD_BYTES..], &changes);
        let seed = seed_file(checkpoint.store, checkpoint.number);
        let crc = checksum(seed, &[&bytes[..60], &bytes[CHECKPOINT_HEAD_BYTES..]]);
        set_u32(&mut bytes, 60, crc);
        if let Ok(other) = Checkpoint::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes, "what decodes is canonical");
        }
    }
}
