//! wal-db: one segmented log of messages, a second one of positions.

use std::path::Path;

use anyhow::Result;
use wal_db::{Lsn, SegmentedStore, Wal};

use super::{
    Peer, Seen,
    cursors::{Cursors, number},
};

const SEGMENT_BYTES: u64 = 64 << 20;

struct WalDb {
    messages: Wal<SegmentedStore>,
    positions: Wal<SegmentedStore>,
    /// The last message that a consumer got, plus one: a reader can resume at a record, but is not
    /// told where the one after it begins. Zero: none.
    cursors: Cursors,
}

pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    std::fs::create_dir_all(dir)?;
    let messages = Wal::open_segmented(dir.join("messages"), SEGMENT_BYTES)?;
    let positions = Wal::open_segmented(dir.join("positions"), SEGMENT_BYTES)?;
    let mut cursors = vec![0; consumers];
    for entry in positions.iter()? {
        let entry = entry?;
        let (consumer, last) = entry.data().split_at(8);
        if let Some(cursor) = cursors.get_mut(usize::try_from(number(consumer)?)?) {
            *cursor = number(last)?;
        }
    }
    Ok(Box::new(WalDb { messages, positions, cursors: Cursors::new(cursors) }))
}

impl Peer for WalDb {
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        for payload in payloads {
            self.messages.append(payload).map(drop::<Lsn>)?;
        }
        Ok(self.messages.sync()?)
    }

    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize> {
        let last = self.cursors.next(consumer);
        let entries = match last.checked_sub(1) {
            Some(last) => self.messages.iter_from(Lsn::new(last))?,
            None => self.messages.iter()?,
        };
        let mut cursor = last;
        let mut count = 0;
        for entry in entries.skip(usize::from(last > 0)).take(max) {
            let entry = entry?;
            seen(entry.data())?;
            cursor = entry.lsn().get() + 1;
            count += 1;
        }
        self.cursors.advance(consumer, cursor);
        Ok(count)
    }

    fn sync_acks(&mut self) -> Result<()> {
        for (consumer, last) in self.cursors.take_moved() {
            let position = [(consumer as u64).to_be_bytes(), last.to_be_bytes()];
            self.positions.append(position.as_flattened()).map(drop::<Lsn>)?;
        }
        Ok(self.positions.sync()?)
    }

    fn trim(&mut self) -> Result<()> {
        if let Some(last) = self.cursors.floor().checked_sub(1) {
            self.messages.truncate_before(Lsn::new(last)).map(drop::<Lsn>)?;
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.messages.sync()?;
        Ok(self.positions.sync()?)
    }
}
