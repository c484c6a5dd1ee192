//! All operations, in sequences by chance, against a small broker that is written for clarity.
//!
//! [`operations`] lists the calls, [`choice`] says which are worth making. [`broker`] says what every
//! call has to answer: [`publishing`] what is stored, [`routing`] where it goes, [`queue`] what a queue
//! holds and what leaves it by itself, [`letters`] where that goes, [`consuming`] who gets the rest and
//! loses it again, [`past`] what comes back to queues that are bound from the past or rewound;
//! [`declaring`] exchanges, queues and bindings. [`machine`] makes the calls on a real engine (stepped,
//! on a disk in memory whose power can be cut), [`hands`] has what it took; [`compare`] compares after
//! each: the topology, the depths of all queues, and the engine's own recount by brute force. A failure
//! is shrunk to the shortest
//! sequence.
//!
//! Nothing is left to chance: time passes where a call says so, and only there the background works,
//! once. Before a crash all that is in doubt is made durable, but at the end, where [`cut`] cuts power
//! within a round of the background. What becomes of doubts else is the business of the simulation and
//! of the crash tests.
//!
//! `FANLOG_MODEL_CASES=100000` runs more.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

mod broker;
mod choice;
mod compare;
mod consuming;
mod cut;
mod declaring;
mod hands;
mod letters;
mod machine;
mod message;
mod operations;
mod past;
mod publishing;
mod queue;
mod routing;
