//! redb: messages by number in one table, a cursor per consumer in another; durable transactions.

use std::path::Path;

use anyhow::Result;
use redb::{Database, Durability, ReadableTable as _, TableDefinition};

use super::{Peer, Seen, cursors::Cursors};

const MESSAGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("messages");
const CURSORS: TableDefinition<'_, u64, u64> = TableDefinition::new("cursors");

struct Redb {
    database: Database,
    next: u64,
    cursors: Cursors,
}

pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    std::fs::create_dir_all(dir)?;
    let database = Database::create(dir.join("store.redb"))?;
    let begun = database.begin_write()?;
    let (next, cursors) = {
        let messages = begun.open_table(MESSAGES)?;
        let next = messages.last()?.map_or(0, |(key, _)| key.value() + 1);
        let stored = begun.open_table(CURSORS)?;
        let mut cursors = Vec::with_capacity(consumers);
        for consumer in 0..consumers as u64 {
            cursors.push(stored.get(consumer)?.map_or(0, |next| next.value()));
        }
        (next, cursors)
    };
    begun.commit()?;
    let next = next.max(cursors.iter().copied().max().unwrap_or(0));
    Ok(Box::new(Redb { database, next, cursors: Cursors::new(cursors) }))
}

impl Peer for Redb {
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        let mut begun = self.database.begin_write()?;
        begun.set_durability(Durability::Immediate)?;
        {
            let mut messages = begun.open_table(MESSAGES)?;
            for payload in payloads {
                messages.insert(self.next, *payload)?;
                self.next += 1;
            }
        }
        Ok(begun.commit()?)
    }

    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize> {
        use redb::ReadableDatabase as _;
        let from = self.cursors.next(consumer);
        let mut next = from;
        let messages = self.database.begin_read()?.open_table(MESSAGES)?;
        for entry in messages.range(from..)?.take(max) {
            let (key, payload) = entry?;
            seen(payload.value())?;
            next = key.value() + 1;
        }
        self.cursors.advance(consumer, next);
        Ok(usize::try_from(next - from)?)
    }

    fn sync_acks(&mut self) -> Result<()> {
        let mut begun = self.database.begin_write()?;
        begun.set_durability(Durability::Immediate)?;
        {
            let mut stored = begun.open_table(CURSORS)?;
            for (consumer, next) in self.cursors.take_moved() {
                stored.insert(consumer as u64, next)?;
            }
        }
        Ok(begun.commit()?)
    }

    fn trim(&mut self) -> Result<()> {
        let floor = self.cursors.floor();
        let begun = self.database.begin_write()?;
        begun.open_table(MESSAGES)?.retain_in(..floor, |_, _| false)?;
        begun.commit()?;
        self.database.compact()?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
