//! What an exchange keeps of all that passes through it, and its form on disk.
//!
//! A history is a queue without a name of its own that gets every message of its exchange. Nobody
//! consumes from it: its floor moves by age and size, as that of any queue with such limits does, and
//! what it holds is live like any other message.

use std::time::Duration;

use fanlog_segment_format::table::{Table, TableRef, Value};

use crate::{Error, QueueOptions, Result, queue_options::MESSAGE_TTL};

const AGE: &str = "x-history-max-age";
const BYTES: &str = "x-history-max-bytes";
/// Flag of a declared queue: it is the history of the exchange of its name.
pub(crate) const HISTORY: u32 = 1 << 3;

/// How much an exchange keeps, for [`ExchangeOptions::history`](crate::ExchangeOptions::history): at
/// least one of the limits is set; of two, the one that is reached first counts.
///
/// What is beyond a limit goes in the background, the oldest first: usually within some tenths of a
/// second. A [rewind](crate::Engine::rewind) under way keeps what was there when it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct History {
    /// The longest that a message is kept after it was published, in whole milliseconds, more than 0.
    pub age: Option<Duration>,
    /// The most payload bytes that are kept.
    pub bytes: Option<u64>,
}

impl History {
    /// Keeps messages for so long.
    pub const fn of_age(age: Duration) -> Self {
        Self { age: Some(age), bytes: None }
    }

    /// Keeps so many payload bytes.
    pub const fn of_bytes(bytes: u64) -> Self {
        Self { age: None, bytes: Some(bytes) }
    }

    /// The options of the queue that is the history.
    pub(crate) fn queue_options(self) -> QueueOptions {
        let Self { age: message_ttl, bytes: bytes_max } = self;
        QueueOptions { message_ttl, bytes_max, ..QueueOptions::default() }
    }

    /// Checks what is declared.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`].
    pub(crate) fn validate(self) -> Result<()> {
        if self == Self::default() {
            return Err(argument(AGE, "neither age nor bytes", "at least one of the two"));
        }
        if self.age == Some(Duration::ZERO) {
            return Err(argument(AGE, "0", "more than 0"));
        }
        self.queue_options().validate().map_err(|error| match error {
            Error::Argument { argument: name, found, allowed } => {
                argument(if name == MESSAGE_TTL { AGE } else { BYTES }, &found, &allowed)
            }
            other => other,
        })
    }

    /// Adds the limits to a table of arguments.
    pub(crate) fn write(&self, table: &mut Table) {
        if let Some(age) = self.age {
            table.push(AGE, Value::I64(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)));
        }
        if let Some(bytes) = self.bytes {
            table.push(BYTES, Value::I64(i64::try_from(bytes).unwrap_or(i64::MAX)));
        }
    }
}

/// Whether an argument of an exchange is one of a history.
pub(crate) fn is_argument(key: &str) -> bool {
    key == AGE || key == BYTES
}

/// The history that a table of arguments asks for.
///
/// # Errors
///
/// [`Error::Argument`] for a limit that is no whole number, or below 0.
pub(crate) fn read(table: TableRef<'_>) -> Result<Option<History>> {
    let whole = |key| {
        let Some(value) = table.get(key) else { return Ok(None) };
        let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
        let allowed = "a whole number, 0 or more";
        number.map(Some).ok_or_else(|| argument(key, &format!("{value:?}"), allowed))
    };
    let history = History { age: whole(AGE)?.map(Duration::from_millis), bytes: whole(BYTES)? };
    Ok((history != History::default()).then_some(history))
}

fn argument(argument: &str, found: &str, allowed: &str) -> Error {
    Error::Argument {
        argument: argument.to_owned(),
        found: found.to_owned(),
        allowed: allowed.to_owned(),
    }
}
