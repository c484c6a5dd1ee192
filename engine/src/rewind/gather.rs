//! Looks through histories for what a queue is to get of them.
//!
//! In: the log, what the queue wants. Out: which messages are brought and which are passed, and how
//! much that is in each segment. No lock is held meanwhile but, for moments, the queue's own.
//!
//! The queue is held still, so what it has acked stays as it is; the histories are, so all that they
//! have from their floors on stays stored, and live.

use std::{collections::BTreeMap, sync::Arc};

use fanlog_segment_format::{GroupId, Offset, checkpoint::MemberEntry};

use crate::{
    Result,
    core::Core,
    ledger::{
        ack_set::AckBatch,
        queue_ledger::{Amount, ranges_of},
    },
    log::{Sought, view::View},
    queue::Queue,
    route::Past,
};

/// What is found in one segment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct InSegment {
    pub(super) brought: Amount,
    /// The queue's by the new memberships alone: brought or passed.
    pub(super) joined: Amount,
}

/// What is wanted of one history.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) past: Past,
    /// From here on.
    pub(super) from: Offset,
}

impl Wanted {
    pub(super) fn group(&self) -> GroupId {
        self.past.group
    }
}

/// Looks for what a queue is to get.
#[derive(Debug)]
pub(super) struct Gatherer<'a> {
    pub(super) core: &'a Core,
    pub(super) queue: &'a Queue,
    pub(super) wanted: Vec<Wanted>,
    /// The queue's memberships.
    pub(super) members: Vec<MemberEntry>,
    /// What it got since it has a binding for it comes again, too.
    pub(super) again: bool,
    pub(super) found: Found,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) brought: AckBatch,
    pub(super) passed: AckBatch,
    /// By where segments start.
    pub(super) segments: BTreeMap<Offset, InSegment>,
    pub(super) amount: Amount,
    pub(super) first: Option<Offset>,
}

/// Messages of one route in a view, and what the queue has to do with them.
struct Stretch<'a> {
    view: &'a View,
    at: u32,
    /// The histories that have them.
    wanted: Vec<&'a Wanted>,
    /// Offsets in which they are the queue's, and in which they are so by what it still has.
    own: Vec<(Offset, Offset)>,
    had: Vec<(Offset, Offset)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is as it is.
    None,
    Brought,
    Passed,
}

impl Gatherer<'_> {
    /// Looks through what lies from `from` on, before `to`.
    ///
    /// # Errors
    ///
    /// If the log could not be read there.
    pub(super) fn look(&mut self, from: Offset, to: Offset) -> Result<()> {
        let mut found = std::mem::take(&mut self.found);
        let looked = self.look_for(&mut found, from, to);
        self.found = found;
        looked
    }

    fn look_for(&self, found: &mut Found, from: Offset, to: Offset) -> Result<()> {
        let log = &self.core.log;
        let has = |groups: &[GroupId], group| groups.binary_search(&group).is_ok();
        let kept = |route| {
            let groups = log.route_groups(route);
            groups.is_some_and(|groups| {
                self.wanted.iter().any(|wanted| has(&groups, wanted.past.group))
            })
        };
        let had = self.members.iter().filter(|member| member.to.is_none() && !self.again);
        let had: Vec<MemberEntry> = had.copied().collect();
        let mut from = from;
        while from < to {
            let Sought::View(view) = log.seek(from, &kept)? else { return Ok(()) };
            for at in 0..view.routes() {
                let Some(groups) = log.route_groups(view.route(at).route) else { continue };
                let wanted = self.wanted.iter().filter(|one| has(&groups, one.past.group));
                let wanted: Vec<&Wanted> = wanted.collect();
                if wanted.is_empty() {
                    continue;
                }
                let own = ranges_of(&self.members, &groups);
                let had = ranges_of(&had, &groups);
                let stretch = Stretch { view: &view, at, wanted, own, had };
                self.look_through(found, &stretch, from, to);
            }
            from = view.end_offset().max(from.next());
        }
        Ok(())
    }

    /// Looks at the messages of one route.
    fn look_through(&self, found: &mut Found, stretch: &Stretch<'_>, from: Offset, to: Offset) {
        let Stretch { view, at, .. } = *stretch;
        let route = view.route(at);
        let first = view.route_lower_bound(at, from);
        // Payloads need not be read where all are brought, and lie in one segment.
        let sum = (first == 0 && stretch.is_all())
            .then(|| self.all_of(view, at, route.messages, to))
            .flatten()
            .map(|segment| {
                (segment, Amount { messages: route.messages.into(), bytes: route.bytes })
            });
        let mut bounds = (Offset(0), Offset(0));
        for nth in first..route.messages {
            let number = view.route_message(at, nth);
            let offset = view.offset_of(number);
            if offset >= to {
                break;
            }
            if sum.is_some() {
                found.brought.insert(offset.0, offset.0 + 1);
                found.note_first(offset);
                continue;
            }
            let (verdict, joins) = self.verdict(stretch, number, offset);
            if verdict == Verdict::None {
                continue;
            }
            if !(bounds.0 <= offset && offset < bounds.1) {
                bounds = self.core.log.bounds_at(offset);
            }
            let amount = Amount { messages: 1, bytes: view.payload_bytes(number) };
            found.add(bounds.0, offset, verdict, joins, amount);
        }
        if let Some((segment, amount)) = sum {
            let there = found.segments.entry(segment).or_default();
            there.brought = there.brought.plus(amount);
            there.joined = there.joined.plus(amount);
            found.amount = found.amount.plus(amount);
        }
    }

    /// Where the segment starts that has all messages of the route, if it is one and all are asked
    /// for.
    fn all_of(&self, view: &View, at: u32, messages: u32, to: Offset) -> Option<Offset> {
        let first = view.offset_of(view.route_message(at, 0));
        let last = view.offset_of(view.route_message(at, messages.checked_sub(1)?));
        let asked = self.wanted.iter().all(|wanted| wanted.from <= first) && last < to;
        let bounds = self.core.log.bounds_at(first);
        (asked && last < bounds.1).then_some(bounds.0)
    }

    /// What becomes of a message, and whether it becomes the queue's by that.
    fn verdict(&self, stretch: &Stretch<'_>, number: u32, offset: Offset) -> (Verdict, bool) {
        let within = |ranges: &[(Offset, Offset)]| {
            ranges.iter().any(|&(from, to)| from <= offset && offset < to)
        };
        let mut wanted = stretch.wanted.iter().filter(|wanted| wanted.from <= offset).peekable();
        if wanted.peek().is_none() {
            return (Verdict::None, false);
        }
        let own = within(&stretch.own);
        if own && !self.queue.ledger().acks.contains(offset.0) {
            return (Verdict::None, false);
        }
        let had = within(&stretch.had);
        let brought = !had && wanted.any(|wanted| stretch.is_for(wanted, number));
        match (brought, own) {
            (true, _) => (Verdict::Brought, !own),
            (false, false) => (Verdict::Passed, true),
            (false, true) => (Verdict::None, false),
        }
    }
}

impl Stretch<'_> {
    /// Whether a message of a history is wanted of it.
    fn is_for(&self, wanted: &Wanted, number: u32) -> bool {
        if wanted.past.is_all() {
            return true;
        }
        // What can't be read comes as what it is, damaged: better than to be lost.
        let record = self.view.message(number);
        record.map_or(true, |record| wanted.past.matches(record.key, record.headers))
    }

    /// Whether all of it is wanted, and none of it was the queue's.
    fn is_all(&self) -> bool {
        self.own.is_empty() && self.wanted.iter().any(|wanted| wanted.past.is_all())
    }
}

impl Found {
    fn note_first(&mut self, offset: Offset) {
        self.first = Some(self.first.map_or(offset, |first| first.min(offset)));
    }

    fn add(
        &mut self,
        segment: Offset,
        offset: Offset,
        verdict: Verdict,
        joins: bool,
        amount: Amount,
    ) {
        let there = self.segments.entry(segment).or_default();
        if joins {
            there.joined = there.joined.plus(amount);
        }
        if verdict == Verdict::Brought {
            there.brought = there.brought.plus(amount);
            self.amount = self.amount.plus(amount);
            self.brought.insert(offset.0, offset.0 + 1);
            self.note_first(offset);
        } else {
            self.passed.insert(offset.0, offset.0 + 1);
        }
    }
}

/// The first message, at or past `from`, that was published at `time_us` or later; `None` if there is
/// none.
///
/// # Errors
///
/// If the log could not be read.
pub(super) fn first_since(core: &Arc<Core>, from: Offset, time_us: u64) -> Result<Option<Offset>> {
    let mut from = from;
    while let Sought::View(view) = core.log.seek(from, &|_| true)? {
        let may_have = match &view {
            View::Sealed(reader) => reader.footer().max_time_us() >= time_us,
            View::Batch(_) => true,
        };
        let numbers = if may_have { view.lower_bound(from)..view.messages() } else { 0..0 };
        for number in numbers {
            if view.message(number).is_ok_and(|record| record.time_us >= time_us) {
                return Ok(Some(view.offset_of(number)));
            }
        }
        from = view.end_offset().max(from.next());
    }
    Ok(None)
}
