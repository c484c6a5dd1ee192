//! Where a run took place: enough to tell two reports apart.

use std::{fs, path::Path, process::Command};

use serde::Serialize;

/// The machine and the place under test.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Model name of the processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Name and release of the kernel.
    pub kernel: String,
    /// Type of the file system that holds the store.
    pub file_system: String,
    /// Options with which it is mounted.
    pub mount_options: String,
    /// Block device, with its cache and block sizes where they are to be had.
    pub device: String,
    /// Processes that wanted to run in the last minute, on average, when the run began.
    pub load_1m: f64,
    /// Compiler found in the path, or the version that the package asks for.
    pub rust: String,
}

impl Machine {
    /// Describes this machine and the file system of `dir`. What can't be found out is "unknown".
    pub fn of(dir: &Path) -> Machine {
        let mount = Mount::of(dir).unwrap_or_default();
        Machine {
            cpu: line_after("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: line_after("/proc/meminfo", "MemTotal")
                .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
                .map_or(0, |kib| kib / 1024),
            kernel: kernel(),
            device: mount.device_text(),
            load_1m: load_1m(),
            file_system: mount.file_system,
            mount_options: mount.options,
            rust: rust(),
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        format!(
            "{}, {} cores (load {:.1}), {} MiB, {}, {} on {}, {}",
            self.cpu,
            self.cores,
            self.load_1m,
            self.memory_mib,
            self.kernel,
            self.file_system,
            self.device,
            self.rust
        )
    }
}

/// Type of the file system of `dir` ("ext4", "tmpfs", ..), if it can be found out.
pub fn file_system(dir: &Path) -> Option<String> {
    Mount::of(dir).map(|mount| mount.file_system)
}

#[derive(Default)]
struct Mount {
    device: String,
    numbers: String,
    file_system: String,
    options: String,
}

impl Mount {
    /// The mount with the longest point that is a prefix of `dir`.
    fn of(dir: &Path) -> Option<Mount> {
        let dir = fs::canonicalize(dir).ok()?;
        let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mut best = None;
        let mut longest = 0;
        for line in table.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let (&[_, _, numbers, _, point, options, ..], &[kind, device, ..]) =
                (left.as_slice(), right.as_slice())
            else {
                continue;
            };
            if dir.starts_with(point) && point.len() >= longest {
                longest = point.len();
                best = Some(Mount {
                    device: device.to_owned(),
                    numbers: numbers.to_owned(),
                    file_system: kind.to_owned(),
                    options: options.to_owned(),
                });
            }
        }
        best
    }

    fn device_text(&self) -> String {
        if self.device.is_empty() {
            return unknown();
        }
        let block = Path::new("/sys/dev/block").join(&self.numbers);
        // A partition's queue is that of the disk around it.
        let queue = [block.join("queue"), block.join("../queue")];
        let Some(queue) = queue.iter().find(|path| path.is_dir()) else {
            return self.device.clone();
        };
        let read = |name: &str| fs::read_to_string(queue.join(name)).unwrap_or_default();
        format!(
            "{} ({} cache, {}, blocks of {}/{} B)",
            self.device,
            read("write_cache").trim(),
            if read("fua").trim() == "1" { "FUA" } else { "no FUA" },
            read("logical_block_size").trim(),
            read("physical_block_size").trim()
        )
    }
}

fn line_after(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn load_1m() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

fn kernel() -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}"));
    match (read("ostype"), read("osrelease")) {
        (Ok(name), Ok(release)) => format!("{} {}", name.trim(), release.trim()),
        _ => std::env::consts::OS.to_owned(),
    }
}

fn rust() -> String {
    let found = Command::new("rustc").arg("--version").output().ok();
    let found = found.filter(|output| output.status.success());
    found.map_or_else(
        || format!("rustc of {} or later", env!("CARGO_PKG_RUST_VERSION")),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

fn unknown() -> String {
    "unknown".to_owned()
}
