//! Waiting for another process to change the store: there is no one to wake us, so we look.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Names, sizes and times of a store's files: differs after anything was published.
#[derive(PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<(std::ffi::OsString, u64, Option<SystemTime>)>);

impl Fingerprint {
    /// A directory or file that cannot be read counts as not there; the next open tells why.
    pub(super) fn of(dir: &Path) -> Self {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                Some((entry.file_name(), metadata.len(), metadata.modified().ok()))
            })
            .collect();
        files.sort();
        Self(files)
    }
}

/// Waits until `ready` says yes; `false` if `deadline` or `stop` came first.
pub(super) fn until(
    mut ready: impl FnMut() -> bool,
    deadline: Option<Instant>,
    stop: &AtomicBool,
) -> bool {
    loop {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        if ready() {
            return true;
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return false;
        }
        thread::sleep(left.unwrap_or(LOOK_INTERVAL).min(LOOK_INTERVAL));
    }
}
