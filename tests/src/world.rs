//! A workload by chance, in one thread, on an engine without threads of its own.
//!
//! Owns engine, disk, clock and model. Every call's outcome is compared with the model at once;
//! what cannot be known before a crash is settled by [`judge`](crate::judge) after it. The same seed
//! makes the same calls.

mod consume;
mod counts;
mod drain;
mod harm;
mod lives;
mod named;
mod past;
mod publish;
mod space;
mod topology;
mod transact;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use fanlog::clock::{Clock, ManualClock};
use fanlog::storage::{FaultRule, FaultStorage, MemoryStorage, Storage};
use fanlog::{
    Ack, BackupFiles, Config, Engine, ExchangeKind, ExclusiveQueue, OnDamage, Payload, Ticket,
};

use self::consume::Taker;
pub use self::counts::Counts;
pub use self::lives::Remains;
use crate::disks::{Habits, Lie, Misreads, Slowness};
use crate::model::{
    BRIEF, HEADS, Id, KEPT, LATE, LETTERS, MORTAL, Model, ODD, PAST, QueueId, RANKED, SHORT, STRICT,
};
use crate::random::Random;

/// Why a run ended before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Power was cut, or the planted fault struck: what follows is for the judge.
    Broken,
    /// The engine did what it must not.
    Problem(String),
}

/// The outcome of a piece of work.
pub type Work<T = ()> = Result<T, Stop>;

/// How a world is made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What decides all choices.
    pub seed: u64,
    /// Reserved blocks have to be filled with zeros.
    pub unwritten: bool,
    /// What the disk claims and does not do.
    pub lie: Option<Lie>,
    /// Close, crash and open again on the way.
    pub lives: bool,
    /// Publishers with names, transient messages, priorities, messages with a life, dead letters; queues
    /// with lengths, with an owner, transient ones; headers and alternate exchanges, histories.
    pub wide: bool,
}

impl Plan {
    /// A plan with nothing special.
    pub fn new(seed: u64) -> Self {
        Self { seed, unwritten: seed.is_multiple_of(2), lie: None, lives: false, wide: false }
    }

    fn config(&self) -> Config {
        let mut random = Random::new(self.seed ^ 0xc0f1);
        Config {
            segment_bytes_max: [64 << 10, 64 << 10, 128 << 10, 256 << 10][random.place(4)],
            segments_ahead: 1 + random.place(2),
            window_bytes_max: 1 << 20,
            buffer_bytes_max: 1 << 20,
            mapped_segments_max: 1 + random.place(4),
            checkpoint_log_bytes: 64 << 10,
            checkpoint_interval: Duration::from_secs(20),
            // The date jumps by years: nobody is forgotten for that.
            publisher_age_max: Duration::MAX,
            on_damage: if self.seed % 4 == 3 { OnDamage::Quarantine } else { OnDamage::Fail },
            stepped: true,
            ..Config::default()
        }
    }
}

/// An engine, its disk, and what it has to hold.
#[derive(Debug)]
pub struct World {
    /// How it was made.
    pub plan: Plan,
    /// The disk.
    pub disk: MemoryStorage,
    /// Where faults are planted, if any are.
    pub faults: Option<FaultStorage>,
    /// Faults that are no excuse any more.
    forgiven: u64,
    /// The call that failed last.
    failed_call: RefCell<String>,
    /// It is on a copy of another one's disk, to which nothing more is done.
    is_copy: bool,
    /// How long writes take.
    slowness: Slowness,
    /// What is read wrong, if anything is.
    misreads: Option<Misreads>,
    /// The time.
    pub clock: Arc<ManualClock>,
    /// What the store has to hold.
    pub model: Model,
    /// What was done.
    pub counts: Counts,
    /// Every call and its outcome, in short.
    pub trace: Vec<String>,
    config: Config,
    engine: Option<Engine>,
    tickets: Vec<(Ticket, Vec<Id>)>,
    acks: Vec<(Ack, QueueId, Vec<Id>)>,
    /// Whoever has the exclusive queue.
    owner: Option<ExclusiveQueue>,
    takers: Vec<Taker>,
    /// Payloads that somebody keeps, however the engine ends meanwhile.
    payloads: VecDeque<(Id, Payload)>,
    random: Random,
}

impl World {
    /// An empty disk, not opened yet.
    pub fn new(plan: Plan) -> Self {
        Self::on(plan, MemoryStorage::new(), Model::default())
    }

    pub(crate) fn on(plan: Plan, disk: MemoryStorage, model: Model) -> Self {
        Self {
            config: plan.config(),
            random: Random::new(plan.seed),
            disk,
            faults: None,
            forgiven: 0,
            failed_call: RefCell::default(),
            is_copy: false,
            slowness: Slowness::default(),
            misreads: None,
            clock: Arc::new(ManualClock::new()),
            model,
            counts: Counts::default(),
            trace: Vec::new(),
            engine: None,
            tickets: Vec::new(),
            acks: Vec::new(),
            owner: None,
            takers: Vec::new(),
            payloads: VecDeque::new(),
            plan,
        }
    }

    /// The settings that the engine is opened with.
    pub fn config(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Opens the store on the disk.
    ///
    /// # Errors
    ///
    /// If power is cut, or the store does not open.
    pub fn open(&mut self) -> Work {
        if self.plan.lives {
            // A process that dies is one that the disk does nothing for any more.
            self.faults = None;
            self.forgiven = 0;
            self.allow_faults();
        }
        let mut storage: Arc<dyn Storage> = Arc::new(self.disk.clone());
        if let Some(faults) = &self.faults {
            storage = Arc::new(faults.clone());
        }
        let mut habits = Habits::new(storage, self.plan.unwritten);
        if self.plan.wide {
            habits = habits.slow(self.slowness.clone(), Arc::clone(&self.clock));
        }
        if let Some(misreads) = &self.misreads {
            habits = habits.misreading(misreads.clone());
        }
        let storage = Arc::new(match self.plan.lie {
            Some(lie) => habits.lying(lie),
            None => habits,
        });
        let clock = Arc::clone(&self.clock);
        let opened = Engine::open_on(storage, clock, self.config.clone());
        let engine = opened.map_err(|error| self.failed("open", error))?;
        self.note(|| "open".to_owned());
        let epoch = engine.recovery().epoch;
        self.engine = Some(engine);
        if epoch <= self.model.epoch {
            return Err(Stop::Problem(format!("epoch {epoch} after {}", self.model.epoch)));
        }
        self.model.epoch = epoch;
        self.model.forget_transient();
        self.counts.passed_away += self.model.forget_passing();
        self.model.opened_at(self.clock.wall_us());
        Ok(())
    }

    /// The engine; a world that was not opened has none.
    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the world is open")
    }

    /// Whether power is cut or a fault has struck: errors are to be expected.
    pub fn is_broken(&self) -> bool {
        let faults = self.faults.as_ref().map_or(0, FaultStorage::faults);
        self.disk.is_cut() || faults > self.forgiven
    }

    /// Makes it possible to plant faults once the store is open.
    pub fn allow_faults(&mut self) -> &FaultStorage {
        let disk = &self.disk;
        self.faults.get_or_insert_with(|| FaultStorage::new(Arc::new(disk.clone())))
    }

    /// Plants a fault, for the calls to come. Where the store is open already, faults were allowed
    /// before.
    pub fn plant(&mut self, rule: FaultRule) {
        self.allow_faults().fail(rule);
    }

    /// What has failed so far is no excuse any more; nothing else will fail.
    pub fn forgive(&mut self) {
        if let Some(faults) = &self.faults {
            faults.clear();
            self.forgiven = faults.faults();
        }
    }

    /// No fault is an excuse: the engine has to cope with each.
    pub fn excuse_nothing(&mut self) {
        self.forgiven = u64::MAX;
    }

    /// The call that failed last, in a word.
    pub fn failed_call(&self) -> String {
        self.failed_call.borrow().clone()
    }

    /// Whether everyone who waits for a confirm has been told an outcome.
    pub fn all_told(&self) -> bool {
        self.tickets.iter().all(|(ticket, _)| ticket.try_wait().is_some())
    }

    pub(crate) fn failed(&self, what: &str, error: impl Display) -> Stop {
        what.clone_into(&mut self.failed_call.borrow_mut());
        if self.is_broken() { Stop::Broken } else { Stop::Problem(format!("{what}: {error}")) }
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        let text = text();
        self.trace.push(text);
    }

    /// Declares what the workload begins with, call by call.
    ///
    /// # Errors
    ///
    /// If power is cut, or the engine errs.
    pub fn set_up(&mut self) -> Work {
        self.declare_exchange("fan", ExchangeKind::Fanout)?;
        self.declare_exchange("dir", ExchangeKind::Direct)?;
        for name in ["a", "b", "c"] {
            self.declare_queue(name)?;
        }
        for (queue, exchange, key) in
            [("a", "fan", ""), ("b", "fan", ""), ("c", "dir", "k0"), ("a", "dir", "k1")]
        {
            self.bind(queue, exchange, key)?;
        }
        if self.plan.wide {
            for name in [RANKED, LETTERS, MORTAL, SHORT, STRICT, BRIEF, KEPT, LATE] {
                self.declare_queue(name)?;
            }
            self.declare_exchange(PAST, ExchangeKind::Fanout)?;
            self.declare_exchange(HEADS, ExchangeKind::Headers)?;
            self.declare_exchange(ODD, ExchangeKind::Direct)?;
            for (queue, exchange, key) in [
                (RANKED, "fan", ""),
                (BRIEF, "fan", ""),
                (KEPT, PAST, ""),
                ("b", HEADS, "all:ab"),
                ("c", HEADS, "any:bc"),
                ("c", ODD, "k0"),
            ] {
                self.bind(queue, exchange, key)?;
            }
        }
        Ok(())
    }

    /// Makes `steps` calls by chance.
    ///
    /// # Errors
    ///
    /// If power is cut, or the engine errs.
    pub fn run(&mut self, steps: u64) -> Work {
        for _ in 0..steps {
            let acted = self.act();
            let broken = acted == Err(Stop::Broken) || acted.is_ok() && self.is_broken();
            if broken && self.plan.wide {
                if self.disk.is_cut() {
                    self.crash()?;
                } else {
                    self.recover()?;
                }
                continue;
            }
            acted?;
            if broken {
                return Err(Stop::Broken);
            }
            let unconfirmed = self.tickets.len();
            self.counts.most_unconfirmed = self.counts.most_unconfirmed.max(unconfirmed);
        }
        if self.plan.wide {
            self.forgive();
            self.slowness.set(0);
            self.disk.cut_at(u64::MAX);
        }
        Ok(())
    }

    fn act(&mut self) -> Work {
        match self.random.below(1000) {
            0..300 => self.publish(),
            300..360 => self.wait_for_one(),
            360..400 => self.subscribe(),
            400..640 => self.receive(),
            640..720 => self.settle_one(),
            720..735 => {
                self.drop_taker();
                Ok(())
            }
            735..775 => self.change_topology(),
            905..950 => self.advance(),
            950..960 => self.checkpoint(),
            960..966 => self.drain_some(),
            966..983 => self.thin_some(),
            983..985 => self.purge_some(),
            785..815 => self.transact(),
            985..989 => self.look(),
            989 => self.back_up(),
            990..995 if self.plan.lives => self.close_and_reopen(),
            995..997 if self.plan.lives => self.crash(),
            997 if self.plan.lives => self.kill_and_reopen(),
            998 if self.plan.lives => self.fill_and_thin(),
            815..822 if self.plan.wide => self.suffer(),
            822..826 if self.plan.wide => self.bring_back(),
            826..829 if self.plan.wide => self.own_or_leave(),
            _ => self.step(),
        }
    }

    fn step(&mut self) -> Work {
        for _ in 0..=self.random.below(4) {
            let did = self.engine().step().map_err(|error| self.failed("step", error))?;
            self.note(|| format!("step {did}"));
            if !did {
                break;
            }
        }
        self.settle_tickets()
    }

    /// Works until there is nothing left to do.
    ///
    /// # Errors
    ///
    /// If power is cut, or the engine errs, or does not come to rest.
    pub fn settle(&mut self) -> Work {
        for _ in 0..10_000 {
            if !self.engine().step().map_err(|error| self.failed("step", error))? {
                return self.settle_tickets();
            }
        }
        Err(Stop::Problem("the engine does not come to rest".into()))
    }

    fn advance(&mut self) -> Work {
        let by = match self.random.below(20) {
            0..12 => self.random.below(50),
            12..18 => 100 + self.random.below(400),
            18 => 1100,
            _ => 25_000,
        };
        self.clock.advance(Duration::from_millis(by));
        self.model.shown(self.clock.wall_us());
        if self.random.chance(3) {
            // The date may jump; nothing but due times depends on it.
            self.clock.set_wall_us(self.random.draw() >> 13);
        }
        self.model.shown(self.clock.wall_us());
        self.note(|| format!("advance {by}"));
        self.step()
    }

    fn checkpoint(&mut self) -> Work {
        self.engine().checkpoint().map_err(|error| self.failed("checkpoint", error))?;
        self.note(|| "checkpoint".to_owned());
        Ok(())
    }

    /// Fills some segments and acks most of what is in them, here and there, so that what is left is
    /// rewritten; then lets checkpoints set the old files free.
    ///
    /// # Errors
    ///
    /// If power is cut, or the engine errs.
    pub fn fill_and_thin(&mut self) -> Work {
        let segment = usize::try_from(self.config.segment_bytes_max).unwrap_or(usize::MAX);
        for _ in 0..8 {
            for _ in 0..8 {
                let bytes = segment / 16 + self.random.place(segment / 16);
                self.publish_some(bytes)?;
            }
            self.settle()?;
        }
        self.thin_some()?;
        for _ in 0..3 {
            self.clock.advance(Duration::from_millis(300));
            self.settle()?;
            self.checkpoint()?;
        }
        self.settle()
    }

    /// Copies the store as it is, opens the copy, and compares it with what the store has to hold.
    fn back_up(&mut self) -> Work {
        let copy = MemoryStorage::new();
        let report = self.engine().backup_on(&copy, BackupFiles::Copied, &mut |_| {});
        report.map_err(|error| self.failed("backup", error))?;
        self.note(|| "backup".to_owned());
        self.counts.backups += 1;
        let mut world = Self::on(self.plan.clone(), copy, self.model.clone());
        world.open().and_then(|()| world.judge(true, 0)).map(drop).map_err(|stop| match stop {
            Stop::Problem(problem) => Stop::Problem(format!("the backup: {problem}")),
            Stop::Broken => Stop::Problem("the backup failed by itself".into()),
        })
    }

    /// Asks for statistics and segments: they must agree with one another.
    fn look(&mut self) -> Work {
        let stats = self.engine().stats();
        let segments = self.engine().segments();
        if stats.segments != segments.len() as u64 {
            return Err(Stop::Problem("the number of segments differs".into()));
        }
        if stats.durable_offset > stats.end_offset {
            return Err(Stop::Problem("more is durable than there is".into()));
        }
        if let Some(wrong) = segments.iter().find(|found| found.live_bytes > found.payload_bytes) {
            return Err(Stop::Problem(format!("more is live than there is: {wrong:?}")));
        }
        Ok(())
    }

    /// Takes the engine's own counters over, before it goes.
    pub(crate) fn count_engine(&mut self) {
        if let Some(engine) = &self.engine {
            let stats = engine.stats();
            self.counts.checkpoints += stats.checkpoints;
            self.counts.recycled += stats.segments_recycled;
            self.counts.deleted += stats.segments_deleted;
            self.counts.rewritten += stats.segments_rewritten;
            self.counts.merged += stats.segments_merged;
            self.counts.slow_writes += self.slowness.take_struck();
        }
    }
}
