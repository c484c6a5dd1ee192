//! Why the engine ended a subscription.

use std::{fmt, time::Duration};

/// Why the engine ended a subscription by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cancellation {
    /// The queue was deleted, and with it what the consumer held: settling that does nothing any
    /// more.
    QueueDeleted,
    /// It held a message for longer than the queue allows. All that it held went back to the queue.
    AckTimeout {
        /// How long it held the oldest one, at the least.
        held: Duration,
        /// What the queue allows.
        limit: Duration,
    },
}

impl fmt::Display for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueDeleted => f.write_str("the queue was deleted"),
            Self::AckTimeout { held, limit } => {
                write!(f, "it held a message for {held:?}, the queue allows {limit:?}")
            }
        }
    }
}
