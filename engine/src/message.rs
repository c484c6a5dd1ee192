//! What a publisher sends.

use std::time::{Duration, SystemTime};

use crate::{Durability, Error, Result, copies, route::check_key};
use fanlog_segment_format::layout::{HEADERS_BYTES_MAX, PROPERTIES_BYTES_MAX};

/// When a message may be delivered at the earliest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Due {
    /// At once.
    #[default]
    Now,
    /// At that date, by the clock of the machine that delivers it; at once if it is past.
    At(SystemTime),
    /// So long after it was published.
    After(Duration),
}

/// A message to be published. Borrows everything: the engine copies it once, into the batch.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Where it enters; `""` for the default exchange, which routes to the queue named by the key.
    pub exchange: &'a str,
    /// What bindings are matched against; at most 255 bytes.
    pub routing_key: &'a str,
    /// The bytes; at most [`message_bytes_max`](crate::Config::message_bytes_max).
    pub payload: &'a [u8],
    /// Opaque to the engine, delivered as given; at most 1 MiB.
    pub properties: &'a [u8],
    /// Delivered as given; at most 1 MiB. A headers exchange reads them as a
    /// [`Table`](crate::Table). Where they are one, `CC` and `BCC` are further routing keys, arrays of
    /// texts: the message goes to all queues that it would go to with any of its keys, and is stored
    /// without `BCC`. To all else they are opaque.
    pub headers: &'a [u8],
    /// 0, the default, is the lowest. Queues with
    /// [`priority_max`](crate::QueueOptions::priority_max) hand out the highest first, and take one
    /// above theirs for theirs; to others it means nothing. Always stored and delivered.
    pub priority: u8,
    /// Whether it is an error if no queue gets it; else it is dropped then, confirmed at once, and
    /// [counted](crate::Stats::unroutable_dropped). Default true.
    pub mandatory: bool,
    /// The longest that it waits in any queue; a queue may have a shorter time. Default: for ever.
    /// If a consumer has credit for it in the moment in which it is confirmed, or falls due, it does
    /// not wait: so 0 is enough then, and else for nobody. Once its time is over the message is never
    /// delivered, and is dropped when it is the oldest of its queue, within a second; after the store was
    /// opened once the background has come to the queue, at some 2,500 a second.
    pub ttl: Option<Duration>,
    /// How far its confirm reaches. Default [`Durability::Synced`].
    pub durability: Durability,
    /// When it may be delivered. Default [`Due::Now`]. Until then it is stored, confirmed and
    /// counted like any other; then it is delivered at its original place, before what was
    /// published after it.
    pub due: Due,
}

impl<'a> Message<'a> {
    /// A synced message without properties.
    pub fn new(exchange: &'a str, routing_key: &'a str, payload: &'a [u8]) -> Self {
        Self {
            exchange,
            routing_key,
            payload,
            properties: &[],
            headers: &[],
            priority: 0,
            mandatory: true,
            ttl: None,
            durability: Durability::Synced,
            due: Due::Now,
        }
    }

    /// The same, not to be delivered before that date.
    pub fn due_at(self, date: SystemTime) -> Self {
        Self { due: Due::At(date), ..self }
    }

    /// The same, not to be delivered before so much time has passed since it was published.
    pub fn delay(self, delay: Duration) -> Self {
        Self { due: Due::After(delay), ..self }
    }

    /// The same, confirmed once the kernel has it.
    pub fn buffered(self) -> Self {
        Self { durability: Durability::Buffered, ..self }
    }

    /// The same, dropped where no queue gets it, instead of refused.
    pub fn optional(self) -> Self {
        Self { mandatory: false, ..self }
    }

    /// The same, with this priority.
    pub fn priority(self, priority: u8) -> Self {
        Self { priority, ..self }
    }

    /// The same, gone once the store is opened again.
    pub fn transient(self) -> Self {
        Self { durability: Durability::Transient, ..self }
    }

    /// The same, with properties.
    pub fn properties(self, properties: &'a [u8]) -> Self {
        Self { properties, ..self }
    }

    /// The same, with headers.
    pub fn headers(self, headers: &'a [u8]) -> Self {
        Self { headers, ..self }
    }

    /// The same, to be dropped, or dead-lettered, where it was not consumed for so long.
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl: Some(ttl), ..self }
    }

    /// When its time is over, if it is published at `time_us`. A time beyond all dates does not end.
    pub(crate) fn expiry_us(&self, time_us: u64) -> Option<u64> {
        time_us.checked_add(u64::try_from(self.ttl?.as_micros()).ok()?)
    }

    /// When it is due, if that is later than `now_us`.
    ///
    /// # Errors
    ///
    /// [`Error::BeyondTime`].
    pub(crate) fn due_us(&self, now_us: u64) -> Result<Option<u64>> {
        let beyond = |asked| Error::BeyondTime { what: "due time", asked };
        let due_us = match self.due {
            Due::Now => return Ok(None),
            Due::At(date) => {
                // A date before 1970 is past.
                let since_1970 = date.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since_1970.as_micros()).map_err(|_| beyond(since_1970))?
            }
            Due::After(delay) => {
                let delay_us = u64::try_from(delay.as_micros()).ok();
                delay_us.and_then(|us| now_us.checked_add(us)).ok_or_else(|| beyond(delay))?
            }
        };
        Ok((due_us > now_us).then_some(due_us))
    }

    /// Its record takes no more bytes.
    pub(crate) fn record_bytes_max(&self) -> usize {
        const HEAD_MAX: usize = 256;
        let parts = [self.payload, self.properties, self.headers];
        parts.iter().map(|part| part.len()).sum::<usize>() + self.routing_key.len() + HEAD_MAX
    }

    pub(crate) fn validate(&self, message_bytes_max: usize, now_us: u64) -> Result<()> {
        self.due_us(now_us)?;
        check_key(self.routing_key)?;
        within("message", self.payload.len(), message_bytes_max)?;
        within("properties", self.properties.len(), PROPERTIES_BYTES_MAX)?;
        within("headers", self.headers.len(), HEADERS_BYTES_MAX)?;
        copies::check(self.headers)
    }
}

pub(crate) fn within(what: &'static str, found: usize, limit: usize) -> Result<()> {
    if found > limit {
        return Err(Error::TooLarge { what, found, limit });
    }
    Ok(())
}
