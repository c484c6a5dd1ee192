//! Rewriting: gives back what is dead in segments that are not dead as a whole.
//!
//! One unacked message must not pin a segment. So what is live in sparse neighbours is copied to
//! one file, and small neighbours are merged, within a budget that follows the publish rate. In:
//! the ledger's counts, which say which segments may be sparse; for those the exact union of what
//! the queues have not acked. Out: files of a higher generation in the place of their sources,
//! which are retired.
//!
//! 1. Look at the counts; find out exactly what is live where they say that it may be little.
//! 2. Choose neighbours (`choose`), if the budget allows (`budget`).
//! 3. Map them and note what survives (`survivors`).
//! 4. Write the new file batch by batch, give it its name (`writer`).
//! 5. Put it in their place: in the log's list and in the ledger, in one moment (`swap`).
//!
//! Each step is short, and the keeper does other things between two. Nothing that this does can
//! lose a message: until the last step nobody knows of the new file, and the old ones stay until
//! no kept checkpoint lists them.
//!
//! W4. A segment is found out exactly only where its count says that it may be sparse, and again
//!     only after its outstanding fell by a quarter; or by a quarter of what was live, but then with
//!     pauses in which others work: of many queues that acked the same, the last sets it free.
//! W5. A segment with a message that is damaged and live is left alone, and reported.
//! W6. After some segments were found out the choice is among those that are known: new ones may come
//!     as fast as they are found out.

mod budget;
mod choose;
mod survivors;
mod swap;
mod table;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fanlog_segment_format::BatchNumber;

use self::{
    budget::{Budget, Room},
    choose::{Limits, choose, waste},
    survivors::survivors,
    table::Table,
    writer::{Source, Stopped, Writer},
};
use crate::{
    Error, Result, commit::is_out_of_space, core::Core, error::ErrorKind, log::segment::Segment,
    supply::spare_bytes,
};

/// Waste that is let be while there is room, in segments.
const SLACK_SEGMENTS: u64 = 2;
/// The counts are looked at so often at the most, while there is room.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// From this much waste on it is not paced, in segments.
const URGENT_SEGMENTS: u64 = 8;
/// After so many segments were found out it is looked what of those that are known may be chosen.
const FOUND_OUT_MAX: u32 = 16;
/// After space ran out while a file was written, it is tried again after so long.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Where the work stands.
#[derive(Debug, Default)]
enum Work {
    #[default]
    None,
    /// Survivors of the chosen segments are noted, one after the other.
    Gathering { chosen: Vec<Arc<Segment>>, sources: Vec<Source> },
    /// The new file is written.
    Writing(Box<Writer>),
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rewrote {
    Nothing,
    /// A piece, to be paced.
    Piece,
    /// A piece of what is not to wait: files pile up, or space is short.
    Urgent,
}

/// Whatever a choice depends on: as long as it stays, the choice does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    next_batch: BatchNumber,
    sealed: usize,
    segments: usize,
    /// Whether the log waits for space, and whether there is little.
    room: (bool, bool),
}

#[derive(Debug, Default)]
struct State {
    table: Table,
    /// How many segments were found out since the last choice.
    found_out: u32,
    work: Work,
    urgent: bool,
    rewritten: u64,
    /// What was published before the store was opened; found at the first look.
    found: Option<u64>,
    /// What there was to see when there was nothing to do.
    seen: Option<Seen>,
    /// Nothing is looked at before.
    not_before: Duration,
}

/// The rewriting of segments.
#[derive(Debug, Default)]
pub(crate) struct Rewriter {
    state: Mutex<State>,
}

impl Rewriter {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does one piece of work, if there is any.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where writing failed for another reason than want of space.
    pub(crate) fn step(&self, core: &Core) -> Result<Rewrote> {
        let mut state = self.lock();
        let did = match std::mem::take(&mut state.work) {
            Work::None => state.look(core)?,
            Work::Gathering { chosen, sources } => state.gather(core, chosen, sources)?,
            Work::Writing(writer) => state.write(core, writer)?,
        };
        match &state.work {
            Work::None => core.supply.rewriting_goes_on(None),
            Work::Gathering { .. } => {}
            Work::Writing(writer) => core.supply.rewriting_goes_on(Some(writer.written())),
        }
        Ok(match did {
            false => Rewrote::Nothing,
            true if state.urgent => Rewrote::Urgent,
            true => Rewrote::Piece,
        })
    }

    /// Gives up what is under way: its file goes.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn abandon(&self, core: &Core) -> Result<()> {
        core.supply.rewriting_goes_on(None);
        match std::mem::take(&mut self.lock().work) {
            Work::Writing(writer) => writer.discard(),
            Work::None | Work::Gathering { .. } => Ok(()),
        }
    }

    /// Why a segment is left alone, if it is (W5).
    pub(crate) fn problem_of(&self, segment: &Segment) -> Option<String> {
        self.lock().table.problem_of(segment)
    }

    /// How many segments are left alone (W5).
    pub(crate) fn left_alone(&self) -> u64 {
        self.lock().table.left_alone()
    }
}

impl State {
    /// Finds out about one segment, or chooses what to rewrite.
    fn look(&mut self, core: &Core) -> Result<bool> {
        let now = core.clock.now();
        if now < self.not_before {
            return Ok(false);
        }
        let segments = core.log.segments();
        let out_of_space = core.append.lock().out_of_space.is_some();
        let used = segments.iter().map(|segment| segment.header.file_bytes).sum();
        let room = match spare_bytes(core) {
            _ if out_of_space => Room::None,
            Ok(free) => Room::of(free, used),
            // It can't be told: as if there were plenty.
            Err(_) => Room::of(u64::MAX, used),
        };
        let seen = Seen {
            next_batch: core.ledger().head.next_batch,
            sealed: segments.iter().filter(|segment| segment.is_sealed()).count(),
            segments: segments.len(),
            room: (room == Room::None, room.is_short()),
        };
        if self.seen == Some(seen) {
            return Ok(false);
        }
        let may_find_out = self.found_out < FOUND_OUT_MAX;
        if self.table.find_out_one(core, &segments, now, may_find_out) {
            self.found_out += 1;
            return Ok(true);
        }
        self.found_out = 0;
        let room_bytes = core.supply.could_promise(core).unwrap_or(u64::MAX);
        let slack = if room.is_short() { 0 } else { SLACK_SEGMENTS };
        let segment_bytes = core.config.segment_bytes_max;
        let limits = Limits { segment_bytes, slack_bytes: slack * segment_bytes, room: room_bytes };
        let found = *self.found.get_or_insert_with(|| never_rewritten(&segments));
        let (published, rewritten) = (core.stats.log_bytes(), self.rewritten);
        let budget = Budget { found, published, rewritten };
        self.urgent = room.is_short() || waste(self.table.rows()) > URGENT_SEGMENTS * segment_bytes;
        let choice = choose(self.table.rows(), &limits);
        let choice = choice.filter(|choice| budget.allows(choice.bytes, room));
        let Some(choice) = choice else {
            if self.table.is_behind() {
                return Ok(true);
            }
            // Where room decides, more of it does too.
            let stays = !self.table.puts_off() && room_bytes > segment_bytes;
            self.seen = stays.then_some(seen);
            self.not_before = now + LOOK_EVERY;
            return Ok(false);
        };
        if !core.supply.promise(core, choice.bytes)? {
            self.not_before = now + core.config.ack_delay_max;
            return Ok(false);
        }
        self.seen = None;
        let chosen = segments[choice.first..choice.first + choice.count].to_vec();
        self.work = Work::Gathering { chosen, sources: Vec::new() };
        Ok(true)
    }

    /// Notes what survives of the next chosen segment; after the last, begins the file.
    fn gather(
        &mut self,
        core: &Core,
        chosen: Vec<Arc<Segment>>,
        mut sources: Vec<Source>,
    ) -> Result<bool> {
        let Some(segment) = chosen.get(sources.len()) else {
            let storage = Arc::clone(&core.storage);
            match Writer::begin(storage, sources, core.epoch, core.clock.wall_us()) {
                Ok(writer) => self.work = Work::Writing(Box::new(writer)),
                Err(error) => self.wait_for_space(core, error)?,
            }
            return Ok(true);
        };
        match core.log.reader_once(segment) {
            Ok(Some(reader)) => {
                let survivors = survivors(core, &reader);
                sources.push(Source { reader, survivors });
                self.work = Work::Gathering { chosen, sources };
            }
            // It is dead by now: chosen anew.
            Ok(None) => {}
            Err(error) => self.table.leave_alone(segment, error.to_string()),
        }
        Ok(true)
    }

    /// Writes the next batch; after the last, puts the file in the place of its sources.
    fn write(&mut self, core: &Core, mut writer: Box<Writer>) -> Result<bool> {
        if !core.log.has_neighbours(&writer.sources()) {
            // One of them is dead by now.
            writer.discard()?;
            return Ok(true);
        }
        match writer.step() {
            Ok(true) => {
                self.work = Work::Writing(writer);
                return Ok(true);
            }
            Ok(false) => {}
            Err(Stopped::Damaged(segment, damage)) => {
                self.table.leave_alone(&segment, format!("{damage:?}"));
                writer.discard()?;
                return Ok(true);
            }
            Err(Stopped::Failed(error)) => {
                writer.discard()?;
                self.wait_for_space(core, error)?;
                return Ok(true);
            }
        }
        let segment = match writer.finish() {
            Ok(segment) => segment,
            Err(error) if is_out_of_space(&error) => {
                writer.discard()?;
                self.wait_for_space(core, error)?;
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        let bytes = segment.header.file_bytes;
        self.rewritten += bytes;
        match swap::swap(core, &writer.sources(), &segment) {
            Ok(true) => {}
            Ok(false) => writer.discard()?,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                for source in writer.sources() {
                    self.table.leave_alone(&source, error.to_string());
                }
                writer.discard()?;
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Tries again later if there was no space after all; passes other errors on.
    fn wait_for_space(&mut self, core: &Core, error: Error) -> Result<()> {
        if !is_out_of_space(&error) {
            return Err(error);
        }
        self.not_before = core.clock.now() + TRY_AGAIN;
        Ok(())
    }
}

/// Bytes of the segments that stand as publishing wrote them.
fn never_rewritten(segments: &[Arc<Segment>]) -> u64 {
    let as_written = segments.iter().filter(|segment| segment.header.generation == 0);
    as_written.map(|segment| segment.header.file_bytes).sum()
}
