//! One file without its name: what is durable, and what was done since, in order.

use std::io;
use std::mem;

use super::crash::{CrashMode, Random, SECTOR_BYTES};
use super::pages::Pages;

/// The bytes of a file, as reads see them and as the medium has them.
#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    /// Its latest name, for the labels of operations.
    pub(super) name: String,
    /// With every completed change.
    present: Pages,
    /// With the synced ones alone.
    durable: Pages,
    /// The others. No byte in here is older than a durable one at its position.
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { position: u64, bytes: Vec<u8> },
    Grow { bytes: u64 },
}

impl Inode {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// A file of which everything is durable.
    pub(super) fn settled(name: &str, contents: Pages) -> Self {
        let durable = contents.clone();
        Self { name: name.to_owned(), present: contents, durable, unsynced: Vec::new() }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.present.bytes()
    }

    pub(super) fn read(&self, position: u64, buffer: &mut [u8]) -> usize {
        self.present.read(position, buffer)
    }

    pub(super) fn write(&mut self, position: u64, bytes: &[u8]) {
        self.present.write(position, bytes);
        self.unsynced.push(Change::Write { position, bytes: bytes.to_vec() });
    }

    /// Writes bytes that are durable at once. Older unsynced bytes in their place are no more.
    pub(super) fn write_durably(&mut self, position: u64, bytes: &[u8]) {
        self.present.write(position, bytes);
        self.durable.write(position, bytes);
        let end = position + bytes.len() as u64;
        for change in mem::take(&mut self.unsynced) {
            match change {
                Change::Write { position: start, bytes } => {
                    self.keep_outside(start, bytes, position, end);
                }
                grow @ Change::Grow { .. } => self.unsynced.push(grow),
            }
        }
    }

    /// Puts back what of an unsynced write lies before `from` and at or after `to`.
    fn keep_outside(&mut self, position: u64, bytes: Vec<u8>, from: u64, to: u64) {
        let length = bytes.len() as u64;
        if to <= position || from >= position + length {
            self.unsynced.push(Change::Write { position, bytes });
            return;
        }
        let before = from.saturating_sub(position).min(length);
        let after = to.saturating_sub(position).min(length);
        let (before, after) = (to_length(before), to_length(after));
        if before > 0 {
            let bytes = bytes[..before].to_vec();
            self.unsynced.push(Change::Write { position, bytes });
        }
        if after < bytes.len() {
            let bytes = bytes[after..].to_vec();
            self.unsynced.push(Change::Write { position: position + after as u64, bytes });
        }
    }

    /// Extends with zeros; never shortens.
    pub(super) fn grow(&mut self, bytes: u64) {
        if bytes > self.present.bytes() {
            self.present.set_bytes(bytes);
            self.unsynced.push(Change::Grow { bytes });
        }
    }

    pub(super) fn sync(&mut self) {
        self.durable = self.present.clone();
        self.unsynced.clear();
    }

    /// Cuts or extends, durably.
    pub(super) fn truncate(&mut self, bytes: u64) {
        self.present.set_bytes(bytes);
        self.sync();
    }

    /// Changes one byte, durably.
    pub(super) fn corrupt(&mut self, position: u64, xor: u8) -> io::Result<()> {
        let mut byte = [0];
        if self.present.read(position, &mut byte) == 0 {
            let why = format!("{:?} has no byte {position}", self.name);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        self.present.write(position, &[byte[0] ^ xor]);
        self.sync();
        Ok(())
    }

    /// What a crash leaves of the bytes.
    pub(super) fn after_crash(&self, mode: CrashMode, random: &mut Random) -> Pages {
        match mode {
            CrashMode::LoseUnsynced => self.durable.clone(),
            CrashMode::KeepAll => self.present.clone(),
            CrashMode::Random => {
                let mut left = self.durable.clone();
                for change in &self.unsynced {
                    change.apply_by_chance(&mut left, random);
                }
                left
            }
        }
    }
}

impl Change {
    /// Keeps, loses or tears a write; keeps or loses a growth.
    fn apply_by_chance(&self, left: &mut Pages, random: &mut Random) {
        match self {
            Self::Grow { bytes } => {
                if random.coin() && *bytes > left.bytes() {
                    left.set_bytes(*bytes);
                }
            }
            Self::Write { position, bytes } => match random.below(3) {
                0 => {}
                1 => left.write(*position, bytes),
                _ => {
                    for (start, sector) in sectors(*position, bytes) {
                        if random.coin() {
                            left.write(start, sector);
                        }
                    }
                }
            },
        }
    }
}

/// Splits a write where sectors of the disk end.
fn sectors(position: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut start = position;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let room = SECTOR_BYTES - to_length(start % SECTOR_BYTES as u64);
        let (sector, later) = rest.split_at(rest.len().min(room));
        let piece = (start, sector);
        (start, rest) = (start + sector.len() as u64, later);
        Some(piece)
    })
}

/// A length that is at most that of a slice, or of a sector.
fn to_length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("within a slice")
}
