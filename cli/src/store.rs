//! Opening and closing: every command that opens a store closes it, also when it fails.

use std::{path::Path, time::Duration};

use clap::Args;
use fanlog::{Config, Engine};

use crate::failure::Failure;

/// How long closing may take before the rest counts as unconfirmed.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(30);

/// Whether a store that is not there is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfMissing {
    Create,
    Fail,
}

/// Settings of the engine that a command which writes can be given.
#[derive(Args)]
pub(crate) struct Settings {
    /// Size at which a segment is full, in bytes, rounded up to 4 KiB; some segments are kept
    /// ready ahead [default: 64 MiB]
    #[arg(long, value_name = "S", env = "FANLOG_SEGMENT_BYTES", hide_env_values = true)]
    segment_bytes: Option<u64>,
}

impl Settings {
    /// Opens the store in `dir` for writing, recovery included.
    pub(crate) fn open(&self, dir: &Path, if_missing: IfMissing) -> Result<Engine, Failure> {
        let mut config = Config { create: if_missing == IfMissing::Create, ..Config::default() };
        if let Some(bytes) = self.segment_bytes {
            // What cannot be rounded is far out of the range, and the engine says so.
            config.segment_bytes_max = bytes.checked_next_multiple_of(4096).unwrap_or(bytes);
        }
        Ok(Engine::open(dir, config)?)
    }
}

/// Opens the store in `dir` without writing anything.
pub(crate) fn open_read_only(dir: &Path) -> Result<Engine, Failure> {
    Ok(Engine::open_read_only(dir, Config::default())?)
}

/// Runs `work` on the open store and closes it, whatever `work` says.
///
/// A failure of `work` is told before one of the close.
pub(crate) fn session<T>(
    engine: Engine,
    work: impl FnOnce(&Engine) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let result = work(&engine);
    let closed = engine.close(CLOSE_WAIT_MAX);
    // From here on another process may open the store.
    drop(engine);
    let value = result?;
    let report = closed?;
    if report.unconfirmed > 0 {
        let count = report.unconfirmed;
        return Err(Failure::timeout(format!(
            "{count} messages were not confirmed before closing"
        )));
    }
    Ok(value)
}
