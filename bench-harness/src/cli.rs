//! The command line: one subcommand per workload.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{compare, console, page, scenario, workload};

/// Runs fanlog's main scenario, and its workloads beside the raw device.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Debug, Subcommand)]
enum Workload {
    /// Three platforms, consumers that die, a killed engine, and a judge who counts every message
    Scenario(scenario::Options),
    /// Confirmed messages per second and confirm latency, beside raw writes of the same device
    Publish(workload::publish::Options),
    /// Latency of confirms and deliveries at rates that are kept whatever happens (open loop)
    Latency(workload::latency::Options),
    /// Cost of a publish from 1 to 1,000 bound queues: bytes, instructions, system calls, rate
    Fanout(workload::fanout::Options),
    /// Deliveries per second of a backlog, from memory and from the files
    Deliver(workload::deliver::Options),
    /// Cost of an ack in several orders, and latency of one that is waited for
    Ack(workload::ack::Options),
    /// The raw figures of the device alone
    Floor(workload::floor::Options),
    /// Disk against live bytes while some of a stream stays unacked, and what reclaim costs
    Reclaim(workload::reclaim::Options),
    /// Time and memory of opening a store after a crash, against its backlog
    Recover(workload::recover::Options),
    /// Publishers, consumers and reclaim for ten minutes under a changing load: nothing may grow
    Soak(workload::soak::Options),
    /// Very many queues on one exchange: declaring, checkpoints, opening, and a publisher beside them
    Queues(workload::queues::Options),
    /// fanlog beside what could be embedded instead (builds and runs the crate in `compare/`)
    #[command(disable_help_flag = true)]
    Compare(compare::Options),
    /// One page with plots, for a browser, of the reports that `--json` wrote
    Report(page::Options),
    /// Engine process of the scenario: commands in, frames out
    #[command(hide = true)]
    ScenarioEngine(scenario::EngineOptions),
    /// One measured run of `fanout`
    #[command(hide = true)]
    FanoutProbe(workload::fanout::ProbeOptions),
    /// One measured run of `recover`
    #[command(hide = true)]
    RecoverProbe(workload::recover::ProbeOptions),
}

/// Parses, runs, and turns an error into a line and a status.
pub(crate) fn run() -> ExitCode {
    let done = match Arguments::parse().workload {
        Workload::Scenario(options) => scenario::run(&options),
        Workload::Publish(options) => workload::publish::run(&options).map(|()| true),
        Workload::Latency(options) => workload::latency::run(&options).map(|()| true),
        Workload::Fanout(options) => workload::fanout::run(&options).map(|()| true),
        Workload::Deliver(options) => workload::deliver::run(&options).map(|()| true),
        Workload::Ack(options) => workload::ack::run(&options).map(|()| true),
        Workload::Floor(options) => workload::floor::run(&options).map(|()| true),
        Workload::Reclaim(options) => workload::reclaim::run(&options).map(|()| true),
        Workload::Recover(options) => workload::recover::run(&options).map(|()| true),
        Workload::Soak(options) => workload::soak::run(&options),
        Workload::Queues(options) => workload::queues::run(&options).map(|()| true),
        Workload::Compare(options) => return compare::run(&options),
        Workload::Report(options) => page::run(&options).map(|()| true),
        Workload::ScenarioEngine(options) => scenario::run_engine(&options).map(|()| true),
        Workload::FanoutProbe(options) => workload::fanout::run_probe(&options).map(|()| true),
        Workload::RecoverProbe(options) => workload::recover::run_probe(&options).map(|()| true),
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
