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

/// A list of rows of `N` numbers, whose first ones strictly increase: borrowed from memory, or an
/// encoding.
#[derive(Clone, Copy)]
pub struct RowList<'a, const N: usize>(Rows<'a, N>);

#[derive(Clone, Copy)]
enum Rows<'a, const N: usize> {
    Values(&'a [[u64; N]]),
    /// A multiple of the bytes of a row.
    Bytes(&'a [u8]),
}

impl<'a, const N: usize> RowList<'a, N> {
    /// Bytes of one row.
    pub const ROW_BYTES: usize = N.saturating_mul(8);

    /// Borrows rows, whose first numbers must strictly increase.
    pub const fn from_slice(values: &'a [[u64; N]]) -> Self {
        Self(Rows::Values(values))
    }

    /// Borrows an encoding: each number as `u64`. `None` if it is no whole number of rows, or their
    /// first numbers do not strictly increase.
    pub fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        let list = Self(Rows::Bytes(bytes));
        let whole = bytes.len().is_multiple_of(Self::ROW_BYTES.max(1));
        (whole && list.increases()).then_some(list)
    }

    /// How many rows there are.
    pub const fn len(&self) -> usize {
        match self.0 {
            Rows::Values(values) => values.len(),
            Rows::Bytes(bytes) => match bytes.len().checked_div(Self::ROW_BYTES) {
                Some(rows) => rows,
                None => 0,
            },
        }
    }

    /// Tells whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the row at `index`, or `None` past the end.
    pub fn get(&self, index: usize) -> Option<[u64; N]> {
        match self.0 {
            Rows::Values(values) => values.get(index).copied(),
            Rows::Bytes(bytes) => {
                let start = index.checked_mul(Self::ROW_BYTES)?;
                let row = bytes.get(start..start.checked_add(Self::ROW_BYTES)?)?;
                let mut numbers = [0; N];
                for (number, bytes) in numbers.iter_mut().zip(row.chunks_exact(8)) {
                    *number = u64_at(bytes, 0)?;
                }
                Some(numbers)
            }
        }
    }

    /// Returns the rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = [u64; N]> + use<'a, N> {
        let list = *self;
        (0..list.len()).map(move |index| list.get(index).unwrap_or([0; N]))
    }

    /// Checks that the first numbers strictly increase.
    pub(crate) fn increases(&self) -> bool {
        self.iter().map(|row| row.first().copied()).is_sorted_by(|a, b| a < b)
    }
}

impl<const N: usize> PartialEq for RowList<'_, N> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<const N: usize> Eq for RowList<'_, N> {}

impl<const N: usize> fmt::Debug for RowList<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
