//! A storage whose calls fail when told to.
//!
//! Owns rules and counters, shared by the storage and the files opened through it; everything else
//! is the wrapped storage's. In: [`FaultRule`]s. Out: the wrapped storage's answers, or a fault.
//!
//! F1. A call that fails by [`Fault::Error`] or [`Fault::Os`] does not reach the wrapped storage.
//! F2. Each call is counted once, before any rule is looked at, also when it then fails.
//! F3. The first rule that is due decides; the others do not see that call.

mod rule;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use self::rule::Rules;
pub use self::rule::{Call, Fault, FaultRule, Times};
use super::{
    Access, Allocation, Backend, Entry, LockError, Map, Place, Purpose, Storage, StorageFile,
    StorageLock, WriteSync,
};

/// A storage around another one, which makes chosen calls fail. A clone shares rules and counters.
#[derive(Clone)]
pub struct FaultStorage {
    inner: Arc<dyn Storage>,
    rules: Arc<Mutex<Rules>>,
}

impl FaultStorage {
    /// Wraps `inner`; nothing fails yet.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, rules: Arc::default() }
    }

    /// Adds a rule behind those that are there. It holds for files that are open already too.
    pub fn fail(&self, rule: FaultRule) {
        self.with(|rules| rules.add(rule));
    }

    /// Removes every rule; the counters go on.
    pub fn clear(&self) {
        self.with(Rules::clear);
    }

    /// Returns how often `call` was made; [`Call::Any`] is the sum of all.
    pub fn calls(&self, call: Call) -> u64 {
        self.with(|rules| rules.count(call))
    }

    /// Returns how many calls have failed, been cut short or been interrupted by a rule.
    pub fn faults(&self) -> u64 {
        self.with(|rules| rules.faults())
    }

    /// Returns the last call that a rule struck, if one was.
    pub fn last_struck(&self) -> Option<Call> {
        self.with(|rules| rules.last())
    }

    fn with<T>(&self, look: impl FnOnce(&mut Rules) -> T) -> T {
        with(&self.rules, look)
    }

    /// Makes a call, unless a rule wants otherwise.
    fn call<T>(
        &self,
        call: Call,
        names: &[&str],
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        strike(&self.rules, call, names, make)
    }

    fn file(&self, name: &str, inner: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(FaultFile { inner, rules: Arc::clone(&self.rules), name: name.to_owned() })
    }
}

/// Looks at the rules even if a thread panicked with them: each change to them is complete.
fn with<T>(rules: &Mutex<Rules>, look: impl FnOnce(&mut Rules) -> T) -> T {
    look(&mut rules.lock().unwrap_or_else(PoisonError::into_inner))
}

fn strike<T>(
    rules: &Mutex<Rules>,
    call: Call,
    names: &[&str],
    make: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    // The rules are not locked while the call is made.
    match with(rules, |rules| rules.strike(call, names)) {
        None | Some(Fault::EintrOnce | Fault::ShortWrite(_)) => make(),
        Some(fault @ (Fault::Error(_) | Fault::Os(_))) => Err(fault.error()),
        Some(fault @ Fault::ErrorAfter(_)) => {
            make()?;
            Err(fault.error())
        }
    }
}

impl fmt::Debug for FaultStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultStorage").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Storage for FaultStorage {
    fn path(&self, name: &str) -> PathBuf {
        self.inner.path(name)
    }

    fn backend(&self) -> Backend {
        self.inner.backend()
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.call(Call::List, &[], || self.inner.list())
    }

    fn create(&self, name: &str, purpose: Purpose) -> io::Result<Arc<dyn StorageFile>> {
        self.call(Call::Create, &[name], || Ok(self.file(name, self.inner.create(name, purpose)?)))
    }

    fn open(
        &self,
        name: &str,
        access: Access,
        purpose: Purpose,
    ) -> io::Result<Arc<dyn StorageFile>> {
        self.call(Call::Open, &[name], || {
            Ok(self.file(name, self.inner.open(name, access, purpose)?))
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.call(Call::Rename, &[from, to], || self.inner.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.call(Call::Remove, &[name], || self.inner.remove(name))
    }

    fn link(&self, name: &str, target: &dyn Storage, to: &str) -> io::Result<()> {
        self.call(Call::Link, &[name, to], || self.inner.link(name, target, to))
    }

    fn links(&self, name: &str) -> io::Result<u64> {
        self.call(Call::Links, &[name], || self.inner.links(name))
    }

    fn place(&self) -> Place<'_> {
        self.inner.place()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.call(Call::SyncDirectory, &[], || self.inner.sync_directory())
    }

    fn lock(&self, name: &str) -> Result<StorageLock, LockError> {
        self.call(Call::Lock, &[name], || Ok(self.inner.lock(name)))?
    }

    fn lock_read_only(&self, name: &str) -> Result<Option<StorageLock>, LockError> {
        self.call(Call::Lock, &[name], || Ok(self.inner.lock_read_only(name)))?
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.call(Call::FreeBytes, &[], || self.inner.free_bytes())
    }
}

/// A file opened through a [`FaultStorage`], under the name that it had then.
#[derive(Debug)]
struct FaultFile {
    inner: Arc<dyn StorageFile>,
    rules: Arc<Mutex<Rules>>,
    name: String,
}

impl FaultFile {
    fn call<T>(&self, call: Call, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        strike(&self.rules, call, &[&self.name], make)
    }
}

impl StorageFile for FaultFile {
    fn write_at(&self, position: u64, bytes: &[u8], sync: WriteSync) -> io::Result<usize> {
        match with(&self.rules, |rules| rules.strike(Call::Write, &[&self.name])) {
            None | Some(Fault::EintrOnce) => self.inner.write_at(position, bytes, sync),
            Some(fault @ (Fault::Error(_) | Fault::Os(_))) => Err(fault.error()),
            Some(fault @ Fault::ErrorAfter(_)) => {
                self.inner.write_at(position, bytes, sync)?;
                Err(fault.error())
            }
            Some(Fault::ShortWrite(most)) => self.write_short(position, bytes, sync, most),
        }
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.call(Call::Read, || self.inner.read_at(position, buffer))
    }

    fn sync(&self) -> io::Result<()> {
        self.call(Call::Sync, || self.inner.sync())
    }

    fn bytes(&self) -> io::Result<u64> {
        self.inner.bytes()
    }

    fn allocate(&self, bytes: u64) -> io::Result<Allocation> {
        self.call(Call::Allocate, || self.inner.allocate(bytes))
    }

    fn map(&self) -> io::Result<Map> {
        self.call(Call::Map, || self.inner.map())
    }

    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }
}

impl FaultFile {
    /// Writes no more than the whole blocks in the first `most` bytes.
    fn write_short(
        &self,
        position: u64,
        bytes: &[u8],
        sync: WriteSync,
        most: usize,
    ) -> io::Result<usize> {
        let most = most.min(bytes.len());
        let whole = most - most % self.inner.block_bytes();
        if whole == 0 { Ok(0) } else { self.inner.write_at(position, &bytes[..whole], sync) }
    }
}

#[cfg(test)]
mod tests;
