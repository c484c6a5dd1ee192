//! Whether a consumer waited for a message when it became ready.
//!
//! As in `RabbitMQ` a message is delivered in the moment in which it is ready if somebody has credit
//! then, however short its time is. Here it is dealt when somebody asks, later perhaps: so each hand
//! notes since when it has had credit without a break. All that stands before a message has been dealt
//! when it is its turn, and what is dealt ends the credit of whoever has no more: so a hand that has had
//! credit since before the message has had it in that moment, too.

use std::{fmt, sync::Arc};

use fanlog_segment_format::Offset;

use super::Ready;
use crate::core::Core;

/// A moment: in the log, and by the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Since {
    /// What lies at or behind it was not visible yet.
    end: Offset,
    time_us: u64,
}

impl Since {
    /// This moment.
    pub(super) fn now(core: &Core) -> Self {
        Self { end: core.log.visible(), time_us: core.clock.wall_us() }
    }

    pub(super) fn earliest(self, other: Self) -> Self {
        let (end, time_us) = (self.end.min(other.end), self.time_us.min(other.time_us));
        Self { end, time_us }
    }

    pub(super) fn latest(self, other: Self) -> Self {
        let (end, time_us) = (self.end.max(other.end), self.time_us.max(other.time_us));
        Self { end, time_us }
    }

    /// Whether it was before a message became ready, which was while its own time lasted.
    pub(super) fn is_before(self, ready: &Ready) -> bool {
        let fields = &ready.fields;
        let lasted = fields.expiry_us.is_none_or(|expiry_us| expiry_us >= fields.ready_us);
        let delayed = fields.ready_us > fields.time_us;
        lasted && if delayed { self.time_us < fields.ready_us } else { self.end <= ready.offset }
    }
}

/// Tells moments to a hand.
pub(super) struct Moments(Option<Arc<Core>>);

impl Moments {
    pub(super) fn of(core: &Arc<Core>) -> Self {
        Self(Some(Arc::clone(core)))
    }

    /// Tells none: nobody ever waits.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn now(&self) -> Option<Since> {
        self.0.as_deref().map(Since::now)
    }
}

impl fmt::Debug for Moments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Moments")
    }
}

/// The earliest of several moments, of those that are one.
pub(super) fn earliest(moments: impl Iterator<Item = Option<Since>>) -> Option<Since> {
    moments.flatten().reduce(Since::earliest)
}
