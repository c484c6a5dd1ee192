//! Who gets a queue's messages, and what becomes of them there.

use std::{collections::VecDeque, time::Duration};

use fanlog::ErrorKind;

use crate::{
    broker::{Answer, Broker, Got},
    operations::Settle,
    queue::{At, Entry, Gone, Place, Queue, Reason},
};

/// A message that somebody has.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) queue: String,
    pub(crate) place: Place,
    /// Who, if it is a consumer.
    consumer: Option<u64>,
}

/// A consumer.
#[derive(Debug, Clone)]
pub(crate) struct Consumer {
    number: u64,
    /// Messages that it may still be dealt.
    credit: u32,
    inbox: VecDeque<Place>,
}

impl Queue {
    /// Deals what is ready, round-robin, as far as anyone has credit. Returns what leaves on the way.
    fn deal(&mut self, now: Duration) -> Gone {
        let mut gone = self.shorten(now);
        while self.consumers.iter().any(|consumer| consumer.credit > 0) {
            let (next, passed) = self.next(now);
            gone.extend(passed);
            let Some(place) = next else { break };
            self.entry(place).at = At::Inbox;
            let count = self.consumers.len();
            while self.consumers[self.turn % count].credit == 0 {
                self.turn += 1;
            }
            let which = self.turn % count;
            self.turn = which + 1;
            self.consumers[which].credit -= 1;
            self.consumers[which].inbox.push_back(place);
        }
        gone
    }

    fn consumer(&mut self, number: u64) -> Option<&mut Consumer> {
        self.consumers.iter_mut().find(|consumer| consumer.number == number)
    }

    /// Whether it comes to its end because nobody used it.
    pub(crate) fn is_over(&mut self, now: Duration) -> bool {
        if !self.consumers.is_empty() {
            self.used = now;
        }
        self.options.expires.is_some_and(|expires| now >= self.used + expires)
    }
}

impl Broker {
    /// Whether it is certain what a consumer of the queue is dealt, and when: not where hand-outs
    /// have to be counted first.
    pub(crate) fn is_certain(&self, queue: &str) -> bool {
        let queue = self.queues.get(queue);
        queue.is_none_or(|queue| {
            let old = queue.entries.iter().any(|entry| entry.old);
            !old && queue.options.delivery_limit.is_none()
        })
    }

    pub(super) fn consume(&mut self, queue: &str, prefetch: u32) -> Result<Answer, ErrorKind> {
        let number = self.subscribed;
        let consumer = Consumer { number, credit: prefetch, inbox: VecDeque::new() };
        self.queue(queue)?.consumers.push(consumer);
        self.subscribed += 1;
        self.consumers.push((queue.to_owned(), number));
        Ok(Answer::Done)
    }

    /// The next message of a consumer. If none was dealt to it, it deals for all.
    pub(super) fn receive(&mut self, which: usize) -> Answer {
        let (name, number) = self.consumers[which].clone();
        let now = self.now();
        let queue = self.queues.get_mut(&name).expect("it has a consumer");
        let mut gone = Gone::new();
        if queue.consumer(number).is_some_and(|consumer| consumer.inbox.is_empty()) {
            gone = queue.deal(now);
        }
        let received = queue.consumer(number).and_then(|consumer| consumer.inbox.pop_front());
        let got = received.map(|place| self.hand_out(&name, place, Some(number)));
        self.leave(&name, gone);
        Answer::Message(got)
    }

    /// What a consumer has goes back; a queue may end with its last consumer.
    pub(super) fn cancel(&mut self, which: usize) {
        let (name, number) = self.consumers.remove(which);
        let now = self.now();
        let queue = self.queues.get_mut(&name).expect("it has a consumer");
        let at = queue.consumers.iter().position(|consumer| consumer.number == number);
        let at = at.expect("it is there");
        for place in queue.consumers.remove(at).inbox {
            queue.entry(place).at = At::Queue;
        }
        // Whoever comes next is still the next.
        queue.turn -= usize::from(at < queue.turn);
        if queue.consumers.is_empty() {
            queue.turn = 0;
        }
        for held in self.held.extract_if(.., |held| held.consumer == Some(number)) {
            queue.give_back(held.place);
            self.unwritten = true;
        }
        queue.used = now;
        if queue.options.auto_delete && queue.consumers.is_empty() {
            self.delete_queue(&name).expect("it is there");
        }
    }

    pub(super) fn get(&mut self, name: &str) -> Result<Answer, ErrorKind> {
        let now = self.now();
        let queue = self.queue(name)?;
        queue.used = now;
        let mut gone = queue.shorten(now);
        let (next, passed) = queue.next(now);
        gone.extend(passed);
        let got = next.map(|place| self.hand_out(name, place, None));
        self.leave(name, gone);
        Ok(Answer::Message(got))
    }

    fn hand_out(&mut self, name: &str, place: Place, consumer: Option<u64>) -> Got {
        let queue = name.to_owned();
        self.held.push(Held { queue, place, consumer });
        let entry = self.queues.get_mut(name).expect("it has a message").entry(place);
        entry.at = At::Hand;
        let Entry { place, birth, flag, ref deaths, .. } = *entry;
        Got { place, birth, flag, deaths: deaths.clone() }
    }

    pub(super) fn settle(&mut self, at: usize, how: Settle) {
        let Held { queue: name, place, consumer } = self.held.remove(at);
        self.unwritten = how != Settle::Ack { wait: true };
        let queue = self.queues.get_mut(&name).expect("it is there");
        if let Some(consumer) = consumer.and_then(|number| queue.consumer(number)) {
            consumer.credit += 1;
        }
        match how {
            Settle::Ack { .. } => drop(queue.settle(place)),
            Settle::Requeue => queue.give_back(place),
            Settle::Reject => {
                let gone = vec![(queue.settle(place), Reason::Rejected)];
                self.leave(&name, gone);
            }
        }
    }
}
