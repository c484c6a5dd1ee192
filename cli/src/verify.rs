//! `fanlog verify`: reads and checks every byte of a store that matters.

use std::path::{Path, PathBuf};

use clap::Args;
use fanlog::{
    Config,
    check::{self, Report},
};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::{
    failure::{Failure, Status},
    output::{Output, one_line},
    progress, store,
};

/// Check every checkpoint, segment, batch and record of a store; write nothing.
///
/// Ends with status 3 and one line per problem on standard error if anything is damaged. Where the
/// damage shows at opening already that is all, unless it may be quarantined: then the rest is
/// checked as well, still without writing. A torn
/// tail, which the next open would cut, is reported and is not damage.
#[derive(Args)]
#[command(after_help = "Examples:\n  fanlog verify orders\n  fanlog verify orders --json")]
pub(crate) struct Verify {
    /// Directory of the store
    pub(crate) dir: PathBuf,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    damage: store::Damage,
}

impl Verify {
    pub(crate) fn run(&self) -> Result<Status, Failure> {
        let bar = progress::Progress::new("checking");
        let config = Config { on_damage: self.damage.choice(), ..Config::default() };
        let checked = check::verify_with(&self.dir, config, &mut |told| {
            bar.show(told.bytes_done, told.bytes_total);
        });
        drop(bar);
        let report = checked?;

        for problem in &report.problems {
            Failure::damaged(&problem.path, problem.position, problem.text.clone()).tell(&self.dir);
        }
        let status = if report.problems.is_empty() { Status::Fine } else { Status::Damaged };
        match self.print(&report) {
            // That something is damaged must be known even if nobody reads the report.
            Err(Failure::ReaderGone) => Ok(status),
            printed => printed.map(|()| status),
        }
    }

    fn print(&self, report: &Report) -> Result<(), Failure> {
        let mut output = Output::new();
        if self.json {
            output.json(&Json::new(&self.dir, report))?;
            return output.flush();
        }
        for cut in &report.cuts {
            output.line(&format!(
                "torn tail: {}: offset {}: {} bytes would be cut: {}",
                one_line(&cut.path.to_string_lossy()),
                cut.position,
                cut.bytes,
                one_line(&cut.reason)
            ))?;
        }
        output.line(&format!(
            "{}: {} segments, {} checkpoints, {} batches, {} messages, {} queues, {} read",
            if report.problems.is_empty() { "ok" } else { "damaged" },
            report.segments,
            report.checkpoints,
            report.batches,
            report.messages,
            report.queues,
            HumanBytes(report.bytes),
        ))?;
        output.flush()
    }
}

#[derive(Serialize)]
struct Json<'a> {
    dir: String,
    ok: bool,
    segments: u64,
    checkpoints: u64,
    batches: u64,
    messages: u64,
    queues: u64,
    bytes: u64,
    cuts: Vec<Place<'a>>,
    problems: Vec<Place<'a>>,
}

#[derive(Serialize)]
struct Place<'a> {
    file: String,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    text: &'a str,
}

impl<'a> Json<'a> {
    fn new(dir: &Path, report: &'a Report) -> Self {
        let place = |path: &Path, offset, bytes, text: &'a str| Place {
            file: path.to_string_lossy().into_owned(),
            offset,
            bytes,
            text,
        };
        let cuts = report.cuts.iter();
        let problems = report.problems.iter();
        Self {
            dir: dir.to_string_lossy().into_owned(),
            ok: report.problems.is_empty(),
            segments: report.segments,
            checkpoints: report.checkpoints,
            batches: report.batches,
            messages: report.messages,
            queues: report.queues,
            bytes: report.bytes,
            cuts: cuts.map(|c| place(&c.path, c.position, Some(c.bytes), &c.reason)).collect(),
            problems: problems.map(|p| place(&p.path, p.position, None, &p.text)).collect(),
        }
    }
}
