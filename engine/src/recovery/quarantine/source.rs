//! Where the bytes of each segment are, if they are anywhere.

use fanlog_segment_format::{
    LogPosition, SegmentId,
    batch::BatchHeader,
    checkpoint::SegmentEntry,
    file_name::FileName,
    header::SegmentHeader,
    layout::{BLOCK_BYTES, SEGMENT_HEADER_BYTES, align_up},
};

use super::{Candidate, LOST_SEGMENT_BYTES, Quarantine, known};
use crate::{
    Error, Result,
    error::{ErrorKind, FileOp},
    log::gather::{Gathered, Newer, gather},
    recovery::{open_segment, strays::header_of},
    storage::{Access, AlignedBuffer, StorageFile},
};

/// Bytes read at a time.
const PIECE_BYTES: usize = 1 << 20;

impl Quarantine<'_> {
    /// A segment that the checkpoint lists.
    pub(super) fn listed(&mut self, entry: &SegmentEntry) -> Result<Candidate> {
        let name = FileName::of_segment(entry.id, entry.generation).to_string();
        let problem = match self.tail.check_listed(entry) {
            Ok(header) => {
                let source = Some(name.clone());
                let end_offset = entry.end_offset;
                let header_read = true;
                return Ok(Candidate {
                    header,
                    name,
                    source,
                    problem: None,
                    header_read,
                    end_offset,
                });
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
        let mut header_read = false;
        if let Some(own) = own.filter(is_it) {
            header = own;
            header_read = true;
        }
        if source.is_none() {
            // It may have been renamed: its own header says which it is.
            for &(id, generation) in inventory.segments.keys() {
                let found = header_of(self.tail.storage, inventory, id, generation)?;
                if let Some(found) = found.filter(is_it) {
                    header = found;
                    header_read = true;
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
        Ok(Candidate { header, name, source, problem: Some(problem), header_read, end_offset })
    }

    /// A segment behind the list, if it was begun.
    pub(super) fn beyond(&mut self, id: SegmentId) -> Result<Option<Candidate>> {
        let name = FileName::Segment(id).to_string();
        let (store, epoch) = (self.tail.checkpoint.store, self.tail.checkpoint.epoch);
        let own = header_of(self.tail.storage, self.tail.inventory, id, 0)?;
        let mut candidate = Candidate {
            header: SegmentHeader { store, segment: id, covers_to: id, ..SegmentHeader::default() },
            name: name.clone(),
            source: Some(name.clone()),
            problem: None,
            header_read: own.is_some(),
            end_offset: None,
        };
        if let Some(header) = own {
            candidate.header = header;
            if header.store != store || header.segment != id {
                return Ok(None);
            }
            let bytes = self.tail.inventory.segments.get(&(id, 0)).copied().unwrap_or(0);
            if let Err(problem) = self.tail.check_size(&header, bytes) {
                candidate.problem = Some(problem);
                self.harm.set_aside(&name);
                self.harm.segments = true;
            }
            return Ok(Some(candidate));
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
    pub(super) fn look(&mut self, candidate: &Candidate) -> Result<()> {
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

    pub(super) fn gather(
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

    /// The bytes of a file, in whole blocks; zeros where they can't be read.
    pub(super) fn read_whole(&mut self, name: &str) -> Result<AlignedBuffer> {
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
