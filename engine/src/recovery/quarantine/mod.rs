//! Reads a damaged log: all that can be read, whatever stands between.
//!
//! Only what damage allows is given up. Segments that are whole are taken as they are; of one that is
//! not, what can be read goes into a new file (`salvage`), and what is missing is noted. The end of
//! the log is where the last segment's torn tail begins, as without damage.
//!
//! Q1. Nothing is taken that is not under a right checksum and in its order.
//! Q2. What was given out once is never given out again: offsets, batch numbers and ids that lost
//!     bytes may have used are passed over.

mod apply;
mod open;
mod source;

use std::{ops::Range, sync::Arc};

use fanlog_segment_format::{
    Epoch, Offset, SegmentId, header::SegmentHeader, layout::SEGMENT_HEADER_BYTES,
};

use super::{
    harm::{Harm, reason_of},
    report::Gap,
    salvage,
    tail::{Chain, Tail},
};
use crate::{
    Error, OnDamage, Result,
    error::ErrorKind,
    ledger::Ledger,
    log::{
        gather::{Gathered, Known},
        sealed::SealedReader,
        segment::Segment,
    },
    route::Tables,
};

/// A segment of which nothing is left may have been as large as this.
const LOST_SEGMENT_BYTES: u64 = 1 << 30;

/// A segment that is, or should be, there.
struct Candidate {
    /// As read, or as the checkpoint says that it has to be.
    header: SegmentHeader,
    /// The name that its file should have.
    name: String,
    /// The file that has its bytes, if there is one.
    source: Option<String>,
    problem: Option<Error>,
    /// The header is the one that was read.
    header_read: bool,
    end_offset: Option<Offset>,
}

/// What is missing of a segment.
struct Hole {
    position: u64,
    offsets: Range<Offset>,
    reason: String,
    /// Control records may be missing.
    controls: bool,
}

/// Reads a damaged log.
pub(super) struct Quarantine<'a> {
    pub(super) tail: Tail<'a>,
    pub(super) harm: &'a mut Harm,
    chain: Option<Chain>,
    /// The checksum of the batch before is known.
    linked: bool,
    /// That of the last batch that was applied: an older checkpoint may be of an earlier one.
    applied: Epoch,
    on_damage: OnDamage,
}

impl<'a> Quarantine<'a> {
    pub(super) fn new(tail: Tail<'a>, harm: &'a mut Harm, on_damage: OnDamage) -> Self {
        let applied = tail.checkpoint.epoch;
        Self { tail, harm, chain: None, linked: true, applied, on_damage }
    }

    /// Reads all that is left.
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedVersion`], [`Error::Io`].
    pub(super) fn read_all(&mut self, ledger: &mut Ledger, tables: &mut Tables) -> Result<()> {
        let entries = self.tail.checkpoint.segments.clone();
        let mut open = Vec::new();
        for entry in &entries {
            let candidate = self.listed(entry)?;
            match entry.end_offset.filter(|_| entry.sealed) {
                Some(end) => self.take_sealed(&candidate, end)?,
                None => open.push(candidate),
            }
        }
        let next = self.tail.checkpoint.next_ids.segment.max(1);
        let beyond = entries.last().map_or(next, |last| last.covers_to.0 + 1);
        let later: Vec<SegmentId> = self
            .tail
            .inventory
            .segments
            .range((SegmentId(beyond), 0)..)
            .filter_map(|(&(id, generation), _)| (generation == 0).then_some(id))
            .collect();
        for id in later {
            open.extend(self.beyond(id)?);
        }
        for candidate in &open {
            self.look(candidate)?;
        }
        for at in 0..open.len() {
            let later = open[at + 1..].iter().find(|later| later.header_read);
            let bound = later.map(|later| later.header);
            self.take_open(&open[at], bound, at + 1 == open.len(), ledger, tables)?;
        }
        self.finish(ledger);
        self.tail.log.set_visible(ledger.head.next_offset);
        self.note_unrouted();
        Ok(())
    }

    /// A sealed segment: as it is if header and footer are whole; for a repair all of it.
    fn take_sealed(&mut self, candidate: &Candidate, end: Offset) -> Result<()> {
        let mut problem = candidate.problem.clone();
        if problem.is_none() {
            let header = candidate.header;
            let segment = Arc::new(Segment::sealed(header, end, header.file_bytes));
            self.tail.log.add_segment(Arc::clone(&segment));
            problem = match self.tail.log.reader(&segment) {
                Ok(reader) => reader.and_then(|reader| damage_of(&reader, self.on_damage)),
                Err(error) if error.kind() == ErrorKind::Corrupt => Some(error),
                Err(error) => return Err(error),
            };
            if problem.is_none() {
                return Ok(());
            }
            self.tail.log.retire_segment(&segment);
            self.harm.set_aside(&candidate.name);
            self.harm.segments = true;
        }
        let problem = problem.expect("it is not whole");
        let Some(source) = &candidate.source else {
            self.harm.note(&problem, candidate.header.first_offset, end);
            return Ok(());
        };
        let bytes = self.read_whole(source)?;
        let batches = self.gather(&bytes, candidate, None)?;
        let holes = sealed_holes(&batches, candidate, end, &bytes, &reason_of(&problem));
        self.note_holes(candidate, Some(&problem), holes);
        self.salvage(&bytes, candidate, &batches, end)
    }

    fn note_holes(&mut self, candidate: &Candidate, problem: Option<&Error>, holes: Vec<Hole>) {
        let first = candidate.header.first_offset;
        match problem {
            Some(problem) if holes.is_empty() => self.harm.note(problem, first, first),
            _ => {}
        }
        let path = self.tail.storage.path(&candidate.name);
        for Hole { position, offsets, reason, controls } in holes {
            let Range { start: from, end: to } = offsets;
            let path = path.clone();
            self.harm.gaps.push(Gap { path, position, from, to, controls, reason, kept_as: None });
        }
    }

    /// Puts what was read of a segment into the log, in a file of its own.
    fn salvage(
        &mut self,
        bytes: &[u8],
        candidate: &Candidate,
        batches: &[Gathered],
        end: Offset,
    ) -> Result<()> {
        let known = known(candidate, None, bytes.len());
        let Some(salvaged) = salvage::rebuild(bytes, &known, batches, end) else { return Ok(()) };
        let segment = Segment::sealed(salvaged.header, end, salvaged.log_end);
        if self.tail.read_only {
            segment.keep_in_memory(salvaged.bytes);
        } else {
            let name = salvage::store(self.tail.storage, &salvaged)?;
            self.harm.written.push(name);
        }
        self.tail.log.add_segment(Arc::new(segment));
        Ok(())
    }
}

/// What is wrong with a sealed segment, as far as opening looks at it.
pub(super) fn damage_of(reader: &SealedReader, on_damage: OnDamage) -> Option<Error> {
    match on_damage {
        OnDamage::Fail => None,
        OnDamage::Quarantine => reader.footer_damage().cloned(),
        OnDamage::Repair => reader.damage(),
    }
}

fn known(candidate: &Candidate, bound: Option<&SegmentHeader>, bytes: usize) -> Known {
    Known {
        header: candidate.header,
        end_offset: candidate.end_offset.or(bound.map(|bound| bound.first_offset)),
        end_batch: bound.map(|bound| bound.first_batch),
        file_bytes: bytes as u64,
    }
}

/// Which messages are missing of a sealed segment.
///
/// As published it has every offset. One that was rewritten has not: there something is missing only
/// where its batches are not side by side, or are not whole.
fn sealed_holes(
    batches: &[Gathered],
    candidate: &Candidate,
    end: Offset,
    bytes: &[u8],
    reason: &str,
) -> Vec<Hole> {
    let mut holes: Vec<Hole> = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES as u64;
    let mut next = candidate.header.first_offset;
    let dense = candidate.header.generation == 0;
    let mut miss = |position: u64, offsets: Range<Offset>| {
        if offsets.start < offsets.end {
            let reason = reason.to_owned();
            holes.push(Hole { position, offsets, reason, controls: false });
        }
    };
    for batch in batches {
        let whole = batch.position == at && batch.checksum.is_some();
        for message in &batch.messages {
            if dense || !whole {
                miss(batch.position.min(at), next..message.offset);
            }
            next = message.offset.next();
        }
        at = batch.end();
    }
    let footer = usize::try_from(at).ok().and_then(|at| bytes.get(at..at + 8));
    if dense || footer != Some(&fanlog_segment_format::layout::FOOTER_MAGIC) {
        miss(at, next..end);
    }
    holes
}
