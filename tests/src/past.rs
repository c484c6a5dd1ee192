//! A workload by chance on exchanges that keep histories: queues are bound from the past, rewound,
//! consumed from and purged, the store is opened again, and after each call compared with a model.
//!
//! One thread, an engine without threads. What a history keeps is the engine's to say, within its
//! limit; what comes back from it is not: it is all that matches from where the engine says it landed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fanlog::clock::ManualClock;
use fanlog::storage::{MemoryStorage, Storage};
use fanlog::{
    Config, ConsumerOptions, Engine, Error, ExchangeKind, ExchangeOptions, History, Landed,
    Message, Offset, OnDamage, Result, StartAt, Table,
};

use crate::random::Random;

/// Exchanges: name, how it routes, payload bytes that it keeps. The last leads to the first.
const EXCHANGES: [(&str, ExchangeKind, u64); 3] = [
    ("dir", ExchangeKind::Direct, 60_000),
    ("fan", ExchangeKind::Fanout, 400_000),
    ("top", ExchangeKind::Topic, 200_000),
];
/// Keeps nothing.
const PLAIN: &str = "plain";
const QUEUES: [&str; 4] = ["a", "b", "c", "d"];
const KEYS: [&str; 3] = ["k", "k.l", "m"];

#[derive(Debug, Clone)]
struct Sent {
    offset: u64,
    exchange: usize,
    key: &'static str,
    bytes: u64,
    /// The queue that it was published to by name.
    own: Option<usize>,
}

/// A binding, and from which offset on it is there.
type Bindings = BTreeMap<(usize, &'static str), u64>;

#[derive(Debug, Clone, Default)]
struct Held {
    bindings: Bindings,
    /// Offsets that are not acked.
    wanted: BTreeSet<u64>,
}

/// What was under way when power was cut.
#[derive(Debug, Clone, Default)]
enum Doubt {
    #[default]
    Nothing,
    /// This message may be stored.
    Publish(Sent),
    /// Some of these may be acked.
    Ack(usize, BTreeSet<u64>),
    /// Of these, all from some offset on may have come back, or none.
    Bring(usize, BTreeSet<u64>),
    /// The binding may be there, or not.
    Binding,
}

/// An engine, its disk, and what it has to hold.
#[derive(Debug)]
pub struct PastWorld {
    /// The disk.
    pub disk: MemoryStorage,
    clock: Arc<ManualClock>,
    engine: Option<Engine>,
    random: Random,
    sent: Vec<Sent>,
    queues: [Held; 4],
    doubt: Doubt,
    /// Calls that brought anything, and how many messages.
    pub brought: (u64, u64),
    /// Landings that were clamped.
    pub clamped: u64,
    /// Segments that were given back, and rewritten.
    pub reclaimed: (u64, u64),
    /// The last call.
    pub last: String,
}

fn config() -> Config {
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

fn matches(exchange: usize, binding: &str, key: &str) -> bool {
    match (EXCHANGES.get(exchange).map(|one| one.1), binding) {
        (Some(ExchangeKind::Direct), _) => binding == key,
        (Some(ExchangeKind::Topic), "k.#") => key == "k" || key == "k.l",
        (Some(ExchangeKind::Topic), "*") => key == "k" || key == "m",
        _ => true,
    }
}

/// The exchanges that a message passes through.
fn passes(sent: &Sent) -> Vec<usize> {
    match sent.exchange {
        // `top` leads to `dir`.
        2 => vec![2, 0],
        _ if sent.own.is_some() => Vec::new(),
        other => vec![other],
    }
}

fn goes_by(sent: &Sent, exchange: usize, binding: &str) -> bool {
    passes(sent).contains(&exchange) && matches(exchange, binding, sent.key)
}

impl PastWorld {
    /// An empty disk, not opened yet.
    pub fn new(seed: u64) -> Self {
        Self {
            disk: MemoryStorage::new(),
            clock: Arc::new(ManualClock::new()),
            engine: None,
            random: Random::new(seed),
            sent: Vec::new(),
            queues: Default::default(),
            doubt: Doubt::Nothing,
            brought: (0, 0),
            clamped: 0,
            reclaimed: (0, 0),
            last: String::new(),
        }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the world is open")
    }

    fn end(&self) -> u64 {
        self.sent.last().map_or(0, |last| last.offset + 1)
    }

    fn open_with(&mut self, config: Config) -> Result<()> {
        let storage: Arc<dyn Storage> = Arc::new(self.disk.clone());
        if let Some(engine) = self.engine.take() {
            let stats = engine.stats();
            self.reclaimed.0 += stats.segments_recycled + stats.segments_deleted;
            self.reclaimed.1 += stats.segments_rewritten;
        }
        let clock = Arc::clone(&self.clock);
        self.engine = Some(Engine::open_on(storage, clock, config)?);
        Ok(())
    }

    /// Opens the store and makes the exchanges and queues.
    ///
    /// # Errors
    ///
    /// The engine's.
    pub fn set_up(&mut self) -> Result<()> {
        self.open_with(config())?;
        let engine = self.engine();
        for (name, kind, bytes) in EXCHANGES {
            let history = Some(History::of_bytes(bytes));
            let options = ExchangeOptions { history, ..ExchangeOptions::default() };
            engine.declare_exchange_with(name, kind, &options)?;
        }
        engine.declare_exchange(PLAIN, ExchangeKind::Fanout)?;
        engine.bind_exchange("dir", "top", "#", &Table::new())?;
        for queue in QUEUES {
            engine.declare_queue(queue)?;
        }
        Ok(())
    }

    /// Makes a call by chance and compares.
    ///
    /// # Errors
    ///
    /// The engine's.
    pub fn act(&mut self) -> Result<()> {
        match self.random.below(100) {
            0..40 => self.publish(),
            40..58 => self.consume(),
            58..66 => self.bring(true),
            66..74 => self.bring(false),
            74..79 => self.bind(),
            79..81 => self.purge(),
            81..96 => self.pass_time(),
            96..98 => self.reopen(),
            _ => self.checkpoint(),
        }?;
        self.doubt = Doubt::Nothing;
        Ok(())
    }

    fn say(&mut self, text: String) {
        self.last = text;
    }

    fn publish(&mut self) -> Result<()> {
        let bytes = 20 + self.random.below(2) * self.random.below(16_000);
        let key = KEYS[self.random.place(3)];
        let which = self.random.place(4);
        let own = (which == 3).then(|| self.random.place(4));
        let offset = self.end();
        let sent = Sent { offset, exchange: which, key, bytes, own };
        self.say(format!("publish {sent:?}"));
        let payload = vec![b'x'; usize::try_from(bytes).unwrap_or(0)];
        let (exchange, key) = match own {
            Some(queue) => ("", QUEUES[queue]),
            None => (EXCHANGES[which].0, key),
        };
        self.doubt = Doubt::Publish(sent.clone());
        let message = Message::new(exchange, key, &payload);
        let confirm = self.engine().publisher().publish_confirmed(&message)?;
        assert_eq!(confirm.first_offset.0, offset, "offsets have no gaps");
        self.stored(sent);
        Ok(())
    }

    fn takers(&self, sent: &Sent) -> Vec<usize> {
        let gets = |queue: &usize| {
            let mut bindings = self.queues[*queue].bindings.keys();
            sent.own == Some(*queue) || bindings.any(|(at, key)| goes_by(sent, *at, key))
        };
        (0..4).filter(gets).collect()
    }

    fn stored(&mut self, sent: Sent) {
        for queue in self.takers(&sent) {
            self.queues[queue].wanted.insert(sent.offset);
        }
        self.sent.push(sent);
    }

    fn consume(&mut self) -> Result<()> {
        let queue = self.random.place(4);
        let count = 1 + self.random.below(60);
        self.say(format!("consume {count} of {}", QUEUES[queue]));
        let options = ConsumerOptions::prefetch(1000);
        let consumer = self.engine().consume(QUEUES[queue], options)?;
        let wanted: Vec<u64> = self.queues[queue].wanted.iter().copied().collect();
        let mut kept = Vec::new();
        let mut last = None;
        let mut acked = BTreeSet::new();
        for &expected in wanted.iter().take(usize::try_from(count).unwrap_or(0)) {
            let delivery = consumer.recv_timeout(Duration::ZERO)?;
            let delivery = delivery.expect("what is wanted is delivered");
            assert_eq!(delivery.offset().0, expected, "in the order of the log");
            if self.random.chance(80) {
                acked.insert(expected);
                self.doubt = Doubt::Ack(queue, acked.clone());
                last = Some(delivery.ack()?);
            } else {
                kept.push(delivery);
            }
        }
        if count > wanted.len() as u64 {
            assert!(consumer.recv_timeout(Duration::ZERO)?.is_none(), "nothing comes twice");
        }
        if !kept.is_empty() && self.random.chance(30) {
            // Rewound under the consumer's hands.
            last.take().map_or(Ok(()), |ack| ack.wait())?;
            self.queues[queue].wanted.retain(|offset| !acked.contains(offset));
            acked.clear();
            if self.bring_to(queue, StartAt::Earliest)?.is_some() {
                for stale in kept.drain(..) {
                    assert!(matches!(stale.ack(), Err(Error::UnknownTag { .. })), "it went back");
                }
            }
        }
        drop(kept);
        drop(consumer);
        // All in one commit.
        last.map_or(Ok(()), |ack| ack.wait())?;
        self.queues[queue].wanted.retain(|offset| !acked.contains(offset));
        Ok(())
    }

    fn rule(&mut self) -> (usize, &'static str) {
        let exchange = self.random.place(3);
        let keys: &[&str] = match EXCHANGES[exchange].1 {
            ExchangeKind::Fanout => &["", "k"],
            ExchangeKind::Topic => &["k.#", "*", "#"],
            _ => &KEYS,
        };
        (exchange, keys[self.random.place(keys.len())])
    }

    fn bind(&mut self) -> Result<()> {
        let queue = self.random.place(4);
        let bound: Vec<_> = self.queues[queue].bindings.keys().copied().collect();
        self.doubt = Doubt::Binding;
        if self.random.chance(50) && !bound.is_empty() {
            let (exchange, key) = bound[self.random.place(bound.len())];
            self.say(format!("unbind {} {} {key}", QUEUES[queue], EXCHANGES[exchange].0));
            self.engine().unbind(QUEUES[queue], EXCHANGES[exchange].0, key)?;
            self.queues[queue].bindings.remove(&(exchange, key));
            return Ok(());
        }
        let (exchange, key) = self.rule();
        self.say(format!("bind {} {} {key}", QUEUES[queue], EXCHANGES[exchange].0));
        self.engine().bind(QUEUES[queue], EXCHANGES[exchange].0, key)?;
        let end = self.end();
        self.queues[queue].bindings.entry((exchange, key)).or_insert(end);
        Ok(())
    }

    fn start(&mut self) -> StartAt {
        match self.random.below(3) {
            0 => StartAt::Earliest,
            _ => StartAt::Offset(Offset(self.random.below(self.end() + 1))),
        }
    }

    /// Binds a queue from the past, or rewinds it.
    fn bring(&mut self, binds: bool) -> Result<()> {
        let queue = self.random.place(4);
        let at = self.start();
        if !binds {
            return self.bring_to(queue, at).map(drop);
        }
        let (exchange, key) = self.rule();
        let name = EXCHANGES[exchange].0;
        self.say(format!("bind {} {name} {key} from {at:?}", QUEUES[queue]));
        let Held { bindings, wanted } = &self.queues[queue];
        let had = |sent: &&Sent| {
            let mut by = bindings.iter();
            wanted.contains(&sent.offset)
                || sent.own == Some(queue)
                || by.any(|((at, key), since)| *since <= sent.offset && goes_by(sent, *at, key))
        };
        let new = self.sent.iter().filter(|sent| goes_by(sent, exchange, key) && !had(sent));
        let new: BTreeSet<u64> = new.map(|sent| sent.offset).collect();
        self.doubt = Doubt::Bring(queue, new.clone());
        let landed = self.engine().bind_from(QUEUES[queue], name, key, &Table::new(), at)?;
        self.landed(exchange, at, landed);
        let end = self.end();
        self.queues[queue].bindings.entry((exchange, key)).or_insert(end);
        self.came(queue, &new, landed);
        Ok(())
    }

    /// Rewinds a queue; `None` if that can't be.
    fn bring_to(&mut self, queue: usize, at: StartAt) -> Result<Option<Landed>> {
        self.say(format!("rewind {} to {at:?}", QUEUES[queue]));
        let Held { bindings, wanted } = &self.queues[queue];
        let again = |sent: &&Sent| {
            let mut by = bindings.keys();
            !wanted.contains(&sent.offset) && by.any(|(at, key)| goes_by(sent, *at, key))
        };
        let again: BTreeSet<u64> = self.sent.iter().filter(again).map(|sent| sent.offset).collect();
        let exchanges: BTreeSet<usize> = bindings.keys().map(|(exchange, _)| *exchange).collect();
        self.doubt = Doubt::Bring(queue, again.clone());
        let landed = match self.engine().rewind(QUEUES[queue], at) {
            Err(Error::Refused { .. }) if exchanges.is_empty() => return Ok(None),
            other => other?,
        };
        if exchanges.len() == 1 {
            for &exchange in &exchanges {
                self.landed(exchange, at, landed);
            }
            self.came(queue, &again, landed);
        } else {
            // Where it landed in each is not told.
            let found = self.unacked(queue)?;
            let came: BTreeSet<u64> =
                found.difference(&self.queues[queue].wanted).copied().collect();
            assert!(came.is_subset(&again) && came.iter().all(|&offset| offset >= landed.offset.0));
            assert_eq!(came.len() as u64, landed.messages);
            let lost = again.difference(&came).filter(|&&offset| self.is_kept(offset, at));
            assert_eq!(lost.count(), 0, "what is kept comes back");
            self.queues[queue].wanted = found;
        }
        Ok(Some(landed))
    }

    /// Whether every history that has a message must keep it, and it was asked for.
    fn is_kept(&self, offset: u64, at: StartAt) -> bool {
        let asked = match at {
            StartAt::Offset(from) => from.0 <= offset,
            _ => true,
        };
        let sent = self.sent.iter().find(|sent| sent.offset == offset);
        let exchanges = sent.map(passes).unwrap_or_default();
        asked && exchanges.into_iter().all(|exchange| offset >= self.least(exchange))
    }

    /// From here on at the latest an exchange keeps everything.
    fn least(&self, exchange: usize) -> u64 {
        let mut bytes = 0;
        let mut newest = self.sent.iter().rev().filter(|sent| passes(sent).contains(&exchange));
        let over = newest.find(|sent| {
            bytes += sent.bytes;
            bytes > EXCHANGES[exchange].2
        });
        over.map_or(0, |sent| sent.offset + 1)
    }

    fn landed(&mut self, exchange: usize, at: StartAt, landed: Landed) {
        let asked = match at {
            StartAt::Offset(offset) => offset.0,
            _ => 0,
        };
        let found = landed.offset.0;
        assert!(asked <= found || at == StartAt::Earliest, "not before it was asked for");
        assert!(found <= asked.max(self.least(exchange)), "all within the limit is kept");
        if let StartAt::Offset(_) = at {
            assert_eq!(landed.clamped, found != asked, "it says so");
        }
        self.clamped += u64::from(landed.clamped);
    }

    fn came(&mut self, queue: usize, new: &BTreeSet<u64>, landed: Landed) {
        let came: BTreeSet<u64> = new.range(landed.offset.0..).copied().collect();
        assert_eq!(came.len() as u64, landed.messages, "{}", self.last);
        self.brought.0 += u64::from(!came.is_empty());
        self.brought.1 += landed.messages;
        self.queues[queue].wanted.extend(came);
    }

    fn purge(&mut self) -> Result<()> {
        let queue = self.random.place(4);
        self.say(format!("purge {}", QUEUES[queue]));
        self.doubt = Doubt::Ack(queue, self.queues[queue].wanted.clone());
        let purged = self.engine().purge_queue(QUEUES[queue])?;
        assert_eq!(purged, self.queues[queue].wanted.len() as u64);
        self.queues[queue].wanted.clear();
        Ok(())
    }

    fn pass_time(&mut self) -> Result<()> {
        let by = 50 + self.random.below(400);
        self.say(format!("pass {by} ms"));
        self.clock.advance(Duration::from_millis(by));
        for _ in 0..=self.random.below(20) {
            if !self.engine().step()? {
                break;
            }
        }
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.say("checkpoint".to_owned());
        self.engine().checkpoint()
    }

    fn reopen(&mut self) -> Result<()> {
        self.say("reopen".to_owned());
        if self.random.chance(50) {
            self.engine().close(Duration::from_secs(1))?;
        }
        self.open_with(config())
    }

    fn unacked(&self, queue: usize) -> Result<BTreeSet<u64>> {
        let mut found = BTreeSet::new();
        for message in self.engine().browse(QUEUES[queue])? {
            let message = message?;
            if !message.acked {
                found.insert(message.offset.0);
            }
        }
        Ok(found)
    }

    /// Compares every queue with the model, and has the engine recount all that it counts.
    ///
    /// # Errors
    ///
    /// The engine's.
    pub fn compare(&self) -> Result<()> {
        for (queue, name) in QUEUES.iter().enumerate() {
            let wanted = &self.queues[queue].wanted;
            assert_eq!(self.unacked(queue)?, *wanted, "queue {name} after {}", self.last);
            let depth = self.engine().queue(name)?.messages;
            assert_eq!(depth, wanted.len() as u64, "queue {name} after {}", self.last);
        }
        self.recount()
    }

    fn recount(&self) -> Result<()> {
        let report = self.engine().check(&mut |_| {})?;
        let sound = report.problems.is_empty() && report.uncounted == 0;
        assert!(sound, "after {}: {report:?}", self.last);
        Ok(())
    }

    /// Opens what a disk may hold after power was cut, compares it with all that may be, and works on.
    ///
    /// # Errors
    ///
    /// The engine's; what does not agree.
    pub fn judge(&self, image: MemoryStorage, steps: u64, damaged: bool) -> Result<(), String> {
        let mut world = Self {
            disk: image,
            clock: Arc::clone(&self.clock),
            engine: None,
            random: Random::new(self.end()),
            sent: self.sent.clone(),
            queues: self.queues.clone(),
            doubt: Doubt::Nothing,
            last: format!("a cut in {}", self.last),
            ..Self::new(0)
        };
        let on_damage = if damaged { OnDamage::Quarantine } else { OnDamage::Fail };
        let failed = |error: Error| format!("{error:?}");
        world.open_with(Config { on_damage, ..config() }).map_err(failed)?;
        let topology = world.engine().topology();
        if topology.queues.len() < QUEUES.len() {
            // It was cut while all was being declared.
            return Ok(());
        }
        if let Doubt::Publish(sent) = &self.doubt {
            let end = world.engine().recovery().end.0;
            if end > sent.offset {
                world.stored(sent.clone());
            }
        }
        for (queue, name) in QUEUES.iter().enumerate() {
            let found = world.unacked(queue).map_err(failed)?;
            let wanted = &world.queues[queue].wanted;
            let lost: BTreeSet<u64> = wanted.difference(&found).copied().collect();
            let came: BTreeSet<u64> = found.difference(wanted).copied().collect();
            let right = match &self.doubt {
                Doubt::Ack(of, acked) if *of == queue => lost.is_subset(acked) && came.is_empty(),
                Doubt::Bring(of, may) if *of == queue => {
                    let from = came.first().copied().unwrap_or(u64::MAX);
                    let all: BTreeSet<u64> = may.range(from..).copied().collect();
                    lost.is_empty() && (came == all || self.is_of_several(queue, may, &came))
                }
                _ => lost.is_empty() && came.is_empty(),
            };
            if !right {
                let what = &world.last;
                return Err(format!("{what}: queue {name} lost {lost:?}, has too much {came:?}"));
            }
            world.queues[queue].wanted = found;
            let bindings = topology.bindings.iter().filter(|one| one.queue == *name);
            let mut now = Bindings::new();
            for binding in bindings {
                let exchange = EXCHANGES.iter().position(|one| one.0 == binding.exchange);
                let keys = ["", "k.#", "*", "#"].into_iter().chain(KEYS);
                let key = keys.into_iter().find(|key| *key == binding.routing_key);
                let (Some(exchange), Some(key)) = (exchange, key) else { continue };
                let since = world.queues[queue].bindings.get(&(exchange, key)).copied();
                now.insert((exchange, key), since.unwrap_or(world.end()));
            }
            world.queues[queue].bindings = now;
        }
        world.compare().map_err(failed)?;
        for _ in 0..steps {
            world.act().map_err(failed)?;
        }
        world.compare().map_err(failed)
    }

    /// Whether all came that must, where a queue is rewound in several histories.
    fn is_of_several(&self, queue: usize, may: &BTreeSet<u64>, came: &BTreeSet<u64>) -> bool {
        let exchanges: BTreeSet<usize> =
            self.queues[queue].bindings.keys().map(|(exchange, _)| *exchange).collect();
        let from = came.first().copied().unwrap_or(0);
        let at = StartAt::Offset(Offset(from));
        exchanges.len() > 1
            && came.is_subset(may)
            && may.difference(came).all(|&offset| !self.is_kept(offset, at))
    }
}
