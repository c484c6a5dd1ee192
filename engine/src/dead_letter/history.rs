//! The history of a message that was dead-lettered: `x-death` and its companions among the headers,
//! as `RabbitMQ` writes them.
//!
//! Each entry of `x-death` is a table: `count`, `reason`, `queue`, `time`, `exchange`,
//! `routing-keys`, and `original-expiration` if the message had a time of its own, which its copy has
//! not; the latest stands first. Leaving the same queue for the same reason again raises the count of
//! the entry that there is, and leaves the rest of it.

use fanlog_segment_format::table::{Array, Table, TableRef, Value};

use crate::copies;

const DEATHS: &str = "x-death";
/// Headers that are no table are kept under this name.
const OPAQUE: &str = "x-opaque-headers";
const FIRST: [&str; 3] = ["x-first-death-reason", "x-first-death-queue", "x-first-death-exchange"];
const LAST: [&str; 3] = ["x-last-death-reason", "x-last-death-queue", "x-last-death-exchange"];

/// Why a message left a queue otherwise than by an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A consumer gave it up.
    Rejected,
    /// Its time was over.
    Expired,
    /// The queue was too long.
    MaxLength,
    /// It came back too often.
    DeliveryLimit,
}

impl Reason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

/// How a message left a queue.
pub(super) struct Death<'a> {
    pub(super) queue: &'a str,
    pub(super) reason: Reason,
    /// What it was published to, and with.
    pub(super) exchange: &'a str,
    pub(super) key: &'a str,
    pub(super) time_us: u64,
    /// The time to live that it brought.
    pub(super) ttl_us: Option<u64>,
}

fn deaths(headers: TableRef<'_>) -> Vec<TableRef<'_>> {
    let Some(Value::Array(deaths)) = headers.get(DEATHS) else { return Vec::new() };
    let tables = deaths.iter().filter_map(|death| match death {
        Value::Table(death) => Some(death),
        _ => None,
    });
    tables.collect()
}

fn text<'a>(death: TableRef<'a>, key: &str) -> &'a str {
    death.get(key).and_then(Value::as_text).unwrap_or_default()
}

/// The queues that the message has been in, and would come to in a circle in which nobody rejected
/// it.
pub(super) fn cycling(headers: &[u8], death: &Death<'_>) -> Vec<String> {
    if death.reason == Reason::Rejected {
        return Vec::new();
    }
    let headers = TableRef::new(headers).unwrap_or_default();
    let mut names = vec![death.queue.to_owned()];
    for before in deaths(headers) {
        if text(before, "reason") == Reason::Rejected.name() {
            break;
        }
        names.push(text(before, "queue").to_owned());
    }
    names
}

/// The headers with one more death.
pub(super) fn with_death(headers: &[u8], death: &Death<'_>) -> Vec<u8> {
    let table = TableRef::new(headers).unwrap_or_default();
    let mut before = deaths(table);
    let same = |old: &TableRef<'_>| {
        text(*old, "queue") == death.queue && text(*old, "reason") == death.reason.name()
    };
    let again = before.iter().position(same).and_then(|at| counted(before.remove(at)));
    let newest = again.unwrap_or_else(|| entry(death, headers));
    let whole = assemble(headers, table, &newest, &before, death);
    // Headers have a limit: what does not fit gives way to the history, and then older deaths.
    let whole = whole.or_else(|| assemble(&[], TableRef::default(), &newest, &before, death));
    let whole = whole.or_else(|| assemble(&[], TableRef::default(), &newest, &[], death));
    whole.unwrap_or_default().as_bytes().to_vec()
}

/// An entry that there is, counted once more; `None` if it is none that the engine made.
fn counted(old: TableRef<'_>) -> Option<Table> {
    let count = old.get("count")?.as_integer()?.saturating_add(1);
    let mut table = Table::new();
    for (key, value) in old {
        let value = if key == "count" { Value::I64(count) } else { value };
        table.try_push(key, value).ok()?;
    }
    Some(table)
}

fn entry(death: &Death<'_>, headers: &[u8]) -> Table {
    let mut keys = Vec::new();
    for key in [death.key].into_iter().chain(copies::keys_of(headers)) {
        Array::push(&mut keys, key);
    }
    let table = Table::new()
        .with("count", 1_i64)
        .with("reason", death.reason.name())
        .with("queue", death.queue)
        .with("time", Value::Timestamp(death.time_us / 1_000_000))
        .with("exchange", death.exchange)
        .with("routing-keys", Value::Array(Array::new(&keys).unwrap_or_default()));
    match death.ttl_us {
        // Milliseconds as text: that is how an AMQP client gave it.
        Some(ttl_us) => table.with("original-expiration", (ttl_us / 1000).to_string().as_str()),
        None => table,
    }
}

/// `None` if it is too large.
fn assemble(
    headers: &[u8],
    table: TableRef<'_>,
    newest: &Table,
    before: &[TableRef<'_>],
    death: &Death<'_>,
) -> Option<Table> {
    let mut array = Vec::new();
    Array::push(&mut array, newest);
    for &old in before {
        Array::push(&mut array, Value::Table(old));
    }
    let mut out = Table::new();
    let own = |key: &str| key == DEATHS || LAST.contains(&key);
    for (key, value) in table.iter().filter(|(key, _)| !own(key)) {
        out.try_push(key, value).ok()?;
    }
    if table.is_empty() && !headers.is_empty() {
        out.try_push(OPAQUE, Value::Bytes(headers)).ok()?;
    }
    out.try_push(DEATHS, Value::Array(Array::new(&array).ok()?)).ok()?;
    let values = [death.reason.name(), death.queue, death.exchange];
    if table.get(FIRST[0]).is_none() {
        for (key, value) in FIRST.into_iter().zip(values) {
            out.try_push(key, value).ok()?;
        }
    }
    for (key, value) in LAST.into_iter().zip(values) {
        out.try_push(key, value).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(queue: &str, reason: Reason) -> Death<'_> {
        Death { queue, reason, exchange: "e", key: "k", time_us: 5_000_001, ttl_us: None }
    }

    fn history(headers: &[u8]) -> Vec<(String, String, i64)> {
        let table = TableRef::new(headers).unwrap();
        let of = |death: TableRef<'_>| {
            let count = death.get("count").and_then(Value::as_integer).unwrap();
            (text(death, "queue").to_owned(), text(death, "reason").to_owned(), count)
        };
        deaths(table).into_iter().map(of).collect()
    }

    #[test]
    fn the_latest_death_is_first_and_the_same_one_again_is_counted() {
        let mut headers = Table::new().with("mine", 7_i32).as_bytes().to_vec();
        for (queue, reason) in [
            ("a", Reason::Expired),
            ("b", Reason::Rejected),
            ("a", Reason::Expired),
            ("a", Reason::MaxLength),
        ] {
            headers = with_death(&headers, &death(queue, reason));
        }
        let expected = [("a", "maxlen", 1), ("a", "expired", 2), ("b", "rejected", 1)];
        let expected = expected.map(|(queue, reason, count)| (queue.into(), reason.into(), count));
        assert_eq!(history(&headers), expected);
        let table = TableRef::new(&headers).unwrap();
        assert_eq!(table.get("mine"), Some(Value::I32(7)));
        assert_eq!(table.get("x-first-death-reason").and_then(Value::as_text), Some("expired"));
        assert_eq!(table.get("x-last-death-reason").and_then(Value::as_text), Some("maxlen"));
        assert_eq!(table.iter().filter(|(key, _)| key.starts_with("x-last")).count(), 3);
        let first = deaths(table)[0];
        assert_eq!(first.get("time"), Some(Value::Timestamp(5)));
        assert_eq!((text(first, "exchange"), first.iter().count()), ("e", 6));
    }

    #[test]
    fn an_entry_that_is_counted_again_stays_what_it_was_and_a_time_of_its_own_is_told() {
        let first = Death { ttl_us: Some(1_500_999), ..death("a", Reason::Expired) };
        let headers = with_death(&[], &first);
        let again = Death {
            exchange: "dlx",
            key: "dead",
            time_us: 9_000_000,
            ..death("a", Reason::Expired)
        };
        let headers = with_death(&headers, &again);
        let table = TableRef::new(&headers).unwrap();
        let found = deaths(table)[0];
        assert_eq!(found.get("count"), Some(Value::I64(2)));
        assert_eq!(found.get("time"), Some(Value::Timestamp(5)));
        assert_eq!((text(found, "exchange"), text(found, "original-expiration")), ("e", "1500"));
        assert_eq!((deaths(table).len(), found.iter().count()), (1, 7));
        assert_eq!(table.get("x-last-death-exchange").and_then(Value::as_text), Some("dlx"));
    }

    #[test]
    fn a_circle_without_a_rejection_is_found_and_one_with_it_is_not() {
        let headers = with_death(&[], &death("a", Reason::Expired));
        assert_eq!(cycling(&headers, &death("b", Reason::MaxLength)), ["b", "a"]);
        assert!(cycling(&headers, &death("b", Reason::Rejected)).is_empty());
        let headers = with_death(&headers, &death("b", Reason::Rejected));
        assert_eq!(cycling(&headers, &death("c", Reason::Expired)), ["c"]);
    }

    #[test]
    fn headers_that_are_no_table_or_too_large_do_not_stop_it() {
        let headers = with_death(b"\xffopaque", &death("a", Reason::Expired));
        let table = TableRef::new(&headers).unwrap();
        assert_eq!(table.get(OPAQUE), Some(Value::Bytes(b"\xffopaque")));
        let large = Table::new().with("large", "x".repeat((1 << 20) - 20).as_str());
        let headers = with_death(large.as_bytes(), &death("a", Reason::Expired));
        assert_eq!(history(&headers).len(), 1);
    }
}
