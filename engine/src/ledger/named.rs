//! How far named publishers are, as the confirmed log says.
//!
//! In: publisher records. A batch with messages of a named publisher has a record of the sequence
//! that the publisher reached in it. So replay, which reads control records alone where a footer
//! lists them, finds the sequence of every message that it finds, and of no other: record and
//! message are durable together, or lost together.

use std::collections::BTreeMap;

use fanlog_segment_format::{
    Control, PublisherId,
    checkpoint::{Checkpoint, PublisherEntry},
};

/// The publishers that are not forgotten.
#[derive(Debug, Default)]
pub(crate) struct Named {
    next: u32,
    by_id: BTreeMap<PublisherId, PublisherEntry>,
}

impl Named {
    pub(super) fn of(checkpoint: &Checkpoint) -> Self {
        let entries = checkpoint.publishers.iter().map(|entry| (entry.id, entry.clone()));
        Self { next: checkpoint.next_publisher, by_id: entries.collect() }
    }

    pub(super) fn add_to(&self, checkpoint: &mut Checkpoint) {
        checkpoint.next_publisher = self.next;
        checkpoint.publishers = self.by_id.values().cloned().collect();
    }

    pub(super) fn apply(&mut self, control: &Control<'_>) {
        match *control {
            Control::PublisherDeclare { publisher: id, time_us, name } => {
                self.next = self.next.max(id.0.saturating_add(1));
                let entry = PublisherEntry { id, sequence: 0, time_us, name: name.to_owned() };
                self.by_id.insert(id, entry);
            }
            Control::PublisherSequence { publisher, sequence, time_us } => {
                if let Some(entry) = self.by_id.get_mut(&publisher) {
                    entry.sequence = entry.sequence.max(sequence);
                    entry.time_us = time_us;
                }
            }
            Control::PublisherForget { publisher } => {
                self.by_id.remove(&publisher);
            }
            _ => {}
        }
    }

    /// Passes over ids that lost records may have used.
    pub(super) fn skip_ids(&mut self, count: u32) {
        // Without any the checkpoint need not speak of them.
        if self.next > 0 || count > 0 {
            self.next = self.next.saturating_add(count);
        }
    }

    /// The id of the next one.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &PublisherEntry> {
        self.by_id.values()
    }
}
