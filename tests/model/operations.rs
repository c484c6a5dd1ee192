//! The calls that a sequence is made of, and how often each is made.

use fanlog::ExchangeKind;
use proptest::prelude::*;

use crate::broker::Broker;

/// Few names and keys: so that calls meet.
const QUEUES: [&str; 4] = ["q0", "q1", "q2", "q3"];
const EXCHANGES: [&str; 3] = ["fan", "one", "two"];
const KEYS: [&str; 4] = ["", "a", "a.b", "b.a.c"];
/// Of bindings: keys too, where the exchange knows no patterns.
const PATTERNS: [&str; 8] = ["", "a", "a.b", "b.a.c", "#", "a.*", "#.a.#", "*.*.c"];

/// How a message in hand is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settle {
    Ack,
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
    first: usize,
    stride: usize,
}

impl Every {
    /// Their places among `count`, the last one first: so that each can be taken out by its place.
    pub(crate) fn places(self, count: usize) -> Vec<usize> {
        (self.first..count).step_by(self.stride).rev().collect()
    }
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    DeclareExchange {
        name: &'static str,
        kind: ExchangeKind,
        alternate: Option<&'static str>,
    },
    /// Leads what comes to `source` to `destination` too.
    BindExchange {
        destination: &'static str,
        source: &'static str,
        key: &'static str,
    },
    UnbindExchange {
        destination: &'static str,
        source: &'static str,
        key: &'static str,
    },
    DeleteExchange {
        name: &'static str,
    },
    DeclareQueue {
        name: &'static str,
        durable: bool,
    },
    DeleteQueue {
        name: &'static str,
    },
    Bind {
        queue: &'static str,
        exchange: &'static str,
        key: &'static str,
    },
    Unbind {
        queue: &'static str,
        exchange: &'static str,
        key: &'static str,
    },
    Publish {
        exchange: &'static str,
        key: &'static str,
        bytes: usize,
        /// Seconds.
        delay: u64,
    },
    /// By a publisher with a name, which may say a number again.
    PublishNumbered {
        sequence: u64,
        exchange: &'static str,
        key: &'static str,
    },
    /// All of them or none.
    PublishBatch {
        messages: Vec<(&'static str, &'static str)>,
    },
    Get {
        queue: &'static str,
    },
    /// All that is ready.
    Peek {
        queue: &'static str,
    },
    /// Messages, and acks of some of those in hand.
    Transaction {
        messages: Vec<(&'static str, &'static str)>,
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
    Checkpoint,
    Reclaim,
    Advance {
        seconds: u64,
    },
    Again(End),
}

fn kind() -> impl Strategy<Value = ExchangeKind> {
    prop::sample::select(&[ExchangeKind::Fanout, ExchangeKind::Direct, ExchangeKind::Topic][..])
}

fn queue() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&QUEUES[..])
}

fn exchange() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&EXCHANGES[..])
}

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&KEYS[..])
}

fn pattern() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&PATTERNS[..])
}

/// Where a message enters, and with which key.
fn address() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop_oneof![2 => (exchange(), key()), 1 => queue().prop_map(|queue| ("", queue))]
}

/// Small ones, and some of which a few fill a segment.
fn bytes() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 8_usize..200, 1 => 8_usize..20_000]
}

/// Most are due at once.
fn delay() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(0_u64), 1 => 1_u64..200]
}

/// A first exchange, queue and binding: most sequences have something to do from then on.
pub(crate) fn first() -> impl Strategy<Value = Vec<Operation>> {
    (kind(), pattern()).prop_map(|(kind, key)| {
        let (name, queue) = (EXCHANGES[0], QUEUES[0]);
        vec![
            Operation::DeclareExchange { name, kind, alternate: None },
            Operation::DeclareQueue { name: queue, durable: true },
            Operation::Bind { queue, exchange: name, key },
        ]
    })
}

/// The next call. What can't be has its turn too, less often.
pub(crate) fn next(broker: &Broker) -> BoxedStrategy<Operation> {
    let publish = (address(), bytes(), delay()).prop_map(|((exchange, key), bytes, delay)| {
        Operation::Publish { exchange, key, bytes, delay }
    });
    let last = broker.last_sequence();
    let numbered = (last.saturating_sub(1).max(1)..last + 3, address()).prop_map(
        |(sequence, (exchange, key))| Operation::PublishNumbered { sequence, exchange, key },
    );
    let batch = prop::collection::vec(address(), 1..5)
        .prop_map(|messages| Operation::PublishBatch { messages });
    let bind = (queue(), exchange(), pattern())
        .prop_map(|(queue, exchange, key)| Operation::Bind { queue, exchange, key });
    let alternate = prop_oneof![3 => Just(None), 1 => exchange().prop_map(Some)];
    let declare = (exchange(), kind(), alternate)
        .prop_map(|(name, kind, alternate)| Operation::DeclareExchange { name, kind, alternate });
    let ends = || (exchange(), exchange(), pattern());
    let lead = ends().prop_map(|(destination, source, key)| Operation::BindExchange {
        destination,
        source,
        key,
    });
    let lead_no_more = ends().prop_map(|(destination, source, key)| Operation::UnbindExchange {
        destination,
        source,
        key,
    });
    let unbind = (queue(), exchange(), pattern())
        .prop_map(|(queue, exchange, key)| Operation::Unbind { queue, exchange, key });
    let messages = prop::collection::vec(address(), 0..3);
    let acks = (0_usize..3, 1_usize..4).prop_map(|(first, stride)| Every { first, stride });
    let transaction = (messages, acks, prop::bool::weighted(0.7))
        .prop_map(|(messages, acks, commit)| Operation::Transaction { messages, acks, commit });
    let how =
        prop_oneof![3 => Just(Settle::Ack), 1 => Just(Settle::Requeue), 1 => Just(Settle::Reject)];
    let settle = (any::<prop::sample::Index>(), how)
        .prop_map(|(place, how)| Operation::Settle { place, how });
    let end = prop_oneof![Just(End::Close), Just(End::Kill), Just(End::PowerCut)];
    let held = if broker.held().is_empty() { 1 } else { 6 };
    prop_oneof![
        10 => publish,
        2 => numbered,
        2 => batch,
        8 => queue().prop_map(|queue| Operation::Get { queue }),
        1 => queue().prop_map(|queue| Operation::Peek { queue }),
        held => settle,
        3 => transaction,
        2 => declare,
        2 => lead,
        1 => lead_no_more,
        3 => (queue(), prop::bool::weighted(0.7))
            .prop_map(|(name, durable)| Operation::DeclareQueue { name, durable }),
        3 => bind,
        1 => unbind,
        1 => exchange().prop_map(|name| Operation::DeleteExchange { name }),
        1 => queue().prop_map(|name| Operation::DeleteQueue { name }),
        1 => queue().prop_map(|queue| Operation::Purge { queue }),
        1 => Just(Operation::Checkpoint),
        1 => Just(Operation::Reclaim),
        1 => (1_u64..100).prop_map(|seconds| Operation::Advance { seconds }),
        2 => end.prop_map(Operation::Again),
    ]
    .boxed()
}
