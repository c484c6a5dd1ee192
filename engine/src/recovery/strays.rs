//! Files that bear a segment's name and are another's: doubled, renamed, or of another store.
//!
//! A file gets a segment's name with a blank first block, or with the header of that segment and
//! generation. So a valid header of anything else was never written there by the engine.

use fanlog_segment_format::{
    SegmentId, StoreId, checkpoint::SegmentEntry, file_name::FileName, header::SegmentHeader,
    layout::SEGMENT_HEADER_BYTES,
};

use super::{inventory::Inventory, open_segment, read_block};
use crate::{
    Error, Result,
    storage::{Access, Storage},
};

/// A file that is not what its name says.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) name: String,
    problem: String,
}

impl Stray {
    pub(super) fn error(&self, storage: &dyn Storage) -> Error {
        let path = storage.path(&self.name);
        Error::Damaged { path, position: 0, problem: self.problem.clone() }
    }
}

/// Looks through the files that are not on the checkpoint's list; those are looked at by themselves.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`], [`Error::Io`].
pub(super) fn find(
    storage: &dyn Storage,
    store: StoreId,
    listed: &[SegmentEntry],
    inventory: &Inventory,
) -> Result<Vec<Stray>> {
    let mut strays = Vec::new();
    for &(id, generation) in inventory.segments.keys() {
        if listed.iter().any(|entry| entry.id == id && entry.generation == generation) {
            continue;
        }
        let Some(header) = header_of(storage, inventory, id, generation)? else { continue };
        let problem = if header.store != store {
            "it belongs to another store".to_owned()
        } else if (header.segment, header.generation) != (id, generation) {
            let (segment, own) = (header.segment, header.generation);
            format!("it is segment {segment} generation {own} under another name")
        } else {
            continue;
        };
        let name = FileName::of_segment(id, generation).to_string();
        strays.push(Stray { name, problem });
    }
    Ok(strays)
}

/// The header of a segment's file, if it has a valid one.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`], [`Error::Io`].
pub(super) fn header_of(
    storage: &dyn Storage,
    inventory: &Inventory,
    id: SegmentId,
    generation: u32,
) -> Result<Option<SegmentHeader>> {
    let bytes = inventory.segments.get(&(id, generation)).copied().unwrap_or(0);
    if bytes < SEGMENT_HEADER_BYTES as u64 {
        return Ok(None);
    }
    let name = FileName::of_segment(id, generation).to_string();
    let file = open_segment(storage, &name, Access::Read)?;
    let block = read_block(storage, &name, &*file)?;
    match SegmentHeader::decode(&block) {
        Ok(header) => Ok(Some(header)),
        Err(source) if source.is_version() => Err(Error::decode(storage.path(&name), 0, source)),
        Err(_) => Ok(None),
    }
}
