//! What files there are.

use std::{collections::BTreeMap, sync::Arc};

use fanlog_segment_format::{SegmentId, file_name::FileName};

use crate::{
    Error, Result, error::FileOp, log::segment::Segment, storage::Storage, supply::Supply,
};

/// Prefix of the file with which the storage tries what the file system can do.
const PROBE: &str = "probe-";

/// The files of a store's directory, by what their names say.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    /// Size of each segment's file, by segment and generation.
    pub(crate) segments: BTreeMap<(SegmentId, u32), u64>,
    free: BTreeMap<u64, u64>,
    pub(crate) checkpoints: Vec<u64>,
    temporary: Vec<String>,
    pub(crate) strangers: Vec<String>,
}

impl Inventory {
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self> {
        let entries =
            storage.list().map_err(|source| Error::io(FileOp::List, storage.path(""), source))?;
        let mut found = Self::default();
        for entry in entries {
            match FileName::parse(&entry.name).filter(|_| entry.is_file) {
                Some(FileName::Segment(id)) => {
                    found.segments.insert((id, 0), entry.bytes);
                }
                Some(FileName::Rewritten(id, generation)) => {
                    found.segments.insert((id, generation), entry.bytes);
                }
                Some(FileName::Free(number)) => {
                    found.free.insert(number, entry.bytes);
                }
                Some(FileName::Checkpoint(number)) => found.checkpoints.push(number),
                Some(FileName::Temporary(_)) => found.temporary.push(entry.name),
                Some(FileName::Lock) => {}
                None if entry.is_file && entry.name.starts_with(PROBE) => {
                    found.temporary.push(entry.name);
                }
                None => found.strangers.push(entry.name),
            }
        }
        found.checkpoints.sort_unstable();
        found.strangers.sort_unstable();
        Ok(found)
    }

    pub(crate) fn newest_checkpoint(&self) -> Option<u64> {
        self.checkpoints.last().copied()
    }

    /// The highest number that any checkpoint's name bears.
    pub(crate) fn highest_checkpoint(&self) -> u64 {
        self.newest_checkpoint().unwrap_or(0)
    }

    /// Removes files that were being written when the machine stopped: they say nothing.
    pub(crate) fn remove_temporary(&mut self, storage: &dyn Storage) -> Result<()> {
        for name in std::mem::take(&mut self.temporary) {
            remove(storage, &name)?;
        }
        Ok(())
    }

    /// Removes what a crash left over and collects the files that can be used again.
    ///
    /// `segments` are those of the log, of which the last is appended to. Files of later ones were
    /// only prepared; those before it that are not of the log were given up, or never finished.
    pub(crate) fn clean_up(
        &self,
        storage: &dyn Storage,
        newest: u64,
        segments: &[Arc<Segment>],
        segment_bytes: u64,
    ) -> Result<Supply> {
        // The newest from before, and the one just written, are kept.
        for &number in self.checkpoints.iter().filter(|&&number| number != newest) {
            remove(storage, &FileName::Checkpoint(number).to_string())?;
        }
        for &(id, generation) in self.segments.keys() {
            let name = FileName::of_segment(id, generation).to_string();
            if !segments.iter().any(|segment| segment.name == name) {
                remove(storage, &name)?;
            }
        }
        // A crash may have left one that is not filled: it has its size, and serves. One of another
        // size was made under other settings, or is not made yet.
        let (fit, unfit): (Vec<_>, Vec<_>) =
            self.free.iter().partition(|&(_, &bytes)| bytes == segment_bytes);
        for (&number, _) in unfit {
            remove(storage, &FileName::Free(number).to_string())?;
        }
        Ok(Supply::recovered(fit.into_iter().map(|(&number, &bytes)| (number, bytes))))
    }
}

fn remove(storage: &dyn Storage, name: &str) -> Result<()> {
    storage.remove(name).map_err(|source| Error::io(FileOp::Remove, storage.path(name), source))
}
