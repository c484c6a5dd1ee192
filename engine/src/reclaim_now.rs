//! Reclaim when somebody asks for it, rather than when the keeper has time.
//!
//! Does the keeper's steps in the caller's thread, with as many checkpoints as it takes until none
//! that is kept lists what was given up.

use fanlog_segment_format::file_name::FileName;

use crate::{
    Error, Result,
    commit::is_out_of_space,
    core::Core,
    error::FileOp,
    keeper::{self, Did},
};

/// Checkpoints without anything given back, after which there is nothing left to do: what is retired
/// after one goes when two more were written.
const IDLE_ROUNDS: u32 = 3;
/// Checkpoints at most, where others go on to make work.
const ROUNDS_MAX: u32 = 64;

/// What a reclaim did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReclaimReport {
    /// Bytes of segments and checkpoints when it began; files that are kept ready are not counted.
    pub bytes_before: u64,
    /// The same when it ended.
    pub bytes_after: u64,
    /// Segments whose files were removed.
    pub segments_deleted: u64,
    /// Segments whose files are kept to be used again.
    pub segments_recycled: u64,
    /// Sparse segments whose live messages were copied to a smaller file, which took their place.
    pub segments_rewritten: u64,
}

/// Gives back all that can be.
pub(crate) fn reclaim_now(
    core: &Core,
    progress: &mut dyn FnMut(ReclaimReport),
) -> Result<ReclaimReport> {
    let began = core.stats.given_back();
    let bytes_before = store_bytes(core)?;
    let mut report =
        ReclaimReport { bytes_before, bytes_after: bytes_before, ..ReclaimReport::default() };
    let mut idle = 0;
    for _ in 0..ROUNDS_MAX {
        let before = report;
        while step(core)? {
            if let Some(ended) = core.ended() {
                return Err(ended);
            }
            let [deleted, recycled, rewritten] = core.stats.given_back();
            report.segments_deleted = deleted - began[0];
            report.segments_recycled = recycled - began[1];
            report.segments_rewritten = rewritten - began[2];
            progress(report);
        }
        idle = if report == before { idle + 1 } else { 0 };
        if idle == IDLE_ROUNDS {
            break;
        }
        core.keeper.checkpoint(core, false)?;
    }
    report.bytes_after = store_bytes(core)?;
    Ok(report)
}

/// Does a piece of the keeper's work; says whether there was any. Where there is no space for some of
/// it the rest is done all the same.
fn step(core: &Core) -> Result<bool> {
    match keeper::step(core) {
        Err(error) if is_out_of_space(&error) => Ok(false),
        did => Ok(did? != Did::Nothing),
    }
}

/// Bytes of segments and checkpoints.
fn store_bytes(core: &Core) -> Result<u64> {
    let entries = core
        .storage
        .list()
        .map_err(|source| Error::io(FileOp::List, core.storage.path(""), source))?;
    let own = entries.iter().filter(|entry| {
        let name = FileName::parse(&entry.name);
        name.is_some_and(|name| !matches!(name, FileName::Free(_)))
    });
    Ok(own.map(|entry| entry.bytes).sum())
}
