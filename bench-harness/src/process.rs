//! What the kernel counts about this process. Zero where the kernel does not tell.

use std::fs;

use crate::sample::{as_f64, ratio};

/// Bytes that this process caused to be sent to the storage layer.
pub fn written_bytes() -> u64 {
    value("/proc/self/io", "write_bytes:")
}

/// Bytes that this process read through system calls, from the device or the page cache. What it
/// reads through maps is not in it.
pub(crate) fn read_bytes() -> u64 {
    value("/proc/self/io", "rchar:")
}

/// Memory of this process now, in KiB: all of it, pages of mapped files included.
pub(crate) fn resident_kib() -> u64 {
    value("/proc/self/status", "VmRSS:")
}

/// Memory of this process now, in KiB, without pages that belong to files.
pub fn anonymous_kib() -> u64 {
    value("/proc/self/status", "RssAnon:")
}

/// Tells how busy the processors are with other things than this process.
pub(crate) struct CpuMeter {
    all: u64,
    busy: u64,
    own: u64,
}

impl CpuMeter {
    /// Starts to measure.
    pub(crate) fn start() -> CpuMeter {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> =
            first.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
        let all = ticks.iter().sum();
        // The fourth and the fifth are idle time, the latter with I/O under way.
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        CpuMeter { all, busy: all - idle, own: own_ticks() }
    }

    /// Share of all processors, 0 to 1, that since the start went to other processes, to kernel
    /// threads (those that serve this process too) and to other machines on the same host.
    pub(crate) fn other_share(&self) -> f64 {
        let now = CpuMeter::start();
        let others = (now.busy - self.busy).saturating_sub(now.own - self.own);
        ratio(as_f64(others), as_f64(now.all - self.all))
    }
}

/// Time of all threads of this process, in ticks of the kernel.
fn own_ticks() -> u64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program may hold spaces; it ends with the last parenthesis.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum()
}

fn value(path: &str, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
