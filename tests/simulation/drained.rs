//! A small disk that others fill to the last byte: whatever was going on just then, the store is
//! drained to empty, and takes messages again, without being opened anew.

use std::{sync::Arc, time::Duration};

use fanlog::{
    Config, Consumer, ConsumerOptions, Delivery, Engine, Error, Message, Ticket, WhenFull,
    clock::ManualClock,
    storage::{MemoryStorage, Storage},
};
use fanlog_tests::random::Random;

/// So many steps in a row without anything to show for are a standstill.
const STEPS: u32 = 3000;

/// One run under a seed, in one thread.
struct Run {
    seed: u64,
    random: Random,
    disk: MemoryStorage,
    clock: Arc<ManualClock>,
    engine: Engine,
    payload: Vec<u8>,
    tickets: Vec<Ticket>,
    hands: Vec<Delivery>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let segment = 1 << (16 + random.below(3));
        let disk = MemoryStorage::new();
        let capacity = segment * (30 + random.below(40)) + random.below(segment);
        disk.set_capacity(Some(capacity));
        let clock = Arc::new(ManualClock::new());
        let config = Config {
            segment_bytes_max: segment,
            segments_ahead: 1,
            window_bytes_max: 1 << 20,
            buffer_bytes_max: 1 << 20,
            checkpoint_log_bytes: 64 << 10,
            when_full: WhenFull::Fail,
            stepped: true,
            ..Config::default()
        };
        let engine = Engine::open_on(Arc::new(disk.clone()), clock.clone(), config).unwrap();
        engine.declare_queue("jobs").unwrap();
        let payload = vec![7; [100, 3000, 10_000, 40_000][random.place(4)]];
        let (tickets, hands) = (Vec::new(), Vec::new());
        Self { seed, random, disk, clock, engine, payload, tickets, hands }
    }

    /// Does some of what is to be done, by chance: commits, or the keeper's pieces as well.
    fn steps(&mut self) {
        let commits = self.random.chance(40);
        for _ in 0..self.random.below(8) {
            let did = if commits { self.engine.step_commit() } else { self.step() };
            if !did {
                self.clock.advance(Duration::from_millis(20));
            }
        }
    }

    /// What finds no space waits.
    fn step(&self) -> bool {
        let did = self.engine.step().unwrap_or(false);
        assert!(!self.engine.stats().poisoned, "seed {}", self.seed);
        did
    }

    /// Takes what comes; acks one in `each` of it, and keeps the rest.
    fn take(&mut self, consumer: &Consumer, each: u64) -> bool {
        let Some(delivery) = consumer.recv_timeout(Duration::ZERO).unwrap() else { return false };
        if each > 0 && delivery.offset().0.is_multiple_of(each) {
            delivery.ack().unwrap();
        } else {
            self.hands.push(delivery);
        }
        true
    }

    /// Publishes until there is no space; some of it is acked meanwhile.
    fn fill(&mut self, consumer: &Consumer) {
        let each = [0, 2, 2, 30][self.random.place(4)];
        let publisher = self.engine.publisher();
        loop {
            let payload = std::mem::take(&mut self.payload);
            let outcome = publisher.publish(&Message::new("", "jobs", &payload));
            self.payload = payload;
            match outcome {
                Ok(ticket) => self.tickets.push(ticket),
                Err(Error::Full { .. }) => drop(self.step()),
                Err(Error::OutOfSpace { .. }) => break,
                Err(error) => panic!("seed {}: {error}", self.seed),
            }
            while self.random.chance(50) && self.take(consumer, each) {}
            if self.random.chance(20) {
                self.steps();
            }
        }
    }

    /// Steps until `so`; fails where nothing more moves.
    fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        for _ in 0..STEPS {
            if so(self) {
                return;
            }
            self.steps();
        }
        let files = self.disk.list().unwrap();
        panic!("seed {}: it stands still, never {what}: {files:?}", self.seed);
    }

    /// Acks what is in hands, in any order, and whatever else comes.
    fn drain(&mut self, consumer: &Consumer) {
        self.until("is all confirmed", |run| {
            let last = run.tickets.last();
            last.is_none_or(|last| last.try_wait().is_some_and(|outcome| outcome.is_ok()))
        });
        while self.engine.queue("jobs").unwrap().messages > 0 {
            // Acks that are on their way count as long as they are.
            self.until("is anything delivered, or all acked", |run| {
                while run.take(consumer, 0) {}
                !run.hands.is_empty() || run.engine.queue("jobs").unwrap().messages == 0
            });
            while !self.hands.is_empty() {
                let at = self.random.place(self.hands.len());
                let ack = self.hands.swap_remove(at).ack().unwrap();
                if self.random.chance(10) {
                    self.until("is an ack durable", |_| ack.wait_timeout(Duration::ZERO).is_ok());
                } else if self.random.chance(5) {
                    self.steps();
                }
            }
        }
    }
}

fn check(seed: u64) {
    let mut run = Run::new(seed);
    let options = ConsumerOptions::prefetch(0);
    let consumer = run.engine.consume("jobs", options).unwrap();
    run.fill(&consumer);
    if run.random.chance(50) {
        run.steps();
    }
    let used = run.disk.list().unwrap().iter().map(|entry| entry.bytes).sum();
    run.disk.set_capacity(Some(used));
    run.drain(&consumer);
    let publisher = run.engine.publisher();
    run.until("is anything published again", |_| {
        publisher.publish(&Message::new("", "jobs", b"again")).is_ok()
    });
    run.until("does it come", |run| run.take(&consumer, 1));
    assert_eq!(run.engine.check(&mut |_| {}).unwrap().problems, [], "seed {seed}");
}

#[test]
fn a_disk_that_others_fill_at_any_moment_is_drained_and_written_to_again() {
    (0..60).for_each(check);
}
