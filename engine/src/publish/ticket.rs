//! What a publish returns: something to wait on for its confirm.

use std::{fmt, sync::Arc, time::Duration};

use fanlog_segment_format::Offset;

use super::{Shared, records::Placed};
use crate::{Error, Result};

/// What a confirmed publish was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirm {
    /// The offset of the first message; the others follow without gaps.
    pub first_offset: Offset,
    /// How many messages.
    pub messages: u32,
}

/// A publish on its way. Dropping it gives nothing up: the message is stored all the same.
pub struct Ticket {
    shared: Arc<Shared>,
    placed: Placed,
    /// Full queues that did not get the message.
    refused_by: Option<Arc<[String]>>,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Placed { batch, messages, .. } = self.placed;
        write!(f, "Ticket({messages} messages in batch {batch:?})")
    }
}

impl Ticket {
    pub(super) fn new(shared: &Arc<Shared>, placed: Placed) -> Self {
        Self { shared: Arc::clone(shared), placed, refused_by: None }
    }

    /// The same, but these full queues did not get it; `stored` of its messages are its publisher's.
    pub(super) fn refused_by(mut self, queues: Arc<[String]>, stored: u32) -> Self {
        self.placed.messages = stored;
        self.refused_by = Some(queues);
        self
    }

    fn outcome(&self, outcome: Result<()>) -> Result<Confirm> {
        outcome?;
        let confirm = Confirm { first_offset: self.placed.first, messages: self.placed.messages };
        match &self.refused_by {
            None => Ok(confirm),
            Some(queues) => {
                let stored = (confirm.messages > 0).then_some(confirm);
                Err(Error::QueueFull { queues: queues.to_vec(), stored })
            }
        }
    }

    /// The message was published before by the same [named publisher](crate::NamedPublisher): it is
    /// not stored again, and confirmed when the original is.
    pub fn is_repeat(&self) -> bool {
        self.placed.repeat
    }

    /// Whoever has it commits it.
    pub(super) fn leads(&self) -> bool {
        self.placed.lead
    }

    /// The number of the batch whose confirm this ticket waits for; none for an empty list.
    pub(crate) fn number(&self) -> Option<u64> {
        self.placed.batch.map(|batch| batch.0)
    }

    /// Waits for the confirm. On return the message survives a power cut (a `Buffered` one: the
    /// death of the process).
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] or [`Error::Closed`]: the publish is in doubt; after the store is opened
    /// again the message may be there or not. [`Error::OutOfSpace`], only with `WhenFull::Fail`: it
    /// is still on its way, and goes on when there is space; wait again. [`Error::QueueFull`]: full
    /// queues [refused](crate::Overflow::RejectPublish) it, and all others have it, as durably as
    /// if it was confirmed, and so have dead-letter exchanges; published again, they get it again.
    pub fn wait(&self) -> Result<Confirm> {
        let Some(number) = self.number() else { return self.outcome(Ok(())) };
        let core = &*self.shared.core;
        self.outcome(core.wait_for(&core.confirms, number, None))
    }

    /// Waits for the confirm, for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Ticket::wait`], and [`Error::Timeout`]: still in doubt; wait again.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Confirm> {
        let Some(number) = self.number() else { return self.outcome(Ok(())) };
        let core = &*self.shared.core;
        self.outcome(core.wait_for(&core.confirms, number, Some(timeout)))
    }

    /// The outcome, if there is one yet.
    pub fn try_wait(&self) -> Option<Result<Confirm>> {
        let outcome = match self.number() {
            None => Some(Ok(())),
            Some(number) => self.shared.core.confirms.outcome(number),
        };
        outcome.map(|outcome| self.outcome(outcome))
    }

    /// Waits for the confirm without a thread of its own, on any runtime. Dropping the future gives
    /// nothing up: the ticket can be waited on again.
    ///
    /// # Errors
    ///
    /// As [`Ticket::wait`].
    pub async fn confirmed(&self) -> Result<Confirm> {
        let Some(number) = self.number() else { return self.outcome(Ok(())) };
        self.outcome(self.shared.core.confirms.wait_async(number).await)
    }
}
