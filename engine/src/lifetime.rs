//! Queues that the engine deletes by itself: when the last consumer goes, when nobody used them for
//! their time, when their owner goes.
//!
//! Those that do not survive a restart are left out when the store is opened (`recovery`): they need
//! no record.

use std::{
    fmt,
    sync::{Arc, PoisonError},
};

use crate::{
    Consumer, ConsumerOptions, Delivery, Error, Landed, Result, StartAt, Table,
    core::Core,
    deliver::{self, Dispatch},
    queue::Queue,
    rewind::{self, Bring},
    route::Change,
};

/// Deletes a queue unless it has a consumer, or messages that wait to be moved to its dead-letter
/// exchange: then, if it `ends` whatever happens, that is done once they are. From here on nobody joins
/// it. Says whether it does; it is not waited for.
pub(crate) fn delete_unused(core: &Core, queue: &Queue, ends: bool) -> bool {
    let mut dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
    if queue.is_gone() || dispatch.get().is_some_and(|dispatch| dispatch.consumers() > 0) {
        return false;
    }
    if dispatch.get_mut().is_some_and(|dispatch| !dispatch.may_end(ends)) {
        return false;
    }
    queue.set_gone();
    drop(dispatch);
    core.delete_queue(queue);
    true
}

/// The last consumer of a queue may have gone.
pub(crate) fn consumer_left(core: &Core, queue: &Queue) {
    if queue.options().auto_delete && core.ended().is_none() {
        delete_unused(core, queue, true);
    }
    core.limits.used(core, queue);
}

/// What waited to be moved to a queue's dead-letter exchange may have been.
pub(crate) fn moved(core: &Core, queue: &Queue) {
    let dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
    let ended = dispatch.get().is_some_and(Dispatch::has_ended);
    drop(dispatch);
    if ended {
        delete_unused(core, queue, true);
    }
}

/// What others may not do with a queue that has an owner.
///
/// # Errors
///
/// [`Error::Refused`] if it has one.
pub(crate) fn check_shared(queue: &Queue, what: &str) -> Result<()> {
    if !queue.options().exclusive {
        return Ok(());
    }
    let what = format!("{what} of queue {:?}", queue.name);
    Err(Error::Refused { what, why: "it is exclusive, and another's".to_owned() })
}

/// The owner's handle of an exclusive queue: nobody else consumes or gets from it, purges, rewinds or
/// deletes it. It can be bound and published to like any other.
///
/// When this is dropped the queue is deleted, with its messages; consumers of it get
/// [`Error::Cancelled`]. It does not survive the engine either.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let engine = fanlog::Engine::open(dir.path(), fanlog::Config::default())?;
/// use fanlog::{ConsumerOptions, Message, QueueOptions};
///
/// let replies = engine.declare_exclusive_queue("replies-7", &QueueOptions::default())?;
/// engine.publisher().publish_confirmed(&Message::new("", "replies-7", b"42"))?;
/// let consumer = replies.consume(&ConsumerOptions::default())?;
/// assert_eq!(consumer.recv()?.payload(), b"42");
/// assert!(engine.consume("replies-7", ConsumerOptions::default()).is_err());
/// drop(replies);
/// assert!(engine.queue("replies-7").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ExclusiveQueue {
    core: Arc<Core>,
    queue: Arc<Queue>,
}

impl fmt::Debug for ExclusiveQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExclusiveQueue").field(&self.queue.name).finish()
    }
}

impl ExclusiveQueue {
    pub(crate) fn new(core: Arc<Core>, queue: Arc<Queue>) -> Self {
        Self { core, queue }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.queue.name
    }

    /// Subscribes to it.
    ///
    /// # Errors
    ///
    /// As [`Engine::consume`](crate::Engine::consume).
    pub fn consume(&self, options: &ConsumerOptions) -> Result<Consumer> {
        Consumer::new(&self.core, &self.queue, options)
    }

    /// Takes its next ready message without a subscription. As [`Engine::get`](crate::Engine::get).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn get(&self) -> Result<Option<Delivery>> {
        self.core.check_writable()?;
        self.check_there()?;
        deliver::get(&self.core, &self.queue)
    }

    /// Binds it to an exchange from a place in the exchange's history. As
    /// [`Engine::bind_from`](crate::Engine::bind_from).
    ///
    /// # Errors
    ///
    /// As there; [`Error::NotFound`] if the queue is gone.
    pub fn bind_from(
        &self,
        exchange: &str,
        routing_key: &str,
        arguments: &Table,
        at: StartAt,
    ) -> Result<Landed> {
        self.check_there()?;
        let queue = self.name();
        let bind = Change::BindWith { queue, exchange, routing_key, arguments };
        rewind::bring(&self.core, queue, Bring::Binding(bind), at, Some(self.queue.id))
    }

    /// Brings back what it acked. As [`Engine::rewind`](crate::Engine::rewind).
    ///
    /// # Errors
    ///
    /// As there; [`Error::NotFound`] if the queue is gone.
    pub fn rewind(&self, at: StartAt) -> Result<Landed> {
        self.check_there()?;
        rewind::bring(&self.core, self.name(), Bring::Bindings, at, Some(self.queue.id))
    }

    /// Another may have its name once it is gone.
    fn check_there(&self) -> Result<()> {
        if self.queue.is_gone() {
            return Err(Error::NotFound { what: "queue", name: self.name().to_owned() });
        }
        Ok(())
    }

    /// Drops what is ready in it. As [`Engine::purge_queue`](crate::Engine::purge_queue).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn purge(&self) -> Result<u64> {
        self.core.check_writable()?;
        deliver::purge(&self.core, &self.queue)
    }
}

impl Drop for ExclusiveQueue {
    fn drop(&mut self) {
        if self.core.ended().is_none() {
            self.core.delete_queue(&self.queue);
        }
    }
}
