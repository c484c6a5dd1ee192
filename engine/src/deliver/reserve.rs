//! Messages that a transaction is going to ack.
//!
//! They stay in the consumer's hands, reserved: counted against its prefetch, settled by nobody
//! else. A commit takes them out, before it has its place in the log: so they can't come again
//! meanwhile. Where it gets none, they are put back. If the consumer goes before the commit, they go
//! back to the queue with all that it holds.

use std::sync::{Arc, PoisonError};

use super::{Claim, DeliveryTag, shared::ConsumerShared};
use crate::{Result, queue::Place};

/// Messages in one consumer's hands.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) consumer: Arc<ConsumerShared>,
    /// With each tag, whether the message goes back to the queue if the transaction does not come
    /// about; else the consumer keeps it.
    tags: Vec<(DeliveryTag, bool)>,
}

impl Reserved {
    pub(crate) fn new(consumer: Arc<ConsumerShared>) -> Self {
        Self { consumer, tags: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.tags.len()
    }

    /// Reserves messages: all that there are, or none.
    ///
    /// # Errors
    ///
    /// [`UnknownTag`](crate::Error::UnknownTag), [`Closed`](crate::Error::Closed): of the first that
    /// is not in its hands, or is in a transaction already.
    pub(crate) fn add(&mut self, tags: &[DeliveryTag], goes_back: bool) -> Result<()> {
        let mut hand = self.consumer.hand();
        for (at, &tag) in tags.iter().enumerate() {
            if !hand.reserve(tag) {
                tags.iter().take(at).for_each(|&tag| {
                    hand.release(tag);
                });
                drop(hand);
                return Err(self.consumer.unknown(tag));
            }
        }
        drop(hand);
        self.tags.extend(tags.iter().map(|&tag| (tag, goes_back)));
        Ok(())
    }

    /// Takes them out of the consumer's hands: all of them, or none.
    ///
    /// # Errors
    ///
    /// [`UnknownTag`](crate::Error::UnknownTag), [`Closed`](crate::Error::Closed) if one has gone back
    /// to the queue meanwhile.
    pub(crate) fn take(&self, place: &Place) -> Result<Vec<Claim>> {
        let consumer = &self.consumer;
        let mut hand = consumer.hand();
        if let Some(&(gone, _)) = self.tags.iter().find(|(tag, _)| !hand.is_reserved(*tag)) {
            drop(hand);
            return Err(consumer.unknown(gone));
        }
        let tags = self.tags.iter();
        let claims: Vec<Claim> = tags.filter_map(|&(tag, _)| hand.take_reserved(tag)).collect();
        // Under the hand's lock: at no moment is a message in neither (D4).
        let confirmed = consumer.core.confirms.finished();
        consumer.queue.commit_begins(&claims, place, confirmed);
        Ok(claims)
    }

    /// Puts back what [`Reserved::take`] took: the commit got no place.
    pub(crate) fn put_back(&self, claims: &[Claim], place: &Place) {
        let queue = &self.consumer.queue;
        let mut dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hand = self.consumer.hand();
        let closed = hand.is_closed();
        if closed {
            self.consumer.came_back(dispatch.make(), claims);
        } else {
            for (&(tag, _), claim) in self.tags.iter().zip(claims) {
                hand.put_back(tag, *claim);
            }
        }
        queue.commit_failed(claims, place);
        drop(hand);
        drop(dispatch);
        if closed {
            queue.sleepers.wake_one();
        }
    }

    /// The commit has its place: the consumer has credit again.
    pub(crate) fn committed(&self) {
        self.consumer.core.stats.acked(self.tags.len() as u64);
        self.consumer.settled();
        self.consumer.wake();
    }

    /// Gives them all up: what came by its delivery goes back to the queue, the rest stays in the
    /// consumer's hands.
    pub(crate) fn roll_back(self) {
        let queue = &self.consumer.queue;
        let mut dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hand = self.consumer.hand();
        let mut back = Vec::new();
        for (tag, goes_back) in self.tags {
            if goes_back {
                back.extend(hand.take_reserved(tag));
            } else {
                hand.release(tag);
            }
        }
        drop(hand);
        self.consumer.came_back(dispatch.make(), &back);
        drop(dispatch);
        self.consumer.settled();
        queue.sleepers.wake_one();
        self.consumer.wake();
    }
}
