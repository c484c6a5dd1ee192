//! The directory that a run works in: fresh, on a disk, gone afterwards unless it is to be kept.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use tempfile::TempDir;

use crate::{console, machine};

/// Where to work, and where to report to: the options of every subcommand.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Directory to work in; a fresh directory is made inside it. By default `target` if there is
    /// one, else the system's directory for temporary files, else the current directory: the
    /// first that is not held in memory
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the files there and say where they are
    #[arg(long)]
    pub keep: bool,
    /// Write the report to FILE as one JSON object
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A fresh directory; dropping it removes it unless it is kept.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// Makes a fresh directory where `common` says.
    ///
    /// # Errors
    ///
    /// It can't be made.
    pub fn new(common: &Common) -> anyhow::Result<Place> {
        let parent = common.dir.clone().unwrap_or_else(default_parent);
        fs::create_dir_all(&parent).with_context(|| format!("creating {}", parent.display()))?;
        if in_memory(&parent) {
            console::note(&format!(
                "{} is held in memory: figures say nothing about a disk",
                parent.display()
            ));
        }
        let dir = tempfile::Builder::new()
            .prefix("fanlog-bench-")
            .disable_cleanup(common.keep)
            .tempdir_in(&parent)
            .with_context(|| format!("creating a directory in {}", parent.display()))?;
        let place = Place { dir };
        if common.keep {
            console::note(&format!("files stay in {}", place.path().display()));
        }
        Ok(place)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path for a store or file of that name.
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn default_parent() -> PathBuf {
    let candidates = [PathBuf::from("target"), std::env::temp_dir()];
    let found = candidates.into_iter().find(|path| path.is_dir() && !in_memory(path));
    found.unwrap_or_else(|| PathBuf::from("."))
}

fn in_memory(dir: &Path) -> bool {
    matches!(machine::file_system(dir).as_deref(), Some("tmpfs" | "ramfs"))
}
