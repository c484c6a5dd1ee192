//! What a queue hands out next: what came back first, then the log, as far as the lease goes.

use std::{collections::BTreeMap, sync::Arc};

use fanlog_segment_format::Offset;

use super::{Claim, Reader, Ready};
use crate::{Result, core::Core, queue::Queue};

/// Messages that a lease covers at the most.
const LEASE_MESSAGES: u64 = 1024;

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    Message(Ready),
    /// There is one, and the lease that covers it was asked for.
    Waits,
    Nothing,
}

/// A queue's cursor, and what came back to it.
#[derive(Debug, Default)]
pub(super) struct Source {
    reader: Option<Reader>,
    returned: BTreeMap<Offset, Claim>,
    /// The lease asked for and not granted yet.
    wanted: Option<Offset>,
    /// Where the last lease was asked for, and messages dealt since: how sparse the queue is.
    leased_at: Offset,
    dealt_since: u64,
}

impl Source {
    pub(super) fn give_back(&mut self, claim: Claim) {
        self.returned.insert(claim.offset, claim);
    }

    /// One past the last message that came back after it was handed out.
    pub(super) fn handed_out_end(&self) -> Offset {
        let flagged = self.returned.values().rev().find(|claim| claim.earlier.any());
        flagged.map(|claim| claim.offset.next()).unwrap_or_default()
    }

    /// Nobody reads on for now. The cursor stays: acks that are on their way are in no ledger yet.
    pub(super) fn rest(&mut self) {
        if let Some(reader) = &mut self.reader {
            reader.rest();
        }
    }

    /// All before `offset` was dropped.
    pub(super) fn skip_to(&mut self, queue: &Queue, offset: Offset) {
        self.returned.clear();
        self.reader.get_or_insert_with(|| Reader::new(queue)).skip_to(offset);
    }

    /// What is ready: of what came back the first `most`, and where it goes on in the log, if that
    /// was begun.
    pub(super) fn ready(&self, most: usize) -> (Vec<Claim>, Option<Reader>) {
        let returned = self.returned.values().take(most).copied().collect();
        (returned, self.reader.as_ref().map(Reader::fork))
    }

    /// Messages that the cursor has passed because they are not due.
    pub(super) fn delayed(&self) -> u64 {
        self.reader.as_ref().map_or(0, Reader::delayed)
    }

    /// The next message to hand out.
    ///
    /// # Errors
    ///
    /// If the log could not be read there; it stays the next.
    pub(super) fn next(&mut self, core: &Core, queue: &Arc<Queue>) -> Result<Next> {
        let due = match &mut self.reader {
            Some(reader) => reader.peek_due(core, queue)?,
            None => None,
        };
        if let Some((&first, &claim)) = self.returned.first_key_value()
            && due.is_none_or(|due| first < due)
        {
            let ready = claim.read(core)?;
            self.returned.pop_first();
            return Ok(Next::Message(ready));
        }
        let reader = self.reader.get_or_insert_with(|| Reader::new(queue));
        let next = if due.is_some() { due } else { reader.peek(core, queue)? };
        let Some(offset) = next else {
            // Somebody wants more: consumers are woken when there is some.
            if let Some(due_us) = reader.next_due_us() {
                core.alarms.set(core, queue, due_us);
            }
            return Ok(Next::Nothing);
        };
        let mark = queue.mark();
        if self.wanted.is_some_and(|wanted| mark >= wanted) {
            self.wanted = None;
        }
        let sparse = self.sparseness(offset);
        let half = LEASE_MESSAGES / 2 * sparse;
        if offset.0 + half >= mark.0 && self.wanted.is_none() {
            let wanted = Offset(offset.0.saturating_add(LEASE_MESSAGES * sparse));
            if wanted > mark {
                self.wanted = Some(wanted);
                self.leased_at = offset;
                self.dealt_since = 0;
                queue.want_lease(&core.dirty, wanted);
                core.hurry(false);
            }
        }
        if offset >= mark {
            return Ok(Next::Waits);
        }
        self.dealt_since += 1;
        let taken = self.reader.as_mut().and_then(|reader| {
            if due.is_some() { reader.take_due(core, queue) } else { reader.take(core, queue) }
        });
        Ok(taken.map_or(Next::Nothing, Next::Message))
    }

    /// Offsets of the log per message of this queue, as seen since the last lease.
    fn sparseness(&self, offset: Offset) -> u64 {
        if self.dealt_since == 0 {
            return 1;
        }
        (offset.0.saturating_sub(self.leased_at.0) / self.dealt_since).clamp(1, 1 << 20)
    }
}
