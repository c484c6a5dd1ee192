//! `fanlog backup`: a copy of a store that opens as one.

use std::path::PathBuf;

use clap::Args;
use fanlog::{BackupFiles, BackupReport};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::{
    failure::{Failure, Status},
    output::{Output, one_line},
    progress::Progress,
    store,
};

/// Copy a store to an empty directory, which then opens as a store.
///
/// Full segments get a second name there (a hard link) where both directories are on one file
/// system, which takes no space; elsewhere, and with --copy, they are copied. The target is complete
/// and durable once the command has ended well; after a failure remove it. The store is not changed.
/// A store that is open in another process is backed up by that one: see `Engine::backup`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  fanlog backup orders /mnt/backup/orders\n  fanlog backup orders today --copy --json"
)]
pub(crate) struct Backup {
    /// Directory of the store
    pub(crate) dir: PathBuf,
    /// Directory of the copy: empty, or made
    target: PathBuf,
    /// Copy full segments also where they could be linked
    #[arg(long)]
    copy: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Backup {
    pub(crate) fn run(&self) -> Result<Status, Failure> {
        let files = if self.copy { BackupFiles::Copied } else { BackupFiles::Linked };
        let engine = store::open_read_only(&self.dir)?;
        let report = store::session(engine, |engine| {
            let progress = Progress::new("copying");
            let report = engine.backup_with(&self.target, files, &mut |told| {
                progress.show(told.bytes_done, told.bytes_total);
            })?;
            Ok(report)
        })?;
        let mut output = Output::new();
        if self.json {
            output.json(&self.to_json(&report))?;
        } else {
            output.line(&format!(
                "{}: the log up to offset {}, {} segments linked ({}), {} copied ({})",
                one_line(&self.target.to_string_lossy()),
                report.end,
                report.linked_segments,
                HumanBytes(report.linked_bytes),
                report.copied_segments,
                HumanBytes(report.copied_bytes),
            ))?;
        }
        output.flush()?;
        Ok(Status::Fine)
    }

    fn to_json(&self, report: &BackupReport) -> Json {
        Json {
            dir: self.dir.to_string_lossy().into_owned(),
            target: self.target.to_string_lossy().into_owned(),
            end_offset: report.end.0,
            linked_segments: report.linked_segments,
            linked_bytes: report.linked_bytes,
            copied_segments: report.copied_segments,
            copied_bytes: report.copied_bytes,
        }
    }
}

#[derive(Serialize)]
struct Json {
    dir: String,
    target: String,
    end_offset: u64,
    linked_segments: u64,
    linked_bytes: u64,
    copied_segments: u64,
    copied_bytes: u64,
}
