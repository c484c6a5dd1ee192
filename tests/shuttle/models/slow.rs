//! A disk in memory whose writes take long enough for another one to be begun, and to end, meanwhile.

use std::{io, path::PathBuf, sync::Arc};

use fanlog::storage::{
    Access, Allocation, Backend, Entry, LockError, Map, MemoryStorage, Place, Purpose, Storage,
    StorageFile, StorageLock, WriteSync,
};
use shuttle::thread::yield_now;

#[derive(Debug, Clone)]
pub struct SlowDisk(pub MemoryStorage);

#[derive(Debug)]
struct SlowFile(Arc<dyn StorageFile>);

impl Storage for SlowDisk {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn backend(&self) -> Backend {
        self.0.backend()
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.0.list()
    }

    fn create(&self, name: &str, purpose: Purpose) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(SlowFile(self.0.create(name, purpose)?)))
    }

    fn open(
        &self,
        name: &str,
        access: Access,
        purpose: Purpose,
    ) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(SlowFile(self.0.open(name, access, purpose)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn link(&self, name: &str, target: &dyn Storage, to: &str) -> io::Result<()> {
        self.0.link(name, target, to)
    }

    fn links(&self, name: &str) -> io::Result<u64> {
        self.0.links(name)
    }

    fn place(&self) -> Place<'_> {
        self.0.place()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.0.sync_directory()
    }

    fn lock(&self, name: &str) -> Result<StorageLock, LockError> {
        self.0.lock(name)
    }

    fn lock_read_only(&self, name: &str) -> Result<Option<StorageLock>, LockError> {
        self.0.lock_read_only(name)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.0.free_bytes()
    }
}

impl StorageFile for SlowFile {
    fn write_at(&self, position: u64, bytes: &[u8], sync: WriteSync) -> io::Result<usize> {
        // The scheduler takes it as a wish to let others go first, for once or for long.
        yield_now();
        let written = self.0.write_at(position, bytes, sync);
        yield_now();
        written
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(position, buffer)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn bytes(&self) -> io::Result<u64> {
        self.0.bytes()
    }

    fn allocate(&self, bytes: u64) -> io::Result<Allocation> {
        self.0.allocate(bytes)
    }

    fn map(&self) -> io::Result<Map> {
        self.0.map()
    }

    fn block_bytes(&self) -> usize {
        self.0.block_bytes()
    }
}
