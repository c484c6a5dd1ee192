//! The calls that a sequence is made of.

use fanlog::{DeleteQueue, Durability, ExchangeKind, ExchangeOptions, QueueOptions};
use proptest::prelude::*;

use crate::routing::{Headers, Pattern};

/// How a message in hand is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settle {
    /// Waited for, or not.
    Ack {
        wait: bool,
    },
    Requeue,
    Reject,
}

/// How an engine ends and begins again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It is closed.
    Close,
    /// Its process dies.
    Kill,
    /// The machine loses its power.
    PowerCut,
}

/// Some of several: every `stride`-th, from `first` on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Every {
    pub(crate) first: usize,
    pub(crate) stride: usize,
}

impl Every {
    /// Their places among `count`, the last one first: so that each can be taken out by its place.
    pub(crate) fn places(self, count: usize) -> Vec<usize> {
        (self.first..count).step_by(self.stride).rev().collect()
    }
}

/// What a consumer asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscription {
    pub(crate) prefetch: u32,
    pub(crate) priority: i32,
    pub(crate) exclusive: bool,
}

/// Where a queue begins in a history.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    Latest,
    Earliest,
    /// So many messages before the next one.
    Back(u64),
    /// So many seconds ago.
    Ago(u64),
}

/// A message to be published.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) exchange: &'static str,
    pub(crate) key: &'static str,
    pub(crate) headers: Headers,
    /// Further keys, told and not told.
    pub(crate) cc: &'static [&'static str],
    pub(crate) bcc: &'static [&'static str],
    pub(crate) bytes: usize,
    /// Seconds.
    pub(crate) delay: u64,
    /// Seconds.
    pub(crate) ttl: Option<u64>,
    pub(crate) priority: u8,
    pub(crate) durability: Durability,
    /// It may go nowhere.
    pub(crate) optional: bool,
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    DeclareExchange {
        name: &'static str,
        kind: ExchangeKind,
        options: ExchangeOptions,
    },
    /// Leads what comes to `source` to `destination` too.
    BindExchange {
        destination: &'static str,
        source: &'static str,
        pattern: Pattern,
    },
    UnbindExchange {
        destination: &'static str,
        source: &'static str,
        pattern: Pattern,
    },
    DeleteExchange {
        name: &'static str,
        if_unused: bool,
    },
    DeclareQueue {
        name: &'static str,
        options: QueueOptions,
    },
    DeleteQueue {
        name: &'static str,
        conditions: DeleteQueue,
    },
    Bind {
        queue: &'static str,
        exchange: &'static str,
        pattern: Pattern,
    },
    Unbind {
        queue: &'static str,
        exchange: &'static str,
        pattern: Pattern,
    },
    /// Binds a queue from the past.
    BindFrom {
        queue: &'static str,
        exchange: &'static str,
        pattern: Pattern,
        at: Start,
    },
    /// A queue that belongs to whoever declared it.
    DeclareExclusive {
        name: &'static str,
        options: QueueOptions,
    },
    /// One of the owners, by its place among them, gives its queue up.
    Disown {
        which: prop::sample::Index,
    },
    /// A consumer of an owner's queue comes.
    OwnerConsume {
        which: prop::sample::Index,
        options: Subscription,
    },
    OwnerGet {
        which: prop::sample::Index,
    },
    OwnerPurge {
        which: prop::sample::Index,
    },
    Publish(Sent),
    /// By a publisher with a name, which may say a number again.
    PublishNumbered {
        sequence: u64,
        message: Sent,
    },
    /// All of them or none.
    PublishBatch(Vec<Sent>),
    Get {
        queue: &'static str,
    },
    /// A consumer comes.
    Consume {
        queue: &'static str,
        options: Subscription,
    },
    /// One of the consumers, by its place among them, asks for a message.
    Receive {
        which: prop::sample::Index,
    },
    /// The same, for several at a time, which are settled by their tags.
    ReceiveBatch {
        which: prop::sample::Index,
        most: usize,
    },
    /// Of the consumer that has one of those in hand: that one, and all that it got before.
    SettleMultiple {
        place: prop::sample::Index,
        how: Settle,
    },
    /// One of the consumers goes.
    Cancel {
        which: prop::sample::Index,
    },
    /// All that is ready.
    Peek {
        queue: &'static str,
    },
    /// Messages, and acks of some of those in hand.
    Transaction {
        messages: Vec<Sent>,
        acks: Every,
        commit: bool,
    },
    /// One of those in hand, by its place among them.
    Settle {
        place: prop::sample::Index,
        how: Settle,
    },
    Purge {
        queue: &'static str,
    },
    /// Brings back what its exchanges keep.
    Rewind {
        queue: &'static str,
        at: Start,
    },
    Checkpoint,
    Reclaim,
    /// Time passes, and the background does what is due then.
    Advance {
        seconds: u64,
    },
    Again(End),
}
