//! The checksum is the CRC-32 that FORMAT.md states, whichever instructions compute it.

use fanlog_segment_format::{
    Epoch, SegmentId, StoreId, checksum, seed_batch, seed_file, seed_record,
};

fn bit_by_bit(seed: u32, bytes: &[u8]) -> u32 {
    let mut state = !seed;
    for byte in bytes {
        state ^= u32::from(*byte);
        for _ in 0..8 {
            state = (state >> 1) ^ if state & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    !state
}

#[test]
fn it_is_the_crc_of_the_document_for_all_lengths() {
    let bytes: Vec<u8> =
        (0..600_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for length in 0..=bytes.len() {
        let (part, _) = bytes.split_at(length);
        for seed in [0, 1, u32::MAX, 0x1234_5678] {
            let expected = bit_by_bit(seed, part);
            assert_eq!(checksum(seed, &[part]), expected, "{length} bytes, seed {seed:x}");
            let (a, b) = part.split_at(length / 3);
            assert_eq!(checksum(seed, &[a, b]), expected, "{length} bytes in two parts");
        }
    }
    assert_eq!(checksum(0, &[b"123456789"]), 0xcbf4_3926);
}

#[test]
fn every_part_of_the_place_changes_the_seed() {
    let (store, other) = (StoreId([1; 16]), StoreId([2; 16]));
    let seeds = [
        seed_batch(store, SegmentId(1), Epoch(1), 4096),
        seed_batch(other, SegmentId(1), Epoch(1), 4096),
        seed_batch(store, SegmentId(2), Epoch(1), 4096),
        seed_batch(store, SegmentId(1), Epoch(2), 4096),
        seed_batch(store, SegmentId(1), Epoch(1), 8192),
        seed_record(store),
        seed_record(other),
        seed_file(store, 1),
        seed_file(other, 1),
        seed_file(store, 2),
    ];
    for (i, seed) in seeds.iter().enumerate() {
        assert!(!seeds.iter().skip(i + 1).any(|other| other == seed), "seed {i} is repeated");
    }
}
