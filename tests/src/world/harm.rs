//! Disks that fail, and disks that lie: in the run itself, or on a copy of a closed store.
//!
//! H1. A failed call ends the engine or concerns one caller; opened again, the store is sound.
//! H2. A full disk, short and slow writes change nothing but how long it takes.
//! H3. Whatever was done to a closed store: it is refused, and nothing is changed; or it is reported;
//!     or it meant nothing. Never is a wrong byte shown.
//! H4. What was only misread is as it was once it is read right.

use std::io::ErrorKind;
use std::time::Duration;

use fanlog::OnDamage;
use fanlog::storage::{Call, CrashMode, Fault, FaultRule, MemoryStorage, Storage};

use super::publish::How;
use super::{Counts, Remains, Stop, Work, World};
use crate::disks::{BLOCK, Misreads};
use crate::model::{Fate, Sent};
use crate::operations::extension;
use crate::random::Random;

/// What is done to a copy of a closed store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// One bit flips.
    Rot,
    /// A block, or a part of one, was never written.
    LostWrite,
    /// What belongs to one place is at another one.
    MisdirectedWrite,
    /// Now and then another block is read than the one that was asked for.
    MisdirectedRead,
    /// Now and then a read fails.
    FailedRead,
}

const HARMS: [Harm; 5] =
    [Harm::Rot, Harm::LostWrite, Harm::MisdirectedWrite, Harm::MisdirectedRead, Harm::FailedRead];
const SECTOR: usize = 512;

impl World {
    /// Something of the disk's, that the engine has to live with.
    pub(super) fn suffer(&mut self) -> Work {
        match self.random.below(18) {
            15..18 => self.find_no_space_once(),
            0..5 => {
                self.fail_soon();
                Ok(())
            }
            10..14 => {
                let after = self.random.below(60);
                self.note(|| format!("power fails in {after} operations"));
                self.disk.cut_at(self.disk.operation_count() + after);
                Ok(())
            }
            14 => self.crash_at_rest(),
            5 => self.fill_for_a_while(),
            6..8 => self.write_short_for_a_while(),
            _ => {
                let most_ms = [0, 20, 400][self.random.place(3)];
                self.note(|| format!("writes take up to {most_ms} ms"));
                self.slowness.set(most_ms);
                Ok(())
            }
        }
    }

    /// One of the next calls fails, with its effect or without.
    fn fail_soon(&mut self) {
        let calls =
            [Call::Any, Call::Write, Call::Sync, Call::SyncDirectory, Call::Read, Call::Map];
        let call = calls[self.random.place(calls.len())];
        let fault = [Fault::Error(ErrorKind::Other), Fault::ErrorAfter(ErrorKind::Other)];
        let mut fault = fault[self.random.place(2)];
        if call == Call::Sync && self.random.chance(50) {
            fault = Fault::Error(ErrorKind::StorageFull);
        }
        let skip = self.random.below(20);
        self.note(|| format!("{call:?} {skip} fails, {fault:?}"));
        self.plant(FaultRule::new(call, fault).skip(skip));
    }

    /// After a call failed (H1): everyone is told; then the machine is restarted, and goes on.
    pub(super) fn recover(&mut self) -> Work {
        self.counts.failed_calls += 1;
        let poisoned = self.engine.as_ref().is_some_and(|engine| engine.stats().poisoned);
        self.note(|| format!("a call failed, poisoned: {poisoned}"));
        self.counts.poisoned += u64::from(poisoned);
        if poisoned && !self.all_told() {
            return Err(Stop::Problem("a ticket has no outcome though it is poisoned".into()));
        }
        let modes = [CrashMode::LoseUnsynced, CrashMode::KeepAll, CrashMode::Random];
        let mode = modes[self.random.place(3)];
        let seed = self.random.draw();
        let remains = self.power_off()?;
        self.disk = remains.disk.crash_image(seed, mode);
        self.disk.set_capacity(None);
        self.open()?;
        // What the failed call did to the disk is not known: what is durable must be there.
        self.judge(false, remains.durable).map(drop)
    }

    /// Power fails after a second of rest: what is there was vouched for, and can be no torn tail.
    fn crash_at_rest(&mut self) -> Work {
        self.wait_for_all()?;
        self.settle()?;
        // So that the last batch matters.
        if let Some(queue) = self.model.topology.plain_queue() {
            self.publish_to("", &queue)?;
        }
        for _ in 0..3 {
            self.settle()?;
            self.clock.advance(Duration::from_millis(1100));
        }
        self.settle()?;
        let remains = self.power_off()?;
        self.disk = remains.disk.crash_image(0, CrashMode::KeepAll);
        self.note(|| "crash at rest".to_owned());
        self.counts.crashes += 1;
        self.rot_tail()?;
        for _ in 0..3 {
            let copy = self.disk.deep_copy();
            let harm = [Harm::Rot, Harm::LostWrite, Harm::MisdirectedWrite][self.random.place(3)];
            self.harm_copy(&copy, harm)?;
        }
        self.open()?;
        self.judge(true, remains.durable).map(drop)
    }

    /// A bit flips in what was written last, each time in another copy.
    fn rot_tail(&mut self) -> Work {
        let mut random = Random::new(self.model.sent.len() as u64);
        let entries = self.disk.list().expect("it has power");
        let is_log = |name: &String| extension(name) == "seg" && !name.starts_with("free-");
        let mut names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
        names.retain(is_log);
        names.sort();
        let written = |name: &String| {
            let content = self.disk.read_file(name).expect("it is there");
            content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
        };
        // The last one may have no batch yet, or no header.
        let ends = names.iter().rev().map(|name| (name, written(name)));
        let Some((name, end)) = ends.into_iter().find(|(_, end)| *end > BLOCK) else {
            return Ok(());
        };
        for _ in 0..4 {
            let copy = self.disk.deep_copy();
            copy.cut_at(u64::MAX);
            let back = 1 + random.below((end - BLOCK).min(3 * BLOCK) as u64);
            copy.corrupt(name, end as u64 - back, 1 << random.below(8)).expect("it is there");
            self.counts.rotten_bits += 1;
            self.judge_refusal(&copy)
                .map_err(|problem| Stop::Problem(format!("{name} {back} from {end}: {problem}")))?;
        }
        Ok(())
    }

    /// Opens a copy after a crash from its older checkpoint, as the newest one is damaged: all that was
    /// promised is there.
    pub(super) fn fall_back(&mut self, remains: &Remains, everything: bool) -> Work {
        let image = self.disk.deep_copy();
        let entries = image.list().expect("it has power");
        let mut checkpoints: Vec<_> = entries
            .into_iter()
            .filter(|entry| extension(&entry.name) == "ckpt")
            .map(|entry| (entry.name, entry.bytes))
            .collect();
        checkpoints.sort();
        let [.., (older, _), (newest, bytes)] = checkpoints.as_slice() else { return Ok(()) };
        // Behind the version: another version is refused as such.
        let position = 16 + self.random.below(bytes - 16);
        image.corrupt(newest, position, 1).expect("it is there");
        let mut world = self.on_copy(&image, OnDamage::Quarantine);
        // The epoch that only the newest knew of: nothing was written in it.
        world.model.epoch = world.model.epoch.saturating_sub(1);
        let outcome = world
            .open()
            .and_then(|()| world.judge(everything, remains.durable))
            .and_then(|_| world.finish());
        self.counts.fell_back += 1;
        outcome.map_err(|stop| Stop::Problem(format!("from {older}, {newest} damaged: {stop:?}")))
    }

    /// The disk is full, and then it is not.
    fn fill_for_a_while(&mut self) -> Work {
        if self.model.topology.plain_queue().is_none() {
            return Ok(());
        }
        self.note(|| "the disk is full".to_owned());
        self.disk.set_capacity(Some(1));
        self.fill_disk()?;
        self.consume_when_full()?;
        self.step_when_full()?;
        self.disk.set_capacity(None);
        self.note(|| "the disk has space".to_owned());
        self.step_when_full()?;
        self.settle()?;
        if !self.tickets.is_empty() {
            return Err(Stop::Problem("there is space, and not all are confirmed".into()));
        }
        self.counts.full_disks += 1;
        Ok(())
    }

    /// A write of a batch finds no space, whatever of it is on the disk: it is written again.
    fn find_no_space_once(&mut self) -> Work {
        if self.is_broken() {
            return Err(Stop::Broken);
        }
        self.forgive();
        let kinds = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge];
        let kind = kinds[self.random.place(3)];
        let fault = [Fault::Error(kind), Fault::ErrorAfter(kind)][self.random.place(2)];
        self.note(|| format!("a write finds no space, {fault:?}"));
        self.plant(FaultRule::new(Call::Write, fault).name_contains(".seg"));
        self.excuse_nothing();
        let first = self.model.sent.len();
        for _ in 0..=self.random.below(3) {
            let id = self.offer();
            self.publish_ids(How::Ticket, &[id])?;
        }
        for _ in 0..4 {
            self.step_when_full()?;
        }
        self.forgive();
        self.step_when_full()?;
        self.counts.written_again += self.engine().stats().batches_written_again;
        let is_pending = |sent: &Sent| sent.fate == Fate::Pending;
        if self.model.sent[first..].iter().any(is_pending) {
            return Err(Stop::Problem("what found no space was not written again".into()));
        }
        match self.random.below(3) {
            0 => self.crash(),
            1 => self.kill_and_reopen(),
            _ => Ok(()),
        }
    }

    /// Writes are cut short, and the engine goes on with them.
    fn write_short_for_a_while(&mut self) -> Work {
        if self.is_broken() {
            return Err(Stop::Broken);
        }
        self.forgive();
        let before = self.allow_faults().faults();
        self.plant(FaultRule::new(Call::Write, Fault::ShortWrite(2 * BLOCK)).forever());
        self.excuse_nothing();
        let mut outcome = Ok(());
        for _ in 0..6 {
            outcome = outcome.and_then(|()| self.publish()).and_then(|()| self.step());
        }
        self.counts.short_writes += self.allow_faults().faults() - before;
        self.forgive();
        outcome
    }

    /// Does something to a copy of the closed store (H3, H4).
    pub(super) fn harm_a_copy(&mut self) -> Work {
        let harm = HARMS[self.random.place(HARMS.len())];
        let copy = self.disk.deep_copy();
        self.harm_copy(&copy, harm)
    }

    fn harm_copy(&mut self, copy: &MemoryStorage, harm: Harm) -> Work {
        copy.cut_at(u64::MAX);
        copy.set_capacity(None);
        let what = match harm {
            Harm::Rot => self.rot(copy),
            Harm::LostWrite => self.lose_write(copy),
            Harm::MisdirectedWrite => self.misdirect_write(copy),
            Harm::MisdirectedRead | Harm::FailedRead => String::new(),
        };
        self.note(|| format!("harm a copy: {harm:?} {what}"));
        let judged = match harm {
            Harm::MisdirectedRead | Harm::FailedRead => self.judge_misread(copy, harm),
            _ => self.judge_harmed(copy),
        };
        judged.map_err(|problem| Stop::Problem(format!("{harm:?} {what}: {problem}")))
    }

    fn rot(&mut self, copy: &MemoryStorage) -> String {
        let (name, bytes) = self.any_file(copy);
        // Where most bytes mean something: near the start, or anywhere.
        let bound = if self.random.chance(50) { bytes.min(20_000) } else { bytes };
        let (position, bit) = (self.random.below(bound), self.random.below(8));
        copy.corrupt(&name, position, 1 << bit).expect("it is there");
        self.counts.rotten_bits += 1;
        format!("{name} {position} bit {bit}")
    }

    fn lose_write(&mut self, copy: &MemoryStorage) -> String {
        let (name, bytes) = self.any_file(copy);
        let unit = if self.random.chance(50) { BLOCK } else { SECTOR };
        let mut content = copy.read_file(&name).expect("it is there");
        let at = self.random.below(bytes.div_ceil(unit as u64));
        let from = usize::try_from(at).unwrap_or(0) * unit;
        let to = (from + unit).min(content.len());
        content[from..to].fill(0);
        copy.write_file(&name, &content).expect("it has a name");
        self.counts.lost_writes += 1;
        format!("{name} {from}..{to}")
    }

    fn misdirect_write(&mut self, copy: &MemoryStorage) -> String {
        let ((name, bytes), (other, other_bytes)) = (self.any_file(copy), self.any_file(copy));
        let at = usize::try_from(self.random.below(bytes) / BLOCK as u64).unwrap_or(0) * BLOCK;
        let from =
            usize::try_from(self.random.below(other_bytes) / BLOCK as u64).unwrap_or(0) * BLOCK;
        let mut content = copy.read_file(&name).expect("it is there");
        let source = copy.read_file(&other).expect("it is there");
        let length = BLOCK.min(content.len() - at).min(source.len() - from);
        content[at..at + length].copy_from_slice(&source[from..from + length]);
        copy.write_file(&name, &content).expect("it has a name");
        self.counts.misdirected_writes += 1;
        format!("{name} {at} has what belongs to {other} {from}")
    }

    /// A file of the log.
    fn any_file(&mut self, disk: &MemoryStorage) -> (String, u64) {
        let mut files: Vec<(String, u64)> = disk
            .list()
            .expect("it has power")
            .into_iter()
            .filter(|entry| entry.bytes > 0 && !entry.name.starts_with("free-"))
            .map(|entry| (entry.name, entry.bytes))
            .collect();
        files.sort();
        files.swap_remove(self.random.place(files.len()))
    }

    /// A world on a copy, that has to say what is wrong with it.
    fn on_copy(&self, copy: &MemoryStorage, on_damage: OnDamage) -> Self {
        let mut world = Self::on(self.plan.clone(), copy.clone(), self.model.clone());
        world.clock = self.clock.clone();
        world.is_copy = true;
        world.config().on_damage = on_damage;
        world
    }

    fn judge_harmed(&mut self, copy: &MemoryStorage) -> Result<(), String> {
        if self.random.chance(30) {
            // Around the damage it always opens.
            let mut world = self.on_copy(&copy.deep_copy(), OnDamage::Quarantine);
            match world.open() {
                Ok(()) => self.counts.around_damage += 1,
                Err(Stop::Problem(problem)) if problem.contains("version") => {}
                Err(stop) => return Err(format!("with quarantine: {stop:?}")),
            }
            if world.engine.is_some() {
                world.no_wrong_byte()?;
                let closed = world.engine().close(Duration::from_secs(10));
                closed.map_err(|error| format!("with quarantine, close: {error}"))?;
            }
        }
        self.judge_refusal(copy)
    }

    fn judge_refusal(&mut self, copy: &MemoryStorage) -> Result<(), String> {
        let before = contents(copy);
        let mut world = self.on_copy(copy, OnDamage::Fail);
        if let Err(stop) = world.open() {
            self.counts.refused += 1;
            told(&stop)?;
            let same = contents(copy) == before;
            return if same { Ok(()) } else { Err("opening failed and changed the disk".into()) };
        }
        let report = world.engine().check(&mut |_| {});
        let report = report.map_err(|error| format!("check: {error}"))?;
        if !report.problems.is_empty() {
            self.counts.reported += 1;
            return world.no_wrong_byte();
        }
        self.counts.harmless += 1;
        world.judge(true, u64::MAX).map(drop).map_err(|stop| format!("unnoticed: {stop:?}"))
    }

    fn judge_misread(&mut self, copy: &MemoryStorage, harm: Harm) -> Result<(), String> {
        let mut world = self.on_copy(copy, OnDamage::Fail);
        let misreads = Misreads::new(self.random.draw(), harm == Harm::FailedRead);
        world.misreads = Some(misreads.clone());
        let outcome = world.open();
        let opened = outcome.is_ok();
        match outcome {
            Ok(()) => {
                world.no_wrong_byte()?;
                drop(world.engine().check(&mut |_| {}));
                world.no_wrong_byte()?;
            }
            Err(stop) if harm == Harm::MisdirectedRead => told(&stop)?,
            Err(_) => {}
        }
        drop(world);
        let struck = misreads.struck();
        let counter = match harm {
            Harm::FailedRead => &mut self.counts.failed_reads,
            _ => &mut self.counts.misdirected_reads,
        };
        *counter += struck;
        let mut world = self.on_copy(copy, OnDamage::Fail);
        world.model.misread = harm == Harm::MisdirectedRead && opened;
        let sound = world.open().and_then(|()| world.judge(true, u64::MAX));
        sound
            .and_then(|_| world.finish())
            .map_err(|stop| format!("read right, after {struck}: {stop:?}"))
    }

    /// Whatever is shown is right, or is said to be damaged.
    fn no_wrong_byte(&self) -> Result<(), String> {
        for queue in self.model.topology.queues.keys() {
            let Ok(browser) = self.engine().browse(queue) else { continue };
            for message in browser {
                let Ok(message) = message else { break };
                if message.damage.is_none() {
                    self.model.recognise(&message.payload)?;
                }
            }
        }
        Ok(())
    }
}

/// A refusal names what is wrong.
fn told(stop: &Stop) -> Result<(), String> {
    let known = matches!(stop, Stop::Problem(problem)
        if ["corrupt", "damaged", "version"].iter().any(|word| problem.contains(word)));
    if known { Ok(()) } else { Err(format!("refused with {stop:?}")) }
}

fn contents(disk: &MemoryStorage) -> Vec<(String, Vec<u8>)> {
    let entries = disk.list().expect("it has power");
    let mut names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
    names.sort();
    let read = |name: String| {
        let bytes = disk.read_file(&name).expect("it is there");
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

/// Counts what a crash did to what was not synced: sectors kept and lost, blocks of which there is
/// some and not all, and what was kept although something before it in its file was lost.
pub(super) fn count_losses(disk: &MemoryStorage, image: &MemoryStorage, counts: &mut Counts) {
    let all = disk.crash_image(0, CrashMode::KeepAll);
    let least = disk.crash_image(0, CrashMode::LoseUnsynced);
    for (name, all) in contents(&all) {
        let (Ok(least), Ok(found)) = (least.read_file(&name), image.read_file(&name)) else {
            continue;
        };
        if all.len() != least.len() || all.len() != found.len() {
            continue;
        }
        let mut lost_before = false;
        for block in (0..all.len()).step_by(BLOCK) {
            let (mut kept, mut lost) = (0, 0);
            for from in (block..all.len().min(block + BLOCK)).step_by(SECTOR) {
                let sector = from..all.len().min(from + SECTOR);
                if all[sector.clone()] != least[sector.clone()] {
                    let is_kept = found[sector.clone()] == all[sector];
                    (kept, lost) = (kept + u64::from(is_kept), lost + u64::from(!is_kept));
                }
            }
            counts.kept_sectors += kept;
            counts.lost_sectors += lost;
            counts.torn_blocks += u64::from(kept > 0 && lost > 0);
            counts.reordered_writes += u64::from(kept > 0 && lost_before);
            lost_before |= lost > 0;
        }
    }
}
