//! The workloads: one file each. All print a table and write a report of the same shape.

pub(crate) mod ack;
pub(crate) mod deliver;
pub(crate) mod fanout;
pub(crate) mod floor;
pub(crate) mod latency;
pub(crate) mod publish;
pub(crate) mod queues;
pub(crate) mod reclaim;
pub(crate) mod recover;
pub(crate) mod soak;

use std::time::Duration;

/// Parses a length of time in seconds, for options.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
