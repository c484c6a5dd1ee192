//! Making a new store.

use std::sync::Arc;

use fanlog_segment_format::{
    Epoch, LogPosition, SegmentId, checkpoint::Checkpoint, file_name::FileName,
    header::SegmentHeader, layout::SEGMENT_HEADER_BYTES,
};

use super::{inventory::Inventory, new_store_id};
use crate::{
    Error, Result, checkpoint,
    clock::Clock,
    error::FileOp,
    storage::{AlignedBuffer, Purpose, Storage, StorageFile, WriteSync},
};

/// Number of a store's first checkpoint.
pub(crate) const FIRST: u64 = 1;
const PIECE_BYTES: usize = 1 << 20;

/// Writes the first checkpoint: from then on the directory holds a store.
pub(super) fn create(
    storage: &dyn Storage,
    clock: &dyn Clock,
    inventory: &mut Inventory,
) -> Result<Checkpoint> {
    let mut first = checkpoint::blank(new_store_id(clock), FIRST, Epoch(0));
    first.created_us = clock.wall_us();
    first.next_ids.exchange = 1;
    first.next_ids.segment = 1;
    first.head.position =
        LogPosition { segment: SegmentId(1), position: SEGMENT_HEADER_BYTES as u64 };
    inventory.remove_temporary(storage)?;
    checkpoint::store(storage, FIRST, &first.encode())?;
    Ok(first)
}

/// Creates a segment's file, filled with zeros so that appending finds written blocks, and its
/// header; all of it durable.
pub(super) fn segment(
    storage: &dyn Storage,
    header: &SegmentHeader,
) -> Result<Arc<dyn StorageFile>> {
    let name = FileName::Segment(header.segment).to_string();
    let failed = |op| {
        let path = storage.path(&name);
        move |source| Error::io(op, path, source)
    };
    // A crash may have left one that was never begun: batches follow only once a checkpoint lists it.
    match storage.remove(&name) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed(FileOp::Remove)(error));
        }
        _ => {}
    }
    let file = storage.create(&name, Purpose::Log).map_err(failed(FileOp::Create))?;
    file.allocate(header.file_bytes).map_err(failed(FileOp::Allocate))?;
    let zeros = AlignedBuffer::zeroed(PIECE_BYTES);
    let mut position = 0;
    while position < header.file_bytes {
        let left = usize::try_from(header.file_bytes - position).unwrap_or(PIECE_BYTES);
        let piece = &zeros[..left.min(PIECE_BYTES)];
        file.write_all_at(position, piece, WriteSync::None).map_err(failed(FileOp::Write))?;
        position += piece.len() as u64;
    }
    file.sync().map_err(failed(FileOp::Sync))?;
    storage.sync_directory().map_err(failed(FileOp::SyncDirectory))?;
    let mut block = AlignedBuffer::zeroed(SEGMENT_HEADER_BYTES);
    block.copy_from_slice(&header.encode());
    file.write_all_at(0, &block, WriteSync::Data).map_err(failed(FileOp::Write))?;
    Ok(file)
}
