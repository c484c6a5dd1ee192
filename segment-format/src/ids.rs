//! The numbers that name things: newtypes, so that no two of them can be confused.
//!
//! Owns nothing but the types. All are plain numbers with a public field; zero is the default and
//! has no special meaning here.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Which message of the log: 0, 1, 2, ... without gaps; control records have none.
    Offset(u64)
}
number! {
    /// Which segment file: a number that only grows and is never used again.
    SegmentId(u64)
}
number! {
    /// Which opening of the store: raised, durably, by each open before its first batch.
    Epoch(u32)
}
number! {
    /// Which batch of the log: 0, 1, 2, ... through all segments.
    BatchNumber(u64)
}
number! {
    /// Which interned set of binding groups a message was routed to.
    RouteId(u32)
}
number! {
    /// Which binding group: a fanout exchange, direct key, topic pattern or header rule.
    GroupId(u32)
}
number! {
    /// Which queue; never used again after its deletion.
    QueueId(u32)
}
number! {
    /// Which exchange; never used again after its deletion.
    ExchangeId(u32)
}

number! {
    /// Which named publisher; never used again once it was forgotten.
    PublisherId(u32)
}

impl Offset {
    /// Returns the offset after this one; the last possible offset is its own successor.
    #[inline]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Which store: 16 random bytes, chosen when it was created, in every header and every checksum.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// A place in the log: a byte of a segment file. Ordered by segment, then by position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The segment.
    pub segment: SegmentId,
    /// The byte of its file.
    pub position: u64,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.position)
    }
}
