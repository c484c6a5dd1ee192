//! Transactions: publishes, and acks of what consumers hold, as one.

use std::collections::BTreeMap;

use fanlog::clock::Clock;
use fanlog::{DeliveryTag, ErrorKind, Message};

use super::{Stop, Work, World};
use crate::model::{Acked, Doubt, Id, QueueId, STRICT, message_headers};

impl World {
    /// Puts together a transaction by chance, of messages and of what some consumers hold, and
    /// commits it, or rolls it back.
    pub(super) fn transact(&mut self) -> Work {
        let before_us = self.clock.wall_us();
        let count = 1 + self.random.below(4);
        let ids: Vec<Id> = (0..count).map(|_| self.offer()).collect();
        // Nothing of it would be refused before it is committed.
        if ids.iter().any(|id| *self.model.sent[*id].key == *STRICT) {
            return Ok(());
        }
        let mut chosen: Vec<(usize, DeliveryTag)> = Vec::new();
        for at in 0..self.takers.len() {
            let tags: Vec<DeliveryTag> = self.takers[at].hands.keys().copied().collect();
            let share = [0, 30, 100][self.random.place(3)];
            chosen.extend(
                tags.into_iter().filter(|_| self.random.chance(share)).map(|tag| (at, tag)),
            );
        }
        let mut transaction = self.engine().begin();
        let sent: Vec<_> = ids.iter().map(|id| self.model.sent[*id].clone()).collect();
        let unroutable = sent.iter().any(|sent| sent.queues.is_empty());
        for (sent, id) in sent.iter().zip(&ids) {
            let payload = self.model.payload(*id);
            let headers = message_headers(&sent.exchange, &sent.key);
            let message = Message::new(&sent.exchange, &sent.key, &payload);
            let message = message.headers(headers.as_bytes());
            let message = if sent.buffered { message.buffered() } else { message };
            let message = message.priority(sent.priority);
            match transaction.publish(&message) {
                Ok(()) => {}
                Err(error)
                    if sent.queues.is_empty()
                        && matches!(error.kind(), ErrorKind::Unroutable | ErrorKind::NotFound) =>
                {
                    self.note(|| "transaction: nowhere".to_owned());
                    return Ok(());
                }
                Err(error) => return Err(self.failed("publish in a transaction", error)),
            }
        }
        if unroutable {
            return Err(Stop::Problem(format!("one of {ids:?} had no queue and was taken")));
        }
        for (at, tag) in &chosen {
            let added = transaction.ack_tag(&self.takers[*at].consumer, *tag);
            added.map_err(|error| self.failed("ack in a transaction", error))?;
        }
        let commits = !self.random.chance(20);
        self.note(|| format!("transaction {ids:?} and {chosen:?}, commits: {commits}"));
        if !commits {
            transaction.roll_back();
            return Ok(());
        }
        let ticket = transaction.commit().map_err(|error| self.failed("commit", error))?;
        for id in &ids {
            self.model.appended(*id);
        }
        self.model.shown(before_us);
        self.model.shown(self.clock.wall_us());
        let mut acks: BTreeMap<QueueId, Vec<Id>> = BTreeMap::new();
        for (at, tag) in chosen {
            let taker = &mut self.takers[at];
            let id = taker.hands.remove(&tag).expect("it is held");
            acks.entry(taker.queue).or_default().push(id);
        }
        for (queue, ids) in &acks {
            self.set_acked(*queue, ids, Acked::Asked);
        }
        let acks =
            acks.into_iter().flat_map(|(queue, ids)| ids.into_iter().map(move |id| (queue, id)));
        let acks: Vec<_> = acks.collect();
        self.counts.transactions += u64::from(!acks.is_empty());
        self.model.transactions.push(Doubt { messages: ids.clone(), acks });
        self.tickets.push((ticket, ids));
        Ok(())
    }
}
