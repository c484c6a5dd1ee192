//! What routing costs a publish: 10,000 topic bindings beside one fanout binding.
//!
//! Each measures a publish as the caller's thread pays it, on a real store, with tickets waited for
//! together. A key that the publisher remembers, one that only all publishers together remember, and
//! one that nobody has seen: that one is matched.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanlog::{Change, Config, Engine, ExchangeKind, Message};

const QUEUE: &str = "q";
/// Four patterns for each.
const NAMES: usize = 2500;
const PAYLOAD: [u8; 100] = [7; 100];

/// A store with a fanout exchange of one binding and a topic exchange of 10,000.
fn store() -> (Engine, tempfile::TempDir) {
    let parent = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let dir = tempfile::tempdir_in(parent).expect("the target directory can be written");
    let engine = Engine::open(dir.path(), Config::default()).expect("a fresh store opens");
    engine.declare_exchange("fanout", ExchangeKind::Fanout).expect("a fresh name");
    engine.declare_exchange("topic", ExchangeKind::Topic).expect("a fresh name");
    engine.declare_queue(QUEUE).expect("a fresh name");
    engine.bind(QUEUE, "fanout", "").expect("both exist");
    let patterns: Vec<String> = (0..NAMES)
        .flat_map(|n| {
            [format!("a{n}.#"), format!("a{n}.*.d"), format!("*.b{n}"), format!("#.c{n}.#")]
        })
        .collect();
    let bind = |routing_key| Change::Bind { queue: QUEUE, exchange: "topic", routing_key };
    let changes: Vec<Change<'_>> = patterns.iter().map(|pattern| bind(pattern)).collect();
    engine.change(&changes).expect("all exist");
    (engine, dir)
}

/// The time that publishing so many messages takes, each with the key that `key` writes.
fn time(
    engine: &Engine,
    exchange: &str,
    iterations: u64,
    mut key: impl FnMut(u64, &mut String),
) -> Duration {
    engine.purge_queue(QUEUE).expect("the queue exists");
    let publisher = engine.publisher();
    let mut text = String::new();
    let begin = Instant::now();
    let mut last = None;
    for number in 0..iterations {
        text.clear();
        key(number, &mut text);
        let message = Message::new(exchange, &text, &PAYLOAD);
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
}

/// Writes a key that matches two of the 10,000 patterns.
fn write(text: &mut String, name: u64, word: u64) {
    use std::fmt::Write;
    write!(text, "a{name}.n{word}.d").expect("a string grows");
}

fn routing(criterion: &mut Criterion) {
    let (engine, _dir) = store();
    // All routes are defined: none of what follows is.
    time(&engine, "topic", NAMES as u64, |number, text| write(text, number, 0));
    let mut group = criterion.benchmark_group("routing");
    group.throughput(Throughput::Elements(1));
    let mut bench = |name: &str, exchange: &str, key: &mut dyn FnMut(u64, &mut String)| {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| time(&engine, exchange, iterations, &mut *key));
        });
    };
    bench("fanout, 1 binding", "fanout", &mut |_, text| write(text, 7, 0));
    bench("topic, 10,000 bindings, 1 key", "topic", &mut |_, text| write(text, 7, 0));
    bench("topic, 10,000 bindings, 1,000 keys", "topic", &mut |number, text| {
        write(text, number % 1000, 0);
    });
    let mut word = 0;
    bench("topic, 10,000 bindings, new keys", "topic", &mut |number, text| {
        word += 1;
        write(text, number % NAMES as u64, word);
    });
    bench("fanout, 1 binding, new keys", "fanout", &mut |number, text| {
        write(text, number % NAMES as u64, number);
    });
    group.finish();
}

criterion_group!(benches, routing);
criterion_main!(benches);
