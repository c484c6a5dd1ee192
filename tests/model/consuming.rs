//! Who gets a queue's messages, and what becomes of them there.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use fanlog::ErrorKind;

use crate::{
    broker::{Answer, Broker, Got},
    declaring::shared,
    operations::{Settle, Subscription},
    queue::{At, Entry, Gone, Place, Queue, Reason},
};

/// A message that somebody has.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) queue: String,
    pub(crate) place: Place,
    /// Who, if it is a consumer.
    pub(crate) consumer: Option<u64>,
    /// It is settled by its tag alone.
    pub(crate) by_tag: bool,
    /// When the background first saw that somebody has it.
    seen: Option<Duration>,
}

/// A moment: the place that the next message gets, and the time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) place: Place,
    pub(crate) time: Duration,
}

impl Moment {
    fn latest(self, other: Self) -> Self {
        Self { place: self.place.max(other.place), time: self.time.max(other.time) }
    }
}

/// A consumer.
#[derive(Debug, Clone)]
pub(crate) struct Consumer {
    number: u64,
    priority: i32,
    /// It wants to be alone.
    exclusive: bool,
    /// Messages that it may have, and those that it may still be dealt.
    prefetch: u32,
    credit: u32,
    /// Since when it has had credit, while it has any.
    since: Option<Moment>,
    inbox: VecDeque<Place>,
    /// Messages that it received.
    received: u64,
    /// How many these were, and when the background first saw that, with more in its inbox.
    left_alone: Option<(u64, Duration)>,
}

/// Who gets what next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roster {
    /// As they came.
    consumers: Vec<Consumer>,
    /// Of each priority, whose turn it is of those who have it.
    turns: BTreeMap<i32, usize>,
    /// Of a queue with a single active consumer, who was dealt to last.
    active: Option<u64>,
    /// When the one before it went.
    active_since: Option<Moment>,
}

impl Roster {
    pub(crate) fn len(&self) -> usize {
        self.consumers.len()
    }

    /// Those of a priority, as they came.
    fn equals(&self, priority: i32) -> impl Iterator<Item = &Consumer> {
        self.consumers.iter().filter(move |consumer| consumer.priority == priority)
    }

    /// Whose turn it is, of those of the highest priority at which anyone has credit: the first from
    /// the turn on that has some.
    fn turn(&self) -> Option<&Consumer> {
        let with_credit = self.consumers.iter().filter(|consumer| consumer.credit > 0);
        let priority = with_credit.map(|consumer| consumer.priority).max()?;
        let turn = self.turns.get(&priority).copied().unwrap_or(0);
        let equals: Vec<&Consumer> = self.equals(priority).collect();
        let (before, from) = equals.split_at(turn % equals.len());
        from.iter().chain(before).find(|consumer| consumer.credit > 0).copied()
    }

    /// A message is dealt to a consumer.
    fn deal_to(&mut self, number: u64, place: Place) {
        let consumer = self.consumers.iter_mut().find(|consumer| consumer.number == number);
        let consumer = consumer.expect("it has credit");
        consumer.credit -= 1;
        consumer.since.take_if(|_| consumer.credit == 0);
        consumer.inbox.push_back(place);
        let priority = consumer.priority;
        let which = self.equals(priority).take_while(|other| other.number < number).count();
        self.turns.insert(priority, which + 1);
    }

    /// The one that gets everything, if it has credit. Another of a higher priority takes over once
    /// it has nothing left.
    fn single(&mut self, moment: Moment) -> Option<&Consumer> {
        let highest = self.consumers.iter().map(|consumer| consumer.priority).max()?;
        let active = self
            .active
            .and_then(|active| self.consumers.iter().find(|consumer| consumer.number == active));
        let stays = active.is_some_and(|active| active.priority >= highest);
        if !stays {
            if active.is_some_and(|active| active.credit < active.prefetch) {
                return None;
            }
            if active.is_some() {
                self.active_since = Some(moment);
            }
            let first = self.consumers.iter().find(|consumer| consumer.priority == highest);
            self.active = first.map(|first| first.number);
        }
        let active = self.consumers.iter().find(|consumer| Some(consumer.number) == self.active);
        active.filter(|consumer| consumer.credit > 0)
    }

    /// Since when some consumer has had credit, if one has; a single active one, since it is that.
    pub(crate) fn waited_since(&self, single: bool) -> Option<Moment> {
        if single {
            let active =
                self.consumers.iter().find(|one| Some(one.number) == self.would_be_active());
            let since = active?.since?;
            return Some(self.active_since.map_or(since, |active| active.latest(since)));
        }
        let since = self.consumers.iter().filter_map(|consumer| consumer.since);
        since.reduce(|one, other| Moment {
            place: one.place.min(other.place),
            time: one.time.min(other.time),
        })
    }

    /// Who was dealt to last, or else would be dealt to first.
    fn would_be_active(&self) -> Option<u64> {
        let highest = self.consumers.iter().map(|consumer| consumer.priority).max()?;
        let mut equals = self.equals(highest);
        self.active.or_else(|| equals.next().map(|first| first.number))
    }

    /// Takes a consumer out; whoever comes next is still the next.
    fn leave(&mut self, number: u64, moment: Moment) -> Consumer {
        if self.would_be_active() == Some(number) {
            self.active_since = Some(moment);
        }
        let at = self.consumers.iter().position(|consumer| consumer.number == number);
        let gone = self.consumers.remove(at.expect("it is there"));
        let turn = self.turns.remove(&gone.priority).unwrap_or(0);
        let before = self.equals(gone.priority).filter(|other| other.number < number).count();
        if self.equals(gone.priority).count() > 0 {
            self.turns.insert(gone.priority, turn - usize::from(before < turn));
        }
        self.active.take_if(|active| *active == number);
        if self.consumers.is_empty() {
            self.active_since = None;
        }
        gone
    }
}

impl Consumer {
    /// Since when it has messages in its inbox and receives none.
    fn leaves_alone(&mut self, now: Duration) -> Option<Duration> {
        self.left_alone = match self.left_alone {
            _ if self.inbox.is_empty() => None,
            Some((received, since)) if received == self.received => Some((received, since)),
            _ => Some((self.received, now)),
        };
        self.left_alone.map(|(_, since)| since)
    }
}

impl Queue {
    /// Whether nobody may hold a message since then.
    fn allows_less(&self, now: Duration, since: Duration) -> bool {
        self.options.ack_timeout.is_some_and(|limit| now >= since.saturating_add(limit))
    }

    /// Deals what is ready, round-robin, as far as anyone has credit. Returns what leaves on the way.
    pub(crate) fn deal(&mut self, moment: Moment) -> Gone {
        let now = moment.time;
        let mut gone = Gone::new();
        loop {
            let single = self.options.single_active_consumer;
            let next = if single { self.roster.single(moment) } else { self.roster.turn() };
            let Some(number) = next.map(|consumer| consumer.number) else { break };
            let (next, passed) = self.next(now);
            gone.extend(passed);
            let Some(place) = next else { break };
            let entry = self.entry(place);
            (entry.at, entry.fresh) = (At::Inbox, false);
            self.roster.deal_to(number, place);
        }
        gone
    }

    fn consumer(&mut self, number: u64) -> Option<&mut Consumer> {
        self.roster.consumers.iter_mut().find(|consumer| consumer.number == number)
    }

    /// Whether it comes to its end because nobody used it.
    pub(crate) fn is_over(&mut self, now: Duration) -> bool {
        if self.roster.len() > 0 {
            self.used = now;
        }
        self.options.expires.is_some_and(|expires| now >= self.used + expires)
    }
}

impl Broker {
    pub(super) fn moment(&self) -> Moment {
        Moment { place: self.next_place, time: self.now() }
    }

    /// Whether it is certain what a consumer of the queue is dealt, and when: not where hand-outs
    /// have to be counted first.
    pub(crate) fn is_certain(&self, queue: &str) -> bool {
        let queue = self.queues.get(queue);
        queue.is_none_or(|queue| {
            let old = queue.entries.iter().any(|entry| entry.old);
            !old && queue.options.delivery_limit.is_none()
        })
    }

    pub(super) fn consume(
        &mut self,
        queue: &str,
        options: &Subscription,
    ) -> Result<Answer, ErrorKind> {
        shared(self.queue(queue)?)?;
        self.subscribe(queue, options)
    }

    pub(super) fn subscribe(
        &mut self,
        queue: &str,
        options: &Subscription,
    ) -> Result<Answer, ErrorKind> {
        let number = self.subscribed;
        let &Subscription { prefetch, priority, exclusive } = options;
        let since = Some(self.moment());
        let found = self.queue(queue)?;
        if exclusive && found.options.single_active_consumer {
            return Err(ErrorKind::Usage);
        }
        let consumers = &mut found.roster.consumers;
        if consumers.iter().any(|other| exclusive || other.exclusive) {
            return Err(ErrorKind::InUse);
        }
        consumers.push(Consumer {
            number,
            priority,
            exclusive,
            prefetch,
            credit: prefetch,
            since,
            inbox: VecDeque::new(),
            received: 0,
            left_alone: None,
        });
        self.subscribed += 1;
        self.consumers.push((queue.to_owned(), number));
        Ok(Answer::Done)
    }

    /// The next message of a consumer. If none was dealt to it, it deals for all.
    pub(super) fn receive(&mut self, which: usize, by_tag: bool) -> Option<Got> {
        let (name, number) = self.consumers[which].clone();
        let moment = self.moment();
        let queue = self.queues.get_mut(&name).expect("it has a consumer");
        let mut gone = Gone::new();
        if queue.consumer(number).is_some_and(|consumer| consumer.inbox.is_empty()) {
            gone = queue.shorten(moment.time);
            gone.extend(queue.deal(moment));
        }
        let consumer = queue.consumer(number).expect("it is there");
        let received = consumer.inbox.pop_front();
        consumer.received += u64::from(received.is_some());
        let got = received.map(|place| self.hand_out(&name, place, Some(number), by_tag));
        self.leave(&name, gone);
        got
    }

    /// What is held for too long goes back; a consumer that holds it, or that leaves its inbox alone
    /// for so long, is gone. The background sees each time that it looks who has what.
    pub(super) fn time_out(&mut self) {
        let now = self.now();
        let mut late = Vec::new();
        for held in self.held.iter_mut().filter(|held| held.consumer.is_none()) {
            let seen = *held.seen.get_or_insert(now);
            let queue = self.queues.get_mut(&held.queue).expect("it is there");
            if queue.allows_less(now, seen) {
                queue.give_back(held.place);
                late.push((held.queue.clone(), held.place));
                self.unwritten = true;
            }
        }
        let is_late =
            |held: &Held| late.iter().any(|one| one.0 == held.queue && one.1 == held.place);
        self.held.retain(|held| held.consumer.is_some() || !is_late(held));
        for (name, number) in self.consumers.clone() {
            let its = |held: &&mut Held| held.consumer == Some(number);
            let mut held = self.held.iter_mut().filter(its);
            let oldest = held.next().map(|held| *held.seen.get_or_insert(now));
            held.for_each(|held| held.seen = held.seen.or(Some(now)));
            // Its queue may be gone, with the one before.
            let Some(queue) = self.queues.get_mut(&name) else { continue };
            let left = queue.consumer(number).expect("it is there").leaves_alone(now);
            let longest = oldest.into_iter().chain(left).min();
            if longest.is_some_and(|since| queue.allows_less(now, since)) {
                let which = self.consumers.iter().position(|one| one.1 == number);
                self.cancel(which.expect("it is there"));
            }
        }
    }

    /// What a consumer has goes back; a queue may end with its last consumer.
    pub(super) fn cancel(&mut self, which: usize) {
        let (name, number) = self.consumers.remove(which);
        let moment = self.moment();
        let now = moment.time;
        let queue = self.queues.get_mut(&name).expect("it has a consumer");
        for place in queue.roster.leave(number, moment).inbox {
            queue.entry(place).at = At::Queue;
        }
        for held in self.held.extract_if(.., |held| held.consumer == Some(number)) {
            queue.give_back(held.place);
            self.unwritten = true;
        }
        queue.used = now;
        if queue.options.auto_delete && queue.roster.len() == 0 {
            self.delete_queue(&name).expect("it is there");
        }
    }

    pub(super) fn get(&mut self, name: &str) -> Result<Answer, ErrorKind> {
        shared(self.queue(name)?)?;
        self.take_next(name)
    }

    pub(super) fn take_next(&mut self, name: &str) -> Result<Answer, ErrorKind> {
        let now = self.now();
        let queue = self.queue(name)?;
        if queue.options.single_active_consumer {
            return Err(ErrorKind::Usage);
        }
        queue.used = now;
        let mut gone = queue.shorten(now);
        let (next, passed) = queue.next(now);
        gone.extend(passed);
        let got = next.map(|place| self.hand_out(name, place, None, false));
        self.leave(name, gone);
        Ok(Answer::Message(got))
    }

    fn hand_out(&mut self, name: &str, place: Place, consumer: Option<u64>, by_tag: bool) -> Got {
        let queue = name.to_owned();
        self.held.push(Held { queue, place, consumer, by_tag, seen: None });
        let entry = self.queues.get_mut(name).expect("it has a message").entry(place);
        (entry.at, entry.fresh) = (At::Hand, false);
        let Entry { place, birth, flag, ref deaths, .. } = *entry;
        Got { place, birth, flag, deaths: deaths.clone() }
    }

    /// Settles a message that a consumer has, and all that it got before.
    pub(super) fn settle_multiple(&mut self, at: usize, how: Settle) {
        let consumer = self.held[at].consumer;
        let its = |held: &Held| held.consumer == consumer;
        let count = self.held[..=at].iter().filter(|held| its(held)).count();
        let moment = self.moment();
        for _ in 0..count {
            let first = self.held.iter().position(its).expect("there are so many");
            self.settle(first, how, moment);
        }
    }

    /// `moment`: when the consumer's credit begins anew, if it had none.
    pub(super) fn settle(&mut self, at: usize, how: Settle, moment: Moment) {
        let Held { queue: name, place, consumer, .. } = self.held.remove(at);
        self.unwritten = how != Settle::Ack { wait: true };
        let queue = self.queues.get_mut(&name).expect("it is there");
        if let Some(consumer) = consumer.and_then(|number| queue.consumer(number)) {
            consumer.credit += 1;
            consumer.since.get_or_insert(moment);
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
