//! When somebody has to look after a queue although nothing is published: a message falls due.
//!
//! In: queues whose consumers found nothing ready, and when the next message is due. Out, in the
//! keeper's steps: a woken consumer, which deals for all of them.
//!
//! A1. A consumer that goes to sleep has looked after its queue's alarm was set (S1): it has found
//!     what is due, or the alarm finds it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use fanlog_segment_format::QueueId;

use crate::{core::Core, queue::Queue};

#[derive(Debug, Default)]
struct List {
    times: BTreeSet<(u64, QueueId)>,
    queues: HashMap<QueueId, (u64, Weak<Queue>)>,
}

/// Queues by the time at which something there is due. One entry for each.
#[derive(Debug, Default)]
pub(crate) struct Alarms(Mutex<List>);

impl Alarms {
    /// Sets a queue's alarm. The keeper is told if it is the first of all now.
    pub(super) fn set(&self, core: &Core, queue: &Arc<Queue>, at_us: u64) {
        if self.is_first(queue, at_us) {
            core.wake_keeper();
        }
    }

    fn is_first(&self, queue: &Arc<Queue>, at_us: u64) -> bool {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = list.queues.insert(queue.id, (at_us, Arc::downgrade(queue)));
        if let Some((before_us, _)) = before {
            if before_us == at_us {
                return false;
            }
            list.times.remove(&(before_us, queue.id));
        }
        list.times.insert((at_us, queue.id));
        list.times.first() == Some(&(at_us, queue.id))
    }

    /// Wakes a consumer of each queue whose time has come.
    pub(crate) fn ring(&self, core: &Core) {
        loop {
            let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(&(at_us, id)) = list.times.first() else { return };
            if at_us > core.clock.wall_us() {
                return;
            }
            list.times.pop_first();
            let queue = list.queues.remove(&id).and_then(|(_, queue)| queue.upgrade());
            drop(list);
            if let Some(queue) = queue {
                queue.sleepers.wake_one();
            }
        }
    }

    /// How long until the next alarm, by the clock as it stands.
    pub(crate) fn left(&self, core: &Core) -> Option<Duration> {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let &(at_us, _) = list.times.first()?;
        Some(Duration::from_micros(at_us.saturating_sub(core.clock.wall_us())))
    }
}
