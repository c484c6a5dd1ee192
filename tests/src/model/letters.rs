//! Messages that leave their queue: by their time, by its length, or rejected; over as dead letters.
//!
//! A message of a queue that is left ([`is_left`](super::is_left)) is numbered together with the copy that
//! comes of it: the letter, the next number, which has the same bytes. It is known when it is seen first.

use super::{Acked, Entry, Fate, Id, LETTERS, MORTAL, Model, QueueId, SHORT, SHORT_MAX};

impl Model {
    /// A message gets a life, and a letter that comes when it left: one of a publisher of its own, as
    /// letters come in any order.
    pub(super) fn offer_mortal(&mut self, id: Id, bytes: usize) {
        let letter = self.offer("", LETTERS, bytes, false);
        self.sent[letter].publisher = usize::MAX - letter;
        self.sent[id].letter = Some(letter);
        let lives = *self.sent[id].key == *MORTAL;
        self.sent[id].over_us = lives.then_some((u64::MAX, 0));
    }

    /// Takes note of what has to leave a queue that has become too long: of [`SHORT`] all that has so
    /// many behind it, for which it takes no more than that they were there once.
    pub fn over_length(&mut self, queue: QueueId) {
        if *self.queues[queue].name != *SHORT {
            return;
        }
        let ids = self.outstanding(queue);
        for id in &ids[..ids.len().saturating_sub(SHORT_MAX)] {
            self.sent[*id].may_be_over = true;
        }
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
        let queues = &self.topology.queues;
        let (Some(&mortal), Some(&letters)) =
            (queues.get(&*self.sent[id].key), queues.get(LETTERS))
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
