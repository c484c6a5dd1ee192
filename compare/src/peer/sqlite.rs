//! `SQLite` through rusqlite: a table of messages, a table of cursors; write-ahead log, `FULL`.

use std::path::Path;

use anyhow::Result;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Peer, Seen, cursors::Cursors};

struct Sqlite {
    connection: Connection,
    next: i64,
    cursors: Cursors,
}

pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    std::fs::create_dir_all(dir)?;
    let connection = Connection::open(dir.join("store.sqlite"))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS messages (number INTEGER PRIMARY KEY, payload BLOB NOT NULL);
         CREATE TABLE IF NOT EXISTS cursors (consumer INTEGER PRIMARY KEY, next INTEGER NOT NULL);",
    )?;
    let last: Option<i64> =
        connection.query_row("SELECT max(number) FROM messages", [], |row| row.get(0))?;
    let mut cursors = Vec::with_capacity(consumers);
    for consumer in 0..i64::try_from(consumers)? {
        let next: Option<i64> = connection
            .query_row("SELECT next FROM cursors WHERE consumer = ?1", [consumer], |row| row.get(0))
            .optional()?;
        cursors.push(u64::try_from(next.unwrap_or(0))?);
    }
    let seen = i64::try_from(cursors.iter().copied().max().unwrap_or(0))?;
    let next = last.map_or(0, |last| last + 1).max(seen);
    Ok(Box::new(Sqlite { connection, next, cursors: Cursors::new(cursors) }))
}

impl Peer for Sqlite {
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        let begun = self.connection.transaction()?;
        {
            let mut insert = begun.prepare_cached("INSERT INTO messages VALUES (?1, ?2)")?;
            for payload in payloads {
                insert.execute(params![self.next, payload])?;
                self.next += 1;
            }
        }
        Ok(begun.commit()?)
    }

    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize> {
        let from = self.cursors.next(consumer);
        let mut next = from;
        let mut select = self.connection.prepare_cached(
            "SELECT number, payload FROM messages WHERE number >= ?1 ORDER BY number LIMIT ?2",
        )?;
        let mut rows = select.query(params![i64::try_from(from)?, i64::try_from(max)?])?;
        while let Some(row) = rows.next()? {
            seen(row.get_ref(1)?.as_blob()?)?;
            next = u64::try_from(row.get::<_, i64>(0)?)? + 1;
        }
        self.cursors.advance(consumer, next);
        Ok(usize::try_from(next - from)?)
    }

    fn sync_acks(&mut self) -> Result<()> {
        let begun = self.connection.transaction()?;
        {
            let mut store =
                begun.prepare_cached("INSERT OR REPLACE INTO cursors VALUES (?1, ?2)")?;
            for (consumer, next) in self.cursors.take_moved() {
                store.execute(params![i64::try_from(consumer)?, i64::try_from(next)?])?;
            }
        }
        Ok(begun.commit()?)
    }

    fn trim(&mut self) -> Result<()> {
        let floor = i64::try_from(self.cursors.floor())?;
        self.connection.execute("DELETE FROM messages WHERE number < ?1", [floor])?;
        self.connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);")?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.connection.close().map_err(|(_, error)| error.into())
    }
}
