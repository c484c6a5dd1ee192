//! What a history gives up many messages at a time.
//!
//! In: a history, under its dispatch lock. Out: one ack for all that it has in a sealed segment, or in
//! a batch in memory, if all of that is beyond its limits: found from footers and indexes. The rest goes
//! message by message, like the head of any queue that is too long.
//!
//! O1. A history is acked in the order of the log, without gaps.

use std::sync::Arc;

use fanlog_segment_format::Offset;

use super::{Dispatch, Limits, reader::routed_to};
use crate::{
    Result,
    core::Core,
    ledger::queue_ledger::Amount,
    log::{Sought, view::View},
    queue::Queue,
};

/// Segments and batches given up at a time.
const VIEWS: usize = 1024;

/// All that a history has in a view.
struct Whole {
    amount: Amount,
    /// The last of it.
    last: Offset,
}

impl Dispatch {
    /// Gives up segments and batches in which all that a history has is beyond its limits. Says how
    /// many.
    ///
    /// # Errors
    ///
    /// If the log could not be read.
    pub(super) fn drop_outdated(&mut self, core: &Core, queue: &Arc<Queue>) -> Result<usize> {
        if !queue.is_history() {
            return Ok(0);
        }
        let bytes_max = queue.options().bytes_max.unwrap_or(u64::MAX);
        let ttl_us = Limits::of(queue).ttl_us.unwrap_or(u64::MAX);
        let now_us = core.clock.wall_us();
        let mut ready = self.ready(core, queue);
        let Some(reader) = self.source.only(queue) else { return Ok(0) };
        let mut dropped = 0;
        while dropped < VIEWS {
            let wanted = |route| routed_to(core, queue, route);
            let Sought::View(view) = core.log.seek(reader.cursor, &wanted)? else { break };
            let Some(whole) = whole(core, queue, &view, reader.cursor) else { break };
            let too_old = newest_us(&view).saturating_add(ttl_us) <= now_us;
            if !too_old && ready.less(whole.amount).bytes < bytes_max {
                break;
            }
            let stretch = reader.ack_from()..view.end_offset();
            let Whole { amount, last } = whole;
            if queue.ack_all(&core.dirty, &core.log, stretch, last, amount) {
                core.acks_wait();
            }
            reader.skip_to(view.end_offset());
            ready = ready.less(amount);
            dropped += 1;
        }
        Ok(dropped)
    }
}

/// When the newest message of a view was published; the end of time if that can't be told.
fn newest_us(view: &View) -> u64 {
    match view {
        View::Sealed(reader) => reader.footer().max_time_us(),
        View::Batch(_) => {
            let times = (0..view.messages()).map(|number| view.message(number).ok());
            let times = times.map(|record| record.map_or(u64::MAX, |record| record.time_us));
            times.max().unwrap_or(u64::MAX)
        }
    }
}

/// All that a history has in a view; `None` if some of it is gone already, or if the file is made of
/// several segments that a checkpoint still tells apart.
fn whole(core: &Core, queue: &Queue, view: &View, from: Offset) -> Option<Whole> {
    let mut amount = Amount::default();
    let mut ends: Option<(Offset, Offset)> = None;
    for at in 0..view.routes() {
        let route = view.route(at);
        let groups = core.log.route_groups(route.route)?;
        let ranges = queue.ledger().ranges(&groups);
        let Some(&(begin, _)) = ranges.first() else { continue };
        let offset_of = |nth| view.offset_of(view.route_message(at, nth));
        let (first, last) = (offset_of(0), offset_of(route.messages.checked_sub(1)?));
        if first < from.max(begin) {
            return None;
        }
        let messages = u64::from(route.messages);
        amount = amount.plus(Amount { messages, bytes: route.bytes });
        let (before, after) = ends.unwrap_or((first, last));
        ends = Some((before.min(first), after.max(last)));
    }
    let (first, last) = ends?;
    let bounds = core.log.bounds_at(first);
    (last < bounds.1).then_some(Whole { amount, last })
}
