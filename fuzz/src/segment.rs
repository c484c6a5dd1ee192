//! Segment headers, batches, records and ack sets.

use fanlog_segment_format::{
    AckBytes, AckItem, BATCH_HEADER_BYTES, BatchHeader, BatchNumber, Control, Epoch, LogPosition,
    MessageRecord, Offset, PAGE_OFFSETS, RECORD_ALIGN, Record, RecordHead, Records, SegmentHeader,
    U32List, open_batch, records_in, seal_batch, seed_record, verify_record,
};

use crate::{SEGMENT, STORE};

/// Decodes `bytes` as everything that a segment may hold.
pub fn run(bytes: &[u8]) {
    drop(SegmentHeader::decode(bytes));
    drop(BatchHeader::decode(bytes, STORE, SEGMENT, 4096));
    if let Ok(batch) = open_batch(bytes, STORE, SEGMENT, 4096) {
        read(batch.records());
    }
    read(records_in(bytes, 0));
    read(records_in(bytes, 0).verified(seed_record(STORE)));
    drop(verify_record(0, bytes));
    drop(RecordHead::peek(bytes));
    drop(MessageRecord::decode(bytes));
    drop(Control::decode(bytes));
    read_acks(AckBytes(bytes));
    sealed(bytes);
}

/// The same bytes as the records of a batch whose checksums are right.
fn sealed(bytes: &[u8]) {
    let body = bytes.len() / RECORD_ALIGN * RECORD_ALIGN;
    // Header and records agree on how many there are, or the walk has to cope.
    let messages = u32::from(body >= 40);
    let header = BatchHeader {
        store: STORE,
        segment: SEGMENT,
        position: 4096,
        number: BatchNumber(500),
        first_offset: Offset(1000),
        durable: LogPosition::default(),
        time_us: 1,
        epoch: Epoch(7),
        messages,
        controls: u32::from(body >= 16 && messages == 0),
        body_bytes: u32::try_from(body).unwrap_or(0),
        previous: 0xdead_beef,
        flags: 0,
    };
    if body == 8 {
        return; // Too short for any record: no writer makes such a batch.
    }
    let mut batch = vec![0; header.total_bytes()];
    batch[BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + body].copy_from_slice(&bytes[..body]);
    let checksum = seal_batch(&header, &mut batch);
    let opened = open_batch(&batch, STORE, SEGMENT, 4096).expect("it was just sealed");
    assert_eq!((opened.header, opened.checksum), (header, checksum));
    read(opened.records());
}

fn read(records: Records<'_>) {
    let mut after = 0;
    for record in records {
        match record {
            Ok((position, record)) => {
                assert!(position >= after, "records do not overlap");
                after = position + 16;
                touch(&record);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn touch(record: &Record<'_>) {
    match record {
        Record::Message(message) => {
            let groups = message.groups.iter().flat_map(U32List::iter);
            assert!(groups.is_sorted(), "group ids increase");
            let parts = [message.key, message.properties, message.headers, message.payload];
            let bytes: usize = parts.iter().map(|part| part.len()).sum();
            assert!(bytes <= message.encoded_bytes());
        }
        Record::Control(Control::Ack { acks, .. }) => read_acks(*acks),
        Record::Control(control) => assert!(control.encoded_bytes() >= 16),
    }
}

fn read_acks(acks: AckBytes<'_>) {
    let mut end = 0;
    for item in acks.items().map_while(Result::ok) {
        let (start, after) = match item {
            AckItem::Run { start, end } => (start, end),
            AckItem::Bits { page, .. } => (page * PAGE_OFFSETS, (page + 1) * PAGE_OFFSETS),
        };
        assert!(end <= start && start < after, "items increase");
        end = after;
    }
}
