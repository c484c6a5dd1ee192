//! commitlog: one log; cursors in a file of the adapter. Its `flush` syncs no messages.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use commitlog::{
    CommitLog, LogOptions, ReadLimit,
    message::{MessageBuf, MessageSet as _},
};

use super::{
    Peer, Seen,
    cursors::{Cursors, number},
};

const BATCH_BYTES_MAX: usize = 64 << 20;

struct Log {
    inner: CommitLog,
    buffer: MessageBuf,
    positions: PathBuf,
    stored: Vec<u64>,
    cursors: Cursors,
    payload_bytes: usize,
}

pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    fs::create_dir_all(dir)?;
    let mut options = LogOptions::new(dir.join("log"));
    options.message_max_bytes(BATCH_BYTES_MAX);
    let inner = CommitLog::new(options)?;
    let positions = dir.join("cursors");
    let bytes = fs::read(&positions).unwrap_or_default();
    let mut stored = bytes.chunks_exact(8).map(number).collect::<Result<Vec<_>>>()?;
    stored.resize(consumers, 0);
    let cursors = Cursors::new(stored.clone());
    let buffer = MessageBuf::default();
    Ok(Box::new(Log { inner, buffer, positions, stored, cursors, payload_bytes: 1 << 10 }))
}

impl Peer for Log {
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        self.buffer.clear();
        for payload in payloads {
            let pushed = self.buffer.push(payload);
            pushed.map_err(|error| anyhow::anyhow!("a message was refused: {error:?}"))?;
        }
        self.payload_bytes = payloads.first().map_or(self.payload_bytes, |payload| payload.len());
        self.inner.append(&mut self.buffer)?;
        Ok(self.inner.flush()?)
    }

    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize> {
        let from = self.cursors.next(consumer);
        if from >= self.inner.next_offset() {
            return Ok(0);
        }
        // A limit in bytes: heads of about 20 bytes are in it.
        let limit = ReadLimit::max_bytes(max * (self.payload_bytes + 24));
        let messages = self.inner.read(from, limit)?;
        let mut count = 0;
        for message in messages.iter().take(max) {
            seen(message.payload())?;
            count += 1;
        }
        self.cursors.advance(consumer, from + count as u64);
        Ok(count)
    }

    fn sync_acks(&mut self) -> Result<()> {
        for (consumer, next) in self.cursors.take_moved() {
            self.stored[consumer] = next;
        }
        let bytes: Vec<u8> = self.stored.iter().flat_map(|next| next.to_be_bytes()).collect();
        let new = self.positions.with_extension("new");
        fs::write(&new, bytes)?;
        Ok(fs::rename(new, &self.positions)?)
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        Ok(self.inner.flush()?)
    }
}
