//! queue-file: a file per consumer, each with its own copy of every message.
//!
//! The files are made with a capacity, which takes no space: version 2.0.0 can't open a file again
//! that had grown and was then emptied. What is removed is not overwritten with zeros: emptying a
//! file would write all of its capacity.

use std::path::Path;

use anyhow::Result;
use queue_file::QueueFile;

use super::{Peer, Seen};

/// More than is ever in a file.
const CAPACITY_BYTES: u64 = 1 << 30;

struct Files(Vec<QueueFile>);

pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    std::fs::create_dir_all(dir)?;
    let mut files = Vec::with_capacity(consumers);
    for number in 0..consumers {
        let path = dir.join(format!("queue-{number}"));
        let mut file = QueueFile::with_capacity(path, CAPACITY_BYTES)?;
        file.set_overwrite_on_remove(false);
        files.push(file);
    }
    Ok(Box::new(Files(files)))
}

impl Peer for Files {
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        for file in &mut self.0 {
            file.add_n(payloads)?;
        }
        Ok(())
    }

    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize> {
        let file = &mut self.0[consumer];
        let mut count = 0;
        for payload in file.iter().take(max) {
            seen(&payload)?;
            count += 1;
        }
        if count > 0 {
            file.remove_n(count)?;
        }
        Ok(count)
    }

    /// Removing has synced.
    fn sync_acks(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        self.0.iter_mut().try_for_each(QueueFile::sync_all)?;
        Ok(())
    }
}
