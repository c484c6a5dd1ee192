//! Storage: the one gate to files, names, maps, locks and preallocation.
//!
//! Owns every access of the engine to a disk; nothing else opens, renames, syncs or maps a file.
//! A store is one flat directory: names are plain file names without separators. In: names,
//! positions, bytes. Out: bytes, sizes, and errors as the system gave them, without a path (the
//! caller adds [`Storage::path`]).
//!
//! - [`real`]: a directory of the file system, direct (`O_DIRECT` + `RWF_DSYNC`, large batches through
//!   `io_uring` on request) or buffered.
//! - [`memory`]: a disk in memory that loses unsynced bytes and names, for simulated crashes.
//! - [`fault`]: wraps another storage and makes chosen calls fail.
//!
//! S1. Bytes are durable after [`StorageFile::sync`], or when [`StorageFile::write_at`] with
//!     [`WriteSync::Data`] returned; never merely because a write returned.
//! S2. A name (created, renamed, removed) is durable after [`Storage::sync_directory`].
//! S3. `write_at` is one attempt: a short count or an error is the caller's to handle. Only an
//!     interruption by a signal is retried inside.
//! S4. A handle or a [`Map`] stays usable after its file was renamed or removed.
//! S5. Links are never followed, and nothing but regular files is opened.
//!
//! A failed sync says nothing about what is durable, and must not be retried: the kernel may have
//! dropped the dirty pages.

pub mod aligned;
pub mod fault;
mod lock;
mod map;
pub mod memory;
pub mod real;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

pub use aligned::{ALIGNMENT, AlignedBuffer};
pub use fault::{Call, Fault, FaultRule, FaultStorage, Times};
pub use lock::{LockError, StorageLock};
pub use map::Map;
pub use memory::{CrashMode, MemoryStorage, Operation, OperationKind};
pub use real::RealStorage;

/// How a file's writes reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// Past the page cache, each durable write in one system call (`O_DIRECT` + `RWF_DSYNC`).
    Direct,
    /// The same, but batches of 512 KiB and more in pieces, several at once (`io_uring`).
    Uring,
    /// Through the page cache, made durable by a sync of the file.
    Buffered,
    /// Nowhere: a [`MemoryStorage`].
    Memory,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Uring => "uring",
            Self::Buffered => "buffered",
            Self::Memory => "memory",
        })
    }
}

/// Which [`Backend`] a [`RealStorage`] is to use. Default [`Auto`](Self::Auto).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BackendChoice {
    /// Probes the directory when it is opened: direct where that works, else buffered.
    #[default]
    Auto,
    /// Direct; opening fails where it can't be had.
    Direct,
    /// Direct, large batches through `io_uring`; where the system has or allows none (containers
    /// often do not), as [`Direct`](Self::Direct).
    Uring,
    /// Buffered; nothing is probed.
    Buffered,
}

/// What is durable when a write returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriteSync {
    /// Nothing: the system has the bytes, a power cut may take them.
    None,
    /// The bytes of this write, and the file size needed to read them back. Says nothing about
    /// earlier writes.
    Data,
}

/// What a file is for, which decides how it is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A segment: direct where the backend has it. Callers write, with every backend, at positions,
    /// in lengths and from memory that are multiples of [`ALIGNMENT`]; reads too when the backend
    /// is [`Backend::Direct`] or [`Backend::Uring`].
    Log,
    /// Anything else, such as a checkpoint: the page cache and a sync. No alignment.
    Plain,
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reading and mapping.
    Read,
    /// Reading, mapping, writing, allocating.
    Write,
}

/// What [`StorageFile::allocate`] achieved for the bytes that it added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Allocation {
    /// Blocks are reserved and count as written: the fastest to overwrite.
    Written,
    /// Blocks are reserved but unwritten: a first write also changes metadata.
    Unwritten,
    /// Only the size has changed: a write can still find the disk full.
    Sparse,
}

/// One name in the directory of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name. Bytes that are not UTF-8 are replaced, so that such a name opens nothing.
    pub name: String,
    /// Size in bytes; 0 unless it is a regular file.
    pub bytes: u64,
    /// Whether it is a regular file: a directory, a link or a device is not.
    pub is_file: bool,
}

/// Where the files of a storage lie.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Place<'a> {
    /// In a directory of the file system.
    Directory(BorrowedFd<'a>),
    /// On a disk in memory.
    Memory(&'a MemoryStorage),
}

/// A flat directory of files.
///
/// Handles are shared between threads; every call is complete in itself. Errors are the system's:
/// `NotFound`, `AlreadyExists`, `StorageFull` and so on, and `InvalidInput` for a name that is not
/// a plain file name or that names something other than a regular file.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Returns where `name` lies, for errors and reports.
    fn path(&self, name: &str) -> PathBuf;

    /// Returns how writes to [`Purpose::Log`] files reach the disk.
    fn backend(&self) -> Backend;

    /// Lists everything in the directory, in no order.
    ///
    /// # Errors
    ///
    /// The directory can't be read.
    fn list(&self) -> io::Result<Vec<Entry>>;

    /// Creates the empty file `name`, readable by its owner alone, and opens it for writing.
    ///
    /// The name is durable after [`sync_directory`](Self::sync_directory).
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if the name is taken, by anything; else the system's error.
    fn create(&self, name: &str, purpose: Purpose) -> io::Result<Arc<dyn StorageFile>>;

    /// Opens the regular file `name`.
    ///
    /// # Errors
    ///
    /// `NotFound`; `InvalidInput` if it is a link, a directory or a device; else the system's error.
    fn open(
        &self,
        name: &str,
        access: Access,
        purpose: Purpose,
    ) -> io::Result<Arc<dyn StorageFile>>;

    /// Gives the file `from` the name `to`, replacing what had that name, in one step.
    ///
    /// Durable after [`sync_directory`](Self::sync_directory); until then a power cut leaves the
    /// old names or the new ones.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no `from`; else the system's error.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes the name `name`. The bytes go with the last open handle and map.
    ///
    /// Durable after [`sync_directory`](Self::sync_directory).
    ///
    /// # Errors
    ///
    /// `NotFound`; else the system's error.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives the file `name` the further name `to` in the directory of `target`, which may be this
    /// one: the two names share the bytes from here on.
    ///
    /// Durable after [`sync_directory`](Self::sync_directory) of `target`. A storage that is open
    /// for reading can do so too: it changes nothing of the file.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if the name is taken; `CrossesDevices` or `Unsupported` where the two
    /// directories can't share files; else the system's error.
    fn link(&self, name: &str, target: &dyn Storage, to: &str) -> io::Result<()>;

    /// Returns how many names the file `name` has, in whatever directories.
    ///
    /// # Errors
    ///
    /// `NotFound`; else the system's error.
    fn links(&self, name: &str) -> io::Result<u64>;

    /// Returns where the files lie, for [`link`](Self::link) to find out whether they can be shared.
    fn place(&self) -> Place<'_>;

    /// Makes every name created, renamed or removed so far durable.
    ///
    /// # Errors
    ///
    /// The system's error; nothing is known about the names then.
    fn sync_directory(&self) -> io::Result<()>;

    /// Takes the exclusive lock `name` at once, creating its file if needed.
    ///
    /// The lock is given back when the [`StorageLock`] is dropped or its process ends, however it
    /// ends. The file stays.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] if anyone has it; [`LockError::Io`] if it can't be tried.
    fn lock(&self, name: &str) -> Result<StorageLock, LockError>;

    /// Takes the lock `name` for reading beside other readers, without creating or writing a file.
    ///
    /// Returns `None` where there is nothing to lock: no such file, or a file system without locks.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] if a writer has it; [`LockError::Io`] if it can't be tried.
    fn lock_read_only(&self, name: &str) -> Result<Option<StorageLock>, LockError>;

    /// Returns how many bytes this process may still take on this file system.
    ///
    /// # Errors
    ///
    /// The system's error.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file. Shared between threads; there is no file position to share.
pub trait StorageFile: Send + Sync + fmt::Debug {
    /// Writes a prefix of `bytes` at `position`, in one attempt, and returns its length.
    ///
    /// With [`WriteSync::Data`] that prefix is durable on return. The file grows as needed.
    ///
    /// # Errors
    ///
    /// The system's error. Whether any of the bytes are on disk is then unknown. `StorageFull`,
    /// `QuotaExceeded` and `FileTooLarge` say that these bytes found no room, and nothing of others:
    /// a sync inside that fails is told as another kind.
    fn write_at(&self, position: u64, bytes: &[u8], sync: WriteSync) -> io::Result<usize>;

    /// Reads at `position` into `buffer`; returns how many bytes, 0 at the end of the file.
    ///
    /// # Errors
    ///
    /// The system's error.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Makes every write to this file that has returned durable, through whichever handle it went.
    ///
    /// # Errors
    ///
    /// The system's error; nothing is known about unsynced writes then, and a retry proves nothing.
    fn sync(&self) -> io::Result<()>;

    /// Returns the size in bytes.
    ///
    /// # Errors
    ///
    /// The system's error.
    fn bytes(&self) -> io::Result<u64>;

    /// Grows the file to `bytes` with blocks reserved where the file system can do so.
    ///
    /// The added part reads as zeros. A file of that size or more keeps its size and contents. The
    /// new size is durable after [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// `StorageFull` if there is no room; else the system's error.
    fn allocate(&self, bytes: u64) -> io::Result<Allocation>;

    /// Maps the whole file for reading.
    ///
    /// The caller sees to it that the file is sealed: nobody writes or truncates it, under any
    /// name, while a [`Map`] of it lives.
    ///
    /// # Errors
    ///
    /// The system's error.
    fn map(&self) -> io::Result<Map>;

    /// Returns the unit in which this file is written: [`ALIGNMENT`] or 1.
    fn block_bytes(&self) -> usize {
        1
    }

    /// Writes all of `bytes` at `position`, as often as it takes.
    ///
    /// After a short write it goes on from the last whole block, so that every attempt is aligned
    /// if the first was; part of a block may be written twice, with the same bytes.
    ///
    /// # Errors
    ///
    /// `WriteZero` if two attempts in a row did not complete a block; else the first error of
    /// [`write_at`](Self::write_at). A prefix of the bytes may be written, and durable.
    fn write_all_at(&self, position: u64, bytes: &[u8], sync: WriteSync) -> io::Result<()> {
        let block = self.block_bytes();
        let mut done = 0;
        let mut stalled = false;
        while done < bytes.len() {
            let rest = &bytes[done..];
            let written = self.write_at(position + done as u64, rest, sync)?;
            let whole = if written == rest.len() { written } else { written - written % block };
            if written == 0 || (whole == 0 && stalled) {
                return Err(io::ErrorKind::WriteZero.into());
            }
            stalled = whole == 0;
            done += whole;
        }
        Ok(())
    }

    /// Fills `buffer` from `position`, with as many reads as it takes.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if the file ends first; else the first error of [`read_at`](Self::read_at).
    /// What the buffer holds is then unspecified.
    fn read_exact_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        let block = self.block_bytes();
        let mut done = 0;
        while done < buffer.len() {
            let read = self.read_at(position + done as u64, &mut buffer[done..])?;
            done += read;
            // Reads in blocks end inside one only at the end of the file, and no read can start
            // there.
            if read == 0 || (done < buffer.len() && read % block != 0) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// Refuses what is not a plain file name: nothing outside the directory of a store is ever touched.
fn check_name(name: &str) -> io::Result<()> {
    let plain = !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0']);
    if plain {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a file name")))
}

/// The error of a link between storages that share no files.
fn no_shared_files() -> io::Error {
    io::ErrorKind::CrossesDevices.into()
}

/// The error for a name that is a link, a directory or a device.
fn not_a_regular_file(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a regular file"))
}

#[cfg(test)]
mod tests;
