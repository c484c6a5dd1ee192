//! What opening found.

use std::{fmt, path::PathBuf, time::Duration};

use fanlog_segment_format::Offset;

/// What opening a store found and did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// There was no store: a new one was made.
    pub created: bool,
    /// The store was closed properly the last time.
    pub clean: bool,
    /// The epoch of this opening; each one has a higher one.
    pub epoch: u32,
    /// The checkpoint that recovery started from.
    pub checkpoint: u64,
    /// Batches read after it.
    pub replayed_batches: u64,
    /// Bytes of the log read.
    pub read_bytes: u64,
    /// One past the last message.
    pub end: Offset,
    /// A torn tail that was cut: never a confirmed message.
    pub cuts: Vec<Cut>,
    /// What was damaged, with [`OnDamage::Quarantine`](crate::OnDamage::Quarantine): without it
    /// opening fails.
    pub gaps: Vec<Gap>,
    /// What is no longer part of the store, and where it is kept: files, with
    /// [`OnDamage::Quarantine`](crate::OnDamage::Quarantine); torn tails too, with
    /// [`OnDamage::Repair`](crate::OnDamage::Repair). Opened for reading only: what would be.
    pub set_aside: Vec<SetAside>,
    /// Files in the directory that are none of the store's; left alone.
    pub strangers: Vec<String>,
    /// How long opening took.
    pub duration: Duration,
}

/// Bytes that are no longer part of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The segment's file.
    pub path: PathBuf,
    /// Where the log ends now.
    pub position: u64,
    /// How many bytes behind it belonged to batches that were never completed.
    pub bytes: u64,
    /// Why they did not count.
    pub reason: String,
}

/// Bytes that were part of the store, and are kept beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetAside {
    /// The file that had them.
    pub path: PathBuf,
    /// Where in it they begin: 0 for a whole file.
    pub position: u64,
    /// How many they are.
    pub bytes: u64,
    /// The file that has them now. `None` where the store was opened for reading only.
    pub kept_as: Option<PathBuf>,
}

/// Something that was found damaged at opening, and what it cost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub position: u64,
    /// Messages from this offset on are missing,
    pub from: Offset,
    /// up to this one, exclusive. The same as `from` if none is missing that is known of.
    pub to: Offset,
    /// Acks and changes of exchanges, queues or bindings may be missing as well: acked messages may
    /// come again, and later ones may be nobody's.
    pub controls: bool,
    /// What is wrong: expected and found.
    pub reason: String,
    /// The name under which the file is kept. `None` where it is gone, or is still in use, or the
    /// store was opened for reading only.
    pub kept_as: Option<PathBuf>,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from < self.to {
            write!(f, "messages {}..{} are missing: ", self.from, self.to)?;
        }
        if self.controls {
            f.write_str("acks and changes of the topology may be missing: ")?;
        }
        f.write_str(&self.reason)
    }
}
