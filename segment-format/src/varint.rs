//! LEB128: seven bits a byte, low bits first, the top bit says that more follow.
//!
//! Canonical only: the last byte of a number of several bytes is not zero, and at most 64 bits.

use crate::error::DecodeError;
use crate::wire::Reader;

/// Longest encoding of a `u64`.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// Appends `value`.
pub(crate) fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        let [low, ..] = value.to_le_bytes();
        out.push(low | 0x80);
        value >>= 7;
    }
    let [last, ..] = value.to_le_bytes();
    out.push(last);
}

/// Reads a canonical number.
pub(crate) fn read_varint(reader: &mut Reader<'_>) -> Result<u64, DecodeError> {
    const RULE: &str = "a canonical LEB128 number of at most 64 bits";
    let mut value = 0_u64;
    for index in 0..VARINT_BYTES_MAX {
        let byte = reader.u8()?;
        let bits = u64::from(byte & 0x7f);
        let shift = u32::try_from(index).unwrap_or(0).saturating_mul(7);
        // The tenth byte holds the single bit 63; zero last bytes are superfluous.
        let overlong =
            (index == VARINT_BYTES_MAX.saturating_sub(1) && byte > 1) || (index > 0 && byte == 0);
        if overlong {
            return Err(reader.field(1, "number", RULE, u64::from(byte)));
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(reader.field(1, "number", RULE, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        write_varint(value, &mut out);
        out
    }

    #[test]
    fn every_number_of_bits_comes_back() {
        for shift in 0..64 {
            for value in [1 << shift, (1 << shift) - 1, u64::MAX >> shift] {
                let bytes = encoded(value);
                let mut reader = Reader::new("test", &bytes);
                assert_eq!(read_varint(&mut reader), Ok(value));
                assert_eq!(reader.finish(), Ok(()));
                assert!(bytes.len() <= VARINT_BYTES_MAX);
            }
        }
    }

    #[test]
    fn superfluous_bytes_and_a_65th_bit_are_refused() {
        let mut too_large = encoded(u64::MAX);
        *too_large.last_mut().unwrap() = 2;
        let mut too_long = vec![0xff; 10];
        too_long.push(1);
        for bytes in [vec![0x80, 0], vec![0xff, 0x80, 0], vec![0x80], vec![], too_large, too_long] {
            read_varint(&mut Reader::new("test", &bytes)).unwrap_err();
        }
    }
}
