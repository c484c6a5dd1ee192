//! Publishing: admits a message, routes it, gives it its place in the log.
//!
//! In: messages. Out: tickets. Everything is checked before the append lock is taken; under it a
//! message is placed whole or not at all.

mod records;
mod room;
mod routing;
mod ticket;

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use fanlog_segment_format::BatchNumber;

use self::records::{ALONE, BATCH, Placed, Records, Routes, Whole};
pub(crate) use self::records::{place_routed, route_definition};
use self::room::{Wait, room_for};
pub use self::ticket::{Confirm, Ticket};
use crate::{
    Error, Message, Result, Table, copies, core::Core, gate, message::within, named::Known,
    route::RouteCache,
};

/// Publishes messages. Cheap to clone; one clone per thread is fastest.
pub struct Publisher {
    shared: Arc<Shared>,
}

/// What a publisher's tickets hold on to: one line of memory per publisher, so that tickets of
/// different publishers do not disturb one another.
struct Shared {
    core: Arc<Core>,
    cache: Mutex<RouteCache>,
    /// Likewise for transient messages.
    transient_cache: Mutex<RouteCache>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publisher")
    }
}

impl Clone for Publisher {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared.core))
    }
}

impl Publisher {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            shared: Arc::new(Shared {
                core,
                cache: Mutex::default(),
                transient_cache: Mutex::default(),
            }),
        }
    }

    /// Appends a message and returns a ticket to wait for its confirm.
    ///
    /// On return the message has its place in the log, in memory. It is stored once its ticket is
    /// confirmed. Where buffers are full it waits, or fails, as
    /// [`when_full`](crate::Config::when_full) says.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`]: no such exchange.
    /// - [`Error::Unroutable`]: no queue would get it. An [optional](Message::optional) message is
    ///   dropped then, and its ticket is confirmed at once.
    /// - [`Error::QueueFull`]: all of its queues are full, and
    ///   [refuse](crate::Overflow::RejectPublish) it, an optional one too. If others take it, or it
    ///   is dead-lettered instead, the ticket says so.
    /// - [`Error::Refused`]: the exchange is internal.
    /// - [`Error::Headers`]: it comes to a headers exchange, and its headers are no table.
    /// - [`Error::HeaderType`]: its headers have `CC` or `BCC`, which is no array of texts.
    /// - [`Error::TooLarge`], [`Error::Name`]: over a limit.
    /// - [`Error::BeyondTime`]: a delay beyond the end of time.
    /// - [`Error::Full`], [`Error::OutOfSpace`]: only with `WhenFull::Fail`. The latter also, whatever
    ///   that says, where a message larger than [`buffer_bytes_max`](crate::Config::buffer_bytes_max)
    ///   and than a segment has no room of its own: nobody else is to wait for it.
    /// - [`Error::Poisoned`], [`Error::Closed`], [`Error::ReadOnly`].
    ///
    /// Nothing was stored, in each of these cases.
    pub fn publish(&self, message: &Message<'_>) -> Result<Ticket> {
        let messages = std::slice::from_ref(message);
        self.append(messages, ALONE, false, Wait::AsConfigured)
    }

    /// Like [`Publisher::publish`], but where buffers are full it waits without a thread of its own,
    /// whatever [`when_full`](crate::Config::when_full) says. Dropping the future before it is
    /// ready publishes nothing.
    ///
    /// # Errors
    ///
    /// As [`Publisher::publish`], without [`Error::Full`], and [`Error::OutOfSpace`] only for what is
    /// larger than `buffer_bytes_max`.
    pub async fn publish_async(&self, message: &Message<'_>) -> Result<Ticket> {
        loop {
            let space = self.shared.core.append.space_event.listen();
            match self.append(std::slice::from_ref(message), ALONE, false, Wait::Never) {
                Err(Error::Full { .. } | Error::OutOfSpace { .. }) => {
                    let core = &*self.shared.core;
                    core.supply.check_room(core, message.record_bytes_max())?;
                    space.await;
                }
                other => return other,
            }
        }
    }

    /// Publishes a message and waits for its confirm. A caller that is alone writes it by itself,
    /// without waking a thread.
    ///
    /// # Errors
    ///
    /// As [`Publisher::publish`] and [`Ticket::wait`].
    pub fn publish_confirmed(&self, message: &Message<'_>) -> Result<Confirm> {
        self.lead(message)?.wait()
    }

    /// Like [`Publisher::publish_confirmed`], but waits for the confirm for at most `timeout`. What
    /// it does not cover is a write of the caller's own that hangs, and waiting for room.
    ///
    /// # Errors
    ///
    /// As [`Publisher::publish_confirmed`], and [`Error::Timeout`]: the message is in doubt, and may
    /// still be stored.
    pub fn publish_confirmed_timeout(
        &self,
        message: &Message<'_>,
        timeout: Duration,
    ) -> Result<Confirm> {
        self.lead(message)?.wait_timeout(timeout)
    }

    /// Publishes a message, and writes it in this thread if the caller is alone.
    fn lead(&self, message: &Message<'_>) -> Result<Ticket> {
        let messages = std::slice::from_ref(message);
        let ticket = self.append(messages, ALONE, true, Wait::AsConfigured)?;
        if ticket.leads() {
            self.shared.core.lead();
        }
        Ok(ticket)
    }

    /// Appends messages as one: all are stored or none, behind one ticket, side by side in the log.
    /// An empty list is confirmed at once.
    ///
    /// # Errors
    ///
    /// As [`Publisher::publish`] for any of them: nothing was stored then. [`Error::QueueFull`] if a
    /// queue that [refuses](crate::Overflow::RejectPublish) what it has no room for does not have it
    /// for all that comes to it, although others may. [`Error::TooLarge`] if
    /// together they are over [`transaction_bytes_max`](crate::Config::transaction_bytes_max).
    pub fn publish_batch(&self, messages: &[Message<'_>]) -> Result<Ticket> {
        if messages.is_empty() {
            let first = self.shared.core.append.lock().next_offset();
            return Ok(self.ticket(Placed::nothing(first)));
        }
        self.append(messages, BATCH, false, Wait::AsConfigured)
    }

    /// Publishes messages as one and waits for their confirm. A caller that is alone writes them by
    /// itself, without waking a thread. An empty list is confirmed at once.
    ///
    /// # Errors
    ///
    /// As [`Publisher::publish_batch`] and [`Ticket::wait`].
    pub fn publish_batch_confirmed(&self, messages: &[Message<'_>]) -> Result<Confirm> {
        if messages.is_empty() {
            return self.publish_batch(messages)?.wait();
        }
        let ticket = self.append(messages, BATCH, true, Wait::AsConfigured)?;
        if ticket.leads() {
            self.shared.core.lead();
        }
        ticket.wait()
    }

    /// Appends messages and ack records, either perhaps none, as one.
    pub(crate) fn publish_with(&self, messages: &[Message<'_>], acks: &[u8]) -> Result<Ticket> {
        let whole = Whole { what: "transaction", acks, sync: true, ..BATCH };
        self.append(messages, whole, false, Wait::AsConfigured)
    }

    /// Appends a message of a named publisher.
    pub(crate) fn publish_numbered(
        &self,
        message: &Message<'_>,
        known: &Known,
        sequence: u64,
    ) -> Result<Ticket> {
        let whole = Whole { numbered: Some((known, sequence)), ..ALONE };
        let messages = std::slice::from_ref(message);
        self.append(messages, whole, false, Wait::AsConfigured)
    }

    /// The ticket of a message that was placed before, in this batch, if it is not confirmed.
    pub(crate) fn repeat(&self, batch: Option<u64>) -> Ticket {
        let first = self.shared.core.append.lock().next_offset();
        let batch = batch.map(BatchNumber);
        self.ticket(Placed { batch, repeat: true, ..Placed::nothing(first) })
    }

    /// Whether a message could be published now: the size of its record, and the limit for records
    /// that are placed as one.
    pub(crate) fn admit(&self, message: &Message<'_>) -> Result<(usize, usize)> {
        let core = &*self.shared.core;
        core.check_writable()?;
        let time_us = core.clock.wall_us();
        message.validate(core.config.message_bytes_max, time_us)?;
        let routed = Routes::One(self.route(message)?.0);
        let messages = std::slice::from_ref(message);
        let epoch = core.epoch;
        let records = Records { messages, routed: &routed, whole: ALONE, time_us, epoch };
        Ok((records.need().bytes, core.config.batch_bytes_max()))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.shared.core
    }

    fn ticket(&self, placed: Placed) -> Ticket {
        Ticket::new(&self.shared, placed)
    }

    fn append(
        &self,
        messages: &[Message<'_>],
        whole: Whole<'_>,
        blocking: bool,
        wait: Wait,
    ) -> Result<Ticket> {
        let core = &*self.shared.core;
        core.check_writable()?;
        let time_us = core.clock.wall_us();
        for message in messages {
            message.validate(core.config.message_bytes_max, time_us)?;
        }
        let tables = copies::stored(messages);
        let bare: Vec<Message<'_>>;
        let stored = if tables.is_empty() {
            messages
        } else {
            let tables = tables.iter().map(|table| table.as_ref().map(Table::as_bytes));
            let both = messages.iter().zip(tables);
            bare = both
                .map(|(message, table)| Message {
                    headers: table.unwrap_or(message.headers),
                    ..*message
                })
                .collect();
            &bare
        };
        let epoch = core.epoch;
        loop {
            let (mut routed, mut version) = self.route_all(messages)?;
            let full = routed.full(core, messages);
            let mut letters = Vec::new();
            if !full.is_empty() {
                (routed, version) =
                    self.route_past(messages, stored, whole, &full, &mut letters)?;
            }
            let beside: Vec<Message<'_>>;
            let messages = if letters.is_empty() {
                stored
            } else {
                let copies = letters.iter().map(|letter| letter.message(&stored[0]));
                beside = std::iter::once(stored[0]).chain(copies).collect();
                &beside
            };
            let records = Records { messages, routed: &routed, whole, time_us, epoch };
            let need = records.need();
            if messages.len() + whole.acks.len() > 1 {
                within(whole.what, need.bytes, core.config.batch_bytes_max())?;
            }
            within("message", need.bytes, core.config.store_share())?;
            let (state, promise) = room_for(core, need, wait)?;
            if version.is_some_and(|version| version != state.version) {
                continue;
            }
            if let Some((known, _)) = whole.numbered {
                known.check()?;
            }
            let dropped = messages.len() - need.messages as usize;
            if dropped > 0 && full.is_empty() {
                core.stats.unroutable_dropped(dropped);
                // A number is used by what has a place.
                if need.messages == 0 && whole.acks.is_empty() {
                    let first = state.next_offset();
                    return Ok(self.ticket(Placed::nothing(first)));
                }
            }
            let ticket = self.ticket(records.place(core, state, need, promise, blocking));
            if full.is_empty() {
                return Ok(ticket);
            }
            core.stats.refused(full.len());
            core.stats.dead_lettered(letters.len() as u64);
            // Its copies are dead letters like any other.
            let stored = u32::from(routed.of(0).is_some());
            return Ok(ticket.refused_by(gate::names(&full).into(), stored));
        }
    }
}
