//! One open file of a disk in memory.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::super::{ALIGNMENT, Access, AlignedBuffer, Allocation, Map, Purpose, StorageFile};
use super::super::{WriteSync, memory};
use super::disk::Disk;

/// A counted handle to an inode.
pub(super) struct MemoryFile {
    disk: Arc<Mutex<Disk>>,
    inode: u64,
    access: Access,
    purpose: Purpose,
}

impl MemoryFile {
    /// Takes over a handle that the disk has counted.
    pub(super) fn new(
        disk: Arc<Mutex<Disk>>,
        inode: u64,
        access: Access,
        purpose: Purpose,
    ) -> Self {
        Self { disk, inode, access, purpose }
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.access {
            Access::Write => Ok(()),
            Access::Read => Err(Errno::BADF.into()),
        }
    }

    /// Refuses what a direct file would refuse.
    fn check_aligned(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let aligned = position.is_multiple_of(ALIGNMENT as u64)
            && bytes.len().is_multiple_of(ALIGNMENT)
            && bytes.as_ptr().addr().is_multiple_of(ALIGNMENT);
        if aligned || self.purpose == Purpose::Plain {
            return Ok(());
        }
        let why = format!("unaligned write of {} bytes at {position} to a log file", bytes.len());
        Err(io::Error::new(io::ErrorKind::InvalidInput, why))
    }
}

impl StorageFile for MemoryFile {
    fn write_at(&self, position: u64, bytes: &[u8], sync: WriteSync) -> io::Result<usize> {
        self.check_writable()?;
        self.check_aligned(position, bytes)?;
        memory::lock(&self.disk).write(self.inode, position, bytes, sync)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(memory::lock(&self.disk).powered()?.inode(self.inode).read(position, buffer))
    }

    fn sync(&self) -> io::Result<()> {
        memory::lock(&self.disk).sync(self.inode)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(memory::lock(&self.disk).powered()?.inode(self.inode).bytes())
    }

    fn allocate(&self, bytes: u64) -> io::Result<Allocation> {
        self.check_writable()?;
        memory::lock(&self.disk).allocate(self.inode, bytes)?;
        Ok(Allocation::Written)
    }

    fn map(&self) -> io::Result<Map> {
        let mut disk = memory::lock(&self.disk);
        let inode = disk.powered()?.inode(self.inode);
        let bytes = usize::try_from(inode.bytes()).map_err(|_| Errno::NOMEM)?;
        let mut copy = AlignedBuffer::zeroed(bytes);
        inode.read(0, &mut copy);
        Ok(Map::of_copy(copy))
    }

    fn block_bytes(&self) -> usize {
        match self.purpose {
            Purpose::Log => ALIGNMENT,
            Purpose::Plain => 1,
        }
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        memory::lock(&self.disk).close(self.inode);
    }
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFile")
            .field("inode", &self.inode)
            .field("access", &self.access)
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}
