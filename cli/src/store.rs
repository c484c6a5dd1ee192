//! Opening and closing: every command that opens a store closes it, also when it fails.

use std::{path::Path, time::Duration};

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

/// Opens the store in `dir` for writing, recovery included.
pub(crate) fn open(dir: &Path, if_missing: IfMissing) -> Result<Engine, Failure> {
    let mut config = Config::default();
    config.create = if_missing == IfMissing::Create;
    Ok(Engine::open(dir, config)?)
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
