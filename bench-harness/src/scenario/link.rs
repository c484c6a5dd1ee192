//! The link platform: assembles results into traces, across messages and consumers, and walks a
//! wrong result back to its source.
//!
//! What it knows is in a journal before a batch is acked: 24 bytes per result, appended in one
//! write, read again when the platform starts. A record cut off by the end of the process is cut
//! away then; its batch was not acked, so its messages come again.

use std::{
    cmp::Reverse,
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::Context;

use super::{
    frames::{Frame, LinkSummary},
    platform::Platform,
};
use crate::{
    payload::{Fields, STAGES, VALUES_ALLOWED},
    sample::as_u64,
};

const RECORD: usize = 24;

/// The platform.
pub(crate) struct Link(Mutex<State>);

struct State {
    journal: File,
    traces: HashMap<u64, Trace>,
}

/// Value and parent of each stage that has come.
type Trace = [Option<Step>; 8];
const _: () = assert!(STAGES == 8, "a trace has room for its stages");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    value: i64,
    parent: u64,
}

impl Link {
    /// Opens the journal in `dir` and reads it.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Link> {
        fs::create_dir_all(dir)?;
        let path = dir.join("link.journal");
        let mut journal = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)
            .context("opening the journal of the link platform")?;
        let mut bytes = Vec::new();
        journal.read_to_end(&mut bytes)?;
        let (records, cut) = bytes.as_chunks::<RECORD>();
        if !cut.is_empty() {
            journal.set_len(as_u64(bytes.len() - cut.len()))?;
        }
        let mut traces = HashMap::new();
        for record in records {
            let [number, value, parent] = *record.as_chunks::<8>().0 else { continue };
            let step =
                Step { value: i64::from_le_bytes(value), parent: u64::from_le_bytes(parent) };
            put(&mut traces, u64::from_le_bytes(number), step);
        }
        Ok(Link(Mutex::new(State { journal, traces })))
    }

    /// Counts the traces and walks one wrong result back to its source.
    pub(crate) fn finish(&self) -> LinkSummary {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let complete = state.traces.values().filter(|trace| trace.iter().all(Option::is_some));
        let complete = as_u64(complete.count());
        let incomplete = as_u64(state.traces.len()) - complete;
        LinkSummary { complete, incomplete, walk: state.walk() }
    }
}

impl Platform for Link {
    fn work(&self, results: &[Fields], _alerts: &mut Frame) -> anyhow::Result<()> {
        let mut records = Vec::with_capacity(results.len() * RECORD);
        for result in results {
            records.extend_from_slice(&result.number.to_le_bytes());
            records.extend_from_slice(&result.value.to_le_bytes());
            records.extend_from_slice(&result.parent.to_le_bytes());
        }
        let state = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.journal.write_all(&records)?;
        for result in results {
            let step = Step { value: result.value, parent: result.parent };
            put(&mut state.traces, result.number, step);
        }
        Ok(())
    }
}

impl State {
    fn step(&self, number: u64) -> Option<Step> {
        let stage = usize::try_from(number % STAGES).ok()?;
        *self.traces.get(&(number / STAGES))?.get(stage)?
    }

    /// Of all whole traces with a wrong last result, the longest walk from it back to the first
    /// wrong one, the lowest of those: its numbers.
    fn walk(&self) -> Vec<u64> {
        let whole = self.traces.iter().filter(|(_, trace)| trace.iter().all(Option::is_some));
        let walks = whole.map(|(trace, _)| self.walk_from((trace + 1) * STAGES - 1));
        let longest = walks.max_by_key(|walk| (walk.len(), walk.first().copied().map(Reverse)));
        longest.unwrap_or_default()
    }

    /// From `number` to its parent, as long as the result is a wrong one.
    fn walk_from(&self, number: u64) -> Vec<u64> {
        let mut walk = Vec::new();
        let mut at = number;
        while let Some(step) = self.step(at)
            && !VALUES_ALLOWED.contains(&step.value)
        {
            walk.push(at);
            at = step.parent;
        }
        walk
    }
}

fn put(traces: &mut HashMap<u64, Trace>, number: u64, step: Step) {
    let trace = traces.entry(number / STAGES).or_default();
    if let Some(place) =
        usize::try_from(number % STAGES).ok().and_then(|stage| trace.get_mut(stage))
    {
        *place = Some(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{payload, scenario::frames::Kind};

    #[test]
    fn traces_come_together_in_any_order_and_survive_a_torn_record() {
        let dir = tempfile::tempdir().unwrap();
        let results: Vec<Fields> = (0..4_000).map(|number| Fields::of(number, 64)).collect();
        let link = Link::open(dir.path()).unwrap();
        let mut none = Frame::new(Kind::Alerts);
        link.work(&results[2_003..], &mut none).unwrap();
        link.work(&results[..2_001], &mut none).unwrap();
        assert_eq!(link.finish().incomplete, 1);
        drop(link);
        let mut journal =
            OpenOptions::new().append(true).open(dir.path().join("link.journal")).unwrap();
        journal.write_all(&[1; 7]).unwrap();
        let link = Link::open(dir.path()).unwrap();
        link.work(&results[2_001..2_003], &mut none).unwrap();
        drop(link);
        let summary = Link::open(dir.path()).unwrap().finish();
        assert_eq!((summary.complete, summary.incomplete), (500, 0));
        let walk = summary.walk;
        assert_eq!(walk.last().copied(), payload::source_of(walk[0]));
    }
}
