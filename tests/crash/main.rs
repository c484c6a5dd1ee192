//! Power is cut at every operation on the disk; what a disk may then hold is opened and judged.
//!
//! A failure names seed, cut and image; `FANLOG_SEED=.. FANLOG_CUT=..` runs that cut alone.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

mod again;
mod cuts;
mod liar;
mod past;
mod quarantine;
mod recovery;
mod stepped;
mod threaded;
