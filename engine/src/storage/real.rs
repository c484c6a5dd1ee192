//! A store in a directory of the file system.
//!
//! Owns the directory's handle: all names are resolved in it, so a store stays whole when its
//! directory is moved. In: names. Out: open files. Which backend is used is decided once, when
//! the store is opened, by `probe`.
//!
//! R1. A read-only store changes nothing on disk: no file, no lock file, no probe. A file of it can
//!     be given a further name elsewhere.
//! R2. Files are created for their owner alone (0600, the directory 0700), and closed on exec.
//! R3. The lock file is never removed: two openers could otherwise lock two files of one name.
//!
//! Errors of the system are passed on as they are; nothing is retried but interrupted calls.

mod directory;
mod file;
#[cfg(target_os = "linux")]
mod probe;
#[cfg(target_os = "linux")]
mod ring;

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use self::file::RealFile;
#[cfg(target_os = "linux")]
use self::ring::Rings;
use super::{
    Access, Backend, BackendChoice, Entry, LockError, Place, Purpose, Storage, StorageFile,
    StorageLock, check_name, no_shared_files, not_a_regular_file,
};

/// Flags of every open. A FIFO is refused rather than waited for, hence `NONBLOCK`, which means
/// nothing for regular files.
const OPEN_FLAGS: OFlags =
    OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// The files of one directory.
#[derive(Debug)]
pub struct RealStorage {
    directory: File,
    path: PathBuf,
    backend: Backend,
    rings: Option<Arc<Rings>>,
    writable: bool,
}

impl RealStorage {
    /// Opens the directory `path` for reading and writing, and finds out how to write there.
    ///
    /// With `create`, the directory and its missing parents are made first, durably, for their
    /// owner alone. Unless `choice` is [`BackendChoice::Buffered`], a file of 4 KiB is written and
    /// removed. Nothing is locked.
    ///
    /// # Errors
    ///
    /// - `NotFound` if there is no such directory and `create` is false.
    /// - `NotADirectory` if it is something else.
    /// - `Unsupported` if `choice` is [`BackendChoice::Direct`] or [`BackendChoice::Uring`] and direct
    ///   access can't be had here.
    /// - Else the system's error.
    pub fn open(path: &Path, create: bool, choice: BackendChoice) -> io::Result<Self> {
        if create {
            directory::create(path)?;
        }
        let directory = directory::open(path)?;
        let mut backend = choose(&directory, choice)?;
        let rings = (choice == BackendChoice::Uring).then(Rings::new).and_then(Result::ok);
        if rings.is_some() {
            backend = Backend::Uring;
        }
        let rings = rings.map(Arc::new);
        Ok(Self { directory, path: path.to_owned(), backend, rings, writable: true })
    }

    /// Opens the directory `path` for reading only. Changes nothing there. Files are read through the
    /// page cache; the backend told is the one that writing would most likely use.
    ///
    /// Every call of it that would change something fails with `ReadOnlyFilesystem`.
    ///
    /// # Errors
    ///
    /// `NotFound`, `NotADirectory`, else the system's error.
    pub fn open_read_only(path: &Path) -> io::Result<Self> {
        let directory = directory::open(path)?;
        let backend = Backend::Buffered;
        let path = path.to_owned();
        let mut storage = Self { directory, path, backend, rings: None, writable: false };
        storage.backend = storage.likely_backend()?;
        Ok(storage)
    }

    /// What the first file of the directory tells of direct access, without writing.
    fn likely_backend(&self) -> io::Result<Backend> {
        let mut files = self.list()?.into_iter().filter(|entry| entry.is_file);
        let Some(entry) = files.next() else { return Ok(Backend::Buffered) };
        Ok(match self.open_file(&entry.name, OFlags::RDONLY | direct_flag()) {
            Ok(file) if looks_direct(&self.directory, &file) => Backend::Direct,
            _ => Backend::Buffered,
        })
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::ReadOnlyFilesystem.into()) }
    }

    /// Opens a regular file, or creates one if `flags` say so.
    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        check_name(name)?;
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = flags | OPEN_FLAGS;
        let opened =
            rustix::io::retry_on_intr(|| rustix::fs::openat(&self.directory, name, flags, mode));
        let file = match opened {
            Ok(file) => File::from(file),
            // What the flags make of a link (two of them), a FIFO or socket, and a directory.
            Err(Errno::LOOP | Errno::MLINK | Errno::NXIO | Errno::ISDIR) => {
                return Err(not_a_regular_file(name));
            }
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Err(not_a_regular_file(name));
        }
        Ok(file)
    }

    fn is_direct(&self, purpose: Purpose) -> bool {
        let direct = matches!(self.backend, Backend::Direct | Backend::Uring);
        self.writable && direct && purpose == Purpose::Log
    }

    fn handle(&self, name: &str, flags: OFlags, purpose: Purpose) -> io::Result<RealFile> {
        let direct = self.is_direct(purpose);
        let flags = if direct { flags | direct_flag() } else { flags };
        let rings = self.rings.clone().filter(|_| direct);
        Ok(RealFile::new(self.open_file(name, flags)?, direct, rings))
    }

    fn entry(&self, raw_name: &[u8]) -> io::Result<Option<Entry>> {
        let name = OsStr::from_bytes(raw_name);
        let stat = match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Removed since the directory was read.
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let bytes = if is_file { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        Ok(Some(Entry { name: name.to_string_lossy().into_owned(), bytes, is_file }))
    }
}

impl Storage for RealStorage {
    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn backend(&self) -> Backend {
        self.backend
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for found in Dir::read_from(&self.directory)? {
            let found = found?;
            let raw_name = found.file_name().to_bytes();
            if !matches!(raw_name, b"." | b"..") {
                entries.extend(self.entry(raw_name)?);
            }
        }
        Ok(entries)
    }

    fn create(&self, name: &str, purpose: Purpose) -> io::Result<Arc<dyn StorageFile>> {
        self.check_writable()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        Ok(Arc::new(self.handle(name, flags, purpose)?))
    }

    fn open(
        &self,
        name: &str,
        access: Access,
        purpose: Purpose,
    ) -> io::Result<Arc<dyn StorageFile>> {
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => {
                self.check_writable()?;
                OFlags::RDWR
            }
        };
        Ok(Arc::new(self.handle(name, flags, purpose)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        check_name(from)?;
        check_name(to)?;
        Ok(rustix::fs::renameat(&self.directory, from, &self.directory, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        check_name(name)?;
        Ok(rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())?)
    }

    fn link(&self, name: &str, target: &dyn Storage, to: &str) -> io::Result<()> {
        check_name(name)?;
        check_name(to)?;
        let Place::Directory(directory) = target.place() else { return Err(no_shared_files()) };
        Ok(rustix::fs::linkat(&self.directory, name, directory, to, AtFlags::empty())?)
    }

    fn links(&self, name: &str) -> io::Result<u64> {
        check_name(name)?;
        let stat = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        // Its type depends on the system.
        #[expect(clippy::useless_conversion, reason = "it is u32 elsewhere")]
        Ok(u64::from(stat.st_nlink))
    }

    fn place(&self) -> Place<'_> {
        Place::Directory(self.directory.as_fd())
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.check_writable()?;
        self.directory.sync_all()
    }

    fn lock(&self, name: &str) -> Result<StorageLock, LockError> {
        self.check_writable()?;
        let file = self.open_file(name, OFlags::RDWR | OFlags::CREATE)?;
        match file.try_lock() {
            Ok(()) => Ok(StorageLock::new(HeldFile(file))),
            Err(TryLockError::WouldBlock) => Err(LockError::Held),
            Err(TryLockError::Error(error)) => Err(LockError::Io(error)),
        }
    }

    fn lock_read_only(&self, name: &str) -> Result<Option<StorageLock>, LockError> {
        let file = match self.open_file(name, OFlags::RDONLY) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LockError::Io(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(StorageLock::new(HeldFile(file)))),
            Err(TryLockError::WouldBlock) => Err(LockError::Held),
            Err(TryLockError::Error(error)) if has_no_locks(&error) => Ok(None),
            Err(TryLockError::Error(error)) => Err(LockError::Io(error)),
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.directory)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// A lock file with a lock on it.
struct HeldFile(File);

impl Drop for HeldFile {
    fn drop(&mut self) {
        // Closing unlocks too, but not while a child process, between fork and exec, has a copy of
        // the handle. Should this fail, closing is what is left.
        drop(self.0.unlock());
    }
}

fn has_no_locks(error: &io::Error) -> bool {
    [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS, Errno::ROFS]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(target_os = "linux")]
fn direct_flag() -> OFlags {
    OFlags::DIRECT
}

#[cfg(target_os = "linux")]
fn looks_direct(directory: &File, file: &File) -> bool {
    probe::looks_direct(directory, file)
}

#[cfg(not(target_os = "linux"))]
fn looks_direct(_: &File, _: &File) -> bool {
    false
}

/// This system has none.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
struct Rings;

#[cfg(not(target_os = "linux"))]
impl Rings {
    fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_durably(&self, _: &File, _: u64, _: &[u8]) -> Option<io::Result<usize>> {
        None
    }
}

#[cfg(not(target_os = "linux"))]
fn direct_flag() -> OFlags {
    OFlags::empty()
}

#[cfg(target_os = "linux")]
fn choose(directory: &File, choice: BackendChoice) -> io::Result<Backend> {
    match choice {
        BackendChoice::Buffered => Ok(Backend::Buffered),
        BackendChoice::Auto => Ok(match probe::direct(directory)? {
            probe::Finding::Works => Backend::Direct,
            probe::Finding::Refused(_) | probe::Finding::DiskFull => Backend::Buffered,
        }),
        BackendChoice::Direct | BackendChoice::Uring => match probe::direct(directory)? {
            // A full store must open, to be drained: then the caller's word counts.
            probe::Finding::Works | probe::Finding::DiskFull => Ok(Backend::Direct),
            probe::Finding::Refused(why) => Err(no_direct(why)),
        },
    }
}

#[cfg(not(target_os = "linux"))]
fn choose(_directory: &File, choice: BackendChoice) -> io::Result<Backend> {
    match choice {
        BackendChoice::Auto | BackendChoice::Buffered => Ok(Backend::Buffered),
        BackendChoice::Direct | BackendChoice::Uring => {
            Err(no_direct("this system has no direct I/O"))
        }
    }
}

fn no_direct(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("no direct I/O here: {why}"))
}

#[cfg(test)]
mod tests;
