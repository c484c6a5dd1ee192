//! The footer of a sealed segment: its index, usable in place through a map.
//!
//! Owns the layout of the sections. In: what the builder is told about batches and records, or the
//! bytes of a footer. Out: bytes, or a view that answers questions without copying.
//!
//! F1. The trailer is the last 64 bytes of the file and says where the footer starts.
//! F2. Where a section lies follows from the counts alone, so that no bound can be inconsistent.
//! F3. After `parse` every number in the footer that is used to find another is in range, so that
//!     the accessors cannot leave the slice.

mod builder;
mod check;
mod layout;
mod view;

pub use builder::FooterBuilder;
pub use layout::FooterLayout;
pub use view::Footer;

use crate::{BatchNumber, RouteId};

const STRUCTURE: &str = "footer";
const TRAILER: &str = "footer trailer";

/// Sizes of one entry of each section.
const BATCH_ENTRY: usize = 24;
const ROUTE_ENTRY: usize = 24;
const DUE_ENTRY: usize = 16;
const NUMBER_ENTRY: usize = 4;

/// Set in the footer's flags when offsets have no gaps, so that none are stored.
const FLAG_DENSE: u32 = 1;
/// Set in the footer's flags when a message has a priority other than 0, so that all are stored.
const FLAG_PRIORITIES: u32 = 2;
/// Set in an entry of the dues that is an expiry time.
const DUE_EXPIRY: u32 = 1;
/// Set in a route's flags when it has every message, so that no numbers are stored.
const ROUTE_DENSE: u32 = 1;

/// A batch, as a footer lists it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FooterBatch {
    /// The byte of the file at which it starts.
    pub position: u32,
    /// Its size in bytes.
    pub total_bytes: u32,
    /// The number within the segment of its first message, or of the next one if it has none.
    pub first_message: u32,
    /// Its number in the log.
    pub number: BatchNumber,
}

/// A route, as a footer lists it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteSummary {
    /// The route.
    pub route: RouteId,
    /// How many messages of the segment have it.
    pub messages: u32,
    /// Their payload bytes.
    pub bytes: u64,
    /// Every message of the segment has it.
    pub dense: bool,
}
