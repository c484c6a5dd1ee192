//! Micro-benches of the three hand-overs between a caller and the engine: publish, deliver, ack.
//!
//! Each measures what the caller's thread pays, on a real store, without waiting for the disk
//! where the engine does not ask for it. Rates beside the raw device are in the `fanlog-bench`
//! command.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanlog::{Config, Consumer, ConsumerOptions, Engine, ExchangeKind, Message};

const EXCHANGE: &str = "micro";
const QUEUE: &str = "micro";
/// Messages in hand while deliveries and acks are measured, below the most that a consumer may hold.
const HELD: u64 = 20_000;

/// A store in a directory that is removed at the end.
struct Store {
    engine: Engine,
    _dir: tempfile::TempDir,
}

impl Store {
    fn new() -> Store {
        let parent = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = tempfile::tempdir_in(parent).expect("the target directory can be written");
        let engine = Engine::open(dir.path(), Config::default()).expect("a fresh store opens");
        engine.declare_exchange(EXCHANGE, ExchangeKind::Fanout).expect("a fresh name");
        Store { engine, _dir: dir }
    }

    /// An empty queue in place of the one before.
    fn renew(&self) {
        if self.engine.topology().queues.iter().any(|queue| queue.name == QUEUE) {
            self.engine.delete_queue(QUEUE).expect("the queue exists");
        }
        self.engine.declare_queue(QUEUE).expect("the name is free");
        self.engine.bind(QUEUE, EXCHANGE, "").expect("both exist");
    }

    /// An empty queue, then so many confirmed messages of 100 bytes, and a consumer.
    fn filled(&self, messages: u64) -> Consumer {
        self.renew();
        let publisher = self.engine.publisher();
        let payload = [7; 100];
        let mut last = None;
        for _ in 0..messages {
            let ticket = publisher.publish(&Message::new(EXCHANGE, "", &payload));
            last = Some(ticket.expect("buffers free themselves"));
        }
        if let Some(ticket) = last {
            ticket.wait().expect("the disk works");
        }
        let options = ConsumerOptions { prefetch: 0, ..ConsumerOptions::default() };
        self.engine.consume(QUEUE, options).expect("the queue exists")
    }
}

/// Append and get a ticket, 100 bytes and 1 KiB; the tickets of 1,000 are waited for together.
fn publish(criterion: &mut Criterion) {
    let store = Store::new();
    let mut group = criterion.benchmark_group("publish");
    group.throughput(Throughput::Elements(1));
    for size in [100_usize, 1024] {
        let payload = vec![7; size];
        let publisher = store.engine.publisher();
        group.bench_function(format!("{size} B, window 1000"), |bencher| {
            bencher.iter_custom(|iterations| {
                store.renew();
                let begin = Instant::now();
                let mut last = None;
                for number in 0..iterations {
                    let message = Message::new(EXCHANGE, "", &payload);
                    let ticket = publisher.publish(&message).expect("buffers free themselves");
                    if number % 1000 == 999 {
                        ticket.wait().expect("the disk works");
                    }
                    last = Some(ticket);
                }
                if let Some(ticket) = last {
                    ticket.wait().expect("the disk works");
                }
                begin.elapsed()
            });
        });
    }
    group.finish();
}

/// Times `step` over messages in a consumer's hands, in rounds of at most [`HELD`].
fn in_rounds(iterations: u64, mut step: impl FnMut(u64) -> Duration) -> Duration {
    let mut elapsed = Duration::ZERO;
    let mut left = iterations;
    while left > 0 {
        let round = left.min(HELD);
        elapsed += step(round);
        left -= round;
    }
    elapsed
}

/// Take one delivery, and take them in batches of 256, from memory.
fn deliver(criterion: &mut Criterion) {
    let store = Store::new();
    let mut group = criterion.benchmark_group("deliver");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one at a time", |bencher| {
        bencher.iter_custom(|iterations| {
            in_rounds(iterations, |round| {
                let consumer = store.filled(round);
                let begin = Instant::now();
                for _ in 0..round {
                    black_box(consumer.recv().expect("published before").keep());
                }
                begin.elapsed()
            })
        });
    });
    group.bench_function("batches of 256, acked", |bencher| {
        bencher.iter_custom(|iterations| {
            in_rounds(iterations, |round| {
                let consumer = store.filled(round);
                let begin = Instant::now();
                let mut taken = 0;
                while taken < round {
                    let batch = consumer.recv_batch(256, Duration::from_secs(1));
                    let batch = batch.expect("published before");
                    taken += batch.iter().map(|d| u64::from(d.payload()[0] == 7)).sum::<u64>();
                    drop(batch.ack().expect("held"));
                }
                begin.elapsed()
            })
        });
    });
    group.finish();
}

/// Hand one ack over, not waited for.
fn ack(criterion: &mut Criterion) {
    let store = Store::new();
    let mut group = criterion.benchmark_group("ack");
    group.throughput(Throughput::Elements(1));
    group.bench_function("in order, not waited for", |bencher| {
        bencher.iter_custom(|iterations| {
            in_rounds(iterations, |round| {
                let consumer = store.filled(round);
                let tags: Vec<_> =
                    (0..round).map(|_| consumer.recv().expect("published before").keep()).collect();
                let begin = Instant::now();
                for tag in tags {
                    drop(consumer.ack(tag).expect("held"));
                }
                begin.elapsed()
            })
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        // Short, because filling the queue for deliveries and acks takes longer than both.
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300));
    targets = publish, deliver, ack
}
criterion_main!(benches);
