//! A storage whose log writes stop at a gate: a slow disk that is as slow as a test wants.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex},
};

use fanlog::storage::{
    Access, Allocation, Backend, Entry, LockError, Map, MemoryStorage, Place, Purpose, Storage,
    StorageFile, StorageLock, WriteSync,
};

use crate::support::is_segment;

/// Holds up writes to segments while it is shut.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    shut: bool,
    waiting: usize,
}

impl Gate {
    pub(crate) fn shut(&self) {
        self.state.lock().unwrap().shut = true;
    }

    pub(crate) fn open(&self) {
        self.state.lock().unwrap().shut = false;
        self.changed.notify_all();
    }

    /// Writes that stand before it.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().unwrap().waiting
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        state = self.changed.wait_while(state, |state| state.shut).unwrap();
        state.waiting -= 1;
    }
}

/// A disk behind a [`Gate`].
pub(crate) struct GatedStorage {
    inner: Arc<dyn Storage>,
    gate: Arc<Gate>,
}

impl GatedStorage {
    pub(crate) fn new(gate: &Arc<Gate>) -> Self {
        Self::before(Arc::new(MemoryStorage::new()), gate)
    }

    pub(crate) fn before(inner: Arc<dyn Storage>, gate: &Arc<Gate>) -> Self {
        Self { inner, gate: Arc::clone(gate) }
    }

    fn file(&self, name: &str, inner: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        if is_segment(name) {
            return Arc::new(GatedFile { inner, gate: Arc::clone(&self.gate) });
        }
        inner
    }
}

impl fmt::Debug for GatedStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatedStorage")
    }
}

impl Storage for GatedStorage {
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
struct GatedFile {
    inner: Arc<dyn StorageFile>,
    gate: Arc<Gate>,
}

impl StorageFile for GatedFile {
    fn write_at(&self, position: u64, bytes: &[u8], sync: WriteSync) -> io::Result<usize> {
        self.gate.pass();
        self.inner.write_at(position, bytes, sync)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(position, buffer)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn bytes(&self) -> io::Result<u64> {
        self.inner.bytes()
    }

    fn allocate(&self, bytes: u64) -> io::Result<Allocation> {
        self.inner.allocate(bytes)
    }

    fn map(&self) -> io::Result<Map> {
        self.inner.map()
    }

    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }
}
