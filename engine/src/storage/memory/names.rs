//! The names of a disk: what is durable, and what was done since, in order.

use std::collections::{BTreeMap, BTreeSet};

use super::crash::{CrashMode, Random};

/// Which name is which inode.
pub(super) type Directory = BTreeMap<String, u64>;

/// The directory, as calls see it and as the medium has it.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    present: Directory,
    durable: Directory,
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Create { name: String, inode: u64 },
    Rename { from: String, to: String },
    Remove { name: String },
}

impl Names {
    /// A directory that is durable as it is.
    pub(super) fn settled(names: Directory) -> Self {
        Self { present: names.clone(), durable: names, unsynced: Vec::new() }
    }

    pub(super) fn present(&self) -> &Directory {
        &self.present
    }

    pub(super) fn create(&mut self, name: &str, inode: u64) {
        self.change(Change::Create { name: name.to_owned(), inode });
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) {
        self.change(Change::Rename { from: from.to_owned(), to: to.to_owned() });
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.change(Change::Remove { name: name.to_owned() });
    }

    pub(super) fn sync(&mut self) {
        self.durable = self.present.clone();
        self.unsynced.clear();
    }

    /// Every inode that is named, or that a crash may give its name back.
    pub(super) fn inodes(&self) -> BTreeSet<u64> {
        let created = self.unsynced.iter().filter_map(|change| match change {
            Change::Create { inode, .. } => Some(inode),
            _ => None,
        });
        self.present.values().chain(self.durable.values()).chain(created).copied().collect()
    }

    /// What a crash leaves of the names.
    ///
    /// By chance each change is kept or lost, but a change is lost with any earlier one of its
    /// names: what is left of each name is its state at some moment since the last sync.
    pub(super) fn after_crash(&self, mode: CrashMode, random: &mut Random) -> Directory {
        match mode {
            CrashMode::LoseUnsynced => self.durable.clone(),
            CrashMode::KeepAll => self.present.clone(),
            CrashMode::Random => {
                let mut left = self.durable.clone();
                let mut lost: BTreeSet<&str> = BTreeSet::new();
                for change in &self.unsynced {
                    let keep = random.coin();
                    if keep && change.names().all(|name| !lost.contains(name)) {
                        change.apply(&mut left);
                    } else {
                        lost.extend(change.names());
                    }
                }
                left
            }
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.present);
        self.unsynced.push(change);
    }
}

impl Change {
    fn apply(&self, directory: &mut Directory) {
        match self {
            Self::Create { name, inode } => {
                directory.insert(name.clone(), *inode);
            }
            Self::Rename { from, to } => {
                if let Some(inode) = directory.remove(from) {
                    directory.insert(to.clone(), inode);
                }
            }
            Self::Remove { name } => {
                directory.remove(name);
            }
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Self::Create { name, .. } | Self::Remove { name } => (name, None),
            Self::Rename { from, to } => (from, Some(to)),
        };
        std::iter::once(first).chain(second).map(String::as_str)
    }
}
