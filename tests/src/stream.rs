//! What the process that gets killed publishes: known from a message's number alone.

use std::time::Duration;

use fanlog::Config;

use crate::model::Id;
use crate::random::mix;

/// Threads that publish: message `first + n` is sent by thread `n % PUBLISHERS`.
pub const PUBLISHERS: usize = 2;
/// Publishes that a thread leaves unconfirmed, at the most.
pub const WINDOW: usize = 16;

/// A message, known from its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// The exchange that it is published to; its key is always `a`.
    pub exchange: &'static str,
    /// The size of its payload.
    pub bytes: usize,
    /// Confirmed once the kernel has it.
    pub buffered: bool,
}

/// The routing key of every message.
pub const KEY: &str = "a";

/// What message `id` is.
pub fn planned(id: Id) -> Planned {
    let noise = mix(id as u64 ^ 0x9e37);
    let bytes = match noise % 16 {
        0 => 20_000 + noise / 16 % 30_000,
        1..4 => 2000 + noise / 16 % 4000,
        _ => 8 + noise / 16 % 800,
    };
    Planned {
        exchange: if (noise / 7).is_multiple_of(4) { "" } else { "fan" },
        bytes: usize::try_from(bytes).unwrap_or(8),
        buffered: (noise / 11).is_multiple_of(10),
    }
}

/// Settings that make rolls, checkpoints and recycling frequent.
pub fn config() -> Config {
    Config {
        segment_bytes_max: 256 << 10,
        segments_ahead: 1,
        window_bytes_max: 1 << 20,
        buffer_bytes_max: 1 << 20,
        checkpoint_log_bytes: 128 << 10,
        ack_delay_max: Duration::from_millis(3),
        buffered_sync_delay_max: Duration::from_millis(10),
        ..Config::default()
    }
}
