//! The `fanlog-bench` command: see the crate's README for its workloads and metrics.

use std::process::ExitCode;

fn main() -> ExitCode {
    fanlog_bench::run()
}
