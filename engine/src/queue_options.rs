//! What a queue is declared with, and its form on disk.
//!
//! In: a caller's options, or the arguments of an AMQP client. Out: flags and one table under
//! `RabbitMQ`'s names, which the declaration's record and the checkpoint keep as they are.
//!
//! N1. Options that were stored are valid, and are what [`QueueOptions::stored`] makes of their
//!     flags and table.
//! N2. A queue with plain options stores no table and takes no memory for them.

mod arguments;
#[cfg(test)]
mod tests;

use std::time::Duration;

use fanlog_segment_format::{
    DecodeError,
    layout::{ARGUMENTS_BYTES_MAX, KEY_BYTES_MAX, NAME_BYTES_MAX},
    table::Table,
};

pub(crate) use self::arguments::MESSAGE_TTL;
use crate::{Error, Result, message::within};

/// Flag of a declared queue: it survives a restart.
const DURABLE: u32 = 1;
const AUTO_DELETE: u32 = 1 << 1;
const EXCLUSIVE: u32 = 1 << 2;

/// The longest time that an option may name, in milliseconds: some 292,000 years.
const MILLISECONDS_MAX: u64 = i64::MAX.unsigned_abs() / 1000;

/// All arguments that fanlog knows take less than this many bytes.
const KNOWN_BYTES_MAX: usize = 1024;

/// What happens to a message that would make a queue longer than it may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// The ready messages that are next are dropped, or dead-lettered: the oldest, of several
    /// priorities those of the highest, as `RabbitMQ` does ("higher priority messages might be dropped
    /// to make way for lower priority ones", rabbitmq.com/docs/priority). What is not due counts until the queue has come to it. `drop-head`.
    #[default]
    DropHead,
    /// The queue does not get a message that it has no room for; others do, and the publisher is told
    /// by [`Error::QueueFull`](crate::Error::QueueFull). `reject-publish`.
    ///
    /// What is ready counts, also what is not due or not confirmed yet; a message that would lead
    /// beyond a limit is refused. Threads that publish at the same moment may each put what one call
    /// publishes beyond it. Dead letters are never refused: they would be lost. Each set of full
    /// queues that a message finds is a route of its own in the log: meant for a few such queues per
    /// exchange, not for hundreds.
    RejectPublish,
    /// As `RejectPublish`, and the message is dead-lettered, for the reason `maxlen`, if the queue has
    /// a dead-letter exchange that leads anywhere. `reject-publish-dlx`.
    ///
    /// The copy is in the batch of the message, durable when the publisher is told; with it the
    /// message may not be larger than [`transaction_bytes_max`](crate::Config::transaction_bytes_max).
    /// Of batches and transactions nothing is stored, and so nothing is dead-lettered.
    RejectPublishDlx,
}

impl Overflow {
    /// Its name: `"drop-head"`, `"reject-publish"`, `"reject-publish-dlx"`.
    pub fn name(self) -> &'static str {
        match self {
            Self::DropHead => "drop-head",
            Self::RejectPublish => "reject-publish",
            Self::RejectPublishDlx => "reject-publish-dlx",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::DropHead, Self::RejectPublish, Self::RejectPublishDlx]
            .into_iter()
            .find(|overflow| overflow.name() == name)
    }
}

/// What a queue is declared with. The default is a durable queue without limits.
///
/// Times are whole milliseconds, at most some 292,000 years. Beside each field stands the name under
/// which it is stored, which is that of `RabbitMQ`'s argument.
///
/// ```
/// use std::time::Duration;
/// use fanlog::QueueOptions;
///
/// let options = QueueOptions {
///     message_ttl: Some(Duration::from_secs(60)),
///     dead_letter_exchange: Some("late".to_owned()),
///     ..QueueOptions::default()
/// };
/// assert_eq!(QueueOptions::from_arguments(&options.to_arguments())?, options);
/// # Ok::<(), fanlog::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own, as in AMQP")]
pub struct QueueOptions {
    /// Whether the queue and what is in it survive a restart. Default true. Of one that does not, all
    /// is as if it was deleted when the store is opened again.
    pub durable: bool,
    /// Whether it belongs to one owner, and ends with it. Default false; set by
    /// [`Engine::declare_exclusive_queue`](crate::Engine::declare_exclusive_queue), which gives it
    /// one.
    pub exclusive: bool,
    /// Whether it is deleted when its last consumer goes. Default false. One that never had a
    /// consumer stays; so does one whose consumers ended with the store, until the next one goes.
    pub auto_delete: bool,
    /// It is deleted, within a second, when it was not used for so long, more than 0: had no consumer
    /// and was not declared again. Opening the store counts as a use. `x-expires`.
    pub expires: Option<Duration>,
    /// The longest that a message waits in it; what consumers hold does not expire, nor does what one
    /// had credit for when it came, however late it asks. 0 drops every other message.
    /// `x-message-ttl`.
    pub message_ttl: Option<Duration>,
    /// The most ready messages. `x-max-length`.
    pub messages_max: Option<u64>,
    /// The most payload bytes of ready messages. `x-max-length-bytes`.
    pub bytes_max: Option<u64>,
    /// What happens at these limits. `x-overflow`.
    pub overflow: Overflow,
    /// Where messages go that are dropped or rejected; `""` is the default exchange. It need not
    /// exist. `x-dead-letter-exchange`.
    pub dead_letter_exchange: Option<String>,
    /// The routing key that they go with, instead of their own; only with an exchange.
    /// `x-dead-letter-routing-key`.
    pub dead_letter_key: Option<String>,
    /// How often a message may come back before it is dropped, or dead-lettered.
    /// `x-delivery-limit`.
    pub delivery_limit: Option<u32>,
    /// The highest priority that it tells apart, at least 1. Of what is ready the highest priority
    /// comes first; within one, messages keep their order, also those that came back. After a crash
    /// messages may be flagged as redelivered that only waited behind others of a higher priority.
    /// Each level is a cursor, so few of them are cheaper than many: up to 10 will do.
    /// `x-max-priority`.
    pub priority_max: Option<u8>,
    /// Whether one of its consumers gets everything, and the others wait for it to go: the one of
    /// the highest priority, of equals the first. If one of a higher priority comes later, it takes
    /// over once the active one holds nothing any more. Default false. `x-single-active-consumer`.
    pub single_active_consumer: bool,
    /// How long a consumer may hold a message, more than 0. `None` is the default of 30 minutes,
    /// `Some(Duration::MAX)` for ever. One that holds a message for longer, or leaves those in its
    /// inbox alone for so long without waiting for any, is cancelled
    /// ([`AckTimeout`](crate::Cancellation::AckTimeout)): all that it had goes back to the queue.
    /// That is noticed at most an eighth of the time, or 20 ms, later. `x-consumer-timeout`.
    pub ack_timeout: Option<Duration>,
    /// Further arguments, kept and compared but not acted upon. None of those above.
    pub arguments: Table,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self::PLAIN
    }
}

impl QueueOptions {
    /// The default, as a constant.
    const PLAIN: Self = Self {
        durable: true,
        exclusive: false,
        auto_delete: false,
        expires: None,
        message_ttl: None,
        messages_max: None,
        bytes_max: None,
        overflow: Overflow::DropHead,
        dead_letter_exchange: None,
        dead_letter_key: None,
        delivery_limit: None,
        priority_max: None,
        single_active_consumer: false,
        ack_timeout: None,
        arguments: Table::new(),
    };

    /// The default, for as long as anyone wants it.
    pub(crate) const fn plain() -> &'static Self {
        static PLAIN: QueueOptions = QueueOptions::PLAIN;
        &PLAIN
    }

    /// Reads the arguments of a declaration, as an AMQP client sends them: those that fanlog knows
    /// become fields, the others stay. What AMQP sends beside its arguments (durable, exclusive,
    /// auto-delete) is as by default.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for a value of another type or out of its range.
    pub fn from_arguments(table: &Table) -> Result<Self> {
        arguments::read(table.as_ref())
    }

    /// All of it but durable, exclusive and auto-delete, as a table: what
    /// [`from_arguments`](Self::from_arguments) reads. Entries that are as by default are left out.
    pub fn to_arguments(&self) -> Table {
        arguments::write(self)
    }

    /// Checks what is declared, before anything is changed.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`], [`Error::TooLarge`].
    pub(crate) fn validate(&self) -> Result<()> {
        for (name, time, least) in [
            (arguments::EXPIRES, self.expires, 1),
            (arguments::MESSAGE_TTL, self.message_ttl, 0),
            (arguments::ACK_TIMEOUT, self.ack_timeout.filter(|time| *time != Duration::MAX), 1),
        ] {
            let Some(time) = time else { continue };
            let milliseconds = time.as_millis();
            let whole = time.subsec_nanos().is_multiple_of(1_000_000);
            if !whole || milliseconds < least || milliseconds > u128::from(MILLISECONDS_MAX) {
                let allowed = format!("whole milliseconds, {least} to {MILLISECONDS_MAX}");
                return Err(argument(name, &format!("{time:?}"), &allowed));
            }
        }
        for (name, limit) in
            [(arguments::MESSAGES_MAX, self.messages_max), (arguments::BYTES_MAX, self.bytes_max)]
        {
            if let Some(limit) = limit.filter(|limit| i64::try_from(*limit).is_err()) {
                return Err(argument(name, &limit.to_string(), &format!("0 to {}", i64::MAX)));
            }
        }
        if self.priority_max == Some(0) {
            return Err(argument(arguments::PRIORITY_MAX, "0", "1 to 255"));
        }
        self.validate_dead_letters()?;
        if let Some((key, value)) = self.arguments.iter().find(|(key, _)| arguments::is_known(key))
        {
            return Err(argument(key, &arguments::show(Some(value)), "set by its field"));
        }
        within("arguments", self.arguments.as_bytes().len(), ARGUMENTS_BYTES_MAX - KNOWN_BYTES_MAX)
    }

    fn validate_dead_letters(&self) -> Result<()> {
        for (name, text, most) in [
            (arguments::DEAD_LETTER_EXCHANGE, &self.dead_letter_exchange, NAME_BYTES_MAX),
            (arguments::DEAD_LETTER_KEY, &self.dead_letter_key, KEY_BYTES_MAX),
        ] {
            if let Some(text) = text.as_ref().filter(|text| text.len() > most) {
                let found = format!("{} bytes long", text.len());
                return Err(argument(name, &found, &format!("at most {most} bytes")));
            }
        }
        if let (None, Some(key)) = (&self.dead_letter_exchange, &self.dead_letter_key) {
            let allowed = "set only beside x-dead-letter-exchange";
            return Err(argument(arguments::DEAD_LETTER_KEY, &format!("{key:?}"), allowed));
        }
        Ok(())
    }

    /// Whether such a queue is still there when the store is opened again.
    pub(crate) fn survives_restart(&self) -> bool {
        self.durable && !self.exclusive
    }

    /// Whether the background has to look at such a queue.
    pub(crate) fn has_limits(&self) -> bool {
        self.expires.is_some()
            || self.message_ttl.is_some()
            || self.messages_max.is_some()
            || self.bytes_max.is_some()
            || self.dead_letter_exchange.is_some()
    }

    /// Whether the oldest messages are dropped where there are too many.
    pub(crate) fn drops_head(&self) -> bool {
        self.overflow == Overflow::DropHead
            && (self.messages_max.is_some() || self.bytes_max.is_some())
    }

    /// An upper bound of the bytes that they take in a record.
    pub(crate) fn record_bytes_max(&self) -> usize {
        if self == Self::plain() { 0 } else { self.arguments.as_bytes().len() + KNOWN_BYTES_MAX }
    }

    /// The bits that stand for what is not in the table.
    pub(crate) fn flags(&self) -> u32 {
        let bit = |set: bool, flag| if set { flag } else { 0 };
        bit(self.durable, DURABLE)
            | bit(self.auto_delete, AUTO_DELETE)
            | bit(self.exclusive, EXCLUSIVE)
    }

    /// Those of a stored queue; `None` if they are plain (N2).
    ///
    /// # Errors
    ///
    /// If the table does not decode, or is none that this version writes.
    pub(crate) fn stored(flags: u32, arguments: &[u8]) -> Result<Option<Box<Self>>, DecodeError> {
        if flags == DURABLE && arguments.is_empty() {
            return Ok(None);
        }
        let table = fanlog_segment_format::table::TableRef::new(arguments)?;
        let options = arguments::read(table).map_err(|_| DecodeError::Field {
            structure: "queue",
            position: 0,
            field: "arguments",
            expected: "arguments that were checked when it was declared",
            found: 0,
        })?;
        Ok(Some(Box::new(Self {
            durable: flags & DURABLE != 0,
            auto_delete: flags & AUTO_DELETE != 0,
            exclusive: flags & EXCLUSIVE != 0,
            ..options
        })))
    }

    /// The same to be kept in memory.
    pub(crate) fn kept(&self) -> Option<Box<Self>> {
        (self != Self::plain()).then(|| Box::new(self.clone()))
    }

    /// The first way in which a queue that has these options differs from what is asked for: name of
    /// the argument, its value, the value asked for.
    fn difference(&self, asked: &Self) -> Option<(String, String, String)> {
        let flags = [
            ("durable", self.durable, asked.durable),
            ("exclusive", self.exclusive, asked.exclusive),
            ("auto-delete", self.auto_delete, asked.auto_delete),
        ];
        if let Some((name, has, asked)) = flags.into_iter().find(|(_, has, asked)| has != asked) {
            return Some((name.to_owned(), has.to_string(), asked.to_string()));
        }
        let (has, asked) = (self.to_arguments(), asked.to_arguments());
        let keys = has.iter().chain(asked.iter()).map(|(key, _)| key);
        let (key, has, asked) = keys
            .map(|key| (key, has.get(key), asked.get(key)))
            .find(|(_, has, asked)| has != asked)?;
        Some((key.to_owned(), arguments::show(has), arguments::show(asked)))
    }

    /// Checks that queue `name`, which has these options, is what is asked for.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`].
    pub(crate) fn check_same(&self, name: &str, asked: &Self) -> Result<()> {
        let Some((argument, existing, asked)) = self.difference(asked) else { return Ok(()) };
        Err(Error::Mismatch { what: "queue", name: name.to_owned(), argument, existing, asked })
    }
}

fn argument(name: &str, found: &str, allowed: &str) -> Error {
    Error::Argument {
        argument: name.to_owned(),
        found: found.to_owned(),
        allowed: allowed.to_owned(),
    }
}
