//! Acks on their way into the log.
//!
//! Owns the list of queues that have something to write: acks, or a lease that delivery wants. In:
//! queues, from consumers. Out: their control records, taken by `commit` with the next batch. So a
//! commit costs what the dirty queues cost, and one sync serves publishes and acks alike.
//!
//! K1. A queue is on the list, or being drained, whenever it has something to write.
//! K2. An ack told to be part of commit `n` is in the records drained for commit `n`, or earlier.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{Result, core::Core, log::Log, queue::Queue};

#[derive(Debug, Default)]
struct List {
    queues: Vec<Arc<Queue>>,
    /// Number of the commit that takes this list.
    commit: u64,
}

/// Queues that have something to write.
#[derive(Debug, Default)]
pub(crate) struct DirtyQueues {
    list: Mutex<List>,
}

impl DirtyQueues {
    /// Lists a queue; returns the commit that takes it and whether it is the first on the list.
    pub(crate) fn push(&self, queue: Arc<Queue>) -> (u64, bool) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.queues.push(queue);
        (list.commit, list.queues.len() == 1)
    }

    /// Takes the records of every listed queue, appended to `out`, and the commit's number.
    pub(crate) fn drain(&self, log: &Log, out: &mut Vec<u8>) -> u64 {
        let (queues, commit) = {
            let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            let commit = list.commit;
            list.commit += 1;
            (std::mem::take(&mut list.queues), commit)
        };
        for queue in &queues {
            queue.drain(self, log, out);
        }
        commit
    }

    /// The commit that will take what is listed now; `None` if nothing is.
    pub(crate) fn pending(&self) -> Option<u64> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        (!list.queues.is_empty()).then_some(list.commit)
    }

    /// The last commit that takes, or took, anything that was listed by now.
    pub(crate) fn last(&self) -> Option<u64> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.queues.is_empty() { list.commit.checked_sub(1) } else { Some(list.commit) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).queues.is_empty()
    }
}

/// An ack on its way. Not waited for it rides along with the next batch, at the latest after
/// [`ack_delay_max`](crate::Config::ack_delay_max); a crash before that brings the message again.
///
/// Dropping it gives nothing up.
#[derive(Clone)]
pub struct Ack {
    core: Arc<Core>,
    /// `None`: there was nothing to ack.
    commit: Option<u64>,
}

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ack").field("commit", &self.commit).finish_non_exhaustive()
    }
}

impl Ack {
    pub(crate) fn new(core: Arc<Core>, commit: Option<u64>) -> Self {
        Self { core, commit }
    }

    /// Waits until the ack is on disk, committing at once. On return the message never comes again.
    ///
    /// A caller that is alone writes it by itself, without waking a thread: if that write hangs, so
    /// does the call. [`Ack::wait_timeout`] leaves it to others.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`](crate::Error::Poisoned) or [`Error::Closed`](crate::Error::Closed) if it
    /// did not get there: the message may come again. [`Error::OutOfSpace`](crate::Error::OutOfSpace),
    /// only with `WhenFull::Fail`: it is still on its way; wait again.
    pub fn wait(&self) -> Result<()> {
        self.wait_until(None)
    }

    /// Like [`Ack::wait`], for at most `timeout`.
    ///
    /// # Errors
    ///
    /// Also [`Error::Timeout`](crate::Error::Timeout): wait again.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<()> {
        self.wait_until(Some(timeout))
    }

    fn wait_until(&self, timeout: Option<Duration>) -> Result<()> {
        let Some(commit) = self.commit else { return Ok(()) };
        if let Some(outcome) = self.core.acks_durable.outcome(commit) {
            return outcome;
        }
        match timeout {
            None => self.core.commit_acks(),
            // A write of its own could outlast it.
            Some(_) => self.core.hurry(true),
        }
        self.core.wait_for(&self.core.acks_durable, commit, timeout)
    }

    /// Waits without a thread of its own, on any runtime. Dropping the future gives nothing up.
    ///
    /// # Errors
    ///
    /// As [`Ack::wait`].
    pub async fn durable(&self) -> Result<()> {
        let Some(commit) = self.commit else { return Ok(()) };
        if let Some(outcome) = self.core.acks_durable.outcome(commit) {
            return outcome;
        }
        self.core.hurry(true);
        self.core.acks_durable.wait_async(commit).await
    }
}
