//! `fanlog-compare`: fanlog beside what a Rust program could embed instead.
//!
//! The same work, at the same durability, in one run: in each round every peer is measured once, in
//! turn, each in a process of its own with a fresh store. What each figure means stands in the
//! README of the bench harness.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fanlog_bench::console;

mod disk;
mod messages;
mod peer;
mod probe;
mod run;
mod spawn;
mod table;
mod work;

/// fanlog beside what a Rust program could embed instead: the same work, the same durability.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    step: Option<Step>,
    #[command(flatten)]
    options: run::Options,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// One measured run of one peer
    #[command(hide = true)]
    Probe(probe::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.step {
        Some(Step::Probe(options)) => probe::run(options).map(|()| true),
        None => run::run(&arguments.options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            console::note(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
