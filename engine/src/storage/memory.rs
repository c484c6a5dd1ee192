//! A disk in memory that forgets what was not synced, for simulated crashes.
//!
//! Owns a `Disk` behind one lock; [`MemoryStorage`] and its open files share it. In: the calls of
//! [`Storage`]. Out: what a page cache would answer, and on demand a *crash image*: a new disk as
//! it may be found after power was lost.
//!
//! M1. Reads, sizes and names show every completed call, synced or not.
//! M2. Bytes are durable after a sync of their file, or by their own [`WriteSync::Data`] write,
//!     which says nothing about other bytes of the file.
//! M3. Names are durable after a sync of the directory. A file without a durable name is gone after
//!     a crash, however well its bytes were synced.
//! M4. Every mutating call has a number and runs under the lock; the same calls in one thread have
//!     the same numbers. The same disk, seed and mode give the same crash image.
//! M5. Once power is cut every call fails, and nothing changes any more but by the damage helpers.
//!
//! [`WriteSync::Data`]: super::WriteSync::Data

mod crash;
mod disk;
mod file;
mod inode;
mod names;
mod operation;
mod pages;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::crash::{CrashMode, SECTOR_BYTES};
use self::disk::Disk;
use self::file::MemoryFile;
pub use self::operation::{Operation, OperationKind};
use super::{
    Access, Backend, Entry, LockError, Place, Purpose, Storage, StorageFile, StorageLock,
    check_name, no_shared_files,
};

/// What [`free_bytes`](Storage::free_bytes) says of a disk without a capacity: 1 TiB.
const FREE_BYTES_UNLIMITED: u64 = 1 << 40;

/// A disk in memory. A clone is the same disk; [`deep_copy`](Self::deep_copy) is another one.
///
/// Writes to [`Purpose::Log`] files must be aligned, as everywhere; here that is checked. Reads need
/// no alignment. Contents are kept in shared 4 KiB pages, so copies and crash images are cheap.
#[derive(Clone, Default)]
pub struct MemoryStorage {
    disk: Arc<Mutex<Disk>>,
}

impl MemoryStorage {
    /// Makes an empty disk without a limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many bytes the files may have in total; `None`, the default, is no limit.
    ///
    /// A call that would grow them beyond that fails with `StorageFull` and changes nothing.
    /// Setting it below what is used frees nothing. A removed file counts while it is open.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().set_capacity(bytes);
    }

    /// Returns every mutating call so far, in order; each [`Operation::number`] is its place here.
    ///
    /// A call that failed is among them, unless power was already off.
    pub fn operations(&self) -> Vec<Operation> {
        self.disk().operations().to_vec()
    }

    /// Returns how many mutating calls there have been: the number of the next one.
    pub fn operation_count(&self) -> u64 {
        self.disk().operations().len() as u64
    }

    /// Cuts power during operation `number`.
    ///
    /// That call is carried out as far as an unfinished call can be: its effect is there but not
    /// durable, so a crash image keeps, loses or tears it; a sync does nothing. It and all later
    /// calls, reads too, fail with an error that says that the machine is off. If that number has
    /// passed, the next mutating call is the one.
    pub fn cut_at(&self, number: u64) {
        self.disk().cut_at(number);
    }

    /// Returns whether power is off.
    pub fn is_cut(&self) -> bool {
        self.disk().is_off()
    }

    /// Returns a new disk as this one may be found when power comes back.
    ///
    /// What `mode` and `seed` kept is durable there. It has power, no locks, no open files and no
    /// operations yet; the capacity is the same. This disk is not changed.
    pub fn crash_image(&self, seed: u64, mode: CrashMode) -> Self {
        Self::of(self.disk().crash_image(seed, mode))
    }

    /// Returns another disk in the same state, unsynced changes and operations included.
    ///
    /// It has no locks; open files stay files of this disk.
    pub fn deep_copy(&self) -> Self {
        Self::of(self.disk().deep_copy())
    }

    /// Damages one byte at rest: XORs the byte of file `name` at `position` with `xor`.
    ///
    /// Like the other helpers below it is no operation, works while power is off, and first makes
    /// durable all that was written to the file so far (and, where it changes names, all names).
    ///
    /// # Errors
    ///
    /// `NotFound`; `InvalidInput` if the file ends at or before `position`.
    pub fn corrupt(&self, name: &str, position: u64, xor: u8) -> io::Result<()> {
        self.disk().settled(name)?.corrupt(position, xor)
    }

    /// Cuts or extends the file `name` to `bytes`, durably; what is added reads as zeros.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.disk().settled(name)?.truncate(bytes);
        Ok(())
    }

    /// Returns what the file `name` holds, synced or not.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn read_file(&self, name: &str) -> io::Result<Vec<u8>> {
        let disk = self.disk();
        let inode = disk.inode(disk.find(name)?);
        let length = usize::try_from(inode.bytes()).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        inode.read(0, &mut bytes);
        Ok(bytes)
    }

    /// Puts a file `name` with these bytes on the disk, durably, in place of any of that name.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if that is not a file name.
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        check_name(name)?;
        self.disk().put(name, bytes);
        Ok(())
    }

    /// Takes the file `name` off the disk, durably.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn remove_file(&self, name: &str) -> io::Result<()> {
        self.disk().take_away(name)
    }

    fn of(disk: Disk) -> Self {
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.disk)
    }

    fn handle(&self, inode: u64, access: Access, purpose: Purpose) -> Arc<dyn StorageFile> {
        Arc::new(MemoryFile::new(Arc::clone(&self.disk), inode, access, purpose))
    }
}

/// Locks the disk even if a thread panicked with it: like a real one it has no part in that, and
/// each change to it is made by code that does not call back.
fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.disk();
        f.debug_struct("MemoryStorage")
            .field("operations", &disk.operations().len())
            .field("is_cut", &disk.is_off())
            .finish_non_exhaustive()
    }
}

impl Storage for MemoryStorage {
    fn path(&self, name: &str) -> PathBuf {
        Path::new("memory").join(name)
    }

    fn backend(&self) -> Backend {
        Backend::Memory
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        Ok(self.disk().powered()?.list())
    }

    fn create(&self, name: &str, purpose: Purpose) -> io::Result<Arc<dyn StorageFile>> {
        check_name(name)?;
        let inode = self.disk().create(name)?;
        Ok(self.handle(inode, Access::Write, purpose))
    }

    fn open(
        &self,
        name: &str,
        access: Access,
        purpose: Purpose,
    ) -> io::Result<Arc<dyn StorageFile>> {
        check_name(name)?;
        let inode = self.disk().powered()?.open(name)?;
        Ok(self.handle(inode, access, purpose))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        self.disk().rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.disk().remove(name)
    }

    fn link(&self, name: &str, target: &dyn Storage, to: &str) -> io::Result<()> {
        check_name(name)?;
        check_name(to)?;
        match target.place() {
            Place::Memory(other) if Arc::ptr_eq(&self.disk, &other.disk) => {
                self.disk().link(name, to)
            }
            _ => Err(no_shared_files()),
        }
    }

    fn links(&self, name: &str) -> io::Result<u64> {
        check_name(name)?;
        self.disk().powered()?.links(name)
    }

    fn place(&self) -> Place<'_> {
        Place::Memory(self)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.disk().sync_directory()
    }

    fn lock(&self, name: &str) -> Result<StorageLock, LockError> {
        check_name(name)?;
        if !self.disk().lock_exclusive(name)? {
            return Err(LockError::Held);
        }
        Ok(StorageLock::new(HeldLock { disk: Arc::clone(&self.disk), name: name.to_owned() }))
    }

    fn lock_read_only(&self, name: &str) -> Result<Option<StorageLock>, LockError> {
        check_name(name)?;
        let mut disk = self.disk();
        if disk.powered()?.find(name).is_err() {
            return Ok(None);
        }
        if !disk.lock_shared(name) {
            return Err(LockError::Held);
        }
        let held = HeldLock { disk: Arc::clone(&self.disk), name: name.to_owned() };
        Ok(Some(StorageLock::new(held)))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.disk().powered()?.free_bytes().unwrap_or(FREE_BYTES_UNLIMITED))
    }
}

/// A lock on a name of the disk, exclusive or shared.
struct HeldLock {
    disk: Arc<Mutex<Disk>>,
    name: String,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        lock(&self.disk).unlock(&self.name);
    }
}

#[cfg(test)]
mod tests;
