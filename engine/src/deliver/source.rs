//! What a queue hands out next: of the highest priority, what came back first, then the log, as far
//! as the lease goes.

use std::{cmp::Reverse, collections::BTreeMap, num::NonZeroU64, sync::Arc};

use fanlog_segment_format::Offset;

use super::{Claim, Reader, Ready};
use crate::{Result, core::Core, on_demand::OnDemand, queue::Queue};

/// Messages that a lease covers at the most.
const LEASE_MESSAGES: u64 = 1024;
/// With so many left the next one is asked for: it may ride along with a commit.
const LEASE_ASKED: u64 = 512;
/// With so many left a commit of its own is asked for.
const LEASE_HURRIED: u64 = 384;

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    /// And whether it never was anybody's since the store was opened.
    Message(Ready, bool),
    /// There is one, and the lease that covers it was asked for.
    Waits,
    Nothing,
}

/// A queue's cursors, one for each priority that it tells apart, and what came back to it.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// By level, the lowest first; made when the first message is asked for.
    readers: Box<[Reader]>,
    /// The highest level first, and in each in the order of the log.
    returned: OnDemand<BTreeMap<(Reverse<u8>, Offset), Claim>>,
    /// The lease asked for and not granted yet.
    wanted: Option<NonZeroU64>,
    /// Where the last lease was asked for, and messages dealt since: how sparse the queue is.
    leased_at: Offset,
    dealt_since: u32,
    /// A commit of its own was asked for as well.
    hurried: bool,
    /// A message was taken that was there when the store was opened.
    took_old: bool,
}

/// What is ready in one level: what came back, and where it goes on in the log.
pub(super) struct ReadyIn {
    pub(super) returned: Vec<Claim>,
    pub(super) reader: Reader,
}

impl Source {
    pub(super) fn give_back(&mut self, claim: Claim) {
        // There is a reader: somebody had it.
        let max = self.readers.len().saturating_sub(1);
        let level = claim.priority.min(u8::try_from(max).unwrap_or(u8::MAX));
        self.returned.make().insert((Reverse(level), claim.offset), claim);
    }

    /// One past the last message that came back after it was handed out.
    pub(super) fn handed_out_end(&self) -> Offset {
        let returned = self.returned.get().into_iter().flat_map(BTreeMap::values);
        let flagged = returned.filter(|claim| claim.earlier.any());
        flagged.map(|claim| claim.offset.next()).max().unwrap_or_default()
    }

    /// Nobody reads on for now. The cursors stay: acks that are on their way are in no ledger yet.
    pub(super) fn rest(&mut self) {
        self.readers.iter_mut().for_each(Reader::rest);
    }

    /// All before `offset` was dropped.
    pub(super) fn skip_to(&mut self, queue: &Queue, offset: Offset) {
        self.returned.forget();
        self.begin(queue);
        for reader in &mut self.readers {
            reader.skip_to(offset);
        }
    }

    /// The one cursor of a queue that tells no priorities apart.
    pub(super) fn only(&mut self, queue: &Queue) -> Option<&mut Reader> {
        self.begin(queue);
        self.readers.first_mut()
    }

    fn begin(&mut self, queue: &Queue) {
        if self.readers.is_empty() {
            self.readers = Reader::of_levels(queue);
        }
    }

    /// What is ready, level by level, the highest first: of what came back the first `most`.
    pub(super) fn ready(&self, most: usize) -> Vec<ReadyIn> {
        let levels = (0..=u8::MAX).zip(&self.readers).rev();
        let ready_in = |(level, reader): (u8, &Reader)| {
            let returned = self.returned_in(level).take(most).map(|(_, &claim)| claim).collect();
            ReadyIn { returned, reader: reader.fork() }
        };
        levels.map(ready_in).collect()
    }

    /// What came back is no longer here.
    fn take_back(&mut self, level: u8, offset: Offset) {
        if let Some(returned) = self.returned.get_mut() {
            returned.remove(&(Reverse(level), offset));
            if returned.is_empty() {
                self.returned.forget();
            }
        }
    }

    fn returned_in(&self, level: u8) -> impl Iterator<Item = (Offset, &Claim)> {
        let level = Reverse(level);
        let range = (level, Offset(0))..=(level, Offset(u64::MAX));
        let returned =
            self.returned.get().into_iter().flat_map(move |all| all.range(range.clone()));
        returned.map(|((_, offset), claim)| (*offset, claim))
    }

    /// Messages that the cursors have passed because they are not due.
    pub(super) fn delayed(&self) -> u64 {
        self.readers.iter().map(Reader::delayed).sum()
    }

    /// How many levels there are.
    pub(super) fn levels(&mut self, queue: &Queue) -> usize {
        self.begin(queue);
        self.readers.len()
    }

    /// What came back first in a level, if nothing that is due stands before it; and whether
    /// something due does.
    fn first_in(&mut self, at: usize, core: &Core, queue: &Queue) -> Result<(Option<Claim>, bool)> {
        let due = self.readers[at].peek_due(core, queue)?;
        let level = u8::try_from(at).unwrap_or(u8::MAX);
        let first = self.returned_in(level).next().map(|(_, claim)| *claim);
        let first = first.filter(|claim| due.is_none_or(|due| claim.offset < due));
        Ok((first, first.is_none() && due.is_some()))
    }

    /// The next message of a level, whatever the lease, and whether it never was anybody's: it stays
    /// the next.
    ///
    /// # Errors
    ///
    /// If the log could not be read there.
    pub(super) fn head(
        &mut self,
        at: usize,
        core: &Core,
        queue: &Queue,
    ) -> Result<Option<(Ready, bool)>> {
        let fresh = match self.first_in(at, core, queue)? {
            (Some(claim), _) => return claim.read(core).map(|ready| Some((ready, false))),
            (None, true) => self.readers[at].show_due(core, queue),
            (None, false) => {
                let reader = &mut self.readers[at];
                reader.peek(core, queue)?.and_then(|_| reader.show(core, queue))
            }
        };
        Ok(fresh.map(|ready| (ready, true)))
    }

    /// Takes the next message of a level, not to be handed out.
    ///
    /// # Errors
    ///
    /// If the log could not be read there.
    pub(super) fn take_head(
        &mut self,
        at: usize,
        core: &Core,
        queue: &Queue,
    ) -> Result<Option<Claim>> {
        let (first, due) = self.first_in(at, core, queue)?;
        if let Some(claim) = first {
            self.take_back(u8::try_from(at).unwrap_or(u8::MAX), claim.offset);
            return Ok(Some(claim));
        }
        let reader = &mut self.readers[at];
        let taken = if due {
            reader.take_due(core, queue)
        } else {
            reader.peek(core, queue)?.and_then(|_| reader.take(core, queue))
        };
        Ok(taken.map(|ready| ready.claim()))
    }

    /// The next message to hand out: the first of the highest level that has one.
    ///
    /// # Errors
    ///
    /// If the log could not be read there; it stays the next.
    pub(super) fn next(&mut self, core: &Core, queue: &Arc<Queue>) -> Result<Next> {
        self.begin(queue);
        for at in (0..self.readers.len()).rev() {
            match self.next_in(at, core, queue)? {
                Next::Nothing => {}
                next => return Ok(next),
            }
        }
        // Somebody wants more: consumers are woken when there is some.
        let due_us = self.readers.iter().filter_map(Reader::next_due_us).min();
        if let Some(due_us) = due_us {
            core.alarms.set(core, queue, due_us);
        }
        Ok(Next::Nothing)
    }

    fn next_in(&mut self, at: usize, core: &Core, queue: &Arc<Queue>) -> Result<Next> {
        let reader = &mut self.readers[at];
        let due = reader.peek_due(core, queue)?;
        if self.returned.get().is_some() {
            let level = u8::try_from(at).unwrap_or(u8::MAX);
            let first = self.returned_in(level).next().map(|(first, claim)| (first, *claim));
            if let Some((first, claim)) = first
                && due.is_none_or(|due| first < due)
            {
                let ready = claim.read(core)?;
                self.take_back(level, first);
                return Ok(Next::Message(ready, false));
            }
        }
        let reader = &mut self.readers[at];
        let next = if due.is_some() { due } else { reader.peek(core, queue)? };
        let Some(offset) = next else { return Ok(Next::Nothing) };
        if !self.is_leased(core, queue, offset) {
            return Ok(Next::Waits);
        }
        self.dealt_since = self.dealt_since.saturating_add(1);
        let reader = &mut self.readers[at];
        let taken =
            if due.is_some() { reader.take_due(core, queue) } else { reader.take(core, queue) };
        let Some(ready) = taken else { return Ok(Next::Nothing) };
        if ready.offset < core.recovery.end {
            self.took_old = true;
            if ready.fields.expiry_us.is_some() {
                // Should it come back, its time goes on.
                core.limits.watch(core, Arc::clone(queue));
            }
        }
        Ok(Next::Message(ready, true))
    }

    /// Has the background look at the head that the queue has now, if one from before the store was
    /// opened was taken.
    pub(super) fn tell_of_old(&mut self, core: &Core, queue: &Queue) {
        if std::mem::take(&mut self.took_old) {
            core.limits.took_old(queue);
        }
    }

    /// Whether a message may be handed out. Asks for a lease ahead of time.
    fn is_leased(&mut self, core: &Core, queue: &Arc<Queue>, offset: Offset) -> bool {
        let mark = queue.mark();
        if self.wanted.is_some_and(|wanted| mark.0 >= wanted.get()) {
            self.wanted = None;
        }
        let sparse = self.sparseness(offset);
        let left = mark.0.saturating_sub(offset.0);
        if left <= LEASE_ASKED * sparse && self.wanted.is_none() {
            let wanted = Offset(offset.0.saturating_add(LEASE_MESSAGES * sparse));
            if wanted > mark {
                // Above the mark, so never 0.
                self.wanted = NonZeroU64::new(wanted.0);
                self.hurried = false;
                self.leased_at = offset;
                self.dealt_since = 0;
                queue.want_lease(&core.dirty, wanted);
                core.acks_wait();
            }
        }
        if left <= LEASE_HURRIED * sparse && self.wanted.is_some() && !self.hurried {
            self.hurried = true;
            core.hurry(false);
        }
        offset < mark
    }

    /// Offsets of the log per message of this queue, as seen since the last lease.
    fn sparseness(&self, offset: Offset) -> u64 {
        if self.dealt_since == 0 {
            return 1;
        }
        (offset.0.saturating_sub(self.leased_at.0) / u64::from(self.dealt_since)).clamp(1, 1 << 20)
    }
}
