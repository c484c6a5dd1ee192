//! Consumers that sleep, and how a commit finds those that it has something for.
//!
//! S1. A consumer puts itself, then its queue, on the lists, and only then looks once more before
//!     it sleeps; a commit makes messages visible before it looks at the lists. So either the
//!     consumer sees the messages or the commit sees the consumer.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use fanlog_segment_format::{GroupId, QueueId};

use super::shared::ConsumerShared;
use crate::{on_demand::OnDemand, queue::Queue};

/// Consumers of one queue that sleep.
#[derive(Debug, Default)]
pub(crate) struct Sleepers {
    list: Mutex<OnDemand<VecDeque<Arc<ConsumerShared>>>>,
    /// The queue is on the lists of its groups.
    listed: AtomicBool,
}

impl Sleepers {
    pub(crate) fn add(&self, consumer: &Arc<ConsumerShared>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let list = list.make();
        if !list.iter().any(|other| Arc::ptr_eq(other, consumer)) {
            list.push_back(Arc::clone(consumer));
        }
    }

    pub(crate) fn remove(&self, consumer: &Arc<ConsumerShared>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = list.get_mut() {
            list.retain(|other| !Arc::ptr_eq(other, consumer));
        }
    }

    /// Like [`Sleepers::remove`], for one that does not come back.
    pub(crate) fn leave(&self, consumer: &Arc<ConsumerShared>) {
        self.remove(consumer);
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.get().is_some_and(VecDeque::is_empty) {
            list.forget();
        }
    }

    /// Wakes one that still sleeps.
    pub(crate) fn wake_one(&self) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(consumer) = list.get_mut().and_then(VecDeque::pop_front) {
            if consumer.wake() {
                return;
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.get().is_none_or(VecDeque::is_empty)
    }

    pub(crate) fn wake_all(&self) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        for consumer in list.get_mut().into_iter().flat_map(|list| list.drain(..)) {
            consumer.wake_always();
        }
    }
}

type Groups = HashMap<GroupId, HashMap<QueueId, Arc<Queue>>>;

fn take_off(groups: &mut Groups, group: GroupId, queue: &Queue) {
    if let Entry::Occupied(mut queues) = groups.entry(group) {
        queues.get_mut().remove(&queue.id);
        if queues.get().is_empty() {
            queues.remove();
        }
    }
}

/// Queues with a sleeping consumer, by the groups that their messages come from.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    groups: Mutex<Groups>,
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
        drop(groups);
        // Deleted meanwhile: nothing comes to it any more.
        if queue.is_gone() {
            self.gone(queue);
        }
    }

    /// Takes a queue that was deleted off the lists.
    pub(crate) fn gone(&self, queue: &Queue) {
        let members: Vec<GroupId> = queue.ledger().groups().collect();
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        for group in members {
            take_off(&mut groups, group, queue);
        }
    }

    /// A queue is no longer a member of a group: it does not wait for that one, unless it is again.
    pub(crate) fn left(&self, group: GroupId, queue: &Queue) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if !queue.ledger().is_member(group) {
            take_off(&mut groups, group, queue);
        }
    }

    /// Takes a queue off the lists, unless a consumer of it sleeps.
    pub(crate) fn leave(&self, queue: &Arc<Queue>) {
        let sleepers = &queue.sleepers;
        if !sleepers.listed.load(Ordering::Acquire) || !sleepers.is_empty() {
            return;
        }
        let members: Vec<GroupId> = queue.ledger().groups().collect();
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        sleepers.listed.store(false, Ordering::Release);
        for group in members {
            take_off(&mut groups, group, queue);
        }
        drop(groups);
        // One that goes to sleep now may have found the queue listed, and looked before it was taken
        // off: it looks once more, and lists it again.
        sleepers.wake_one();
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
