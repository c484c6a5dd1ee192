//! walrus-rust: a topic per consumer, each with its own copy of every message.
//!
//! The batch call syncs whatever schedule is set; its schedule that syncs each write costs a flush
//! per message. So it is used without a schedule, and for single messages too. A read whose budget
//! ends within a finished block loses messages, so the budget is more than blocks have; it gets what
//! is there, up to the most that a batch may have.

use std::{ffi::OsStr, path::Path};

use anyhow::Result;
use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

use super::{Peer, Seen};

/// The most that a batch may have.
const BATCH_MAX: usize = 2_000;
/// A read's budget.
const READ_BYTES: usize = 64 << 20;
/// It takes its directory from the environment of the process.
pub(crate) const DIRECTORY_VARIABLE: &str = "WALRUS_DATA_DIR";

struct Topics {
    walrus: Walrus,
    topics: Vec<String>,
}

pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    let given = std::env::var_os(DIRECTORY_VARIABLE);
    anyhow::ensure!(
        given.as_deref().is_some_and(|given| OsStr::new(dir) == given),
        "{DIRECTORY_VARIABLE} is not the directory of the store"
    );
    std::fs::create_dir_all(dir)?;
    let walrus = Walrus::with_consistency_and_schedule(
        ReadConsistency::StrictlyAtOnce,
        FsyncSchedule::NoFsync,
    )?;
    let topics = (0..consumers).map(|number| format!("queue-{number}")).collect();
    Ok(Box::new(Topics { walrus, topics }))
}

impl Peer for Topics {
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        for topic in &self.topics {
            for batch in payloads.chunks(BATCH_MAX) {
                self.walrus.batch_append_for_topic(topic, batch)?;
            }
        }
        Ok(())
    }

    fn consume(&mut self, consumer: usize, _: usize, seen: Seen<'_>) -> Result<usize> {
        let entries = self.walrus.batch_read_for_topic(&self.topics[consumer], READ_BYTES, true)?;
        entries.iter().try_for_each(|entry| seen(&entry.data))?;
        Ok(entries.len())
    }

    /// A read that moves the cursor stores it.
    fn sync_acks(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
