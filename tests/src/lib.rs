//! The shared harness of fanlog's tests: a seeded workload, a reference model, and a judge.
//!
//! A [`world::World`] drives an engine by chance under a seed and keeps a [`model::Model`] of what
//! the store has to hold. When power is cut, [`judge`] opens what a disk may have kept and compares.

#![expect(clippy::missing_panics_doc, reason = "a test that fails panics, that is its purpose")]

pub mod around;
pub mod disks;
pub mod judge;
pub mod model;
pub mod operations;
pub mod past;
pub mod random;
pub mod stream;
pub mod world;
