//! A real engine on a machine whose power can be cut, compared with the broker after every call.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use fanlog::{
    Config, Consumer, Engine, Error, ExchangeKind, ExclusiveQueue, Message, Offset, StartAt,
    clock::{Clock, ManualClock},
    storage::{CrashMode, MemoryStorage},
};
use proptest::{prelude::*, test_runner::Config as Cases};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use crate::{
    broker::{Answer, Broker, Got},
    choice,
    compare::compare,
    cut::cut_power_in_a_round,
    hands::{Hand, Held},
    message::Parts,
    operations::{End, Every, Operation, Sent, Start},
    queue::{Flag, Place},
};

/// Consumers at a time.
const CONSUMERS_MAX: usize = 5;

/// Sequences in a usual run.
const CASES: u32 = 2000;

fn cases() -> u32 {
    let asked = std::env::var("FANLOG_MODEL_CASES").ok();
    asked.map_or(CASES, |text| text.parse().expect("FANLOG_MODEL_CASES is a number"))
}

prop_state_machine! {
    #![proptest_config(Cases {
        cases: cases(),
        failure_persistence: None,
        // Of calls that can't be another is chosen.
        max_local_rejects: u32::MAX,
        ..Cases::default()
    })]

    #[test]
    fn every_call_answers_what_the_broker_says_and_counters_are_what_a_recount_finds(
        sequential 1..60 => Machine
    );
}

impl ReferenceStateMachine for Broker {
    type State = Self;
    type Transition = Operation;

    fn init_state() -> BoxedStrategy<Self> {
        choice::first()
            .prop_map(|first| {
                let mut broker = Self::default();
                for operation in &first {
                    broker.apply(operation);
                }
                broker.first = first;
                broker
            })
            .boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Operation> {
        choice::next(state)
    }

    fn preconditions(state: &Self, operation: &Operation) -> bool {
        match operation {
            Operation::Settle { .. } => !state.held().is_empty(),
            Operation::SettleMultiple { place, .. } => {
                let held = state.held();
                !held.is_empty() && held[place.index(held.len())].consumer.is_some()
            }
            Operation::Consume { queue, .. } => {
                state.is_certain(queue) && state.consumers().len() < CONSUMERS_MAX
            }
            Operation::Rewind { queue, .. } | Operation::BindFrom { queue, .. } => {
                state.may_rewind(queue)
            }
            Operation::Receive { .. }
            | Operation::ReceiveBatch { .. }
            | Operation::Cancel { .. } => !state.consumers().is_empty(),
            Operation::Disown { .. }
            | Operation::OwnerGet { .. }
            | Operation::OwnerPurge { .. } => !state.owners().is_empty(),
            Operation::OwnerConsume { which, .. } => {
                let owners = state.owners();
                !owners.is_empty()
                    && state.is_certain(&owners[which.index(owners.len())].0)
                    && state.consumers().len() < CONSUMERS_MAX
            }
            Operation::Publish(message) | Operation::PublishNumbered { message, .. } => {
                !state.is_vague(message)
            }
            Operation::PublishBatch(messages) | Operation::Transaction { messages, .. } => {
                !messages.iter().any(|message| state.is_vague(message))
            }
            Operation::Advance { .. } | Operation::Reclaim => state.may_pass(operation),
            _ => true,
        }
    }

    fn apply(mut state: Self, operation: &Operation) -> Self {
        state.apply(operation);
        state
    }
}

/// The engine, its disk and its clock.
pub(crate) struct Machine {
    disk: MemoryStorage,
    clock: Arc<ManualClock>,
    engine: Option<Engine>,
    pub(super) held: Vec<Held>,
    /// With their queues, as they came, and how many came before.
    pub(super) consumers: Vec<(String, u64, Consumer)>,
    pub(super) subscribed: u64,
    pub(super) owners: Vec<ExclusiveQueue>,
    next_place: Place,
}

impl StateMachineTest for Machine {
    type SystemUnderTest = Self;
    type Reference = Broker;

    fn init_test(broker: &Broker) -> Self {
        let (disk, clock) = (MemoryStorage::new(), Arc::new(ManualClock::new()));
        let mut machine = Self {
            disk,
            clock,
            engine: None,
            held: Vec::new(),
            consumers: Vec::new(),
            subscribed: 0,
            owners: Vec::new(),
            next_place: 0,
        };
        machine.open();
        for operation in &broker.first {
            assert_eq!(machine.call(operation).unwrap(), Answer::Done);
        }
        compare(machine.engine(), broker);
        machine
    }

    fn apply(mut machine: Self, broker: &Broker, operation: Operation) -> Self {
        machine.apply(broker, &operation);
        machine
    }

    fn check_invariants(machine: &Self, broker: &Broker) {
        compare(machine.engine(), broker);
    }

    /// All that is left comes, in its order, also after the power was cut.
    fn teardown(mut machine: Self, mut broker: Broker) {
        machine.both(&mut broker, &Operation::Again(End::PowerCut));
        cut_power_in_a_round(&machine.disk, &broker);
        for seconds in [1, 200] {
            machine.both(&mut broker, &Operation::Advance { seconds });
            for queue in choice::QUEUES {
                machine.both(&mut broker, &Operation::Peek { queue });
                let got = |answer| matches!(answer, Answer::Message(Some(_)));
                while got(machine.both(&mut broker, &Operation::Get { queue })) {}
            }
        }
    }
}

/// Whether an answer is the expected one, where flags may be either.
fn agree(found: &Answer, expected: &Answer) -> bool {
    let same = |found: &Got, expected: &Got| match expected.flag {
        Flag::Maybe => Got { flag: Flag::Maybe, ..found.clone() } == *expected,
        _ => found == expected,
    };
    match (found, expected) {
        (Answer::Message(Some(found)), Answer::Message(Some(expected))) => same(found, expected),
        (Answer::Batch(found), Answer::Batch(expected)) => {
            found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| same(a, b))
        }
        _ => found == expected,
    }
}

/// Without threads, with everything as small as it may be.
pub(crate) fn config() -> Config {
    Config {
        segment_bytes_max: 64 << 10,
        segments_ahead: 1,
        window_bytes_max: 1 << 20,
        buffer_bytes_max: 1 << 20,
        checkpoint_log_bytes: 64 << 10,
        stepped: true,
        ..Config::default()
    }
}

impl Machine {
    pub(super) fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("it is open")
    }

    fn open(&mut self) {
        let clock = Arc::clone(&self.clock);
        self.engine = Some(Engine::open_on(Arc::new(self.disk.clone()), clock, config()).unwrap());
    }

    /// Makes a call on the broker and on the engine, and compares everything.
    fn both(&mut self, broker: &mut Broker, operation: &Operation) -> Answer {
        broker.apply(operation);
        self.apply(broker, operation);
        compare(self.engine(), broker);
        broker.answer.clone()
    }

    /// Makes a call, and compares its answer with that of the broker, which has made it.
    fn apply(&mut self, broker: &Broker, operation: &Operation) {
        if matches!(operation, Operation::Again(_)) {
            self.give_back_counted();
            if broker.flushed {
                self.flush().unwrap();
            }
        }
        let answer = self.call(operation).unwrap_or_else(|error| Answer::Fails(error.kind()));
        assert!(agree(&answer, &broker.answer), "{answer:?}, expected {:?}", broker.answer);
        // Copies of dead letters are on their way, and nobody waits for them.
        while self.engine().step_commit() {}
        self.forget_what_went(broker);
        self.next_place = broker.next_place();
    }

    fn call(&mut self, operation: &Operation) -> Result<Answer, Error> {
        let engine = self.engine();
        match operation {
            Operation::Publish(message) => {
                let parts = Parts::of(message, self.next_place);
                engine.publisher().publish(&parts.message(message))?.wait()?;
            }
            Operation::PublishNumbered { sequence, message } => {
                let parts = Parts::of(message, self.next_place);
                let publisher = engine.declare_publisher("named")?;
                publisher.publish(*sequence, &parts.message(message))?.wait()?;
            }
            Operation::PublishBatch(messages) => {
                let parts = self.parts(messages);
                let made: Vec<Message<'_>> =
                    messages.iter().zip(&parts).map(|(one, parts)| parts.message(one)).collect();
                engine.publisher().publish_batch(&made)?.wait()?;
            }
            Operation::Transaction { messages, acks, commit } => {
                self.transaction(messages, *acks, *commit)?;
            }
            Operation::Rewind { queue, at } => {
                let landed = engine.rewind(queue, self.start(*at))?;
                self.recall(queue, *at);
                return Ok(Answer::Purged(landed.messages));
            }
            Operation::BindFrom { queue, exchange, pattern, at } => {
                let (key, arguments) = (pattern.key, pattern.arguments());
                let landed = engine.bind_from(queue, exchange, key, &arguments, self.start(*at))?;
                self.recall(queue, *at);
                return Ok(Answer::Purged(landed.messages));
            }
            Operation::Checkpoint => engine.checkpoint()?,
            Operation::Reclaim => {
                self.pass(1)?;
                self.engine().reclaim(&mut |_| {})?;
            }
            Operation::Advance { seconds } => self.pass(*seconds)?,
            Operation::Again(end) => self.again(*end)?,
            other => return self.call_for_hands(other),
        }
        Ok(Answer::Done)
    }

    fn start(&self, at: Start) -> StartAt {
        match at {
            Start::Latest => StartAt::Latest,
            Start::Earliest => StartAt::Earliest,
            Start::Back(back) => StartAt::Offset(Offset(self.next_place.saturating_sub(back))),
            Start::Ago(seconds) => {
                let now = Duration::from_micros(self.clock.wall_us());
                let time = now.saturating_sub(Duration::from_secs(seconds));
                StartAt::Time(SystemTime::UNIX_EPOCH + time)
            }
        }
    }

    /// Changes the topology.
    pub(super) fn change(&self, operation: &Operation) -> Result<(), Error> {
        let engine = self.engine();
        match operation {
            Operation::DeclareExchange { name, kind, options } => {
                engine.declare_exchange_with(name, *kind, options)?;
            }
            Operation::BindExchange { destination, source, pattern } => {
                let arguments = pattern.arguments();
                engine.bind_exchange(destination, source, pattern.key, &arguments)?;
            }
            Operation::UnbindExchange { destination, source, pattern } => {
                let arguments = pattern.arguments();
                engine.unbind_exchange(destination, source, pattern.key, &arguments)?;
            }
            Operation::DeleteExchange { name, if_unused: true } => {
                engine.delete_exchange_if_unused(name)?;
            }
            Operation::DeleteExchange { name, .. } => engine.delete_exchange(name)?,
            Operation::DeclareQueue { name, options } => {
                engine.declare_queue_with(name, options)?;
            }
            Operation::DeleteQueue { name, conditions } => {
                engine.delete_queue_with(name, *conditions)?;
            }
            Operation::Bind { queue, exchange, pattern } => {
                engine.bind_with(queue, exchange, pattern.key, &pattern.arguments())?;
            }
            Operation::Unbind { queue, exchange, pattern } => {
                engine.unbind_with(queue, exchange, pattern.key, &pattern.arguments())?;
            }
            other => panic!("{other:?} is no change"),
        }
        Ok(())
    }

    /// Time passes, and what is due then is done, and durable.
    fn pass(&self, seconds: u64) -> Result<(), Error> {
        self.clock.advance(Duration::from_secs(seconds));
        while self.engine().step()? {}
        self.flush()
    }

    /// Makes all that was done durable: a change of the topology is synced, with all before it.
    fn flush(&self) -> Result<(), Error> {
        self.engine().declare_exchange("flush", ExchangeKind::Fanout)?;
        self.engine().delete_exchange("flush")
    }

    fn parts(&self, messages: &[Sent]) -> Vec<Parts> {
        let births = self.next_place..;
        births.zip(messages).map(|(birth, message)| Parts::of(message, birth)).collect()
    }

    fn transaction(&mut self, messages: &[Sent], acks: Every, commit: bool) -> Result<(), Error> {
        let mut transaction = self.engine().begin();
        for (message, parts) in messages.iter().zip(self.parts(messages)) {
            transaction.publish(&parts.message(message))?;
        }
        let mut by_tag = Vec::new();
        for place in acks.places(self.held.len()) {
            if let Hand::Tag(tag) = self.held[place].hand {
                let consumer = self.held[place].consumer.clone();
                transaction.ack_tag(self.consumer(consumer.as_deref()), tag)?;
                by_tag.push((consumer, tag));
            } else if let Hand::Delivery(delivery) = self.held.remove(place).hand {
                transaction.ack(delivery)?;
            }
        }
        if commit {
            transaction.commit()?.wait()?;
            let acked = |held: &Held| {
                by_tag.iter().any(|(of, tag)| *of == held.consumer && *tag == held.tag())
            };
            self.held.retain(|held| held.consumer.is_none() || !acked(held));
        } else {
            transaction.roll_back();
        }
        Ok(())
    }

    fn again(&mut self, end: End) -> Result<(), Error> {
        let engine = self.engine.take().expect("it is open");
        match end {
            End::Close => drop(engine.close(Duration::from_secs(10))?),
            End::Kill => self.disk = self.disk.crash_image(0, CrashMode::KeepAll),
            End::PowerCut => self.disk = self.disk.crash_image(self.next_place, CrashMode::Random),
        }
        // What it does from here on is on the other disk.
        self.held.clear();
        self.consumers.clear();
        self.owners.clear();
        drop(engine);
        self.open();
        Ok(())
    }
}
