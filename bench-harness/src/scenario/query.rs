//! The query platform: stores every result in `SQLite` behind a cache, and answers look-ups.
//!
//! One transaction per batch, write-ahead log, `synchronous = OFF`: the database must survive the
//! end of the process, as the engine's store must, but it is not what is measured.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::Context;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, Transaction};

use super::{
    frames::{Frame, QuerySummary},
    platform::Platform,
};
use crate::{
    payload::{self, Fields},
    sample::as_u64,
};

/// Look-ups after each batch.
const LOOKUPS: u64 = 16;
/// Look-ups at the end, over all results.
const LOOKUPS_AT_END: u64 = 2_000;
/// Results in each generation of the cache.
const CACHE: usize = 16_384;

/// The platform: one connection that its consumers take in turn.
pub(crate) struct Query {
    state: Mutex<State>,
    bytes: usize,
}

struct State {
    database: Connection,
    cache: Cache,
    highest: u64,
    /// Counts look-ups; scrambled, it names the result that is looked up next.
    counts: QuerySummary,
}

impl Query {
    /// Opens the database in `dir`, made if there is none.
    pub(crate) fn open(dir: &Path, bytes: usize) -> anyhow::Result<Query> {
        fs::create_dir_all(dir)?;
        let database =
            Connection::open(dir.join("query.sqlite")).context("opening the database")?;
        database.pragma_update(None, "journal_mode", "WAL")?;
        database.pragma_update(None, "synchronous", "OFF")?;
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS result (
                number INTEGER PRIMARY KEY,
                trace INTEGER NOT NULL,
                stage INTEGER NOT NULL,
                value INTEGER NOT NULL,
                parent INTEGER
            ) STRICT",
        )?;
        let highest: Option<i64> =
            database.query_row("SELECT max(number) FROM result", [], |row| row.get(0))?;
        let highest = highest.and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
        let state =
            State { database, cache: Cache::default(), highest, counts: QuerySummary::default() };
        Ok(Query { state: Mutex::new(state), bytes })
    }

    /// Looks up results over all that are stored, and returns what was done in this life.
    pub(crate) fn finish(&self, messages_known: bool) -> anyhow::Result<QuerySummary> {
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if messages_known {
            for turn in 0..LOOKUPS_AT_END {
                let number = payload::mix(turn) % (state.highest + 1);
                if !state.look_up(number, self.bytes)? {
                    state.counts.missing += 1;
                }
            }
        }
        Ok(state.counts)
    }
}

impl Platform for Query {
    fn work(&self, results: &[Fields], _alerts: &mut Frame) -> anyhow::Result<()> {
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = state.database.transaction()?;
        insert(&transaction, results)?;
        transaction.commit()?;
        state.counts.transactions += 1;
        for result in results {
            state.cache.put(*result);
            state.highest = state.highest.max(result.number);
        }
        // Half of the look-ups ask for what came lately, half for anything.
        for turn in 0..LOOKUPS {
            let any = payload::mix(state.counts.lookups);
            let back = if turn % 2 == 0 { 4_096 } else { state.highest + 1 };
            let number = state.highest.saturating_sub(any % back);
            // It may not have come yet, or not to this platform: then there is no answer.
            state.look_up(number, self.bytes)?;
        }
        Ok(())
    }
}

fn insert(transaction: &Transaction<'_>, results: &[Fields]) -> anyhow::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO result (number, trace, stage, value, parent) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (number) DO NOTHING",
    )?;
    for result in results {
        let parent = (result.parent != payload::NO_PARENT).then_some(result.parent);
        insert.execute((
            i64::try_from(result.number)?,
            i64::try_from(result.trace)?,
            i64::try_from(result.stage)?,
            result.value,
            parent.map(i64::try_from).transpose()?,
        ))?;
    }
    Ok(())
}

impl State {
    /// Looks a result up, in the cache and then in the database, and checks the answer.
    fn look_up(&mut self, number: u64, bytes: usize) -> anyhow::Result<bool> {
        self.counts.lookups += 1;
        let found = if let Some(found) = self.cache.take(number) {
            self.counts.cache_hits += 1;
            Some(found)
        } else {
            let mut select = self.database.prepare_cached(
                "SELECT number, trace, stage, value, parent FROM result WHERE number = ?1",
            )?;
            let parse = |row: &Row<'_>| parse(row, bytes);
            select.query_row([i64::try_from(number)?], parse).optional()?
        };
        let Some(found) = found else { return Ok(false) };
        if found != Fields::of(number, bytes) {
            self.counts.wrong += 1;
        }
        self.cache.put(found);
        Ok(true)
    }
}

fn parse(row: &Row<'_>, bytes: usize) -> rusqlite::Result<Fields> {
    let word = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let parent: Option<i64> = row.get(4)?;
    Ok(Fields {
        number: word(0)?,
        trace: word(1)?,
        stage: word(2)?,
        value: row.get(3)?,
        parent: parent.map_or(payload::NO_PARENT, i64::cast_unsigned),
        bytes: as_u64(bytes),
    })
}

/// Compares every row of the database in `dir` with the result of its number: right and wrong
/// ones. A number that is missing has no row.
pub(crate) fn check_rows(dir: &Path, messages: u64, bytes: usize) -> anyhow::Result<(u64, u64)> {
    let path = dir.join("query.sqlite");
    let database = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .context("opening the query platform's database")?;
    let mut select = database.prepare("SELECT number, trace, stage, value, parent FROM result")?;
    let mut rows = select.query([])?;
    let (mut right, mut wrong) = (0, 0);
    while let Some(row) = rows.next()? {
        let found = parse(row, bytes)?;
        if found.number < messages && found == Fields::of(found.number, bytes) {
            right += 1;
        } else {
            wrong += 1;
        }
    }
    Ok((right, wrong))
}

/// Results used lately, in two generations: when the young one is full it becomes the old one, and
/// what was not used since then is forgotten. Least recently used, by generations.
#[derive(Default)]
struct Cache {
    young: HashMap<u64, Fields>,
    old: HashMap<u64, Fields>,
}

impl Cache {
    fn put(&mut self, result: Fields) {
        if self.young.len() >= CACHE {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(result.number, result);
    }

    fn take(&mut self, number: u64) -> Option<Fields> {
        self.young.remove(&number).or_else(|| self.old.remove(&number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::frames::Kind;

    #[test]
    fn rows_outlive_the_connection_and_repeats_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let results: Vec<Fields> = (0..100).map(|number| Fields::of(number, 64)).collect();
        for batch in [&results[..60], &results[50..]] {
            let query = Query::open(dir.path(), 64).unwrap();
            query.work(batch, &mut Frame::new(Kind::Alerts)).unwrap();
            assert_eq!(query.finish(false).unwrap().wrong, 0);
        }
        let query = Query::open(dir.path(), 64).unwrap();
        let summary = query.finish(true).unwrap();
        assert_eq!((summary.missing, summary.wrong), (0, 0));
        assert!(summary.cache_hits > 0);
        drop(query);
        assert_eq!(check_rows(dir.path(), 100, 64).unwrap(), (100, 0));
        assert_eq!(check_rows(dir.path(), 99, 64).unwrap(), (99, 1));
    }
}
