//! The engine's public face. Only delegates.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::{Builder, JoinHandle},
    time::Duration,
};

use fanlog_segment_format::file_name::FileName;

use crate::{
    BackupFiles, BackupProgress, BackupReport, Config, DeleteQueue, Error, ExchangeOptions,
    QueueOptions, RecoveryReport, Result, Stats, Table, backup,
    browse::{Browsed, Browser},
    check::{self, Progress, Report},
    clock::{Clock, SystemClock},
    commit::{self, run_committer},
    confirm::{Confirms, deadline_after, instant_now},
    core::Core,
    delete_queue,
    deliver::{self, Consumer, ConsumerOptions, Delivery},
    error::FileOp,
    inspect::{self, QueueView, SegmentInfo, TopologyView},
    keeper::{self, Did, run_keeper},
    lifetime::{self, ExclusiveQueue},
    named::{self, NamedPublisher},
    pins::{self, Pins},
    publish::Publisher,
    reclaim_now::{self, ReclaimReport},
    recovery,
    rewind::{self, Bring, Landed, StartAt},
    route::{Change, ExchangeKind, Tables},
    storage::{LockError, RealStorage, Storage, StorageLock},
    transaction::Transaction,
};

/// How long dropping the last handle waits for what is still unconfirmed.
const DROP_TIMEOUT: Duration = Duration::from_secs(10);

/// An open store. Cheap to clone; when the last clone is dropped, or by [`Engine::close`], the store
/// is closed. One process has a store open at a time.
///
/// # Example
///
/// ```
/// use fanlog::{Config, ConsumerOptions, Engine, ExchangeKind, Message};
///
/// let dir = tempfile::tempdir()?;
/// let engine = Engine::open(dir.path(), Config::default())?;
/// engine.declare_exchange("results", ExchangeKind::Fanout)?;
/// engine.declare_queue("store")?;
/// engine.bind("store", "results", "")?;
///
/// engine.publisher().publish(&Message::new("results", "", b"42"))?.wait()?;
///
/// let consumer = engine.consume("store", ConsumerOptions::default())?;
/// let delivery = consumer.recv()?;
/// assert_eq!(delivery.payload(), b"42");
/// delivery.ack()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Engine {
    owner: Arc<Owner>,
}

/// What ends with the last handle.
struct Owner {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<StorageLock>>,
    closed: Mutex<Option<Result<CloseReport>>>,
}

/// How closing went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseReport {
    /// Messages that were appended and not confirmed: in doubt, as after a crash.
    pub unconfirmed: u64,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("path", &self.owner.core.storage.path("")).finish()
    }
}

impl Engine {
    /// Opens the store in `dir`, creating it where there is none and
    /// [`create`](Config::create) allows.
    ///
    /// On return all that was confirmed before is there again, and durable. What a crash left
    /// half-written is gone; [`Engine::recovery`] tells.
    ///
    /// # Errors
    ///
    /// - [`Error::Locked`]: another process, or another handle, has it open.
    /// - [`Error::NoStore`]: there is none and `create` is off.
    /// - [`Error::Corrupt`], [`Error::Damaged`]: bytes that were durable are not what they were;
    ///   nothing on disk was changed.
    /// - [`Error::UnsupportedVersion`]: written by a newer version; nothing was changed.
    /// - [`Error::Setting`]: a setting is out of its range.
    /// - [`Error::Io`].
    pub fn open(dir: impl AsRef<Path>, config: Config) -> Result<Self> {
        config.validate()?;
        let dir = dir.as_ref();
        let storage = RealStorage::open(dir, config.create, config.backend).map_err(|source| {
            if source.kind() == std::io::ErrorKind::NotFound && !config.create {
                return Error::NoStore { path: dir.to_owned() };
            }
            Error::io(FileOp::Open, dir.to_owned(), source)
        })?;
        Self::open_on(Arc::new(storage), Arc::new(SystemClock::new()), config)
    }

    /// Opens the store in `dir` for reading: browsing, statistics, [`Engine::check`]. Nothing at all
    /// is written; it works on a read-only file system.
    ///
    /// # Errors
    ///
    /// As [`Engine::open`].
    pub fn open_read_only(dir: impl AsRef<Path>, config: Config) -> Result<Self> {
        let dir = dir.as_ref();
        let storage = RealStorage::open_read_only(dir).map_err(|source| {
            if source.kind() == std::io::ErrorKind::NotFound {
                return Error::NoStore { path: dir.to_owned() };
            }
            Error::io(FileOp::Open, dir.to_owned(), source)
        })?;
        let storage: Arc<dyn Storage> = Arc::new(storage);
        let name = FileName::Lock.to_string();
        let lock = lock_error(&*storage, storage.lock_read_only(&name))?;
        let core = recovery::open(storage, Arc::new(SystemClock::new()), config, true)?;
        Ok(Self::of(Arc::new(core), lock, Vec::new()))
    }

    /// Opens a store on storage and clock of the caller's: a simulation, a test.
    ///
    /// # Errors
    ///
    /// As [`Engine::open`].
    pub fn open_on(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        config: Config,
    ) -> Result<Self> {
        let lock = lock_error(&*storage, storage.lock(&FileName::Lock.to_string()))?;
        let stepped = config.stepped;
        let core = Arc::new(recovery::open(storage, clock, config, false)?);
        let queues: Vec<_> = core.ledger().queues().cloned().collect();
        for queue in &queues {
            core.limits.add(&core, queue);
        }
        core.limits.opened(&core);
        let threads = if stepped { Vec::new() } else { start_threads(&core)? };
        Ok(Self::of(core, Some(lock), threads))
    }

    fn of(core: Arc<Core>, lock: Option<StorageLock>, threads: Vec<JoinHandle<()>>) -> Self {
        let owner = Owner {
            core,
            threads: Mutex::new(threads),
            lock: Mutex::new(lock),
            closed: Mutex::new(None),
        };
        Self { owner: Arc::new(owner) }
    }

    #[cfg(test)]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.owner.core
    }

    /// What opening found and did.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.owner.core.recovery
    }

    /// Declares a durable exchange. On return it is durable. No change if it exists alike.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] if it exists with another kind, [`Error::Name`].
    pub fn declare_exchange(&self, name: &str, kind: ExchangeKind) -> Result<()> {
        self.change(&[Change::DeclareExchange { name, kind }])
    }

    /// Declares an exchange. On return its declaration is durable. No change if it exists with the
    /// same kind and equal options.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] if it exists with another kind or other options: which, and both values;
    /// [`Error::Argument`] for options that can't be; [`Error::Refused`] for a name that begins with
    /// `amq.`; [`Error::Name`]. Nothing was changed then.
    pub fn declare_exchange_with(
        &self,
        name: &str,
        kind: ExchangeKind,
        options: &ExchangeOptions,
    ) -> Result<()> {
        self.change(&[Change::DeclareExchangeWith { name, kind, options }])
    }

    /// Deletes an exchange if there is no binding from it, and the bindings that lead to it.
    ///
    /// # Errors
    ///
    /// [`Error::StillUsed`] if there is one; else as [`delete_exchange`](Self::delete_exchange).
    pub fn delete_exchange_if_unused(&self, name: &str) -> Result<()> {
        self.change(&[Change::DeleteExchangeIfUnused { name }])
    }

    /// Deletes an exchange and its bindings. Messages already stored stay in their queues.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Refused`] for the default exchange and the predeclared ones.
    pub fn delete_exchange(&self, name: &str) -> Result<()> {
        self.change(&[Change::DeleteExchange { name }])
    }

    /// Declares a durable queue without limits, and returns its name. On return it is durable. No
    /// change if it exists alike.
    ///
    /// # Errors
    ///
    /// As [`declare_queue_with`](Self::declare_queue_with).
    pub fn declare_queue(&self, name: &str) -> Result<String> {
        self.declare_queue_with(name, QueueOptions::plain())
    }

    /// Declares a queue, and returns its name. On return its declaration is durable. No change if it
    /// exists with equal options. `""` is another new queue each time, with a name that no other has:
    /// `amq.gen-` and 22 letters, digits, `-` and `_`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = fanlog::Engine::open(dir.path(), fanlog::Config::default())?;
    /// let replies = engine.declare_queue("")?;
    /// engine.publisher().publish_confirmed(&fanlog::Message::new("", &replies, b"42"))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] if it exists with other options: which, and both values; [`Error::Argument`]
    /// for options that can't be; [`Error::Refused`] for a new name that begins with `amq.`;
    /// [`Error::Name`] for one that is too long. Nothing was changed then.
    pub fn declare_queue_with(&self, name: &str, options: &QueueOptions) -> Result<String> {
        if name.is_empty() {
            return self.declare_without_name(options, Tables::check_shared);
        }
        self.change(&[Change::DeclareQueue { name, options }])?;
        Ok(name.to_owned())
    }

    /// Declares a queue that belongs to whoever holds what is returned: nobody else consumes from it,
    /// purges or deletes it, and it is deleted when that is dropped, or when the store is opened
    /// again. `options` are taken with [`exclusive`](QueueOptions::exclusive) set. `""` is a new queue
    /// with a name of its own, which [`ExclusiveQueue::name`] tells, as for
    /// [`declare_queue_with`](Self::declare_queue_with).
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if there is a queue of that name; [`Error::Argument`], [`Error::Name`].
    pub fn declare_exclusive_queue(
        &self,
        name: &str,
        options: &QueueOptions,
    ) -> Result<ExclusiveQueue> {
        let core = &self.owner.core;
        let options = QueueOptions { exclusive: true, ..options.clone() };
        if name.is_empty() {
            let name = self.declare_without_name(&options, |_, _| Ok(()))?;
            let queue = inspect::queue(core, &name)?;
            return Ok(ExclusiveQueue::new(Arc::clone(core), queue));
        }
        core.change_if(&[Change::DeclareQueue { name, options: &options }], |tables| {
            if tables.queue(name).is_err() {
                return Ok(());
            }
            let what = format!("declare of exclusive queue {name:?}");
            Err(Error::Refused { what, why: "there is one of that name".to_owned() })
        })?;
        let queue = inspect::queue(core, name)?;
        Ok(ExclusiveQueue::new(Arc::clone(core), queue))
    }

    fn declare_without_name(
        &self,
        options: &QueueOptions,
        check: impl FnOnce(&Tables, &Change<'_>) -> Result<()>,
    ) -> Result<String> {
        options.validate()?;
        let core = &self.owner.core;
        core.check_writable()?;
        let mut tables = core.tables.write().unwrap_or_else(PoisonError::into_inner);
        check(&tables, &Change::DeclareQueue { name: "", options })?;
        let name = tables.make_name(core.store, core.epoch);
        let declare = Change::DeclareQueue { name: &name, options };
        let number = core.place_changes(&mut tables, &[declare])?;
        drop(tables);
        if let Some(number) = number {
            core.wait_for(&core.confirms, number, None)?;
        }
        Ok(name)
    }

    /// Deletes a queue with all its messages. Its consumers, also those that wait, get
    /// [`Error::Cancelled`]; settling what they have does nothing any more.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Refused`] for an exclusive queue.
    pub fn delete_queue(&self, name: &str) -> Result<()> {
        self.change(&[Change::DeleteQueue { name }])
    }

    /// Deletes a queue if nobody uses it, or nothing in it is ready, as `conditions` say. No message is
    /// lost by that: one that is published at the same time is in the queue, which stays then, or
    /// finds it gone.
    ///
    /// # Errors
    ///
    /// [`Error::StillUsed`] if it is not so, and nothing was changed; [`Error::Timeout`] or
    /// [`Error::OutOfSpace`] if it could not be found out for what was published before; else as
    /// [`delete_queue`](Self::delete_queue).
    pub fn delete_queue_with(&self, name: &str, conditions: DeleteQueue) -> Result<()> {
        delete_queue::delete_queue(&self.owner.core, name, conditions)
    }

    /// Drops every message of a queue that is confirmed and that no consumer has, and returns how
    /// many. On return that is durable.
    ///
    /// What consumers have, fetched or still waiting for them within their prefetch, stays theirs:
    /// to be acked, or to go back to the queue. What left for the dead-letter exchange, and only waits
    /// for room there, is not dropped either. Messages published meanwhile may be dropped or not.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::ReadOnly`]; [`Error::Poisoned`] or [`Error::Closed`] if it did
    /// not get to the disk: the messages may come again. [`Error::OutOfSpace`], only with
    /// `WhenFull::Fail`: they are dropped, durably once there is space.
    pub fn purge_queue(&self, name: &str) -> Result<u64> {
        let core = &self.owner.core;
        core.check_writable()?;
        let queue = inspect::queue(core, name)?;
        lifetime::check_shared(&queue, "purge")?;
        deliver::purge(core, &queue)
    }

    /// Binds a queue to an exchange: messages published from now on that match go to it. On return
    /// the binding is durable. No change if it exists.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Name`]; [`Error::Refused`] for the default exchange.
    pub fn bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<()> {
        self.change(&[Change::Bind { queue, exchange, routing_key }])
    }

    /// Binds a queue to an exchange that [keeps a history](crate::ExchangeOptions::history), from a
    /// place in it: what is kept from there on and matches is brought into the queue at its place,
    /// before what is published from now on. The messages are stored once all the same. On return
    /// all of it is durable, together.
    ///
    /// What the queue holds already, or got since it has a binding for it, does not come again; what
    /// lies before its bindings does, each time that this is called, acked or not: so a call that is made
    /// again, as after a crash it is not known whether it took place, may bring again what was acked
    /// since. If less is kept
    /// than asked for it begins with the oldest that is. As for [`rewind`](Self::rewind) what consumers
    /// of the queue have goes back.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = fanlog::Engine::open(dir.path(), fanlog::Config::default())?;
    /// use fanlog::{ExchangeKind, ExchangeOptions, History, Message, StartAt, Table};
    ///
    /// let history = Some(History::of_bytes(1 << 30));
    /// let options = ExchangeOptions { history, ..ExchangeOptions::default() };
    /// engine.declare_exchange_with("results", ExchangeKind::Topic, &options)?;
    /// engine.publisher().publish_confirmed(&Message::new("results", "a.1", b"42"))?;
    ///
    /// engine.declare_queue("late")?;
    /// let landed = engine.bind_from("late", "results", "a.*", &Table::new(), StartAt::Earliest)?;
    /// assert_eq!((landed.messages, landed.clamped), (1, false));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the exchange keeps no history, or the queue is exclusive;
    /// [`Error::Timeout`] if what was published or acked before did not get to the disk within some
    /// seconds; [`Error::TooLarge`] if the record of it, at most two bits per message that is kept, is
    /// over [`transaction_bytes_max`](Config::transaction_bytes_max); else as
    /// [`bind_with`](Self::bind_with). Nothing was changed then, but that what consumers had went back.
    /// [`Error::OutOfSpace`], only with `WhenFull::Fail`: it is done, and durable once there is space.
    pub fn bind_from(
        &self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: &Table,
        at: StartAt,
    ) -> Result<Landed> {
        let bind = Change::BindWith { queue, exchange, routing_key, arguments };
        rewind::bring(&self.owner.core, queue, Bring::Binding(bind), at, None)
    }

    /// Rewinds a queue: all that the exchanges which it is bound to keep, from a place on, and that
    /// matches its bindings now, is in the queue again, acked or not. On return that is durable.
    ///
    /// What the queue holds beside that stays, also what lies before. Of an exchange without a history
    /// nothing comes back. Consumers stay subscribed: what they have goes back to the queue, and
    /// settling it by its old tags is [`Error::UnknownTag`]. Meanwhile nothing is delivered from the
    /// queue, and the histories give nothing up; publishers are held up for one commit. One queue is
    /// rewound at a time. A message that was handed out and not acked comes flagged as redelivered.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if no exchange that it is bound to keeps a history, or the queue is
    /// exclusive; else as [`bind_from`](Self::bind_from).
    pub fn rewind(&self, queue: &str, at: StartAt) -> Result<Landed> {
        rewind::bring(&self.owner.core, queue, Bring::Bindings, at, None)
    }

    /// Undoes a binding. What it brought to the queue stays there.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Refused`] for the default exchange.
    pub fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<()> {
        self.change(&[Change::Unbind { queue, exchange, routing_key }])
    }

    /// Binds a queue with arguments: what a headers exchange matches. On return the binding is
    /// durable. No change if one with the same key and equal arguments exists.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if `x-match` is none that a headers exchange knows; else as
    /// [`bind`](Self::bind).
    pub fn bind_with(
        &self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: &Table,
    ) -> Result<()> {
        self.change(&[Change::BindWith { queue, exchange, routing_key, arguments }])
    }

    /// Undoes a binding that was made with these arguments.
    ///
    /// # Errors
    ///
    /// As [`unbind`](Self::unbind).
    pub fn unbind_with(
        &self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: &Table,
    ) -> Result<()> {
        self.change(&[Change::UnbindWith { queue, exchange, routing_key, arguments }])
    }

    /// Binds exchange `destination` to exchange `source`: what is published to the source from now on
    /// and matches is routed by the destination as well. Exchanges may be bound in a circle; a queue
    /// gets a message once. On return the binding is durable. No change if it exists.
    ///
    /// # Errors
    ///
    /// As [`bind_with`](Self::bind_with).
    pub fn bind_exchange(
        &self,
        destination: &str,
        source: &str,
        routing_key: &str,
        arguments: &Table,
    ) -> Result<()> {
        self.change(&[Change::BindExchange { destination, source, routing_key, arguments }])
    }

    /// Undoes a binding of an exchange to an exchange.
    ///
    /// # Errors
    ///
    /// As [`unbind`](Self::unbind).
    pub fn unbind_exchange(
        &self,
        destination: &str,
        source: &str,
        routing_key: &str,
        arguments: &Table,
    ) -> Result<()> {
        self.change(&[Change::UnbindExchange { destination, source, routing_key, arguments }])
    }

    /// Makes many changes in one commit: all of them, or, on an error, none. A message published at
    /// the same time is routed before all of them or after.
    ///
    /// # Errors
    ///
    /// That of the first change that can't be made: [`Error::Refused`] where an exclusive queue is
    /// declared, which [`declare_exclusive_queue`](Self::declare_exclusive_queue) does, or deleted;
    /// [`Error::TooLarge`] if their records are over
    /// [`transaction_bytes_max`](Config::transaction_bytes_max). [`Error::OutOfSpace`], only with
    /// `WhenFull::Fail`: the changes are made, and durable once there is space.
    pub fn change(&self, changes: &[Change<'_>]) -> Result<()> {
        let core = &self.owner.core;
        let check = |tables: &Tables| changes.iter().try_for_each(|one| tables.check_shared(one));
        core.change_if(changes, check)?;
        for change in changes {
            // One that was there already is used by that.
            if let Change::DeclareQueue { name, options } = change
                && options.expires.is_some()
                && let Ok(queue) = inspect::queue(core, name)
            {
                core.limits.used(core, &queue);
            }
        }
        Ok(())
    }

    /// A handle to publish with.
    pub fn publisher(&self) -> Publisher {
        Publisher::new(Arc::clone(&self.owner.core))
    }

    /// A publisher of this name, known from now on if it was not: on return it is durable. Whoever
    /// comes back takes [`named_publisher`](Self::named_publisher).
    ///
    /// For it those that published nothing for [`publisher_age_max`](Config::publisher_age_max) are
    /// forgotten, and, beyond [`publishers_max`](Config::publishers_max), who was idle the longest.
    ///
    /// # Errors
    ///
    /// [`Error::Name`]; [`Error::ReadOnly`], [`Error::Poisoned`], [`Error::Closed`].
    pub fn declare_publisher(&self, name: &str) -> Result<NamedPublisher> {
        named::declare(&self.owner.core, name)
    }

    /// The publisher of this name: it goes on behind its
    /// [`last_sequence`](NamedPublisher::last_sequence), over reconnects, closes and crashes.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]: it was never declared, or was forgotten since, and with it how far it
    /// had come; [`Error::Name`].
    pub fn named_publisher(&self, name: &str) -> Result<NamedPublisher> {
        named::find(&self.owner.core, name)
    }

    /// Begins a transaction: publishes and acks that take place together or not at all.
    pub fn begin(&self) -> Transaction {
        Transaction::new(Arc::clone(&self.owner.core))
    }

    /// Subscribes to a queue.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Name`], [`Error::ReadOnly`], [`Error::Closed`];
    /// [`Error::TagInUse`] if the queue has a consumer of that tag; [`Error::InUse`] if another
    /// consumer is exclusive, or this one wants to be and there are others; [`Error::Refused`] if it
    /// wants to be and the queue has a single active consumer.
    #[expect(clippy::needless_pass_by_value, reason = "options are made for one call")]
    pub fn consume(&self, queue: &str, options: ConsumerOptions) -> Result<Consumer> {
        let core = &self.owner.core;
        core.check_writable()?;
        let queue = inspect::queue(core, queue)?;
        lifetime::check_shared(&queue, "consuming")?;
        Consumer::new(core, &queue, &options)
    }

    /// Takes the next ready message of a queue without a subscription; `None` if there is none.
    /// `basic.get`.
    ///
    /// It is settled as any other: by [`ack`](crate::Delivery::ack) or
    /// [`nack`](crate::Delivery::nack); dropped, it goes back. No prefetch bounds how many are held
    /// so, and no consumer is counted for them. Each call waits until the kernel has what has to be
    /// in the log first: a subscription has that once for many messages, and is what to use in a
    /// loop.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::ReadOnly`], [`Error::Closed`], [`Error::Poisoned`];
    /// [`Error::Refused`] for an exclusive queue, or one with a single active consumer;
    /// [`Error::Io`] or
    /// [`Error::Corrupt`] if the log can't be read at the queue's place.
    pub fn get(&self, queue: &str) -> Result<Option<Delivery>> {
        let core = &self.owner.core;
        core.check_writable()?;
        let queue = inspect::queue(core, queue)?;
        lifetime::check_shared(&queue, "getting from")?;
        deliver::get(core, &queue)
    }

    /// The next `messages_max` ready messages of a queue, in order: what consumers to come would
    /// get. Nothing is taken or marked, and nothing is written. Messages that consumers have, also
    /// in their inboxes, are not among them.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Io`] or [`Error::Corrupt`] if the log can't be read there.
    pub fn peek(&self, queue: &str, messages_max: usize) -> Result<Vec<Browsed>> {
        let queue = inspect::queue(&self.owner.core, queue)?;
        deliver::peek(&self.owner.core, &queue, messages_max)
    }

    /// Every message of a queue that is still stored, acked or not, in the order of offsets. Nothing
    /// is delivered or marked.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub fn browse(&self, queue: &str) -> Result<Browser> {
        let queue = inspect::queue(&self.owner.core, queue)?;
        Ok(Browser::new(Arc::clone(&self.owner.core), queue))
    }

    /// One queue as it is now.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub fn queue(&self, name: &str) -> Result<QueueView> {
        let queue = inspect::queue(&self.owner.core, name)?;
        Ok(inspect::queue_view_with_age(&self.owner.core, &queue))
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Stats {
        inspect::stats(&self.owner.core)
    }

    /// Exchanges, queues and bindings.
    pub fn topology(&self) -> TopologyView {
        inspect::topology(&self.owner.core)
    }

    /// The segments of the log, oldest first, with how much of each is live.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        inspect::segments(&self.owner.core)
    }

    /// Who keeps which segment from being given back: the queues that have not acked all of it, with
    /// the oldest message that each has not acked there and the consumer that has it. At most
    /// `segments_max` segments and for each `queues_max` queues, the largest first.
    ///
    /// Takes as long as reading the footers of those segments does.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] or [`Error::Corrupt`] if one of them can't be read.
    pub fn pins(&self, segments_max: usize, queues_max: usize) -> Result<Pins> {
        pins::pins(&self.owner.core, segments_max, queues_max)
    }

    /// Gives back now what nobody needs any more, instead of when there is time: writes checkpoints
    /// until none lists a dead segment, and rewrites what is sparse as far as that is worth it.
    /// `progress` is called after each step. Others may go on meanwhile.
    ///
    /// # Errors
    ///
    /// As [`checkpoint`](Self::checkpoint).
    pub fn reclaim(&self, progress: &mut dyn FnMut(ReclaimReport)) -> Result<ReclaimReport> {
        let core = &self.owner.core;
        core.check_writable()?;
        reclaim_now::reclaim_now(core, progress).inspect_err(|error| end_unless_full(core, error))
    }

    /// Reads and verifies all of the store that is sealed, and recounts every depth by brute force.
    /// Meant for tests and operators: takes as long as reading everything does. Nobody may publish
    /// or ack meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if something could not be read. What is wrong with what was read is in the
    /// report.
    pub fn check(&self, progress: &mut dyn FnMut(Progress)) -> Result<Report> {
        check::check(&self.owner.core, progress)
    }

    /// Copies the store to the directory `dir`, while it is at work, and returns what it holds: all
    /// that was confirmed when the call began, acks too. It opens as a store.
    ///
    /// Sealed segments are [linked](BackupFiles::Linked) where that can be, which takes hardly any
    /// time or space; [`backup_with`](Self::backup_with) can be told to copy them. `dir` is made if
    /// it is not there; else it has to be empty. It is a store only once the call has returned, and
    /// then durably: after a crash, or an error, remove it and begin again.
    ///
    /// # Errors
    ///
    /// - [`Error::Refused`]: the directory is not empty; [`Error::Locked`]: it is in use.
    /// - [`Error::Io`]: of the source or of the target, whose path it has.
    /// - [`Error::Closed`], [`Error::Poisoned`]: the engine ended meanwhile.
    pub fn backup(&self, dir: impl AsRef<Path>) -> Result<BackupReport> {
        self.backup_with(dir, BackupFiles::default(), &mut |_| {})
    }

    /// As [`backup`](Self::backup), told what to do with sealed segments, and telling how far it is
    /// after each segment and each MiB that was copied.
    ///
    /// # Errors
    ///
    /// As [`backup`](Self::backup).
    pub fn backup_with(
        &self,
        dir: impl AsRef<Path>,
        files: BackupFiles,
        progress: &mut dyn FnMut(BackupProgress),
    ) -> Result<BackupReport> {
        backup::backup(&self.owner.core, dir.as_ref(), files, progress)
    }

    /// As [`backup_with`](Self::backup_with), to a storage of the caller's.
    ///
    /// # Errors
    ///
    /// As [`backup`](Self::backup).
    #[doc(hidden)]
    pub fn backup_on(
        &self,
        target: &dyn Storage,
        files: BackupFiles,
        progress: &mut dyn FnMut(BackupProgress),
    ) -> Result<BackupReport> {
        backup::backup_to(&self.owner.core, target, files, progress)
    }

    /// Writes a checkpoint now, so that opening has less of the log to read.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: where there is no space the engine goes on, any other failure ends it, as one
    /// of the background's does. [`Error::Poisoned`], [`Error::Closed`], [`Error::ReadOnly`].
    pub fn checkpoint(&self) -> Result<()> {
        let core = &self.owner.core;
        core.check_writable()?;
        core.keeper.checkpoint(core, false).inspect_err(|error| end_unless_full(core, error))
    }

    /// Does one piece of the engine's work: a commit, or else a step of the background. Says whether
    /// there was any. For stores opened with `stepped`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] of the background; unless it is want of space, it poisons the engine, as a
    /// failed commit does.
    #[doc(hidden)]
    pub fn step(&self) -> Result<bool> {
        let core = &self.owner.core;
        core.check_writable()?;
        if commit::commit_once(core) {
            return Ok(true);
        }
        let did = keeper::step(core).inspect_err(|error| end_unless_full(core, error))?;
        Ok(did != Did::Nothing)
    }

    /// Commits one batch, if one is due. For stores opened with `stepped`.
    #[doc(hidden)]
    pub fn step_commit(&self) -> bool {
        commit::commit_once(&self.owner.core)
    }

    /// Closes the store: takes nothing more, waits at most `timeout` until what was appended is
    /// confirmed, writes acks that nobody waits for, and a mark that all is complete. Everyone who
    /// still waits gets [`Error::Closed`]. Payloads handed out stay readable.
    ///
    /// On return the store can be opened again. Closing twice returns what the first one did.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] or [`Error::Poisoned`] if the mark could not be written: the store is closed
    /// all the same, and opened again like after a crash.
    pub fn close(&self, timeout: Duration) -> Result<CloseReport> {
        self.owner.close(timeout)
    }
}

impl Owner {
    fn close(&self, timeout: Duration) -> Result<CloseReport> {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(report) = &*closed {
            return report.clone();
        }
        let core = &self.core;
        core.append.end(&Error::Closed);
        let drained = core.read_only || self.drain(timeout);
        let failed = core.ended();
        if !drained {
            // Nobody who waits is kept waiting for a disk that hangs.
            core.end(&Error::Closed);
        }
        core.stop();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A thread that panicked has nothing left to do either.
            drop(thread.join());
        }
        // A publisher may be writing in its own thread: the store is not given up under it.
        core.append.wait_for_leader();
        let unconfirmed = core.unconfirmed_messages();
        let marked = match failed.or_else(|| core.ended().filter(|_| drained)) {
            Some(error) => Err(error),
            None if !drained || unconfirmed > 0 || core.read_only => Ok(()),
            None => core.keeper.checkpoint(core, true),
        };
        // What a rewrite under way has written; after a crash the next opening removes it.
        let abandoned = if drained { core.keeper.rewriter.abandon(core) } else { Ok(()) };
        core.end(&Error::Closed);
        core.log.forget();
        // Nor under a checkpoint that is being written.
        drop(core.keeper.checkpoints.pause());
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let report = marked.and(abandoned).map(|()| CloseReport { unconfirmed });
        *closed = Some(report.clone());
        report
    }

    /// Hands out nothing more and waits until everything that was appended, acks included, is
    /// confirmed. Says whether it is.
    fn drain(&self, timeout: Duration) -> bool {
        let core = &self.core;
        inspect::end_leases(core);
        let deadline = deadline_after(timeout);
        let left = || deadline.map(|deadline| deadline.saturating_duration_since(instant_now()));
        core.hurry(true);
        let last = core.append.lock().last_placed();
        // A full disk may have room before the time is over: what is retired is given back.
        let wait = |confirms: &Confirms, number| {
            if core.config.stepped {
                return core.wait_for(confirms, number, left()).is_ok();
            }
            confirms.wait_through_stalls(number, left()).is_ok()
        };
        let confirmed = last.is_none_or(|last| wait(&core.confirms, last));
        while let Some(commit) = core.dirty.pending() {
            core.hurry(true);
            if !wait(&core.acks_durable, commit) {
                return false;
            }
        }
        confirmed
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Whoever wants to know how it went calls `close`.
        drop(self.close(DROP_TIMEOUT));
    }
}

/// A failure of the background's ends the engine, unless there will be space again.
fn end_unless_full(core: &Core, error: &Error) {
    if !commit::is_out_of_space(error) {
        core.poison(error.clone());
    }
}

/// Says which file of which storage could not be locked.
pub(crate) fn lock_error<T>(storage: &dyn Storage, locked: Result<T, LockError>) -> Result<T> {
    locked.map_err(|error| {
        let path = storage.path(&FileName::Lock.to_string());
        match error {
            LockError::Held => Error::Locked { path },
            LockError::Io(source) => Error::io(FileOp::Lock, path, source),
        }
    })
}

type Body = fn(&Arc<Core>);

fn start_threads(core: &Arc<Core>) -> Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    let bodies: [(&str, Body); 3] = [
        ("fanlog-commit", |core| run_committer(core, true)),
        ("fanlog-commit-2", |core| run_committer(core, false)),
        ("fanlog-keeper", run_keeper),
    ];
    for (name, body) in bodies {
        let core_of_thread = Arc::clone(core);
        let started = Builder::new().name(name.into()).spawn(move || {
            // A panic must not leave anyone waiting for ever.
            let guard = EndOnPanic(&core_of_thread);
            body(&core_of_thread);
            drop(guard);
        });
        match started {
            Ok(thread) => threads.push(thread),
            Err(source) => {
                core.end(&Error::Closed);
                return Err(Error::io(FileOp::Spawn, core.storage.path(""), source));
            }
        }
    }
    Ok(threads)
}

/// Ends the engine if the thread that holds it unwinds.
struct EndOnPanic<'a>(&'a Core);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let source = std::io::Error::other("a thread of the engine panicked");
            self.0.poison(Error::io(FileOp::Write, self.0.storage.path(""), source));
        }
    }
}
