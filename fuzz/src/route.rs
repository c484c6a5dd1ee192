//! Where messages go, on a topic and on a headers exchange, against matchers that are written for
//! clarity: of every binding by itself, word by word, without the engine's tree and tables.
//!
//! R1. A message is in the queues that a binding leads to, once each, and in no others.
//! R2. That holds after bindings were undone, after a crash, and after a close.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arbitrary::Arbitrary;
use fanlog::{
    Engine, ErrorKind, ExchangeKind, Message, Publisher, Table, Value,
    clock::ManualClock,
    storage::{CrashMode, MemoryStorage},
};

use crate::{CLOSE_TIMEOUT, open};

/// One operation. Numbers are places in the lists below, modulo their lengths.
#[derive(Arbitrary, Debug)]
pub enum Op {
    Bind {
        queue: u8,
        words: Vec<u8>,
    },
    Unbind {
        queue: u8,
        words: Vec<u8>,
    },
    /// Undoes the binding of that place, if there is one.
    UnbindOne {
        at: u8,
    },
    BindHeaders {
        queue: u8,
        how: u8,
        arguments: Vec<(u8, u8)>,
    },
    UnbindHeaders {
        at: u8,
    },
    Publish {
        words: Vec<u8>,
    },
    PublishHeaders {
        headers: Vec<(u8, u8)>,
    },
    Reopen {
        close: bool,
    },
}

const OPS_MAX: usize = 80;
const QUEUES: [&str; 4] = ["p", "q", "r", "s"];
const WORDS: [&str; 8] = ["a", "b", "#", "*", "", "ab", "#", "*"];
/// More would take the plain matcher too long.
const WORDS_MAX: usize = 9;
const NAMES: [&str; 6] = ["h", "i", "j", "x-h", "x-i", ""];
const HOW: [Option<&str>; 5] =
    [None, Some("all"), Some("any"), Some("all-with-x"), Some("any-with-x")];

fn value(at: u8) -> Value<'static> {
    const VALUES: [Value<'static>; 16] = [
        Value::Void,
        Value::Bool(true),
        Value::Bool(false),
        Value::I8(1),
        Value::I32(1),
        Value::I64(1),
        Value::U16(2),
        Value::I64(-1),
        Value::F32(1.0),
        Value::F64(1.0),
        Value::F64(1.5),
        Value::Text(b"1"),
        Value::Text(b"x"),
        Value::Bytes(b"x"),
        Value::Timestamp(1),
        Value::Decimal { scale: 0, value: 1 },
    ];
    VALUES[usize::from(at) % VALUES.len()]
}

/// What tells two values apart: numbers by their worth, others by type and content.
fn worth(value: Value<'_>) -> String {
    match value {
        Value::I8(n) => format!("whole {n}"),
        Value::U16(n) => format!("whole {n}"),
        Value::I32(n) => format!("whole {n}"),
        Value::I64(n) => format!("whole {n}"),
        Value::F32(n) => format!("fraction {n}"),
        Value::F64(n) => format!("fraction {n}"),
        other => format!("{other:?}"),
    }
}

/// Does the operations, to the engine and to the model.
pub fn run(ops: &[Op]) {
    let mut world = World::new();
    for op in ops.iter().take(OPS_MAX) {
        world.apply(op);
    }
}

type Wanted = BTreeMap<&'static str, u8>;

struct World {
    disk: MemoryStorage,
    clock: Arc<ManualClock>,
    engine: Engine,
    publisher: Publisher,
    patterns: BTreeSet<(&'static str, String)>,
    headers: BTreeSet<(&'static str, u8, Wanted)>,
    depths: BTreeMap<&'static str, u64>,
}

fn key(words: &[u8]) -> String {
    let words = words.iter().take(WORDS_MAX).map(|&at| WORDS[usize::from(at) % WORDS.len()]);
    words.collect::<Vec<_>>().join(".")
}

fn words(key: &str) -> Vec<&str> {
    if key.is_empty() { Vec::new() } else { key.split('.').collect() }
}

/// What a pattern means.
fn matches(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern, key) {
        ([], key) => key.is_empty(),
        (["#", rest @ ..], key) => (0..=key.len()).any(|taken| matches(rest, &key[taken..])),
        (["*", rest @ ..], [_, key @ ..]) => matches(rest, key),
        ([word, rest @ ..], [first, key @ ..]) => word == first && matches(rest, key),
        _ => false,
    }
}

/// What the arguments of a binding mean.
fn wants(how: u8, wanted: &Wanted, headers: &Wanted) -> bool {
    let how = HOW[usize::from(how) % HOW.len()].unwrap_or("all");
    let mut found = Vec::new();
    for (name, at) in wanted {
        if name.starts_with("x-") && !how.ends_with("with-x") {
            continue;
        }
        let wanted = value(*at);
        let header = headers.get(name).map(|&at| value(at));
        found.push(header.is_some_and(|it| wanted == Value::Void || worth(it) == worth(wanted)));
    }
    if how.starts_with("any") { found.contains(&true) } else { !found.contains(&false) }
}

fn wanted(pairs: &[(u8, u8)]) -> Wanted {
    let pairs = pairs.iter().take(6);
    pairs.map(|&(name, value)| (NAMES[usize::from(name) % NAMES.len()], value % 16)).collect()
}

fn table(how: Option<&str>, wanted: &Wanted) -> Table {
    let mut table = Table::new();
    if let Some(how) = how {
        table.push("x-match", how);
    }
    for (name, at) in wanted {
        table.push(name, value(*at));
    }
    table
}

impl World {
    fn new() -> Self {
        let (disk, clock) = (MemoryStorage::new(), Arc::new(ManualClock::new()));
        let engine = open(&disk, &clock).expect("an empty disk");
        engine.declare_exchange("topic", ExchangeKind::Topic).expect("new");
        engine.declare_exchange("headers", ExchangeKind::Headers).expect("new");
        for queue in QUEUES {
            engine.declare_queue(queue).expect("new");
        }
        let publisher = engine.publisher();
        let depths = QUEUES.iter().map(|&queue| (queue, 0)).collect();
        let (patterns, headers) = (BTreeSet::new(), BTreeSet::new());
        Self { disk, clock, engine, publisher, patterns, headers, depths }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Bind { queue, words } => {
                let (queue, pattern) = (name(*queue), key(words));
                self.engine.bind(queue, "topic", &pattern).expect("both are there");
                self.patterns.insert((queue, pattern));
            }
            Op::Unbind { queue, words } => self.unbind(name(*queue), key(words)),
            Op::UnbindOne { at } => {
                let one = self.patterns.iter().nth(usize::from(*at)).cloned();
                if let Some((queue, pattern)) = one {
                    self.unbind(queue, pattern);
                }
            }
            Op::BindHeaders { queue, how, arguments } => {
                let (queue, how) = (name(*queue), how % 5);
                let arguments = wanted(arguments);
                let table = table(HOW[usize::from(how)], &arguments);
                self.engine.bind_with(queue, "headers", "", &table).expect("both are there");
                self.headers.insert((queue, how, arguments));
            }
            Op::UnbindHeaders { at } => {
                let one = self.headers.iter().nth(usize::from(*at)).cloned();
                if let Some((queue, how, arguments)) = one {
                    let table = table(HOW[usize::from(how)], &arguments);
                    self.engine.unbind_with(queue, "headers", "", &table).expect("it is bound");
                    self.headers.remove(&(queue, how, arguments));
                }
            }
            Op::Publish { words: some } => {
                let key = key(some);
                let leads = self.patterns.iter().filter(|(_, p)| matches(&words(p), &words(&key)));
                let takers = leads.map(|(queue, _)| *queue).collect();
                self.publish(&Message::new("topic", &key, b"m"), takers);
            }
            Op::PublishHeaders { headers } => {
                let headers = wanted(headers);
                let leads =
                    self.headers.iter().filter(|(_, how, want)| wants(*how, want, &headers));
                let takers = leads.map(|(queue, ..)| *queue).collect();
                let bytes = table(None, &headers);
                let message = Message::new("headers", "", b"m").headers(bytes.as_bytes());
                self.publish(&message, takers);
            }
            Op::Reopen { close } => self.reopen(*close),
        }
    }

    fn unbind(&mut self, queue: &'static str, pattern: String) {
        let unbound = self.engine.unbind(queue, "topic", &pattern);
        let known = self.patterns.remove(&(queue, pattern));
        assert_eq!(unbound.is_ok(), known, "{unbound:?}");
    }

    fn publish(&mut self, message: &Message<'_>, takers: BTreeSet<&'static str>) {
        match self.publisher.publish_confirmed(message) {
            Ok(_) => assert!(!takers.is_empty(), "R1: nobody should take it"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unroutable, "{error}");
                assert!(takers.is_empty(), "R1: {takers:?} should take it");
            }
        }
        for queue in takers {
            *self.depths.get_mut(queue).expect("it is declared") += 1;
        }
        self.compare();
    }

    fn compare(&self) {
        for (queue, depth) in &self.depths {
            let found = self.engine.queue(queue).expect("it is declared").messages;
            assert_eq!(found, *depth, "R1: queue {queue}");
        }
    }

    fn reopen(&mut self, close: bool) {
        let disk = if close {
            self.engine.close(CLOSE_TIMEOUT).expect("nothing fails here");
            self.disk.clone()
        } else {
            self.disk.crash_image(0, CrashMode::LoseUnsynced)
        };
        self.engine = open(&disk, &self.clock).expect("nothing is damaged");
        self.publisher = self.engine.publisher();
        self.disk = disk;
        self.compare();
    }
}

fn name(queue: u8) -> &'static str {
    QUEUES[usize::from(queue) % QUEUES.len()]
}
