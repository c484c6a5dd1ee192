//! Publishing, and waiting for confirms.

use std::time::{Duration, SystemTime};

use fanlog::clock::Clock;
use fanlog::{ErrorKind, Message, Table};

use super::{Stop, Work, World};
use crate::model::{
    Acked, BRIEF, Fate, HEADS, Id, MORTAL, NAMES, ODD, OWN, PAST, RANKED, SHORT, STRICT,
    STRICT_MAX, Sent, message_headers,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Ticket,
    /// As a publisher with a name.
    Named(usize),
    Confirmed,
    Batch,
}

impl World {
    pub(super) fn publish(&mut self) -> Work {
        let (how, count) = match self.random.below(10) {
            0..7 => (How::Ticket, 1),
            7 => (How::Confirmed, 1),
            _ => (How::Batch, 2 + self.random.below(10)),
        };
        if self.plan.wide && how == How::Ticket && self.random.chance(20) {
            return self.publish_named();
        }
        let ids: Vec<Id> = (0..count).map(|_| self.offer_sometime()).collect();
        self.publish_ids(how, &ids)
    }

    /// Publishes one message to this place and waits for it.
    ///
    /// # Errors
    ///
    /// If power is cut, or the engine errs.
    pub fn publish_to(&mut self, exchange: &str, key: &str) -> Work {
        let bytes = 8 + self.random.place(300);
        let id = self.model.offer(exchange, key, bytes, false);
        self.publish_ids(How::Confirmed, &[id])
    }

    /// Publishes one message to wherever someone is.
    pub(super) fn publish_some(&mut self, bytes: usize) -> Work {
        let fan = self.model.topology.route("fan", "").is_some_and(|queues| !queues.is_empty());
        let first = self.model.topology.plain_queue();
        let id = match first {
            _ if fan => self.model.offer("fan", "", bytes, false),
            Some(queue) => self.model.offer("", &queue, bytes, false),
            None => return Ok(()),
        };
        self.publish_ids(How::Ticket, &[id])
    }

    pub(super) fn publish_ids(&mut self, how: How, ids: &[Id]) -> Work {
        let before_us = self.clock.wall_us();
        let payloads: Vec<Vec<u8>> = ids.iter().map(|id| self.model.payload(*id)).collect();
        let sent: Vec<_> = ids.iter().map(|id| self.model.sent[*id].clone()).collect();
        let headers: Vec<Table> =
            sent.iter().map(|sent| message_headers(&sent.exchange, &sent.key)).collect();
        let messages: Vec<Message<'_>> = sent
            .iter()
            .zip(payloads.iter().zip(&headers))
            .map(|(sent, (payload, headers))| {
                let message = Message::new(&sent.exchange, &sent.key, payload);
                let message = message.headers(headers.as_bytes());
                let message = if sent.buffered { message.buffered() } else { message };
                let message = if sent.transient { message.transient() } else { message };
                let message = message.priority(sent.priority);
                if sent.due_us == 0 {
                    return message;
                }
                message.due_at(SystemTime::UNIX_EPOCH + Duration::from_micros(sent.due_us))
            })
            .collect();
        let publisher = self.engine().publisher();
        let unroutable = sent.iter().any(|sent| sent.queues.is_empty());
        let strict = self.engine().queue(STRICT).ok().map_or(0, |view| view.ready);
        let outcome = match how {
            How::Ticket => publisher.publish(&messages[0]).map(|ticket| (Some(ticket), None)),
            How::Named(who) => self
                .engine()
                .declare_publisher(NAMES[who])
                .and_then(|named| Ok((Some(named.publish(sent[0].sequence, &messages[0])?), None))),
            How::Batch => publisher.publish_batch(&messages).map(|ticket| (Some(ticket), None)),
            How::Confirmed => {
                publisher.publish_confirmed(&messages[0]).map(|confirm| (None, Some(confirm)))
            }
        };
        self.note(|| format!("publish {how:?} {ids:?} {:?}", outcome.as_ref().map(|_| ())));
        match outcome {
            Err(error)
                if unroutable
                    && matches!(error.kind(), ErrorKind::Unroutable | ErrorKind::NotFound) =>
            {
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::QueueFull => return self.refused(&sent),
            Ok(_) if sent.iter().any(is_for_strict) && strict >= STRICT_MAX as u64 => {
                return Err(Stop::Problem(format!(
                    "message {ids:?} was taken, and there is no room"
                )));
            }
            Ok(_) if unroutable => {
                return Err(Stop::Problem(format!("message {ids:?} had no queue and was taken")));
            }
            Err(error) => {
                if how == How::Confirmed {
                    // It may have been placed before the failure.
                    self.model.appended(ids[0]);
                }
                return Err(self.failed("publish", error));
            }
            Ok((ticket, confirm)) => {
                for id in ids {
                    self.model.appended(*id);
                }
                self.model.shown(before_us);
                self.model.shown(self.clock.wall_us());
                if let Some(ticket) = ticket {
                    if ticket.is_repeat() {
                        return Err(Stop::Problem(format!("message {ids:?} is called a repeat")));
                    }
                    self.tickets.push((ticket, ids.to_vec()));
                }
                if let Some(confirm) = confirm {
                    self.confirmed(ids, confirm.first_offset.0)?;
                }
            }
        }
        self.count_published(how, &sent);
        Ok(())
    }

    fn count_published(&mut self, how: How, sent: &[Sent]) {
        self.counts.published += sent.len() as u64;
        self.counts.batches += u64::from(how == How::Batch);
        self.counts.buffered += u64::from(sent[0].buffered);
        self.counts.transient += u64::from(sent[0].transient);
        self.counts.by_headers += u64::from(*sent[0].exchange == *HEADS);
        let unwanted =
            *sent[0].exchange == *ODD && self.model.topology.is_unwanted(ODD, &sent[0].key);
        self.counts.by_alternate += u64::from(unwanted);
        self.counts.named += u64::from(matches!(how, How::Named(_)));
    }

    /// A queue had no room, and nothing was stored: that has to be so.
    fn refused(&mut self, sent: &[Sent]) -> Work {
        let more = sent.iter().filter(|sent| is_for_strict(sent)).count();
        let queue = self.model.topology.queues[STRICT];
        let entries = self.model.queues[queue].entries.values();
        let there = entries.filter(|entry| entry.acked != Acked::Durable).count();
        if more == 0 || there + more <= STRICT_MAX {
            let text = format!("{more} were refused, and there are at most {there} in the queue");
            return Err(Stop::Problem(text));
        }
        self.counts.refused_full += 1;
        self.settle_tickets()
    }

    /// Offers a message that is now and then delayed.
    fn offer_sometime(&mut self) -> Id {
        let id = self.offer();
        if self.model.sent[id].letter.is_some() || *self.model.sent[id].exchange == *PAST {
            return id;
        }
        if self.random.chance(6) {
            let delay_us = 1 + self.random.below(2_000_000);
            self.model.sent[id].due_us = self.clock.wall_us() + delay_us;
            self.model.sent[id].fell_due = false;
            self.counts.delayed += 1;
        }
        if self.plan.wide {
            self.model.sent[id].transient = self.random.chance(8);
        }
        id
    }

    pub(super) fn offer(&mut self) -> Id {
        let id = self.offer_plain();
        if self.plan.wide && self.random.chance(30) {
            self.model.sent[id].priority = u8::try_from(self.random.below(6)).unwrap_or(0);
        }
        id
    }

    fn offer_plain(&mut self) -> Id {
        let buffered = self.random.chance(12);
        let bytes = match self.random.below(1000) {
            0..700 => 8 + self.random.place(600),
            700..900 => 600 + self.random.place(5000),
            900..993 => 5000 + self.random.place(20_000),
            // Larger than a small segment.
            _ => 66_000 + self.random.place(40_000),
        };
        if self.plan.wide && self.random.chance(12) {
            let queue = [MORTAL, MORTAL, RANKED][self.random.place(3)];
            return self.model.offer("", queue, bytes.min(6000), false);
        }
        if self.plan.wide && self.random.chance(20) {
            return self.offer_special(bytes.min(6000), buffered);
        }
        match self.random.below(10) {
            0..6 => self.model.offer("fan", "", bytes, buffered),
            6..8 => {
                let key = ["k0", "k1", "k2"][self.random.place(3)];
                self.model.offer("dir", key, bytes, buffered)
            }
            8 => {
                let keys = ["k0", "k1", "k0.k1", "k0.x.k1", "k2.x", ""];
                let key = keys[self.random.place(keys.len())];
                self.model.offer("top", key, bytes, buffered)
            }
            _ => {
                let queue = ["a", "b", "c", "d", "e"][self.random.place(5)];
                self.model.offer("", queue, bytes, buffered)
            }
        }
    }

    /// Offers a message to what is more than a plain queue or exchange.
    fn offer_special(&mut self, bytes: usize, buffered: bool) -> Id {
        match self.random.below(8) {
            0..2 => self.model.offer("", SHORT, bytes, false),
            2 => self.model.offer("", STRICT, bytes, buffered),
            3 => {
                let queue = [BRIEF, OWN][self.random.place(2)];
                self.model.offer("", queue, bytes, buffered)
            }
            4 => {
                let key = ["", "a", "b", "ab", "bc", "abc"][self.random.place(6)];
                self.model.offer(HEADS, key, bytes, buffered)
            }
            5 => {
                let key = ["k0", "k1", "none"][self.random.place(3)];
                self.model.offer(ODD, key, bytes, buffered)
            }
            _ => self.model.offer(PAST, "", bytes, buffered),
        }
    }

    /// Takes note of a confirm, which every message of the publish shares.
    fn confirmed(&mut self, ids: &[Id], first: u64) -> Work {
        let durable = self.engine().stats().durable_offset.0;
        self.model.shown(self.clock.wall_us());
        for (id, offset) in ids.iter().zip(first..) {
            let sent = &self.model.sent[*id];
            if offset >= durable && !sent.buffered && !sent.transient {
                return Err(Stop::Problem(format!(
                    "message {id} is confirmed at offset {offset}, durable is {durable}"
                )));
            }
            self.model.sent[*id].fate = Fate::Confirmed(offset);
        }
        self.model.committed(ids);
        Ok(())
    }

    /// Takes note of the outcomes that there are.
    pub(crate) fn settle_tickets(&mut self) -> Work {
        let mut left = Vec::new();
        for (ticket, ids) in std::mem::take(&mut self.tickets) {
            match ticket.try_wait() {
                None => left.push((ticket, ids)),
                Some(Ok(confirm)) => self.confirmed(&ids, confirm.first_offset.0)?,
                Some(Err(error)) if !self.is_broken() => return Err(self.failed("ticket", error)),
                Some(Err(_)) => {}
            }
        }
        self.tickets = left;
        Ok(())
    }

    /// Publishes that have no outcome yet.
    pub fn unsettled(&self) -> usize {
        self.tickets.len()
    }

    pub(super) fn wait_for_one(&mut self) -> Work {
        if self.tickets.is_empty() {
            return Ok(());
        }
        let at = self.random.place(self.tickets.len());
        self.note(|| format!("wait {at}"));
        let outcome = self.tickets[at].0.wait();
        outcome.map_err(|error| self.failed("wait", error))?;
        self.settle_tickets()
    }

    pub(super) fn wait_for_all(&mut self) -> Work {
        for at in 0..self.tickets.len() {
            let outcome = self.tickets[at].0.wait();
            outcome.map_err(|error| self.failed("wait", error))?;
        }
        self.settle_tickets()
    }
}

fn is_for_strict(sent: &Sent) -> bool {
    sent.exchange.is_empty() && *sent.key == *STRICT
}
