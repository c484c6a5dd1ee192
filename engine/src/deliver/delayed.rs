//! Messages that the cursor passed because they were not due, and those of them that fell due.
//!
//! Owns no list of messages: they stand in footers, and in the indexes of what is not sealed yet,
//! in the order of their times. In memory is one entry for each stretch of the log in which the
//! cursor passed any, with the time at which the next one there is due. What fell due is taken from
//! there, in the order of the log, as far as consumers have credit: so a million that fall due at
//! once need no more memory than one.
//!
//! T1. Of a stretch, all that are due before its `next_us` were taken, and none that is due then or
//!     later. That holds wherever the clock goes: only what the clock has shown is compared.
//!     A round that takes long is begun again: what fell due since comes at its place, too.
//! T2. While something is being taken the cursor stands still: what came due stands before it.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use fanlog_segment_format::Offset;

use super::{
    Earlier, Guard, Level, Ready,
    reader::{List, own_lists, ready_in, routed_to},
};
use crate::{
    Result,
    clock::Clock,
    core::Core,
    log::{Sought, view::View},
    queue::Queue,
};

/// What falls due while other messages are being taken is looked for after so long at the latest.
const AGAIN_AFTER_US: u64 = 1_000_000;

/// From so many stretches on those of one sealed segment become one.
const MERGE_FROM: usize = 64;

/// Offsets of one view in which the cursor passed messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    pub(super) end: Offset,
    /// Where the ack of its first message begins.
    pub(super) ack_from: u64,
    pub(super) next_us: u64,
}

/// What of a queue is not due.
#[derive(Debug)]
pub(super) struct Delayed {
    /// By where they start. They do not overlap.
    stretches: BTreeMap<Offset, Stretch>,
    /// The least of their times.
    next_us: u64,
    /// Messages passed and not taken since.
    messages: u64,
    /// How many stretches there were after the last attempt to merge some.
    merged: usize,
    round: Option<Round>,
}

/// What is due by a time is being taken.
#[derive(Debug)]
struct Round {
    until_us: u64,
    /// Stretches before it are done.
    at: Offset,
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    start: Offset,
    /// Messages before it are done.
    at: Offset,
    /// Given up while nobody consumes.
    loaded: Option<Box<Loaded>>,
}

/// A stretch, its view, and what is due there.
#[derive(Debug)]
struct Loaded {
    view: View,
    guard: Arc<Guard>,
    copy: bool,
    lists: Vec<List>,
    due: Numbers,
}

impl Default for Delayed {
    fn default() -> Self {
        Self { stretches: BTreeMap::new(), next_us: u64::MAX, messages: 0, merged: 0, round: None }
    }
}

impl Delayed {
    /// The same, to go on apart.
    pub(super) fn fork(&self, cursor: Offset) -> Self {
        let round = self.round.as_ref().map(|round| {
            let under_way = round.under_way.as_ref();
            let under_way = under_way.map(|it| UnderWay { loaded: None, ..*it });
            Round { under_way, ..*round }
        });
        let mut fork = Self { stretches: self.stretches.clone(), round, ..*self };
        fork.rest(cursor);
        fork
    }

    /// When the next message is due, if nothing is being taken.
    pub(super) fn next_us(&self) -> Option<u64> {
        (self.round.is_none() && self.next_us < u64::MAX).then_some(self.next_us)
    }

    /// Messages passed and not taken since.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Takes note that the cursor passes a message.
    pub(super) fn passed(&mut self) {
        self.messages += 1;
    }

    /// Takes note of a stretch in which the cursor passes a message. Before `judged_us` all that is
    /// due was taken by the cursor itself, wherever it came.
    pub(super) fn begin(&mut self, core: &Core, start: Offset, stretch: Stretch, judged_us: u64) {
        debug_assert!(self.round.is_none(), "T2");
        self.stretches.insert(start, stretch);
        self.next_us = self.next_us.min(stretch.next_us);
        if self.stretches.len() >= MERGE_FROM.max(2 * self.merged) {
            self.merge(core, judged_us);
            self.merged = self.stretches.len();
        }
    }

    /// Makes one of those that lie in the same sealed segment. What lies between them was taken by
    /// the cursor when it was due, which was not after `judged_us`: so T1 holds of the whole only
    /// where all are due later.
    fn merge(&mut self, core: &Core, judged_us: u64) {
        let segments = core.log.segments();
        let segment_of = |offset: Offset| {
            let at = segments.partition_point(|segment| segment.first_offset() <= offset);
            let segment = segments.get(at.checked_sub(1)?)?;
            segment.is_sealed().then(|| segment.id())
        };
        let mut merged: BTreeMap<Offset, Stretch> = BTreeMap::new();
        for (start, stretch) in std::mem::take(&mut self.stretches) {
            if let Some(mut last) = merged.last_entry()
                && stretch.next_us.min(last.get().next_us) > judged_us
                && segment_of(start).is_some_and(|segment| segment_of(*last.key()) == Some(segment))
            {
                let last = last.get_mut();
                last.end = stretch.end;
                last.next_us = last.next_us.min(stretch.next_us);
                continue;
            }
            merged.insert(start, stretch);
        }
        self.stretches = merged;
    }

    /// Whether something is due by now, or is being taken. If so, all that is due until the time
    /// that is returned will be.
    pub(super) fn fell_due(&mut self, now_us: u64) -> Option<u64> {
        if self
            .round
            .as_ref()
            .is_some_and(|round| now_us.saturating_sub(round.until_us) >= AGAIN_AFTER_US)
        {
            self.begin_again();
        }
        if self.round.is_none() && self.next_us <= now_us {
            self.round = Some(Round { until_us: now_us, at: Offset(0), under_way: None });
        }
        self.round.as_ref().map(|round| round.until_us)
    }

    /// Gives up what is being taken: what fell due since may stand before it. Of the stretch that is
    /// under way, all that was due is taken up to a place, and nothing behind it (T1).
    fn begin_again(&mut self) {
        let Some(Round { until_us, under_way, .. }) = self.round.take() else { return };
        self.next_us = 0;
        let Some(UnderWay { start, at, .. }) = under_way.filter(|it| it.at > it.start) else {
            return;
        };
        let Some(stretch) = self.stretches.get_mut(&start) else { return };
        let rest = Stretch { ack_from: at.0, ..*stretch };
        stretch.next_us = until_us.saturating_add(1);
        if at < rest.end {
            stretch.end = at;
            self.stretches.insert(at, rest);
        }
    }

    /// The next message of that level below `cursor` that fell due; `None` once there is none left.
    ///
    /// # Errors
    ///
    /// If the log could not be read there.
    pub(super) fn peek(
        &mut self,
        core: &Core,
        queue: &Queue,
        level: Level,
        cursor: Offset,
    ) -> Result<Option<Offset>> {
        loop {
            let Some(round) = &mut self.round else { return Ok(None) };
            let until_us = round.until_us;
            let Some(under_way) = &mut round.under_way else {
                let mut rest = self.stretches.range(round.at..);
                let next = rest.find(|(_, stretch)| stretch.next_us <= until_us);
                let Some((&start, _)) = next else {
                    self.round = None;
                    let times = self.stretches.values().map(|stretch| stretch.next_us);
                    self.next_us = times.min().unwrap_or(u64::MAX);
                    return Ok(None);
                };
                round.under_way = Some(UnderWay { start, at: start, loaded: None });
                continue;
            };
            let Some(&stretch) = self.stretches.get(&under_way.start) else {
                round.under_way = None;
                continue;
            };
            if under_way.loaded.is_none() {
                let end = stretch.end.min(cursor);
                let times = (stretch.next_us, until_us);
                let found = Loaded::find(core, queue, under_way, end, times)?;
                under_way.loaded = found.map(Box::new);
            }
            let next_us = match &mut under_way.loaded {
                Some(loaded) => match loaded.next(queue, level) {
                    Some(offset) => return Ok(Some(offset)),
                    None => loaded.due_after(level, until_us, under_way.start..stretch.end),
                },
                // What was there is acked, by a purge for one.
                None => None,
            };
            match next_us {
                Some(next_us) => {
                    self.stretches.insert(under_way.start, Stretch { next_us, ..stretch });
                }
                None => drop(self.stretches.remove(&under_way.start)),
            }
            round.at = under_way.start.next();
            round.under_way = None;
        }
    }

    /// Takes the message that [`Delayed::peek`] showed.
    pub(super) fn take(&mut self, core: &Core, queue: &Queue) -> Option<Ready> {
        let ready = self.show(core, queue)?;
        let under_way = self.round.as_mut()?.under_way.as_mut()?;
        let due = &mut under_way.loaded.as_mut()?.due;
        let number = due.first()?;
        due.remove(number);
        under_way.at = ready.offset.next();
        self.messages = self.messages.saturating_sub(1);
        Some(ready)
    }

    /// The message whose place [`Delayed::peek`] showed; it stays the next.
    pub(super) fn show(&mut self, core: &Core, queue: &Queue) -> Option<Ready> {
        let under_way = self.round.as_mut()?.under_way.as_mut()?;
        let ack_from = self.stretches.get(&under_way.start)?.ack_from;
        let loaded = under_way.loaded.as_mut()?;
        let number = loaded.due.first()?;
        let Loaded { view, guard, copy, lists, .. } = &**loaded;
        let before = lists.iter().filter_map(|list| list.before(view, number)).max();
        let from = before.map_or(ack_from, |before| view.offset_of(before).next().0);
        let earlier = earlier_of(core, queue, view, number);
        Some(ready_in(view, guard, *copy, number, from, earlier))
    }

    /// Nobody goes on for now: views are given up, that of the cursor too. What lies behind it will
    /// be part of another stretch.
    pub(super) fn rest(&mut self, cursor: Offset) {
        if let Some(mut last) = self.stretches.last_entry() {
            last.get_mut().end = last.get().end.min(cursor);
        }
        if let Some(under_way) = self.round.as_mut().and_then(|round| round.under_way.as_mut()) {
            under_way.loaded = None;
        }
    }
}

impl Loaded {
    /// What is due, from the first of `times` to the second, where the stretch is not done yet.
    fn find(
        core: &Core,
        queue: &Queue,
        under_way: &UnderWay,
        end: Offset,
        times: (u64, u64),
    ) -> Result<Option<Self>> {
        // One that was merged is wider than a batch, although its batches may be in memory still.
        let view = match core.log.sealed_at(under_way.start)? {
            Some(reader) => View::Sealed(reader),
            None => match core.log.seek(under_way.start, &|route| routed_to(core, queue, route))? {
                Sought::View(view) => view,
                Sought::Nothing(_) => return Ok(None),
            },
        };
        let (first, last) = (view.lower_bound(under_way.at), view.lower_bound(end));
        let mut due = Numbers::new(first, last);
        let from = times.0.checked_sub(1).map_or(0, |before| view.dues_until(before));
        for k in from..view.dues_until(times.1) {
            let entry = view.due(k);
            if !entry.expiry {
                due.insert(entry.number);
            }
        }
        let lists = own_lists(core, queue, &view, under_way.start);
        let copy = core.hands_out_copies(&view);
        let guard = Arc::new(Guard::View(view.clone()));
        Ok(Some(Self { view, guard, copy, lists, due }))
    }

    fn is_own(&self, level: Level, number: u32) -> bool {
        level.has(&self.view, number) && self.lists.iter().any(|list| list.has(&self.view, number))
    }

    /// The next one that is the queue's and not acked.
    fn next(&mut self, queue: &Queue, level: Level) -> Option<Offset> {
        loop {
            let number = self.due.first()?;
            let offset = self.view.offset_of(number);
            if self.is_own(level, number) && !queue.ledger().acks.contains(offset.0) {
                return Some(offset);
            }
            self.due.remove(number);
        }
    }

    /// When the next of the queue's messages there is due, after a time.
    fn due_after(&self, level: Level, until_us: u64, within: Range<Offset>) -> Option<u64> {
        let Range { start, end } = within;
        let numbers = self.view.lower_bound(start)..self.view.lower_bound(end);
        let later = self.view.dues_until(until_us)..self.view.dues();
        let mut later = later.map(|k| self.view.due(k)).filter(|due| !due.expiry);
        later
            .find(|due| numbers.contains(&due.number) && self.is_own(level, due.number))
            .map(|due| due.time_us)
    }
}

/// How often a message was in somebody's hands before the store was opened: not at all if it was
/// not due by then.
pub(super) fn earlier_of(core: &Core, queue: &Queue, view: &View, number: u32) -> Earlier {
    let offset = view.offset_of(number);
    if !queue.was_handed_out(offset) {
        return Earlier::default();
    }
    let count = queue.delivery_count(offset);
    let due = || view.message(number).map_or(true, |it| it.due_us <= Some(core.opened_us));
    if count > 0 || due() { Earlier::before_opening(count) } else { Earlier::default() }
}

/// Which messages of a view are not due.
#[derive(Debug)]
pub(super) struct NotDue {
    numbers: Numbers,
    /// All that are due by then are not among them.
    until_us: u64,
    /// Where the cursor came into the view, and where the ack of its first message there begins.
    start: Offset,
    ack_from: u64,
    /// It is among the stretches.
    noted: bool,
}

impl NotDue {
    /// Of the messages at or past `cursor`; `None` if all are due.
    pub(super) fn in_view(view: &View, cursor: Offset, ack_from: u64, now_us: u64) -> Option<Self> {
        let mut numbers: Option<Numbers> = None;
        let (first, end) = (view.lower_bound(cursor), view.messages());
        // The cursor may have come from another segment.
        let start = view.offset_of(first);
        for due in (view.dues_until(now_us)..view.dues()).map(|k| view.due(k)) {
            if !due.expiry && due.number >= first {
                numbers.get_or_insert_with(|| Numbers::new(first, end)).insert(due.number);
            }
        }
        let numbers = numbers?;
        Some(Self { numbers, until_us: now_us, start, ack_from, noted: false })
    }

    pub(super) fn until_us(&self) -> u64 {
        self.until_us
    }

    /// Whether a message is not due. As long as none was passed, that is looked at anew.
    pub(super) fn holds(&mut self, view: &View, number: u32, clock: &dyn Clock) -> bool {
        if !self.noted && self.numbers.contains(number) {
            self.until(view, clock.wall_us());
        }
        self.numbers.contains(number)
    }

    /// Time went on.
    pub(super) fn until(&mut self, view: &View, until_us: u64) {
        if until_us <= self.until_us {
            return;
        }
        for k in view.dues_until(self.until_us)..view.dues_until(until_us) {
            let due = view.due(k);
            if !due.expiry {
                self.numbers.remove(due.number);
            }
        }
        self.until_us = until_us;
    }

    /// The stretch that it is, if that is not noted yet; from here on it is.
    pub(super) fn note(&mut self, view: &View) -> Option<(Offset, Stretch)> {
        if std::mem::replace(&mut self.noted, true) {
            return None;
        }
        let first = view.lower_bound(self.start);
        let mut later = (view.dues_until(self.until_us)..view.dues()).map(|k| view.due(k));
        // Perhaps that of another queue: that is found out when it is due.
        let next_us = later.find(|due| !due.expiry && due.number >= first)?.time_us;
        let (end, ack_from) = (view.end_offset(), self.ack_from);
        Some((self.start, Stretch { end, ack_from, next_us }))
    }
}

/// Some messages of a view, by their numbers: a bit for each.
#[derive(Debug)]
struct Numbers {
    words: Box<[u64]>,
    /// The number that the first bit stands for.
    first: u32,
    end: u32,
    /// Words before it are zero.
    at: usize,
}

impl Numbers {
    /// None, of those in a range.
    fn new(first: u32, end: u32) -> Self {
        let end = end.max(first);
        let words = vec![0; (end - first).div_ceil(64) as usize].into();
        Self { words, first, end, at: 0 }
    }

    fn place(&self, number: u32) -> Option<(usize, u64)> {
        if number < self.first || number >= self.end {
            return None;
        }
        let bit = number - self.first;
        Some(((bit / 64) as usize, 1 << (bit % 64)))
    }

    fn insert(&mut self, number: u32) {
        if let Some((word, bit)) = self.place(number) {
            self.words[word] |= bit;
            self.at = self.at.min(word);
        }
    }

    fn remove(&mut self, number: u32) {
        if let Some((word, bit)) = self.place(number) {
            self.words[word] &= !bit;
        }
    }

    fn contains(&self, number: u32) -> bool {
        self.place(number).is_some_and(|(word, bit)| self.words[word] & bit != 0)
    }

    fn first(&mut self) -> Option<u32> {
        let rest = self.words.get(self.at..)?;
        self.at += rest.iter().position(|&word| word != 0).unwrap_or(rest.len());
        let word = self.words.get(self.at)?;
        let bit = u32::try_from(self.at * 64).ok()? + word.trailing_zeros();
        Some(self.first + bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_order_whatever_is_taken_out_between() {
        let mut numbers = Numbers::new(100, 400);
        for number in [399, 100, 163, 164, 250, 99, 400] {
            numbers.insert(number);
        }
        numbers.remove(164);
        numbers.remove(1000);
        let mut found = Vec::new();
        while let Some(number) = numbers.first() {
            assert!(numbers.contains(number));
            numbers.remove(number);
            found.push(number);
        }
        assert_eq!(found, [100, 163, 250, 399]);
        numbers.insert(101);
        assert_eq!(numbers.first(), Some(101));
        assert_eq!(Numbers::new(7, 7).first(), None);
    }
}
