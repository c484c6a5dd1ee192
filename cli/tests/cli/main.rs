//! The `fanlog` command, used as from a shell.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod errors;
mod operations;
#[cfg(target_os = "linux")]
mod real_faults;
mod repair;
mod setup;
mod shell;
mod torture;
mod torture_crash;
