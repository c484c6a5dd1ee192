//! The torture protocol, judged from its lines alone by formulas written here a second time.

use std::collections::{BTreeMap, BTreeSet};

use crate::setup::Store;

/// What `torture publish` was asked for.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) queues: u64,
    pub(crate) threads: u64,
    pub(crate) size: (u64, u64),
}

impl Asked {
    pub(crate) fn words(&self, first: u64, count: u64, more: &str) -> String {
        let Self { queues, threads, size: (a, b) } = self;
        format!(
            "torture publish DIR --queues {queues} --threads {threads} --first {first} \
             --count {count} --size {a}-{b}{more}"
        )
    }

    fn queue(&self, number: u64) -> String {
        format!("q{}", number / self.threads % self.queues)
    }

    #[expect(clippy::cast_possible_truncation, reason = "as the formula says")]
    fn bytes(&self, number: u64) -> Vec<u8> {
        let (a, b) = self.size;
        let size = a + number * 7919 % (b - a + 1);
        let queue = self.queue(number);
        let seed = bitwise_crc32(queue.as_bytes())
            ^ u32::try_from(number * 2_654_435_761 % (1 << 32)).unwrap();
        let byte = |j: u64| seed.to_le_bytes()[(j % 4) as usize] ^ (j % 256) as u8;
        let mut bytes: Vec<u8> = (0..size).map(byte).collect();
        if size >= 24 {
            let name = format!("{queue} {number} {size}\n");
            bytes[..name.len()].copy_from_slice(name.as_bytes());
        }
        bytes
    }
}

fn bitwise_crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
        }
    }
    !crc
}

/// The lines of one or several `torture publish`, understood.
#[derive(Default)]
pub(crate) struct Told {
    /// (queue, offset) of each confirmed message, with its number.
    confirmed: BTreeMap<(String, u64), u64>,
    acked: BTreeSet<(String, u64)>,
    pub(crate) failed: Vec<String>,
}

impl Told {
    pub(crate) fn read(&mut self, lines: &str) {
        // A killed process may leave half a line, which it never got to say.
        for line in lines.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |word: &str| word.parse::<u64>().unwrap();
            match words[..] {
                ["C", queue, i, offset] => {
                    let place = (queue.to_owned(), number(offset));
                    assert_eq!(self.confirmed.insert(place, number(i)), None, "{line}");
                }
                ["A", queue, offset] => {
                    assert!(self.confirmed.contains_key(&(queue.to_owned(), number(offset))));
                    self.acked.insert((queue.to_owned(), number(offset)));
                }
                ["E", ..] => self.failed.push(line.to_owned()),
                _ => panic!("not in the protocol: {line}"),
            }
        }
    }

    pub(crate) fn confirms(&self) -> usize {
        self.confirmed.len()
    }

    /// The largest number among the confirmed messages.
    pub(crate) fn last_number(&self) -> Option<u64> {
        self.confirmed.values().max().copied()
    }

    pub(crate) fn acks(&self) -> usize {
        self.acked.len()
    }

    /// Judges what `torture verify` printed: all confirmed is there, and right, and nothing else
    /// than what was sent; what was acked is acked or gone.
    #[track_caller]
    pub(crate) fn judge(&self, by: Asked, sent: u64, printed: &str) {
        let by_bytes: BTreeMap<(String, String), u64> = (0..sent)
            .map(|i| {
                let bytes = by.bytes(i);
                let shown = format!(
                    "{} {:08x} {}",
                    bytes.len(),
                    bitwise_crc32(&bytes),
                    bytes.iter().take(24).fold(String::new(), |hex, b| format!("{hex}{b:02x}"))
                );
                ((by.queue(i), shown), i)
            })
            .collect();
        let mut seen = BTreeMap::new();
        let mut next_in_queue: BTreeMap<String, u64> = BTreeMap::new();
        let (lines, end) = printed.trim_end().rsplit_once('\n').unwrap_or(("", printed.trim_end()));
        for line in lines.lines().filter(|line| !line.starts_with("R ")) {
            let words: Vec<&str> = line.split(' ').collect();
            let ["M", queue, offset, len, crc, acked, hex] = words[..] else { panic!("{line}") };
            let place = (queue.to_owned(), offset.parse::<u64>().unwrap());
            let next = next_in_queue.entry(queue.to_owned()).or_default();
            assert!(place.1 >= *next, "out of order: {line}");
            *next = place.1 + 1;
            let shown = (queue.to_owned(), format!("{len} {crc} {hex}"));
            let number = by_bytes.get(&shown).unwrap_or_else(|| panic!("never sent: {line}"));
            if let Some(confirmed) = self.confirmed.get(&place) {
                assert_eq!(number, confirmed, "another message: {line}");
            }
            assert!(acked == "1" || !self.acked.contains(&place), "acked came back: {line}");
            seen.insert(place, *number);
        }
        for (place, number) in &self.confirmed {
            assert!(
                seen.contains_key(place) || self.acked.contains(place),
                "message {number} at {place:?} is lost"
            );
        }
        assert_eq!(end, format!("END {}", seen.len()));
        assert_eq!(seen.values().collect::<BTreeSet<_>>().len(), seen.len(), "a duplicate");
    }
}

#[test]
fn everything_that_was_told_is_there() {
    let store = Store::new();
    let asked = Asked { queues: 3, threads: 4, size: (24, 3000) };
    let mut told = Told::default();
    told.read(&store.fine(&asked.words(0, 500, "")));
    told.read(&store.fine(&asked.words(500, 301, " --ack 7")));
    assert_eq!((told.confirms(), told.acks()), (801, (500..801).filter(|i| i % 7 == 0).count()));
    told.judge(asked, 801, &store.fine("torture verify DIR"));
    told.judge(asked, 801, &store.fine("torture verify DIR --read-only"));
    assert!(store.fine("verify DIR").starts_with("ok: "));
}

#[test]
fn small_and_empty_messages_follow_the_formula() {
    let store = Store::new();
    // One thread and one queue: short messages of different numbers must not look alike.
    let asked = Asked { queues: 1, threads: 1, size: (4, 30) };
    let mut told = Told::default();
    told.read(&store.fine(&asked.words(0, 100, "")));
    told.judge(asked, 100, &store.fine("torture verify DIR"));
    let empty = Asked { queues: 1, threads: 1, size: (0, 0) };
    store.fine(&empty.words(100, 1, ""));
    let verified = store.fine("torture verify DIR");
    assert!(verified.contains("\nM q0 100 0 00000000 0 \nEND 101\n"), "{verified}");
}

#[test]
fn the_torture_consumer_keeps_what_it_does_not_ack() {
    let store = Store::new();
    let asked = Asked { queues: 2, threads: 3, size: (30, 60) };
    let mut told = Told::default();
    told.read(&store.fine(&asked.words(0, 400, " --ack 50")));
    assert_eq!(told.acks(), 8);
    told.judge(asked, 400, &store.fine("torture verify DIR"));
    let depths: u64 = store.json("info DIR --json")[0]["queues"]
        .as_array()
        .unwrap()
        .iter()
        .map(|queue| queue["messages"].as_u64().unwrap())
        .sum();
    assert_eq!(depths, 392);
}

#[test]
fn segments_roll_at_the_size_that_was_asked_for() {
    let store = Store::new();
    let asked = Asked { queues: 2, threads: 2, size: (4000, 9000) };
    let mut told = Told::default();
    told.read(&store.fine(&asked.words(0, 150, " --segment-bytes 65536")));
    told.judge(asked, 150, &store.fine("torture verify DIR"));
    let segments = store.json("info DIR --json")[0]["segments"].as_array().unwrap().len();
    assert!(segments > 5, "{segments} segments");
}

#[test]
fn repeat_reads_everything_again() {
    let store = Store::new();
    let asked = Asked { queues: 1, threads: 1, size: (10, 20) };
    store.fine(&asked.words(0, 5, ""));
    let once = store.fine("torture verify DIR");
    let thrice = store.fine("torture verify DIR --repeat 3");
    let messages = once.strip_suffix("END 5\n").unwrap();
    assert_eq!(thrice, format!("{}END 15\n", messages.repeat(3)));
}

#[test]
fn a_read_only_look_writes_nothing() {
    let store = Store::new();
    let asked = Asked { queues: 1, threads: 2, size: (10, 2000) };
    store.fine(&asked.words(0, 50, ""));
    let before = store.files();
    store.fine("torture verify DIR --read-only --repeat 2");
    store.fine("verify DIR");
    store.fine("info DIR");
    assert_eq!(store.files(), before);
}

#[test]
fn too_large_messages_fail_alone() {
    let store = Store::new();
    let too_large = (64 << 20) + 1;
    let asked = Asked { queues: 1, threads: 1, size: (too_large, too_large) };
    let ended = store.run(&asked.words(0, 2, ""));
    ended.is_error(5, "too-large");
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("E q0 0 too-large "), "{lines:?}");
    let small = Asked { size: (1, 1), ..asked };
    assert_eq!(store.fine(&small.words(2, 1, "")), "C q0 2 0\n");
}
