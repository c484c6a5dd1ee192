//! fjall: messages by number in one keyspace, a cursor per consumer in another; batches that persist.

use std::path::Path;

use anyhow::Result;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode,
    config::CompressionPolicy,
};

use super::{
    Peer, Seen,
    cursors::{Cursors, number},
};

struct Fjall {
    database: Database,
    messages: Keyspace,
    positions: Keyspace,
    next: u64,
    trimmed: u64,
    cursors: Cursors,
}

pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    let database = Database::builder(dir).journal_compression(CompressionType::None).open()?;
    let options = || {
        KeyspaceCreateOptions::default()
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
    };
    let messages = database.keyspace("messages", options)?;
    let positions = database.keyspace("cursors", options)?;
    let first = messages.first_key_value().map(|guard| number(&guard.key()?)).transpose()?;
    let next = match messages.last_key_value() {
        Some(guard) => number(&guard.key()?)? + 1,
        None => 0,
    };
    let mut cursors = Vec::with_capacity(consumers);
    for consumer in 0..consumers as u64 {
        let stored = positions.get(consumer.to_be_bytes())?;
        cursors.push(stored.map_or(Ok(0), |bytes| number(&bytes))?);
    }
    // What was trimmed to the last message left no key that tells.
    let next = next.max(cursors.iter().copied().max().unwrap_or(0));
    let trimmed = first.unwrap_or(next);
    let cursors = Cursors::new(cursors);
    Ok(Box::new(Fjall { database, messages, positions, next, trimmed, cursors }))
}

impl Peer for Fjall {
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for payload in payloads {
            batch.insert(&self.messages, self.next.to_be_bytes(), *payload);
            self.next += 1;
        }
        Ok(batch.commit()?)
    }

    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize> {
        let from = self.cursors.next(consumer);
        let mut next = from;
        for guard in self.messages.range(from.to_be_bytes()..).take(max) {
            let (key, payload) = guard.into_inner()?;
            seen(&payload)?;
            next = number(&key)? + 1;
        }
        self.cursors.advance(consumer, next);
        Ok(usize::try_from(next - from)?)
    }

    fn sync_acks(&mut self) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (consumer, next) in self.cursors.take_moved() {
            batch.insert(&self.positions, (consumer as u64).to_be_bytes(), next.to_be_bytes());
        }
        Ok(batch.commit()?)
    }

    fn trim(&mut self) -> Result<()> {
        let floor = self.cursors.floor();
        while self.trimmed < floor {
            let end = floor.min(self.trimmed + 1_000);
            let mut batch = self.database.batch();
            for key in self.trimmed..end {
                batch.remove(&self.messages, key.to_be_bytes());
            }
            batch.commit()?;
            self.trimmed = end;
        }
        self.messages.rotate_memtable_and_wait()?;
        self.messages.major_compact()?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}
