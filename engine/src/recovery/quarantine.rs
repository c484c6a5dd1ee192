//! Reads a damaged log: all that can be read, whatever stands between.
//!
//! Only what damage allows is given up. Segments that are whole are taken as they are; of one that is
//! not, what can be read goes into a new file (`salvage`), and what is missing is noted. The end of
//! the log is where the last segment's torn tail begins, as without damage.
//!
//! Q1. Nothing is taken that is not under a right checksum and in its order.
//! Q2. What was given out once is never given out again: offsets, batch numbers and ids that lost
//!     bytes may have used are passed over.

use std::{ops::Range, sync::Arc};

use super::{
    Cut,
    harm::{Harm, reason_of},
    open_segment,
    report::Gap,
    salvage,
    strays::header_of,
    tail::{Chain, Tail, chain_from},
};
use crate::{
    Error, Result,
    error::{ErrorKind, FileOp},
    ledger::Ledger,
    log::{
        Sought,
        batch::index_batch,
        gather::{Gathered, Known, Newer, gather},
        index::BatchIndex,
        segment::Segment,
    },
    route::{DEFAULT_EXCHANGE, Tables},
    storage::{Access, AlignedBuffer, StorageFile},
};
use fanlog_segment_format::{
    BatchNumber, DecodeError, LogPosition, Offset, SegmentId,
    batch::BatchHeader,
    checkpoint::SegmentEntry,
    control::Control,
    file_name::FileName,
    header::SegmentHeader,
    layout::{BLOCK_BYTES, MESSAGE_HEAD_BYTES, SEGMENT_HEADER_BYTES, align_up},
    record::{MessageRecord, RecordHead},
};

/// Bytes read at a time.
const PIECE_BYTES: usize = 1 << 20;
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
    end_offset: Option<Offset>,
}

/// What is missing of a segment.
struct Hole {
    position: u64,
    offsets: Range<Offset>,
    reason: String,
}

/// Reads a damaged log.
pub(super) struct Quarantine<'a> {
    pub(super) tail: Tail<'a>,
    pub(super) harm: &'a mut Harm,
    chain: Option<Chain>,
    /// The checksum of the batch before is known.
    linked: bool,
}

impl<'a> Quarantine<'a> {
    pub(super) fn new(tail: Tail<'a>, harm: &'a mut Harm) -> Self {
        Self { tail, harm, chain: None, linked: true }
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
            let later = open[at + 1..].iter().find(|later| later.problem.is_none());
            let bound = later.map(|later| later.header);
            self.take_open(&open[at], bound, at + 1 == open.len(), ledger, tables)?;
        }
        self.finish(ledger);
        self.tail.log.set_visible(ledger.head.next_offset);
        self.note_unrouted();
        Ok(())
    }

    /// A segment that the checkpoint lists.
    fn listed(&mut self, entry: &SegmentEntry) -> Result<Candidate> {
        let name = FileName::of_segment(entry.id, entry.generation).to_string();
        let problem = match self.tail.check_listed(entry) {
            Ok(header) => {
                let source = Some(name.clone());
                let end_offset = entry.end_offset;
                return Ok(Candidate { header, name, source, problem: None, end_offset });
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => error,
            Err(error) => return Err(error),
        };
        let inventory = self.tail.inventory;
        let is_it = |header: &SegmentHeader| {
            header.store == self.tail.checkpoint.store
                && header.segment == entry.id
                && header.generation == entry.generation
                && header.first_offset == entry.first_offset
        };
        let mut header = SegmentHeader {
            store: self.tail.checkpoint.store,
            segment: entry.id,
            covers_to: entry.covers_to,
            generation: entry.generation,
            first_offset: entry.first_offset,
            file_bytes: entry.file_bytes,
            ..SegmentHeader::default()
        };
        let own = header_of(self.tail.storage, inventory, entry.id, entry.generation)?;
        let there = inventory.segments.contains_key(&(entry.id, entry.generation));
        let mut source = (there && own.as_ref().is_none_or(is_it)).then(|| name.clone());
        if let Some(own) = own.filter(is_it) {
            header = own;
        }
        if source.is_none() {
            // It may have been renamed: its own header says which it is.
            for &(id, generation) in inventory.segments.keys() {
                let found = header_of(self.tail.storage, inventory, id, generation)?;
                if let Some(found) = found.filter(is_it) {
                    header = found;
                    source = Some(FileName::of_segment(id, generation).to_string());
                    break;
                }
            }
        }
        if there {
            self.harm.set_aside(&name);
        }
        self.harm.segments = true;
        let end_offset = entry.end_offset;
        Ok(Candidate { header, name, source, problem: Some(problem), end_offset })
    }

    /// A segment behind the list, if it was begun.
    fn beyond(&mut self, id: SegmentId) -> Result<Option<Candidate>> {
        let name = FileName::Segment(id).to_string();
        let (store, epoch) = (self.tail.checkpoint.store, self.tail.checkpoint.epoch);
        let own = header_of(self.tail.storage, self.tail.inventory, id, 0)?;
        let mut candidate = Candidate {
            header: SegmentHeader { store, segment: id, covers_to: id, ..SegmentHeader::default() },
            name: name.clone(),
            source: Some(name.clone()),
            problem: None,
            end_offset: None,
        };
        if let Some(header) = own {
            candidate.header = header;
            return Ok((header.store == store && header.segment == id).then_some(candidate));
        }
        let bytes = self.read_whole(&name)?;
        candidate.header.file_bytes = bytes.len() as u64;
        let batches = self.gather(&bytes, &candidate, None)?;
        let Some(first) = batches.first().filter(|first| first.epoch >= epoch) else {
            return Ok(None);
        };
        candidate.header.first_offset = first.first_offset();
        candidate.header.first_batch = first.number;
        candidate.header.epoch = first.epoch;
        let problem = "batches follow, but the segment's header is bad".to_owned();
        let path = self.tail.storage.path(&name);
        candidate.problem = Some(Error::Damaged { path, position: 0, problem });
        self.harm.set_aside(&name);
        self.harm.segments = true;
        Ok(Some(candidate))
    }

    /// Notes what a segment that is not sealed says of what is durable.
    fn look(&mut self, candidate: &Candidate) -> Result<()> {
        let SegmentHeader { segment, epoch, .. } = candidate.header;
        self.tail.raise(LogPosition { segment, position: 0 }, epoch);
        let Some(source) = &candidate.source else { return Ok(()) };
        let bytes = self.read_whole(source)?;
        for at in (SEGMENT_HEADER_BYTES..bytes.len()).step_by(BLOCK_BYTES) {
            let store = self.tail.checkpoint.store;
            let block = &bytes[at..at + BLOCK_BYTES];
            if let Ok(header) = BatchHeader::decode(block, store, segment, at as u64) {
                self.tail.raise(header.durable, header.epoch);
            }
        }
        Ok(())
    }

    fn gather(
        &self,
        bytes: &[u8],
        candidate: &Candidate,
        bound: Option<&SegmentHeader>,
    ) -> Result<Vec<Gathered>> {
        let mut known = known(candidate, bound, bytes.len());
        let checkpoint = self.tail.checkpoint;
        let head = checkpoint.head;
        if checkpoint.clean && head.position.segment == candidate.header.segment {
            known.end_offset = known.end_offset.or(Some(head.next_offset));
            known.end_batch = known.end_batch.or(Some(head.next_batch));
        }
        gather(&|range| bytes.get(range), &known).map_err(|Newer(position, source)| {
            let name = candidate.source.as_deref().unwrap_or(&candidate.name);
            Error::decode(self.tail.storage.path(name), position, source)
        })
    }

    /// A sealed segment: as it is if header and footer are whole.
    fn take_sealed(&mut self, candidate: &Candidate, end: Offset) -> Result<()> {
        let mut problem = candidate.problem.clone();
        if problem.is_none() {
            let header = candidate.header;
            let segment = Arc::new(Segment::sealed(header, end, header.file_bytes));
            self.tail.log.add_segment(Arc::clone(&segment));
            problem = match self.tail.log.reader(&segment) {
                Ok(reader) => reader.and_then(|reader| reader.footer_damage().cloned()),
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
        for Hole { position, offsets, reason } in holes {
            let Range { start: from, end: to } = offsets;
            let path = path.clone();
            self.harm.gaps.push(Gap { path, position, from, to, reason, kept_as: None });
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

    /// A segment that is not sealed: its batches are read, and those behind the checkpoint applied.
    ///
    /// `bound` is the header of the next one that is whole.
    fn take_open(
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
            self.lose(LOST_SEGMENT_BYTES, end, last);
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
        let ends_well = if last {
            !(self.is_durable(candidate, at) || end.is_some_and(|end| end > self.chain().offset))
        } else {
            end.is_none_or(|end| end <= self.chain().offset)
        };
        if !ends_well {
            whole = false;
            let from = self.chain().offset;
            let reason = self.problem_at(&bytes, candidate, at);
            let to = self.lost_to(end);
            holes.push(Hole { position: at, offsets: from..to, reason });
            let left = (bytes.len() as u64).saturating_sub(at);
            self.lose(left, end, last);
        }
        if let Some((end, reason)) = torn {
            let path = self.tail.storage.path(&candidate.name);
            self.tail.cuts.push(Cut { path, position: at, bytes: end - at, reason });
        }
        if whole {
            return self.keep(candidate, indexes, last);
        }
        self.harm.segments = true;
        if source == candidate.name {
            self.harm.set_aside(&candidate.name);
        }
        self.note_holes(candidate, candidate.problem.as_ref(), holes);
        let end = self.chain().offset;
        self.salvage(&bytes, candidate, &taken, end)
    }

    fn chain(&self) -> Chain {
        self.chain.unwrap_or_else(|| self.tail.chain_from_head())
    }

    /// Goes to the start of a segment, over what is missing before it.
    fn begin(&mut self, candidate: &Candidate, holes: &mut Vec<Hole>) {
        let header = &candidate.header;
        let known = candidate.problem.is_none();
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
    fn is_stale(&self, batch: &Gathered) -> bool {
        let chain = self.chain();
        let head = &self.tail.checkpoint.head;
        let lowest = if batch.number >= head.next_batch {
            chain.epoch.max(self.tail.checkpoint.epoch)
        } else {
            chain.epoch
        };
        batch.number < chain.number || batch.first_offset() < chain.offset || batch.epoch < lowest
    }

    fn is_next(&self, batch: &Gathered) -> bool {
        let chain = self.chain();
        let Some(header) = batch.header else { return false };
        batch.checksum.is_some()
            && header.first_offset == chain.offset
            && (!self.linked || header.number == chain.number && header.previous == chain.previous)
    }

    fn is_durable(&self, candidate: &Candidate, position: u64) -> bool {
        LogPosition { segment: candidate.header.segment, position } < self.tail.durable
    }

    /// Why the log does not go on there.
    fn problem_at(&self, bytes: &[u8], candidate: &Candidate, at: u64) -> String {
        let (store, segment) = (self.tail.checkpoint.store, candidate.header.segment);
        let here = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        match fanlog_segment_format::batch::open_batch(here, store, segment, at) {
            Err(source) => source.to_string(),
            Ok(_) => format!("the batch here is not number {} of the log", self.chain().number),
        }
    }

    /// Notes which messages are missing before and within a batch.
    fn find_holes(
        &mut self,
        bytes: &[u8],
        candidate: &Candidate,
        at: u64,
        batch: &Gathered,
        holes: &mut Vec<Hole>,
    ) {
        let reason = self.problem_at(bytes, candidate, at);
        let before = holes.len();
        let mut next = self.chain().offset;
        let ends = batch.messages.iter().map(|message| (message.offset, message.offset.next()));
        let end = batch.end_offset();
        for (offset, after) in ends.chain([(end, end)]) {
            if offset > next {
                let reason = reason.clone();
                holes.push(Hole { position: at, offsets: next..offset, reason });
            }
            next = next.max(after);
        }
        if holes.len() == before {
            let next = self.chain().offset;
            holes.push(Hole { position: at, offsets: next..next, reason });
        }
        // Control records of a batch that is not whole may be among what is lost.
        self.harm.lose_controls(batch.end() - at);
    }

    fn go_on(&mut self, batch: &Gathered) {
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
    fn lost_to(&self, end: Option<Offset>) -> Offset {
        end.unwrap_or(self.tail.checkpoint.head.next_offset).max(self.chain().offset)
    }

    /// Passes over numbers and ids that lost bytes may have used (Q2).
    fn lose(&mut self, bytes: u64, end: Option<Offset>, last: bool) {
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
        chain.number.0 += bytes / BLOCK_BYTES as u64;
        self.chain = Some(chain);
        self.linked = false;
    }

    /// Applies a batch to the ledger, if the checkpoint does not have it. Returns its indexes: one,
    /// or of a damaged one a piece for each run of offsets.
    fn apply(
        &mut self,
        bytes: &[u8],
        candidate: &Candidate,
        batch: &Gathered,
        ledger: &mut Ledger,
        tables: &mut Tables,
    ) -> Result<Vec<(Arc<BatchIndex>, u32)>> {
        let path = self.tail.storage.path(&candidate.name);
        let bad = |source: DecodeError| Error::decode(path.clone(), batch.position, source);
        let start = usize::try_from(batch.position).unwrap_or(usize::MAX);
        let end = (start + batch.total_bytes as usize).min(bytes.len());
        let slice = &bytes[start..end];
        let indexes = match (&batch.header, batch.checksum) {
            (Some(header), Some(_)) => {
                vec![index_batch(slice, header, &mut self.tail.builder).map_err(bad)?]
            }
            _ => self.index_pieces(slice, candidate.header.segment, batch),
        };
        let indexes: Vec<_> =
            indexes.into_iter().map(|(index, checksum)| (Arc::new(index), checksum)).collect();
        if batch.number < self.tail.checkpoint.head.next_batch {
            return Ok(indexes);
        }
        self.tail.replayed_batches += 1;
        for (index, checksum) in &indexes {
            for &position in &*index.controls {
                let (control, _) = Control::decode(&slice[position as usize..]).map_err(bad)?;
                tables.replay(&control).map_err(bad)?;
            }
            self.find_routes(index, slice, ledger, tables);
            ledger.skip_to(index.number, index.first_offset);
            ledger.apply(index, slice, *checksum, self.tail.log).map_err(bad)?;
        }
        Ok(indexes)
    }

    /// Defines routes whose definitions are lost: a message says where it was published, and the
    /// topology at this place of the log says whose it is then.
    fn find_routes(
        &mut self,
        index: &BatchIndex,
        slice: &[u8],
        ledger: &mut Ledger,
        tables: &mut Tables,
    ) {
        for (at, count) in (0..).zip(index.routes()) {
            if self.tail.log.route_groups(count.route).is_some() {
                continue;
            }
            ledger.use_route(count.route);
            let start = index.position_of(index.route_message(at, 0)) as usize;
            let Ok((message, _)) = MessageRecord::decode(&slice[start..]) else { continue };
            let exchange = match message.exchange {
                DEFAULT_EXCHANGE => Some(Arc::from("")),
                other => tables.exchange_name(other),
            };
            let key = std::str::from_utf8(message.key).ok();
            let (Some(exchange), Some(key)) = (exchange, key) else { continue };
            if let Ok(Some((_, group))) = tables.group(&exchange, key) {
                tables.recover_route(count.route, &[group.0]);
                ledger.define_route(count.route, Arc::new([group]), self.tail.log);
            }
        }
    }

    /// Notes messages that nothing says whose they are.
    fn note_unrouted(&mut self) {
        let mut at = Offset(0);
        let unrouted = |route| self.tail.log.route_groups(route).is_none();
        while let Ok(Sought::View(view)) = self.tail.log.seek(at, &unrouted) {
            let mut offsets = Vec::new();
            for route in (0..view.routes()).filter(|&route| unrouted(view.route(route).route)) {
                let numbers = view.route_lower_bound(route, at)..view.route(route).messages;
                offsets.extend(numbers.map(|nth| view.offset_of(view.route_message(route, nth))));
            }
            offsets.sort_unstable();
            for run in offsets.chunk_by(|a, b| a.next() == *b) {
                self.harm.gaps.push(Gap {
                    path: self.tail.storage.path(""),
                    position: 0,
                    from: run[0],
                    to: run[run.len() - 1].next(),
                    reason: "the record that says whose they are is lost".to_owned(),
                    kept_as: None,
                });
            }
            at = view.end_offset().max(at.next());
        }
    }

    /// Indexes of the runs of offsets that are left of a damaged batch.
    fn index_pieces(
        &mut self,
        slice: &[u8],
        segment: SegmentId,
        batch: &Gathered,
    ) -> Vec<(BatchIndex, u32)> {
        let mut pieces = Vec::new();
        let builder = &mut self.tail.builder;
        let start = u32::try_from(batch.position).unwrap_or(u32::MAX);
        for &control in &batch.controls {
            builder.control(control - start);
        }
        let mut first = batch.first_offset();
        let mut next = first;
        for message in &batch.messages {
            if message.offset != next {
                let total = batch.total_bytes;
                pieces
                    .push((builder.build(batch.number, segment, batch.position, total, first), 0));
                first = message.offset;
            }
            next = message.offset.next();
            let at = message.position - start;
            if let Ok(head) = RecordHead::peek(&slice[at as usize..]) {
                builder.message(at, &head, message.time_us());
            }
        }
        let total = batch.total_bytes;
        pieces.push((builder.build(batch.number, segment, batch.position, total, first), 0));
        pieces
    }

    /// Takes a segment as it is.
    fn keep(
        &mut self,
        candidate: &Candidate,
        indexes: Vec<(Arc<BatchIndex>, u32)>,
        last: bool,
    ) -> Result<()> {
        let access = if self.tail.read_only { Access::Read } else { Access::Write };
        let file = open_segment(self.tail.storage, &candidate.name, access)?;
        let segment = Arc::new(Segment::open(candidate.header, file));
        for (index, checksum) in indexes {
            segment.push(index, checksum);
        }
        if !last {
            segment.close(self.chain().offset);
        }
        self.tail.log.add_segment(segment);
        Ok(())
    }

    /// Says where the log goes on.
    fn finish(&mut self, ledger: &mut Ledger) {
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

    /// The bytes of a file, in whole blocks; zeros where they can't be read.
    fn read_whole(&mut self, name: &str) -> Result<AlignedBuffer> {
        let storage = self.tail.storage;
        let file = open_segment(storage, name, Access::Read)?;
        let bytes =
            file.bytes().map_err(|source| Error::io(FileOp::Read, storage.path(name), source))?;
        let bytes = usize::try_from(bytes.min(2 * LOST_SEGMENT_BYTES)).unwrap_or(0);
        let mut buffer = AlignedBuffer::zeroed(align_up(bytes, BLOCK_BYTES));
        let mut at = 0;
        while at < bytes {
            let end = (at + PIECE_BYTES).min(buffer.len());
            if read_piece(&*file, at, &mut buffer[at..end]).is_err() {
                for start in (at..end).step_by(BLOCK_BYTES) {
                    let block = &mut buffer[start..start + BLOCK_BYTES];
                    if read_piece(&*file, start, block).is_err() {
                        block.fill(0);
                    }
                }
            }
            at = end;
        }
        self.tail.read_bytes += bytes as u64;
        Ok(buffer)
    }
}

/// Reads as much as there is of a piece.
fn read_piece(file: &dyn StorageFile, at: usize, piece: &mut [u8]) -> std::io::Result<()> {
    let mut done = 0;
    while done < piece.len() {
        let read = file.read_at((at + done) as u64, &mut piece[done..])?;
        done += read;
        if read == 0 || !done.is_multiple_of(BLOCK_BYTES) {
            break;
        }
    }
    Ok(())
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
            holes.push(Hole { position, offsets, reason: reason.to_owned() });
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
