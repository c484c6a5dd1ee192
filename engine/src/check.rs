//! Verifies a whole store. Tests, the command line and operators all call it.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use fanlog_segment_format::QueueId;

use crate::{
    Config, Cut, Engine, Error, Result,
    core::Core,
    error::ErrorKind,
    ledger::{queue_ledger::Amount, recount::Shares},
    log::{sealed::SealedReader, segment::Segment},
    queue::Queue,
    recovery,
};

/// How far a check has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of segment files read and verified.
    pub bytes_done: u64,
    /// Bytes of all segment files.
    pub bytes_total: u64,
}

/// What a check read, and what was wrong.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// Checkpoints verified.
    pub checkpoints: u64,
    /// Segments verified.
    pub segments: u64,
    /// Batches verified.
    pub batches: u64,
    /// Messages verified.
    pub messages: u64,
    /// Queues recounted.
    pub queues: u64,
    /// Bytes of files read.
    pub bytes: u64,
    /// Segments of which it is not known how much of them is acked, as something in them is damaged or
    /// was: they are kept. Those that can be read are counted anew soon, one after the other; others
    /// when the store is opened again.
    pub uncounted: u64,
    /// Torn tails: not damage; opening the store for writing cuts them.
    pub cuts: Vec<Cut>,
    /// What is damaged, or does not agree.
    pub problems: Vec<Problem>,
}

/// Something that is wrong with a store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The file; the directory where no single file is to blame.
    pub path: PathBuf,
    /// The byte in it.
    pub position: u64,
    /// What is wrong.
    pub text: String,
}

/// Verifies every checkpoint, segment, batch, record and footer of the store in `dir` and recounts
/// the depth of every queue. Writes nothing. `progress` is called now and then.
///
/// # Errors
///
/// [`Error::Locked`] if it is in use, [`Error::NoStore`], [`Error::UnsupportedVersion`],
/// [`Error::Io`] if a file could not be read. Damage is no error here: it is in the report.
///
/// # Example
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # drop(fanlog::Engine::open(dir.path(), fanlog::Config::default())?);
/// let report = fanlog::check::verify(dir.path(), &mut |_| {})?;
/// assert!(report.problems.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify(dir: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Report> {
    verify_with(dir, Config::default(), progress)
}

/// As [`verify`], with settings: unless `on_damage` is [`OnDamage::Fail`](crate::OnDamage::Fail) damage
/// that shows at opening is among the problems, and the rest is verified all the same. Writes nothing
/// either.
///
/// # Errors
///
/// As [`verify`].
pub fn verify_with(
    dir: &Path,
    config: Config,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report> {
    match Engine::open_read_only(dir, config) {
        Ok(engine) => engine.check(progress),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            let path = error.path().unwrap_or(dir).to_owned();
            let position = error.position().unwrap_or(0);
            let problem = Problem { path, position, text: error.to_string() };
            Ok(Report { problems: vec![problem], ..Report::default() })
        }
        Err(error) => Err(error),
    }
}

pub(crate) fn check(core: &Arc<Core>, progress: &mut dyn FnMut(Progress)) -> Result<Report> {
    // Segments are not rewritten or given back while they are compared with what is counted.
    let _still = core.keeper.hold_still();
    let mut report = Report { cuts: core.recovery.cuts.clone(), ..Report::default() };
    if core.read_only {
        // It was opened around the damage, which is still on the disk.
        report.problems.extend(core.recovery.gaps.iter().map(|gap| Problem {
            path: gap.path.clone(),
            position: gap.position,
            text: gap.to_string(),
        }));
    }
    check_checkpoints(core, &mut report)?;
    let segments = core.log.segments();
    let bytes_total = segments.iter().map(|segment| segment.header.file_bytes).sum();
    let mut told = Progress { bytes_done: 0, bytes_total };
    let mut damaged = Vec::new();
    for segment in &segments {
        progress(told);
        report.segments += 1;
        report.bytes += segment.header.file_bytes;
        let problems = report.problems.len();
        if segment.is_sealed() {
            check_sealed(core, segment, &mut report)?;
        } else {
            check_unsealed(core, segment, &mut report)?;
        }
        damaged.push(report.problems.len() > problems);
        told.bytes_done += segment.header.file_bytes;
    }
    progress(told);
    check_order(core, &segments, &mut report);
    recount(core, &segments, &damaged, &mut report)?;
    Ok(report)
}

/// Notes damage; passes other errors on.
fn note<T>(outcome: Result<T>, report: &mut Report) -> Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            report.problems.push(Problem {
                path: error.path().map(Path::to_owned).unwrap_or_default(),
                position: error.position().unwrap_or(0),
                text: error.to_string(),
            });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn check_checkpoints(core: &Core, report: &mut Report) -> Result<()> {
    // One that is listed is not removed before it is read.
    let _paused = core.keeper.checkpoints.pause();
    let entries = core
        .storage
        .list()
        .map_err(|source| Error::io(crate::error::FileOp::List, core.storage.path(""), source))?;
    for entry in entries {
        use fanlog_segment_format::file_name::FileName;
        if let Some(FileName::Checkpoint(number)) = FileName::parse(&entry.name) {
            report.bytes += entry.bytes;
            let read = recovery::read_checkpoint(&*core.storage, number);
            report.checkpoints += u64::from(note(read, report)?.is_some());
        }
    }
    Ok(())
}

fn check_sealed(core: &Core, segment: &Arc<Segment>, report: &mut Report) -> Result<()> {
    let Some(Some(reader)) = note(core.log.reader(segment), report)? else { return Ok(()) };
    let footer = reader.footer();
    let path = core.storage.path(&segment.name);
    if let Some(error) = reader.footer_damage() {
        let position = error.position().unwrap_or(0);
        let text = format!("the footer is damaged: {error}");
        report.problems.push(Problem { path: path.clone(), position, text });
    }
    for number in 0..footer.messages() {
        report.messages += 1;
        if let Err(damage) = reader.message(number) {
            let text = format!("message {} is damaged", damage.offset);
            let (path, position) = (path.clone(), damage.position);
            report.problems.push(Problem { path, position, text });
        }
    }
    check_listed_once(&reader, &path, report);
    for problem in reader.check_batches() {
        report.problems.push(problem);
    }
    report.batches += u64::from(footer.batches());
    Ok(())
}

/// No message of a segment goes to anybody twice.
fn check_listed_once(reader: &SealedReader, path: &Path, report: &mut Report) {
    let footer = reader.footer();
    let mut listed = vec![false; footer.messages() as usize];
    for at in 0..footer.routes() {
        for nth in 0..footer.route(at).messages {
            let number = footer.route_message(at, nth);
            let twice = listed.get_mut(number as usize).map(|seen| std::mem::replace(seen, true));
            if twice == Some(true) {
                let text = format!("message {} is listed twice", footer.offset_of(number));
                report.problems.push(Problem { path: path.to_owned(), position: 0, text });
            }
        }
    }
}

/// Batches of the unsealed part, read from the file and compared with their index.
fn check_unsealed(core: &Core, segment: &Arc<Segment>, report: &mut Report) -> Result<()> {
    for index in segment.batches() {
        if note(core.log.check_batch(segment, &index), report)?.is_some() {
            report.batches += 1;
            report.messages += u64::from(index.messages());
        }
    }
    Ok(())
}

/// Segments follow one another; between them may stand offsets of messages that are dead.
fn check_order(core: &Core, segments: &[Arc<Segment>], report: &mut Report) {
    for pair in segments.windows(2) {
        let [before, after] = pair else { continue };
        if before.end_offset().is_none_or(|end| end > after.first_offset()) {
            report.problems.push(Problem {
                path: core.storage.path(&after.name),
                position: 0,
                text: format!(
                    "it starts at offset {}, the segment before ends at {:?}",
                    after.first_offset(),
                    before.end_offset(),
                ),
            });
        }
    }
}

/// Recounts what is outstanding in each segment, and in each queue: each segment is looked through once,
/// for all queues. Returns how much was looked at.
fn recount(
    core: &Core,
    segments: &[Arc<Segment>],
    damaged: &[bool],
    report: &mut Report,
) -> Result<u64> {
    let mut found = Found::default();
    let mut looks = 0;
    for (segment, damaged) in segments.iter().zip(damaged) {
        let _settled = core.keeper.settle(core);
        let counted = core.ledger().counted(segment.id());
        report.uncounted +=
            u64::from(!segment.is_empty() && !core.ledger().is_counted(segment.id()));
        let shares = Shares::of(&core.log, segment, |groups| core.ledger().holders_of(groups));
        let Some(shares) = note(shares, report)? else {
            // Nothing says whose its messages are.
            found.incomplete = true;
            continue;
        };
        looks += shares.looks;
        let left = shares.left();
        if let Some(counted) = counted.filter(|counted| counted.messages != left.messages) {
            let text = format!(
                "{} outstanding messages are counted, there are {}",
                counted.messages, left.messages,
            );
            let path = core.storage.path(&segment.name);
            report.problems.push(Problem { path, position: 0, text });
        }
        found.add(&shares, *damaged);
    }
    let queues: Vec<Arc<Queue>> = core.ledger().queues().cloned().collect();
    for queue in queues {
        report.queues += 1;
        check_depth(core, &queue, &found, report);
    }
    Ok(looks)
}

/// What was found of each queue.
#[derive(Default)]
struct Found {
    queues: HashMap<QueueId, InQueue>,
    /// Of some segments it is not known.
    incomplete: bool,
}

#[derive(Clone, Copy, Default)]
struct InQueue {
    left: Amount,
    /// The sizes of damaged messages are not known, so neither is the sum.
    damaged: bool,
}

impl Found {
    fn add(&mut self, shares: &Shares, damaged: bool) {
        for share in &shares.of {
            let queue = self.queues.entry(share.queue.id).or_default();
            queue.left = queue.left.plus(share.got.left);
            queue.damaged |= damaged;
        }
    }
}

/// Compares a queue's depth with what was found.
fn check_depth(core: &Core, queue: &Queue, found: &Found, report: &mut Report) {
    let InQueue { left, damaged } = found.queues.get(&queue.id).copied().unwrap_or_default();
    let depth = core.ledger().depth(queue);
    if found.incomplete || damaged || depth == left {
        return;
    }
    report.problems.push(Problem {
        path: core.storage.path(""),
        position: 0,
        text: format!(
            "queue {} should hold {} messages of {} bytes, found {} of {}",
            queue.name, depth.messages, depth.bytes, left.messages, left.bytes,
        ),
    });
}

#[cfg(test)]
mod tests;
