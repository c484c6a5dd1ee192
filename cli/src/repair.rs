//! `fanlog repair`: takes out of a store what is damaged, and keeps it.

use std::path::{Path, PathBuf};

use clap::Args;
use fanlog::{Cut, Gap, RecoveryReport, SetAside, check::Problem, repair};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::{
    failure::{Failure, Status},
    output::{Output, one_line},
    progress::Progress,
    store::Settings,
};

/// Say what of a store is damaged and what a repair would cost; do it with --apply.
///
/// Reads every byte. Without --apply nothing is written, and the status is 3 if anything is damaged.
/// With it damaged files are renamed to damaged-*, what can be read of them goes into new files, and
/// of a torn tail that is cut a copy is kept: nothing is removed. Then the store is checked, and the
/// status is 0 if all that is left is sound, and 3 if not. What is missing is one line each on standard
/// error. Remove the damaged-* files once you are sure that nothing more can be had from them.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  fanlog repair orders\n  fanlog repair orders --apply\n  fanlog repair orders --json"
)]
pub(crate) struct Repair {
    /// Directory of the store
    pub(crate) dir: PathBuf,
    /// Do it, instead of saying what would be done
    #[arg(long)]
    apply: bool,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Repair {
    pub(crate) fn run(&self) -> Result<Status, Failure> {
        let bar = Progress::new("checking");
        let config = self.settings.config();
        let (recovery, problems) = if self.apply {
            let done = repair::apply(&self.dir, &config, &mut |told| {
                bar.show(told.bytes_done, told.bytes_total);
            })?;
            (done.recovery, done.check.problems)
        } else {
            (repair::plan(&self.dir, &config)?, Vec::new())
        };
        drop(bar);
        for gap in &recovery.gaps {
            Failure::damaged(&gap.path, gap.position, gap.to_string()).tell(&self.dir);
        }
        for problem in &problems {
            Failure::damaged(&problem.path, problem.position, problem.text.clone()).tell(&self.dir);
        }
        let sound = if self.apply { problems.is_empty() } else { recovery.gaps.is_empty() };
        let status = if sound { Status::Fine } else { Status::Damaged };
        match self.print(&recovery, &problems) {
            // That something is damaged must be known even if nobody reads the report.
            Err(Failure::ReaderGone) => Ok(status),
            printed => printed.map(|()| status),
        }
    }

    fn print(&self, recovery: &RecoveryReport, problems: &[Problem]) -> Result<(), Failure> {
        let mut output = Output::new();
        if self.json {
            output.json(&self.to_json(recovery, problems))?;
            return output.flush();
        }
        let (cut, kept) =
            if self.apply { ("cut", "kept") } else { ("would be cut", "would be kept") };
        for torn in &recovery.cuts {
            let file = one_line(&torn.path.to_string_lossy()).into_owned();
            let (position, bytes, reason) = (torn.position, torn.bytes, one_line(&torn.reason));
            output.line(&format!(
                "torn tail: {file}: offset {position}: {bytes} bytes {cut}: {reason}"
            ))?;
        }
        for aside in &recovery.set_aside {
            let file = one_line(&aside.path.to_string_lossy()).into_owned();
            let place = if aside.position > 0 {
                format!("offset {}: {} bytes", aside.position, aside.bytes)
            } else {
                HumanBytes(aside.bytes).to_string()
            };
            let target = aside.kept_as.as_ref().map(|path| path.to_string_lossy());
            let target = target.map(|path| format!(" as {}", one_line(&path)));
            output.line(&format!("{kept}: {file}: {place}{}", target.unwrap_or_default()))?;
        }
        output.line(&self.summary(recovery, problems))?;
        output.flush()
    }

    fn summary(&self, recovery: &RecoveryReport, problems: &[Problem]) -> String {
        let gaps = recovery.gaps.len();
        let missing: u64 =
            recovery.gaps.iter().map(|gap| gap.to.0.saturating_sub(gap.from.0)).sum();
        if gaps == 0 && problems.is_empty() {
            return "ok: nothing is damaged".to_owned();
        }
        let cost = format!("{gaps} places are damaged, {missing} messages are missing");
        match (self.apply, problems.len()) {
            (false, _) => format!("damaged: {cost}; --apply takes them out"),
            (true, 0) => format!("repaired: {cost}; all else is sound"),
            (true, left) => format!("damaged: {cost}; {left} problems are left"),
        }
    }

    fn to_json(&self, recovery: &RecoveryReport, problems: &[Problem]) -> Json {
        Json {
            dir: text(&self.dir),
            applied: self.apply,
            gaps: recovery.gaps.iter().map(JsonGap::from).collect(),
            cuts: recovery.cuts.iter().map(JsonPlace::from).collect(),
            set_aside: recovery.set_aside.iter().map(JsonPlace::from).collect(),
            problems: problems.iter().map(JsonPlace::from).collect(),
        }
    }
}

#[derive(Serialize)]
struct Json {
    dir: String,
    applied: bool,
    gaps: Vec<JsonGap>,
    cuts: Vec<JsonPlace>,
    set_aside: Vec<JsonPlace>,
    problems: Vec<JsonPlace>,
}

/// Something damaged, and which messages are missing for it.
#[derive(Serialize)]
struct JsonGap {
    file: String,
    offset: u64,
    from: u64,
    to: u64,
    controls: bool,
    text: String,
    kept_as: Option<String>,
}

#[derive(Serialize)]
struct JsonPlace {
    file: String,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_as: Option<String>,
}

impl From<&Gap> for JsonGap {
    fn from(gap: &Gap) -> Self {
        Self {
            file: text(&gap.path),
            offset: gap.position,
            from: gap.from.0,
            to: gap.to.0,
            controls: gap.controls,
            text: gap.reason.clone(),
            kept_as: gap.kept_as.as_deref().map(text),
        }
    }
}

impl From<&Cut> for JsonPlace {
    fn from(cut: &Cut) -> Self {
        let (bytes, reason) = (Some(cut.bytes), Some(cut.reason.clone()));
        Self { file: text(&cut.path), offset: cut.position, bytes, text: reason, kept_as: None }
    }
}

impl From<&SetAside> for JsonPlace {
    fn from(aside: &SetAside) -> Self {
        Self {
            file: text(&aside.path),
            offset: aside.position,
            bytes: Some(aside.bytes),
            text: None,
            kept_as: aside.kept_as.as_deref().map(text),
        }
    }
}

impl From<&Problem> for JsonPlace {
    fn from(problem: &Problem) -> Self {
        Self {
            file: text(&problem.path),
            offset: problem.position,
            bytes: None,
            text: Some(problem.text.clone()),
            kept_as: None,
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
