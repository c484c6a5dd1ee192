//! What comes back from the past: a queue is bound from what its exchange keeps, or rewound.

use std::collections::{BTreeMap, BTreeSet};

use super::{Acked, Entry, Fate, Id, Model, PAST, PAST_BYTES, QueueId, Times};

/// A call that brings messages back to a queue.
#[derive(Debug, Clone)]
pub struct Bring {
    /// The queue.
    pub queue: QueueId,
    /// What may come, by offset: from one of these on all of it does, or nothing.
    pub may: BTreeMap<u64, Id>,
}

impl Times {
    /// How often it was handed out is not known, nor whether it will be flagged.
    fn unknown() -> Self {
        Self { known: (0, u32::MAX / 2), recorded: 0, here: true }
    }
}

impl Model {
    /// What may come to a queue from what [`PAST`] keeps: all that passed through it and that the queue
    /// does not have.
    pub fn past_of(&self, queue: QueueId) -> Bring {
        let entries = &self.queues[queue].entries;
        let has = |id: &Id| entries.get(id).is_some_and(|entry| entry.acked == Acked::No);
        let may = self.passed().filter(|(_, id)| !has(id)).collect();
        Bring { queue, may }
    }

    /// All that passed through [`PAST`], by offset.
    fn passed(&self) -> impl Iterator<Item = (u64, Id)> {
        let sent = self.sent.iter().enumerate().filter(|(_, sent)| &*sent.exchange == PAST);
        sent.filter_map(|(id, sent)| match sent.fate {
            Fate::Confirmed(offset) => Some((offset, id)),
            Fate::Pending | Fate::Lost => None,
        })
    }

    /// From this offset on, at the latest, [`PAST`] keeps all of it.
    pub fn kept_from(&self) -> u64 {
        let passed: BTreeMap<u64, Id> = self.passed().collect();
        let mut bytes = 0;
        let over = passed.iter().rev().find(|(_, id)| {
            bytes += self.sent[**id].bytes as u64;
            bytes > PAST_BYTES
        });
        over.map_or(0, |(offset, _)| offset + 1)
    }

    /// Messages came to a queue from the past: it has them as if it never had, and whether it shows
    /// any of its messages as handed out before is not certain.
    pub fn brought(&mut self, queue: QueueId, ids: impl IntoIterator<Item = Id>) {
        for id in ids {
            self.queues[queue].entries.insert(id, Entry::new());
            let queues = &mut self.sent[id].queues;
            if !queues.contains(&queue) {
                queues.push(queue);
            }
        }
        for entry in self.queues[queue].entries.values_mut() {
            entry.times = Times::unknown();
        }
    }

    /// After an end in such a call: what the queue shows unacked decides whether it took place.
    ///
    /// # Errors
    ///
    /// If of what it brings there is some and not all.
    pub fn settle_bring(&mut self, queue: QueueId, unacked: &BTreeSet<Id>) -> Result<(), String> {
        let Some(Bring { may, .. }) = self.bringing.take_if(|bring| bring.queue == queue) else {
            return Ok(());
        };
        let entries = &self.queues[queue].entries;
        // The ack of what nobody waited for may be lost, whatever became of the call.
        let certain = |id: &Id| entries.get(id).is_none_or(|entry| entry.acked == Acked::Durable);
        let came = |id: &Id| unacked.contains(id);
        let Some((&from, _)) = may.iter().find(|(_, id)| certain(id) && came(id)) else {
            return Ok(());
        };
        if let Some((offset, id)) = may.range(from..).find(|(_, id)| !came(id)) {
            return Err(format!(
                "what was brought back begins at offset {from}, and message {id} at {offset} is not there"
            ));
        }
        self.brought(queue, may.range(from..).map(|(_, id)| *id));
        Ok(())
    }
}
