//! Checkpoints taken while commits go on, step by step, and what is recovered from them.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Change, Config, ConsumerOptions, Engine, ExchangeKind, Message, checkpoint,
    clock::ManualClock,
    storage::{CrashMode, MemoryStorage},
};

/// Numbers by chance, the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

/// Changes a store in every way that a log can tell of, by chance.
struct Work<'e> {
    engine: &'e Engine,
    chance: Chance,
    queues: Vec<String>,
    declared: usize,
}

impl<'e> Work<'e> {
    fn begin(engine: &'e Engine, seed: u64) -> Self {
        let mut work = Self { engine, chance: Chance(seed), queues: Vec::new(), declared: 0 };
        for (name, kind) in [("f", ExchangeKind::Fanout), ("d", ExchangeKind::Direct)] {
            engine.declare_exchange(name, kind).unwrap();
        }
        (0..12).for_each(|_| work.declare());
        work
    }

    fn declare(&mut self) {
        let name = format!("q{}", self.declared);
        self.declared += 1;
        let bind = |exchange, routing_key| Change::Bind { queue: &name, exchange, routing_key };
        let key = format!("k{}", self.declared % 5);
        self.engine
            .change(&[Change::declare_queue(&name), bind("f", ""), bind("d", &key)])
            .unwrap();
        self.queues.push(name);
    }

    fn step(&mut self) {
        let engine = self.engine;
        let queue = self.queues[self.chance.below(self.queues.len())].clone();
        let key = format!("k{}", self.chance.below(5));
        // What finds nothing to change is no error of the test's.
        let _done_or_not = match self.chance.below(16) {
            0..=4 => {
                engine.publisher().publish_confirmed(&Message::new("f", "", &[1; 700])).is_ok()
            }
            5 => engine.publisher().publish_confirmed(&Message::new("d", &key, b"direct")).is_ok(),
            6 => engine.publisher().publish_confirmed(&Message::new("", &queue, b"own")).is_ok(),
            7..=10 => self.ack(&queue),
            11 => engine.unbind(&queue, "f", "").is_ok(),
            12 => engine.bind(&queue, "f", "").is_ok(),
            13 => engine.purge_queue(&queue).is_ok(),
            14 if self.queues.len() > 5 => {
                self.queues.retain(|other| *other != queue);
                engine.delete_queue(&queue).is_ok()
            }
            14 => engine.delete_exchange("d").is_ok(),
            _ => {
                engine.declare_exchange("d", ExchangeKind::Direct).unwrap();
                self.declare();
                true
            }
        };
    }

    /// Acks some of what is ready, not in order, and waits.
    fn ack(&mut self, queue: &str) -> bool {
        let consumer = self.engine.consume(queue, ConsumerOptions::prefetch(8)).unwrap();
        let mut acks = Vec::new();
        while let Some(delivery) = consumer.try_recv().unwrap() {
            if self.chance.below(3) > 0 {
                acks.push(delivery.ack().unwrap());
            }
        }
        acks.iter().all(|ack| ack.wait().is_ok()) && !acks.is_empty()
    }

    fn some(&mut self) {
        for _ in 0..self.chance.below(4) {
            self.step();
        }
    }
}

fn open(storage: &MemoryStorage) -> Engine {
    let config = Config { stepped: true, segment_bytes_max: 64 << 10, ..Config::default() };
    Engine::open_on(Arc::new(storage.clone()), Arc::new(ManualClock::new()), config).unwrap()
}

/// What each queue holds, and how often what was found while checking is a problem: never.
fn sound(engine: &Engine) -> BTreeMap<String, (u64, u64)> {
    assert_eq!(engine.check(&mut |_| {}).unwrap().problems, []);
    let queues = engine.topology().queues.into_iter();
    queues.map(|queue| (queue.name, (queue.messages, queue.bytes))).collect()
}

#[test]
fn a_checkpoint_taken_while_commits_go_on_shows_one_moment_and_is_recovered_from() {
    for seed in 1..=40_u64 {
        let storage = MemoryStorage::new();
        let engine = open(&storage);
        let mut work = Work::begin(&engine, seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for _ in 0..80 {
            work.step();
        }
        while engine.step().unwrap() {}
        (0..10).for_each(|_| work.step());

        // As `checkpoint::write` and `Keeper::capture` do it, with commits at every turn.
        let core = engine.core();
        let paused = core.keeper.checkpoints.pause();
        drop(core.keeper.settle(core));
        let number = core.keeper.checkpoints.newest().unwrap().number + 1;
        // The first one leaves out, from then on, groups that nobody needs any more.
        core.ledger().capture(&mut checkpoint::blank(core.store, number, core.epoch));
        let mut expected = checkpoint::blank(core.store, number, core.epoch);
        core.ledger().capture(&mut expected);
        let mut taken = checkpoint::blank(core.store, number, core.epoch);
        let counts = core.ledger().begin_capture(&mut taken);
        loop {
            work.some();
            let piece = core.ledger().capture_piece();
            let Some(piece) = piece else { break };
            work.some();
            piece.add_to(&mut taken);
        }
        work.some();
        let early = core.ledger().end_capture();
        work.some();
        early.add_to(&mut taken);
        assert_eq!(taken, expected, "T1, seed {seed}");

        taken.segments = checkpoint::entries(&core.log, &counts);
        taken.next_ids.segment = checkpoint::next_segment(&taken.segments);
        checkpoint::store(&*core.storage, number, &taken.encode()).unwrap();
        drop(paused);
        (0..10).for_each(|_| work.step());
        let again = open(&storage.crash_image(seed, CrashMode::LoseUnsynced));
        assert_eq!(again.recovery().checkpoint, number);
        // T2: checking recounts what is outstanding in each segment.
        let recovered = sound(&again);
        drop(core.keeper.settle(core));
        assert_eq!(recovered, sound(&engine), "seed {seed}");
    }
}
