//! One open file of a directory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::{ALIGNMENT, Allocation, Map, StorageFile, WriteSync};
use super::Rings;

/// An open file; direct if it was opened so.
#[derive(Debug)]
pub(super) struct RealFile {
    file: Arc<File>,
    direct: bool,
    rings: Option<Arc<Rings>>,
    /// Whether a sync failed. The system tells one caller per handle and then forgets: whoever syncs
    /// beside it, or later, would hear that all is well.
    sync_failed: Mutex<bool>,
}

impl RealFile {
    pub(super) fn new(file: File, direct: bool, rings: Option<Arc<Rings>>) -> Self {
        Self { file: Arc::new(file), direct, rings, sync_failed: Mutex::new(false) }
    }

    /// Syncs, one caller at a time; after a failure never again.
    fn sync_data(&self) -> io::Result<()> {
        let mut failed = self.sync_failed.lock().unwrap_or_else(PoisonError::into_inner);
        if *failed {
            return Err(io::Error::other("an earlier sync of this file failed"));
        }
        self.file.sync_data().inspect_err(|_| *failed = true)
    }
}

impl StorageFile for RealFile {
    fn write_at(&self, position: u64, bytes: &[u8], sync: WriteSync) -> io::Result<usize> {
        if self.direct && sync == WriteSync::Data {
            let rings = self.rings.as_ref();
            let written = rings.and_then(|rings| rings.write_durably(&self.file, position, bytes));
            return written.unwrap_or_else(|| write_durably(&self.file, position, bytes));
        }
        let written = uninterrupted(|| self.file.write_at(bytes, position))?;
        if sync == WriteSync::Data {
            // Not told as want of space, even if that is the cause: bytes may be gone that were
            // written long before.
            self.sync_data().map_err(io::Error::other)?;
        }
        Ok(written)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| self.file.read_at(buffer, position))
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocate(&self, bytes: u64) -> io::Result<Allocation> {
        let present = self.bytes()?;
        if let Some(result) = reserve(&self.file, present, bytes) {
            return result;
        }
        if bytes > present {
            self.file.set_len(bytes)?;
        }
        Ok(Allocation::Sparse)
    }

    fn map(&self) -> io::Result<Map> {
        Map::of_file(&self.file)
    }

    fn block_bytes(&self) -> usize {
        if self.direct { ALIGNMENT } else { 1 }
    }
}

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Writes past the page cache and the disk's own cache, in one call.
#[cfg(target_os = "linux")]
fn write_durably(file: &File, position: u64, bytes: &[u8]) -> io::Result<usize> {
    use rustix::io::ReadWriteFlags;
    let parts = [io::IoSlice::new(bytes)];
    let written = rustix::io::retry_on_intr(|| {
        rustix::io::pwritev2(file, &parts, position, ReadWriteFlags::DSYNC)
    });
    Ok(written?)
}

#[cfg(not(target_os = "linux"))]
fn write_durably(file: &File, position: u64, bytes: &[u8]) -> io::Result<usize> {
    let written = uninterrupted(|| file.write_at(bytes, position))?;
    file.sync_data()?;
    Ok(written)
}

/// Reserves blocks for the first `bytes` of a file of `present` bytes, which grows to that size.
///
/// `None`: this file system can't.
#[cfg(target_os = "linux")]
fn reserve(file: &File, present: u64, bytes: u64) -> Option<io::Result<Allocation>> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::{Errno, retry_on_intr};
    /// `FALLOC_FL_WRITE_ZEROES`, since Linux 6.17. Zeros what is there: only for what is added.
    const WRITE_ZEROES: FallocateFlags = FallocateFlags::from_bits_retain(0x80);

    if bytes == 0 {
        return Some(Ok(Allocation::Unwritten));
    }
    // Whatever keeps the disk from doing this, the plain way below works without it or says why not.
    if bytes > present
        && retry_on_intr(|| fallocate(file, WRITE_ZEROES, present, bytes - present)).is_ok()
    {
        return Some(Ok(Allocation::Written));
    }
    match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, bytes)) {
        Ok(()) => Some(Ok(Allocation::Unwritten)),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => None,
        Err(error) => Some(Err(error.into())),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_file: &File, _present: u64, _bytes: u64) -> Option<io::Result<Allocation>> {
    None
}
