//! Decides where the log ends, and whether what stands behind is a torn tail or damage.

use std::sync::Arc;

use fanlog_segment_format::{
    LogPosition, SegmentId,
    batch::BatchHeader,
    file_name::FileName,
    header::{SegmentHeader, is_blank},
    layout::{BLOCK_BYTES, SEGMENT_HEADER_BYTES},
};

use super::{
    Cut, open_segment, read_block,
    tail::{Chain, Stop, Tail},
};
use crate::{
    Error, Result,
    error::FileOp,
    log::segment::Segment,
    storage::{Access, AlignedBuffer, StorageFile},
};

/// Bytes read at a time while looking for headers.
const LOOK_BYTES: usize = 1 << 20;

impl Tail<'_> {
    /// Decides what the bytes behind the last batch are: nothing, a torn tail, or damage (T3).
    pub(super) fn end_at(
        &mut self,
        segment: &Arc<Segment>,
        stop: Stop,
        chain: &Chain,
        beyond: SegmentId,
    ) -> Result<()> {
        let position = segment.log_end();
        let here = LogPosition { segment: segment.id(), position };
        let torn_end = self.look_ahead(segment, position, chain)?;
        self.look_beyond(beyond)?;
        if here < self.durable {
            return Err(self.corrupt(segment, stop));
        }
        let (reason, own_end) = match &stop {
            Stop::Torn(source, bytes) => (source.to_string(), position + bytes),
            Stop::NotNext(Some(source)) => (source.to_string(), 0),
            Stop::NotNext(None) => ("not the next batch of the log".to_owned(), 0),
        };
        let end = own_end.max(torn_end);
        if end > position {
            let path = self.storage.path(&segment.name);
            self.cuts.push(Cut { path, position, bytes: end - position, reason });
        }
        Ok(())
    }

    /// Notes what batches behind `position` state as durable. Returns where the last one of the
    /// crashed epoch ends, 0 if there is none.
    fn look_ahead(&mut self, segment: &Segment, position: u64, chain: &Chain) -> Result<u64> {
        let Some(file) = segment.file() else { return Ok(0) };
        let mut torn_end = 0;
        let mut at = position;
        while at < segment.header.file_bytes {
            let left = segment.header.file_bytes - at;
            let bytes = usize::try_from(left).unwrap_or(LOOK_BYTES).min(LOOK_BYTES);
            let piece = self.read(segment, &*file, at, bytes)?;
            for (block, start) in piece.chunks(BLOCK_BYTES).zip((at..).step_by(BLOCK_BYTES)) {
                let store = self.checkpoint.store;
                let Ok(header) = BatchHeader::decode(block, store, segment.id(), start) else {
                    continue;
                };
                self.raise(header.durable, header.epoch);
                // Of this epoch, and not before the end: never completed.
                if header.epoch >= self.checkpoint.epoch && header.number >= chain.number {
                    torn_end = torn_end.max(start + header.total_bytes() as u64);
                }
            }
            at += bytes as u64;
        }
        Ok(torn_end)
    }

    /// A later segment that was begun proves that all before it is durable.
    fn look_beyond(&mut self, beyond: SegmentId) -> Result<()> {
        let later: Vec<SegmentId> =
            self.inventory.segments.range((beyond, 0)..).map(|(&(id, _), _)| id).collect();
        for id in later {
            let name = FileName::Segment(id).to_string();
            let bytes = self.inventory.segments.get(&(id, 0));
            if bytes.is_none_or(|&bytes| bytes < SEGMENT_HEADER_BYTES as u64) {
                continue;
            }
            let file = open_segment(self.storage, &name, Access::Read)?;
            let block = read_block(self.storage, &name, &*file)?;
            if is_blank(&block) {
                // It was never begun, unless batches follow: then its header did not stay.
                self.look_past_bad_header(id, &*file)?;
                continue;
            }
            match SegmentHeader::decode(&block) {
                Ok(header) if header.store == self.checkpoint.store && header.segment == id => {
                    self.raise(LogPosition { segment: id, position: 0 }, header.epoch);
                }
                // Its header was being written when the machine stopped, unless batches follow.
                _ => self.look_past_bad_header(id, &*file)?,
            }
        }
        Ok(())
    }

    fn look_past_bad_header(&mut self, id: SegmentId, file: &dyn StorageFile) -> Result<()> {
        let name = FileName::Segment(id).to_string();
        let bytes = self.inventory.segments.get(&(id, 0)).copied().unwrap_or(0);
        if bytes < (SEGMENT_HEADER_BYTES + BLOCK_BYTES) as u64 {
            return Ok(());
        }
        let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
        let position = SEGMENT_HEADER_BYTES as u64;
        file.read_exact_at(position, &mut block)
            .map_err(|source| Error::io(FileOp::Read, self.storage.path(&name), source))?;
        if BatchHeader::decode(&block, self.checkpoint.store, id, position).is_ok() {
            return Err(self.damaged(id, 0, "batches follow, but the segment's header is bad"));
        }
        Ok(())
    }

    pub(super) fn corrupt(&self, segment: &Segment, stop: Stop) -> Error {
        let path = self.storage.path(&segment.name);
        let position = segment.log_end();
        match stop {
            Stop::Torn(source, _) | Stop::NotNext(Some(source)) => {
                Error::decode(path, position, source)
            }
            Stop::NotNext(None) => Error::Damaged {
                path,
                position,
                problem: format!(
                    "the batch here is not the next one; the log was durable up to byte {} of \
                     segment {}",
                    self.durable.position, self.durable.segment,
                ),
            },
        }
    }
}
