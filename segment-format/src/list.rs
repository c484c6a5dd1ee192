//! Lists of numbers that are either borrowed from memory or read in place from their encoding.

use std::fmt;

use crate::number::u64_of;
use crate::{DecodeError, Offset, layout::ROUTE_GROUPS_MAX, wire::u32_at, wire::u64_at};

/// A list of `u32`: a slice of numbers to be encoded, or the bytes of an encoded list.
#[derive(Clone, Copy)]
pub struct U32List<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    Values(&'a [u32]),
    /// A multiple of four bytes, little-endian.
    Bytes(&'a [u8]),
}

impl<'a> U32List<'a> {
    /// Borrows numbers.
    #[inline]
    pub const fn from_slice(values: &'a [u32]) -> Self {
        Self(Source::Values(values))
    }

    /// Borrows an encoding; `None` if it is not a multiple of four bytes.
    #[inline]
    pub const fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len().is_multiple_of(4) { Some(Self(Source::Bytes(bytes))) } else { None }
    }

    /// How many numbers there are.
    #[inline]
    pub const fn len(&self) -> usize {
        match self.0 {
            Source::Values(values) => values.len(),
            Source::Bytes(bytes) => bytes.len() / 4,
        }
    }

    /// Tells whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number at `index`, or `None` past the end.
    pub fn get(&self, index: usize) -> Option<u32> {
        match self.0 {
            Source::Values(values) => values.get(index).copied(),
            Source::Bytes(bytes) => u32_at(bytes, index.checked_mul(4)?),
        }
    }

    /// Returns the numbers in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        let list = *self;
        (0..list.len()).map(move |index| list.get(index).unwrap_or_default())
    }

    /// Calls `write` with the encoding, in one or several pieces.
    pub(crate) fn write(&self, mut write: impl FnMut(&[u8])) {
        match self.0 {
            Source::Values(values) => values.iter().for_each(|value| write(&value.to_le_bytes())),
            Source::Bytes(bytes) => write(bytes),
        }
    }

    /// Checks that the numbers strictly increase and are not too many.
    pub(crate) fn is_group_set(&self) -> bool {
        self.len() <= ROUTE_GROUPS_MAX && self.iter().is_sorted_by(|a, b| a < b)
    }
}

impl PartialEq for U32List<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for U32List<'_> {}

impl Default for U32List<'_> {
    fn default() -> Self {
        Self::from_slice(&[])
    }
}

impl fmt::Debug for U32List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Size of one encoded entry of a [`CountList`].
const COUNT_BYTES: usize = 12;

/// A list of (offset, count), by increasing offset: borrowed from memory, or an encoding.
#[derive(Clone, Copy)]
pub struct CountList<'a>(Counts<'a>);

#[derive(Clone, Copy)]
enum Counts<'a> {
    Values(&'a [(u64, u32)]),
    /// A multiple of twelve bytes.
    Bytes(&'a [u8]),
}

impl<'a> CountList<'a> {
    /// Borrows pairs, which must strictly increase by offset.
    pub const fn from_slice(values: &'a [(u64, u32)]) -> Self {
        Self(Counts::Values(values))
    }

    /// Borrows an encoding: for each entry offset `u64`, count `u32`.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Length`] if it is no multiple of twelve bytes, [`DecodeError::Field`] if the
    /// offsets do not strictly increase.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if !bytes.len().is_multiple_of(COUNT_BYTES) {
            let found = u64_of(bytes.len());
            let least = u64_of((bytes.len() / COUNT_BYTES).saturating_mul(COUNT_BYTES));
            let structure = "delivery counts";
            return Err(DecodeError::Length { structure, position: 0, least, most: least, found });
        }
        let list = Self(Counts::Bytes(bytes));
        let mut before: Option<Offset> = None;
        for (index, (offset, _)) in list.iter().enumerate() {
            if before.is_some_and(|before| offset <= before) {
                return Err(DecodeError::Field {
                    structure: "delivery counts",
                    position: u64_of(index.saturating_mul(COUNT_BYTES)),
                    field: "offset",
                    expected: "more than the one before",
                    found: offset.0,
                });
            }
            before = Some(offset);
        }
        Ok(list)
    }

    /// How many entries there are.
    pub const fn len(&self) -> usize {
        match self.0 {
            Counts::Values(values) => values.len(),
            Counts::Bytes(bytes) => bytes.len() / COUNT_BYTES,
        }
    }

    /// Tells whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the entry at `index`, or `None` past the end.
    pub fn get(&self, index: usize) -> Option<(Offset, u32)> {
        match self.0 {
            Counts::Values(values) => values.get(index).map(|(at, count)| (Offset(*at), *count)),
            Counts::Bytes(bytes) => {
                let at = index.checked_mul(COUNT_BYTES)?;
                Some((Offset(u64_at(bytes, at)?), u32_at(bytes, at.checked_add(8)?)?))
            }
        }
    }

    /// Returns the entries in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Offset, u32)> + use<'a> {
        let list = *self;
        (0..list.len()).map(move |index| list.get(index).unwrap_or_default())
    }
}

impl PartialEq for CountList<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for CountList<'_> {}

impl Default for CountList<'_> {
    fn default() -> Self {
        Self::from_slice(&[])
    }
}

impl fmt::Debug for CountList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
