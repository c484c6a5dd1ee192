//! Consumers: receiving, settling, dying.

use std::collections::BTreeMap;
use std::time::Duration;

use fanlog::clock::Clock;
use fanlog::{Ack, Consumer, ConsumerOptions, Delivery, DeliveryTag};

use super::{Stop, Work, World};
use crate::model::{Acked, Fate, Id, LETTERS, Model, OWN, QueueId, SHORT, message_headers};

/// A consumer and what it holds.
#[derive(Debug)]
pub(super) struct Taker {
    pub(super) consumer: Consumer,
    pub(super) queue: QueueId,
    pub(super) hands: BTreeMap<DeliveryTag, Id>,
}

/// A delivery as a consumer sees it, whichever way it came.
pub(super) struct Came<'a> {
    payload: &'a [u8],
    key: &'a [u8],
    headers: &'a [u8],
    offset: u64,
    redelivered: bool,
    count: u32,
    damaged: bool,
}

impl<'a> Came<'a> {
    pub(super) fn of(delivery: &'a Delivery) -> Self {
        Self {
            payload: delivery.payload(),
            key: delivery.routing_key(),
            headers: delivery.headers(),
            offset: delivery.offset().0,
            redelivered: delivery.redelivered(),
            count: delivery.delivery_count(),
            damaged: delivery.damage().is_some(),
        }
    }
}

impl World {
    pub(super) fn subscribe(&mut self) -> Work {
        if self.takers.len() >= 6 {
            self.drop_taker();
            return Ok(());
        }
        let names: Vec<String> = self.model.topology.queues.keys().cloned().collect();
        if names.is_empty() {
            return Ok(());
        }
        let name = self.one_of(&names);
        let prefetch = [1, 3, 20, 256, 0][self.random.place(5)];
        self.note(|| format!("consume {name} {prefetch}"));
        let taker = self.taker(&name, prefetch)?;
        self.takers.push(taker);
        Ok(())
    }

    /// One of these queues: of a few choices one that has something.
    pub(super) fn one_of(&mut self, names: &[String]) -> String {
        let mut name = &names[self.random.place(names.len())];
        let choices = if self.plan.wide { 3 } else { 0 };
        for _ in 0..choices {
            if self.model.has_outstanding(self.model.topology.queues[name]) {
                break;
            }
            name = &names[self.random.place(names.len())];
        }
        name.clone()
    }

    pub(super) fn taker(&mut self, name: &str, prefetch: u32) -> Work<Taker> {
        let options = ConsumerOptions::prefetch(prefetch);
        let consumer = match &self.owner {
            Some(owner) if name == OWN => owner.consume(&options),
            _ => self.engine().consume(name, options),
        };
        let consumer = consumer.map_err(|error| self.failed("consume", error))?;
        let queue = self.model.topology.queues[name];
        Ok(Taker { consumer, queue, hands: BTreeMap::new() })
    }

    pub(super) fn receive(&mut self) -> Work {
        if self.takers.is_empty() {
            return self.subscribe();
        }
        let at = self.random.place(self.takers.len());
        if self.random.chance(20) {
            return self.receive_batch(at);
        }
        let taker = &self.takers[at];
        let received = if self.random.chance(50) {
            taker.consumer.try_recv()
        } else {
            taker.consumer.recv_timeout(Duration::ZERO)
        };
        self.settle_tickets()?;
        let Some(delivery) = received.map_err(|error| self.failed("receive", error))? else {
            self.note(|| format!("receive {at}: nothing"));
            return Ok(());
        };
        let queue = self.takers[at].queue;
        let id = self.came(queue, &Came::of(&delivery))?;
        let exchange = delivery.exchange();
        let known = *exchange == *self.model.sent[id].exchange;
        let forgotten = self.model.exchange_deleted && exchange.is_empty();
        if !known && !forgotten {
            return Err(Stop::Problem(format!("message {id} came from exchange {exchange:?}")));
        }
        if self.plan.wide {
            self.keep_payload(id, &delivery)?;
        }
        let choice = self.random.below(20);
        self.note(|| format!("receive {at}: {id} choice {choice}"));
        match choice {
            0..9 => {
                self.takers[at].hands.insert(delivery.keep(), id);
                Ok(())
            }
            9..15 => {
                let ack = delivery.ack().map_err(|error| self.failed("ack", error))?;
                self.acked(queue, vec![id], ack)
            }
            15..17 => {
                delivery.nack(true).map_err(|error| self.failed("nack", error))?;
                self.given_back(queue, &[id]);
                Ok(())
            }
            17..19 => {
                drop(delivery);
                self.given_back(queue, &[id]);
                Ok(())
            }
            _ => {
                delivery.nack(false).map_err(|error| self.failed("nack", error))?;
                self.rejected(queue, id);
                Ok(())
            }
        }
    }

    /// Keeps some payloads for a while, and looks whether they are the same then.
    fn keep_payload(&mut self, id: Id, delivery: &Delivery) -> Work {
        if self.random.chance(15) {
            self.payloads.push_back((id, delivery.to_payload()));
        }
        if self.payloads.len() > 12
            && let Some((id, payload)) = self.payloads.pop_front()
        {
            let (found, _) = payload.split_at(8);
            let same = self.model.recognise(&payload).is_ok_and(|found| found == self.body(id));
            if !same {
                return Err(Stop::Problem(format!("the payload of {id} changed: {found:?}..")));
            }
            self.counts.kept_payloads += 1;
        }
        Ok(())
    }

    /// The message whose bytes a message has: a dead letter has those of the original.
    fn body(&self, id: Id) -> Id {
        match id.checked_sub(1) {
            Some(before) if self.model.sent[before].letter == Some(id) => before,
            _ => id,
        }
    }

    /// Receives one message, if one comes, and acks it or keeps it.
    pub(super) fn receive_and_keep(&mut self) -> Work {
        if self.takers.is_empty() {
            self.subscribe()?;
        }
        let at = self.random.place(self.takers.len());
        let received = self.takers[at].consumer.try_recv();
        let Some(delivery) = received.map_err(|error| self.failed("receive", error))? else {
            return Ok(());
        };
        let queue = self.takers[at].queue;
        let id = self.came(queue, &Came::of(&delivery))?;
        if self.random.chance(50) {
            self.takers[at].hands.insert(delivery.keep(), id);
            return Ok(());
        }
        let ack = delivery.ack().map_err(|error| self.failed("ack", error))?;
        self.set_acked(queue, &[id], Acked::Asked);
        self.acks.push((ack, queue, vec![id]));
        Ok(())
    }

    fn receive_batch(&mut self, at: usize) -> Work {
        let max = 1 + self.random.place(30);
        let received = self.takers[at].consumer.recv_batch(max, Duration::ZERO);
        self.settle_tickets()?;
        let batch = received.map_err(|error| self.failed("receive", error))?;
        let queue = self.takers[at].queue;
        let mut ids = Vec::new();
        for delivery in batch.iter() {
            let came = Came {
                payload: delivery.payload(),
                key: delivery.routing_key(),
                headers: delivery.headers(),
                offset: delivery.offset().0,
                redelivered: delivery.redelivered(),
                count: delivery.delivery_count(),
                damaged: delivery.damage().is_some(),
            };
            ids.push(self.came(queue, &came)?);
        }
        let choice = self.random.below(10);
        self.note(|| format!("receive {at}: {ids:?} choice {choice}"));
        if ids.is_empty() {
            return Ok(());
        }
        match choice {
            0..5 => {
                let kept = batch.keep().into_iter().zip(ids);
                self.takers[at].hands.extend(kept);
                Ok(())
            }
            5..8 => {
                let ack = batch.ack().map_err(|error| self.failed("ack", error))?;
                self.acked(queue, ids, ack)
            }
            8 => {
                batch.nack(true).map_err(|error| self.failed("nack", error))?;
                self.given_back(queue, &ids);
                Ok(())
            }
            _ => {
                drop(batch);
                self.given_back(queue, &ids);
                Ok(())
            }
        }
    }

    /// Judges a delivery, and notes that the message is in someone's hands.
    pub(super) fn came(&mut self, queue: QueueId, came: &Came<'_>) -> Work<Id> {
        self.came_since(queue, came, 0)
    }

    /// The same for one that was dealt since this date.
    pub(super) fn came_since(
        &mut self,
        queue: QueueId,
        came: &Came<'_>,
        since_us: u64,
    ) -> Work<Id> {
        self.model.shown(self.clock.wall_us());
        if *self.model.queues[queue].name == *LETTERS {
            let letter = self.model.recognise_in(LETTERS, came.payload).map_err(Stop::Problem)?;
            self.model.seen_letter(letter, came.offset).map_err(Stop::Problem)?;
            self.counts.letters += 1;
            let original = letter.checked_sub(1).map(|id| &self.model.sent[id]);
            self.counts.shortened += u64::from(original.is_some_and(|sent| *sent.key == *SHORT));
        }
        let id = judge_delivery(&self.model, queue, came, since_us)
            .map_err(|problem| Stop::Problem(format!("queue {queue}: {problem}")))?;
        self.counts.received += 1;
        self.counts.redelivered += u64::from(came.redelivered);
        let entry = self.model.queues[queue].entries.get_mut(&id).expect("it was judged");
        entry.in_hands = true;
        entry.handed_out = true;
        entry.times.handed_out(came.count, came.redelivered);
        Ok(id)
    }

    fn given_back(&mut self, queue: QueueId, ids: &[Id]) {
        self.counts.requeued += ids.len() as u64;
        for id in ids {
            if let Some(entry) = self.model.queues[queue].entries.get_mut(id) {
                entry.in_hands = false;
            }
        }
    }

    /// A message was rejected: acked, and perhaps a dead letter soon.
    fn rejected(&mut self, queue: QueueId, id: Id) {
        self.set_acked(queue, &[id], Acked::Asked);
        if self.model.sent[id].letter.is_some() {
            self.model.rejected.insert(id);
        }
    }

    pub(super) fn set_acked(&mut self, queue: QueueId, ids: &[Id], acked: Acked) {
        for id in ids {
            if let Some(entry) = self.model.queues[queue].entries.get_mut(id) {
                entry.acked = acked;
                entry.in_hands = false;
            }
        }
    }

    /// Takes note of an ack, and waits for it or not.
    fn acked(&mut self, queue: QueueId, ids: Vec<Id>, ack: Ack) -> Work {
        self.set_acked(queue, &ids, Acked::Asked);
        if !self.random.chance(25) {
            self.counts.acks_lazy += 1;
            self.acks.push((ack, queue, ids));
            return Ok(());
        }
        self.note(|| "wait for the ack".to_owned());
        ack.wait().map_err(|error| self.failed("ack", error))?;
        self.set_acked(queue, &ids, Acked::Durable);
        self.counts.acks_waited += 1;
        self.settle_tickets()
    }

    /// Settles something that a consumer holds, by its tag.
    pub(super) fn settle_one(&mut self) -> Work {
        let holders: Vec<usize> =
            (0..self.takers.len()).filter(|at| !self.takers[*at].hands.is_empty()).collect();
        if holders.is_empty() {
            return self.receive();
        }
        let at = holders[self.random.place(holders.len())];
        let tags: Vec<DeliveryTag> = self.takers[at].hands.keys().copied().collect();
        let tag = tags[self.random.place(tags.len())];
        let queue = self.takers[at].queue;
        let choice = self.random.below(10);
        self.note(|| format!("settle {at} {tag} choice {choice}"));
        if choice < 3 {
            let ack = self.takers[at].consumer.ack_multiple(tag);
            let ack = ack.map_err(|error| self.failed("ack", error))?;
            let hands = &mut self.takers[at].hands;
            let rest = hands.split_off(&DeliveryTag(tag.0 + 1));
            let ids = std::mem::replace(hands, rest).into_values().collect();
            return self.acked(queue, ids, ack);
        }
        let id = self.takers[at].hands.remove(&tag).expect("it is held");
        let consumer = &self.takers[at].consumer;
        if choice < 8 {
            let ack = consumer.ack(tag).map_err(|error| self.failed("ack", error))?;
            self.acked(queue, vec![id], ack)
        } else {
            let requeue = choice == 8;
            consumer.nack(tag, requeue).map_err(|error| self.failed("nack", error))?;
            if requeue {
                self.given_back(queue, &[id]);
            } else {
                self.rejected(queue, id);
            }
            Ok(())
        }
    }

    pub(super) fn drop_taker(&mut self) {
        if self.takers.is_empty() {
            return;
        }
        let at = self.random.place(self.takers.len());
        self.note(|| format!("drop consumer {at}"));
        let taker = self.takers.remove(at);
        self.bury(taker);
    }

    /// A consumer dies; what it held goes back.
    pub(super) fn bury(&mut self, taker: Taker) {
        let Taker { consumer, queue, hands } = taker;
        drop(consumer);
        self.counts.consumers_dropped += 1;
        let ids: Vec<Id> = hands.into_values().collect();
        self.given_back(queue, &ids);
    }

    pub(super) fn bury_all(&mut self, of: Option<QueueId>) {
        let takers = std::mem::take(&mut self.takers);
        for taker in takers {
            if of.is_none_or(|queue| taker.queue == queue) {
                self.bury(taker);
            } else {
                self.takers.push(taker);
            }
        }
    }

    /// Acks that may have become durable before the crash: those that say so must have.
    pub(crate) fn settle_acks(&mut self) {
        for (ack, queue, ids) in std::mem::take(&mut self.acks) {
            if ack.wait_timeout(Duration::ZERO).is_ok() {
                self.set_acked(queue, &ids, Acked::Durable);
            }
        }
    }
}

fn judge_delivery(
    model: &Model,
    queue: QueueId,
    came: &Came<'_>,
    since_us: u64,
) -> Result<Id, String> {
    if came.damaged {
        return Err(format!("offset {} came damaged", came.offset));
    }
    let id = model.recognise_in(&model.queues[queue].name, came.payload)?;
    let sent = &model.sent[id];
    let is_letter = *model.queues[queue].name == *LETTERS;
    if sent.over_us.is_some_and(|(_, surely_us)| surely_us <= since_us) {
        return Err(format!("message {id} came after its time"));
    }
    if !sent.fell_due {
        return Err(format!("message {id} came before it is due"));
    }
    if sent.key.as_bytes() != came.key {
        return Err(format!("message {id} came with another routing key"));
    }
    if message_headers(&sent.exchange, &sent.key).as_bytes() != came.headers && !is_letter {
        return Err(format!("message {id} came with other headers"));
    }
    match sent.fate {
        Fate::Confirmed(offset) if offset == came.offset => {}
        fate => return Err(format!("message {id} came at {}, its fate: {fate:?}", came.offset)),
    }
    let Some(entry) = model.queues[queue].entries.get(&id) else {
        return Err(format!("message {id} came and was never routed there"));
    };
    if entry.acked != Acked::No {
        return Err(format!("message {id} came again, acked: {:?}", entry.acked));
    }
    if entry.in_hands {
        return Err(format!("message {id} came while another consumer has it"));
    }
    if entry.handed_out && !came.redelivered {
        return Err(format!("message {id} came again without its flag"));
    }
    let (least, most) = entry.times.known;
    if came.count < least || came.count > most {
        return Err(format!("message {id} came for time {}, not {least} to {most}", came.count));
    }
    Ok(id)
}
