//! raft-engine: all messages in one region, a key per consumer in another.

use std::path::Path;

use anyhow::Result;
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use super::{
    Peer, Seen,
    cursors::{Cursors, number},
};

const MESSAGES: u64 = 1;
const CURSORS: u64 = 2;
/// An index before the payload, as an entry must tell its own.
const INDEX_BYTES: usize = 8;

/// Entries: messages of `protobuf` with an index.
struct Entry;

impl MessageExt for Entry {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        number(&entry.value[..INDEX_BYTES]).unwrap_or(0)
    }
}

struct RaftEngine {
    engine: Engine,
    next: u64,
    cursors: Cursors,
}

pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    let dir = dir.to_str().ok_or_else(|| anyhow::anyhow!("the directory's name is not UTF-8"))?;
    let engine = Engine::open(Config {
        dir: dir.to_owned(),
        batch_compression_threshold: ReadableSize(0),
        ..Config::default()
    })?;
    let next = engine.last_index(MESSAGES).map_or(1, |last| last + 1);
    let mut cursors = Vec::with_capacity(consumers);
    for consumer in 0..consumers as u64 {
        let stored = engine.get(CURSORS, &consumer.to_be_bytes());
        cursors.push(stored.map_or(Ok(1), |bytes| number(&bytes))?);
    }
    let next = next.max(cursors.iter().copied().max().unwrap_or(1));
    Ok(Box::new(RaftEngine { engine, next, cursors: Cursors::new(cursors) }))
}

impl Peer for RaftEngine {
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        let mut entries = Vec::with_capacity(payloads.len());
        for payload in payloads {
            let mut entry = BytesValue::new();
            entry.value.reserve_exact(INDEX_BYTES + payload.len());
            entry.value.extend_from_slice(&self.next.to_be_bytes());
            entry.value.extend_from_slice(payload);
            entries.push(entry);
            self.next += 1;
        }
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<Entry>(MESSAGES, &entries)?;
        self.engine.write(&mut batch, true)?;
        Ok(())
    }

    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize> {
        let from = self.cursors.next(consumer);
        let end = self.next.min(from + max as u64);
        if from == end {
            return Ok(0);
        }
        let mut entries = Vec::new();
        self.engine.fetch_entries_to::<Entry>(MESSAGES, from, end, None, &mut entries)?;
        entries.iter().try_for_each(|entry| seen(&entry.value[INDEX_BYTES..]))?;
        self.cursors.advance(consumer, end);
        Ok(entries.len())
    }

    fn sync_acks(&mut self) -> Result<()> {
        let mut batch = LogBatch::default();
        for (consumer, next) in self.cursors.take_moved() {
            let (key, value) = ((consumer as u64).to_be_bytes(), next.to_be_bytes());
            batch.put(CURSORS, key.to_vec(), value.to_vec())?;
        }
        self.engine.write(&mut batch, true)?;
        Ok(())
    }

    fn trim(&mut self) -> Result<()> {
        self.engine.compact_to(MESSAGES, self.cursors.floor());
        self.engine.purge_expired_files()?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.engine.sync()?)
    }
}
