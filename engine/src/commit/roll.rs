//! Going on to the next segment.

use std::{sync::Arc, time::Duration};

use fanlog_segment_format::{
    LogPosition, Offset, SegmentId,
    footer::FooterBuilder,
    header::SegmentHeader,
    layout::{
        BLOCK_BYTES, FOOTER_DUE_BYTES, RECORD_ALIGN, RECORD_PREFIX_BYTES, SEGMENT_HEADER_BYTES,
        align_up,
    },
};

use super::{
    FooterLoad, Pipeline,
    again::{Next, found_no_space, is_out_of_space},
};
use crate::{
    Error, Result,
    append::{Extras, Taken},
    core::Core,
    error::FileOp,
    log::segment::Segment,
    storage::{AlignedBuffer, StorageFile, WriteSync},
    supply::Promise,
};

impl Pipeline {
    /// Whether a batch of `total` bytes fits the active segment, with room left for its footer.
    pub(super) fn fits(&self, core: &Core, total: usize, taken: &Taken) -> bool {
        if self.leave || self.next.is_some() {
            return false;
        }
        let end = self.position + total as u64;
        let footer = self.load.footer_bytes_with(core, taken);
        end + footer as u64 <= self.active.header.file_bytes
    }

    /// Ends the active segment and begins the next, large enough for a batch of `total` bytes.
    ///
    /// Nothing may be in flight. Returns false where there is no space for one, now.
    pub(super) fn roll(
        &mut self,
        core: &Core,
        total: usize,
        first: Offset,
        now: Duration,
    ) -> Result<bool> {
        debug_assert!(self.in_flight.is_empty(), "C4: all of the old segment is written");
        self.sync_rest(core)?;
        let Some(held) = self.held.front() else { return Ok(false) };
        let (batch, taken) = (held.taken.number, &held.taken);
        let footer = FooterLoad::default().footer_bytes_with(core, taken);
        let needed = align_up(SEGMENT_HEADER_BYTES + total + footer, BLOCK_BYTES) as u64;
        let file_bytes = needed.max(core.config.segment_bytes_max);
        let id = SegmentId(self.active.id().0 + 1);
        let mut promise = self.held.front_mut().and_then(|held| held.taken.promise.take());
        let file = self.next_file(core, id, file_bytes, &mut promise);
        if let Some(held) = self.held.front_mut() {
            held.taken.promise = promise;
        }
        let file = match file {
            Ok(file) => file,
            Err(error) if is_out_of_space(&error) => {
                self.stall(core, id, Some(error), now);
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let file_bytes = file
            .bytes()
            .map_err(|source| Error::io(FileOp::Read, core.segment_path(id), source))?;
        let header = SegmentHeader {
            store: core.store,
            segment: id,
            covers_to: id,
            generation: 0,
            epoch: core.epoch,
            first_offset: first,
            first_batch: batch,
            previous: self.previous,
            file_bytes,
            created_us: core.clock.wall_us(),
        };
        let mut block = AlignedBuffer::zeroed(SEGMENT_HEADER_BYTES);
        block.copy_from_slice(&header.encode());
        let written = file
            .write_all_at(0, &block, WriteSync::Data)
            .map_err(|source| Error::io(FileOp::Write, core.segment_path(id), source));
        match written {
            Ok(()) => {}
            Err(error) if found_no_space(&error) => {
                // Whether the header is there nobody knows, so nothing but its batch may follow.
                self.next = Some(Next { id, file });
                self.stall(core, id, Some(error), now);
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        core.stats.other_written(SEGMENT_HEADER_BYTES as u64);
        let segment = Arc::new(Segment::open(header, Arc::clone(&file)));
        core.log.add_segment(Arc::clone(&segment));
        self.active.close(first);
        self.active = segment;
        self.file = file;
        self.position = SEGMENT_HEADER_BYTES as u64;
        self.durable = LogPosition { segment: id, position: self.position };
        self.load = FooterLoad::default();
        self.leave = false;
        self.unstall(core);
        core.wake_keeper();
        Ok(true)
    }

    /// The file of the next segment: one that was taken before, or another.
    fn next_file(
        &mut self,
        core: &Core,
        id: SegmentId,
        bytes: u64,
        promise: &mut Option<Promise>,
    ) -> Result<Arc<dyn StorageFile>> {
        if let Some(next) = self.next.take() {
            debug_assert_eq!(next.id, id, "the batch that it was taken for is still the next");
            return Ok(next.file);
        }
        let supplied = core.supply.take(core, id, bytes, promise)?;
        if let Some(reason) = supplied.scarce {
            Self::scarce(core, id, reason);
        }
        Ok(supplied.file)
    }

    /// Makes what was confirmed without a sync durable.
    fn sync_rest(&mut self, core: &Core) -> Result<()> {
        if self.unsynced_since.is_none() {
            return Ok(());
        }
        let path = || core.storage.path(&self.active.name);
        self.file.sync().map_err(|source| Error::io(FileOp::Sync, path(), source))?;
        core.stats.synced();
        self.unsynced_since = None;
        self.durable = self.active.end_position();
        core.stats.durable(core.log.visible());
        Ok(())
    }
}

impl FooterLoad {
    /// The most bytes that a footer takes with this batch in the segment.
    fn footer_bytes_with(&self, core: &Core, taken: &Taken) -> usize {
        let messages = self.messages + taken.messages as usize;
        let footer = FooterBuilder::projected_bytes(
            messages,
            self.batches + 1,
            self.controls + controls_max(taken),
            self.routes.len() + routes_max(core, taken),
        );
        let Extras { times, prioritised } = self.extras.plus(taken.extras);
        let priorities = if prioritised { align_up(messages, RECORD_ALIGN) } else { 0 };
        align_up(footer + times * FOOTER_DUE_BYTES + priorities, BLOCK_BYTES)
    }
}

/// The most control records that the batch can have.
fn controls_max(taken: &Taken) -> usize {
    taken.control_bytes / RECORD_PREFIX_BYTES
}

/// The most routes that the batch can add.
fn routes_max(core: &Core, taken: &Taken) -> usize {
    core.log.route_count().min(taken.messages as usize)
}
