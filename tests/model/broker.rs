//! What a broker has to answer, kept in plain maps and lists. It never looks at the engine.

use std::collections::BTreeMap;

use fanlog::{ErrorKind, ExchangeKind};

use crate::{
    operations::{End, Every, Operation, Settle},
    routing::{Binding, Exchange, Lead, Topology},
};

/// Seconds until a reject, which nobody can wait for, is written and durable.
pub(crate) const UNTIL_DURABLE: u64 = 2;

/// Number of a message: its place among all that were stored.
pub(crate) type Id = u64;

/// Whether a message is flagged as redelivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flag {
    No,
    Yes,
    /// It depends on how far the lease reached.
    Maybe,
}

/// A message in a queue.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) id: Id,
    pub(crate) bytes: usize,
    pub(crate) flag: Flag,
    /// Seconds since the beginning.
    due: u64,
    /// Somebody has it.
    pub(crate) held: bool,
}

impl Entry {
    fn is_ready(&self, now: u64) -> bool {
        !self.held && self.due <= now
    }
}

/// A queue: its messages in the order of publishing.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    durable: bool,
    pub(crate) entries: Vec<Entry>,
}

/// What a call answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Fails(ErrorKind),
    Message(Option<(Id, Flag)>),
    Messages(Vec<Id>),
    Purged(u64),
}

/// The whole broker.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    pub(crate) topology: Topology,
    pub(crate) queues: BTreeMap<String, Queue>,
    /// Those that somebody has, in the order in which they were taken.
    held: Vec<(String, Id)>,
    next_id: Id,
    /// Seconds since the beginning.
    now: u64,
    /// Of the publisher with a name.
    last_sequence: u64,
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
            held: Vec::new(),
            next_id: 0,
            now: 0,
            last_sequence: 0,
            first: Vec::new(),
            answer: Answer::Done,
        }
    }
}

impl Broker {
    /// Messages that somebody has, with their queues.
    pub(crate) fn held(&self) -> &[(String, Id)] {
        &self.held
    }

    /// The number that the next stored message gets.
    pub(crate) fn next_id(&self) -> Id {
        self.next_id
    }

    /// The highest number of the publisher with a name.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Does what a call asks for, and notes what it has to answer.
    pub(crate) fn apply(&mut self, operation: &Operation) {
        let done = match operation {
            Operation::DeclareExchange { name, kind, alternate } => {
                self.declare_exchange(name, *kind, *alternate)
            }
            Operation::BindExchange { destination, source, key } => {
                let lead = self.lead(destination, source, key);
                lead.map(|lead| {
                    self.topology.leads.insert(lead);
                    Answer::Done
                })
            }
            Operation::UnbindExchange { destination, source, key } => {
                let lead = self.lead(destination, source, key);
                lead.and_then(|lead| known(self.topology.leads.remove(&lead)))
            }
            Operation::DeleteExchange { name } => self.delete_exchange(name),
            Operation::DeclareQueue { name, durable } => self.declare_queue(name, *durable),
            Operation::DeleteQueue { name } => self.delete_queue(name),
            Operation::Bind { queue, exchange, key } => self.bind(queue, exchange, key),
            Operation::Unbind { queue, exchange, key } => self.unbind(queue, exchange, key),
            Operation::Publish { exchange, key, bytes, delay } => {
                self.publish(&[(exchange, key)], *bytes, *delay)
            }
            Operation::PublishNumbered { sequence, exchange, key } => {
                self.publish_numbered(*sequence, exchange, key)
            }

            Operation::PublishBatch { messages } => self.publish(messages, 8, 0),
            Operation::Transaction { messages, acks, commit } => {
                self.transaction(messages, *acks, *commit)
            }
            Operation::Get { queue } => self.get(queue),
            Operation::Peek { queue } => self.peek(queue),
            Operation::Settle { place, how } => self.settle(place.index(self.held.len()), *how),
            Operation::Purge { queue } => self.purge(queue),
            Operation::Checkpoint | Operation::Reclaim => Ok(Answer::Done),
            Operation::Advance { seconds } => {
                self.now += seconds;
                Ok(Answer::Done)
            }
            Operation::Again(end) => {
                self.again(*end);
                Ok(Answer::Done)
            }
        };
        self.answer = done.unwrap_or_else(Answer::Fails);
    }

    fn exchange(&self, name: &str) -> Result<&Exchange, ErrorKind> {
        self.topology.exchanges.get(name).ok_or(ErrorKind::NotFound)
    }

    fn queue(&mut self, name: &str) -> Result<&mut Queue, ErrorKind> {
        self.queues.get_mut(name).ok_or(ErrorKind::NotFound)
    }

    fn declare_exchange(
        &mut self,
        name: &str,
        kind: ExchangeKind,
        alternate: Option<&str>,
    ) -> Result<Answer, ErrorKind> {
        let asked = Exchange { kind, alternate: alternate.map(str::to_owned) };
        let found = self.topology.exchanges.entry(name.to_owned()).or_insert(asked.clone());
        if *found == asked { Ok(Answer::Done) } else { Err(ErrorKind::Mismatch) }
    }

    /// A fanout exchange does not look at keys: all are one binding.
    fn key_of(&self, exchange: &str, key: &str) -> Result<String, ErrorKind> {
        let kind = self.exchange(exchange)?.kind;
        Ok(if kind == ExchangeKind::Fanout { String::new() } else { key.to_owned() })
    }

    fn lead(&self, destination: &str, source: &str, key: &str) -> Result<Lead, ErrorKind> {
        self.exchange(destination)?;
        let key = self.key_of(source, key)?;
        let [destination, source] = [destination, source].map(str::to_owned);
        Ok(Lead { destination, source, key })
    }

    fn declare_queue(&mut self, name: &str, durable: bool) -> Result<Answer, ErrorKind> {
        let made = || Queue { durable, entries: Vec::new() };
        let found = self.queues.entry(name.to_owned()).or_insert_with(made);
        if found.durable == durable { Ok(Answer::Done) } else { Err(ErrorKind::Mismatch) }
    }

    fn delete_exchange(&mut self, name: &str) -> Result<Answer, ErrorKind> {
        self.topology.exchanges.remove(name).ok_or(ErrorKind::NotFound)?;
        self.topology.forget_exchange(name);
        Ok(Answer::Done)
    }

    fn delete_queue(&mut self, name: &str) -> Result<Answer, ErrorKind> {
        self.queues.remove(name).ok_or(ErrorKind::NotFound)?;
        self.topology.bindings.retain(|binding| binding.queue != name);
        self.held.retain(|(queue, _)| queue != name);
        Ok(Answer::Done)
    }

    fn binding(&mut self, queue: &str, exchange: &str, key: &str) -> Result<Binding, ErrorKind> {
        self.queue(queue)?;
        let key = self.key_of(exchange, key)?;
        let [queue, exchange] = [queue, exchange].map(str::to_owned);
        Ok(Binding { queue, exchange, key })
    }

    fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<Answer, ErrorKind> {
        let binding = self.binding(queue, exchange, key)?;
        self.topology.bindings.insert(binding);
        Ok(Answer::Done)
    }

    fn unbind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<Answer, ErrorKind> {
        let binding = self.binding(queue, exchange, key)?;
        known(self.topology.bindings.remove(&binding))
    }

    fn route(&self, exchange: &str, key: &str) -> Result<Vec<String>, ErrorKind> {
        let queues: Vec<String> = if exchange.is_empty() {
            self.queues.contains_key(key).then(|| key.to_owned()).into_iter().collect()
        } else {
            self.exchange(exchange)?;
            let found = self.topology.queues_of(exchange, key);
            found.into_iter().map(str::to_owned).collect()
        };
        if queues.is_empty() { Err(ErrorKind::Unroutable) } else { Ok(queues) }
    }

    /// What it has published before is confirmed, whatever it is, and not stored.
    fn publish_numbered(
        &mut self,
        sequence: u64,
        exchange: &str,
        key: &str,
    ) -> Result<Answer, ErrorKind> {
        if sequence > self.last_sequence {
            self.publish(&[(exchange, key)], 8, 0)?;
            self.last_sequence = sequence;
        }
        Ok(Answer::Done)
    }

    fn publish(
        &mut self,
        messages: &[(&str, &str)],
        bytes: usize,
        delay: u64,
    ) -> Result<Answer, ErrorKind> {
        let due = self.now + delay;
        let routes = messages.iter().map(|(exchange, key)| self.route(exchange, key));
        for queues in routes.collect::<Result<Vec<_>, _>>()? {
            let id = self.next_id;
            self.next_id += 1;
            for queue in queues {
                let entry = Entry { id, bytes, flag: Flag::No, due, held: false };
                self.queue(&queue)?.entries.push(entry);
            }
        }
        Ok(Answer::Done)
    }

    /// What can't be published is told when it is added: the rest is given up then.
    fn transaction(
        &mut self,
        messages: &[(&str, &str)],
        acks: Every,
        commit: bool,
    ) -> Result<Answer, ErrorKind> {
        for (exchange, key) in messages {
            self.route(exchange, key)?;
        }
        let how = if commit { Settle::Ack } else { Settle::Requeue };
        for place in acks.places(self.held.len()) {
            self.settle(place, how)?;
        }
        if commit { self.publish(messages, 8, 0) } else { Ok(Answer::Done) }
    }

    fn get(&mut self, name: &str) -> Result<Answer, ErrorKind> {
        let now = self.now;
        let queue = self.queue(name)?;
        let Some(entry) = queue.entries.iter_mut().find(|entry| entry.is_ready(now)) else {
            return Ok(Answer::Message(None));
        };
        entry.held = true;
        let (id, flag) = (entry.id, entry.flag);
        self.held.push((name.to_owned(), id));
        Ok(Answer::Message(Some((id, flag))))
    }

    fn peek(&mut self, name: &str) -> Result<Answer, ErrorKind> {
        let now = self.now;
        let entries = self.queue(name)?.entries.iter();
        Ok(Answer::Messages(
            entries.filter(|entry| entry.is_ready(now)).map(|one| one.id).collect(),
        ))
    }

    fn settle(&mut self, place: usize, how: Settle) -> Result<Answer, ErrorKind> {
        let (name, id) = self.held.remove(place);
        let queue = self.queue(&name)?;
        let at = queue.entries.iter().position(|entry| entry.id == id);
        let at = at.expect("a message in hand is in its queue");
        match how {
            Settle::Ack => drop(queue.entries.remove(at)),
            Settle::Reject => {
                queue.entries.remove(at);
                self.now += UNTIL_DURABLE;
            }
            Settle::Requeue => {
                let entry = &mut queue.entries[at];
                (entry.held, entry.flag) = (false, Flag::Yes);
            }
        }
        Ok(Answer::Done)
    }

    fn purge(&mut self, name: &str) -> Result<Answer, ErrorKind> {
        let queue = self.queue(name)?;
        let before = queue.entries.len();
        queue.entries.retain(|entry| entry.held);
        Ok(Answer::Purged((before - queue.entries.len()) as u64))
    }

    /// What was in hands goes back; transient queues are gone.
    fn again(&mut self, end: End) {
        self.held.clear();
        self.queues.retain(|_, queue| queue.durable);
        let queues = &self.queues;
        self.topology.bindings.retain(|binding| queues.contains_key(&binding.queue));
        for queue in self.queues.values_mut() {
            // Flags are kept as "all below": at a close exactly, else as far as leases reached.
            let flagged = queue.entries.iter().rposition(|one| one.held || one.flag != Flag::No);
            for (place, entry) in queue.entries.iter_mut().enumerate() {
                let below = flagged.is_some_and(|flagged| place <= flagged);
                entry.flag = match end {
                    End::Close | End::Kill if entry.held => Flag::Yes,
                    End::Close if below && entry.flag != Flag::Yes => Flag::Maybe,
                    End::Close => entry.flag,
                    End::Kill | End::PowerCut => Flag::Maybe,
                };
                entry.held = false;
            }
        }
    }
}

/// What undoing a binding answers.
fn known(was: bool) -> Result<Answer, ErrorKind> {
    if was { Ok(Answer::Done) } else { Err(ErrorKind::NotFound) }
}
