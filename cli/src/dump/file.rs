//! A file of the store, read in pieces.

use std::{io, sync::Arc};

use fanlog::storage::{Access, Purpose, Storage, StorageFile};
use fanlog_segment_format::BLOCK_BYTES;

/// Bytes read ahead while looking for headers.
const PIECE_BYTES: usize = 1 << 20;

pub(super) struct File<'a> {
    pub(super) name: &'a str,
    pub(super) bytes: u64,
    handle: Arc<dyn StorageFile>,
    piece: Vec<u8>,
    piece_at: u64,
}

impl<'a> File<'a> {
    pub(super) fn open(storage: &dyn Storage, name: &'a str) -> io::Result<Self> {
        let handle = storage.open(name, Access::Read, Purpose::Plain)?;
        Ok(Self { name, bytes: handle.bytes()?, handle, piece: Vec::new(), piece_at: 0 })
    }

    /// The bytes at `position`.
    pub(super) fn read(&self, position: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = position.checked_add(length as u64);
        if end.is_none_or(|end| end > self.bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; length];
        self.handle.read_exact_at(position, &mut bytes)?;
        Ok(bytes)
    }

    /// One block; its neighbours are read with it.
    pub(super) fn block(&mut self, position: u64) -> io::Result<&[u8]> {
        let behind = position.checked_sub(self.piece_at).and_then(|at| usize::try_from(at).ok());
        let held = behind.filter(|at| at + BLOCK_BYTES <= self.piece.len());
        let at = if let Some(at) = held {
            at
        } else {
            let left = usize::try_from(self.bytes - position).unwrap_or(PIECE_BYTES);
            self.piece.clear();
            // Where a neighbour can't be read, this block may be.
            self.piece = match self.read(position, left.min(PIECE_BYTES)) {
                Ok(piece) => piece,
                Err(_) => self.read(position, BLOCK_BYTES)?,
            };
            self.piece_at = position;
            0
        };
        Ok(&self.piece[at..at + BLOCK_BYTES])
    }
}
