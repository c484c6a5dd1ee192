//! Changes of the topology: checked as a whole, then applied to the tables as a whole.

use fanlog_segment_format::{
    Offset,
    control::Control,
    layout::{KEY_BYTES_MAX, NAME_BYTES_MAX},
    table::Table,
};

use super::{ExchangeKind, Tables, bindings::Asked};
use crate::{Error, ExchangeOptions, QueueOptions, Result};

/// One change of the topology, for [`Engine::change`](crate::Engine::change).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change<'a> {
    /// Declares a durable exchange. It is no change if it exists with the same kind.
    DeclareExchange {
        /// 1 to 255 bytes; not `""`, the default exchange's.
        name: &'a str,
        /// How it routes.
        kind: ExchangeKind,
    },
    /// Declares an exchange. It is no change if it exists with the same kind and options.
    DeclareExchangeWith {
        /// 1 to 255 bytes; not `""`, the default exchange's, and none that begins with `amq.`.
        name: &'a str,
        /// How it routes.
        kind: ExchangeKind,
        /// How else it is to be.
        options: &'a ExchangeOptions,
    },
    /// Deletes an exchange if there is no binding from it, and the bindings that lead to it.
    DeleteExchangeIfUnused {
        /// Its name.
        name: &'a str,
    },
    /// Deletes an exchange and its bindings. Messages already stored stay in their queues.
    DeleteExchange {
        /// Its name.
        name: &'a str,
    },
    /// Declares a queue. It is no change if it exists with the same options.
    DeclareQueue {
        /// 1 to 255 bytes.
        name: &'a str,
        /// How it is to be.
        options: &'a QueueOptions,
    },
    /// Deletes a queue, its bindings and its claim on every message.
    DeleteQueue {
        /// Its name.
        name: &'a str,
    },
    /// Binds a queue: messages published from now on that match go to it. It is no change if the
    /// binding exists.
    Bind {
        /// The queue.
        queue: &'a str,
        /// The exchange; not the default one, which reaches every queue by its name.
        exchange: &'a str,
        /// At most 255 bytes. A fanout exchange does not match it, but it tells bindings apart.
        routing_key: &'a str,
    },
    /// Undoes a binding; what it brought to the queue stays there.
    Unbind {
        /// The queue.
        queue: &'a str,
        /// The exchange.
        exchange: &'a str,
        /// The key that it was bound with.
        routing_key: &'a str,
    },
    /// Binds a queue with arguments. It is no change if a binding with the same key and arguments
    /// exists; with others it is another binding, of a fanout exchange too.
    BindWith {
        /// The queue.
        queue: &'a str,
        /// The exchange; not the default one.
        exchange: &'a str,
        /// At most 255 bytes.
        routing_key: &'a str,
        /// What a headers exchange matches; others keep them.
        arguments: &'a Table,
    },
    /// Undoes a binding that was made with arguments.
    UnbindWith {
        /// The queue.
        queue: &'a str,
        /// The exchange.
        exchange: &'a str,
        /// The key that it was bound with.
        routing_key: &'a str,
        /// The arguments that it was bound with.
        arguments: &'a Table,
    },
    /// Binds an exchange to an exchange: what is published to the source from now on and matches is
    /// routed by the destination as well. However many ways lead to a queue, also in a circle, it
    /// gets a message once.
    BindExchange {
        /// Where messages go; not the default exchange.
        destination: &'a str,
        /// Where they come from; not the default exchange.
        source: &'a str,
        /// At most 255 bytes.
        routing_key: &'a str,
        /// As for a queue.
        arguments: &'a Table,
    },
    /// Undoes a binding of an exchange to an exchange.
    UnbindExchange {
        /// Where messages went.
        destination: &'a str,
        /// Where they came from.
        source: &'a str,
        /// The key that it was bound with.
        routing_key: &'a str,
        /// The arguments that it was bound with.
        arguments: &'a Table,
    },
}

impl<'a> Change<'a> {
    /// Declares a durable queue with plain options.
    pub const fn declare_queue(name: &'a str) -> Self {
        Self::DeclareQueue { name, options: QueueOptions::plain() }
    }

    /// An upper bound of its control records' bytes, but for what else goes with an exchange or a
    /// queue.
    pub(crate) fn record_bytes_max(&self) -> usize {
        128 + match *self {
            Self::DeclareExchange { name, .. }
            | Self::DeleteExchange { name }
            | Self::DeleteExchangeIfUnused { name }
            | Self::DeleteQueue { name } => name.len(),
            Self::DeclareQueue { name, options } => name.len() + options.record_bytes_max(),
            Self::DeclareExchangeWith { name, options, .. } => {
                name.len() + options.record_bytes_max()
            }
            Self::BindWith { routing_key, arguments, .. }
            | Self::UnbindWith { routing_key, arguments, .. }
            | Self::BindExchange { routing_key, arguments, .. }
            | Self::UnbindExchange { routing_key, arguments, .. } => {
                routing_key.len() + arguments.as_bytes().len()
            }
            Self::Bind { routing_key, .. } | Self::Unbind { routing_key, .. } => routing_key.len(),
        }
    }
}

/// The control records of a change, encoded, and what they need to know.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    pub(crate) bytes: &'a mut Vec<u8>,
    /// The offset that the next message would get.
    pub(crate) at: Offset,
}

impl Records<'_> {
    pub(super) fn push(&mut self, control: &Control<'_>) {
        control.encode(self.bytes);
    }
}

impl Tables {
    /// Applies changes and appends their records: all of them, or, on an error, none.
    ///
    /// # Errors
    ///
    /// [`Error::Name`], [`Error::NotFound`], [`Error::Mismatch`], [`Error::Refused`],
    /// [`Error::Argument`].
    pub(crate) fn apply_all(
        &mut self,
        changes: &[Change<'_>],
        records: &mut Records<'_>,
    ) -> Result<()> {
        let (next, written) = (self.next, records.bytes.len());
        let applied = changes.iter().try_for_each(|change| self.apply(change, records));
        if applied.is_err() {
            self.roll_back();
            self.next = next;
            records.bytes.truncate(written);
        } else {
            self.keep_changes();
        }
        applied
    }

    /// Applies one change and appends its records.
    fn apply(&mut self, change: &Change<'_>, records: &mut Records<'_>) -> Result<()> {
        match *change {
            Change::DeclareExchange { name, kind } => {
                self.declare_exchange(name, kind, ExchangeOptions::plain(), records)
            }
            Change::DeclareExchangeWith { name, kind, options } => {
                self.declare_exchange(name, kind, options, records)
            }
            Change::DeleteExchange { name } => self.delete_exchange(name, false, records),
            Change::DeleteExchangeIfUnused { name } => self.delete_exchange(name, true, records),
            Change::DeclareQueue { name, options } => self.declare_queue(name, options, records),
            Change::DeleteQueue { name } => self.delete_queue(name, records),
            Change::Bind { queue, exchange, routing_key } => {
                self.bind(queue, plain(exchange, routing_key), records)
            }
            Change::BindWith { queue, exchange, routing_key: key, arguments } => {
                self.bind(queue, Asked { exchange, key, arguments }, records)
            }
            Change::Unbind { queue, exchange, routing_key } => {
                self.unbind(queue, plain(exchange, routing_key), records)
            }
            Change::UnbindWith { queue, exchange, routing_key: key, arguments } => {
                self.unbind(queue, Asked { exchange, key, arguments }, records)
            }
            Change::BindExchange { destination, source: exchange, routing_key: key, arguments } => {
                self.bind_exchange(destination, Asked { exchange, key, arguments }, records)
            }
            Change::UnbindExchange {
                destination,
                source: exchange,
                routing_key: key,
                arguments,
            } => self.unbind_exchange(destination, Asked { exchange, key, arguments }, records),
        }
    }
}

fn plain<'a>(exchange: &'a str, key: &'a str) -> Asked<'a> {
    static NONE: Table = Table::new();
    Asked { exchange, key, arguments: &NONE }
}

pub(crate) fn check_name(what: &'static str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let shown = name.chars().take(64).collect();
        return Err(Error::Name { what, name: shown, found: name.len(), limit: NAME_BYTES_MAX });
    }
    Ok(())
}

/// A routing key may be empty, but not too long.
pub(crate) fn check_key(key: &str) -> Result<()> {
    if key.len() > KEY_BYTES_MAX {
        let name = key.chars().take(64).collect();
        let found = key.len();
        return Err(Error::Name { what: "routing key", name, found, limit: KEY_BYTES_MAX });
    }
    Ok(())
}
