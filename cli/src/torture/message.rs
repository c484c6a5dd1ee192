//! The bytes of a torture message: computed from queue, number and size.

use std::io::Write as _;

/// From this size on a message starts with a text that names it.
const NAMED_FROM: usize = 24;

/// Fills `payload` with the `size` bytes of message `number` of `queue`.
///
/// With `s = crc32(queue) xor (number * 2654435761 mod 2^32)`, byte `j` is
/// `((s >> (8 * (j mod 4))) xor (j mod 256)) and 255`; 24 bytes or more start with the text
/// `<queue> <number> <size>\n`.
pub(super) fn fill(payload: &mut Vec<u8>, queue: &str, number: u64, size: usize) {
    let spread = number.wrapping_mul(2_654_435_761) & 0xffff_ffff;
    let seed = u64::from(crc32fast::hash(queue.as_bytes())) ^ spread;
    payload.clear();
    payload.extend((0..size).map(|j| {
        let byte = (seed >> (8 * (j % 4))) ^ (j % 256) as u64;
        (byte & 0xff) as u8
    }));
    if size >= NAMED_FROM {
        // A text longer than the payload is cut off, and that is all that can fail here.
        drop(writeln!(payload.as_mut_slice(), "{queue} {number} {size}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(queue: &str, number: u64, size: usize) -> Vec<u8> {
        let mut payload = vec![0xaa; 3];
        fill(&mut payload, queue, number, size);
        payload
    }

    #[test]
    fn short_messages_are_the_seed_against_a_ramp() {
        // crc32("q0") = 0x51246ae4, computed by another program; number 0 adds nothing.
        let seed = 0x5124_6ae4_u32.to_le_bytes();
        assert_eq!(
            message("q0", 0, 5),
            [seed[0], seed[1] ^ 1, seed[2] ^ 2, seed[3] ^ 3, seed[0] ^ 4]
        );
        assert!(message("q0", 0, 0).is_empty());
        assert_eq!(message("q0", 1, 1), [seed[0] ^ 0xb1]);
    }

    #[test]
    fn long_messages_begin_with_their_name() {
        let payload = message("q3", 77, 600);
        assert_eq!(payload.len(), 600);
        assert!(payload.starts_with(b"q3 77 600\n"));
        let unnamed = message("q3", 77, 23);
        assert_eq!(payload[300..], message("q3", 77, 600)[300..]);
        assert_eq!(payload[10..23], unnamed[10..23]);
        assert!(!unnamed.starts_with(b"q3"));
    }

    #[test]
    fn a_name_longer_than_the_message_is_cut() {
        let payload = message("q12345678", u64::MAX, 24);
        assert_eq!(payload, b"q12345678 18446744073709");
    }
}
