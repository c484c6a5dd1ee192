//! Little-endian fields: a checked reader, and writers into slices and vectors.
//!
//! The reader returns errors that say where it stood; the writers panic if their caller reserved
//! too little, which only a bug does.

use crate::{
    error::DecodeError,
    number::{u32_of, u64_of},
};

/// Reads fields one after the other, each checked against the end of the slice.
pub(crate) struct Reader<'a> {
    structure: &'static str,
    whole: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn new(structure: &'static str, bytes: &'a [u8]) -> Self {
        Self { structure, whole: bytes.len(), rest: bytes }
    }

    /// How many bytes were read.
    #[inline]
    pub(crate) fn position(&self) -> u64 {
        u64_of(self.whole.saturating_sub(self.rest.len()))
    }

    /// What is left.
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, tail)) = self.rest.split_at_checked(bytes) else {
            return Err(self.truncated(bytes));
        };
        self.rest = tail;
        Ok(head)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((head, tail)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.truncated(N));
        };
        self.rest = tail;
        Ok(*head)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads `N` bytes that must be zero.
    #[inline]
    pub(crate) fn zeros<const N: usize>(&mut self) -> Result<(), DecodeError> {
        let bytes = self.array::<N>()?;
        match bytes.iter().find(|byte| **byte != 0) {
            None => Ok(()),
            Some(byte) => Err(self.field(N, "reserved", "zero", u64::from(*byte))),
        }
    }

    /// Reads a magic number, which must be `expected`.
    #[inline]
    pub(crate) fn magic(&mut self, expected: [u8; 8]) -> Result<(), DecodeError> {
        let found = self.array::<8>()?;
        if found == expected {
            return Ok(());
        }
        let position = self.position().saturating_sub(8);
        Err(DecodeError::BadMagic { structure: self.structure, position, expected, found })
    }

    /// Reads a `u32` length, no larger than `most`, and that many bytes.
    pub(crate) fn long_bytes(&mut self, most: usize) -> Result<&'a [u8], DecodeError> {
        let length = self.u32()?;
        let length = self.bounded(4, u64::from(length), most)?;
        self.take(length)
    }

    /// Checks a length that was just read, `back` bytes ago.
    #[inline]
    pub(crate) fn bounded(
        &self,
        back: usize,
        found: u64,
        most: usize,
    ) -> Result<usize, DecodeError> {
        match usize::try_from(found) {
            Ok(length) if length <= most => Ok(length),
            _ => Err(DecodeError::Length {
                structure: self.structure,
                position: self.position().saturating_sub(u64_of(back)),
                least: 0,
                most: u64_of(most),
                found,
            }),
        }
    }

    /// Ends: nothing may be left.
    #[inline]
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let read = self.position();
        Err(DecodeError::Length {
            structure: self.structure,
            position: read,
            least: read,
            most: read,
            found: u64_of(self.whole),
        })
    }

    /// An error about a field that was read `back` bytes ago.
    #[cold]
    pub(crate) fn field(
        &self,
        back: usize,
        field: &'static str,
        expected: &'static str,
        found: u64,
    ) -> DecodeError {
        let position = self.position().saturating_sub(u64_of(back));
        DecodeError::Field { structure: self.structure, position, field, expected, found }
    }

    #[cold]
    fn truncated(&self, needed: usize) -> DecodeError {
        DecodeError::Truncated {
            structure: self.structure,
            position: self.position(),
            needed: u64_of(needed),
            found: u64_of(self.rest.len()),
        }
    }
}

/// Writes fields one after the other into a slice that is large enough.
pub(crate) struct SliceWriter<'a> {
    rest: &'a mut [u8],
}

impl<'a> SliceWriter<'a> {
    #[inline]
    pub(crate) fn new(out: &'a mut [u8]) -> Self {
        Self { rest: out }
    }

    #[inline]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let (head, tail) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        self.rest = tail;
    }

    #[inline]
    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    #[inline]
    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// Fills what is left with zeros.
    #[inline]
    pub(crate) fn zero_rest(self) {
        self.rest.fill(0);
    }
}

/// Appends fields to a vector.
pub(crate) struct VecWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> VecWriter<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// A `u32` length, no larger than `most`, and the bytes.
    #[track_caller]
    pub(crate) fn long_bytes(&mut self, bytes: &[u8], most: usize) {
        assert!(bytes.len() <= most, "a field of {} bytes is over its limit {most}", bytes.len());
        self.u32(u32_of(bytes.len()));
        self.bytes(bytes);
    }
}

/// Stores `value` at byte `at`; the caller has checked that the slice reaches that far.
#[inline]
#[track_caller]
pub(crate) fn store_u32(out: &mut [u8], at: usize, value: u32) {
    let slot = out.get_mut(at..).and_then(|tail| tail.first_chunk_mut::<4>());
    *slot.expect("the caller reserved room for the field") = value.to_le_bytes();
}

/// Reads the `u32` at byte `at`, or `None` past the end.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

/// Reads the `u64` at byte `at`, or `None` past the end.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}
