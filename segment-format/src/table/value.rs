//! One value of a table: its type, and its bytes.

#![expect(clippy::big_endian_bytes, reason = "tables are stored as AMQP sends them")]

use std::fmt;

use super::{STRUCTURE, Table, TableRef, check_entries};
use crate::error::DecodeError;
use crate::layout::TABLE_DEPTH_MAX;
use crate::number::{u32_of, u64_of, usize_of};
use crate::wire::Reader;

/// A value, borrowed. Its type is part of it: an `I32` is equal to no `I64`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// No value: `V`.
    #[default]
    Void,
    /// `t`.
    Bool(bool),
    /// `b`.
    I8(i8),
    /// `B`.
    U8(u8),
    /// `s`.
    I16(i16),
    /// `u`.
    U16(u16),
    /// `I`.
    I32(i32),
    /// `i`.
    U32(u32),
    /// `l`.
    I64(i64),
    /// `f`.
    F32(f32),
    /// `d`.
    F64(f64),
    /// `D`: `value` divided by ten to the `scale`.
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// All digits.
        value: i32,
    },
    /// `S`: text, as a rule; any bytes.
    Text(&'a [u8]),
    /// `x`.
    Bytes(&'a [u8]),
    /// `T`: seconds since 1970.
    Timestamp(u64),
    /// `A`.
    Array(Array<'a>),
    /// `F`.
    Table(TableRef<'a>),
}

impl<'a> Value<'a> {
    /// The text, if it is some.
    pub fn as_text(self) -> Option<&'a str> {
        match self {
            Self::Text(bytes) => str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The number, if it is a whole one, of whatever size.
    pub fn as_integer(self) -> Option<i64> {
        match self {
            Self::I8(value) => Some(value.into()),
            Self::U8(value) => Some(value.into()),
            Self::I16(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::I32(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::I64(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.as_bytes())
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i32> for Value<'_> {
    fn from(value: i32) -> Self {
        Self::I32(value)
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<f64> for Value<'_> {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}

impl<'a> From<&'a Table> for Value<'a> {
    fn from(table: &'a Table) -> Self {
        Self::Table(table.as_ref())
    }
}

/// Values one after the other, encoded and known to be valid.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Array<'a> {
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The values, in their order.
    pub fn iter(self) -> impl Iterator<Item = Value<'a>> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let mut reader = Reader::new(STRUCTURE, rest);
            // Valid: an error would only end the list.
            let value = read(&mut reader).ok()?;
            rest = reader.rest();
            Some(value)
        })
    }

    /// Appends a value to the bytes of an array, to be given to [`Array::new`].
    pub fn push<'v>(bytes: &mut Vec<u8>, value: impl Into<Value<'v>>) {
        encode(&value.into(), bytes);
    }

    /// Checks bytes that [`Array::push`] made, or that come from elsewhere.
    ///
    /// # Errors
    ///
    /// If they are no valid array.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(STRUCTURE, bytes);
        check_values(&mut reader, TABLE_DEPTH_MAX)?;
        Ok(Self { bytes })
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Appends type and bytes of a value.
pub(super) fn encode(value: &Value<'_>, out: &mut Vec<u8>) {
    let mut put = |code: u8, bytes: &[u8]| {
        out.push(code);
        out.extend_from_slice(bytes);
    };
    match *value {
        Value::Void => put(b'V', &[]),
        Value::Bool(value) => put(b't', &[u8::from(value)]),
        Value::I8(value) => put(b'b', &value.to_be_bytes()),
        Value::U8(value) => put(b'B', &[value]),
        Value::I16(value) => put(b's', &value.to_be_bytes()),
        Value::U16(value) => put(b'u', &value.to_be_bytes()),
        Value::I32(value) => put(b'I', &value.to_be_bytes()),
        Value::U32(value) => put(b'i', &value.to_be_bytes()),
        Value::I64(value) => put(b'l', &value.to_be_bytes()),
        Value::F32(value) => put(b'f', &value.to_be_bytes()),
        Value::F64(value) => put(b'd', &value.to_be_bytes()),
        Value::Timestamp(value) => put(b'T', &value.to_be_bytes()),
        Value::Decimal { scale, value } => {
            put(b'D', &[scale]);
            out.extend_from_slice(&value.to_be_bytes());
        }
        Value::Text(bytes) => long(b'S', bytes, out),
        Value::Bytes(bytes) => long(b'x', bytes, out),
        Value::Array(array) => long(b'A', array.bytes, out),
        Value::Table(table) => long(b'F', table.as_bytes(), out),
    }
}

fn long(code: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(code);
    out.extend_from_slice(&u32_of(bytes.len()).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn take_long<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let length = u32::from_be_bytes(reader.array()?);
    reader.take(usize_of(length))
}

/// Reads a value of a table that is valid; what it holds is not looked at.
pub(super) fn read<'a>(reader: &mut Reader<'a>) -> Result<Value<'a>, DecodeError> {
    Ok(match reader.u8()? {
        b'V' => Value::Void,
        b't' => Value::Bool(reader.u8()? != 0),
        b'b' => Value::I8(i8::from_be_bytes(reader.array()?)),
        b'B' => Value::U8(reader.u8()?),
        b's' => Value::I16(i16::from_be_bytes(reader.array()?)),
        b'u' => Value::U16(u16::from_be_bytes(reader.array()?)),
        b'I' => Value::I32(i32::from_be_bytes(reader.array()?)),
        b'i' => Value::U32(u32::from_be_bytes(reader.array()?)),
        b'l' => Value::I64(i64::from_be_bytes(reader.array()?)),
        b'f' => Value::F32(f32::from_be_bytes(reader.array()?)),
        b'd' => Value::F64(f64::from_be_bytes(reader.array()?)),
        b'T' => Value::Timestamp(u64::from_be_bytes(reader.array()?)),
        b'D' => Value::Decimal { scale: reader.u8()?, value: i32::from_be_bytes(reader.array()?) },
        b'S' => Value::Text(take_long(reader)?),
        b'x' => Value::Bytes(take_long(reader)?),
        b'A' => Value::Array(Array { bytes: take_long(reader)? }),
        b'F' => Value::Table(TableRef { bytes: take_long(reader)? }),
        code => return Err(reader.field(1, "type", "one of VtbBsuIilfdDSxTAF", code.into())),
    })
}

/// Passes over a value after checking it and all that it holds.
pub(super) fn skip(reader: &mut Reader<'_>, depth: usize) -> Result<(), DecodeError> {
    let value = read(reader)?;
    let (inner, is_table) = match value {
        Value::Table(table) => (table.as_bytes(), true),
        Value::Array(array) => (array.bytes, false),
        _ => return Ok(()),
    };
    let shift = reader.position().saturating_sub(u64_of(inner.len()));
    let Some(depth) = depth.checked_sub(1) else {
        return Err(reader.field(inner.len(), "depth", "at most 16", 17));
    };
    let mut inner = Reader::new(STRUCTURE, inner);
    let checked =
        if is_table { check_entries(&mut inner, depth) } else { check_values(&mut inner, depth) };
    checked.map_err(|error| error.shifted(shift))
}

fn check_values(reader: &mut Reader<'_>, depth: usize) -> Result<(), DecodeError> {
    while !reader.rest().is_empty() {
        skip(reader, depth)?;
    }
    Ok(())
}
