//! Consumers that sleep, and how a commit finds those that it has something for.
//!
//! S1. A consumer puts itself, then its queue, on the lists, and only then looks once more before
//!     it sleeps; a commit makes messages visible before it looks at the lists. So either the
//!     consumer sees the messages or the commit sees the consumer.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use fanlog_segment_format::{GroupId, QueueId};

use super::consumer::ConsumerShared;
use crate::queue::Queue;

/// Consumers of one queue that sleep.
#[derive(Debug, Default)]
pub(crate) struct Sleepers {
    list: Mutex<VecDeque<Arc<ConsumerShared>>>,
    /// The queue is on the lists of its groups.
    listed: AtomicBool,
}

impl Sleepers {
    pub(crate) fn add(&self, consumer: &Arc<ConsumerShared>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if !list.iter().any(|other| Arc::ptr_eq(other, consumer)) {
            list.push_back(Arc::clone(consumer));
        }
    }

    pub(crate) fn remove(&self, consumer: &Arc<ConsumerShared>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|other| !Arc::ptr_eq(other, consumer));
    }

    /// Wakes one that still sleeps.
    pub(crate) fn wake_one(&self) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(consumer) = list.pop_front() {
            if consumer.wake() {
                return;
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(crate) fn wake_all(&self) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        for consumer in list.drain(..) {
            consumer.wake_always();
        }
    }
}

/// Queues with a sleeping consumer, by the groups that their messages come from.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    groups: Mutex<HashMap<GroupId, HashMap<QueueId, Arc<Queue>>>>,
}

impl Waiting {
    pub(crate) fn add(&self, queue: &Arc<Queue>) {
        if queue.sleepers.listed.swap(true, Ordering::AcqRel) {
            return;
        }
        let members: Vec<GroupId> = queue.ledger().groups().collect();
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        for group in members {
            groups.entry(group).or_default().insert(queue.id, Arc::clone(queue));
        }
    }

    /// A queue became a member of a group: if it waits, then for this one too.
    pub(crate) fn joined(&self, group: GroupId, queue: &Arc<Queue>) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.sleepers.listed.load(Ordering::Acquire) {
            groups.entry(group).or_default().insert(queue.id, Arc::clone(queue));
        }
    }

    /// Takes every queue that waits for one of these groups.
    pub(crate) fn take(&self, wanted: impl IntoIterator<Item = GroupId>) -> Vec<Arc<Queue>> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken: Vec<Arc<Queue>> = Vec::new();
        if groups.is_empty() {
            return taken;
        }
        for group in wanted {
            taken.extend(groups.remove(&group).into_iter().flat_map(HashMap::into_values));
        }
        for queue in &taken {
            queue.sleepers.listed.store(false, Ordering::Release);
        }
        taken
    }

    /// Takes them all: the engine ends.
    pub(crate) fn take_all(&self) -> Vec<Arc<Queue>> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.drain().flat_map(|(_, queues)| queues.into_values()).collect()
    }
}
