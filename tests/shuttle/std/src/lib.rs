//! The standard library with shuttle's locks, atomics and threads in the place of its own: a crate that
//! names this one `std` runs under shuttle's scheduler.

pub use std::*;

/// Shuttle's, and of std what never waits.
pub mod sync {
    pub use shuttle::sync::{
        Barrier, BarrierWaitResult, Condvar, Mutex, MutexGuard, Once, OnceState, RwLock,
        RwLockReadGuard, RwLockWriteGuard, WaitTimeoutResult, mpsc,
    };
    pub use std::sync::{
        Arc, LazyLock, LockResult, OnceLock, PoisonError, TryLockError, TryLockResult, Weak,
    };

    pub mod atomic {
        pub use shuttle::sync::atomic::*;
    }
}

/// Shuttle's, and of std what never waits.
pub mod thread {
    pub use shuttle::thread::{
        Builder, JoinHandle, Thread, ThreadId, current, park, scope, sleep, spawn, yield_now,
    };
    pub use std::thread::{Result, panicking};
}
