#![doc = include_str!("../FORMAT.md")]
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions)]

pub mod ack;
pub mod batch;
pub mod checkpoint;
pub mod checksum;
pub mod control;
pub mod error;
pub mod file_name;
pub mod footer;
pub mod header;
pub mod ids;
pub mod layout;
mod list;
mod message;
mod number;
pub mod record;
pub mod table;
mod varint;
mod wire;

pub use ack::{AckBytes, AckEncoder, AckItem, AckItems, PAGE_OFFSETS, PAGE_WORDS};
pub use batch::{Batch, BatchHeader, Records, open_batch, records_in, seal_batch};
pub use checkpoint::{
    BaseEntry, Checkpoint, ExchangeBindingEntry, ExchangeEntry, GroupEntry, LogHead, MemberEntry,
    NextIds, PartEntry, PublisherEntry, QueueEntry, RouteEntry, SegmentEntry,
};
pub use checksum::{checksum, seed_batch, seed_file, seed_record};
pub use control::Control;
pub use error::DecodeError;
pub use file_name::{FileName, TemporaryOf};
pub use footer::{Footer, FooterBatch, FooterBuilder, FooterLayout, RouteSummary};
pub use header::{SegmentHeader, is_blank};
pub use ids::{
    BatchNumber, Epoch, ExchangeId, GroupId, LogPosition, Offset, PublisherId, QueueId, RouteId,
    SegmentId, StoreId,
};
pub use layout::*;
pub use list::{CountList, RowList, U32List};
pub use record::{DurabilityMode, MessageRecord, Record, RecordHead, seal_record, verify_record};
pub use table::{Table, TableRef, Value};
