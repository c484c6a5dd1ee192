//! Damage is found: flipped bits, zeros, stale and misplaced bytes.

use fanlog_segment_format::*;

use crate::samples::{self, SEGMENT, STORE};

/// Flips each of the first `covered` bytes' bits in turn; `valid` must say no each time.
#[track_caller]
fn every_flip_is_found(bytes: &[u8], covered: usize, valid: impl Fn(&[u8]) -> bool) {
    let mut bytes = bytes.to_vec();
    assert!(valid(&bytes), "valid before any flip");
    for bit in 0..covered * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(!valid(&bytes), "bit {} of byte {}", bit % 8, bit / 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_flipped_bit_of_a_segment_header_is_found() {
    let bytes = samples::segment_header().encode();
    every_flip_is_found(&bytes, bytes.len(), |bytes| SegmentHeader::decode(bytes).is_ok());
}

#[test]
fn a_flipped_bit_of_a_record_is_found() {
    for record in samples::all_records() {
        let length = RecordHead::peek(&record).unwrap().length as usize;
        every_flip_is_found(&record, length, |bytes| {
            verify_record(seed_record(STORE), bytes).is_ok()
        });
    }
}

#[test]
fn a_flipped_bit_of_a_batch_is_found_and_its_padding_changes_nothing() {
    for records in [Vec::new(), samples::all_records()] {
        let header = samples::batch_header(4096, 500, &records);
        let bytes = samples::batch(&header, &records);
        let covered = BATCH_HEADER_BYTES + header.body_bytes as usize + COMMIT_MARK_BYTES;
        let valid = |bytes: &[u8]| open_batch(bytes, STORE, SEGMENT, 4096).is_ok();
        every_flip_is_found(&bytes, covered, valid);
        let mut other = bytes.clone();
        other[covered..].fill(0xff);
        let (a, b) =
            (open_batch(&bytes, STORE, SEGMENT, 4096), open_batch(&other, STORE, SEGMENT, 4096));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!((a.header, a.checksum, a.bytes()), (b.header, b.checksum, b.bytes()));
        for cut in 0..covered {
            assert!(!valid(&bytes[..cut]), "cut at {cut}");
        }
    }
}

#[test]
fn a_flipped_bit_of_a_footer_is_found() {
    let header = samples::segment_header();
    for bytes in [samples::footer(true), samples::footer(false), samples::footer_of_one_route()] {
        every_flip_is_found(&bytes, bytes.len(), |bytes| Footer::parse(bytes, &header).is_ok());
        let trailer = &bytes[bytes.len() - FOOTER_TRAILER_BYTES..];
        every_flip_is_found(trailer, trailer.len(), |trailer| {
            Footer::locate(trailer, 20480, STORE, SEGMENT).is_ok()
        });
    }
}

#[test]
fn a_flipped_bit_of_a_checkpoint_is_found() {
    let bytes = samples::checkpoint().encode();
    every_flip_is_found(&bytes, bytes.len(), |bytes| Checkpoint::decode(bytes).is_ok());
    for cut in 0..bytes.len() {
        Checkpoint::decode(&bytes[..cut]).unwrap_err();
    }
    let mut longer = bytes.clone();
    longer.push(0);
    Checkpoint::decode(&longer).unwrap_err();
}

#[test]
fn zeros_validate_nothing() {
    let zeros = vec![0; 4 * BLOCK_BYTES];
    let (store, segment) = (StoreId::default(), SegmentId::default());
    let header = SegmentHeader::default();
    for length in [0, 1, 16, 40, 64, 128, 4096, 4 * BLOCK_BYTES] {
        let zeros = &zeros[..length];
        assert!(is_blank(zeros));
        SegmentHeader::decode(zeros).unwrap_err();
        BatchHeader::decode(zeros, store, segment, 0).unwrap_err();
        open_batch(zeros, store, segment, 0).unwrap_err();
        verify_record(seed_record(store), zeros).unwrap_err();
        verify_record(0, zeros).unwrap_err();
        Record::decode(zeros).unwrap_err();
        RecordHead::peek(zeros).unwrap_err();
        Footer::locate(zeros, length as u64, store, segment).unwrap_err();
        Footer::parse(zeros, &header).unwrap_err();
        Checkpoint::decode(zeros).unwrap_err();
        assert!(records_in(zeros, 0).all(|record| record.is_err()));
    }
    assert!(!is_blank(&[0, 0, 1]));
}

#[test]
fn a_batch_of_another_place_is_a_mismatch() {
    let header = samples::batch_header(4096, 500, &[]);
    let bytes = samples::batch(&header, &[]);
    for (store, segment, position, field) in [
        (StoreId([0; 16]), SEGMENT, 4096, "store"),
        (STORE, SegmentId(41), 4096, "segment"),
        (STORE, SEGMENT, 8192, "position"),
    ] {
        let error = open_batch(&bytes, store, segment, position).unwrap_err();
        assert!(
            matches!(error, DecodeError::Mismatch { field: found, .. } if found == field),
            "{error}"
        );
    }
}

#[test]
fn a_record_or_footer_of_another_store_is_refused() {
    let record = samples::sealed_message(&samples::plain_message());
    let error = verify_record(seed_record(StoreId([0; 16])), &record).unwrap_err();
    assert!(matches!(error, DecodeError::Checksum { .. }), "{error}");
    let (bytes, header) = (samples::footer(false), samples::segment_header());
    for other in [
        SegmentHeader { store: StoreId([0; 16]), ..header },
        SegmentHeader { segment: SegmentId(43), ..header },
        SegmentHeader { generation: 3, ..header },
        SegmentHeader { first_offset: Offset(999), ..header },
    ] {
        Footer::parse(&bytes, &other).unwrap_err();
    }
    Footer::locate(&bytes, 20480 + 4096, STORE, SEGMENT).unwrap_err();
    Footer::locate(&bytes, 20480, STORE, SegmentId(43)).unwrap_err();
}

#[test]
fn another_version_is_not_damage() {
    let mut header = samples::segment_header().encode();
    let mut checkpoint = samples::checkpoint().encode();
    header[8] = 2;
    checkpoint[8] = 2;
    for error in
        [SegmentHeader::decode(&header).unwrap_err(), Checkpoint::decode(&checkpoint).unwrap_err()]
    {
        assert!(!error.is_version(), "all else is of this version: {error}");
    }
    // Its checksum is over the version as well, wherever it stands.
    header[4095] ^= 1;
    checkpoint[60] ^= 1;
    for error in
        [SegmentHeader::decode(&header).unwrap_err(), Checkpoint::decode(&checkpoint).unwrap_err()]
    {
        assert_eq!(error, DecodeError::UnsupportedVersion { found: 2, supported: 1 });
        assert!(error.is_version());
    }
}

#[test]
fn an_unknown_kind_is_unsupported_and_an_unknown_flag_is_refused() {
    let mut bytes = samples::sealed_message(&samples::plain_message());
    bytes[8] = 200;
    let error = Record::decode(&bytes).unwrap_err();
    assert_eq!(error, DecodeError::UnsupportedRecord { position: 0, kind: 200 });
    bytes[8] = 1;
    for flags in [0x80, 0x03] {
        bytes[9] = flags;
        MessageRecord::decode(&bytes).unwrap_err();
        RecordHead::peek(&bytes).unwrap_err();
    }
}

/// One damaged record costs no other: the walk goes on behind it and says where it stands.
#[test]
fn damage_inside_a_batch_is_pinned_to_one_record() {
    let records = samples::all_records();
    let header = samples::batch_header(4096, 500, &records);
    let mut bytes = samples::batch(&header, &records);
    let starts: Vec<usize> = records
        .iter()
        .scan(BATCH_HEADER_BYTES, |at, record| Some(std::mem::replace(at, *at + record.len())))
        .collect();
    bytes[starts[1] + 50] ^= 1;
    open_batch(&bytes, STORE, SEGMENT, 4096).unwrap_err();
    BatchHeader::decode(&bytes, STORE, SEGMENT, 4096).unwrap();
    let body = &bytes[..BATCH_HEADER_BYTES + header.body_bytes as usize];
    let found: Vec<_> = records_in(body, BATCH_HEADER_BYTES).verified(seed_record(STORE)).collect();
    assert_eq!(found.len(), records.len());
    for (i, record) in found.iter().enumerate() {
        match record {
            Ok((at, _)) => assert_eq!(*at as usize, starts[i]),
            Err(error) => {
                assert_eq!((i, error.position()), (1, starts[1] as u64));
                assert!(matches!(error, DecodeError::Checksum { .. }));
            }
        }
        assert_eq!(record.is_err(), i == 1);
    }
}

#[test]
fn an_ack_set_that_is_not_canonical_is_refused() {
    let bitmap = |words: [u64; PAGE_WORDS]| words.map(u64::to_le_bytes).concat();
    let last_page = {
        let mut bytes = vec![1];
        // Page 2^52 - 1 would end behind the last offset.
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x07]);
        [bytes, bitmap([1; PAGE_WORDS])].concat()
    };
    for (what, bytes) in [
        ("an unknown tag", vec![2, 0, 1]),
        ("an empty run", vec![0, 0, 0]),
        ("runs that touch", vec![0, 0, 1, 0, 0, 1]),
        ("an overlong number", vec![0, 0x80, 0, 1]),
        ("a run that is cut", vec![0, 5]),
        ("an empty bitmap", [vec![1, 0], bitmap([0; PAGE_WORDS])].concat()),
        ("a full bitmap", [vec![1, 0], bitmap([u64::MAX; PAGE_WORDS])].concat()),
        ("a bitmap that is cut", vec![1, 0, 1, 1, 1]),
        ("a page behind the last", last_page),
        ("a run that wraps", [vec![0, 1], vec![0xff; 9], vec![1]].concat()),
    ] {
        let last = AckBytes(&bytes).items().last();
        assert!(matches!(last, Some(Err(_))), "{what}: {last:?}");
    }
    assert_eq!(AckBytes(&[]).items().count(), 0);
}
