//! A real process on a real directory is killed at random points, and the store is opened again.
//!
//! What the process told through its pipe before it died has to be true. `FANLOG_ROUNDS=1000` runs
//! longer.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
#![expect(clippy::print_stdout, reason = "a test says what it did")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fanlog::storage::Backend;
use fanlog::{ConsumerOptions, Engine, ErrorKind};
use fanlog_tests::judge::{Bounds, Seen, compare};
use fanlog_tests::model::{Acked, Fate, Id, Model, Topology};
use fanlog_tests::random::Random;
use fanlog_tests::stream::{KEY, PUBLISHERS, WINDOW, config, planned};

/// Rounds of each of the two tests.
const ROUNDS: u64 = 100;
/// A store lives for so many rounds.
const LIFE: u64 = 20;

/// What a round told.
#[derive(Debug, Default)]
struct Told {
    opened: bool,
    confirmed: Vec<(Id, u64)>,
    received: Vec<(usize, Id, u64)>,
    acked: Vec<(usize, Id)>,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        let id = |at: usize| words[at].parse::<Id>().unwrap();
        let queue = |at: usize| usize::from(words[at] == "b");
        match words[0] {
            "O" => self.opened = true,
            "C" => self.confirmed.push((id(1), number(2))),
            "D" => self.received.push((queue(1), id(2), number(3))),
            "A" => self.acked.push((queue(1), id(2))),
            other => panic!("the victim said {other:?}"),
        }
    }
}

fn start(dir: &Path, first: Id) -> Child {
    Command::new(env!("CARGO_BIN_EXE_fanlog-victim"))
        .arg(dir)
        .arg(first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Lets a process work until it has told `lines`, or for `delay` where that is 0; kills it.
fn live_and_die(dir: &Path, first: Id, lines: u64, delay: Duration, locked: bool) -> Told {
    let mut child = start(dir, first);
    let mut told = Told::default();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let mut heard = 0;
    if lines == 0 {
        std::thread::sleep(delay);
    }
    while heard < lines && reader.read_line(&mut line).unwrap() > 0 {
        told.hear(line.trim_end());
        line.clear();
        heard += 1;
        if heard == 1 && locked {
            let error = Engine::open(dir, config()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        }
    }
    child.kill().unwrap();
    while reader.read_line(&mut line).unwrap() > 0 {
        // A line is one write: what came is whole.
        told.hear(line.trim_end());
        line.clear();
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.code().is_none(), "it ended by itself: {output:?}");
    told
}

/// Notes what may have been published since `first`, and what was told.
fn learn(model: &mut Model, told: &Told) {
    let first = model.sent.len();
    let last = told.confirmed.iter().map(|(id, _)| *id).max().unwrap_or(first);
    for id in first..=last + PUBLISHERS * (2 * WINDOW + 2) {
        let plan = planned(id);
        assert_eq!(model.offer(plan.exchange, KEY, plan.bytes, plan.buffered), id);
        model.sent[id].publisher = (id - first) % PUBLISHERS;
        model.appended(id);
    }
    for &(id, offset) in &told.confirmed {
        model.sent[id].fate = Fate::Confirmed(offset);
    }
    for &(queue, id, offset) in &told.received {
        let entry = model.queues[queue].entries.get_mut(&id).expect("it was published");
        assert_ne!(entry.acked, Acked::Durable, "message {id} came though it was acked");
        entry.acked = Acked::Asked;
        entry.handed_out = true;
        // It was stored, though its confirm may not be told yet: it may be acked by now, and gone
        // with its segment.
        model.sent[id].fate = Fate::Confirmed(offset);
    }
    for &(queue, id) in &told.acked {
        model.queues[queue].entries.get_mut(&id).unwrap().acked = Acked::Durable;
    }
}

fn topology(model: &mut Model) {
    let mut topology = Topology::default();
    topology.exchanges.insert("fan".into(), fanlog::ExchangeKind::Fanout);
    for name in ["a", "b"] {
        topology.queues.insert(name.into(), model.new_queue(name));
        topology.bindings.insert((name.into(), "fan".into(), String::new()));
    }
    model.topology = topology;
}

/// Takes everything out of a queue, in this process.
fn drain(engine: &Engine, model: &mut Model, name: &str, queue: usize) {
    let expected = model.outstanding(queue);
    let consumer = engine.consume(name, ConsumerOptions::prefetch(0)).unwrap();
    let mut got = Vec::new();
    let mut last = None;
    while got.len() < expected.len() {
        let delivery = consumer.recv_timeout(Duration::from_secs(10)).unwrap();
        let delivery = delivery.expect("it is in the queue");
        let id = model.recognise(delivery.payload()).unwrap();
        let entry = model.queues[queue].entries.get_mut(&id).expect("it is this queue's");
        assert!(delivery.redelivered() || !entry.handed_out, "message {id} came without its flag");
        entry.acked = Acked::Durable;
        got.push(id);
        last = Some(delivery.ack().unwrap());
    }
    assert_eq!(got, expected);
    assert!(consumer.try_recv().unwrap().is_none());
    if let Some(ack) = last {
        ack.wait().unwrap();
    }
}

/// What all rounds together did.
#[derive(Debug, Default)]
struct Total {
    confirmed: usize,
    received: usize,
    acked: usize,
    killed_while_opening: u64,
    doubtful_kept: u64,
    lost: u64,
    segments: u64,
}

fn round(dir: &Path, model: &mut Model, random: &mut Random, age: u64, total: &mut Total) {
    let lines = if random.chance(10) { 0 } else { 1 + random.below(500) };
    // From a few microseconds, while it starts, to some milliseconds of work.
    let magnitude = random.below(15);
    let delay = Duration::from_micros(random.below(2 << magnitude));
    let told = live_and_die(dir, model.sent.len(), lines, delay, age == 1);
    total.killed_while_opening += u64::from(!told.opened);
    total.confirmed += told.confirmed.len();
    total.received += told.received.len();
    total.acked += told.acked.len();
    if model.queues.is_empty() {
        if !told.opened {
            // Nothing was confirmed, not even a queue: the store may not exist, but never in part.
            drop(Engine::open(dir, config()).unwrap());
            std::fs::remove_dir_all(dir).unwrap();
            return;
        }
        topology(model);
    }
    learn(model, &told);
    let bounds = Bounds { everything: true, durable: u64::MAX };
    let mut count = |seen: Seen| {
        total.doubtful_kept += seen.doubtful_kept;
        total.lost += seen.lost;
    };
    match random.below(3) {
        // The next process finds what this one left.
        0 => {
            let engine = Engine::open_read_only(dir, config()).unwrap();
            count(compare(&engine, model, bounds).unwrap());
        }
        1 => {
            let engine = Engine::open(dir, config()).unwrap();
            count(compare(&engine, model, bounds).unwrap());
            total.segments += engine.stats().segments;
            assert_eq!(engine.close(Duration::from_secs(10)).unwrap().unconfirmed, 0);
        }
        _ => {
            let engine = Engine::open(dir, config()).unwrap();
            count(compare(&engine, model, bounds).unwrap());
            drain(&engine, model, "a", 0);
            drain(&engine, model, "b", 1);
            assert_eq!(engine.close(Duration::from_secs(10)).unwrap().unconfirmed, 0);
            let engine = Engine::open(dir, config()).unwrap();
            assert!(engine.recovery().clean);
            compare(&engine, model, bounds).unwrap();
        }
    }
}

fn kill_again_and_again(parent: &Path, seed: u64) -> Backend {
    let rounds = std::env::var("FANLOG_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    let mut random = Random::new(seed);
    let mut total = Total::default();
    let mut model = Model::default();
    let mut home = tempfile::tempdir_in(parent).unwrap();
    let mut backend = Backend::Memory;
    for number in 0..rounds {
        if number % LIFE == 0 {
            home = tempfile::tempdir_in(parent).unwrap();
            model = Model::default();
            let engine = Engine::open(home.path().join("probe"), config()).unwrap();
            backend = engine.stats().backend;
        }
        round(&home.path().join("store"), &mut model, &mut random, number % LIFE, &mut total);
    }
    println!("{rounds} rounds, {backend}: {total:?}");
    assert!(total.confirmed > 1000 && total.received > 1000 && total.acked > 100, "{total:?}");
    assert!(total.killed_while_opening > 0, "{total:?}");
    backend
}

#[test]
fn killed_on_the_disk() {
    kill_again_and_again(Path::new(env!("CARGO_TARGET_TMPDIR")), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn killed_in_shared_memory() {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        assert_eq!(kill_again_and_again(memory, 2), Backend::Buffered);
    }
}
