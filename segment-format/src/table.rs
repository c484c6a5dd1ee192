//! Tables of typed values: message headers, and arguments of exchanges, queues and bindings.
//!
//! The bytes are those of a field table of AMQP 0-9-1, in the dialect that `RabbitMQ` documents,
//! without the length in front: so what an AMQP client sent is stored, and matched, as it came. For
//! that reason alone they are big-endian.
//!
//! T1. Whoever holds a [`Table`] holds valid bytes: keys are text of at most 255 bytes, nothing is
//!     cut short, tables and arrays nest at most [`TABLE_DEPTH_MAX`] deep.
//! T2. Reading allocates nothing, whatever the bytes are.

mod value;

use std::fmt;

pub use self::value::{Array, Value};
use self::value::{encode, read, skip};
use crate::error::DecodeError;
use crate::layout::{HEADERS_BYTES_MAX, TABLE_DEPTH_MAX, TABLE_KEY_BYTES_MAX};
use crate::number::u64_of;
use crate::wire::Reader;

const STRUCTURE: &str = "table";

/// A table, owned: encoded, and known to be valid. Empty, it has no bytes.
///
/// ```
/// use fanlog_segment_format::table::{Table, Value};
///
/// let table = Table::new().with("region", "north").with("urgent", true).with("level", 3_i64);
/// assert_eq!(table.get("urgent"), Some(Value::Bool(true)));
/// assert_eq!(table.iter().count(), 3);
/// assert_eq!(Table::from_bytes(table.as_bytes().to_vec())?, table);
/// # Ok::<(), fanlog_segment_format::DecodeError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Table {
    bytes: Vec<u8>,
}

impl Table {
    /// One without entries.
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Takes bytes that were encoded elsewhere.
    ///
    /// # Errors
    ///
    /// If they are no valid table.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        TableRef::new(&bytes)?;
        Ok(Self { bytes })
    }

    /// The encoded table.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The table, borrowed.
    pub fn as_ref(&self) -> TableRef<'_> {
        TableRef { bytes: &self.bytes }
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The same with one entry more.
    ///
    /// # Panics
    ///
    /// As [`Table::push`].
    #[must_use]
    pub fn with<'v>(mut self, key: &str, value: impl Into<Value<'v>>) -> Self {
        self.push(key, value);
        self
    }

    /// Adds an entry behind the others. Of several entries with one key the first counts.
    ///
    /// # Panics
    ///
    /// If the key is longer than 255 bytes or the table gets larger than 1 MiB: [`Table::try_push`]
    /// tells it instead.
    pub fn push<'v>(&mut self, key: &str, value: impl Into<Value<'v>>) {
        self.try_push(key, value).expect("the entry is within the limits");
    }

    /// Adds an entry behind the others.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Length`] for a key over 255 bytes or a table over 1 MiB,
    /// [`DecodeError::Field`] for one that nests too deeply: the table is as it was.
    pub fn try_push<'v>(
        &mut self,
        key: &str,
        value: impl Into<Value<'v>>,
    ) -> Result<(), DecodeError> {
        let Ok(length) = u8::try_from(key.len()) else {
            return Err(too_long(key.len(), TABLE_KEY_BYTES_MAX));
        };
        let before = self.bytes.len();
        self.bytes.push(length);
        self.bytes.extend_from_slice(key.as_bytes());
        encode(&value.into(), &mut self.bytes);
        let checked = if self.bytes.len() > HEADERS_BYTES_MAX {
            Err(too_long(self.bytes.len(), HEADERS_BYTES_MAX))
        } else {
            self.bytes.get(before..).map_or(Ok(()), |entry| TableRef::new(entry).map(drop))
        };
        if checked.is_err() {
            self.bytes.truncate(before);
        }
        checked
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.as_ref().get(key)
    }

    /// All entries, in their order.
    pub fn iter(&self) -> Entries<'_> {
        self.as_ref().iter()
    }
}

impl<'a> IntoIterator for &'a Table {
    type Item = (&'a str, Value<'a>);
    type IntoIter = Entries<'a>;

    fn into_iter(self) -> Entries<'a> {
        self.iter()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.as_ref(), f)
    }
}

/// A table, borrowed, and known to be valid.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct TableRef<'a> {
    bytes: &'a [u8],
}

impl<'a> TableRef<'a> {
    /// Checks bytes that come from elsewhere.
    ///
    /// # Errors
    ///
    /// If they are no valid table.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() > HEADERS_BYTES_MAX {
            return Err(too_long(bytes.len(), HEADERS_BYTES_MAX));
        }
        let mut reader = Reader::new(STRUCTURE, bytes);
        check_entries(&mut reader, TABLE_DEPTH_MAX)?;
        Ok(Self { bytes })
    }

    /// The encoded table.
    pub fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Whether it has no entry.
    pub fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// The first value of a key.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        self.iter().find(|(found, _)| *found == key).map(|(_, value)| value)
    }

    /// All entries, in their order.
    pub fn iter(self) -> Entries<'a> {
        Entries { rest: self.bytes }
    }

    /// The same, owned.
    pub fn to_table(self) -> Table {
        Table { bytes: self.bytes.to_vec() }
    }
}

impl<'a> IntoIterator for TableRef<'a> {
    type Item = (&'a str, Value<'a>);
    type IntoIter = Entries<'a>;

    fn into_iter(self) -> Entries<'a> {
        self.iter()
    }
}

impl fmt::Debug for TableRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The entries of a table, in their order: keys and values.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let mut reader = Reader::new(STRUCTURE, self.rest);
        // Valid by T1: an error would only end the list.
        let key = read_key(&mut reader).ok()?;
        let value = read(&mut reader).ok()?;
        self.rest = reader.rest();
        Some((key, value))
    }
}

fn read_key<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let length = usize::from(reader.u8()?);
    let key = reader.take(length)?;
    str::from_utf8(key).map_err(|error| {
        let back = length.saturating_sub(error.valid_up_to());
        let byte = key.get(error.valid_up_to()).copied().unwrap_or_default();
        reader.field(back, "key", "UTF-8", u64::from(byte))
    })
}

/// Checks entries to the end of the reader (T1).
fn check_entries(reader: &mut Reader<'_>, depth: usize) -> Result<(), DecodeError> {
    while !reader.rest().is_empty() {
        read_key(reader)?;
        skip(reader, depth)?;
    }
    Ok(())
}

fn too_long(found: usize, most: usize) -> DecodeError {
    DecodeError::Length {
        structure: STRUCTURE,
        position: 0,
        least: 0,
        most: u64_of(most),
        found: u64_of(found),
    }
}
