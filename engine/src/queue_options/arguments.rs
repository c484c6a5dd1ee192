//! Options as a table, under `RabbitMQ`'s names.

use std::time::Duration;

use fanlog_segment_format::table::{Table, TableRef, Value};

use super::{MILLISECONDS_MAX, Overflow, QueueOptions, argument};
use crate::Result;

pub(super) const EXPIRES: &str = "x-expires";
pub(crate) const MESSAGE_TTL: &str = "x-message-ttl";
pub(super) const MESSAGES_MAX: &str = "x-max-length";
pub(super) const BYTES_MAX: &str = "x-max-length-bytes";
pub(super) const OVERFLOW: &str = "x-overflow";
pub(super) const DEAD_LETTER_EXCHANGE: &str = "x-dead-letter-exchange";
pub(super) const DEAD_LETTER_KEY: &str = "x-dead-letter-routing-key";
pub(super) const DELIVERY_LIMIT: &str = "x-delivery-limit";
pub(super) const PRIORITY_MAX: &str = "x-max-priority";
pub(super) const SINGLE_ACTIVE_CONSUMER: &str = "x-single-active-consumer";
pub(super) const ACK_TIMEOUT: &str = "x-consumer-timeout";

/// Stands for a time-out that never comes.
const NEVER: i64 = i64::MAX;

const KNOWN: [&str; 11] = [
    EXPIRES,
    MESSAGE_TTL,
    MESSAGES_MAX,
    BYTES_MAX,
    OVERFLOW,
    DEAD_LETTER_EXCHANGE,
    DEAD_LETTER_KEY,
    DELIVERY_LIMIT,
    PRIORITY_MAX,
    SINGLE_ACTIVE_CONSUMER,
    ACK_TIMEOUT,
];

/// Whether an argument has a field of its own.
pub(super) fn is_known(key: &str) -> bool {
    KNOWN.contains(&key)
}

pub(super) fn read(table: TableRef<'_>) -> Result<QueueOptions> {
    let overflow = |value: Value<'_>| {
        let named = value.as_text().and_then(Overflow::from_name);
        let allowed = "\"drop-head\", \"reject-publish\" or \"reject-publish-dlx\"";
        named.ok_or_else(|| argument(OVERFLOW, &show(Some(value)), allowed))
    };
    let narrow = "checked against its range";
    let mut options = QueueOptions {
        expires: time(table, EXPIRES, 1)?,
        message_ttl: time(table, MESSAGE_TTL, 0)?,
        messages_max: whole(table, MESSAGES_MAX, 0, i64::MAX)?,
        bytes_max: whole(table, BYTES_MAX, 0, i64::MAX)?,
        overflow: table.get(OVERFLOW).map_or(Ok(Overflow::default()), overflow)?,
        dead_letter_exchange: text(table, DEAD_LETTER_EXCHANGE)?,
        dead_letter_key: text(table, DEAD_LETTER_KEY)?,
        delivery_limit: whole(table, DELIVERY_LIMIT, 0, u32::MAX.into())?
            .map(|limit| u32::try_from(limit).expect(narrow)),
        priority_max: whole(table, PRIORITY_MAX, 1, u8::MAX.into())?
            .map(|most| u8::try_from(most).expect(narrow)),
        single_active_consumer: truth(table, SINGLE_ACTIVE_CONSUMER)?,
        ack_timeout: match table.get(ACK_TIMEOUT) {
            Some(Value::I64(NEVER)) => Some(Duration::MAX),
            _ => time(table, ACK_TIMEOUT, 1)?,
        },
        ..QueueOptions::default()
    };
    for (key, value) in table.iter().filter(|(key, _)| !is_known(key)) {
        options.arguments.push(key, value);
    }
    options.validate()?;
    Ok(options)
}

pub(super) fn write(options: &QueueOptions) -> Table {
    let time = |time: Duration| {
        // What does not fit is refused where it is declared.
        i64::try_from(time.as_millis()).unwrap_or(NEVER)
    };
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let numbers = [
        (EXPIRES, options.expires.map(time)),
        (MESSAGE_TTL, options.message_ttl.map(time)),
        (MESSAGES_MAX, options.messages_max.map(whole)),
        (BYTES_MAX, options.bytes_max.map(whole)),
        (DELIVERY_LIMIT, options.delivery_limit.map(i64::from)),
        (PRIORITY_MAX, options.priority_max.map(i64::from)),
        (ACK_TIMEOUT, options.ack_timeout.map(time)),
    ];
    let texts = [
        (DEAD_LETTER_EXCHANGE, options.dead_letter_exchange.as_deref()),
        (DEAD_LETTER_KEY, options.dead_letter_key.as_deref()),
        (OVERFLOW, (options.overflow != Overflow::default()).then_some(options.overflow.name())),
    ];
    let numbers = numbers.iter().filter_map(|&(key, number)| Some((key, Value::I64(number?))));
    let texts = texts.iter().filter_map(|&(key, text)| Some((key, Value::from(text?))));
    let single = options.single_active_consumer;
    let single = single.then_some((SINGLE_ACTIVE_CONSUMER, Value::Bool(true)));
    let mut table = Table::new();
    for (key, value) in numbers.chain(texts).chain(single).chain(options.arguments.iter()) {
        // What is too large is refused where it is declared.
        if table.try_push(key, value).is_err() {
            break;
        }
    }
    table
}

/// A value as it is shown in errors.
pub(super) fn show(value: Option<Value<'_>>) -> String {
    match value {
        None => "not set".to_owned(),
        Some(Value::Bool(value)) => value.to_string(),
        Some(value) => match (value.as_integer(), value.as_text()) {
            (Some(number), _) => number.to_string(),
            (_, Some(text)) => format!("{:?}", text.chars().take(64).collect::<String>()),
            _ => format!("{value:?}").chars().take(64).collect(),
        },
    }
}

fn whole(table: TableRef<'_>, key: &str, least: u64, most: i64) -> Result<Option<u64>> {
    let Some(value) = table.get(key) else { return Ok(None) };
    let number = value.as_integer().filter(|number| *number <= most);
    match number.and_then(|number| u64::try_from(number).ok()) {
        Some(number) if number >= least => Ok(Some(number)),
        _ => {
            let allowed = format!("a whole number, {least} to {most}");
            Err(argument(key, &show(Some(value)), &allowed))
        }
    }
}

/// A time in milliseconds.
fn time(table: TableRef<'_>, key: &str, least: u64) -> Result<Option<Duration>> {
    let most = i64::try_from(MILLISECONDS_MAX).unwrap_or(i64::MAX);
    Ok(whole(table, key, least, most)?.map(Duration::from_millis))
}

fn text(table: TableRef<'_>, key: &str) -> Result<Option<String>> {
    let Some(value) = table.get(key) else { return Ok(None) };
    match value.as_text() {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(argument(key, &show(Some(value)), "text in UTF-8")),
    }
}

fn truth(table: TableRef<'_>, key: &str) -> Result<bool> {
    match table.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(value),
        Some(value) => Err(argument(key, &show(Some(value)), "true or false")),
    }
}
