//! What the kernel counts about this process. Zero where the kernel does not tell.

use std::fs;

/// Bytes that this process caused to be sent to the storage layer.
pub(crate) fn written_bytes() -> u64 {
    value("/proc/self/io", "write_bytes:")
}

/// Memory of this process now, in KiB: all of it, pages of mapped files included.
pub(crate) fn resident_kib() -> u64 {
    value("/proc/self/status", "VmRSS:")
}

/// Memory of this process now, in KiB, without pages that belong to files.
pub(crate) fn anonymous_kib() -> u64 {
    value("/proc/self/status", "RssAnon:")
}

fn value(path: &str, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
