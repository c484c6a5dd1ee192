//! yaque: a directory per consumer, each with its own copy of every message; nothing is synced.

use std::path::Path;

use anyhow::Result;
use yaque::{Receiver, Sender, TryRecvError, recovery};

use super::{Peer, Seen};

struct Queues(Vec<(Sender, Receiver)>);

pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    let mut queues = Vec::with_capacity(consumers);
    for number in 0..consumers {
        let queue = dir.join(format!("queue-{number}"));
        if queue.exists() {
            // Locks stay behind when the process is killed.
            recovery::unlock_queue(&queue)?;
        }
        queues.push((Sender::open(&queue)?, Receiver::open(&queue)?));
    }
    Ok(Box::new(Queues(queues)))
}

impl Peer for Queues {
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        for (sender, _) in &mut self.0 {
            let sent = sender.try_send_batch(payloads);
            sent.map_err(|error| anyhow::anyhow!("a batch was refused: {error:?}"))?;
        }
        Ok(())
    }

    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize> {
        let (_, receiver) = &mut self.0[consumer];
        let batch = match receiver.try_recv_batch_up_to(max) {
            Ok(batch) => batch,
            Err(TryRecvError::QueueEmpty) => return Ok(0),
            Err(TryRecvError::Io(error)) => return Err(error.into()),
        };
        batch.iter().try_for_each(|payload| seen(payload))?;
        let count = batch.len();
        batch.commit()?;
        Ok(count)
    }

    /// Writes where it stands; not synced either.
    fn sync_acks(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(|(_, receiver)| receiver.save())?;
        Ok(())
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        self.0.iter_mut().try_for_each(|(_, receiver)| receiver.save())?;
        Ok(())
    }
}
