//! The golden files: bytes of version 1 that must decode, and encode to the same, for ever.

use std::{fs, path::PathBuf};

use fanlog_segment_format::*;

use crate::samples;

/// A file, the bytes that encoding gives today, and how to decode and encode again.
struct Case {
    name: String,
    bytes: Vec<u8>,
    again: Again,
}

type Again = fn(&[u8]) -> Vec<u8>;

fn cases() -> Vec<Case> {
    let acks = samples::ack_set();
    let records = samples::all_records();
    let mixed = samples::batch_header(8192, 501, &records);
    let empty = samples::batch_header(4096, 500, &[]);
    let list: Vec<(&str, Vec<u8>, Again)> = vec![
        ("segment_header", samples::segment_header().encode().to_vec(), header_again),
        ("message_plain", samples::sealed_message(&samples::plain_message()), record_again),
        ("message_full", samples::sealed_message(&samples::full_message()), record_again),
        ("message_transient", samples::sealed_message(&samples::transient_message()), record_again),
        ("batch_empty", samples::batch(&empty, &[]), batch_again),
        ("batch_of_all_records", samples::batch(&mixed, &records), batch_again),
        ("ack_set", acks.clone(), acks_again),
        ("footer_dense", samples::footer(false), footer_again),
        ("footer_with_gaps", samples::footer(true), footer_again),
        ("footer_of_one_route", samples::footer_of_one_route(), footer_again),
        ("footer_of_times_and_priorities", samples::footer_of_times_and_priorities(), footer_again),
        ("sealed_segment", samples::sealed_segment(), segment_again),
        ("checkpoint", samples::checkpoint().encode(), checkpoint_again),
        (
            "checkpoint_with_publishers",
            samples::checkpoint_with_publishers().encode(),
            checkpoint_again,
        ),
        ("checkpoint_empty", Checkpoint::default().encode(), checkpoint_again),
        (
            "checkpoint_with_exchange_bindings",
            samples::checkpoint_with_exchange_bindings().encode(),
            checkpoint_again,
        ),
    ];
    let named = |(name, bytes, again)| Case { name: format!("{name}.bin"), bytes, again };
    let mut cases: Vec<Case> = list.into_iter().map(named).collect();
    for (name, control) in samples::controls(&acks).into_iter().chain(samples::later_controls()) {
        let name = format!("control_{name}.bin");
        cases.push(Case { name, bytes: samples::sealed_control(&control), again: record_again });
    }
    cases
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/v1")
}

#[test]
fn golden_files_decode_and_encode_to_the_same_bytes() {
    let cases = cases();
    for case in &cases {
        let golden = fs::read(folder().join(&case.name)).expect("every case has a golden file");
        assert!(golden == case.bytes, "{}: encoding has changed", case.name);
        assert!((case.again)(&golden) == golden, "{}: decoding has changed", case.name);
    }
    let files = fs::read_dir(folder()).expect("the folder is there").count();
    assert_eq!(files, cases.len(), "every golden file has a case");
}

/// For new cases only. A golden file that exists is never written again.
#[test]
#[ignore = "writes golden files that are missing"]
fn write_missing_golden_files() {
    for case in cases() {
        let path = folder().join(&case.name);
        if !path.exists() {
            fs::write(path, &case.bytes).expect("the folder can be written");
        }
    }
}

fn header_again(bytes: &[u8]) -> Vec<u8> {
    let header = SegmentHeader::decode(bytes).expect("valid");
    assert_eq!(header, samples::segment_header());
    header.encode().to_vec()
}

fn record_again(bytes: &[u8]) -> Vec<u8> {
    verify_record(seed_record(samples::STORE), bytes).expect("valid");
    let (record, padded) = Record::decode(bytes).expect("valid");
    assert_eq!(padded, bytes.len());
    match record {
        Record::Message(message) => samples::sealed_message(&message),
        Record::Control(control) => samples::sealed_control(&control),
    }
}

fn batch_again(bytes: &[u8]) -> Vec<u8> {
    let position = bytes[32..40].try_into().map(u64::from_le_bytes).expect("eight bytes");
    let batch = open_batch(bytes, samples::STORE, samples::SEGMENT, position).expect("valid");
    let records = batch.records().map(|record| {
        let (at, _) = record.expect("valid");
        record_again_at(batch.bytes(), at)
    });
    let records: Vec<_> = records.collect();
    assert_eq!(records.len() as u32, batch.header.messages + batch.header.controls);
    samples::batch(&batch.header, &records)
}

fn record_again_at(bytes: &[u8], at: u32) -> Vec<u8> {
    let (_, record) = bytes.split_at(at as usize);
    let head = RecordHead::peek(record).expect("valid");
    let (record, _) = record.split_at(head.padded as usize);
    record_again(record)
}

fn acks_again(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = AckEncoder::new(&mut out);
    for item in AckBytes(bytes).items() {
        match item.expect("valid") {
            AckItem::Run { start, end } => encoder.run(start, end),
            AckItem::Bits { page, words } => encoder.bits(page, &words),
        }
    }
    out
}

fn footer_again(bytes: &[u8]) -> Vec<u8> {
    footer_of(bytes, &samples::segment_header())
}

/// Builds the footer again from what the accessors say.
fn footer_of(bytes: &[u8], header: &SegmentHeader) -> Vec<u8> {
    let layout = Footer::parse(bytes, header).expect("valid");
    let footer = layout.view(bytes);
    let mut builder = FooterBuilder::new(header);
    for batch in (0..footer.batches()).map(|k| footer.batch(k)) {
        builder.batch(batch.position, batch.total_bytes, batch.first_message, batch.number);
    }
    for i in 0..footer.messages() {
        let (k, at) = (0..footer.routes())
            .find_map(|k| Some((k, footer.route_messages(k).position(|n| n == i)?)))
            .expect("every message has a route");
        // Only the sums of a route are stored: its first message stands for all.
        let route = footer.route(k);
        let payload_bytes = if at == 0 { route.bytes as u32 } else { 0 };
        let time = if i == 0 { footer.min_time_us() } else { footer.max_time_us() };
        builder.message(
            footer.offset_of(i),
            footer.position_of(i),
            route.route,
            payload_bytes,
            time,
        );
        builder.priority(footer.priority_of(i));
    }
    (0..footer.controls()).for_each(|k| builder.control(footer.control(k)));
    for k in 0..footer.dues() {
        let (time, message) = footer.due(k);
        if footer.is_expiry(k) {
            builder.expiry(time, message);
        } else {
            builder.due(time, message);
        }
    }
    builder.end(footer.log_end(), footer.last_batch(), footer.checksum());
    builder.cover_to(footer.end_offset());
    builder.encode()
}

fn segment_again(bytes: &[u8]) -> Vec<u8> {
    let header = SegmentHeader::decode(bytes).expect("valid");
    let mut file = header.encode().to_vec();
    let size = bytes.len() as u64;
    let range = Footer::locate(bytes, size, header.store, header.segment).expect("valid");
    let (log, footer) = bytes.split_at(range.start as usize);
    let mut previous = header.previous;
    while let (done, rest) = log.split_at(file.len())
        && !rest.is_empty()
    {
        let at = done.len() as u64;
        let batch = open_batch(rest, header.store, header.segment, at).expect("valid");
        assert_eq!(batch.header.previous, previous, "batches are chained");
        previous = batch.checksum;
        let records = batch.records().map(|record| {
            let (at, _) = record.expect("valid");
            record_again_at(batch.bytes(), at)
        });
        let records: Vec<_> = records.collect();
        file.extend_from_slice(&samples::batch(&batch.header, &records));
    }
    file.extend_from_slice(&footer_of(footer, &header));
    file
}

fn checkpoint_again(bytes: &[u8]) -> Vec<u8> {
    Checkpoint::decode(bytes).expect("valid").encode()
}
