//! Many queues on one exchange: what each takes of memory, and what declaring the n-th costs. Many
//! messages that wait for their time, or behind others of a higher priority.
//!
//! Memory and work are counted by the allocator of this process, not timed: the figures are the
//! same on a busy machine. One test runs at a time, as they share the counters.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
#![expect(clippy::print_stdout, reason = "a test says what it counted")]

mod come_and_go;
mod counted;
mod delayed;
mod priority;
mod queues;
