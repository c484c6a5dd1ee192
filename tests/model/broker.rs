//! What a broker has to answer, kept in plain maps and lists. It never looks at the engine.

use std::{collections::BTreeMap, time::Duration};

use fanlog::ErrorKind;

use crate::{
    consuming::Held,
    declaring::shared,
    operations::{End, Operation},
    queue::{At, Death, Entry, Flag, Place, Queue},
    routing::{Exchange, Topology},
};

/// A message that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) place: Place,
    pub(crate) birth: Place,
    pub(crate) flag: Flag,
    pub(crate) deaths: Vec<Death>,
}

/// What a call answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Fails(ErrorKind),
    Message(Option<Got>),
    Messages(Vec<Place>),
    Batch(Vec<Got>),
    Purged(u64),
}

/// The whole broker.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    pub(crate) topology: Topology,
    pub(crate) queues: BTreeMap<String, Queue>,
    /// Queues declared so far.
    pub(super) declared: u64,
    /// Those that somebody has, in the order in which they were taken.
    pub(super) held: Vec<Held>,
    /// With their queues, as they came.
    pub(super) consumers: Vec<(String, u64)>,
    /// Of exclusive queues: their names, and numbers.
    pub(super) owners: Vec<(String, u64)>,
    /// Consumers so far.
    pub(super) subscribed: u64,
    pub(super) next_place: Place,
    /// Copies of dead letters: in their queues once the call is over.
    pub(super) arriving: Vec<(String, Entry)>,
    /// Since the beginning.
    now: Duration,
    /// Of the publisher with a name.
    pub(super) last_sequence: u64,
    /// Something may not be in the log yet, or not durable.
    pub(super) unwritten: bool,
    /// The last call ended the engine when that was so.
    pub(crate) flushed: bool,
    /// It was not certain what the last call that let time pass did.
    vague: bool,
    /// Calls that were made before the sequence begins.
    pub(crate) first: Vec<Operation>,
    /// What the last call has to answer.
    pub(crate) answer: Answer,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            topology: Topology::default(),
            queues: BTreeMap::new(),
            declared: 0,
            held: Vec::new(),
            consumers: Vec::new(),
            owners: Vec::new(),
            subscribed: 0,
            next_place: 0,
            arriving: Vec::new(),
            now: Duration::ZERO,
            last_sequence: 0,
            unwritten: false,
            flushed: false,
            vague: false,
            first: Vec::new(),
            answer: Answer::Done,
        }
    }
}

impl Broker {
    /// Messages that somebody has.
    pub(crate) fn held(&self) -> &[Held] {
        &self.held
    }

    /// Consumers, with their queues, as they came.
    pub(crate) fn consumers(&self) -> &[(String, u64)] {
        &self.consumers
    }

    /// Owners of exclusive queues, those that lost theirs too.
    pub(crate) fn owners(&self) -> &[(String, u64)] {
        &self.owners
    }

    /// The place that the next stored message gets.
    pub(crate) fn next_place(&self) -> Place {
        self.next_place
    }

    /// The highest number of the publisher with a name.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Queues, without what exchanges keep.
    pub(crate) fn visible(&self) -> impl Iterator<Item = (&String, &Queue)> {
        self.queues.iter().filter(|(_, queue)| !queue.is_history)
    }

    /// The time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    /// Whether all that was acked or dropped is written.
    pub(crate) fn all_written(&self) -> bool {
        !self.unwritten
    }

    /// Does what a call asks for, and notes what it has to answer.
    pub(crate) fn apply(&mut self, operation: &Operation) {
        let had = self.topology.sources();
        self.answer = self.make(operation).unwrap_or_else(Answer::Fails);
        self.settle_arrivals();
        if !matches!(operation, Operation::Again(_)) {
            self.topology.delete_unused(&had);
        }
        self.forget_histories();
        self.forget_ways();
    }

    fn make(&mut self, operation: &Operation) -> Result<Answer, ErrorKind> {
        match operation {
            Operation::Publish(message) => self.publish_one(message),
            Operation::PublishNumbered { sequence, message } => {
                self.publish_numbered(*sequence, message)
            }
            Operation::PublishBatch(messages) => self.publish(messages),
            Operation::Transaction { messages, acks, commit } => {
                self.transaction(messages, *acks, *commit)
            }
            Operation::Get { queue } => self.get(queue),
            Operation::Consume { queue, options } => self.consume(queue, options),
            Operation::Receive { which } => {
                let got = self.receive(which.index(self.consumers.len()), false);
                Ok(Answer::Message(got))
            }
            Operation::ReceiveBatch { which, most } => {
                let which = which.index(self.consumers.len());
                let got = (0..*most).map_while(|_| self.receive(which, true));
                Ok(Answer::Batch(got.collect()))
            }
            Operation::OwnerConsume { which, options } => {
                let name = self.owned(which.index(self.owners.len()))?;
                self.subscribe(&name, options)
            }
            Operation::OwnerGet { which } => {
                let name = self.owned(which.index(self.owners.len()))?;
                self.take_next(&name)
            }
            Operation::OwnerPurge { which } => {
                let name = self.owned(which.index(self.owners.len()))?;
                self.queue(&name).map(|queue| Answer::Purged(queue.purge()))
            }
            Operation::Cancel { which } => {
                self.cancel(which.index(self.consumers.len()));
                Ok(Answer::Done)
            }
            Operation::Peek { queue } => {
                let now = self.now;
                self.queue(queue).map(|queue| Answer::Messages(queue.peek(now)))
            }
            Operation::SettleMultiple { place, how } => {
                self.settle_multiple(place.index(self.held.len()), *how);
                Ok(Answer::Done)
            }
            Operation::Settle { place, how } => {
                let moment = self.moment();
                self.settle(place.index(self.held.len()), *how, moment);
                Ok(Answer::Done)
            }
            Operation::Purge { queue } => {
                let queue = self.queue(queue)?;
                shared(queue)?;
                Ok(Answer::Purged(queue.purge()))
            }
            Operation::Rewind { queue, at } => self.rewind(queue, *at),
            Operation::BindFrom { queue, exchange, pattern, at } => {
                self.bind_from(queue, exchange, *pattern, *at)
            }
            Operation::Checkpoint => Ok(Answer::Done),
            Operation::Reclaim => {
                self.advance(1);
                Ok(Answer::Done)
            }
            Operation::Advance { seconds } => {
                self.advance(*seconds);
                Ok(Answer::Done)
            }
            Operation::Again(end) => {
                self.again(*end);
                Ok(Answer::Done)
            }
            change => self.change(change),
        }
    }

    /// Copies of dead letters are in their queues, but in those that came to their end since.
    fn settle_arrivals(&mut self) {
        for (queue, entry) in std::mem::take(&mut self.arriving) {
            if let Some(found) = self.queues.get_mut(&queue) {
                found.arrive(&queue, entry);
            }
        }
    }

    pub(super) fn exchange(&self, name: &str) -> Result<&Exchange, ErrorKind> {
        self.topology.exchanges.get(name).ok_or(ErrorKind::NotFound)
    }

    pub(super) fn queue(&mut self, name: &str) -> Result<&mut Queue, ErrorKind> {
        self.queues.get_mut(name).ok_or(ErrorKind::NotFound)
    }

    /// Whether it is certain what comes of a call that lets time pass: a message that a consumer waits
    /// for, and whose time is over, is dealt by the background once a lease covers it.
    pub(crate) fn may_pass(&self, operation: &Operation) -> bool {
        let mut passed = self.clone();
        passed.vague = false;
        passed.apply(operation);
        !passed.vague
    }

    /// Time passes, and then the background looks at each queue once.
    fn advance(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.time_out();
        let queues = self.queues.iter();
        let mut queues: Vec<_> = queues.map(|(name, queue)| (queue.number, name.clone())).collect();
        queues.sort_unstable();
        let moment = self.moment();
        for (_, name) in queues {
            let now = self.now;
            let queue = self.queues.get_mut(&name).expect("it is there");
            let gone = queue.trim(moment, &mut self.vague);
            self.leave(&name, gone);
            if self.queues.get_mut(&name).expect("it is there").is_over(now) {
                self.delete_queue(&name).expect("it is there");
            }
        }
        self.unwritten = false;
    }

    /// What was in hands goes back; what is transient is gone.
    fn again(&mut self, end: End) {
        for Held { queue: name, place, .. } in std::mem::take(&mut self.held) {
            let queue = self.queues.get_mut(&name).expect("it is there");
            // So that it is certain how often it came back.
            if queue.options.delivery_limit.is_some() {
                queue.give_back(place);
                self.unwritten = true;
            }
        }
        self.consumers.clear();
        self.owners.clear();
        self.flushed = std::mem::take(&mut self.unwritten);
        self.queues.retain(|_, queue| queue.options.durable && !queue.options.exclusive);
        self.topology.exchanges.retain(|_, exchange| exchange.options.durable);
        let (queues, exchanges) = (&self.queues, &self.topology.exchanges);
        self.topology
            .bindings
            .retain(|one| queues.contains_key(&one.queue) && exchanges.contains_key(&one.exchange));
        self.topology.leads.retain(|one| {
            exchanges.contains_key(&one.source) && exchanges.contains_key(&one.destination)
        });
        for queue in self.queues.values_mut() {
            // Flags are kept as "all below": at a close exactly, else as far as leases reached.
            let in_hand = |entry: &Entry| entry.at == At::Hand;
            let flagged =
                queue.entries.iter().rposition(|one| in_hand(one) || one.flag != Flag::No);
            for (place, entry) in queue.entries.iter_mut().enumerate() {
                let below = flagged.is_some_and(|flagged| place <= flagged);
                entry.flag = match end {
                    End::Close | End::Kill if in_hand(entry) => Flag::Yes,
                    End::Close if below && entry.flag != Flag::Yes => Flag::Maybe,
                    End::Close => entry.flag,
                    End::Kill | End::PowerCut => Flag::Maybe,
                };
            }
            queue.opened(self.now);
        }
    }
}
