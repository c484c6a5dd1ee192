//! What one consumer has: its inbox, and the deliveries that it has not settled.

use std::{collections::VecDeque, time::Duration};

use fanlog_segment_format::Offset;

use super::{
    Claim, DeliveryTag, Ready,
    overdue::Looks,
    waited::{Moments, Since},
};
use crate::ledger::queue_ledger::Amount;

/// A message that was fetched.
#[derive(Debug, Clone, Copy)]
struct Held {
    tag: u64,
    /// `None` once it is settled.
    claim: Option<Claim>,
}

/// What a consumer has: dealt and not fetched, fetched and not settled.
#[derive(Debug)]
pub(super) struct Hand {
    limit: usize,
    inbox: VecDeque<Ready>,
    /// Fetched, by tag. The first is not settled; of the others at most half are, but for some, so
    /// that the memory follows what is held, however long the first one is.
    held: VecDeque<Held>,
    next_tag: u64,
    outstanding: usize,
    /// Payload bytes of all that it has.
    bytes: u64,
    /// Of so many of the inbox, from the first, the counts were asked for.
    asked: usize,
    /// So many are asked for together next.
    ahead: usize,
    looks: Looks,
    closed: bool,
    /// Since when it has had credit; none while it has none.
    since: Option<Since>,
    moments: Moments,
}

/// Messages of which the counts are asked for together, at the most.
const AHEAD_MAX: usize = 256;

/// So many settled messages may stay among those held.
const SETTLED_MAX: usize = 64;

impl Hand {
    pub(super) fn new(limit: usize, moments: Moments) -> Self {
        Self {
            limit,
            inbox: VecDeque::new(),
            held: VecDeque::new(),
            next_tag: 1,
            outstanding: 0,
            bytes: 0,
            asked: 0,
            ahead: 1,
            looks: Looks::default(),
            closed: false,
            since: moments.now(),
            moments,
        }
    }

    /// Messages that it has: in the inbox, and fetched but not settled.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding + self.inbox.len()
    }

    /// How much that is.
    pub(super) fn amount(&self) -> Amount {
        Amount { messages: self.outstanding() as u64, bytes: self.bytes }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// All that was fetched and is not settled.
    pub(super) fn held(&self) -> impl Iterator<Item = Claim> {
        self.held.iter().filter_map(|held| held.claim)
    }

    /// Takes nothing more; what it held, and what was in its inbox, goes back.
    pub(super) fn close(&mut self) -> (Vec<Claim>, VecDeque<Ready>) {
        self.closed = true;
        self.since = None;
        self.outstanding = 0;
        self.bytes = 0;
        let held = self.held().collect();
        self.held = VecDeque::new();
        (held, std::mem::take(&mut self.inbox))
    }

    /// Takes and hands out nothing more; what was in its inbox goes back.
    pub(super) fn stop(&mut self) -> VecDeque<Ready> {
        self.closed = true;
        self.since = None;
        self.bytes = self.held().map(|claim| claim.amount().bytes).sum();
        std::mem::take(&mut self.inbox)
    }

    /// All that it has goes back, also what is in a transaction: tags that it gave out are unknown.
    pub(super) fn recall(&mut self) -> (Vec<Claim>, VecDeque<Ready>) {
        let held = self.held().collect();
        self.held = VecDeque::new();
        (self.outstanding, self.bytes, self.asked) = (0, 0, 0);
        // What comes again was somebody's.
        self.since = self.moments.now();
        (held, std::mem::take(&mut self.inbox))
    }

    /// All that it has: fetched and not settled, and in the inbox.
    pub(super) fn all(&self) -> impl Iterator<Item = Claim> {
        self.held().chain(self.inbox.iter().map(Ready::claim))
    }

    /// Messages that it may still be given.
    pub(super) fn credit(&self) -> usize {
        if self.closed {
            return 0;
        }
        self.limit.saturating_sub(self.outstanding + self.inbox.len())
    }

    /// How long it holds what it holds; `waits`: it is about to fetch what it can.
    pub(super) fn look(&mut self, now: Duration, waits: bool) -> Option<Duration> {
        let first = self.held.front().map(|held| held.tag);
        let leaves_mail = !self.inbox.is_empty() && !waits;
        self.looks.look(now, first, self.next_tag, leaves_mail)
    }

    pub(super) fn put(&mut self, ready: Ready) {
        self.bytes += ready.claim().amount().bytes;
        self.inbox.push_back(ready);
        self.note_credit();
    }

    /// Since when it has had credit without a break, if it has any.
    pub(super) fn since(&self) -> Option<Since> {
        self.since
    }

    /// Its credit may have ended, or begun anew.
    fn note_credit(&mut self) {
        if self.credit() == 0 {
            self.since = None;
        } else if self.since.is_none() {
            self.since = self.moments.now();
        }
    }

    pub(super) fn has_mail(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// The message that is fetched next, and its count with that: if it has to be in the log before.
    pub(super) fn next_to_count(&self) -> Option<(Offset, u32)> {
        let ready = self.inbox.front().filter(|ready| ready.earlier.may_be_fatal())?;
        Some(ready.claim().handed_out())
    }

    /// Counts of messages that come next and have to be in the log before they are fetched: of the
    /// first alone, then of two, then of four, and so on. None while those asked for last are on
    /// their way.
    pub(super) fn ask_counts(&mut self) -> Vec<(Offset, u32)> {
        if self.asked > 0 {
            return Vec::new();
        }
        self.asked = self.ahead.min(self.inbox.len());
        self.ahead = (2 * self.ahead).min(AHEAD_MAX);
        let next = self.inbox.iter().take(self.asked);
        next.filter(|ready| ready.earlier.may_be_fatal())
            .map(|ready| ready.claim().handed_out())
            .collect()
    }

    pub(super) fn fetch(&mut self) -> Option<(DeliveryTag, Ready)> {
        let ready = self.inbox.pop_front()?;
        self.asked = self.asked.saturating_sub(1);
        let tag = self.next_tag;
        self.next_tag += 1;
        self.held.push_back(Held { tag, claim: Some(ready.claim()) });
        self.outstanding += 1;
        Some((DeliveryTag(tag), ready))
    }

    /// Where the message of a tag stands among those held.
    fn position_of(&self, tag: DeliveryTag) -> Option<usize> {
        let first = self.held.front()?.tag;
        let at = usize::try_from(tag.0.checked_sub(first)?).ok()?;
        // There, unless settled ones before it were left out.
        if self.held.get(at).is_some_and(|held| held.tag == tag.0) {
            return Some(at);
        }
        self.held.binary_search_by_key(&tag.0, |held| held.tag).ok()
    }

    pub(super) fn settle(&mut self, tag: DeliveryTag) -> Option<Claim> {
        self.take(tag, false)
    }

    /// Takes a message out, if it is, or is not, in a transaction.
    fn take(&mut self, tag: DeliveryTag, in_transaction: bool) -> Option<Claim> {
        let at = self.position_of(tag)?;
        let claim = &mut self.held.get_mut(at)?.claim;
        let taken = claim.take_if(|claim| claim.in_transaction == in_transaction)?;
        self.outstanding -= 1;
        self.bytes -= taken.amount().bytes;
        self.note_credit();
        self.leave_out_settled();
        Some(taken)
    }

    /// Settles everything up to and with `tag` but what is in a transaction; an unknown tag settles
    /// nothing.
    pub(super) fn settle_to(&mut self, tag: DeliveryTag) -> Option<Vec<Claim>> {
        let count = self.held.partition_point(|held| held.tag <= tag.0);
        if tag.0 >= self.next_tag {
            return None;
        }
        let (mut settled, mut kept) = (Vec::with_capacity(count), Vec::new());
        for held in self.held.drain(..count) {
            match held.claim {
                Some(claim) if claim.in_transaction => kept.push(held),
                claim => settled.extend(claim),
            }
        }
        kept.into_iter().rev().for_each(|held| self.held.push_front(held));
        self.outstanding -= settled.len();
        self.bytes -= settled.iter().map(|claim| claim.amount().bytes).sum::<u64>();
        self.note_credit();
        self.leave_out_settled();
        (!settled.is_empty()).then_some(settled)
    }

    /// Keeps a message for a transaction; says whether it is there and in none yet.
    pub(super) fn reserve(&mut self, tag: DeliveryTag) -> bool {
        self.mark(tag, true)
    }

    /// Gives back what was kept for a transaction: it can be settled by its tag again.
    pub(super) fn release(&mut self, tag: DeliveryTag) -> bool {
        self.mark(tag, false)
    }

    fn mark(&mut self, tag: DeliveryTag, in_transaction: bool) -> bool {
        let held = self.position_of(tag).and_then(|at| self.held.get_mut(at));
        let claim = held.and_then(|held| held.claim.as_mut());
        let Some(claim) = claim.filter(|claim| claim.in_transaction != in_transaction) else {
            return false;
        };
        claim.in_transaction = in_transaction;
        true
    }

    /// Whether a message is kept for a transaction.
    pub(super) fn is_reserved(&self, tag: DeliveryTag) -> bool {
        let held = self.position_of(tag).and_then(|at| self.held.get(at));
        held.and_then(|held| held.claim).is_some_and(|claim| claim.in_transaction)
    }

    /// Takes a message that is kept for a transaction.
    pub(super) fn take_reserved(&mut self, tag: DeliveryTag) -> Option<Claim> {
        self.take(tag, true)
    }

    /// Puts back what [`Hand::take_reserved`] took.
    pub(super) fn put_back(&mut self, tag: DeliveryTag, claim: Claim) {
        let at = self.held.partition_point(|held| held.tag < tag.0);
        match self.held.get_mut(at).filter(|held| held.tag == tag.0) {
            Some(held) => held.claim = Some(claim),
            None => self.held.insert(at, Held { tag: tag.0, claim: Some(claim) }),
        }
        self.outstanding += 1;
        self.bytes += claim.amount().bytes;
        self.note_credit();
    }

    /// Settles everything that is held, but what is in a transaction.
    pub(super) fn settle_held(&mut self) -> Vec<Claim> {
        self.settle_to(DeliveryTag(self.next_tag - 1)).unwrap_or_default()
    }

    fn leave_out_settled(&mut self) {
        while self.held.front().is_some_and(|held| held.claim.is_none()) {
            self.held.pop_front();
        }
        if self.held.len() > 2 * self.outstanding + SETTLED_MAX {
            self.held.retain(|held| held.claim.is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::deliver::{Earlier, Fields, Guard};

    fn ready(offset: u64) -> Ready {
        let guard = Arc::new(Guard::Copy(Box::default()));
        let (offset, from, fields) = (Offset(offset), offset, Fields::default());
        let earlier = Earlier::default();
        Ready { offset, from, earlier, priority: 0, guard, fields, damage: None }
    }

    fn hand_with(messages: u64) -> Hand {
        let mut hand = Hand::new(10, Moments::none());
        (0..messages).for_each(|offset| hand.put(ready(offset)));
        while hand.fetch().is_some() {}
        hand
    }

    #[test]
    fn credit_is_what_is_neither_in_the_inbox_nor_unsettled() {
        let mut hand = hand_with(3);
        hand.put(ready(3));
        assert_eq!(hand.credit(), 6);
        hand.settle(DeliveryTag(2)).unwrap();
        assert_eq!((hand.credit(), hand.outstanding()), (7, 3));
    }

    #[test]
    fn a_tag_settles_once_and_only_if_it_was_given() {
        let mut hand = hand_with(2);
        assert!(hand.settle(DeliveryTag(0)).is_none());
        assert!(hand.settle(DeliveryTag(3)).is_none());
        assert_eq!(hand.settle(DeliveryTag(2)).unwrap().offset, Offset(1));
        assert!(hand.settle(DeliveryTag(2)).is_none());
        assert!(hand.settle(DeliveryTag(1)).is_some());
        assert!(hand.settle(DeliveryTag(1)).is_none());
        assert_eq!(hand.credit(), 10);
    }

    #[test]
    fn settling_up_to_a_tag_leaves_those_behind_it() {
        let mut hand = hand_with(5);
        hand.settle(DeliveryTag(2)).unwrap();
        let settled = hand.settle_to(DeliveryTag(4)).unwrap();
        let offsets: Vec<u64> = settled.iter().map(|claim| claim.offset.0).collect();
        assert_eq!(offsets, [0, 2, 3]);
        assert!(hand.settle_to(DeliveryTag(4)).is_none());
        assert!(hand.settle_to(DeliveryTag(6)).is_none());
        assert!(hand.settle(DeliveryTag(5)).is_some());
    }

    #[test]
    fn one_that_is_held_long_keeps_no_memory_of_those_settled_after_it() {
        let mut hand = hand_with(1);
        for offset in 1..100_000 {
            hand.put(ready(offset));
            let (tag, _) = hand.fetch().unwrap();
            assert_eq!(hand.settle(tag).unwrap().offset, Offset(offset));
            assert!(hand.settle(tag).is_none());
        }
        assert!(hand.held.capacity() < 1000, "{}", hand.held.capacity());
        hand.put(ready(100_000));
        let (last, _) = hand.fetch().unwrap();
        assert!(hand.settle(DeliveryTag(500)).is_none());
        assert_eq!(hand.settle(last).unwrap().offset, Offset(100_000));
        assert_eq!(hand.settle_to(last).unwrap()[0].offset, Offset(0));
        assert!(hand.settle_to(last).is_none() && hand.outstanding() == 0);
    }

    #[test]
    fn tags_are_found_whatever_was_settled_between_them() {
        let mut hand = Hand::new(1000, Moments::none());
        (0..400).for_each(|offset| hand.put(ready(offset)));
        while hand.fetch().is_some() {}
        let kept = |tag: u64| tag.is_multiple_of(7) || tag == 1;
        for tag in (1..=400).filter(|tag| !kept(*tag)) {
            assert_eq!(hand.settle(DeliveryTag(tag)).unwrap().offset, Offset(tag - 1));
        }
        for tag in (1..=400).rev() {
            let found = hand.settle(DeliveryTag(tag)).map(|claim| claim.offset.0 + 1);
            assert_eq!(found, kept(tag).then_some(tag));
        }
        assert_eq!(hand.outstanding(), 0);
    }

    #[test]
    fn what_is_in_a_transaction_is_settled_by_it_alone() {
        let mut hand = hand_with(5);
        for tag in [1, 3] {
            assert!(hand.reserve(DeliveryTag(tag)));
            assert!(!hand.reserve(DeliveryTag(tag)), "a tag is in one transaction");
            assert!(hand.settle(DeliveryTag(tag)).is_none());
        }
        let settled = hand.settle_to(DeliveryTag(4)).unwrap();
        assert_eq!(settled.iter().map(|claim| claim.offset.0).collect::<Vec<_>>(), [1, 3]);
        assert!(hand.settle_to(DeliveryTag(4)).is_none());
        assert_eq!((hand.outstanding(), hand.credit()), (3, 7));
        let taken = hand.take_reserved(DeliveryTag(1)).unwrap();
        assert!(hand.take_reserved(DeliveryTag(1)).is_none() && hand.outstanding() == 2);
        hand.put_back(DeliveryTag(1), taken);
        assert!(hand.is_reserved(DeliveryTag(1)) && hand.release(DeliveryTag(1)));
        assert_eq!(hand.settle(DeliveryTag(1)).unwrap().offset, Offset(0));
        assert!(hand.take_reserved(DeliveryTag(3)).is_some());
        assert!(hand.settle(DeliveryTag(5)).is_some() && hand.outstanding() == 0);
    }

    #[test]
    fn a_closed_hand_gives_all_back_and_takes_no_more() {
        let mut hand = hand_with(2);
        hand.put(ready(9));
        let (held, inbox) = hand.close();
        assert_eq!((held.len(), inbox.len(), hand.credit()), (2, 1, 0));
        assert!(hand.is_closed() && hand.settle(DeliveryTag(1)).is_none());
    }
}
