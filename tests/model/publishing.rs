//! What publishers bring: one message, several as one, transactions.

use std::time::Duration;

use fanlog::{Durability, ErrorKind};

use crate::{
    broker::{Answer, Broker},
    operations::{Every, Sent, Settle},
    queue::{At, Entry, Flag, Reason},
    routing::{Ways, without},
};

/// A message, and the queues that get it.
type Routed = (Entry, Vec<String>);

impl Broker {
    /// Whether a message is delayed in a queue that drops what is too much: what is not due counts
    /// there only as far as the queue has come to it.
    pub(crate) fn is_vague(&self, message: &Sent) -> bool {
        let routed = self.routed(message);
        let queues = routed.map_or_else(|_| Vec::new(), |(_, queues)| queues);
        message.delay > 0 && queues.iter().any(|queue| self.queues[queue].drops_head())
    }

    /// What it has published before is confirmed, whatever it is, and not stored.
    pub(super) fn publish_numbered(
        &mut self,
        sequence: u64,
        message: &Sent,
    ) -> Result<Answer, ErrorKind> {
        if sequence <= self.last_sequence {
            return Ok(Answer::Done);
        }
        let before = self.next_place;
        let answer = self.publish_one(message);
        // What was dropped, or refused by all, has used no number.
        if self.next_place > before {
            self.last_sequence = sequence;
        }
        answer
    }

    /// Queues that are full do not get it, and are told of; those that want to have their copy
    /// dead-lettered instead.
    pub(super) fn publish_one(&mut self, message: &Sent) -> Result<Answer, ErrorKind> {
        let (mut entry, mut queues) = self.routed(message)?;
        let full = self.full(&[(entry.clone(), queues.clone())]);
        queues.retain(|queue| !full.contains(queue));
        entry.ways = without(&entry.ways, &full);
        let dead: Vec<(&String, Routed)> = full
            .iter()
            .filter(|name| self.queues[*name].dead_letters_refused())
            .filter_map(|name| Some((name, self.letter(name, &entry, Reason::MaxLength)?)))
            .collect();
        let mut routed = vec![(entry, queues)];
        routed.extend(dead.into_iter().map(|(_, letter)| letter));
        self.store(routed);
        if full.is_empty() { Ok(Answer::Done) } else { Err(ErrorKind::QueueFull) }
    }

    /// All of them, or none.
    pub(super) fn publish(&mut self, messages: &[Sent]) -> Result<Answer, ErrorKind> {
        let routed = messages.iter().map(|message| self.routed(message));
        let routed = routed.collect::<Result<Vec<_>, _>>()?;
        if !self.full(&routed).is_empty() {
            return Err(ErrorKind::QueueFull);
        }
        self.store(routed);
        Ok(Answer::Done)
    }

    /// What can't be published is told when it is added, or at the commit: the rest is given up then.
    pub(super) fn transaction(
        &mut self,
        messages: &[Sent],
        acks: Every,
        commit: bool,
    ) -> Result<Answer, ErrorKind> {
        for message in messages {
            self.routed(message)?;
        }
        let moment = self.moment();
        let published = if commit { self.publish(messages) } else { Ok(Answer::Done) };
        let acked = commit && published.is_ok();
        let how = if acked { Settle::Ack { wait: true } } else { Settle::Requeue };
        for place in acks.places(self.held.len()) {
            // What was added by its tag stays where it is.
            if acked || !self.held[place].by_tag {
                self.settle(place, how, moment);
            }
        }
        published
    }

    /// A message as it is stored, and where; nowhere if it may be dropped.
    fn routed(&self, message: &Sent) -> Result<Routed, ErrorKind> {
        if !message.exchange.is_empty() && self.exchange(message.exchange)?.options.internal {
            return Err(ErrorKind::Usage);
        }
        let more = message.cc.iter().chain(message.bcc).copied();
        let keys: Vec<&str> = std::iter::once(message.key).chain(more).collect();
        let ways = match self.route(message.exchange, &keys, message.headers) {
            Err(ErrorKind::Unroutable) if message.optional => Ways::new(),
            other => other?,
        };
        let queues = ways.keys().cloned().collect();
        let entry = Entry {
            place: 0,
            birth: 0,
            bytes: message.bytes,
            key: message.key.to_owned(),
            cc: message.cc,
            headers: message.headers,
            priority: message.priority,
            durability: message.durability,
            since: self.now() + Duration::from_secs(message.delay),
            expiry: message.ttl.map(|ttl| self.now() + Duration::from_secs(ttl)),
            deaths: Vec::new(),
            flag: Flag::No,
            returns: 0,
            at: At::Queue,
            fresh: true,
            old: false,
            published: self.now(),
            ways,
        };
        Ok((entry, queues))
    }

    /// The queues that refuse some of these messages, as they were declared.
    fn full(&self, messages: &[Routed]) -> Vec<String> {
        let mut full: Vec<&String> = self.queues.keys().collect();
        full.retain(|name| {
            let its = messages.iter().filter(|(_, queues)| queues.contains(name));
            let more: Vec<usize> = its.map(|(entry, _)| entry.bytes).collect();
            !more.is_empty() && self.queues[*name].refuses(&more)
        });
        full.sort_by_key(|name| self.queues[*name].number);
        full.into_iter().cloned().collect()
    }

    /// Stores messages, in order, but those that no queue gets.
    fn store(&mut self, messages: Vec<Routed>) {
        // Each has a payload of its own, stored or not.
        let births = self.next_place..;
        let letters_of = messages.first().map(|_| self.next_place);
        for ((entry, queues), birth) in messages.into_iter().zip(births) {
            if queues.is_empty() {
                continue;
            }
            let birth = if entry.deaths.is_empty() { Some(birth) } else { letters_of };
            let birth = birth.expect("there are messages");
            let place = self.next_place;
            self.next_place += 1;
            // What is not transient is synced, with all before it.
            self.unwritten = entry.durability != Durability::Synced;
            for name in queues {
                let queue = self.queues.get_mut(&name).expect("it was routed there");
                queue.arrive(&name, Entry { place, birth, ..entry.clone() });
            }
        }
    }
}
