//! What an exchange is declared with, and its form on disk.
//!
//! In: a caller's options. Out: flags and one table under `RabbitMQ`'s names, which the declaration's
//! record and the checkpoint keep as they are.

use fanlog_segment_format::{
    DecodeError,
    layout::{ARGUMENTS_BYTES_MAX, NAME_BYTES_MAX},
    table::{Table, TableRef, Value},
};

use crate::{Error, History, Result, history, message::within};

const DURABLE: u32 = 1;
const AUTO_DELETE: u32 = 1 << 1;
const INTERNAL: u32 = 1 << 2;
const ALTERNATE: &str = "alternate-exchange";
/// More than the alternate exchange and the history's limits take in the table.
const KNOWN_BYTES_MAX: usize = 1024;

/// How an exchange is to be, for [`Engine::declare_exchange_with`](crate::Engine::declare_exchange_with).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeOptions {
    /// Whether it is still there after the store was opened again. One that is not is gone then,
    /// with its bindings; what it brought to queues stays there. Default true.
    pub durable: bool,
    /// Whether it is deleted when the last of the bindings from it goes. Default false. If that was one
    /// of a queue that did not survive a restart, it stays until the next one goes.
    pub auto_delete: bool,
    /// Whether nobody may publish to it: it is reached through other exchanges. Default false.
    pub internal: bool,
    /// The exchange that gets what none of its bindings matches, if there is one of that name then;
    /// `""` is the default exchange. At most 255 bytes. `alternate-exchange`.
    pub alternate: Option<String>,
    /// How much it keeps of all that passes through it, to be read again. Default nothing.
    /// `x-history-max-age`, `x-history-max-bytes`.
    pub history: Option<History>,
    /// Further arguments, kept and compared but not acted upon. None of those above.
    pub arguments: Table,
}

impl Default for ExchangeOptions {
    fn default() -> Self {
        Self::PLAIN
    }
}

impl ExchangeOptions {
    const PLAIN: Self = Self {
        durable: true,
        auto_delete: false,
        internal: false,
        alternate: None,
        history: None,
        arguments: Table::new(),
    };

    /// The default, for as long as anyone wants it.
    pub(crate) const fn plain() -> &'static Self {
        static PLAIN: ExchangeOptions = ExchangeOptions::PLAIN;
        &PLAIN
    }

    /// Reads the arguments of a declaration, as an AMQP client sends them. What AMQP sends beside its
    /// arguments (durable, auto-delete, internal) is as by default.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for an `alternate-exchange` that is not text of at most 255 bytes, or a
    /// history's limit that is no whole number.
    pub fn from_arguments(table: &Table) -> Result<Self> {
        Self::read(table.as_ref())
    }

    fn read(table: TableRef<'_>) -> Result<Self> {
        let mut options = Self { history: history::read(table)?, ..Self::default() };
        for (key, value) in table {
            if history::is_argument(key) {
                continue;
            }
            if key != ALTERNATE {
                // Its limits were checked when the table was made.
                options.arguments.push(key, value);
            } else if options.alternate.is_none() {
                let name = value.as_text().ok_or_else(|| not_a_name(&format!("{value:?}")))?;
                options.alternate = Some(name.to_owned());
            }
        }
        options.validate()?;
        Ok(options)
    }

    /// All of it but durable, auto-delete and internal, as a table: what
    /// [`from_arguments`](Self::from_arguments) reads.
    pub fn to_arguments(&self) -> Table {
        let mut table = self.arguments.clone();
        if let Some(alternate) = &self.alternate {
            table.push(ALTERNATE, Value::from(alternate.as_str()));
        }
        if let Some(history) = &self.history {
            history.write(&mut table);
        }
        table
    }

    /// Checks what is declared, before anything is changed.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`], [`Error::TooLarge`].
    pub(crate) fn validate(&self) -> Result<()> {
        if let Some(name) = self.alternate.as_ref().filter(|name| name.len() > NAME_BYTES_MAX) {
            return Err(not_a_name(&format!("{} bytes long", name.len())));
        }
        self.history.map_or(Ok(()), History::validate)?;
        let known = |(key, _): &(&str, Value<'_>)| *key == ALTERNATE || history::is_argument(key);
        if let Some((key, value)) = self.arguments.iter().find(known) {
            return Err(Error::Argument {
                argument: key.to_owned(),
                found: format!("{value:?}"),
                allowed: "set by its field".to_owned(),
            });
        }
        within("arguments", self.arguments.as_bytes().len(), ARGUMENTS_BYTES_MAX - KNOWN_BYTES_MAX)
    }

    /// An upper bound of the bytes that they take in a record.
    pub(crate) fn record_bytes_max(&self) -> usize {
        self.arguments.as_bytes().len() + KNOWN_BYTES_MAX
    }

    /// The bits that stand for what is not in the table.
    pub(crate) fn flags(&self) -> u32 {
        let bit = |set: bool, flag| if set { flag } else { 0 };
        bit(self.durable, DURABLE)
            | bit(self.auto_delete, AUTO_DELETE)
            | bit(self.internal, INTERNAL)
    }

    /// Those of a stored exchange; `None` if they are plain.
    ///
    /// # Errors
    ///
    /// If the table does not decode, or is none that this version writes.
    pub(crate) fn stored(flags: u32, arguments: &[u8]) -> Result<Option<Box<Self>>, DecodeError> {
        if flags == DURABLE && arguments.is_empty() {
            return Ok(None);
        }
        let options = Self::read(TableRef::new(arguments)?).map_err(|_| DecodeError::Field {
            structure: "exchange",
            position: 0,
            field: "arguments",
            expected: "arguments that were checked when it was declared",
            found: 0,
        })?;
        Ok(Some(Box::new(Self {
            durable: flags & DURABLE != 0,
            auto_delete: flags & AUTO_DELETE != 0,
            internal: flags & INTERNAL != 0,
            ..options
        })))
    }

    /// The same to be kept in memory.
    pub(crate) fn kept(&self) -> Option<Box<Self>> {
        (self != Self::plain()).then(|| Box::new(self.clone()))
    }

    /// Checks that exchange `name`, which has these options, is what is asked for.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`]: the first that differs, by the name under which it is stored.
    pub(crate) fn check_same(&self, name: &str, asked: &Self) -> Result<()> {
        let differs = |argument: &str, existing: String, asked: String| {
            let (name, argument) = (name.to_owned(), argument.to_owned());
            Err(Error::Mismatch { what: "exchange", name, argument, existing, asked })
        };
        for (argument, existing, asked) in [
            ("durable", self.durable, asked.durable),
            ("auto-delete", self.auto_delete, asked.auto_delete),
            ("internal", self.internal, asked.internal),
        ] {
            if existing != asked {
                return differs(argument, existing.to_string(), asked.to_string());
            }
        }
        let (existing, asked) = (self.to_arguments(), asked.to_arguments());
        for (key, _) in existing.iter().chain(asked.iter()) {
            let (existing, asked) = (existing.get(key), asked.get(key));
            if existing != asked {
                return differs(key, shown(existing), shown(asked));
            }
        }
        Ok(())
    }
}

fn not_a_name(found: &str) -> Error {
    Error::Argument {
        argument: ALTERNATE.to_owned(),
        found: found.to_owned(),
        allowed: "text of at most 255 bytes".to_owned(),
    }
}

/// A value for a person to read.
fn shown(value: Option<Value<'_>>) -> String {
    match value {
        None => "none".to_owned(),
        Some(Value::Text(text)) => format!("{:?}", String::from_utf8_lossy(text)),
        Some(value) => format!("{value:?}"),
    }
}
