//! Queues and exchanges that are more than plain: what they are declared with follows from their names,
//! and so does what a message of theirs may meet.

use std::time::Duration;

use fanlog::{ExchangeKind, ExchangeOptions, History, Overflow, QueueOptions, Table};

/// The queue whose messages have a life, and become dead letters.
pub const MORTAL: &str = "mortal";
/// Where dead letters go.
pub const LETTERS: &str = "letters";
/// The queue that tells priorities apart.
pub const RANKED: &str = "ranked";
/// The queue that keeps the newest [`SHORT_MAX`] messages; the others become dead letters.
pub const SHORT: &str = "short";
/// The queue that refuses messages when it has [`STRICT_MAX`].
pub const STRICT: &str = "strict";
/// The queue that does not outlast the store's being open.
pub const BRIEF: &str = "brief";
/// The queue that has an owner, and ends with it.
pub const OWN: &str = "own";
/// The queue that is bound to [`PAST`] always.
pub const KEPT: &str = "kept";
/// The queue that is bound to [`PAST`] later, from what is kept there.
pub const LATE: &str = "late";

/// The exchange that keeps the newest [`PAST_BYTES`] of what passes through it.
pub const PAST: &str = "past";
/// The exchange that matches headers: of a message to it each letter of its key is one.
pub const HEADS: &str = "heads";
/// The exchange that gives what no binding matches to [`OTHERWISE`].
pub const ODD: &str = "odd";
/// What [`ODD`] leads to.
pub const OTHERWISE: &str = "fan";

/// How long messages live in [`MORTAL`].
pub const LIFE: Duration = Duration::from_secs(20);
/// Ready messages that [`SHORT`] has at the most.
pub const SHORT_MAX: usize = 4;
/// Ready messages with which [`STRICT`] refuses the next one.
pub const STRICT_MAX: usize = 2;
/// Payload bytes that [`PAST`] keeps at the least, if they were published.
pub const PAST_BYTES: u64 = 40_000;

/// What a queue of this name is declared with.
pub fn queue_options(name: &str) -> QueueOptions {
    let plain = QueueOptions::default();
    let to_letters = QueueOptions {
        dead_letter_exchange: Some(String::new()),
        dead_letter_key: Some(LETTERS.to_owned()),
        ..plain.clone()
    };
    match name {
        MORTAL => QueueOptions { message_ttl: Some(LIFE), ..to_letters },
        SHORT => QueueOptions { messages_max: Some(SHORT_MAX as u64), ..to_letters },
        STRICT => QueueOptions {
            messages_max: Some(STRICT_MAX as u64),
            overflow: Overflow::RejectPublish,
            ..plain
        },
        RANKED => QueueOptions { priority_max: Some(3), ..plain },
        BRIEF => QueueOptions { durable: false, ..plain },
        OWN => QueueOptions { exclusive: true, ..plain },
        _ => plain,
    }
}

/// What an exchange of this name is declared with.
pub fn exchange_options(name: &str) -> ExchangeOptions {
    let plain = ExchangeOptions::default();
    match name {
        PAST => ExchangeOptions { history: Some(History::of_bytes(PAST_BYTES)), ..plain },
        ODD => ExchangeOptions { alternate: Some(OTHERWISE.to_owned()), ..plain },
        _ => plain,
    }
}

/// Whether a queue's messages leave it for [`LETTERS`] by themselves.
pub fn is_left(queue: &str) -> bool {
    [MORTAL, SHORT].contains(&queue)
}

/// What a binding of an exchange of this kind has beside its key: for headers, what the key says, as in
/// `any:ab`.
pub fn binding_arguments(kind: ExchangeKind, key: &str) -> Table {
    if kind != ExchangeKind::Headers {
        return Table::new();
    }
    let (how, letters) = key.split_once(':').unwrap_or((key, ""));
    headers(letters).with("x-match", how)
}

/// A header for each letter.
fn headers(letters: &str) -> Table {
    letters.chars().fold(Table::new(), |table, letter| table.with(letter.to_string().as_str(), 1))
}

/// The headers of a message that is published there with this key.
pub fn message_headers(exchange: &str, key: &str) -> Table {
    if exchange == HEADS { headers(key) } else { Table::new() }
}

/// Whether a message with a header for each of these letters matches a binding like `all:ab`.
pub(super) fn matches_headers(binding: &str, letters: &str) -> bool {
    let (how, wanted) = binding.split_once(':').unwrap_or((binding, ""));
    let mut wanted = wanted.chars();
    if how == "any" {
        wanted.any(|one| letters.contains(one))
    } else {
        wanted.all(|one| letters.contains(one))
    }
}
