//! What was found damaged, and what becomes of it: only where opening may quarantine.
//!
//! A damaged file is not removed: it gets the name `damaged-...` once a checkpoint is durable that
//! does without it. Before that an empty file of that name says so, for a recovery that is killed
//! in between.

use std::collections::BTreeMap;

use fanlog_segment_format::Offset;

use super::report::Gap;
use crate::{
    Error, Result,
    error::FileOp,
    storage::{Entry, Purpose, Storage},
};

const PREFIX: &str = "damaged-";

/// What was damaged.
#[derive(Debug, Default)]
pub(super) struct Harm {
    pub(super) gaps: Vec<Gap>,
    /// Files that are not to be part of the store any more.
    pub(super) aside: Vec<String>,
    /// Segments are missing or were replaced: the checkpoint from before is no longer of use.
    pub(super) segments: bool,
    /// Files written so far, to be removed if opening fails after all.
    pub(super) written: Vec<String>,
    /// A checkpoint that can't be read may have raised the epoch once more.
    pub(super) epochs: u32,
    /// Control records may be lost: so many ids of each kind may be in use unseen.
    pub(super) ids: u32,
}

impl Harm {
    /// Notes damage by the error that told of it.
    pub(super) fn note(&mut self, error: &Error, from: Offset, to: Offset) {
        self.gaps.push(Gap {
            path: error.path().map(std::path::Path::to_owned).unwrap_or_default(),
            position: error.position().unwrap_or(0),
            from,
            to,
            controls: false,
            reason: reason_of(error),
            kept_as: None,
        });
    }

    pub(super) fn set_aside(&mut self, name: &str) {
        if !self.aside.iter().any(|other| other == name) {
            self.aside.push(name.to_owned());
        }
    }

    pub(super) fn any(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// Removes the files that were written, where opening failed after all.
    pub(super) fn undo(&mut self, storage: &dyn Storage) {
        for name in self.written.drain(..) {
            // One that stays is not of the log, and is removed when the store opens.
            drop(storage.remove(&name));
        }
    }

    /// Control records may be among `bytes` that are lost.
    pub(super) fn lose_controls(&mut self, bytes: u64) {
        let records = u32::try_from(bytes / 16).unwrap_or(u32::MAX);
        self.ids = self.ids.saturating_add(records.min(1 << 26));
    }
}

/// The words of an error, without the file that a [`Gap`] names by itself.
pub(super) fn reason_of(error: &Error) -> String {
    match error {
        Error::Corrupt { source, .. } => source.to_string(),
        Error::Damaged { problem, .. } => problem.clone(),
        other => other.to_string(),
    }
}

/// Names that damaged files are to get: by the name that they have.
#[derive(Debug, Default)]
pub(super) struct Intents(BTreeMap<String, String>);

impl Intents {
    /// Those that an earlier recovery left.
    pub(super) fn read(strangers: &[Entry]) -> Self {
        let empty = strangers.iter().filter(|entry| entry.is_file && entry.bytes == 0);
        let pairs = empty.filter_map(|entry| {
            let rest = entry.name.strip_prefix(PREFIX)?;
            // What follows is a name, perhaps behind a number and a dash.
            let name = match rest.split_once('-') {
                Some((digits, name)) if digits.bytes().all(|b| b.is_ascii_digit()) => name,
                _ => rest,
            };
            Some((name.to_owned(), entry.name.clone()))
        });
        Self(pairs.collect())
    }

    /// Says what a file is going to be named; durable after the next sync of the directory.
    pub(super) fn add(
        &mut self,
        storage: &dyn Storage,
        name: &str,
        taken: &[String],
    ) -> Result<()> {
        if self.0.contains_key(name) {
            return Ok(());
        }
        let mut target = format!("{PREFIX}{name}");
        let mut number = 2;
        while taken.contains(&target) {
            target = format!("{PREFIX}{number}-{name}");
            number += 1;
        }
        let created = storage.create(&target, Purpose::Plain);
        created.map_err(|source| Error::io(FileOp::Create, storage.path(&target), source))?;
        self.0.insert(name.to_owned(), target);
        Ok(())
    }

    pub(super) fn target(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Gives a file up: it gets its new name, or is removed if it has none.
    pub(super) fn give_up(&self, storage: &dyn Storage, name: &str) -> Result<()> {
        let Some(target) = self.target(name) else {
            return storage
                .remove(name)
                .map_err(|source| Error::io(FileOp::Remove, storage.path(name), source));
        };
        let renamed = match storage.rename(name, target) {
            // A directory: it can't take the place of the file that kept the name for it.
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                storage.remove(target).and_then(|()| storage.rename(name, target))
            }
            other => other,
        };
        renamed.map_err(|source| Error::io(FileOp::Rename, storage.path(name), source))
    }

    /// Removes the names that were kept for files that are not there, or serve after all.
    pub(super) fn forget_unused(&self, storage: &dyn Storage, gone: &[String]) -> Result<()> {
        for (name, target) in &self.0 {
            if !gone.contains(name) {
                storage
                    .remove(target)
                    .map_err(|source| Error::io(FileOp::Remove, storage.path(target), source))?;
            }
        }
        Ok(())
    }
}
