//! persistent-queue on redb: a queue per consumer, each with its own copy of every message.

use std::path::Path;

use anyhow::Result;
use persistent_queue::{Builder, Consumer, Durability, Producer, RedbStore};

use super::{Peer, Seen};

struct Queues(Vec<(Producer<RedbStore>, Consumer<RedbStore>)>);

pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    std::fs::create_dir_all(dir)?;
    let mut queues = Vec::with_capacity(consumers);
    for number in 0..consumers {
        let store = RedbStore::open(dir.join(format!("queue-{number}")))?;
        let builder = Builder::new(store).capacity(usize::MAX).durability(Durability::Sync);
        queues.push(builder.open()?);
    }
    Ok(Box::new(Queues(queues)))
}

impl Peer for Queues {
    /// There is no batch: each message is a transaction.
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        for (sender, _) in &self.0 {
            for payload in payloads {
                sender.push(payload)?;
            }
        }
        Ok(())
    }

    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize> {
        let (sender, receiver) = &self.0[consumer];
        for count in 0..max {
            if sender.is_empty() {
                return Ok(count);
            }
            let Some(item) = receiver.reserve()? else { return Ok(count) };
            seen(&item)?;
            item.ack()?;
        }
        Ok(max)
    }

    /// An ack is a transaction.
    fn sync_acks(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
