//! Puts a rewritten file in the place of its sources.

use std::sync::Arc;

use crate::{Result, core::Core, ledger::convert::Sources, log::segment::Segment};

/// Queues that are looked at while the ledger is held once: commits wait for it.
const QUEUES_AT_ONCE: usize = 64;

/// Lists and counts `segment` in the place of `sources`, which are retired. Says whether it did:
/// not if one of them was retired before, or queues that left just now must be counted off there.
///
/// # Errors
///
/// A source's footer could not be read; nothing was changed.
pub(super) fn swap(core: &Core, sources: &[Arc<Segment>], segment: &Arc<Segment>) -> Result<bool> {
    // No checkpoint is written meanwhile: one lists either the sources or what replaces them.
    let paused = core.keeper.checkpoints.pause();
    let settled = core.keeper.settle(core);
    if !core.log.has_neighbours(sources) {
        return Ok(false);
    }
    // Queues that are bound from here on have no message there; those that are rewound may have.
    let rewinds = core.ledger().rewinds();
    let queues = core.ledger().queues_in(&core.log, sources)?;
    let listed = Sources::of(&core.log, sources)?;
    for some in queues.chunks(QUEUES_AT_ONCE) {
        core.ledger().convert(&core.log, &listed, some);
    }
    let mut ledger = core.ledger();
    if ledger.rewinds() != rewinds
        || !core.log.has_neighbours(sources)
        || !ledger.rewritten(&core.log, &listed, &queues, segment.id())
    {
        return Ok(false);
    }
    core.keeper.retired.expect(sources);
    let replaced = core.log.replace_segments(sources, segment);
    assert!(replaced, "the keeper alone takes segments out, and this is the keeper");
    drop(ledger);
    drop(settled);
    let listed_to = core.keeper.checkpoints.newest().map_or(0, |newest| newest.number);
    drop(paused);
    core.stats.rewritten(sources.len() as u64, segment.header.file_bytes);
    core.keeper.retired.replaced(sources, listed_to);
    Ok(true)
}
