//! Reads the log from the checkpoint on, up to where it ends.
//!
//! T1. A batch counts if it is valid in its place and follows the one before: number, checksum,
//!     offset, epoch not lower.
//! T2. A segment ends where the header of the next one says: a batch of that number or a higher one
//!     found no space here, perhaps with its last bytes, and was written again there.
//! T3. Bad bytes below the largest durable position that any valid batch or header states are
//!     damage. At or past it they are a torn tail.

use std::sync::Arc;

use fanlog_segment_format::{
    BatchNumber, DecodeError, Epoch, LogPosition, Offset, SegmentId,
    batch::BatchHeader,
    checkpoint::{Checkpoint, SegmentEntry},
    control::Control,
    file_name::FileName,
    header::SegmentHeader,
    layout::{BLOCK_BYTES, SEGMENT_HEADER_BYTES},
};

use super::{Cut, RecoveryReport, inventory::Inventory, open_segment, read_block};
use crate::{
    Error, Result,
    error::FileOp,
    ledger::Ledger,
    log::{
        Log,
        batch::index_batch,
        index::{BatchIndex, IndexBuilder},
        segment::Segment,
    },
    route::Tables,
    storage::{Access, AlignedBuffer, Storage, StorageFile},
};

/// What the next batch has to match (T1).
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    pub(super) number: BatchNumber,
    pub(super) previous: u32,
    pub(super) offset: Offset,
    pub(super) epoch: Epoch,
}

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// No batch stands there, or not the next one.
    NotNext(Option<DecodeError>),
    /// The next batch's header stands there; its records or its mark do not.
    Torn(DecodeError, u64),
}

/// Reads the end of the log.
pub(super) struct Tail<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) inventory: &'a Inventory,
    pub(super) log: &'a Log,
    pub(super) read_only: bool,
    pub(super) builder: IndexBuilder,
    epoch: Epoch,
    pub(super) durable: LogPosition,
    pub(super) replayed_batches: u64,
    pub(super) read_bytes: u64,
    pub(super) cuts: Vec<Cut>,
}

impl<'a> Tail<'a> {
    pub(super) fn new(
        storage: &'a dyn Storage,
        checkpoint: &'a Checkpoint,
        inventory: &'a Inventory,
        log: &'a Log,
        read_only: bool,
    ) -> Self {
        Self {
            storage,
            checkpoint,
            inventory,
            log,
            read_only,
            builder: IndexBuilder::default(),
            epoch: checkpoint.epoch,
            durable: checkpoint.head.position,
            replayed_batches: 0,
            read_bytes: 0,
            cuts: Vec::new(),
        }
    }

    /// The highest epoch seen.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn report(&self, inventory: &Inventory) -> RecoveryReport {
        RecoveryReport {
            replayed_batches: self.replayed_batches,
            read_bytes: self.read_bytes,
            cuts: self.cuts.clone(),
            strangers: inventory.strangers.clone(),
            ..RecoveryReport::default()
        }
    }

    /// Checks the listed segments and reads what is not sealed; then goes on behind the list.
    pub(super) fn read_all(&mut self, ledger: &mut Ledger, tables: &mut Tables) -> Result<()> {
        let mut chain = None;
        let mut last: Option<(Arc<Segment>, Stop)> = None;
        for entry in &self.checkpoint.segments {
            let header = self.check_listed(entry)?;
            if let (true, Some(end)) = (entry.sealed, entry.end_offset) {
                self.log.add_segment(Arc::new(Segment::sealed(header, end, entry.file_bytes)));
                continue;
            }
            let chain = chain.get_or_insert_with(|| chain_from(&header));
            if !follows(&header, chain) {
                return Err(self.damaged(entry.id, 0, "it does not follow the segment before"));
            }
            let (segment, stop) = self.scan(header, chain, ledger, tables)?;
            if let Some(end) = entry.end_offset {
                if chain.offset != end {
                    return Err(self.corrupt(&segment, stop));
                }
                segment.close(end);
            }
            last = Some((segment, stop));
        }
        if chain.is_none() && !self.checkpoint.segments.is_empty() {
            // One is always appended to; without it nothing says what stands behind the sealed ones.
            return Err(Error::Damaged {
                path: self.storage.path(&FileName::Checkpoint(self.checkpoint.number).to_string()),
                position: 0,
                problem: "it lists no segment that is appended to".to_owned(),
            });
        }
        let mut chain = chain.unwrap_or_else(|| self.chain_from_head());
        let mut next = self
            .checkpoint
            .segments
            .last()
            .map_or_else(|| self.checkpoint.next_ids.segment.max(1), |entry| entry.covers_to.0 + 1);
        while let Some(header) = self.open_next(SegmentId(next), &chain)? {
            let bytes = self.inventory.segments.get(&(header.segment, 0)).copied();
            self.check_size(&header, bytes.unwrap_or(0))?;
            if let Some((segment, _)) = last.take() {
                segment.close(chain.offset);
            }
            self.raise(LogPosition { segment: header.segment, position: 0 }, header.epoch);
            last = Some(self.scan(header, &mut chain, ledger, tables)?);
            next += 1;
        }
        if let Some((segment, stop)) = last {
            self.end_at(&segment, stop, &chain, SegmentId(next))?;
        }
        Ok(())
    }

    pub(super) fn chain_from_head(&self) -> Chain {
        let head = self.checkpoint.head;
        Chain {
            number: head.next_batch,
            previous: head.previous,
            offset: head.next_offset,
            epoch: Epoch(0),
        }
    }

    pub(super) fn raise(&mut self, durable: LogPosition, epoch: Epoch) {
        self.durable = self.durable.max(durable);
        self.epoch = self.epoch.max(epoch);
    }

    pub(super) fn damaged(&self, id: SegmentId, position: u64, problem: &str) -> Error {
        let path = self.storage.path(&FileName::Segment(id).to_string());
        Error::Damaged { path, position, problem: problem.to_owned() }
    }

    /// A segment that the checkpoint lists: there, whole, and the one it should be.
    pub(super) fn check_listed(&self, entry: &SegmentEntry) -> Result<SegmentHeader> {
        let name = FileName::of_segment(entry.id, entry.generation).to_string();
        let damaged = |position, problem: &str| {
            let path = self.storage.path(&name);
            Error::Damaged { path, position, problem: problem.to_owned() }
        };
        let found = self.inventory.segments.get(&(entry.id, entry.generation));
        let Some(&bytes) = found else {
            return Err(damaged(0, "the file is missing"));
        };
        if bytes < entry.file_bytes {
            let problem = format!("the file ends here, it should have {} bytes", entry.file_bytes);
            return Err(damaged(bytes, &problem));
        }
        let file = open_segment(self.storage, &name, Access::Read)?;
        let block = read_block(self.storage, &name, &*file)?;
        let header = SegmentHeader::decode(&block)
            .map_err(|source| Error::decode(self.storage.path(&name), 0, source))?;
        if header.store != self.checkpoint.store {
            return Err(damaged(0, "it belongs to another store"));
        }
        let expected = (entry.id, entry.generation, entry.first_offset);
        if (header.segment, header.generation, header.first_offset) != expected {
            let problem = format!(
                "it is segment {} generation {} from offset {}, expected was {} generation {} from \
                 offset {}",
                header.segment,
                header.generation,
                header.first_offset,
                entry.id,
                entry.generation,
                entry.first_offset,
            );
            return Err(damaged(0, &problem));
        }
        Ok(header)
    }

    /// A segment that was begun has its size: that was durable before its header was.
    pub(super) fn check_size(&self, header: &SegmentHeader, bytes: u64) -> Result<()> {
        if bytes >= header.file_bytes {
            return Ok(());
        }
        let problem = format!("the file ends here, it should have {} bytes", header.file_bytes);
        Err(self.damaged(header.segment, bytes, &problem))
    }

    /// The segment after the last, if it was begun.
    fn open_next(&self, id: SegmentId, chain: &Chain) -> Result<Option<SegmentHeader>> {
        Ok(self.header_of(id)?.filter(|header| follows(header, chain)))
    }

    /// The header of a segment of this log, if there is a valid one.
    fn header_of(&self, id: SegmentId) -> Result<Option<SegmentHeader>> {
        let Some(&bytes) = self.inventory.segments.get(&(id, 0)) else { return Ok(None) };
        if bytes < SEGMENT_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let name = FileName::Segment(id).to_string();
        let file = open_segment(self.storage, &name, Access::Read)?;
        let block = read_block(self.storage, &name, &*file)?;
        let Ok(header) = SegmentHeader::decode(&block) else { return Ok(None) };
        let own = header.store == self.checkpoint.store && header.segment == id;
        Ok(own.then_some(header))
    }

    /// Reads the batches of one segment, indexing all and applying those behind the checkpoint.
    fn scan(
        &mut self,
        header: SegmentHeader,
        chain: &mut Chain,
        ledger: &mut Ledger,
        tables: &mut Tables,
    ) -> Result<(Arc<Segment>, Stop)> {
        let name = FileName::Segment(header.segment).to_string();
        // Appending goes on through this handle, so it is opened for writing; nothing is written
        // before recovery is done.
        let access = if self.read_only { Access::Read } else { Access::Write };
        let file = open_segment(self.storage, &name, access)?;
        let segment = Arc::new(Segment::open(header, Arc::clone(&file)));
        self.log.add_segment(Arc::clone(&segment));
        let mut position = SEGMENT_HEADER_BYTES as u64;
        let next = self.header_of(SegmentId(header.covers_to.0 + 1))?;
        loop {
            if next.as_ref().is_some_and(|next| chain.number >= next.first_batch) {
                return Ok((segment, Stop::NotNext(None)));
            }
            let batch = match self.read_batch(&segment, &*file, position, chain)? {
                Ok(batch) => batch,
                Err(stop) => return Ok((segment, stop)),
            };
            let Read { header, bytes, index, checksum } = batch;
            position += u64::from(index.total_bytes);
            self.raise(header.durable, header.epoch);
            *chain = Chain {
                number: BatchNumber(header.number.0 + 1),
                previous: checksum,
                offset: index.end_offset(),
                epoch: header.epoch,
            };
            let index = Arc::new(index);
            segment.push(Arc::clone(&index), checksum);
            if header.number >= self.checkpoint.head.next_batch {
                self.replay(&segment, &index, &bytes, checksum, ledger, tables)?;
            }
        }
    }

    fn replay(
        &mut self,
        segment: &Segment,
        index: &BatchIndex,
        bytes: &[u8],
        checksum: u32,
        ledger: &mut Ledger,
        tables: &mut Tables,
    ) -> Result<()> {
        self.replayed_batches += 1;
        let bad = |source: DecodeError| {
            Error::decode(self.storage.path(&segment.name), index.position, source)
        };
        for &position in &*index.controls {
            let (control, _) = Control::decode(&bytes[position as usize..]).map_err(bad)?;
            tables.replay(&control).map_err(bad)?;
        }
        ledger.apply(index, bytes, checksum, self.log).map_err(bad)?;
        Ok(())
    }

    /// The batch at `position`, if it is the next one.
    fn read_batch(
        &mut self,
        segment: &Segment,
        file: &dyn StorageFile,
        position: u64,
        chain: &Chain,
    ) -> Result<Result<Read, Stop>> {
        let id = segment.id();
        let store = self.checkpoint.store;
        if position + BLOCK_BYTES as u64 > segment.header.file_bytes {
            return Ok(Err(Stop::NotNext(None)));
        }
        let first = self.read(segment, file, position, BLOCK_BYTES)?;
        let header = match BatchHeader::decode(&first, store, id, position) {
            Ok(header) => header,
            Err(source) if source.is_version() => {
                return Err(Error::decode(self.storage.path(&segment.name), position, source));
            }
            Err(source) => return Ok(Err(Stop::NotNext(Some(source)))),
        };
        let lowest = if chain.number >= self.checkpoint.head.next_batch {
            chain.epoch.max(self.checkpoint.epoch)
        } else {
            chain.epoch
        };
        let next = header.number == chain.number
            && header.previous == chain.previous
            && header.first_offset == chain.offset
            && header.epoch >= lowest;
        if !next {
            return Ok(Err(Stop::NotNext(None)));
        }
        let total = header.total_bytes();
        if position + total as u64 > segment.header.file_bytes {
            let error = DecodeError::Truncated {
                structure: "batch",
                position: 0,
                needed: total as u64,
                found: segment.header.file_bytes - position,
            };
            return Ok(Err(Stop::Torn(error, segment.header.file_bytes - position)));
        }
        let bytes =
            if total == BLOCK_BYTES { first } else { self.read(segment, file, position, total)? };
        match index_batch(&bytes, &header, &mut self.builder) {
            Ok((index, checksum)) => Ok(Ok(Read { header, bytes, index, checksum })),
            Err(source) if source.is_version() => {
                Err(Error::decode(self.storage.path(&segment.name), position, source))
            }
            Err(source) => Ok(Err(Stop::Torn(source, total as u64))),
        }
    }

    pub(super) fn read(
        &mut self,
        segment: &Segment,
        file: &dyn StorageFile,
        position: u64,
        bytes: usize,
    ) -> Result<AlignedBuffer> {
        let mut buffer = AlignedBuffer::zeroed(bytes);
        file.read_exact_at(position, &mut buffer)
            .map_err(|source| Error::io(FileOp::Read, self.storage.path(&segment.name), source))?;
        self.read_bytes += bytes as u64;
        Ok(buffer)
    }
}

/// A batch that counts.
struct Read {
    header: BatchHeader,
    bytes: AlignedBuffer,
    index: BatchIndex,
    checksum: u32,
}

pub(super) fn chain_from(header: &SegmentHeader) -> Chain {
    Chain {
        number: header.first_batch,
        previous: header.previous,
        offset: header.first_offset,
        epoch: Epoch(0),
    }
}

/// Whether a segment's header continues the log there.
fn follows(header: &SegmentHeader, chain: &Chain) -> bool {
    header.first_batch == chain.number
        && header.previous == chain.previous
        && header.first_offset == chain.offset
        && header.epoch >= chain.epoch
}
