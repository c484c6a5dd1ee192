//! The right to use a store, held as long as its value lives.

use std::any::Any;
use std::fmt;
use std::io;

/// A lock that is given back when this is dropped.
///
/// A lock of a [`RealStorage`](super::RealStorage) also ends with its process, however that ends.
pub struct StorageLock {
    _guard: Box<dyn Any + Send + Sync>,
}

impl StorageLock {
    /// Makes a lock of anything that unlocks when it is dropped.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self { _guard: Box::new(guard) }
    }
}

impl fmt::Debug for StorageLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageLock").finish_non_exhaustive()
    }
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process, or another opener in this one, has it.
    #[error("the store is in use")]
    Held,
    /// The lock could not be tried.
    #[error("the lock can't be taken")]
    Io(#[from] io::Error),
}
