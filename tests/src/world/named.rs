//! Publishers with names: what they publish again is stored once.

use super::publish::How;
use super::{Stop, Work, World};
use crate::model::{Fate, Id, NAMES, SHORT, STRICT};

impl World {
    /// Publishes as somebody with a name: something new, what an end took from it, or what is stored.
    pub(super) fn publish_named(&mut self) -> Work {
        let who = self.random.place(NAMES.len());
        let lost = self.model.named[who].iter().copied().find(|id| self.is_unsent(*id));
        if let Some(id) = lost {
            self.counts.resent += 1;
            return self.publish_as(who, id);
        }
        if self.random.chance(15)
            && let Some(&id) = self.model.named[who].last()
        {
            return self.repeat(who, id);
        }
        let id = self.offer();
        // Which of these leaves is a matter of their order; what is refused has a number all the same.
        if [SHORT, STRICT].contains(&&*self.model.sent[id].key) {
            return Ok(());
        }
        let sequence = self.model.named[who].last().map_or(0, |id| self.model.sent[*id].sequence);
        let sequence = sequence.max(self.model.used[who]);
        let gap = u64::from(self.random.chance(10));
        let sent = &mut self.model.sent[id];
        (sent.publisher, sent.buffered) = (1 + who, false);
        sent.sequence = sequence + 1 + gap;
        if sent.queues.is_empty() {
            return Ok(());
        }
        self.model.named[who].push(id);
        self.publish_as(who, id)
    }

    /// Whether an end took it, so that its number is free.
    fn is_unsent(&self, id: Id) -> bool {
        self.model.sent[id].fate == Fate::Lost && self.model.sent[id].sequence > 0
    }

    fn publish_as(&mut self, who: usize, id: Id) -> Work {
        // It goes where it goes now.
        let sent = self.model.sent[id].clone();
        let queues = self.model.topology.route(&sent.exchange, &sent.key).unwrap_or_default();
        self.model.sent[id].queues = queues;
        if self.model.sent[id].queues.is_empty() {
            // It is never stored: whoever comes later takes its turn.
            self.model.named[who].retain(|other| *other != id);
            return Ok(());
        }
        self.publish_ids(How::Named(who), &[id])
    }

    /// What has a number that was used is confirmed, and not stored.
    fn repeat(&mut self, who: usize, id: Id) -> Work {
        let payload = self.model.payload(id);
        let sent = self.model.sent[id].clone();
        let named = self.engine().declare_publisher(NAMES[who]);
        let named = named.map_err(|error| self.failed("declare publisher", error))?;
        let message = fanlog::Message::new(&sent.exchange, &sent.key, &payload);
        let ticket = named.publish(sent.sequence, &message);
        let ticket = ticket.map_err(|error| self.failed("repeat", error))?;
        self.note(|| format!("repeat {id}, number {} of {who}", sent.sequence));
        if !ticket.is_repeat() {
            return Err(Stop::Problem(format!("message {id} was stored, and is again")));
        }
        self.counts.repeats += 1;
        if self.random.chance(50) {
            ticket.wait().map_err(|error| self.failed("wait", error))?;
            self.settle_tickets()?;
            if !matches!(self.model.sent[id].fate, Fate::Confirmed(_)) {
                return Err(Stop::Problem(format!(
                    "message {id} is confirmed by its repeat alone"
                )));
            }
        }
        Ok(())
    }

    /// After an end: each publisher is as far as what is stored of it.
    pub(super) fn judge_named(&mut self) -> Work {
        for (who, name) in NAMES.iter().enumerate() {
            if self.model.named[who].is_empty() {
                continue;
            }
            let named = self.engine().declare_publisher(name);
            let last = named.map_err(|error| self.failed("declare publisher", error))?;
            let last = last.last_sequence();
            self.model.used[who] = last;
            for at in 0..self.model.named[who].len() {
                let id = self.model.named[who][at];
                let sent = &self.model.sent[id];
                let used = sent.sequence <= last;
                let stored = matches!(sent.fate, Fate::Confirmed(_));
                // Of one that went to queues that are gone nothing else is left.
                let kept = &self.model.topology.queues;
                let seen = sent.queues.iter().any(|queue| kept.values().any(|one| one == queue));
                if stored && !used || used && !stored && seen {
                    return Err(Stop::Problem(format!(
                        "{name} is at {last}, message {id} has number {} and is {:?}",
                        sent.sequence, sent.fate
                    )));
                }
                if used && !stored {
                    self.model.sent[id].sequence = 0;
                }
            }
            self.model.named[who].retain(|id| self.model.sent[*id].sequence > 0);
        }
        Ok(())
    }
}
