//! Disks in memory with habits that the plain one does not have.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use fanlog::clock::ManualClock;
use fanlog::storage::{
    Access, Allocation, Backend, Entry, LockError, Map, MemoryStorage, Place, Purpose, Storage,
    StorageFile, StorageLock, WriteSync,
};

use crate::operations::extension;
use crate::random::mix;

/// A storage whose blocks have to be filled with zeros, and whose writes to segments may meet.
#[derive(Debug, Clone)]
pub struct Habits {
    inner: Arc<dyn Storage>,
    unwritten: bool,
    meeting: Option<Arc<Meeting>>,
    lie: Option<Lie>,
    slow: Option<(Slowness, Arc<ManualClock>)>,
    misreads: Option<Misreads>,
}

/// Bytes of a block, which is read and written as a whole.
pub const BLOCK: usize = 4096;

/// How long writes and syncs take. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Slowness {
    most_ms: Arc<AtomicU64>,
    struck: Arc<AtomicU64>,
}

impl Slowness {
    /// They take up to so many milliseconds from now on.
    pub fn set(&self, most_ms: u64) {
        self.most_ms.store(most_ms, Ordering::Relaxed);
    }

    /// How many took time since this was asked last.
    pub fn take_struck(&self) -> u64 {
        self.struck.swap(0, Ordering::Relaxed)
    }

    fn pass(&self, clock: &ManualClock, position: u64) {
        let most_ms = self.most_ms.load(Ordering::Relaxed);
        if most_ms > 0 {
            let number = self.struck.fetch_add(1, Ordering::Relaxed);
            clock.advance(Duration::from_millis(mix(number ^ position << 20) % most_ms));
        }
    }
}

/// Reads that bring another block of the file than the one asked for, or fail. A clone is the same.
#[derive(Debug, Clone)]
pub struct Misreads {
    seed: u64,
    fail: bool,
    reads: Arc<AtomicU64>,
    struck: Arc<AtomicU64>,
}

impl Misreads {
    /// One read in a few goes wrong, by chance: it fails, or brings other bytes.
    pub fn new(seed: u64, fail: bool) -> Self {
        Self { seed, fail, reads: Arc::default(), struck: Arc::default() }
    }

    /// How many went wrong.
    pub fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }

    /// Which block comes in the place of which, in a file of so many; of one read in six.
    fn choose(&self, blocks: u64) -> Option<(u64, u64)> {
        let number = self.reads.fetch_add(1, Ordering::Relaxed);
        let chance = mix(self.seed ^ number);
        if !chance.is_multiple_of(6) || blocks < 2 {
            return None;
        }
        self.struck.fetch_add(1, Ordering::Relaxed);
        Some(((chance >> 8) % blocks, (chance >> 32) % blocks))
    }

    fn error() -> io::Error {
        io::Error::other("a block can't be read")
    }

    fn read(&self, file: &dyn StorageFile, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let blocks = file.bytes()? / BLOCK as u64;
        let Some((_, from)) = self.choose(blocks) else { return file.read_at(position, buffer) };
        if self.fail {
            return Err(Self::error());
        }
        file.read_at(from * BLOCK as u64, buffer)
    }

    fn map(&self, file: &dyn StorageFile) -> io::Result<Map> {
        let bytes = file.bytes()?;
        let Some((to, from)) = self.choose(bytes / BLOCK as u64) else { return file.map() };
        if self.fail {
            return Err(Self::error());
        }
        let mut content = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        file.read_at(0, &mut content)?;
        let place = |block: u64| usize::try_from(block).map_or(0, |block| block * BLOCK);
        content.copy_within(place(from)..place(from) + BLOCK, place(to));
        let scratch = MemoryStorage::new();
        scratch.write_file("scratch", &content)?;
        scratch.open("scratch", Access::Read, Purpose::Plain)?.map()
    }
}

/// What a lying disk claims and does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// That a write with [`WriteSync::Data`] is durable.
    Write,
    /// That a file was synced.
    Sync,
    /// That the directory was synced.
    SyncDirectory,
}

impl Habits {
    /// Wraps `inner`. `unwritten`: reserved blocks have to be written before they are fast.
    pub fn new(inner: Arc<dyn Storage>, unwritten: bool) -> Self {
        Self { inner, unwritten, meeting: None, lie: None, slow: None, misreads: None }
    }

    /// The same, with writes that take time.
    pub fn slow(self, slowness: Slowness, clock: Arc<ManualClock>) -> Self {
        Self { slow: Some((slowness, clock)), ..self }
    }

    /// The same, with reads that go wrong.
    pub fn misreading(self, misreads: Misreads) -> Self {
        Self { misreads: Some(misreads), ..self }
    }

    /// The same, with writes of batches that meet in `meeting`.
    pub fn meeting(self, meeting: Arc<Meeting>) -> Self {
        Self { meeting: Some(meeting), ..self }
    }

    /// The same, but it lies.
    pub fn lying(self, lie: Lie) -> Self {
        Self { lie: Some(lie), ..self }
    }

    fn file(&self, name: &str, inner: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        let log = extension(name) == "seg";
        let meeting = self.meeting.clone().filter(|_| log);
        let (slow, misreads) = (self.slow.clone(), self.misreads.clone());
        let (unwritten, lie) = (self.unwritten, self.lie);
        let failed = AtomicBool::new(false);
        Arc::new(HabitFile { inner, unwritten, meeting, lie, slow, misreads, failed })
    }
}

impl Storage for Habits {
    fn path(&self, name: &str) -> PathBuf {
        self.inner.path(name)
    }

    fn backend(&self) -> Backend {
        self.inner.backend()
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.inner.list()
    }

    fn create(&self, name: &str, purpose: Purpose) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(name, self.inner.create(name, purpose)?))
    }

    fn open(
        &self,
        name: &str,
        access: Access,
        purpose: Purpose,
    ) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(name, self.inner.open(name, access, purpose)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn link(&self, name: &str, target: &dyn Storage, to: &str) -> io::Result<()> {
        self.inner.link(name, target, to)
    }

    fn links(&self, name: &str) -> io::Result<u64> {
        self.inner.links(name)
    }

    fn place(&self) -> Place<'_> {
        self.inner.place()
    }

    fn sync_directory(&self) -> io::Result<()> {
        if self.lie == Some(Lie::SyncDirectory) {
            return Ok(());
        }
        self.inner.sync_directory()
    }

    fn lock(&self, name: &str) -> Result<StorageLock, LockError> {
        self.inner.lock(name)
    }

    fn lock_read_only(&self, name: &str) -> Result<Option<StorageLock>, LockError> {
        self.inner.lock_read_only(name)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }
}

#[derive(Debug)]
struct HabitFile {
    inner: Arc<dyn StorageFile>,
    unwritten: bool,
    meeting: Option<Arc<Meeting>>,
    lie: Option<Lie>,
    slow: Option<(Slowness, Arc<ManualClock>)>,
    misreads: Option<Misreads>,
    /// A sync failed: as in Linux the next one says nothing of what was written before.
    failed: AtomicBool,
}

impl HabitFile {
    fn take_time(&self, position: u64) {
        if let Some((slowness, clock)) = &self.slow {
            slowness.pass(clock, position);
        }
    }
}

impl StorageFile for HabitFile {
    fn write_at(&self, position: u64, bytes: &[u8], sync: WriteSync) -> io::Result<usize> {
        self.take_time(position);
        let sync = if self.lie == Some(Lie::Write) { WriteSync::None } else { sync };
        match &self.meeting {
            Some(meeting) if position > 0 => {
                meeting.hold(|| self.inner.write_at(position, bytes, sync))
            }
            _ => self.inner.write_at(position, bytes, sync),
        }
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.misreads {
            Some(misreads) => misreads.read(&*self.inner, position, buffer),
            None => self.inner.read_at(position, buffer),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.take_time(0);
        if self.lie == Some(Lie::Sync) || self.failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let outcome = self.inner.sync();
        self.failed.store(outcome.is_err(), Ordering::Relaxed);
        outcome
    }

    fn bytes(&self) -> io::Result<u64> {
        self.inner.bytes()
    }

    fn allocate(&self, bytes: u64) -> io::Result<Allocation> {
        let how = self.inner.allocate(bytes)?;
        Ok(if self.unwritten { Allocation::Unwritten } else { how })
    }

    fn map(&self) -> io::Result<Map> {
        match &self.misreads {
            Some(misreads) => misreads.map(&*self.inner),
            None => self.inner.map(),
        }
    }

    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }
}

/// Lets a write wait a moment for another one, so that two are under way at once, and lets the
/// later one go first in half of the cases.
///
/// Memory is so fast that they would hardly ever meet by themselves. The wait is a nudge, not a
/// condition: it ends by itself.
#[derive(Debug, Default)]
pub struct Meeting {
    inside: Mutex<usize>,
    changed: Condvar,
    most: AtomicUsize,
    swapped: AtomicUsize,
    writes: AtomicUsize,
    failed_together: AtomicUsize,
    /// Turns the power off while the earlier of two writes is held back.
    cut: Option<Cut>,
}

/// When the power goes: after the later of two writes, before the earlier.
#[derive(Debug)]
struct Cut {
    disk: MemoryStorage,
    /// How many overtaken writes go well before.
    after: usize,
}

const PATIENCE: Duration = Duration::from_micros(600);

/// How long a write that was overtaken is held back, so that whoever waits for the later one alone
/// is told.
const HELD_BACK: Duration = Duration::from_millis(4);

impl Meeting {
    /// One that cuts the power of `disk` between the later and the earlier of two writes, once so
    /// many were swapped before.
    pub fn cutting(disk: MemoryStorage, after: usize) -> Self {
        Self { cut: Some(Cut { disk, after }), ..Self::default() }
    }

    /// The most writes that were under way at once.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// How often a later write went before an earlier one.
    pub fn swapped(&self) -> usize {
        self.swapped.load(Ordering::Relaxed)
    }

    /// How often a write failed while another one was under way.
    pub fn failed_together(&self) -> usize {
        self.failed_together.load(Ordering::Relaxed)
    }

    fn hold<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        *inside += 1;
        self.most.fetch_max(*inside, Ordering::Relaxed);
        self.changed.notify_all();
        if *inside == 1 {
            let patience = if self.cut.is_some() { 10 * PATIENCE } else { PATIENCE };
            let woken = self.changed.wait_timeout_while(inside, patience, |inside| *inside < 2);
            inside = woken.unwrap_or_else(PoisonError::into_inner).0;
            let swap = self.cut.is_some() || mix(number as u64).is_multiple_of(2);
            if *inside > 1 && swap {
                let woken =
                    self.changed.wait_timeout_while(inside, 50 * PATIENCE, |inside| *inside > 1);
                inside = woken.unwrap_or_else(PoisonError::into_inner).0;
                if *inside == 1 {
                    let before = self.swapped.fetch_add(1, Ordering::Relaxed);
                    if let Some(cut) = self.cut.as_ref().filter(|cut| cut.after == before) {
                        let held = self.changed.wait_timeout(inside, HELD_BACK);
                        inside = held.unwrap_or_else(PoisonError::into_inner).0;
                        cut.disk.cut_at(0);
                    }
                }
            }
        }
        drop(inside);
        let outcome = write();
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome.is_err() && *inside > 1 {
            self.failed_together.fetch_add(1, Ordering::Relaxed);
        }
        *inside -= 1;
        self.changed.notify_all();
        drop(inside);
        outcome
    }
}
