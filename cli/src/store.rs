//! Opening and closing: every command that opens a store closes it, also when it fails.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use fanlog::{Config, Engine, Error, ErrorKind, OnDamage, WhenFull};

use crate::failure::Failure;

/// How long anything of the store is waited for. A disk that is full makes the engine wait for
/// space; a command rather says so.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(10);
/// Time between two tries while buffers are full.
const TRY_INTERVAL: Duration = Duration::from_millis(1);

/// Whether a store that is not there is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfMissing {
    Create,
    Fail,
}

/// What is done with a damaged store.
#[derive(Args, Clone, Copy)]
pub(crate) struct Damage {
    /// What to do with a damaged store: fail, or go around what is damaged, tell what is missing
    /// and end with status 3
    #[arg(long, value_name = "WHAT", default_value = "fail")]
    on_damage: Choice,
    /// The same as --on-damage quarantine: what is undamaged is read
    #[arg(long, conflicts_with = "on_damage")]
    salvage: bool,
}

#[derive(ValueEnum, Clone, Copy)]
enum Choice {
    Fail,
    Quarantine,
}

impl Damage {
    /// The engine's setting.
    pub(crate) fn choice(self) -> OnDamage {
        match self.on_damage {
            Choice::Fail if self.salvage => OnDamage::Quarantine,
            Choice::Fail => OnDamage::Fail,
            Choice::Quarantine => OnDamage::Quarantine,
        }
    }
}

/// Tells what was damaged when the store was opened; returns how much it is.
pub(crate) fn tell_gaps(engine: &Engine, dir: &Path) -> usize {
    let gaps = &engine.recovery().gaps;
    for gap in gaps {
        let mut text = gap.to_string();
        if let Some(kept) = &gap.kept_as {
            text = format!("{text}; kept as {}", kept.display());
        }
        Failure::damaged(&gap.path, gap.position, text).tell(dir);
    }
    gaps.len()
}

/// Settings of the engine that a command which writes can be given.
#[derive(Args)]
pub(crate) struct Settings {
    /// Size at which a segment is full, in bytes, rounded up to 4 KiB; some segments are kept
    /// ready ahead [default: 64 MiB]
    #[arg(
        long,
        global = true,
        value_name = "S",
        env = "FANLOG_SEGMENT_BYTES",
        hide_env_values = true
    )]
    segment_bytes: Option<u64>,
}

impl Settings {
    /// Opens the store in `dir` for writing, recovery included.
    pub(crate) fn open(&self, dir: &Path, if_missing: IfMissing) -> Result<Engine, Failure> {
        self.open_around(dir, if_missing, OnDamage::Fail)
    }

    /// Opens the store in `dir` for writing, perhaps around damage.
    pub(crate) fn open_around(
        &self,
        dir: &Path,
        if_missing: IfMissing,
        on_damage: OnDamage,
    ) -> Result<Engine, Failure> {
        let create = if_missing == IfMissing::Create;
        // Fail, because waiting would also wait for a disk that is full.
        let when_full = WhenFull::Fail;
        Ok(Engine::open(dir, Config { create, when_full, on_damage, ..self.config() })?)
    }

    /// The settings that were given.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::default();
        if let Some(bytes) = self.segment_bytes {
            // What cannot be rounded is far out of the range, and the engine says so.
            config.segment_bytes_max = bytes.checked_next_multiple_of(4096).unwrap_or(bytes);
        }
        config
    }
}

/// Opens the store in `dir` without writing anything.
pub(crate) fn open_read_only(dir: &Path) -> Result<Engine, Failure> {
    look_around(dir, OnDamage::Fail)
}

/// Opens the store in `dir` without writing anything, perhaps around damage.
pub(crate) fn look_around(dir: &Path, on_damage: OnDamage) -> Result<Engine, Failure> {
    Ok(Engine::open_read_only(dir, Config { on_damage, ..Config::default() })?)
}

/// Tries `publish` again while buffers are full, which passes as soon as a batch is confirmed.
pub(crate) fn while_full<T>(mut publish: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        match publish() {
            Err(error) if error.kind() == ErrorKind::Full && Instant::now() < deadline => {
                thread::sleep(TRY_INTERVAL);
            }
            outcome => return outcome,
        }
    }
}

/// Runs `work` on the open store and closes it, whatever `work` says.
///
/// A failure of `work` is told before one of the close.
pub(crate) fn session<T>(
    engine: Engine,
    work: impl FnOnce(&Engine) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let result = work(&engine);
    let closed = engine.close(WAIT_MAX);
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
