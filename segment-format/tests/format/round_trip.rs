//! What was encoded decodes to the same.

use fanlog_segment_format::*;
use proptest::prelude::*;

use crate::{samples, strategies};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn messages_come_back(owned in strategies::message()) {
        let message = owned.record();
        let bytes = samples::sealed_message(&message);
        prop_assert_eq!(verify_record(seed_record(samples::STORE), &bytes), Ok(()));
        prop_assert_eq!(MessageRecord::decode(&bytes), Ok((message, bytes.len())));
        prop_assert_eq!(Record::decode(&bytes), Ok((Record::Message(message), bytes.len())));
        let head = RecordHead::peek(&bytes).unwrap();
        prop_assert!(head.is_message());
        prop_assert_eq!(head.length as usize, message.encoded_bytes());
        prop_assert_eq!(head.padded as usize, bytes.len());
        prop_assert_eq!((head.route, head.offset), (message.route, message.offset));
        prop_assert_eq!(head.payload_bytes as usize, message.payload.len());
        prop_assert!(bytes[message.encoded_bytes()..].iter().all(|byte| *byte == 0));
    }

    /// The head alone, with the payload copied by the caller, gives the same bytes.
    #[test]
    fn a_head_and_a_payload_make_the_record(owned in strategies::message()) {
        let message = owned.record();
        let mut bytes = vec![0; align_up(message.encoded_bytes(), RECORD_ALIGN)];
        let head = MessageRecord { payload: b"not looked at", ..message };
        let start = head.encode_head(message.payload.len(), &mut bytes);
        prop_assert_eq!(start, message.head_bytes());
        bytes[start..][..message.payload.len()].copy_from_slice(message.payload);
        seal_record(seed_record(samples::STORE), &mut bytes);
        prop_assert_eq!(bytes, samples::sealed_message(&message));
    }

    #[test]
    fn control_records_come_back(parts in strategies::control_parts()) {
        for control in parts.records() {
            let bytes = samples::sealed_control(&control);
            prop_assert_eq!(verify_record(seed_record(samples::STORE), &bytes), Ok(()));
            prop_assert_eq!(Record::decode(&bytes), Ok((Record::Control(control), bytes.len())));
            prop_assert_eq!(align_up(control.encoded_bytes(), RECORD_ALIGN), bytes.len());
            let head = RecordHead::peek(&bytes).unwrap();
            prop_assert!(!head.is_message());
            prop_assert_eq!(head.padded as usize, bytes.len());
        }
    }

    #[test]
    fn ack_sets_come_back(items in strategies::ack_items()) {
        let bytes = strategies::encode_acks(&items);
        let decoded: Result<Vec<_>, _> = AckBytes(&bytes).items().collect();
        prop_assert_eq!(decoded, Ok(items));
    }

    #[test]
    fn batches_come_back(
        messages in proptest::collection::vec(strategies::message(), 0..20),
        parts in strategies::control_parts(),
    ) {
        let mut records: Vec<_> =
            messages.iter().map(|message| samples::sealed_message(&message.record())).collect();
        records.extend(parts.records().iter().map(samples::sealed_control));
        let header = samples::batch_header(4096, 500, &records);
        let bytes = samples::batch(&header, &records);
        prop_assert_eq!(bytes.len() % BLOCK_BYTES, 0);
        let batch = open_batch(&bytes, samples::STORE, samples::SEGMENT, 4096).unwrap();
        prop_assert_eq!(batch.header, header);
        let mut at = BATCH_HEADER_BYTES;
        let mut decoded = batch.records().verified(seed_record(samples::STORE));
        for record in &records {
            let (position, found) = decoded.next().unwrap().unwrap();
            prop_assert_eq!(position as usize, at);
            prop_assert_eq!(found, Record::decode(record).unwrap().0);
            at += record.len();
        }
        prop_assert!(decoded.next().is_none());
    }

    #[test]
    fn checkpoints_come_back(checkpoint in strategies::checkpoint()) {
        let bytes = checkpoint.encode();
        prop_assert_eq!(Checkpoint::decode(&bytes), Ok(checkpoint));
    }

    #[test]
    fn segment_headers_come_back(
        store in any::<[u8; 16]>(),
        numbers in any::<[u64; 6]>(),
        small in any::<[u32; 3]>(),
    ) {
        let [segment, covers, first_offset, first_batch, file_bytes, created_us] = numbers;
        let [generation, epoch, previous] = small;
        let header = SegmentHeader {
            store: StoreId(store),
            segment: SegmentId(segment),
            covers_to: SegmentId(segment.max(covers)),
            generation,
            epoch: Epoch(epoch),
            first_offset: Offset(first_offset),
            first_batch: BatchNumber(first_batch),
            previous,
            file_bytes,
            created_us,
        };
        prop_assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }
}

#[test]
fn a_message_at_every_limit_comes_back() {
    let groups: Vec<u32> = (0..ROUTE_GROUPS_MAX as u32).collect();
    let (properties, headers) = (vec![1; PROPERTIES_BYTES_MAX], vec![2; HEADERS_BYTES_MAX]);
    let payload = vec![3; MESSAGE_BYTES_MAX];
    let message = MessageRecord {
        key: &[b'k'; KEY_BYTES_MAX],
        groups: Some(U32List::from_slice(&groups)),
        properties: &properties,
        headers: &headers,
        payload: &payload,
        ..samples::full_message()
    };
    let records = [samples::sealed_message(&message)];
    let header = samples::batch_header(4096, 500, &records);
    let bytes = samples::batch(&header, &records);
    let batch = open_batch(&bytes, samples::STORE, samples::SEGMENT, 4096).unwrap();
    let (_, record) = batch.records().next().unwrap().unwrap();
    assert_eq!(record, Record::Message(message));
}

#[test]
#[should_panic(expected = "over its limit")]
fn a_payload_over_its_limit_is_not_encoded() {
    samples::plain_message().encode_head(MESSAGE_BYTES_MAX + 1, &mut [0; 100]);
}

#[test]
#[should_panic(expected = "over its limit")]
fn a_key_over_its_limit_is_not_encoded() {
    let message = MessageRecord { key: &[0; 256], ..samples::plain_message() };
    message.encode_head(0, &mut [0; 400]);
}
