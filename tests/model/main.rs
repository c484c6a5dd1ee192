//! All operations, in sequences by chance, against a small broker that is written for clarity.
//!
//! [`broker`] says what every call has to answer, [`operations`] which calls there are and which are
//! worth making, [`machine`] makes them on a real engine (stepped, on a disk in memory whose power can
//! be cut) and compares: the answer of each call, and after each the topology, the depths of all
//! queues, and the engine's own recount by brute force. A failure is shrunk to the shortest sequence.
//!
//! `FANLOG_MODEL_CASES=100000` runs more.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

mod broker;
mod machine;
mod operations;
mod routing;
