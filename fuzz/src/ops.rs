//! Operations, crashes included, on a stepped engine and on a model of it.
//!
//! The model knows of each queue which offsets it holds. A payload can be computed from its offset,
//! so offsets are all that has to be compared.
//!
//! O1. A confirmed message is there after any crash (a `Buffered` one: after any but a power cut).
//! O2. What is there has the right bytes, in order, once.
//! O3. An ack that was waited for holds after any crash; others hold, or the message comes again.
//! O4. What was never published is not there; what was not acked is.
//! O5. Depths agree with what is there; `check` finds nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use arbitrary::Arbitrary;
use fanlog::{
    ConsumerOptions, Engine, Error, ErrorKind, ExchangeKind, Message, Publisher, Ticket,
    clock::ManualClock,
    storage::{CrashMode, MemoryStorage},
};

use crate::{CLOSE_TIMEOUT, open, payload, settle};

/// One operation. Queues and keys are numbers modulo how many there are.
#[derive(Arbitrary, Debug)]
pub enum Op {
    Declare { queue: u8 },
    Delete { queue: u8 },
    Bind { queue: u8, key: u8 },
    Unbind { queue: u8, key: u8 },
    Publish { key: u8, buffered: bool, wait: bool },
    PublishBatch { keys: Vec<u8> },
    Consume { queue: u8, messages: u8, how: How },
    Step { steps: u8 },
    Advance { millis: u16 },
    Checkpoint,
    Close,
    Kill,
    PowerCut { seed: u16, random: bool },
}

/// What a consumer does with what it got, before it is dropped.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum How {
    Drop,
    Requeue,
    Ack,
    AckDurably,
    AckEveryThird,
    AckMultiple,
    Reject,
}

const OPS_MAX: usize = 200;
const QUEUES: [&str; 3] = ["a", "b", "c"];
/// Keys of the direct exchange; beyond them stand the fanout exchange and each queue by name.
const KEYS: [&str; 2] = ["x", "y"];

/// Does the operations, to the engine and to the model.
pub fn run(ops: &[Op]) {
    let mut world = World::new();
    for op in ops.iter().take(OPS_MAX) {
        world.apply(op);
    }
    world.reopen_after_close();
    world.compare();
}

/// What the model knows of a message in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Unacked,
    /// Acked, and nobody waited: a crash may bring it again.
    AckedPerhaps,
}

#[derive(Default)]
struct Model {
    queues: BTreeMap<&'static str, BTreeMap<u64, Held>>,
    /// (queue, binding), in the terms of [`target`].
    bound: BTreeSet<(&'static str, u8)>,
    /// The offset that the next message gets.
    next: u64,
    /// Every offset below it survives a power cut, and a kill.
    durable: u64,
    confirmed: u64,
}

struct World {
    disk: MemoryStorage,
    clock: Arc<ManualClock>,
    engine: Engine,
    publisher: Publisher,
    /// Not waited for: offset after the last, whether a power cut may take it, ticket.
    tickets: Vec<(u64, bool, Ticket)>,
    model: Model,
}

/// Exchange and key: 0 the fanout exchange, 1 and 2 the direct one, from 3 on a queue by name.
fn target(key: u8) -> (u8, &'static str, &'static str) {
    match key % 6 {
        0 => (0, "fan", ""),
        which @ (1 | 2) => (which, "keyed", KEYS[usize::from(which) - 1]),
        which => (which, "", QUEUES[usize::from(which) - 3]),
    }
}

impl World {
    fn new() -> Self {
        let (disk, clock) = (MemoryStorage::new(), Arc::new(ManualClock::new()));
        let engine = open(&disk, &clock).expect("an empty disk");
        engine.declare_exchange("fan", ExchangeKind::Fanout).expect("new");
        engine.declare_exchange("keyed", ExchangeKind::Direct).expect("new");
        let publisher = engine.publisher();
        Self { disk, clock, engine, publisher, tickets: Vec::new(), model: Model::default() }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Declare { queue } => self.declare(name(*queue)),
            Op::Delete { queue } => self.delete(name(*queue)),
            Op::Bind { queue, key } => self.bind(name(*queue), key % 3, true),
            Op::Unbind { queue, key } => self.bind(name(*queue), key % 3, false),
            Op::Publish { key, buffered, wait } => self.publish(&[*key], *buffered, *wait),
            Op::PublishBatch { keys } => self.publish(&keys[..keys.len().min(40)], false, false),
            Op::Consume { queue, messages, how } => self.consume(name(*queue), *messages, *how),
            Op::Step { steps } => {
                for _ in 0..*steps {
                    self.engine.step().expect("nothing fails here");
                }
            }
            Op::Advance { millis } => self.clock.advance(Duration::from_millis((*millis).into())),
            Op::Checkpoint => self.engine.checkpoint().expect("nothing fails here"),
            Op::Close => self.reopen_after_close(),
            Op::Kill => self.reopen_after_crash(0, CrashMode::KeepAll),
            Op::PowerCut { seed, random: true } => {
                self.reopen_after_crash((*seed).into(), CrashMode::Random);
            }
            Op::PowerCut { .. } => self.reopen_after_crash(0, CrashMode::LoseUnsynced),
        }
        self.note_confirms();
    }

    fn declare(&mut self, queue: &'static str) {
        self.engine.declare_queue(queue).expect("no change if it exists");
        if !self.model.queues.contains_key(queue) {
            self.model.queues.insert(queue, BTreeMap::new());
            self.durable_now();
        }
    }

    fn delete(&mut self, queue: &'static str) {
        let deleted = self.engine.delete_queue(queue);
        let known = self.model.queues.remove(queue).is_some();
        self.model.bound.retain(|&(bound, _)| bound != queue);
        self.changed(known, known, deleted);
    }

    fn bind(&mut self, queue: &'static str, which: u8, bind: bool) {
        let (which, exchange, key) = target(which);
        if bind {
            let bound = self.engine.bind(queue, exchange, key);
            let exists = self.model.queues.contains_key(queue);
            let new = exists && self.model.bound.insert((queue, which));
            self.changed(exists, new, bound);
        } else {
            let unbound = self.engine.unbind(queue, exchange, key);
            let known = self.model.bound.remove(&(queue, which));
            self.changed(known, known, unbound);
        }
    }

    /// `made`: the change was no mere repetition.
    fn changed(&mut self, expected: bool, made: bool, outcome: Result<(), Error>) {
        match outcome {
            Ok(()) => {
                assert!(expected, "a change of something that is not there");
                if made {
                    self.durable_now();
                }
            }
            Err(error) => {
                assert!(!expected, "{error}");
                assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            }
        }
    }

    /// A change that was waited for: all before it is durable.
    fn durable_now(&mut self) {
        self.model.durable = self.model.next;
    }

    /// The queues that a message gets to.
    fn takers(&self, key: u8) -> Vec<&'static str> {
        let (which, exchange, name) = target(key);
        let queues = self.model.queues.keys().copied();
        if exchange.is_empty() {
            return queues.filter(|&queue| queue == name).collect();
        }
        queues.filter(|&queue| self.model.bound.contains(&(queue, which))).collect()
    }

    fn publish(&mut self, keys: &[u8], buffered: bool, wait: bool) {
        let first = self.model.next;
        let takers: Vec<_> = keys.iter().map(|&key| self.takers(key)).collect();
        let payloads: Vec<_> = (first..).zip(keys).map(|(offset, _)| payload(offset)).collect();
        let messages: Vec<Message<'_>> = keys
            .iter()
            .zip(&payloads)
            .map(|(&key, payload)| {
                let (_, exchange, key) = target(key);
                let message = Message::new(exchange, key, payload);
                if buffered { message.buffered() } else { message }
            })
            .collect();
        let ticket = match self.publisher.publish_batch(&messages) {
            Ok(ticket) => ticket,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unroutable, "{error}");
                assert!(takers.iter().any(Vec::is_empty), "{error}");
                return;
            }
        };
        assert!(takers.iter().all(|takers| !takers.is_empty()), "nobody takes it");
        for (offset, takers) in (first..).zip(takers) {
            for queue in takers {
                let queue = self.model.queues.get_mut(queue).expect("it is a taker");
                queue.insert(offset, Held::Unacked);
            }
        }
        if keys.is_empty() {
            assert_eq!(ticket.wait().expect("at once").messages, 0);
            return; // Says nothing about what came before.
        }
        self.model.next += keys.len() as u64;
        if wait {
            let confirm = ticket.wait().expect("nothing fails here");
            assert_eq!(confirm.first_offset.0, first, "offsets have no gaps");
        }
        self.tickets.push((self.model.next, buffered, ticket));
    }

    fn note_confirms(&mut self) {
        let model = &mut self.model;
        self.tickets.retain(|(end, buffered, ticket)| match ticket.try_wait() {
            None => true,
            Some(outcome) => {
                outcome.expect("nothing fails here");
                model.confirmed = model.confirmed.max(*end);
                if !buffered {
                    model.durable = model.durable.max(*end);
                }
                false
            }
        });
        let stated = self.engine.stats().durable_offset.0;
        assert!(stated <= model.next, "what was never published is not durable");
        model.durable = model.durable.max(stated);
    }

    fn consume(&mut self, queue: &'static str, messages: u8, how: How) {
        let consumer = match self.engine.consume(queue, ConsumerOptions::prefetch(0)) {
            Ok(consumer) => consumer,
            Err(error) => {
                assert!(!self.model.queues.contains_key(queue), "{error}");
                return;
            }
        };
        let held = self.model.queues.get_mut(queue).expect("it could be consumed");
        let mut got = Vec::new();
        while got.len() < usize::from(messages)
            && let Some(delivery) =
                consumer.recv_timeout(Duration::ZERO).expect("nothing fails here")
        {
            let offset = delivery.offset().0;
            assert!(delivery.payload() == payload(offset), "O2: wrong bytes at {offset}");
            assert!(delivery.damage().is_none());
            got.push((offset, delivery.keep()));
        }
        let unacked = held.iter().filter(|(_, held)| **held == Held::Unacked);
        let expected: Vec<u64> = unacked.map(|(&offset, _)| offset).take(messages.into()).collect();
        let offsets: Vec<u64> = got.iter().map(|&(offset, _)| offset).collect();
        assert_eq!(offsets, expected, "O2: queue {queue}");
        let every = if matches!(how, How::AckEveryThird) { 3 } else { 1 };
        for &(offset, tag) in got.iter().step_by(every) {
            let done = match how {
                How::Drop | How::AckMultiple => continue,
                How::Requeue => {
                    consumer.nack(tag, true).expect("it is held");
                    continue;
                }
                How::Reject => consumer.nack(tag, false),
                How::Ack | How::AckEveryThird => consumer.ack(tag).map(drop),
                How::AckDurably => consumer.ack(tag).and_then(|ack| ack.wait()),
            };
            done.expect("it is held");
            match how {
                How::AckDurably => held.remove(&offset),
                _ => held.insert(offset, Held::AckedPerhaps),
            };
        }
        if let (How::AckMultiple, Some(&(_, last))) = (how, got.last()) {
            consumer.ack_multiple(last).and_then(|ack| ack.wait()).expect("it is held");
            held.retain(|offset, _| !offsets.contains(offset));
        }
    }

    fn reopen_after_close(&mut self) {
        let report = self.engine.close(CLOSE_TIMEOUT).expect("nothing fails here");
        assert_eq!(report.unconfirmed, 0);
        self.note_confirms();
        assert!(self.tickets.is_empty(), "a close confirms what it can");
        for queue in self.model.queues.values_mut() {
            queue.retain(|_, held| *held == Held::Unacked);
        }
        self.model.durable = self.model.next;
        self.reopen(self.disk.clone());
        assert!(self.engine.recovery().clean, "it was closed");
        assert_eq!(self.engine.recovery().end.0, self.model.next, "O1");
    }

    fn reopen_after_crash(&mut self, seed: u64, mode: CrashMode) {
        self.note_confirms();
        let image = self.disk.crash_image(seed, mode);
        self.tickets.clear();
        self.reopen(image);
        let end = self.engine.recovery().end.0;
        let promised = if mode == CrashMode::KeepAll {
            self.model.confirmed.max(self.model.durable)
        } else {
            self.model.durable
        };
        assert!(promised <= end, "O1: {promised} were durable, {end} are there");
        assert!(end <= self.model.next, "O4: {} were published, {end} are there", self.model.next);
        self.model.next = end;
        self.model.durable = end;
        self.model.confirmed = end;
        for queue in self.model.queues.values_mut() {
            drop(queue.split_off(&end));
        }
        self.compare();
    }

    /// Opens `disk` in place of the store that is open, which goes on to a disk that nobody sees.
    fn reopen(&mut self, disk: MemoryStorage) {
        self.engine = open(&disk, &self.clock).expect("nothing is damaged");
        self.publisher = self.engine.publisher();
        self.disk = disk;
    }

    /// Compares what is stored with the model, which learns which acks came through.
    fn compare(&mut self) {
        let names: Vec<_> =
            self.engine.topology().queues.into_iter().map(|queue| queue.name).collect();
        assert!(names.iter().eq(self.model.queues.keys()), "queues are durable");
        let bindings = self.engine.topology().bindings.len();
        assert_eq!(bindings, self.model.bound.len(), "bindings are durable");
        for (queue, held) in &mut self.model.queues {
            let browser = self.engine.browse(queue).expect("it is there");
            let mut left = BTreeSet::new();
            for message in browser.map(|message| message.expect("nothing is damaged")) {
                let offset = message.offset.0;
                assert!(*message.payload == *payload(offset), "O2: wrong bytes at {offset}");
                assert!(message.acked || left.insert(offset), "O2: {offset} twice");
            }
            for offset in &left {
                assert!(held.contains_key(offset), "O3, O4: queue {queue}, offset {offset}");
            }
            held.retain(|offset, state| {
                assert!(*state != Held::Unacked || left.contains(offset), "O1, O4: {offset}");
                left.contains(offset)
            });
            held.values_mut().for_each(|state| *state = Held::Unacked);
            let view = self.engine.queue(queue).expect("it is there");
            let bytes: u64 = left.iter().map(|&offset| payload(offset).len() as u64).sum();
            assert_eq!((view.messages, view.bytes), (left.len() as u64, bytes), "O5: {queue}");
        }
        let report = self.engine.check(&mut |_| {}).expect("nothing fails here");
        assert!(report.problems.is_empty(), "O5: {:?}", report.problems);
        settle(&self.engine).expect("nothing fails here");
    }
}

fn name(queue: u8) -> &'static str {
    QUEUES[usize::from(queue) % QUEUES.len()]
}
