//! Footers of sealed segments.

use fanlog_segment_format::{
    BLOCK_BYTES, FOOTER_MAGIC, FOOTER_TRAILER_BYTES, Footer, Offset, RouteId, TRAILER_MAGIC,
    checksum, seed_file,
};

use crate::{SEGMENT, STORE, segment_header};

/// Decodes `bytes`, as they are and as a footer with head and trailer that fit.
pub fn run(bytes: &[u8]) {
    decode(bytes);
    decode(&fitted(bytes));
}

fn decode(bytes: &[u8]) {
    drop(Footer::locate(bytes, bytes.len() as u64, STORE, SEGMENT));
    if let Ok(layout) = Footer::parse(bytes, &segment_header()) {
        read(&layout.view(bytes));
    }
}

/// Whole blocks that begin with `bytes` and end in a valid trailer.
fn fitted(bytes: &[u8]) -> Vec<u8> {
    let size = (bytes.len() + FOOTER_TRAILER_BYTES).next_multiple_of(BLOCK_BYTES);
    let mut footer = bytes.to_vec();
    footer.resize(size, 0);
    let header = segment_header();
    footer[..8].copy_from_slice(&FOOTER_MAGIC);
    footer[8..24].copy_from_slice(&STORE.0);
    footer[24..32].copy_from_slice(&SEGMENT.0.to_le_bytes());
    footer[32..36].copy_from_slice(&header.generation.to_le_bytes());
    footer[64..72].copy_from_slice(&header.first_offset.0.to_le_bytes());
    let (body, trailer) = footer.split_at_mut(size - FOOTER_TRAILER_BYTES);
    let seed = seed_file(STORE, SEGMENT.0);
    trailer.fill(0);
    trailer[..8].copy_from_slice(&TRAILER_MAGIC);
    trailer[8..16].copy_from_slice(&(1_u64 << 26).to_le_bytes());
    trailer[16..24].copy_from_slice(&(size as u64).to_le_bytes());
    trailer[24..32].copy_from_slice(&SEGMENT.0.to_le_bytes());
    trailer[32..36].copy_from_slice(&checksum(seed, &[body]).to_le_bytes());
    let own = checksum(seed, &[&trailer[..60]]);
    trailer[60..].copy_from_slice(&own.to_le_bytes());
    footer
}

/// Asks for everything that there is.
fn read(footer: &Footer<'_>) {
    let mut last = None;
    for number in 0..footer.messages() {
        let offset = footer.offset_of(number);
        assert!(last < Some(offset), "offsets increase");
        last = Some(offset);
        assert_eq!(footer.index_of(offset), Some(number));
        assert_eq!(footer.lower_bound(offset), number);
        assert!(footer.batch_of_position(footer.position_of(number)) < footer.batches().max(1));
    }
    assert_eq!(footer.lower_bound(Offset(u64::MAX)), footer.messages());
    let mut listed = 0;
    for at in 0..footer.routes() {
        let route = footer.route(at);
        assert_eq!(footer.find_route(route.route), Some(at));
        for nth in 0..route.messages {
            assert!(footer.route_message(at, nth) < footer.messages());
        }
        listed += u64::from(route.messages);
        assert!(footer.route_lower_bound(at, u32::MAX) <= route.messages);
    }
    assert_eq!(listed, u64::from(footer.messages()), "each message has one route");
    assert!(footer.find_route(RouteId(u32::MAX)).is_none_or(|at| at < footer.routes()));
    for at in 0..footer.batches() {
        assert!(footer.batch(at).total_bytes as usize >= BLOCK_BYTES);
    }
    for at in 0..footer.controls() {
        assert!(u64::from(footer.control(at)) < footer.log_end());
    }
    for at in 0..footer.dues() {
        assert!(footer.due(at).1 < footer.messages());
        assert!(footer.dues_until(footer.due(at).0) > at);
    }
    assert!(footer.min_time_us() <= footer.max_time_us());
}
