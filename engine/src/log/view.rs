//! A readable stretch of the log: one batch in memory, or one sealed segment.
//!
//! Queues read the log through views and know nothing of files. A view is cheap to clone and
//! keeps what it shows alive.

use std::{fmt, path::PathBuf, sync::Arc};

use fanlog_segment_format::{Offset, RouteId, record::MessageRecord};

use super::{
    batch::{Batch, BatchBytes},
    index::Due,
    sealed::SealedReader,
};

/// Where a message's bytes turned out to be damaged: such a message is delivered in its place all the
/// same, without payload, key, properties and headers. It is held by prefetch, acked, rejected and
/// requeued like any other, and holds up nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The message.
    pub offset: Offset,
    /// The file that holds it.
    pub path: PathBuf,
    /// The byte in that file at which its record starts.
    pub position: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, path, position } = self;
        write!(f, "message {offset} is damaged: {} at byte {position}", path.display())
    }
}

/// Messages of one route in a view.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ViewRoute {
    pub(crate) route: RouteId,
    pub(crate) messages: u32,
    /// Payload bytes of them all.
    pub(crate) bytes: u64,
}

/// A readable stretch of the log.
#[derive(Debug, Clone)]
pub(crate) enum View {
    Batch(Arc<Batch>),
    Sealed(Arc<SealedReader>),
}

impl View {
    /// Bytes of memory that it holds alone, or with others that read there: those that were read back.
    pub(crate) fn read_back_bytes(&self) -> Option<usize> {
        match self {
            Self::Batch(batch) => match &batch.bytes {
                BatchBytes::ReadBack(_) => Some(batch.bytes.len()),
                BatchBytes::Appended(_) => None,
            },
            Self::Sealed(_) => None,
        }
    }

    /// One past the last offset.
    pub(crate) fn end_offset(&self) -> Offset {
        match self {
            Self::Batch(batch) => batch.index.end_offset(),
            Self::Sealed(reader) => {
                reader.segment.end_offset().unwrap_or_else(|| reader.footer().end_offset())
            }
        }
    }

    /// How many routes have messages here.
    pub(crate) fn routes(&self) -> u32 {
        match self {
            Self::Batch(batch) => {
                u32::try_from(batch.index.routes().len()).expect("no more than messages")
            }
            Self::Sealed(reader) => reader.footer().routes(),
        }
    }

    /// The `at`-th route.
    pub(crate) fn route(&self, at: u32) -> ViewRoute {
        match self {
            Self::Batch(batch) => {
                let count = batch.index.routes()[at as usize];
                ViewRoute { route: count.route, messages: count.messages, bytes: count.bytes }
            }
            Self::Sealed(reader) => {
                let summary = reader.footer().route(at);
                let (route, messages) = (summary.route, summary.messages);
                ViewRoute { route, messages, bytes: summary.bytes }
            }
        }
    }

    /// The number, within the view, of the `nth` message of the `at`-th route.
    pub(crate) fn route_message(&self, at: u32, nth: u32) -> u32 {
        match self {
            Self::Batch(batch) => batch.index.route_message(at, nth),
            Self::Sealed(reader) => reader.footer().route_message(at, nth),
        }
    }

    /// How many messages are here.
    pub(crate) fn messages(&self) -> u32 {
        match self {
            Self::Batch(batch) => batch.index.messages(),
            Self::Sealed(reader) => reader.footer().messages(),
        }
    }

    /// The offset of message `number`.
    pub(crate) fn offset_of(&self, number: u32) -> Offset {
        match self {
            Self::Batch(batch) => Offset(batch.index.first_offset.0 + u64::from(number)),
            Self::Sealed(reader) => reader.footer().offset_of(number),
        }
    }

    /// The first message at or past `offset`; the number of messages if there is none.
    pub(crate) fn lower_bound(&self, offset: Offset) -> u32 {
        match self {
            Self::Batch(batch) => {
                let from = offset.0.saturating_sub(batch.index.first_offset.0);
                u32::try_from(from).unwrap_or(u32::MAX).min(batch.index.messages())
            }
            Self::Sealed(reader) => reader.footer().lower_bound(offset),
        }
    }

    /// The first of the `at`-th route's messages that is at or past `offset`.
    pub(crate) fn route_lower_bound(&self, at: u32, offset: Offset) -> u32 {
        let first = self.lower_bound(offset);
        let (mut low, mut high) = (0, self.route(at).messages);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.route_message(at, middle) < first {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Whether a message has a priority other than 0.
    pub(crate) fn has_priorities(&self) -> bool {
        match self {
            Self::Batch(batch) => batch.index.has_priorities(),
            Self::Sealed(reader) => reader.footer().has_priorities(),
        }
    }

    /// The priority of message `number`.
    pub(crate) fn priority_of(&self, number: u32) -> u8 {
        match self {
            Self::Batch(batch) => batch.index.priority_of(number),
            Self::Sealed(reader) => reader.footer().priority_of(number),
        }
    }

    /// How many due and expiry times the messages have.
    pub(crate) fn dues(&self) -> u32 {
        match self {
            Self::Batch(batch) => {
                u32::try_from(batch.index.dues().len()).expect("at most two for each message")
            }
            Self::Sealed(reader) => reader.footer().dues(),
        }
    }

    /// The `k`-th due or expiry time, in increasing order.
    pub(crate) fn due(&self, k: u32) -> Due {
        match self {
            Self::Batch(batch) => batch.index.dues()[k as usize],
            Self::Sealed(reader) => {
                let footer = reader.footer();
                let (time_us, number) = footer.due(k);
                Due { time_us, number, expiry: footer.is_expiry(k) }
            }
        }
    }

    /// How many of the due and expiry times are `time_us` or earlier.
    pub(crate) fn dues_until(&self, time_us: u64) -> u32 {
        match self {
            Self::Batch(batch) => {
                let dues = batch.index.dues();
                let until = dues.partition_point(|due| due.time_us <= time_us);
                u32::try_from(until).expect("at most two for each message")
            }
            Self::Sealed(reader) => reader.footer().dues_until(time_us),
        }
    }

    /// All the bytes that records of this view lie in.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Batch(batch) => &batch.bytes,
            Self::Sealed(reader) => reader.bytes(),
        }
    }

    /// Payload bytes of message `number`; 0 if it is damaged.
    pub(crate) fn payload_bytes(&self, number: u32) -> u64 {
        match self {
            Self::Batch(batch) => batch.index.payload_bytes_of(number),
            Self::Sealed(_) => self.message(number).map_or(0, |record| record.payload.len() as u64),
        }
    }

    /// The record of message `number`, checked.
    ///
    /// # Errors
    ///
    /// Where it is damaged.
    pub(crate) fn message(&self, number: u32) -> Result<MessageRecord<'_>, Damage> {
        match self {
            Self::Batch(batch) => batch.message(number),
            Self::Sealed(reader) => reader.message(number),
        }
    }
}
