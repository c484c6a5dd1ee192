//! Which calls are worth making, and how often each is made.

use std::time::Duration;

use fanlog::{
    DeleteQueue, Durability, ExchangeKind, ExchangeOptions, History, Overflow, QueueOptions,
};
use proptest::{option, prelude::*, sample::Index};

use crate::{
    broker::Broker,
    operations::{End, Every, Operation, Sent, Settle, Start, Subscription},
    routing::{Headers, Pattern, history_of},
};

/// Few names and keys: so that calls meet.
pub(crate) const QUEUES: [&str; 4] = ["q0", "q1", "q2", "q3"];
const EXCHANGES: [&str; 3] = ["fan", "one", "two"];
const KEYS: [&str; 4] = ["", "a", "a.b", "b.a.c"];
/// Keys beside its own that a sender chooses; queues too.
const MORE_KEYS: [&[&str]; 4] = [&["a"], &["b.a.c", "q1"], &["q0"], &["", "none"]];
const HEADERS: [Headers; 4] = [&[], &[("n", 1)], &[("n", 2)], &[("n", 1), ("x-a", 1)]];
/// So that it is certain what is kept.
const KEEPS_ALL: History = History::of_bytes(1 << 40);
const MATCHES: [&str; 4] = ["all", "any", "all-with-x", "any-with-x"];
/// Of bindings: keys too, where the exchange knows no patterns.
const PATTERNS: [&str; 8] = ["", "a", "a.b", "b.a.c", "#", "a.*", "#.a.#", "*.*.c"];

fn kind() -> impl Strategy<Value = ExchangeKind> {
    prop::sample::select(
        &[ExchangeKind::Fanout, ExchangeKind::Direct, ExchangeKind::Topic, ExchangeKind::Headers][..],
    )
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

fn headers() -> impl Strategy<Value = Headers> {
    prop::sample::select(&HEADERS[..])
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let key = prop::sample::select(&PATTERNS[..]);
    let x_match =
        prop_oneof![3 => Just(None), 1 => prop::sample::select(&MATCHES[..]).prop_map(Some)];
    // Most bindings have no arguments, so that they meet.
    let wanted = option::weighted(0.3, (x_match, headers()));
    (key, wanted).prop_map(|(key, wanted)| {
        let (x_match, headers) = wanted.unwrap_or((None, &[]));
        Pattern { key, x_match, headers }
    })
}

fn exchange_options() -> impl Strategy<Value = ExchangeOptions> {
    let alternate = option::weighted(0.25, exchange().prop_map(str::to_owned));
    let rarely = || prop::bool::weighted(0.1);
    let history = option::weighted(0.2, Just(KEEPS_ALL));
    (rarely(), rarely(), rarely(), alternate, history).prop_map(
        |(transient, auto_delete, internal, alternate, history)| ExchangeOptions {
            history,
            durable: !transient,
            auto_delete,
            internal,
            alternate,
            ..ExchangeOptions::default()
        },
    )
}

/// Names, mostly such as there are.
fn mostly(
    names: &'static [&'static str],
    is_there: impl Fn(&str) -> bool,
) -> BoxedStrategy<&'static str> {
    let there: Vec<_> = names.iter().copied().filter(|name| is_there(name)).collect();
    let any = prop::sample::select(names);
    if there.is_empty() {
        return any.boxed();
    }
    prop_oneof![4 => prop::sample::select(there), 1 => any].boxed()
}

fn mostly_a_queue(broker: &Broker) -> BoxedStrategy<&'static str> {
    mostly(&QUEUES, |name| broker.queues.contains_key(name))
}

fn mostly_an_exchange(broker: &Broker) -> BoxedStrategy<&'static str> {
    mostly(&EXCHANGES, |name| broker.topology.exchanges.contains_key(name))
}

/// Where a message enters, and with which key.
fn address(broker: &Broker) -> impl Strategy<Value = (&'static str, &'static str)> + use<> {
    let queue = mostly_a_queue(broker);
    prop_oneof![
        2 => (mostly_an_exchange(broker), key()),
        1 => queue.prop_map(|queue| ("", queue)),
    ]
}

/// Small ones, and some of which a few fill a segment.
fn bytes() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 8_usize..200, 1 => 8_usize..20_000]
}

/// Most are due at once, have no time of their own, and are to be kept.
fn message(broker: &Broker) -> impl Strategy<Value = Sent> + use<> {
    let delay = prop_oneof![5 => Just(0_u64), 1 => 1_u64..200];
    let ttl = option::weighted(0.15, prop_oneof![1 => Just(0_u64), 4 => 1_u64..100]);
    let priority = prop_oneof![2 => Just(0_u8), 1 => 0_u8..5];
    let durability = prop_oneof![
        8 => Just(Durability::Synced),
        1 => Just(Durability::Buffered),
        1 => Just(Durability::Transient),
    ];
    let kept = (durability, prop::bool::weighted(0.1));
    let more = || prop_oneof![6 => Just(&[][..]), 1 => prop::sample::select(MORE_KEYS.to_vec())];
    let headers = (headers(), more(), more());
    (address(broker), headers, bytes(), delay, ttl, priority, kept).prop_map(
        |((exchange, key), headers, bytes, delay, ttl, priority, (durability, optional))| Sent {
            exchange,
            key,
            headers: headers.0,
            cc: headers.1,
            bcc: headers.2,
            bytes,
            delay,
            ttl,
            priority,
            durability,
            optional,
        },
    )
}

/// Where a queue's dead letters go, and with which key.
fn dead_letters() -> impl Strategy<Value = (Option<String>, Option<String>)> {
    let key = prop_oneof![queue(), key()];
    let to = prop_oneof![2 => exchange(), 1 => Just("")];
    option::weighted(0.4, (to, option::of(key))).prop_map(|to| match to {
        None => (None, None),
        Some((exchange, key)) => (Some(exchange.to_owned()), key.map(str::to_owned)),
    })
}

fn options() -> impl Strategy<Value = QueueOptions> {
    let durable = prop::bool::weighted(0.8);
    let seconds = prop_oneof![1 => Just(0_u64), 5 => 1_u64..100];
    let ttl = option::weighted(0.25, seconds.prop_map(Duration::from_secs));
    let lengths = (option::weighted(0.25, 0_u64..6), option::weighted(0.15, 0_u64..1000));
    let limits = (option::weighted(0.2, 1_u8..4), option::weighted(0.2, 0_u32..3));
    let ends = (
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        option::weighted(0.15, (5_u64..100).prop_map(Duration::from_secs)),
    );
    let overflows = [Overflow::DropHead, Overflow::RejectPublish, Overflow::RejectPublishDlx];
    let overflow = prop::sample::select(overflows.to_vec());
    // So short that the background looks each time that it works.
    let ack_timeout = prop_oneof![
        1 => Just(Duration::MAX),
        1 => (1_u64..=16).prop_map(Duration::from_secs),
    ];
    let dead_letters = (dead_letters(), ack_timeout);
    (durable, ends, ttl, lengths, overflow, limits, dead_letters).prop_map(
        |(durable, ends, message_ttl, lengths, overflow, limits, (dead_letters, ack_timeout))| {
            QueueOptions {
                durable,
                auto_delete: ends.0,
                single_active_consumer: ends.1,
                expires: ends.2,
                message_ttl,
                messages_max: lengths.0,
                bytes_max: lengths.1,
                overflow,
                priority_max: limits.0,
                // The background looks at messages that came back too often where it looks for others.
                delivery_limit: limits
                    .1
                    .filter(|_| message_ttl.is_some() || dead_letters.0.is_some()),
                dead_letter_exchange: dead_letters.0,
                dead_letter_key: dead_letters.1,
                ack_timeout: Some(ack_timeout),
                ..QueueOptions::default()
            }
        },
    )
}

/// Some keep a history.
fn first_options() -> impl Strategy<Value = ExchangeOptions> {
    let history = option::weighted(0.2, Just(KEEPS_ALL));
    history.prop_map(|history| ExchangeOptions { history, ..ExchangeOptions::default() })
}

/// Two exchanges with a queue each: most sequences have something to do from then on.
pub(crate) fn first() -> impl Strategy<Value = Vec<Operation>> {
    let bound = |at: usize| {
        (kind(), first_options(), pattern(), options()).prop_map(
            move |(kind, exchange_options, pattern, options)| {
                let (name, queue) = (EXCHANGES[at], QUEUES[at]);
                vec![
                    Operation::DeclareExchange { name, kind, options: exchange_options },
                    Operation::DeclareQueue { name: queue, options },
                    Operation::Bind { queue, exchange: name, pattern },
                ]
            },
        )
    };
    (bound(0), bound(1)).prop_map(|(first, second)| [first, second].concat())
}

/// Of exchanges, queues and what binds them.
fn topology(broker: &Broker) -> impl Strategy<Value = Operation> + use<> {
    let declare = (exchange(), kind(), exchange_options())
        .prop_map(|(name, kind, options)| Operation::DeclareExchange { name, kind, options });
    let there = mostly_an_exchange(broker);
    let ends = || (there.clone(), there.clone(), pattern());
    let lead = ends().prop_map(|(destination, source, pattern)| Operation::BindExchange {
        destination,
        source,
        pattern,
    });
    let lead_no_more = ends().prop_map(|(destination, source, pattern)| {
        Operation::UnbindExchange { destination, source, pattern }
    });
    let bind = (mostly_a_queue(broker), there.clone(), pattern())
        .prop_map(|(queue, exchange, pattern)| Operation::Bind { queue, exchange, pattern });
    let unbind = binding(broker).prop_map(|(queue, exchange, pattern)| Operation::Unbind {
        queue,
        exchange,
        pattern,
    });
    let declare_queue =
        (queue(), options()).prop_map(|(name, options)| Operation::DeclareQueue { name, options });
    prop_oneof![
        2 => declare,
        2 => lead,
        1 => lead_no_more,
        3 => declare_queue,
        3 => bind,
        1 => unbind,
        1 => (exchange(), any::<bool>())
            .prop_map(|(name, if_unused)| Operation::DeleteExchange { name, if_unused }),
        1 => (queue(), any::<bool>(), any::<bool>()).prop_map(|(name, if_unused, if_empty)| {
            let conditions = DeleteQueue { if_unused, if_empty };
            Operation::DeleteQueue { name, conditions }
        }),
    ]
}

/// What a queue is bound with, most often.
fn binding(broker: &Broker) -> BoxedStrategy<(&'static str, &'static str, Pattern)> {
    let named =
        |names: &'static [&'static str], name: &str| names.iter().copied().find(|one| *one == name);
    let bindings = broker.topology.bindings.iter();
    let there: Vec<_> = bindings
        .filter_map(|one| {
            Some((named(&QUEUES, &one.queue)?, named(&EXCHANGES, &one.exchange)?, one.pattern))
        })
        .collect();
    let any = (queue(), exchange(), pattern());
    if there.is_empty() {
        return any.boxed();
    }
    prop_oneof![4 => prop::sample::select(there), 1 => any].boxed()
}

/// What brings messages of the past into a queue.
fn past(broker: &Broker) -> impl Strategy<Value = Operation> + use<> {
    let keeps = |exchange: &str| broker.queues.contains_key(&history_of(exchange));
    // Of those that keep something, or with what there is already.
    let from = prop_oneof![
        2 => (mostly_a_queue(broker), mostly(&EXCHANGES, keeps), pattern()),
        1 => binding(broker),
    ];
    let start = || {
        prop_oneof![
            1 => Just(Start::Latest),
            2 => Just(Start::Earliest),
            3 => (0_u64..20).prop_map(Start::Back),
            2 => (0_u64..200).prop_map(Start::Ago),
        ]
    };
    let rewind =
        (mostly_a_queue(broker), start()).prop_map(|(queue, at)| Operation::Rewind { queue, at });
    let bind_from = (from, start()).prop_map(|((queue, exchange, pattern), at)| {
        Operation::BindFrom { queue, exchange, pattern, at }
    });
    prop_oneof![rewind, bind_from]
}

fn subscription() -> impl Strategy<Value = Subscription> {
    (1_u32..4, 0_i32..2, prop::bool::weighted(0.1))
        .prop_map(|(prefetch, priority, exclusive)| Subscription { prefetch, priority, exclusive })
}

/// What the owners of exclusive queues do.
fn owner() -> impl Strategy<Value = Operation> {
    prop_oneof![
        1 => any::<Index>().prop_map(|which| Operation::Disown { which }),
        2 => (any::<Index>(), subscription())
            .prop_map(|(which, options)| Operation::OwnerConsume { which, options }),
        2 => any::<Index>().prop_map(|which| Operation::OwnerGet { which }),
        1 => any::<Index>().prop_map(|which| Operation::OwnerPurge { which }),
    ]
}

/// What is done with those in hand.
fn settling() -> impl Strategy<Value = Operation> {
    let how = prop_oneof![
        3 => any::<bool>().prop_map(|wait| Settle::Ack { wait }),
        2 => Just(Settle::Requeue),
        2 => Just(Settle::Reject),
    ];
    let multiple = (any::<Index>(), how.clone())
        .prop_map(|(place, how)| Operation::SettleMultiple { place, how });
    let settle = (any::<Index>(), how).prop_map(|(place, how)| Operation::Settle { place, how });
    prop_oneof![6 => settle, 1 => multiple]
}

/// The next call. What can't be has its turn too, less often.
pub(crate) fn next(broker: &Broker) -> BoxedStrategy<Operation> {
    let last = broker.last_sequence();
    let queue = || mostly_a_queue(broker);
    let keeps = broker.queues.values().any(|queue| queue.is_history);
    let numbered = (last.saturating_sub(1).max(1)..last + 3, message(broker)).prop_map(
        |(sequence, message)| {
            let message = Sent { durability: Durability::Synced, ..message };
            Operation::PublishNumbered { sequence, message }
        },
    );
    let batch = prop::collection::vec(message(broker), 1..5).prop_map(Operation::PublishBatch);
    let messages = prop::collection::vec(message(broker), 0..3);
    let acks = (0_usize..3, 1_usize..4).prop_map(|(first, stride)| Every { first, stride });
    let transaction = (messages, acks, prop::bool::weighted(0.7))
        .prop_map(|(messages, acks, commit)| Operation::Transaction { messages, acks, commit });
    let end = prop_oneof![Just(End::Close), Just(End::Kill), Just(End::PowerCut)];
    let consume = (queue(), subscription())
        .prop_map(|(queue, options)| Operation::Consume { queue, options });
    let exclusive = (prop::sample::select(&QUEUES[..]), options())
        .prop_map(|(name, options)| Operation::DeclareExclusive { name, options });
    let batch_of = (any::<Index>(), 0_usize..6)
        .prop_map(|(which, most)| Operation::ReceiveBatch { which, most });
    let receive = if broker.consumers().is_empty() { 1 } else { 6 };
    let held = if broker.held().is_empty() { 1 } else { 6 };
    prop_oneof![
        11 => message(broker).prop_map(Operation::Publish),
        1 => numbered,
        3 => batch,
        8 => queue().prop_map(|queue| Operation::Get { queue }),
        2 => consume,
        receive => any::<Index>().prop_map(|which| Operation::Receive { which }),
        receive.div_ceil(3) => batch_of,
        1 => exclusive,
        if broker.owners().is_empty() { 1 } else { 2 } => owner(),
        1 => any::<Index>().prop_map(|which| Operation::Cancel { which }),
        1 => queue().prop_map(|queue| Operation::Peek { queue }),
        held => settling(),
        3 => transaction,
        11 => topology(broker),
        1 => queue().prop_map(|queue| Operation::Purge { queue }),
        if keeps { 6 } else { 2 } => past(broker),
        1 => Just(Operation::Checkpoint),
        1 => Just(Operation::Reclaim),
        4 => (1_u64..40).prop_map(|seconds| Operation::Advance { seconds }),
        2 => end.prop_map(Operation::Again),
    ]
    .boxed()
}
