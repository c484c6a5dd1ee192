//! Consumers that hold messages for too long: what they have goes back to the queue.
//!
//! Owns the list of queues that have consumers, by when each is looked at next: sixteen times in
//! what it allows. In: time, from the keeper. No message has a timer: a look notes how far its
//! consumer was by then, so the next ones know how long the oldest is held, at the least.
//!
//! V1. A queue with a time-out in which anybody may hold a message is on the list, under the time
//!     that it notes. That is so whenever its dispatch lock is given back.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use fanlog_segment_format::QueueId;

use super::{Cancellation, Dispatch, shared::ConsumerShared};
use crate::{core::Core, queue::Queue};

/// How long a consumer may hold a message where the queue does not say.
const ACK_TIMEOUT: Duration = Duration::from_mins(30);
/// Looks in the time that a queue allows.
const LOOKS: u32 = 16;
/// No look follows another sooner.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Queues with consumers, by when they are looked at.
#[derive(Debug, Default)]
pub(crate) struct Overdue {
    list: Mutex<BTreeMap<(u64, QueueId), Arc<Queue>>>,
}

impl Overdue {
    fn list(&self) -> MutexGuard<'_, BTreeMap<(u64, QueueId), Arc<Queue>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next look is due.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        self.list().first_key_value().map(|(&(due, _), _)| Duration::from_nanos(due))
    }

    /// Takes a queue whose time has come.
    fn take(&self, now: Duration) -> Option<Arc<Queue>> {
        let mut list = self.list();
        let due = list.first_entry().filter(|entry| entry.key().0 <= nanos(now))?;
        Some(due.remove())
    }
}

/// How long a consumer of the queue may hold a message; `None`: for ever.
fn limit(queue: &Queue) -> Option<Duration> {
    let limit = queue.options().ack_timeout.unwrap_or(ACK_TIMEOUT);
    (limit != Duration::MAX).then_some(limit)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Somebody may hold messages of the queue from here on: it is looked at. The caller has its dispatch
/// lock.
pub(super) fn watch(core: &Core, queue: &Arc<Queue>) {
    let Some(limit) = limit(queue) else { return };
    if queue.look_due().load(Ordering::Relaxed) == 0 {
        let wait = (limit / LOOKS).max(LOOK_INTERVAL_MIN);
        let due = nanos(core.clock.now().saturating_add(wait));
        queue.look_due().store(due, Ordering::Relaxed);
        core.overdue.list().insert((due, queue.id), Arc::clone(queue));
    }
}

/// Nobody holds messages of the queue: there is nothing to look at. The caller has its dispatch lock,
/// or the queue is gone.
pub(crate) fn forget(core: &Core, queue: &Queue) {
    let due = queue.look_due().swap(0, Ordering::Relaxed);
    if due > 0 {
        core.overdue.list().remove(&(due, queue.id));
    }
}

/// Looks at the queues whose time has come. Says whether any consumer was overdue.
pub(crate) fn step(core: &Core) -> bool {
    let now = core.clock.now();
    let mut any = false;
    while let Some(queue) = core.overdue.take(now) {
        let Some(limit) = limit(&queue) else { continue };
        any |= look(&queue, now, limit);
        let dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        forget(core, &queue);
        if dispatch.get().is_some_and(|dispatch| dispatch.holders().next().is_some()) {
            watch(core, &queue);
        }
        drop(dispatch);
    }
    any
}

/// Ends the subscriptions of those who hold a message of the queue for too long; says whether there
/// were any.
fn look(queue: &Queue, now: Duration, limit: Duration) -> bool {
    let dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
    let holders = dispatch.get().into_iter().flat_map(Dispatch::holders);
    let late = |holder: &Arc<ConsumerShared>| {
        let held = holder.held_for(now).filter(|held| *held >= limit)?;
        Some((Arc::clone(holder), held))
    };
    let late: Vec<_> = holders.filter_map(late).collect();
    drop(dispatch);
    for (holder, held) in &late {
        holder.cancel(Cancellation::AckTimeout { held: *held, limit });
    }
    !late.is_empty()
}

/// How far a consumer was at some looks: its memory is bounded by their number in the time allowed.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// All tags below the first were given by the second. Increasing in both.
    given: VecDeque<(u64, Duration)>,
    /// Since when messages wait in its inbox and none was fetched: the next tag, and the time.
    stands: Option<(u64, Duration)>,
}

impl Looks {
    /// How long the oldest delivery, of tag `first`, is held at the least, or the inbox was left
    /// alone: whichever is longer. `next` is the tag that is given next.
    pub(super) fn look(
        &mut self,
        now: Duration,
        first: Option<u64>,
        next: u64,
        leaves_mail: bool,
    ) -> Option<Duration> {
        let oldest = first.unwrap_or(next);
        while self.given.front().is_some_and(|&(below, _)| below <= oldest) {
            self.given.pop_front();
        }
        let held = self.given.front().map(|&(_, at)| now.saturating_sub(at));
        if first.is_some() && self.given.back().is_none_or(|&(below, _)| below < next) {
            self.given.push_back((next, now));
        }
        self.stands = match self.stands {
            _ if !leaves_mail => None,
            Some((at, since)) if at == next => Some((at, since)),
            _ => Some((next, now)),
        };
        let left = self.stands.map(|(_, since)| now.saturating_sub(since));
        held.max(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_oldest_is_held_since_the_first_look_that_saw_it() {
        let mut looks = Looks::default();
        assert_eq!(looks.look(seconds(1), None, 1, false), None);
        assert_eq!(looks.look(seconds(2), Some(1), 4, false), None);
        assert_eq!(looks.look(seconds(3), Some(1), 6, false), Some(seconds(1)));
        // 1 to 3 are settled: 4 was there at the second look.
        assert_eq!(looks.look(seconds(4), Some(4), 6, false), Some(seconds(1)));
        assert_eq!(looks.look(seconds(5), Some(5), 9, false), Some(seconds(2)));
        assert_eq!(looks.look(seconds(6), Some(8), 9, false), Some(seconds(1)));
        assert_eq!(looks.look(seconds(7), None, 9, false), None);
    }

    #[test]
    fn one_that_goes_on_fetching_leaves_no_mail_alone() {
        let mut looks = Looks::default();
        for second in 0..100 {
            let left = looks.look(seconds(second), None, second / 3, true);
            assert!(left.unwrap() <= seconds(2), "{second}");
        }
        assert_eq!(looks.look(seconds(140), None, 33, true), Some(seconds(41)));
        assert_eq!(looks.look(seconds(150), None, 33, false), None);
    }

    #[test]
    fn a_message_held_long_keeps_few_looks() {
        let mut looks = Looks::default();
        for second in 0..16 {
            looks.look(seconds(second), Some(1), 2 + second, false);
        }
        assert_eq!(looks.given.len(), 16);
        looks.look(seconds(17), Some(17), 18, false);
        assert!(looks.given.len() <= 2);
    }
}
