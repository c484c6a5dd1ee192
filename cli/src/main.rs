//! The `fanlog` command: argument parsing and printing around the engine's public interface.
//!
//! One file per command. A command returns a [`failure::Status`] or a
//! [`failure::Failure`]; only `main` turns them into the exit status and the line on
//! standard error. Whatever opens a store closes it again, also on failure
//! ([`store::session`]), so that the next open finds the clean mark.

#![cfg_attr(
    doc,
    expect(rustdoc::invalid_html_tags, reason = "doc comments of arguments are the help text")
)]

mod backup;
mod consume;
mod declare;
mod dump;
mod duration;
mod failure;
mod info;
mod output;
mod progress;
mod publish;
mod purge;
mod reclaim;
mod repair;
mod rewind;
mod signals;
mod start;
mod store;
mod table;
mod torture;
mod verify;

use std::{path::Path, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::failure::{Failure, Status};

/// Work with a fanlog store from a shell.
///
/// A store is a directory owned by one process at a time: a command that finds it open elsewhere
/// says so at once and ends with status 4.
#[derive(Parser)]
#[command(name = "fanlog", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit status: 0 fine, 2 usage, 3 damaged data, 4 open elsewhere, 5 input/output,
6 format version not supported. Errors are one line on standard error:
error: <kind>: <file>: offset <n>: <text>

Examples:
  fanlog declare orders queue billing shipping
  fanlog declare orders exchange placed --kind fanout
  fanlog declare orders bind billing placed
  fanlog declare orders bind shipping placed
  seq 1000 | fanlog publish orders --exchange placed
  fanlog info orders
  fanlog consume orders --queue billing --count 10
  fanlog verify orders
  fanlog repair orders
  fanlog backup orders /mnt/backup/orders";

#[derive(Subcommand)]
enum Command {
    Info(info::Info),
    Verify(verify::Verify),
    Declare(declare::Declare),
    Publish(publish::Publish),
    Consume(consume::Consume),
    Purge(purge::Purge),
    Rewind(rewind::Rewind),
    Reclaim(reclaim::Reclaim),
    Repair(repair::Repair),
    Backup(backup::Backup),
    Dump(dump::DumpCommand),
    #[command(subcommand)]
    Torture(torture::Torture),
}

impl Command {
    fn run(&self) -> Result<Status, Failure> {
        match self {
            Self::Info(command) => command.run(),
            Self::Verify(command) => command.run(),
            Self::Declare(command) => command.run(),
            Self::Publish(command) => command.run(),
            Self::Consume(command) => command.run(),
            Self::Purge(command) => command.run(),
            Self::Rewind(command) => command.run(),
            Self::Reclaim(command) => command.run(),
            Self::Repair(command) => command.run(),
            Self::Backup(command) => command.run(),
            Self::Dump(command) => command.run(),
            Self::Torture(command) => command.run(),
        }
    }

    /// The store that the command works on; stands in for the file in errors that name none.
    fn dir(&self) -> &Path {
        match self {
            Self::Info(command) => &command.dir,
            Self::Verify(command) => &command.dir,
            Self::Declare(command) => &command.dir,
            Self::Publish(command) => &command.dir,
            Self::Consume(command) => &command.dir,
            Self::Purge(command) => &command.dir,
            Self::Rewind(command) => &command.dir,
            Self::Reclaim(command) => &command.dir,
            Self::Repair(command) => &command.dir,
            Self::Backup(command) => &command.dir,
            Self::Dump(command) => &command.dir,
            Self::Torture(command) => command.dir(),
        }
    }

    /// Whether what was not printed was not done either, so that `| head` is a proper end.
    fn may_be_cut_short(&self) -> bool {
        matches!(self, Self::Info(_) | Self::Verify(_) | Self::Consume(_) | Self::Dump(_))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command;
    let outcome = signals::survive_file_size_limit().and_then(|()| command.run());
    let status = match outcome {
        Ok(status) => status,
        Err(Failure::ReaderGone) if command.may_be_cut_short() => Status::Fine,
        Err(failure) => {
            failure.tell(command.dir());
            failure.status()
        }
    };
    status.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_argument_definitions_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
