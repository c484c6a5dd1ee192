//! Repairs a damaged store: takes out what is damaged and keeps it beside the store.
//!
//! All of the work is recovery's, with [`OnDamage::Repair`]; here it is put together with the check
//! that tells whether anything is left.

use std::path::Path;

use crate::{
    Config, Engine, OnDamage, RecoveryReport, Result,
    check::{Progress, Report},
};

/// What a repair did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Repair {
    /// What was damaged, what is missing for it, and where the bytes are kept.
    pub recovery: RecoveryReport,
    /// The check of the repaired store.
    pub check: Report,
}

/// Says what [`apply`] would do to the store in `dir`: [`RecoveryReport::gaps`],
/// [`RecoveryReport::cuts`] and [`RecoveryReport::set_aside`]. Reads every byte, writes nothing.
///
/// # Errors
///
/// As [`Engine::open_read_only`]: [`Error::Corrupt`](crate::Error::Corrupt) or
/// [`Error::Damaged`](crate::Error::Damaged) only if no checkpoint is whole, so that nothing can be
/// repaired.
pub fn plan(dir: impl AsRef<Path>, config: &Config) -> Result<RecoveryReport> {
    let config = Config { on_damage: OnDamage::Repair, ..config.clone() };
    let engine = Engine::open_read_only(dir, config)?;
    Ok(engine.recovery().clone())
}

/// Repairs the store in `dir`, checks it, and closes it. Afterwards it is a store like any other that
/// has what [`plan`] did not name as missing, and all of that.
///
/// Damaged files are kept in the directory as `damaged-*`, and so is a copy of a torn tail that is
/// cut; what could be read of them is in new files, so this takes space. It may be killed anywhere and
/// done again. A store without damage is opened and closed, nothing else. `progress` tells how far
/// the check has come.
///
/// # Errors
///
/// As [`Engine::open`] and [`Engine::check`]; damage as [`plan`].
///
/// # Example
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # drop(fanlog::Engine::open(dir.path(), fanlog::Config::default())?);
/// use fanlog::{Config, repair};
///
/// let config = Config::default();
/// if !repair::plan(dir.path(), &config)?.gaps.is_empty() {
///     let done = repair::apply(dir.path(), &config, &mut |_| {})?;
///     assert!(done.check.problems.is_empty());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn apply(
    dir: impl AsRef<Path>,
    config: &Config,
    progress: &mut dyn FnMut(Progress),
) -> Result<Repair> {
    let config = Config { on_damage: OnDamage::Repair, create: false, ..config.clone() };
    let engine = Engine::open(dir, config)?;
    let recovery = engine.recovery().clone();
    let check = engine.check(progress);
    let closed = engine.close(std::time::Duration::ZERO);
    let check = check?;
    closed?;
    Ok(Repair { recovery, check })
}
