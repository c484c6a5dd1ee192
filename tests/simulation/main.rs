//! The whole engine in one thread, under a seed: the same seed makes the same run.
//!
//! `FANLOG_SEEDS=10000` runs more, `FANLOG_SEED=..` runs one and shows what it did.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

mod damage;
mod drained;
mod faults;
mod found;
mod runs;
mod space;
