//! LMDB through heed: messages by number in one database, a cursor per consumer in another.

use std::path::Path;

use anyhow::Result;
use heed::{
    Database, Env, EnvOpenOptions, PutFlags, WithTls,
    byteorder::BE,
    types::{Bytes, U64},
};

use super::{Peer, Seen, cursors::Cursors};

/// The map: address space, not memory.
const MAP_BYTES: usize = 32 << 30;

struct Lmdb {
    env: Env<WithTls>,
    messages: Database<U64<BE>, Bytes>,
    positions: Database<U64<BE>, U64<BE>>,
    next: u64,
    cursors: Cursors,
}

#[expect(unsafe_code, reason = "heed opens a map, whose file nobody else may change")]
fn open_env(dir: &Path) -> Result<Env<WithTls>> {
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP_BYTES).max_dbs(2);
    // SAFETY: the directory is fresh, belongs to this process alone, and is opened once at a time.
    Ok(unsafe { options.open(dir) }?)
}

pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    std::fs::create_dir_all(dir)?;
    let env = open_env(dir)?;
    let mut begun = env.write_txn()?;
    let messages: Database<U64<BE>, Bytes> = env.create_database(&mut begun, Some("messages"))?;
    let positions: Database<U64<BE>, U64<BE>> = env.create_database(&mut begun, Some("cursors"))?;
    let next = messages.last(&begun)?.map_or(0, |(key, _)| key + 1);
    let mut cursors = Vec::with_capacity(consumers);
    for consumer in 0..consumers as u64 {
        cursors.push(positions.get(&begun, &consumer)?.unwrap_or(0));
    }
    begun.commit()?;
    let next = next.max(cursors.iter().copied().max().unwrap_or(0));
    Ok(Box::new(Lmdb { env, messages, positions, next, cursors: Cursors::new(cursors) }))
}

impl Peer for Lmdb {
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        let mut begun = self.env.write_txn()?;
        for payload in payloads {
            self.messages.put_with_flags(&mut begun, PutFlags::APPEND, &self.next, payload)?;
            self.next += 1;
        }
        Ok(begun.commit()?)
    }

    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize> {
        let from = self.cursors.next(consumer);
        let mut next = from;
        let begun = self.env.read_txn()?;
        for entry in self.messages.range(&begun, &(from..))?.take(max) {
            let (key, payload) = entry?;
            seen(payload)?;
            next = key + 1;
        }
        self.cursors.advance(consumer, next);
        Ok(usize::try_from(next - from)?)
    }

    fn sync_acks(&mut self) -> Result<()> {
        let mut begun = self.env.write_txn()?;
        for (consumer, next) in self.cursors.take_moved() {
            self.positions.put(&mut begun, &(consumer as u64), &next)?;
        }
        Ok(begun.commit()?)
    }

    /// Pages are used again; the file never shrinks but by copying it.
    fn trim(&mut self) -> Result<()> {
        let mut begun = self.env.write_txn()?;
        self.messages.delete_range(&mut begun, &(..self.cursors.floor()))?;
        Ok(begun.commit()?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}
