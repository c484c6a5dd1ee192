//! Instructions and system calls of a child process, counted by whatever tool the machine has.
//!
//! A count covers the whole life of the child, so callers run it twice with different amounts of
//! work and take the difference: what is done once cancels out.

use std::{
    ffi::OsString,
    fmt, fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context;

/// Has the C library copy and clear memory by ordinary instructions, whatever the size.
const NO_REPEATED_STRING_INSTRUCTIONS: &str =
    "glibc.cpu.x86_rep_stosb_threshold=4294967296:glibc.cpu.x86_rep_movsb_threshold=4294967296";

/// A way to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Hardware counter for user-space instructions, through `perf stat`.
    PerfInstructions,
    /// Instructions of a simulated processor, through `valgrind --tool=callgrind`.
    Callgrind,
    /// The kernel's tracepoint for system calls, through `perf stat`.
    PerfSystemCalls,
    /// System calls one by one, through `strace -c -f`, which slows the child down a lot.
    Strace,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tool::PerfInstructions => "perf instructions:u",
            Tool::Callgrind => "callgrind",
            Tool::PerfSystemCalls => "perf raw_syscalls:sys_enter",
            Tool::Strace => "strace -c -f",
        })
    }
}

/// The tools that work here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tools {
    /// For instructions.
    pub(crate) instructions: Option<Tool>,
    /// For system calls.
    pub(crate) system_calls: Option<Tool>,
}

impl Tools {
    /// Tries each tool on `true`, the exact and quick ones first.
    pub(crate) fn find(place: &Path) -> Tools {
        let works = |tool: &Tool| {
            let counted = count_command(*tool, &place.join("probe"), "true".into(), &[]);
            counted.is_ok_and(|count| count > 0)
        };
        Tools {
            instructions: [Tool::PerfInstructions, Tool::Callgrind].into_iter().find(works),
            system_calls: [Tool::PerfSystemCalls, Tool::Strace].into_iter().find(works),
        }
    }
}

/// Runs this program with `arguments` and returns the tool's count of the whole run.
pub(crate) fn count(tool: Tool, place: &Path, arguments: &[OsString]) -> anyhow::Result<u64> {
    let program = std::env::current_exe().context("finding this program")?;
    count_command(tool, &place.join("count"), program.into(), arguments)
}

fn count_command(
    tool: Tool,
    output: &Path,
    program: OsString,
    arguments: &[OsString],
) -> anyhow::Result<u64> {
    let mut command = wrapped(tool, output);
    command.arg(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    let run = command.output().with_context(|| format!("starting {tool}"))?;
    anyhow::ensure!(
        run.status.success(),
        "{tool} ended with {}: {}",
        run.status,
        String::from_utf8_lossy(&run.stderr)
    );
    let text = fs::read_to_string(output).with_context(|| format!("reading what {tool} wrote"))?;
    parse(tool, &text).with_context(|| format!("{tool} wrote no count"))
}

fn wrapped(tool: Tool, output: &Path) -> Command {
    let program = match tool {
        Tool::PerfInstructions | Tool::PerfSystemCalls => "perf",
        Tool::Callgrind => "valgrind",
        Tool::Strace => "strace",
    };
    let mut command = Command::new(program);
    match tool {
        Tool::PerfInstructions => command.args(["stat", "-x,", "-e", "instructions:u", "-o"]),
        Tool::PerfSystemCalls => {
            command.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-o"])
        }
        Tool::Callgrind => {
            let mut option = OsString::from("--callgrind-out-file=");
            option.push(output);
            command.arg("--tool=callgrind").arg(option);
            // One `rep stosb` is one instruction of a processor, but one per byte of callgrind's.
            command.env("GLIBC_TUNABLES", NO_REPEATED_STRING_INSTRUCTIONS);
            return command;
        }
        Tool::Strace => command.args(["-f", "-c", "-o"]),
    };
    command.arg(output);
    command
}

/// The count in what the tool wrote.
fn parse(tool: Tool, text: &str) -> Option<u64> {
    match tool {
        Tool::PerfInstructions | Tool::PerfSystemCalls => {
            let line = text.lines().find(|line| !line.starts_with('#') && line.contains(','))?;
            line.split(',').next()?.parse().ok()
        }
        Tool::Callgrind => {
            let line = text.lines().find_map(|line| line.strip_prefix("totals:"))?;
            line.split_whitespace().next()?.parse().ok()
        }
        Tool::Strace => {
            let line = text.lines().find(|line| line.trim_end().ends_with(" total"))?;
            line.split_whitespace().nth(3)?.parse().ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_what_each_tool_writes() {
        let perf = "# started on a day\n\n4711,,instructions:u,1243655,100.00,,\n";
        assert_eq!(parse(Tool::PerfInstructions, perf), Some(4711));
        let none = "<not supported>,,instructions:u,0,100.00,,\n";
        assert_eq!(parse(Tool::PerfInstructions, none), None);
        let strace = "% time     seconds  usecs/call     calls    errors syscall\n\
                      ------ ----------- ----------- --------- --------- ----------------\n\
                      100.00    0.000000           0         3           write\n\
                      ------ ----------- ----------- --------- --------- ----------------\n\
                      100.00    0.000123          12        36         1 total\n";
        assert_eq!(parse(Tool::Strace, strace), Some(36));
        assert_eq!(parse(Tool::Callgrind, "summary: 12\n\ntotals: 131072\n"), Some(131_072));
    }
}
