//! Reads segments that are not sealed, from batch to batch, over what is damaged.

use std::sync::Arc;

use fanlog_segment_format::{
    BatchNumber, LogPosition, Offset,
    batch::open_batch,
    header::SegmentHeader,
    layout::{BLOCK_BYTES, MESSAGE_HEAD_BYTES, SEGMENT_HEADER_BYTES},
};

use super::{Candidate, Hole, LOST_SEGMENT_BYTES, Quarantine};
use crate::{
    Result,
    ledger::Ledger,
    log::{gather::Gathered, index::BatchIndex, segment::Segment},
    recovery::{
        Cut, open_segment,
        tail::{Chain, chain_from},
    },
    route::Tables,
    storage::Access,
};

impl Quarantine<'_> {
    /// A segment that is not sealed: its batches are read, and those behind the checkpoint applied.
    ///
    /// `bound` is the header of the next one that is whole.
    pub(super) fn take_open(
        &mut self,
        candidate: &Candidate,
        bound: Option<SegmentHeader>,
        last: bool,
        ledger: &mut Ledger,
        tables: &mut Tables,
    ) -> Result<()> {
        // One that has an end was followed by another: all of it was durable.
        let last = last && candidate.end_offset.is_none();
        let mut holes = Vec::new();
        self.begin(candidate, &mut holes);
        let Some(source) = candidate.source.clone() else {
            let problem = candidate.problem.clone().expect("it has no file");
            let end = candidate.end_offset.or(bound.map(|bound| bound.first_offset));
            let from = self.chain().offset;
            self.harm.note(&problem, from, self.lost_to(end));
            if let Some(gap) = self.harm.gaps.last_mut() {
                gap.controls = true;
            }
            self.lose(LOST_SEGMENT_BYTES, end, bound, last);
            return Ok(());
        };
        let bytes = self.read_whole(&source)?;
        let batches = self.gather(&bytes, candidate, bound.as_ref())?;
        let mut taken: Vec<Gathered> = Vec::new();
        let mut indexes = Vec::new();
        let mut at = SEGMENT_HEADER_BYTES as u64;
        let mut torn = None;
        let mut whole = candidate.problem.is_none() && source == candidate.name;
        for batch in batches {
            if self.is_stale(&batch) {
                continue;
            }
            let next = batch.position == at && self.is_next(&batch);
            if !next {
                if last && !self.is_durable(candidate, at) {
                    torn = Some((batch.end(), self.problem_at(&bytes, candidate, at)));
                    break;
                }
                whole = false;
                self.find_holes(&bytes, candidate, at, &batch, &mut holes);
            }
            let applied = self.apply(&bytes, candidate, &batch, ledger, tables)?;
            indexes.extend(applied);
            self.go_on(&batch);
            at = batch.end();
            taken.push(batch);
        }
        let end = candidate.end_offset.or(bound.map(|bound| bound.first_offset));
        // Of a file that was cut short nobody knows how far the log went.
        let short = (bytes.len() as u64) < candidate.header.file_bytes;
        let ends_well = if last {
            !(short
                || self.is_durable(candidate, at)
                || end.is_some_and(|end| end > self.chain().offset))
        } else {
            // Batches without a message have numbers all the same.
            let numbers_end = bound.map(|bound| bound.first_batch).filter(|_| self.linked);
            end.is_none_or(|end| end <= self.chain().offset)
                && numbers_end.is_none_or(|end| end <= self.chain().number)
        };
        if !ends_well {
            whole = false;
            let from = self.chain().offset;
            let reason = self.problem_at(&bytes, candidate, at);
            let to = self.lost_to(end);
            holes.push(Hole { position: at, offsets: from..to, reason, controls: true });
            // What was cut off counts as well.
            let all = candidate.header.file_bytes.max(bytes.len() as u64);
            let left = all.saturating_sub(at);
            self.lose(left, end, bound, last);
        }
        if let Some((end, reason)) = torn {
            let path = self.tail.storage.path(&candidate.name);
            self.tail.cuts.push(Cut { path, position: at, bytes: end - at, reason });
        }
        if whole && last {
            return self.keep(candidate, indexes);
        }
        // One that is whole is copied as well: what is sealed comes before what is not.
        self.harm.segments = true;
        if !whole && source == candidate.name {
            self.harm.set_aside(&candidate.name);
        }
        self.note_holes(candidate, candidate.problem.as_ref(), holes);
        let end = self.chain().offset;
        self.salvage(&bytes, candidate, &taken, end)
    }

    pub(super) fn chain(&self) -> Chain {
        self.chain.unwrap_or_else(|| self.tail.chain_from_head())
    }

    /// Goes to the start of a segment, over what is missing before it.
    pub(super) fn begin(&mut self, candidate: &Candidate, holes: &mut Vec<Hole>) {
        let header = &candidate.header;
        let known = candidate.header_read;
        let Some(chain) = &mut self.chain else {
            self.chain = Some(chain_from(header));
            self.linked = known;
            return;
        };
        if header.first_offset > chain.offset {
            holes.push(Hole {
                position: 0,
                offsets: chain.offset..header.first_offset,
                reason: "what comes before it is missing".to_owned(),
                controls: true,
            });
            chain.offset = header.first_offset;
        }
        if known && header.first_batch >= chain.number {
            chain.number = header.first_batch;
            chain.previous = header.previous;
            self.linked = true;
        }
        chain.epoch = chain.epoch.max(header.epoch);
    }

    /// A batch that is not of the log any more, or is in it already.
    pub(super) fn is_stale(&self, batch: &Gathered) -> bool {
        let chain = self.chain();
        let head = &self.tail.checkpoint.head;
        let lowest = if batch.number >= head.next_batch {
            chain.epoch.max(self.tail.checkpoint.epoch)
        } else {
            chain.epoch
        };
        batch.number < chain.number || batch.first_offset() < chain.offset || batch.epoch < lowest
    }

    pub(super) fn is_next(&self, batch: &Gathered) -> bool {
        let chain = self.chain();
        let Some(header) = batch.header else { return false };
        batch.checksum.is_some()
            && header.first_offset == chain.offset
            && (!self.linked || header.number == chain.number && header.previous == chain.previous)
    }

    pub(super) fn is_durable(&self, candidate: &Candidate, position: u64) -> bool {
        LogPosition { segment: candidate.header.segment, position } < self.tail.durable
    }

    /// Why the log does not go on there.
    pub(super) fn problem_at(&self, bytes: &[u8], candidate: &Candidate, at: u64) -> String {
        let (store, segment) = (self.tail.checkpoint.store, candidate.header.segment);
        let here = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        match open_batch(here, store, segment, at) {
            Err(source) => source.to_string(),
            Ok(_) => format!("the batch here is not number {} of the log", self.chain().number),
        }
    }

    /// Notes which messages are missing before and within a batch.
    pub(super) fn find_holes(
        &mut self,
        bytes: &[u8],
        candidate: &Candidate,
        at: u64,
        batch: &Gathered,
        holes: &mut Vec<Hole>,
    ) {
        let reason = self.problem_at(bytes, candidate, at);
        let controls = batch.controls_lost || batch.position > at;
        if controls {
            self.harm.lose_controls(batch.end() - at);
        }
        let before = holes.len();
        let mut next = self.chain().offset;
        let ends = batch.messages.iter().map(|message| (message.offset, message.offset.next()));
        let end = batch.end_offset();
        for (offset, after) in ends.chain([(end, end)]) {
            if offset > next {
                let reason = reason.clone();
                holes.push(Hole { position: at, offsets: next..offset, reason, controls });
            }
            next = next.max(after);
        }
        if holes.len() == before {
            let next = self.chain().offset;
            holes.push(Hole { position: at, offsets: next..next, reason, controls });
        }
    }

    pub(super) fn go_on(&mut self, batch: &Gathered) {
        self.chain = Some(Chain {
            number: BatchNumber(batch.number.0 + 1),
            previous: batch.checksum.unwrap_or(0),
            offset: batch.end_offset().max(self.chain().offset),
            epoch: batch.epoch,
        });
        self.linked = batch.checksum.is_some();
        let header = batch.header;
        self.tail.raise(header.map_or(LogPosition::default(), |h| h.durable), batch.epoch);
    }

    /// Where what is missing here ends, as far as it is known: at `end`, or at the checkpoint's.
    pub(super) fn lost_to(&self, end: Option<Offset>) -> Offset {
        end.unwrap_or(self.tail.checkpoint.head.next_offset).max(self.chain().offset)
    }

    /// Passes over numbers and ids that lost bytes may have used (Q2): those below the numbers of the
    /// next segment, if there is one.
    pub(super) fn lose(
        &mut self,
        bytes: u64,
        end: Option<Offset>,
        bound: Option<SegmentHeader>,
        last: bool,
    ) {
        let mut chain = self.chain();
        self.harm.lose_controls(bytes);
        match end {
            Some(end) => chain.offset = chain.offset.max(end),
            None if last => {
                chain.offset = self.lost_to(None);
                chain.offset.0 += bytes / MESSAGE_HEAD_BYTES as u64;
            }
            None => {}
        }
        chain.number = match bound {
            Some(bound) => chain.number.max(bound.first_batch),
            None => BatchNumber(chain.number.0 + bytes / BLOCK_BYTES as u64),
        };
        self.chain = Some(chain);
        self.linked = false;
    }

    /// Takes the last segment as it is.
    pub(super) fn keep(
        &mut self,
        candidate: &Candidate,
        indexes: Vec<(Arc<BatchIndex>, u32)>,
    ) -> Result<()> {
        let access = if self.tail.read_only { Access::Read } else { Access::Write };
        let file = open_segment(self.tail.storage, &candidate.name, access)?;
        let segment = Arc::new(Segment::open(candidate.header, file));
        for (index, checksum) in indexes {
            segment.push(index, checksum);
        }
        self.tail.log.add_segment(segment);
        Ok(())
    }

    /// Says where the log goes on.
    pub(super) fn finish(&mut self, ledger: &mut Ledger) {
        let head = self.tail.checkpoint.head;
        let mut chain = self.chain();
        if chain.offset < head.next_offset {
            chain.offset = head.next_offset;
            self.linked = false;
        }
        chain.number = chain.number.max(head.next_batch);
        ledger.skip_to(chain.number, chain.offset);
        ledger.head.previous = if self.linked { chain.previous } else { 0 };
        if let Some(last) = self.tail.log.segments().last().filter(|last| !last.is_sealed()) {
            ledger.head.position = last.end_position();
        }
        self.chain = Some(chain);
    }
}
