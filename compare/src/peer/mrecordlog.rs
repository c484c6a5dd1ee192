//! mrecordlog: a queue per consumer, each with its own copy; truncating is the ack.
//!
//! With the policy that should sync each append; version 0.4.0 does not sync.

use std::path::Path;

use anyhow::Result;
use mrecordlog::{MultiRecordLog, SyncPolicy};
use tokio::runtime::Runtime;

use super::{Peer, Seen};

struct Queues {
    runtime: Runtime,
    log: MultiRecordLog,
    names: Vec<String>,
    next: Vec<u64>,
}

pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    std::fs::create_dir_all(dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let names: Vec<String> = (0..consumers).map(|number| format!("queue-{number}")).collect();
    let log = runtime.block_on(async {
        let mut log = MultiRecordLog::open_with_prefs(dir, SyncPolicy::OnAppend).await?;
        for name in &names {
            if !log.queue_exists(name) {
                log.create_queue(name).await?;
            }
        }
        anyhow::Ok(log)
    })?;
    // What was truncated is gone: the first record that is left is the next.
    Ok(Box::new(Queues { runtime, log, next: vec![0; names.len()], names }))
}

impl Peer for Queues {
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        self.runtime.block_on(async {
            for name in &self.names {
                self.log.append_records(name, None, payloads.iter().copied()).await?;
            }
            anyhow::Ok(())
        })
    }

    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize> {
        let name = &self.names[consumer];
        let mut last = None;
        let mut count = 0;
        let records = self.log.range(name, self.next[consumer]..);
        let records = records.map_err(|error| anyhow::anyhow!("the queue is gone: {error:?}"))?;
        for (position, payload) in records.take(max) {
            seen(&payload)?;
            last = Some(position);
            count += 1;
        }
        if let Some(last) = last {
            self.next[consumer] = last + 1;
            self.runtime.block_on(self.log.truncate(name, last))?;
        }
        Ok(count)
    }

    /// Truncating is as durable as it gets.
    fn sync_acks(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        Ok(self.runtime.block_on(self.log.sync())?)
    }
}
