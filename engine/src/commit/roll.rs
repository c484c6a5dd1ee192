//! Going on to the next segment.

use std::{sync::Arc, time::Duration};

use fanlog_segment_format::{
    LogPosition, Offset, SegmentId,
    footer::FooterBuilder,
    header::SegmentHeader,
    layout::{BLOCK_BYTES, RECORD_PREFIX_BYTES, SEGMENT_HEADER_BYTES, align_up},
};

use super::{FooterLoad, Pipeline};
use crate::{
    Error, Result,
    append::Taken,
    config::WhenFull,
    core::Core,
    error::FileOp,
    log::segment::Segment,
    storage::{AlignedBuffer, WriteSync},
};

impl Pipeline {
    /// Whether a batch of `total` bytes fits the active segment, with room left for its footer.
    pub(super) fn fits(&self, core: &Core, total: usize, taken: &Taken) -> bool {
        let end = self.position + total as u64;
        let footer = FooterBuilder::projected_bytes(
            self.load.messages + taken.messages as usize,
            self.load.batches + 1,
            self.load.controls + controls_max(taken),
            self.load.routes.len() + routes_max(core, taken),
        );
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
        let Some(held) = &self.held else { return Ok(false) };
        let (batch, taken) = (held.taken.number, &held.taken);
        let footer = FooterBuilder::projected_bytes(
            taken.messages as usize,
            1,
            controls_max(taken),
            routes_max(core, taken),
        );
        let needed = align_up(SEGMENT_HEADER_BYTES + total + footer, BLOCK_BYTES) as u64;
        let file_bytes = needed.max(core.config.segment_bytes_max);
        let id = SegmentId(self.active.id().0 + 1);
        let file = match core.supply.take(core, id, file_bytes) {
            Ok(file) => file,
            Err(error) if is_out_of_space(&error) => {
                out_of_space(core, id, &error, now);
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
        file.write_all_at(0, &block, WriteSync::Data)
            .map_err(|source| Error::io(FileOp::Write, core.segment_path(id), source))?;
        core.stats.other_written(SEGMENT_HEADER_BYTES as u64);
        let segment = Arc::new(Segment::open(header, Arc::clone(&file)));
        core.log.add_segment(Arc::clone(&segment));
        self.active.close(first);
        self.active = segment;
        self.file = file;
        self.position = SEGMENT_HEADER_BYTES as u64;
        self.durable = LogPosition { segment: id, position: self.position };
        self.load = FooterLoad::default();
        if core.append.lock().out_of_space.take().is_some() {
            core.confirms.stall(None);
            core.acks_durable.stall(None);
        }
        core.wake_keeper();
        Ok(true)
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

/// Publishers wait, or are told, until there is room for a segment; it is tried again soon.
fn out_of_space(core: &Core, id: SegmentId, error: &Error, now: Duration) {
    let mut state = core.append.lock();
    state.stalled = true;
    if state.set_idle_due(Some(now + core.config.ack_delay_max)) {
        // Whoever keeps the time measures its sleep anew.
        core.append.work.notify_all();
    }
    let full = Error::OutOfSpace { segment: id.0, reason: error.to_string() };
    state.out_of_space = Some(full.clone());
    core.append.wake_publishers(&state);
    drop(state);
    // It makes room of what is retired.
    core.wake_keeper();
    if core.config.when_full == WhenFull::Fail {
        core.confirms.stall(Some(full.clone()));
        core.acks_durable.stall(Some(full));
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

/// Whether an error says that there is no room, rather than that the disk is failing.
pub(crate) fn is_out_of_space(error: &Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error {
        // Names that may be there or not are in the way of another attempt.
        Error::Io { op: FileOp::SyncDirectory, .. } => false,
        Error::Io { source, .. } => {
            matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge)
        }
        _ => false,
    }
}
