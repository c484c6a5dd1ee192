//! The floor: what the device does when nothing but the kernel stands before it.
//!
//! Writes go over blocks that were written before, in a file of their own beside the store, with
//! `O_DIRECT` and, where a write is to be durable, `RWF_DSYNC`. A file system that refuses
//! `O_DIRECT` gets plain writes followed by `fdatasync`; [`Floor::direct`] tells which it is.

use std::{
    fs::File,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::{
    fs::{Mode, OFlags},
    io::ReadWriteFlags,
};

use crate::{
    payload,
    report::Cell,
    sample::{Latencies, Spread, as_u64, mib, per_second},
};

/// Block size of direct writes.
const BLOCK: usize = 4096;
/// Size of a sequential write or read.
const LARGE: usize = 1 << 20;
/// Size of the file: more than any cache of a disk that matters for one pass of 200 ms.
const FILE_BYTES: u64 = 256 << 20;

/// A file of written blocks to measure on.
#[derive(Debug)]
pub struct Floor {
    file: File,
    direct: bool,
    next: u64,
    buffer: Buffer,
}

/// What one round measured.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Synced writes of 4 KiB, one after the other: median, in microseconds.
    pub raw_4k_p50_us: f64,
    /// The same: the latency that one in a hundred exceeds.
    pub raw_4k_p99_us: f64,
    /// The same: writes per second.
    pub raw_4k_per_s: f64,
    /// Synced writes of 64 KiB, one after the other: median, in microseconds.
    pub raw_64k_p50_us: f64,
    /// The same: writes per second.
    pub raw_64k_per_s: f64,
    /// Writes of 1 MiB in order, one at a time, one sync at the end: MiB per second.
    pub sequential_mib_per_s: f64,
    /// The same from two threads, so that two are in flight.
    pub sequential_2_threads_mib_per_s: f64,
    /// Writes of 1 MiB in order, one at a time, each synced: MiB per second.
    pub sequential_synced_mib_per_s: f64,
    /// The same from two threads, so that two are in flight.
    pub sequential_synced_2_threads_mib_per_s: f64,
}

impl Figures {
    /// The faster of the sequential figures with one sync at the end: what a writer that makes
    /// nothing durable on its way could reach.
    pub fn sequential_best_mib_per_s(&self) -> f64 {
        self.sequential_mib_per_s.max(self.sequential_2_threads_mib_per_s)
    }

    /// The faster of the sequential figures with a sync each: what a writer that confirms each
    /// MiB could reach.
    pub fn sequential_synced_best_mib_per_s(&self) -> f64 {
        self.sequential_synced_mib_per_s.max(self.sequential_synced_2_threads_mib_per_s)
    }

    /// Writes the medians of `rounds` with their spreads into `cell`.
    pub fn report(rounds: &[Figures], direct: bool, cell: &mut Cell) {
        let spread = |figure: fn(&Figures) -> f64| Spread::of(rounds.iter().map(figure));
        cell.floor("direct", direct)
            .floor_spread("raw_4k_p50_us", spread(|f| f.raw_4k_p50_us))
            .floor_spread("raw_4k_p99_us", spread(|f| f.raw_4k_p99_us))
            .floor_spread("raw_4k_per_s", spread(|f| f.raw_4k_per_s))
            .floor_spread("raw_64k_p50_us", spread(|f| f.raw_64k_p50_us))
            .floor_spread("raw_64k_per_s", spread(|f| f.raw_64k_per_s))
            .floor_spread("sequential_mib_per_s", spread(|f| f.sequential_mib_per_s))
            .floor_spread(
                "sequential_2_threads_mib_per_s",
                spread(|f| f.sequential_2_threads_mib_per_s),
            )
            .floor_spread("sequential_synced_mib_per_s", spread(|f| f.sequential_synced_mib_per_s))
            .floor_spread(
                "sequential_synced_2_threads_mib_per_s",
                spread(|f| f.sequential_synced_2_threads_mib_per_s),
            );
    }
}

impl Floor {
    /// Creates the file in `dir`, 256 MiB, every block written once and synced.
    ///
    /// # Errors
    ///
    /// The file can't be created or written.
    pub fn prepare(dir: &Path) -> anyhow::Result<Floor> {
        let path = dir.join("floor");
        let (file, direct) = open(&path).with_context(|| format!("opening {}", path.display()))?;
        let floor = Floor { file, direct, next: 0, buffer: Buffer::new(1) };
        let mut position = 0;
        while position < FILE_BYTES {
            write_all(&floor.file, floor.buffer.bytes(LARGE), position)?;
            position += as_u64(LARGE);
        }
        floor.file.sync_all()?;
        Ok(floor)
    }

    /// Whether the file was opened with `O_DIRECT`.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// One round: every kind of write for about `during` each.
    ///
    /// # Errors
    ///
    /// A write failed.
    pub fn round(&mut self, during: Duration) -> anyhow::Result<Figures> {
        let (small, small_per_s) = self.synced(BLOCK, during)?;
        let (middle, middle_per_s) = self.synced(16 * BLOCK, during)?;
        Ok(Figures {
            raw_4k_p50_us: small.us(0.5),
            raw_4k_p99_us: small.us(0.99),
            raw_4k_per_s: small_per_s,
            raw_64k_p50_us: middle.us(0.5),
            raw_64k_per_s: middle_per_s,
            sequential_mib_per_s: self.sequential(1, false, during)?,
            sequential_2_threads_mib_per_s: self.sequential(2, false, during)?,
            sequential_synced_mib_per_s: self.sequential(1, true, during)?,
            sequential_synced_2_threads_mib_per_s: self.sequential(2, true, during)?,
        })
    }

    /// Synced writes of `bytes` (a multiple of 4 KiB up to 1 MiB), one after the other, for about
    /// `during`: their latencies and their rate per second.
    ///
    /// # Errors
    ///
    /// A write failed.
    pub fn synced(&mut self, bytes: usize, during: Duration) -> anyhow::Result<(Latencies, f64)> {
        let mut latencies = Latencies::default();
        let begin = Instant::now();
        let mut last = begin;
        while last - begin < during {
            if self.next + as_u64(bytes) > FILE_BYTES {
                self.next = 0;
            }
            write_synced(&self.file, self.direct, self.buffer.bytes(bytes), self.next)?;
            self.next += as_u64(bytes);
            let now = Instant::now();
            latencies.record(now - last);
            last = now;
        }
        let rate = per_second(latencies.count(), last - begin);
        Ok((latencies, rate))
    }

    /// Writes of 1 MiB in order from so many threads for about `during`, each synced or all by
    /// one sync at the end, whose time counts: MiB per second.
    ///
    /// # Errors
    ///
    /// A write failed.
    pub fn sequential(
        &self,
        threads: usize,
        synced: bool,
        during: Duration,
    ) -> anyhow::Result<f64> {
        let buffers: Vec<Buffer> = (0..threads).map(|seed| Buffer::new(as_u64(seed))).collect();
        let written = AtomicU64::new(0);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let writer = |buffer: &Buffer| -> anyhow::Result<()> {
                while begin.elapsed() < during {
                    let turn = written.fetch_add(as_u64(LARGE), Ordering::Relaxed);
                    let (bytes, position) = (buffer.bytes(LARGE), turn % FILE_BYTES);
                    if synced {
                        write_synced(&self.file, self.direct, bytes, position)?;
                    } else {
                        write_all(&self.file, bytes, position)?;
                    }
                }
                Ok(())
            };
            let writers: Vec<_> =
                buffers.iter().map(|buffer| scope.spawn(move || writer(buffer))).collect();
            writers.into_iter().try_for_each(|writer| {
                writer.join().map_err(|_| anyhow::anyhow!("a writer of the floor panicked"))?
            })
        })?;
        self.file.sync_data()?;
        Ok(mib(written.load(Ordering::Relaxed)) / begin.elapsed().as_secs_f64())
    }

    /// Reads of 1 MiB in order, one at a time, past the page cache where the file system allows
    /// it, for about `during`: MiB per second.
    ///
    /// # Errors
    ///
    /// A read failed.
    pub fn sequential_read(&mut self, during: Duration) -> anyhow::Result<f64> {
        let mut read = 0;
        let begin = Instant::now();
        while begin.elapsed() < during {
            let buffer = self.buffer.bytes_mut(LARGE);
            let position = read % FILE_BYTES;
            std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, position)?;
            read += as_u64(LARGE);
        }
        Ok(mib(read) / begin.elapsed().as_secs_f64())
    }
}

/// Opens a file for direct writes, else for plain ones.
fn open(path: &Path) -> std::io::Result<(File, bool)> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    #[cfg(target_os = "linux")]
    if let Ok(file) = rustix::fs::open(path, flags | OFlags::DIRECT, mode) {
        return Ok((file.into(), true));
    }
    Ok((rustix::fs::open(path, flags, mode)?.into(), false))
}

fn write_all(file: &File, bytes: &[u8], position: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, position)
}

#[cfg(target_os = "linux")]
fn write_synced(file: &File, direct: bool, bytes: &[u8], position: u64) -> std::io::Result<()> {
    if !direct {
        write_all(file, bytes, position)?;
        return file.sync_data();
    }
    let slices = [std::io::IoSlice::new(bytes)];
    let written = rustix::io::pwritev2(file, &slices, position, ReadWriteFlags::DSYNC)?;
    if written == bytes.len() { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
}

#[cfg(not(target_os = "linux"))]
fn write_synced(file: &File, _: bool, bytes: &[u8], position: u64) -> std::io::Result<()> {
    write_all(file, bytes, position)?;
    file.sync_data()
}

/// 1 MiB of pseudo-random bytes that starts at a multiple of the block size.
#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new(seed: u64) -> Buffer {
        let mut bytes = vec![0; LARGE + BLOCK];
        payload::fill(seed, &mut bytes);
        let start = bytes.as_ptr().align_offset(BLOCK);
        Buffer { bytes, start }
    }

    fn bytes(&self, length: usize) -> &[u8] {
        &self.bytes[self.start..self.start + length]
    }

    fn bytes_mut(&mut self, length: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + length]
    }
}
