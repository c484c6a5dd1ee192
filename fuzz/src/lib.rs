//! What the fuzz targets share. Each module is one target's work; the targets only hand it bytes.
//!
//! - [`segment`], [`checkpoint`], [`footer`], [`table`]: any bytes, and any bytes behind a checksum that fits,
//!   decode or give an error; nothing panics and nothing leaves the slice.
//! - [`name`]: any name is that of one file, or a stranger's.
//! - [`record`]: what is encoded decodes to the same.
//! - [`recover`]: a store with damaged files opens or is refused, and never delivers a wrong byte.
//! - [`ops`]: operations and crashes against a model.
//! - [`route`]: where messages go on topic and headers exchanges, against plain matchers.

pub mod checkpoint;
pub mod footer;
pub mod name;
pub mod ops;
pub mod record;
pub mod recover;
pub mod route;
pub mod segment;
pub mod table;

use std::{sync::Arc, time::Duration};

use fanlog::{
    Config, Engine, Result,
    clock::ManualClock,
    storage::{MemoryStorage, Storage},
};
use fanlog_segment_format::{SegmentHeader, SegmentId, StoreId};

const STORE: StoreId = StoreId(*b"golden store id.");
const SEGMENT: SegmentId = SegmentId(42);

/// The header of the segment that bytes are decoded for: that of the golden files.
fn segment_header() -> SegmentHeader {
    use fanlog_segment_format::{BatchNumber, Epoch, Offset};
    SegmentHeader {
        store: STORE,
        segment: SEGMENT,
        covers_to: SegmentId(43),
        generation: 2,
        epoch: Epoch(7),
        first_offset: Offset(1000),
        first_batch: BatchNumber(500),
        previous: 0xdead_beef,
        file_bytes: 20_480,
        created_us: 1_800_000_000_000_000,
    }
}

/// A small store's settings, stepped: everything happens in the caller's thread.
fn config() -> Config {
    Config {
        segment_bytes_max: 64 << 10,
        segments_ahead: 1,
        window_bytes_max: 1 << 20,
        buffer_bytes_max: 1 << 20,
        checkpoint_log_bytes: 64 << 10,
        stepped: true,
        ..Config::default()
    }
}

fn open(storage: &MemoryStorage, clock: &Arc<ManualClock>) -> Result<Engine> {
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    Engine::open_on(storage, Arc::clone(clock) as _, config())
}

/// Lets the engine do all that it has to do now.
fn settle(engine: &Engine) -> Result<()> {
    while engine.step()? {}
    Ok(())
}

/// The payload of the message with this number, of up to 4,000 bytes.
fn payload(number: u64) -> Vec<u8> {
    let bytes = (number.wrapping_mul(2_654_435_761) >> 8) % 4_001;
    (0..bytes).map(|at| (number.wrapping_mul(31).wrapping_add(at * 7) & 0xff) as u8).collect()
}

/// Long enough for anything: in a stepped store nobody waits for it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
