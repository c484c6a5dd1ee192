//! Drops the routes that nobody needs any more, before a checkpoint is put together.
//!
//! In: closed routes, from the ledger, and the segments. Which are closed, and why that is safe, is in
//! [`crate::ledger::closed`]. What is found here stays so: no message takes a closed route, so what is
//! in no segment comes into none. So the locks are given back between the steps.

use std::sync::PoisonError;

use fanlog_segment_format::RouteId;

use crate::{core::Core, ledger::closed};

/// Routes that are dropped while the ledger is locked once.
const PIECE: usize = 64;

/// Drops closed routes of which no segment has a message.
pub(crate) fn drop_routes(core: &Core) {
    let gone = {
        // Files stand still: what is looked for in one is not moved to another.
        let _paused = core.keeper.checkpoints.pause();
        let segments = core.log.segments();
        let mut missing = core.ledger().missing(&segments);
        if missing.is_empty() {
            return;
        }
        closed::look(&core.log, &segments, &mut missing);
        core.ledger().looked_for(&missing);
        missing.retain(|one| one.is_nowhere(&segments));
        missing
    };
    let tables = core.tables.read().unwrap_or_else(PoisonError::into_inner);
    // Publishers have to agree: a route that they take must be known.
    let gone = tables.retain_unled(gone, |one| (&*one.groups, one.route));
    drop(tables);
    let gone: Vec<RouteId> = gone.into_iter().map(|one| one.route).collect();
    let _paused = core.keeper.checkpoints.pause();
    for piece in gone.chunks(PIECE) {
        core.ledger().drop_routes(piece, &core.log);
    }
}
