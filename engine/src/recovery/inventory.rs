//! What files there are.

use std::{collections::BTreeMap, sync::Arc};

use fanlog_segment_format::{Offset, SegmentId, file_name::FileName};

use super::harm::{Harm, Intents};
use crate::{
    Error, OnDamage, Result, error::FileOp, log::segment::Segment, storage::Storage, supply::Supply,
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
    /// What bears the name of a file of the store and is none: a directory, a link, a pipe.
    irregular: Vec<String>,
    /// Names that damaged files are to get.
    intents: Intents,
}

impl Inventory {
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self> {
        let entries =
            storage.list().map_err(|source| Error::io(FileOp::List, storage.path(""), source))?;
        let mut found = Self::default();
        let mut strangers = Vec::new();
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
                None => {
                    if FileName::parse(&entry.name).is_some_and(|name| name != FileName::Lock) {
                        found.irregular.push(entry.name.clone());
                    }
                    strangers.push(entry);
                }
            }
        }
        found.irregular.sort_unstable();
        found.intents = Intents::read(&strangers);
        found.strangers = strangers.into_iter().map(|entry| entry.name).collect();
        found.checkpoints.sort_unstable();
        found.strangers.sort_unstable();
        Ok(found)
    }

    /// What stands in the way of a file of the store: sooner or later the log comes to its name. For
    /// an opening that goes around damage it is noted in `harm`, and gets another name.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`].
    pub(super) fn refuse_irregular(
        &self,
        storage: &dyn Storage,
        on_damage: OnDamage,
        harm: &mut Harm,
    ) -> Result<()> {
        for name in &self.irregular {
            let problem = "it is not a regular file".to_owned();
            let error = Error::Damaged { path: storage.path(name), position: 0, problem };
            if on_damage == OnDamage::Fail {
                return Err(error);
            }
            harm.note(&error, Offset(0), Offset(0));
            harm.set_aside(name);
        }
        Ok(())
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
            match storage.remove(&name) {
                // One of that name was written anew meanwhile, and has its own name now.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::io(FileOp::Remove, storage.path(&name), source)),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Says what damaged files are going to be named, durably. They keep their names until
    /// [`Inventory::clean_up`]. Notes the new names in `harm`.
    pub(super) fn set_aside(&mut self, storage: &dyn Storage, harm: &mut Harm) -> Result<()> {
        for name in &harm.aside {
            self.intents.add(storage, name, &self.strangers)?;
        }
        for gap in &mut harm.gaps {
            let name = gap.path.file_name().and_then(|name| name.to_str());
            let kept = name.filter(|name| harm.aside.iter().any(|aside| aside == name));
            gap.kept_as =
                kept.and_then(|name| self.intents.target(name)).map(|to| storage.path(to));
        }
        storage
            .sync_directory()
            .map_err(|source| Error::io(FileOp::SyncDirectory, storage.path(""), source))
    }

    /// The name that a damaged file has, or is going to have.
    pub(super) fn kept_as(&self, name: &str) -> Option<&str> {
        self.intents.target(name)
    }

    /// Removes a file that was prepared for later. Says whether there was one.
    pub(crate) fn give_up_one(&mut self, storage: &dyn Storage) -> Result<bool> {
        let Some((&number, _)) = self.free.last_key_value() else { return Ok(false) };
        remove(storage, &FileName::Free(number).to_string())?;
        self.free.remove(&number);
        Ok(true)
    }

    /// Removes what a crash left over and collects the files that can be used again.
    ///
    /// `segments` are those of the log, of which the last is appended to. Files of later ones were
    /// only prepared; those before it that are not of the log were given up, or never finished.
    /// `kept` are the numbers of the checkpoints that stay.
    pub(crate) fn clean_up(
        &self,
        storage: &dyn Storage,
        kept: &[u64],
        segments: &[Arc<Segment>],
        segment_bytes: u64,
    ) -> Result<Supply> {
        let mut given_up = self.irregular.clone();
        for &number in self.checkpoints.iter().filter(|number| !kept.contains(number)) {
            given_up.push(FileName::Checkpoint(number).to_string());
        }
        for &(id, generation) in self.segments.keys() {
            let name = FileName::of_segment(id, generation).to_string();
            if !segments.iter().any(|segment| segment.name == name) {
                given_up.push(name);
            }
        }
        for name in &given_up {
            self.intents.give_up(storage, name)?;
        }
        self.intents.forget_unused(storage, &given_up)?;
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
