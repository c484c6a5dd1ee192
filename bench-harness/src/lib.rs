//! The bench harness of fanlog: a scenario with a judge, and workloads measured beside the device.
//!
//! Every workload runs the engine on real files and, in the same run and interleaved with it, the
//! floor that it is measured against: raw synced writes, sequential writes, sequential reads. What
//! each figure means, with its unit, stands in the README of this crate.
//!
//! [`payload`] and [`sample`] are shared with the micro-benches; [`floor`], [`machine`], [`place`],
//! [`console`], [`process`] and [`report`] are what every workload is made from, those of the crate
//! `fanlog-compare` too; [`run`] is the command.

pub mod console;
pub mod floor;
pub mod machine;
mod page;
pub mod payload;
pub mod place;
pub mod process;
pub mod report;
pub mod sample;

mod cli;
mod compare;
mod counted;
mod load;
mod scenario;
mod store;
mod workload;

/// Runs the command line of this process and returns its exit status.
///
/// 0: done, and for `scenario` nothing was lost or corrupt. 1: something was, or the run failed
/// (the error stands on standard error). 2: the command line was wrong.
pub fn run() -> std::process::ExitCode {
    cli::run()
}
