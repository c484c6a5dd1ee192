//! okaywal: an entry per publish; positions of messages are kept in memory, as it has no index.
//!
//! A checkpoint would take the entries away, so there is none: it is a log in front of another
//! store. What is consumed is read by position, for which it opens its file each time.

use std::{
    fmt,
    io::{self, Read as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use okaywal::{
    Configuration, Entry, EntryId, LogManager, LogPosition, ReadChunkResult, SegmentReader,
    WriteAheadLog,
};

use super::{
    Peer, Seen,
    cursors::{Cursors, number},
};

/// Zeroed when a file is made, so outside of what is measured.
const PREALLOCATED_BYTES: u32 = 512 << 20;
/// The first chunk of an entry tells what the others are.
const MESSAGES: &[u8] = b"messages";
const CURSORS: &[u8] = b"cursors";

#[derive(Default)]
struct Index {
    messages: Vec<(LogPosition, u32)>,
    cursors: Vec<(u64, u64)>,
}

/// Rebuilds the index when the log is opened.
#[derive(Clone, Default)]
struct Manager(Arc<Mutex<Index>>);

struct Okaywal {
    log: WriteAheadLog,
    messages: Vec<(LogPosition, u32)>,
    cursors: Cursors,
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Manager")
    }
}

impl LogManager for Manager {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let mut chunks = Vec::new();
        loop {
            let mut chunk = match entry.read_chunk()? {
                ReadChunkResult::Chunk(chunk) => chunk,
                ReadChunkResult::EndOfEntry => break,
                ReadChunkResult::AbortedEntry => return Ok(()),
            };
            let position = chunk.log_position();
            let bytes = chunk.read_all()?;
            if !chunk.check_crc()? {
                return Err(io::ErrorKind::InvalidData.into());
            }
            chunks.push((position, bytes));
        }
        let mut index = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(((_, tag), chunks)) = chunks.split_first() else { return Ok(()) };
        for (position, bytes) in chunks {
            if tag == MESSAGES {
                let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
                index.messages.push((*position, length));
            } else {
                let (consumer, next) = bytes.split_at(8);
                let pair = (number(consumer), number(next));
                let (Ok(consumer), Ok(next)) = pair else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                index.cursors.push((consumer, next));
            }
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _: EntryId,
        _: &mut SegmentReader,
        _: &WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    let manager = Manager::default();
    let log = Configuration::default_for(dir)
        .preallocate_bytes(PREALLOCATED_BYTES)
        .checkpoint_after_bytes(u64::MAX)
        .open(manager.clone())?;
    let index = std::mem::take(&mut *manager.0.lock().unwrap_or_else(PoisonError::into_inner));
    let mut cursors = vec![0; consumers];
    for (consumer, next) in index.cursors {
        if let Some(cursor) = cursors.get_mut(usize::try_from(consumer)?) {
            *cursor = next;
        }
    }
    Ok(Box::new(Okaywal { log, messages: index.messages, cursors: Cursors::new(cursors) }))
}

impl Peer for Okaywal {
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        let mut entry = self.log.begin_entry()?;
        entry.write_chunk(MESSAGES)?;
        for payload in payloads {
            let record = entry.write_chunk(payload)?;
            self.messages.push((record.position, record.length));
        }
        entry.commit()?;
        Ok(())
    }

    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize> {
        let from = usize::try_from(self.cursors.next(consumer))?;
        let end = self.messages.len().min(from.saturating_add(max));
        let mut payload = Vec::new();
        for &(position, length) in &self.messages[from..end] {
            payload.resize(usize::try_from(length)?, 0);
            let mut reader = self.log.read_at(position)?;
            reader.read_exact(&mut payload)?;
            anyhow::ensure!(reader.crc_is_valid()?, "a checksum is wrong");
            seen(&payload)?;
        }
        self.cursors.advance(consumer, end as u64);
        Ok(end - from)
    }

    fn sync_acks(&mut self) -> Result<()> {
        let mut entry = self.log.begin_entry()?;
        entry.write_chunk(CURSORS)?;
        for (consumer, next) in self.cursors.take_moved() {
            let cursor = [(consumer as u64).to_be_bytes(), next.to_be_bytes()];
            entry.write_chunk(cursor.as_flattened())?;
        }
        entry.commit()?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.log.shutdown()?)
    }
}
