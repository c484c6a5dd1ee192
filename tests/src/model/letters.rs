//! Queues with options, and messages that leave theirs: over as dead letters.
//!
//! A message of [`MORTAL`] is numbered together with the copy that comes of it: the letter, the next
//! number, which has the same bytes. It is known when it is seen first.

use std::time::Duration;

use fanlog::QueueOptions;

use super::{Acked, Entry, Fate, Id, Model};

/// The queue whose messages have a life, and become dead letters.
pub const MORTAL: &str = "mortal";
/// Where dead letters go.
pub const LETTERS: &str = "letters";
/// The queue that tells priorities apart.
pub const RANKED: &str = "ranked";
/// How long messages live in [`MORTAL`].
pub const LIFE: Duration = Duration::from_secs(20);

/// What a queue of this name is declared with.
pub fn queue_options(name: &str) -> QueueOptions {
    match name {
        MORTAL => QueueOptions {
            message_ttl: Some(LIFE),
            dead_letter_exchange: Some(String::new()),
            dead_letter_key: Some(LETTERS.to_owned()),
            ..QueueOptions::default()
        },
        RANKED => QueueOptions { priority_max: Some(3), ..QueueOptions::default() },
        _ => QueueOptions::default(),
    }
}

impl Model {
    /// A message gets a life, and a letter that comes when it left: one of a publisher of its own, as
    /// letters come in any order.
    pub(super) fn offer_mortal(&mut self, id: Id, bytes: usize) {
        let letter = self.offer("", LETTERS, bytes, false);
        self.sent[letter].publisher = usize::MAX - letter;
        self.sent[id].letter = Some(letter);
        self.sent[id].over_us = Some((u64::MAX, 0));
    }

    /// Which message of a queue these bytes are: among dead letters, the copy.
    ///
    /// # Errors
    ///
    /// If they are none's, or of a message that can be no dead letter.
    pub fn recognise_in(&self, queue: &str, bytes: &[u8]) -> Result<Id, String> {
        let id = self.recognise(bytes)?;
        if queue != LETTERS {
            return Ok(id);
        }
        self.sent[id].letter.ok_or_else(|| format!("message {id} is among dead letters"))
    }

    /// Takes note of a dead letter that is seen, if it is for the first time: the original has left its
    /// queue for good then.
    ///
    /// # Errors
    ///
    /// If it had no reason to.
    pub fn seen_letter(&mut self, letter: Id, offset: u64) -> Result<(), String> {
        let Some(id) = letter.checked_sub(1).filter(|id| self.sent[*id].letter == Some(letter))
        else {
            return Ok(());
        };
        if self.sent[letter].fate != Fate::Lost {
            return Ok(());
        }
        let (Some(&mortal), Some(&letters)) =
            (self.topology.queues.get(MORTAL), self.topology.queues.get(LETTERS))
        else {
            return Err(format!("dead letter {letter} came, and there is no queue for it"));
        };
        let rejected = self.rejected.remove(&id);
        let may = rejected || self.sent[id].may_be_over;
        let Some(entry) = self.queues[mortal].entries.get_mut(&id).filter(|entry| {
            let settled = if rejected { Acked::Asked } else { Acked::No };
            may && entry.acked == settled && !entry.in_hands
        }) else {
            return Err(format!("message {id} became a dead letter without a reason"));
        };
        entry.acked = Acked::Durable;
        self.sent[letter].fate = Fate::Confirmed(offset);
        self.queues[letters].entries.insert(letter, Entry::new());
        Ok(())
    }
}
