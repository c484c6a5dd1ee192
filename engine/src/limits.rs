//! Queues that the background looks at because they have limits: all others cost it nothing.
//!
//! Owns the list of them, and when each was last used. In: queues, when their declaration is
//! confirmed or the store is opened. A round looks at each, ten times a second.
//!
//! L1. A queue with a limit of time or size is on the list from the confirm of its declaration to
//!     that of its deletion; one without, from the round after the confirm of a message with a time
//!     of its own until it is found empty. Those that such messages were in when the store was opened
//!     are found by a look at their heads: at each once, a piece a round, and again when somebody took
//!     what was there before. What stands behind a head without a time is not dropped before it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fanlog_segment_format::{QueueId, RouteId};

use crate::{
    core::Core,
    deliver::{self, Dispatch},
    lifetime,
    log::index::BatchIndex,
    queue::Queue,
};

/// From one look at a queue to the next.
pub(crate) const ROUND: Duration = Duration::from_millis(100);
/// From one look at a queue's oldest message to the next, unless it expires before.
const TRIM_AFTER: Duration = Duration::from_secs(1);
/// Queues that are taken from the list at a time.
const PIECE: usize = 256;

/// A queue with limits.
#[derive(Debug, Clone)]
struct Watched {
    queue: Arc<Queue>,
    /// When somebody last used it, as far as its expiry goes.
    used_at: Duration,
    /// When its messages are looked at again.
    trim_at: Duration,
}

#[derive(Debug, Default)]
struct List {
    queues: BTreeMap<QueueId, Watched>,
    /// The round under way, if there is one, goes on behind this queue.
    behind: Option<QueueId>,
    /// When the last round ended.
    ended_at: Option<Duration>,
    /// Routes of confirmed messages with a time of their own; their queues are not on the list yet.
    expiring: HashSet<RouteId>,
    /// Queues that were there at opening are to be looked at from this one on, to the second.
    unseen: Option<(QueueId, QueueId)>,
    /// Of those, the ones that somebody took from since.
    taken_from: BTreeSet<QueueId>,
}

/// The queues with limits.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    list: Mutex<List>,
}

impl Limits {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a queue, if it has limits.
    pub(crate) fn add(&self, core: &Core, queue: &Arc<Queue>) {
        if queue.options().has_limits() {
            let now = core.clock.now();
            let watched = Watched { queue: Arc::clone(queue), used_at: now, trim_at: now };
            self.list().queues.insert(queue.id, watched);
        }
    }

    /// Forgets a queue.
    pub(crate) fn remove(&self, queue: &Queue) {
        self.list().queues.remove(&queue.id);
    }

    /// Takes note of the messages of a confirmed batch that have a time of their own.
    pub(crate) fn confirmed(&self, index: &BatchIndex) {
        let expiring = index.expiring_routes();
        if !expiring.is_empty() {
            self.list().expiring.extend(expiring);
        }
    }

    /// Puts queues on the list, for as long as they are not empty, that got such messages.
    fn watch_expiring(&self, core: &Core) {
        let routes = std::mem::take(&mut self.list().expiring);
        for route in routes {
            let groups = core.log.route_groups(route);
            let queues = core.ledger().holders_of(groups.as_deref().unwrap_or_default());
            for queue in queues {
                self.watch(core, queue);
            }
        }
    }

    /// Puts a queue on the list, for as long as it is not empty: it may have messages with a time of
    /// their own.
    pub(crate) fn watch(&self, core: &Core, queue: Arc<Queue>) {
        if !queue.is_gone() {
            let now = core.clock.now();
            let watched = Watched { queue, used_at: now, trim_at: now };
            self.list().queues.entry(watched.queue.id).or_insert(watched);
        }
    }

    /// The store was opened: what its queues had is looked at in the background.
    pub(crate) fn opened(&self, core: &Core) {
        let last = core.ledger().queues().last().map(|queue| queue.id);
        self.list().unseen = last.map(|last| (QueueId(0), last));
    }

    /// Somebody took a message from a queue that was there at opening: another is its head.
    pub(crate) fn took_old(&self, queue: &Queue) {
        self.list().taken_from.insert(queue.id);
    }

    /// Puts queues on the list that have messages with a time of their own since before the store was
    /// opened.
    fn look_at_old(&self, core: &Core) {
        let mut list = self.list();
        let mut ids = Vec::new();
        while let (true, Some(id)) = (ids.len() < PIECE, list.taken_from.pop_first()) {
            ids.push(id);
        }
        let unseen = list.unseen.take();
        drop(list);
        let ledger = core.ledger();
        let mut queues: Vec<_> = ids.into_iter().filter_map(|id| ledger.queue(id)).collect();
        if let Some((from, last)) = unseen {
            let piece = ledger.queues_from(from).take_while(|queue| queue.id <= last).take(PIECE);
            let before = queues.len();
            queues.extend(piece.cloned());
            let seen = queues.get(before..).unwrap_or_default();
            let end = (seen.len() == PIECE).then(|| seen.last()).flatten();
            let next = end.and_then(|end| end.id.0.checked_add(1));
            self.list().unseen = next.map(|next| (QueueId(next), last));
        }
        queues.retain(|queue| ledger.depth(queue).messages > 0 && !queue.options().has_limits());
        drop(ledger);
        for queue in queues {
            // What can't be read is told to whoever consumes.
            if deliver::has_times(core, &queue).unwrap_or(false) {
                self.watch(core, queue);
            }
        }
    }

    /// Somebody uses a queue: its expiry begins anew.
    pub(crate) fn used(&self, core: &Core, queue: &Queue) {
        if queue.options().expires.is_some()
            && let Some(watched) = self.list().queues.get_mut(&queue.id)
        {
            watched.used_at = core.clock.now();
        }
    }

    /// When the next round is due, if there is a queue to be looked at.
    pub(crate) fn next_round(&self) -> Option<Duration> {
        let list = self.list();
        let due = list.ended_at.map_or(Duration::ZERO, |ended| ended + ROUND);
        let new = !list.expiring.is_empty() || !list.taken_from.is_empty();
        (!list.queues.is_empty() || new || list.unseen.is_some()).then_some(due)
    }

    /// The next queues of a round; none at its end.
    fn piece(&self, now: Duration) -> Vec<Watched> {
        let mut list = self.list();
        let from = list.behind.map_or(Bound::Unbounded, Bound::Excluded);
        let piece: Vec<Watched> = list
            .queues
            .range((from, Bound::Unbounded))
            .take(PIECE)
            .map(|one| one.1.clone())
            .collect();
        list.behind = piece.last().map(|watched| watched.queue.id);
        if piece.is_empty() {
            list.ended_at = Some(now);
        }
        piece
    }
}

/// Does a round, if one is due. Says whether there was anything to do.
pub(crate) fn step(core: &Core) -> bool {
    let now = core.clock.now();
    if core.limits.next_round().is_none_or(|due| now < due) {
        return false;
    }
    core.limits.watch_expiring(core);
    core.limits.look_at_old(core);
    let mut any = false;
    loop {
        let piece = core.limits.piece(now);
        if piece.is_empty() {
            return any;
        }
        for watched in piece {
            let trimmed = watched.trim(core, now);
            any |= watched.expire(core, now) || trimmed;
        }
    }
}

impl Watched {
    /// Drops messages. Says whether there were any.
    fn trim(&self, core: &Core, now: Duration) -> bool {
        let queue = &self.queue;
        if !queue.options().drops_head() && now < self.trim_at {
            return false;
        }
        // What can't be read is told to whoever consumes.
        let (left, next_us) = deliver::trim(core, queue).unwrap_or((0, None));
        if queue.options().dead_letter_exchange.is_some() {
            lifetime::moved(core, queue);
        }
        let wait = next_us.map_or(TRIM_AFTER, |next_us| {
            Duration::from_micros(next_us.saturating_sub(core.clock.wall_us())).min(TRIM_AFTER)
        });
        let done = !queue.options().has_limits() && core.ledger().depth(queue).messages == 0;
        let mut list = core.limits.list();
        if done {
            list.queues.remove(&queue.id);
        } else if let Some(watched) = list.queues.get_mut(&queue.id) {
            watched.trim_at = if left > 0 { now } else { now + wait };
        }
        left > 0
    }

    /// Deletes the queue, if nobody used it for its time.
    fn expire(&self, core: &Core, now: Duration) -> bool {
        let Some(expires) = self.queue.options().expires else { return false };
        let dispatch = self.queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        let consumers = dispatch.get().map_or(0, Dispatch::consumers);
        drop(dispatch);
        if consumers > 0 {
            core.limits.used(core, &self.queue);
            return false;
        }
        now.saturating_sub(self.used_at) >= expires
            && lifetime::delete_unused(core, &self.queue, false)
    }
}
