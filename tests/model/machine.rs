//! A real engine on a machine whose power can be cut, compared with the broker after every call.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use fanlog::{
    Config, Delivery, Engine, Error, ExchangeOptions, Message, QueueOptions, Table,
    clock::ManualClock,
    storage::{CrashMode, MemoryStorage},
};
use proptest::{prelude::*, test_runner::Config as Cases};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use crate::{
    broker::{Answer, Broker, Flag, Id, UNTIL_DURABLE},
    operations::{self, End, Every, Operation, Settle},
    routing::{Binding, Exchange, Lead},
};

/// Sequences in a usual run.
const CASES: u32 = 2000;

fn cases() -> u32 {
    let asked = std::env::var("FANLOG_MODEL_CASES").ok();
    asked.map_or(CASES, |text| text.parse().expect("FANLOG_MODEL_CASES is a number"))
}

prop_state_machine! {
    #![proptest_config(Cases { cases: cases(), failure_persistence: None, ..Cases::default() })]

    #[test]
    fn every_call_answers_what_the_broker_says_and_counters_are_what_a_recount_finds(
        sequential 1..60 => Machine
    );
}

impl ReferenceStateMachine for Broker {
    type State = Self;
    type Transition = Operation;

    fn init_state() -> BoxedStrategy<Self> {
        operations::first()
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
        operations::next(state)
    }

    fn preconditions(state: &Self, operation: &Operation) -> bool {
        !matches!(operation, Operation::Settle { .. } if state.held().is_empty())
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
}

/// The engine, its disk and its clock.
pub(crate) struct Machine {
    disk: MemoryStorage,
    clock: Arc<ManualClock>,
    engine: Option<Engine>,
    held: Vec<Held>,
    next_id: Id,
}

impl StateMachineTest for Machine {
    type SystemUnderTest = Self;
    type Reference = Broker;

    fn init_test(broker: &Broker) -> Self {
        let (disk, clock) = (MemoryStorage::new(), Arc::new(ManualClock::new()));
        let mut machine = Self { disk, clock, engine: None, held: Vec::new(), next_id: 0 };
        machine.open();
        for operation in &broker.first {
            assert_eq!(machine.call(operation).unwrap(), Answer::Done);
        }
        machine.compare(broker);
        machine
    }

    fn apply(mut machine: Self, broker: &Broker, operation: Operation) -> Self {
        let answer = machine.call(&operation).unwrap_or_else(|error| Answer::Fails(error.kind()));
        assert!(agree(&answer, &broker.answer), "{answer:?}, expected {:?}", broker.answer);
        machine.next_id = broker.next_id();
        machine
    }

    fn check_invariants(machine: &Self, broker: &Broker) {
        machine.compare(broker);
    }

    /// All that is left comes, in its order, also after the power was cut.
    fn teardown(mut machine: Self, mut broker: Broker) {
        let end = Operation::Again(End::PowerCut);
        broker.apply(&end);
        machine.call(&end).unwrap();
        machine.compare(&broker);
        machine.pass(Duration::from_secs(1000)).unwrap();
        for (name, queue) in &broker.queues {
            for entry in &queue.entries {
                let Ok(Answer::Message(Some((id, _)))) = machine.get(name) else {
                    panic!("message {} of {name} does not come", entry.id);
                };
                assert_eq!(id, entry.id, "the next of {name}");
            }
            assert_eq!(machine.get(name).unwrap(), Answer::Message(None), "{name} has no more");
        }
    }
}

/// Whether an answer is the expected one, where flags may be either.
fn agree(found: &Answer, expected: &Answer) -> bool {
    match (found, expected) {
        (Answer::Message(Some((id, _))), Answer::Message(Some((wanted, Flag::Maybe)))) => {
            id == wanted
        }
        _ => found == expected,
    }
}

/// Its number, then bytes that only it has.
fn payload(id: Id, bytes: usize) -> Vec<u8> {
    let noise = (8_u64..bytes as u64).map(|at| (id * 31 + at * 7).to_le_bytes()[0]);
    id.to_le_bytes().into_iter().chain(noise).collect()
}

fn id_of(payload: &[u8]) -> Id {
    Id::from_le_bytes(*payload.first_chunk().expect("a payload begins with its number"))
}

impl Machine {
    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("it is open")
    }

    fn open(&mut self) {
        let config = Config {
            segment_bytes_max: 64 << 10,
            segments_ahead: 1,
            window_bytes_max: 1 << 20,
            buffer_bytes_max: 1 << 20,
            checkpoint_log_bytes: 64 << 10,
            stepped: true,
            ..Config::default()
        };
        let clock = Arc::clone(&self.clock);
        self.engine = Some(Engine::open_on(Arc::new(self.disk.clone()), clock, config).unwrap());
    }

    fn call(&mut self, operation: &Operation) -> Result<Answer, Error> {
        let engine = self.engine();
        match operation {
            Operation::DeclareExchange { name, kind, alternate } => {
                let alternate = alternate.map(str::to_owned);
                let options = ExchangeOptions { alternate, ..ExchangeOptions::default() };
                engine.declare_exchange_with(name, *kind, &options)?;
            }
            Operation::BindExchange { destination, source, key } => {
                engine.bind_exchange(destination, source, key, &Table::new())?;
            }
            Operation::UnbindExchange { destination, source, key } => {
                engine.unbind_exchange(destination, source, key, &Table::new())?;
            }
            Operation::DeleteExchange { name } => engine.delete_exchange(name)?,
            Operation::DeclareQueue { name, durable } => {
                let options = QueueOptions { durable: *durable, ..QueueOptions::default() };
                engine.declare_queue_with(name, &options)?;
            }
            Operation::DeleteQueue { name } => {
                engine.delete_queue(name)?;
                self.held.retain(|held| held.queue != *name);
            }
            Operation::Bind { queue, exchange, key } => engine.bind(queue, exchange, key)?,
            Operation::Unbind { queue, exchange, key } => engine.unbind(queue, exchange, key)?,
            Operation::Publish { exchange, key, bytes, delay } => {
                self.publish(&[(exchange, key)], *bytes, Duration::from_secs(*delay))?;
            }
            Operation::PublishNumbered { sequence, exchange, key } => {
                let payload = payload(self.next_id, 8);
                let message = Message::new(exchange, key, &payload);
                engine.declare_publisher("named")?.publish(*sequence, &message)?.wait()?;
            }
            Operation::PublishBatch { messages } => self.publish(messages, 8, Duration::ZERO)?,
            Operation::Transaction { messages, acks, commit } => {
                self.transaction(messages, *acks, *commit)?;
            }
            Operation::Get { queue } => return self.get(queue),
            Operation::Peek { queue } => {
                let found = engine.peek(queue, usize::MAX)?;
                return Ok(Answer::Messages(found.iter().map(|one| id_of(&one.payload)).collect()));
            }
            Operation::Settle { place, how } => {
                let held = self.held.remove(place.index(self.held.len()));
                match how {
                    Settle::Ack => held.delivery.ack()?.wait()?,
                    Settle::Requeue => held.delivery.nack(true)?,
                    Settle::Reject => {
                        held.delivery.nack(false)?;
                        for _ in 0..UNTIL_DURABLE {
                            self.pass(Duration::from_secs(1))?;
                        }
                    }
                }
            }
            Operation::Purge { queue } => return Ok(Answer::Purged(engine.purge_queue(queue)?)),
            Operation::Checkpoint => engine.checkpoint()?,
            Operation::Reclaim => drop(engine.reclaim(&mut |_| {})?),
            Operation::Advance { seconds } => self.pass(Duration::from_secs(*seconds))?,
            Operation::Again(end) => self.again(*end)?,
        }
        Ok(Answer::Done)
    }

    /// Time passes, and what is due then is done.
    fn pass(&self, time: Duration) -> Result<(), Error> {
        self.clock.advance(time);
        while self.engine().step()? {}
        Ok(())
    }

    fn payloads(&self, count: usize, bytes: usize) -> Vec<Vec<u8>> {
        (self.next_id..).take(count).map(|id| payload(id, bytes)).collect()
    }

    fn publish(
        &self,
        messages: &[(&str, &str)],
        bytes: usize,
        delay: Duration,
    ) -> Result<(), Error> {
        let payloads = self.payloads(messages.len(), bytes);
        let made: Vec<Message<'_>> = messages
            .iter()
            .zip(&payloads)
            .map(|((exchange, key), payload)| Message::new(exchange, key, payload).delay(delay))
            .collect();
        self.engine().publisher().publish_batch(&made)?.wait()?;
        Ok(())
    }

    fn transaction(
        &mut self,
        messages: &[(&str, &str)],
        acks: Every,
        commit: bool,
    ) -> Result<(), Error> {
        let mut transaction = self.engine().begin();
        for ((exchange, key), payload) in messages.iter().zip(self.payloads(messages.len(), 8)) {
            transaction.publish(&Message::new(exchange, key, &payload))?;
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

    fn get(&mut self, queue: &str) -> Result<Answer, Error> {
        let Some(delivery) = self.engine().get(queue)? else { return Ok(Answer::Message(None)) };
        let id = id_of(delivery.payload());
        assert_eq!(delivery.payload(), payload(id, delivery.payload().len()), "message {id}");
        let flag = if delivery.redelivered() { Flag::Yes } else { Flag::No };
        self.held.push(Held { delivery, queue: queue.to_owned() });
        Ok(Answer::Message(Some((id, flag))))
    }

    fn again(&mut self, end: End) -> Result<(), Error> {
        let engine = self.engine.take().expect("it is open");
        match end {
            End::Close => drop(engine.close(Duration::from_secs(10))?),
            End::Kill => self.disk = self.disk.crash_image(0, CrashMode::KeepAll),
            End::PowerCut => self.disk = self.disk.crash_image(0, CrashMode::LoseUnsynced),
        }
        // What it does from here on is on the other disk.
        self.held.clear();
        drop(engine);
        self.open();
        Ok(())
    }

    fn compare(&self, broker: &Broker) {
        let engine = self.engine();
        let topology = engine.topology();
        let exchanges: BTreeMap<_, _> = topology
            .exchanges
            .iter()
            .map(|one| {
                let alternate = one.options.alternate.clone();
                (one.name.clone(), Exchange { kind: one.kind, alternate })
            })
            .collect();
        assert_eq!(exchanges, broker.topology.exchanges);
        let bindings: BTreeSet<_> = topology
            .bindings
            .iter()
            .map(|one| Binding {
                queue: one.queue.clone(),
                exchange: one.exchange.clone(),
                key: one.routing_key.clone(),
            })
            .collect();
        assert_eq!(bindings, broker.topology.bindings);
        let leads: BTreeSet<_> = topology
            .exchange_bindings
            .iter()
            .map(|one| Lead {
                destination: one.destination.clone(),
                source: one.source.clone(),
                key: one.routing_key.clone(),
            })
            .collect();
        assert_eq!(leads, broker.topology.leads);
        assert!(topology.queues.iter().map(|one| &one.name).eq(broker.queues.keys()));
        for view in &topology.queues {
            let entries = &broker.queues[&view.name].entries;
            let bytes: usize = entries.iter().map(|entry| entry.bytes).sum();
            let held = entries.iter().filter(|entry| entry.held).count() as u64;
            let messages = entries.len() as u64;
            let found = engine.queue(&view.name).unwrap();
            assert_eq!((found.ready, found.unacked), (messages - held, held), "{found:?}");
            assert_eq!((found.messages, found.bytes), (messages, bytes as u64), "{found:?}");
        }
        let report = engine.check(&mut |_| {}).unwrap();
        assert!(report.problems.is_empty() && report.uncounted == 0, "{report:?}");
    }
}
