//! A real engine on a machine whose power can be cut, compared with the broker after every call.

use std::{sync::Arc, time::Duration};

use fanlog::{
    Config, Consumer, ConsumerOptions, Delivery, Engine, Error, ExchangeKind, Message, Offset,
    StartAt,
    clock::ManualClock,
    storage::{CrashMode, MemoryStorage},
};
use proptest::{prelude::*, test_runner::Config as Cases};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use crate::{
    broker::{Answer, Broker, Got},
    choice,
    compare::compare,
    cut::cut_power_in_a_round,
    message::{Parts, birth_of, deaths, payload},
    operations::{End, Every, Operation, Sent, Settle},
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
            Operation::Rewind { queue, .. } => state.may_rewind(queue),
            Operation::Receive { .. } | Operation::Cancel { .. } => !state.consumers().is_empty(),
            Operation::Publish(message) | Operation::PublishNumbered { message, .. } => {
                !state.is_vague(message)
            }
            Operation::PublishBatch(messages) | Operation::Transaction { messages, .. } => {
                !messages.iter().any(|message| state.is_vague(message))
            }
            _ => true,
        }
    }

    fn apply(mut state: Self, operation: &Operation) -> Self {
        state.apply(operation);
        state
    }
}

/// A message that was taken.
struct Held {
    delivery: Delivery,
    queue: String,
    /// The tag of the consumer that has it, if it is one.
    consumer: Option<String>,
}

/// The engine, its disk and its clock.
pub(crate) struct Machine {
    disk: MemoryStorage,
    clock: Arc<ManualClock>,
    engine: Option<Engine>,
    held: Vec<Held>,
    /// With their queues, as they came.
    consumers: Vec<(String, Consumer)>,
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
    match (found, expected) {
        (Answer::Message(Some(found)), Answer::Message(Some(expected)))
            if expected.flag == Flag::Maybe =>
        {
            Got { flag: Flag::Maybe, ..found.clone() } == *expected
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
    fn engine(&self) -> &Engine {
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
        // What queues had that came to their end is nobody's any more.
        self.held.retain(|held| broker.queues.contains_key(&held.queue));
        self.consumers.retain(|(queue, _)| broker.queues.contains_key(queue));
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
            Operation::Get { queue } => {
                let found = engine.get(queue)?;
                return Ok(Answer::Message(found.map(|delivery| self.hold(delivery, queue, None))));
            }
            Operation::Consume { queue, options } => {
                let options = ConsumerOptions {
                    priority: options.priority,
                    exclusive: options.exclusive,
                    ..ConsumerOptions::prefetch(options.prefetch)
                };
                let consumer = engine.consume(queue, options)?;
                self.consumers.push(((*queue).to_owned(), consumer));
            }
            Operation::Receive { which } => {
                let (queue, consumer) = &self.consumers[which.index(self.consumers.len())];
                let (queue, tag) = (queue.clone(), Some(consumer.tag().to_owned()));
                let found = consumer.recv_timeout(Duration::ZERO)?;
                return Ok(Answer::Message(found.map(|delivery| self.hold(delivery, &queue, tag))));
            }
            Operation::Cancel { which } => {
                let (_, consumer) = self.consumers.remove(which.index(self.consumers.len()));
                let tag = consumer.tag().to_owned();
                drop(consumer);
                self.held.retain(|held| held.consumer.as_ref() != Some(&tag));
            }
            Operation::Peek { queue } => {
                let found = engine.peek(queue, usize::MAX)?;
                return Ok(Answer::Messages(found.iter().map(|one| one.offset.0).collect()));
            }
            Operation::Settle { place, how } => {
                let held = self.held.remove(place.index(self.held.len()));
                match how {
                    Settle::Ack { wait: true } => held.delivery.ack()?.wait()?,
                    Settle::Ack { wait: false } => drop(held.delivery.ack()?),
                    Settle::Requeue => held.delivery.nack(true)?,
                    Settle::Reject => held.delivery.nack(false)?,
                }
            }
            Operation::SettleMultiple { place, how } => {
                self.settle_multiple(place.index(self.held.len()), *how)?;
            }
            Operation::Purge { queue } => return Ok(Answer::Purged(engine.purge_queue(queue)?)),
            Operation::Rewind { queue, back } => {
                let at = StartAt::Offset(Offset(self.next_place.saturating_sub(*back)));
                let landed = engine.rewind(queue, at)?;
                self.held.retain(|held| held.queue != *queue);
                return Ok(Answer::Purged(landed.messages));
            }
            Operation::Checkpoint => engine.checkpoint()?,
            Operation::Reclaim => {
                self.pass(1)?;
                self.engine().reclaim(&mut |_| {})?;
            }
            Operation::Advance { seconds } => self.pass(*seconds)?,
            Operation::Again(end) => self.again(*end)?,
            change => self.change(change)?,
        }
        Ok(Answer::Done)
    }

    fn settle_multiple(&mut self, at: usize, how: Settle) -> Result<(), Error> {
        let tag = self.held[at].delivery.tag();
        let consumer = self.held[at].consumer.clone();
        let (its, others): (Vec<Held>, Vec<Held>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|held| held.consumer == consumer && held.delivery.tag() <= tag);
        self.held = others;
        for held in its {
            held.delivery.keep();
        }
        let mut consumers = self.consumers.iter().map(|(_, consumer)| consumer);
        let consumer = consumers.find(|one| Some(one.tag()) == consumer.as_deref());
        let consumer = consumer.expect("it is there");
        match how {
            Settle::Ack { wait: true } => consumer.ack_multiple(tag)?.wait(),
            Settle::Ack { wait: false } => consumer.ack_multiple(tag).map(drop),
            Settle::Requeue => consumer.nack_multiple(tag, true),
            Settle::Reject => consumer.nack_multiple(tag, false),
        }
    }

    /// Changes the topology.
    fn change(&self, operation: &Operation) -> Result<(), Error> {
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

    /// Gives back what has a limit of deliveries: how often it came back is certain then.
    fn give_back_counted(&mut self) {
        for held in std::mem::take(&mut self.held) {
            if self.engine().queue(&held.queue).unwrap().options.delivery_limit.is_some() {
                held.delivery.nack(true).unwrap();
            } else {
                self.held.push(held);
            }
        }
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
        for place in acks.places(self.held.len()) {
            let held = self.held.remove(place);
            transaction.ack(held.delivery)?;
        }
        if commit {
            transaction.commit()?.wait()?;
        } else {
            transaction.roll_back();
        }
        Ok(())
    }

    /// Takes note of a message that was handed out.
    fn hold(&mut self, delivery: Delivery, queue: &str, consumer: Option<String>) -> Got {
        let birth = birth_of(delivery.payload());
        assert_eq!(delivery.payload(), payload(birth, delivery.payload().len()), "{delivery:?}");
        let flag = if delivery.redelivered() { Flag::Yes } else { Flag::No };
        let (place, deaths) = (delivery.offset().0, deaths(delivery.headers()));
        self.held.push(Held { delivery, queue: queue.to_owned(), consumer });
        Got { place, birth, flag, deaths }
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
        drop(engine);
        self.open();
        Ok(())
    }
}
