//! Moves messages that leave a queue to its dead-letter exchange.
//!
//! In: messages, from `deliver::leaving`, under the dispatch lock of their queue. Out: one batch with
//! their copies and the ack of the originals. Nothing here waits: where there is no room for the copies,
//! or the topology changes just then, the messages stay where they are, to be moved later.
//!
//! What a full queue refuses is copied by its publisher, beside the message itself.
//!
//! The copy has no time to live of its own, else it could expire again where it comes to; what it had is in
//! the history (`original-expiration`).
//!
//! M1. The copy of a message and the ack of the original stand in one batch.
//! M2. A message goes in a circle only if somebody rejected it on the way round.

mod history;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use fanlog_segment_format::QueueId;

pub(crate) use self::history::Reason;
use self::history::{Death, cycling, with_death};
use crate::{
    Durability, Error, Message, Result, copies,
    core::Core,
    deliver::{Claim, Ready},
    gate::Gate,
    pending::PendingAcks,
    publish::place_routed,
    queue::{NO_PLACE, Place, Queue},
    route::Routed,
};

/// A message about to be copied.
struct Letter {
    ready: Ready,
    key: String,
    headers: Vec<u8>,
    /// Queues that it must not come to again.
    not_to: Vec<String>,
}

impl Letter {
    /// The copy of a message that is not damaged, and that was published to `exchange`.
    fn of(core: &Core, queue: &Queue, ready: Ready, reason: Reason, exchange: &str) -> Self {
        let bytes = ready.guard.bytes();
        let key = String::from_utf8_lossy(ready.fields.key.of(bytes)).into_owned();
        let death = Death {
            queue: &queue.name,
            reason,
            exchange,
            key: &key,
            time_us: core.clock.wall_us(),
            ttl_us: ready.fields.expiry_us.map(|us| us.saturating_sub(ready.fields.time_us)),
        };
        let headers = ready.fields.headers.of(bytes);
        let not_to = cycling(headers, &death);
        let other = queue.options().dead_letter_key.clone();
        let headers = letter_headers(headers, &death, other.is_some());
        Self { key: other.unwrap_or(key), ready, headers, not_to }
    }

    fn message<'a>(&'a self, exchange: &'a str) -> Message<'a> {
        let (fields, bytes) = (&self.ready.fields, self.ready.guard.bytes());
        Message {
            priority: fields.priority,
            durability: durability(fields.transient),
            ..Message::new(exchange, &self.key, fields.payload.of(bytes))
                .properties(fields.properties.of(bytes))
                .headers(&self.headers)
        }
    }
}

/// The headers of a copy: with a key that is not the message's, no other key goes with it either.
fn letter_headers(headers: &[u8], death: &Death<'_>, other_key: bool) -> Vec<u8> {
    let told = with_death(headers, death);
    let bare = if other_key { copies::without_any(&told) } else { None };
    bare.map_or(told, |bare| bare.as_bytes().to_vec())
}

/// The copy of a message that a full queue refused, and where it goes.
pub(crate) struct Refused<'a> {
    exchange: &'a str,
    key: &'a str,
    headers: Vec<u8>,
    pub(crate) routed: Routed,
}

impl<'a> Refused<'a> {
    /// `None` if there is no copy: the queue wants none, or it would go nowhere.
    ///
    /// # Errors
    ///
    /// The engine ended, or numbers are used up.
    pub(crate) fn of(core: &Core, gate: &'a Gate, message: &Message<'a>) -> Result<Option<Self>> {
        let Some((exchange, key)) = gate.dead_letters() else { return Ok(None) };
        let death = Death {
            queue: gate.name(),
            reason: Reason::MaxLength,
            exchange: message.exchange,
            key: message.routing_key,
            time_us: core.clock.wall_us(),
            ttl_us: message.expiry_us(0),
        };
        let not_to = cycling(message.headers, &death);
        let headers = letter_headers(message.headers, &death, key.is_some());
        let key = key.unwrap_or(message.routing_key);
        let to = (exchange, key, headers.as_slice());
        let routed = route(core, to, &not_to, is_transient(message), false)?;
        Ok(routed.map(|routed| Self { exchange, key, headers, routed }))
    }

    /// The copy.
    pub(crate) fn message<'b>(&'b self, of: &Message<'b>) -> Message<'b> {
        Message {
            priority: of.priority,
            durability: durability(is_transient(of)),
            ..Message::new(self.exchange, self.key, of.payload)
                .properties(of.properties)
                .headers(&self.headers)
        }
    }
}

fn is_transient(message: &Message<'_>) -> bool {
    message.durability == Durability::Transient
}

/// The copy of a transient message is transient too; of any other it is synced, as the ack of the
/// original is in the same batch.
fn durability(transient: bool) -> Durability {
    if transient { Durability::Transient } else { Durability::Synced }
}

/// Where a copy with this exchange, key and these headers goes; `None` if nowhere: then there is none.
fn route(
    core: &Core,
    to: (&str, &str, &[u8]),
    not_to: &[String],
    transient: bool,
    at_once: bool,
) -> Result<Option<Routed>> {
    let routed = core.route_without(to, transient, at_once, |tables| {
        let queues = not_to.iter().filter_map(|name| tables.queue(name).ok());
        queues.collect::<Vec<QueueId>>()
    });
    match routed {
        Err(Error::Unroutable { .. } | Error::NotFound { .. }) => Ok(None),
        other => other,
    }
}

/// Moves messages, all or none, and says whether it did. The caller has the queue's dispatch lock.
///
/// # Errors
///
/// A message could not be read: nothing was moved.
pub(crate) fn relocate(
    core: &Core,
    queue: &Arc<Queue>,
    leaving: &[(Claim, Reason)],
) -> Result<bool> {
    let exchange = queue.options().dead_letter_exchange.as_deref().unwrap_or_default();
    let mut letters = Vec::with_capacity(leaving.len());
    for (claim, reason) in leaving {
        let ready = claim.read(core)?;
        // Of one whose bytes are damaged there is nothing to copy.
        if ready.damage.is_none() {
            let Ok(exchange) = core.exchange_name_at_once(ready.fields.exchange) else {
                return Ok(false);
            };
            letters.push(Letter::of(core, queue, ready, *reason, &exchange));
        }
    }
    let claims: Vec<Claim> = leaving.iter().map(|(claim, _)| *claim).collect();
    loop {
        let (mut messages, mut targets) = (Vec::new(), Vec::new());
        for letter in &letters {
            // The engine ended, numbers are used up, or the topology changes just now and whoever does
            // it may wait for this queue: it stays as it is.
            let Letter { ready, key, headers, not_to } = letter;
            let to = (exchange, key.as_str(), headers.as_slice());
            let Ok(target) = route(core, to, not_to, ready.fields.transient, true) else {
                return Ok(false);
            };
            if let Some(target) = target {
                messages.push(letter.message(exchange));
                targets.push(target);
            }
        }
        if messages.is_empty() {
            if queue.ack(&core.dirty, &core.log, &claims).1 {
                core.acks_wait();
            }
            return Ok(true);
        }
        let mut pending = PendingAcks::default();
        for claim in &claims {
            pending.insert(&core.log, claim);
        }
        let mut acks = Vec::new();
        pending.drain(queue.id, &core.log, &mut acks);
        let place: Place = Arc::new(AtomicU64::new(NO_PLACE));
        queue.commit_begins(&claims, &place, core.confirms.finished());
        match place_routed(core, &messages, targets, &acks) {
            Ok(Some(number)) => {
                place.store(number.0, Ordering::Release);
                core.stats.dead_lettered(messages.len() as u64);
                return Ok(true);
            }
            // The topology changed: they are routed again.
            Ok(None) => queue.commit_failed(&claims, &place),
            Err(_) => {
                queue.commit_failed(&claims, &place);
                return Ok(false);
            }
        }
    }
}
