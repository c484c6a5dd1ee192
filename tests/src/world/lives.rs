//! Ends and beginnings: closing, power cuts, opening again.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use fanlog::clock::{Clock, ManualClock};
use fanlog::storage::{Call, CrashMode, Fault, FaultRule, MemoryStorage};

use super::{Plan, Stop, Work, World, harm};
use crate::judge::{self, Bounds, Seen};
use crate::model::{Acked, BRIEF, LETTERS, Model, OWN, is_left};

/// What is left when power is cut: the disk as it was, and what it has to hold.
#[derive(Debug, Clone)]
pub struct Remains {
    /// How the world was made.
    pub plan: Plan,
    /// The disk, off.
    pub disk: MemoryStorage,
    /// What was promised by then.
    pub model: Model,
    /// The engine said that all below this offset survives.
    pub durable: u64,
    clock: Arc<ManualClock>,
}

impl World {
    /// Cuts power, unless it is off; collects the last outcomes; ends the engine.
    ///
    /// # Errors
    ///
    /// If an outcome is not what it must be.
    pub fn power_off(&mut self) -> Work<Remains> {
        self.disk.cut_at(0);
        self.leave()
    }

    /// Ends the engine as a dying process would, and collects what it promised.
    pub(crate) fn leave(&mut self) -> Work<Remains> {
        self.model.shown(self.clock.wall_us());
        let durable = self.engine.as_ref().map_or(0, |engine| engine.stats().durable_offset.0);
        if self.engine.is_some() {
            self.settle_tickets()?;
            self.settle_acks();
            self.settle_tickets()?;
        }
        self.tickets.clear();
        self.count_engine();
        self.bury_all(None);
        self.owner = None;
        self.engine = None;
        self.model.forget_transient();
        Ok(Remains {
            plan: self.plan.clone(),
            disk: self.disk.clone(),
            model: self.model.clone(),
            durable,
            clock: Arc::clone(&self.clock),
        })
    }

    /// The process dies, the machine does not: what the kernel had is there, synced or not.
    ///
    /// Faults have to be allowed.
    ///
    /// # Errors
    ///
    /// If an outcome is not what it must be.
    pub fn kill(&mut self) -> Work<Remains> {
        self.plant(FaultRule::new(Call::Any, Fault::Error(ErrorKind::Other)).forever());
        let remains = self.leave();
        self.counts.kills += 1;
        remains
    }

    /// The process dies and another one opens the store: nothing that was there may be gone, then
    /// or after a power cut (what was not synced is synced before anyone sees it).
    pub(super) fn kill_and_reopen(&mut self) -> Work {
        self.kill()?;
        self.note(|| "kill".to_owned());
        self.open()?;
        self.judge(true, 0).map(drop)
    }

    /// Power fails; some of what was not synced is lost; the store is opened again and judged.
    pub(super) fn crash(&mut self) -> Work {
        self.counts.crashes += 1;
        let mode =
            [CrashMode::LoseUnsynced, CrashMode::KeepAll, CrashMode::Random][self.random.place(3)];
        let seed = self.random.draw();
        let remains = self.power_off()?;
        let image = remains.disk.crash_image(seed, mode);
        self.note(|| format!("crash {mode:?}"));
        if mode == CrashMode::Random && self.plan.wide {
            harm::count_losses(&remains.disk, &image, &mut self.counts);
        }
        self.disk = image;
        self.disk.set_capacity(None);
        let everything = mode == CrashMode::KeepAll;
        if self.plan.wide && self.random.chance(30) {
            self.fall_back(&remains, everything)?;
        }
        self.open()?;
        self.judge(everything, remains.durable).map(drop)
    }

    /// Compares the store with the model after an end.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn judge(&mut self, everything: bool, durable: u64) -> Work<Seen> {
        let engine = self.engine.as_ref().expect("the world is open");
        let bounds = Bounds { everything, durable };
        self.model.shown(self.clock.wall_us());
        let seen = judge::compare(engine, &mut self.model, bounds).map_err(Stop::Problem)?;
        for queue in &mut self.model.queues {
            for entry in queue.entries.values_mut() {
                entry.in_hands = false;
                // The mark that says so is not synced: a power cut may take it back.
                entry.handed_out &= everything;
                entry.times.opened(everything);
            }
        }
        for queue in 0..self.model.queues.len() {
            self.model.over_length(queue);
        }
        self.judge_named()?;
        Ok(seen)
    }

    /// Closes the store properly: every outcome is known then.
    ///
    /// # Errors
    ///
    /// If power is cut, or anything is left open.
    pub fn close(&mut self) -> Work {
        self.note(|| "close".to_owned());
        self.slowness.set(0);
        self.counts.closes += 1;
        let before = self.random.chance(50);
        if before {
            self.bury_all(None);
        }
        let closed = self.engine().close(Duration::from_secs(10));
        let report = closed.map_err(|error| self.failed("close", error))?;
        if report.unconfirmed != 0 {
            return Err(Stop::Problem(format!("closing left {} unconfirmed", report.unconfirmed)));
        }
        self.settle_tickets()?;
        if !self.tickets.is_empty() {
            return Err(Stop::Problem("closing left tickets without an outcome".into()));
        }
        self.bury_all(None);
        self.acks.clear();
        let rejected = &self.model.rejected;
        for queue in &mut self.model.queues {
            let mortal = is_left(&queue.name);
            for (id, entry) in &mut queue.entries {
                entry.times.closed();
                // What was rejected is moved, or is not yet.
                if entry.acked == Acked::Asked && !(mortal && rejected.contains(id)) {
                    entry.acked = Acked::Durable;
                }
            }
        }
        self.count_engine();
        self.owner = None;
        self.engine = None;
        Ok(())
    }

    /// Closes the store properly and opens it again: nothing may be open or different then.
    ///
    /// # Errors
    ///
    /// If power is cut, or anything is different.
    pub fn close_and_reopen(&mut self) -> Work {
        self.close()?;
        if self.plan.wide && !self.is_copy && self.random.chance(40) {
            self.harm_a_copy()?;
        }
        self.open()?;
        let recovery = self.engine().recovery();
        if !recovery.clean || !recovery.cuts.is_empty() {
            return Err(Stop::Problem(format!("not clean after a close: {recovery:?}")));
        }
        self.judge(true, u64::MAX).map(drop)
    }

    /// Shows that a store is in working order: everything comes out, new messages go in, it closes
    /// and opens.
    ///
    /// # Errors
    ///
    /// What is not in order.
    pub fn finish(&mut self) -> Work {
        let topology = &self.model.topology;
        let known = topology.queues.iter().filter(|(_, queue)| !self.model.queues[**queue].lax);
        let names: Vec<String> = known.map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.drain(name)?;
        }
        for name in names.iter().filter(|name| *name != LETTERS) {
            self.publish_to("", name)?;
        }
        if self.model.topology.exchanges.contains_key("fan") {
            self.publish_to("fan", "")?;
        }
        self.settle()?;
        self.close_and_reopen()?;
        for name in names.iter().filter(|name| !passes(name)) {
            self.drain(name)?;
        }
        Ok(())
    }
}

/// Whether a queue does not outlast the store's being open.
fn passes(queue: &str) -> bool {
    [BRIEF, OWN].contains(&queue)
}

impl Remains {
    /// What is left of a run that was not a world's.
    pub fn new(plan: Plan, disk: MemoryStorage, model: Model, durable: u64) -> Self {
        Self { plan, disk, model, durable, clock: Arc::new(ManualClock::new()) }
    }

    /// What the disk may be found to hold.
    pub fn image(&self, seed: u64, mode: CrashMode) -> MemoryStorage {
        self.disk.crash_image(seed, mode)
    }

    /// A world on an image of the disk, not opened.
    pub fn world_on(&self, image: MemoryStorage) -> World {
        let mut world = World::on(self.plan.clone(), image, self.model.clone());
        world.clock = Arc::clone(&self.clock);
        world
    }

    /// Opens an image and compares it with the model.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn revive(&self, image: MemoryStorage, everything: bool) -> Work<(World, Seen)> {
        let mut world = self.world_on(image);
        world.open()?;
        let seen = world.judge(everything, self.durable)?;
        Ok((world, seen))
    }
}
