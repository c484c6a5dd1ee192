//! What one consumer has: its inbox, and the deliveries that it has not settled.

use std::collections::VecDeque;

use fanlog_segment_format::Offset;

use super::{DeliveryTag, Ready};

/// What a consumer has: dealt and not fetched, fetched and not settled.
#[derive(Debug)]
pub(super) struct Hand {
    limit: usize,
    inbox: VecDeque<Ready>,
    /// Fetched, by tag; `None` once settled. The first has tag `first_tag`.
    held: VecDeque<Option<Ready>>,
    first_tag: u64,
    outstanding: usize,
    closed: bool,
}

impl Hand {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            inbox: VecDeque::new(),
            held: VecDeque::new(),
            first_tag: 1,
            outstanding: 0,
            closed: false,
        }
    }

    /// Messages that it has: in the inbox, and fetched but not settled.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding + self.inbox.len()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes nothing more; what it held, and what was in its inbox, goes back.
    pub(super) fn close(&mut self) -> (Vec<Ready>, VecDeque<Ready>) {
        self.closed = true;
        self.outstanding = 0;
        let held = std::mem::take(&mut self.held);
        (held.into_iter().flatten().collect(), std::mem::take(&mut self.inbox))
    }

    /// Takes and hands out nothing more; what was in its inbox goes back.
    pub(super) fn stop(&mut self) -> VecDeque<Ready> {
        self.closed = true;
        std::mem::take(&mut self.inbox)
    }

    /// All that it has: fetched and not settled, and in the inbox.
    pub(super) fn all(&self) -> impl Iterator<Item = &Ready> {
        self.held.iter().flatten().chain(&self.inbox)
    }

    /// One past the last message that was fetched and is not settled.
    pub(super) fn held_end(&self) -> Offset {
        let held = self.held.iter().flatten().map(|ready| ready.offset.next());
        held.max().unwrap_or_default()
    }

    /// Messages that it may still be given.
    pub(super) fn credit(&self) -> usize {
        if self.closed {
            return 0;
        }
        self.limit.saturating_sub(self.outstanding + self.inbox.len())
    }

    pub(super) fn put(&mut self, ready: Ready) {
        self.inbox.push_back(ready);
    }

    pub(super) fn has_mail(&self) -> bool {
        !self.inbox.is_empty()
    }

    pub(super) fn fetch(&mut self) -> Option<(DeliveryTag, Ready)> {
        let ready = self.inbox.pop_front()?;
        let tag = DeliveryTag(self.first_tag + self.held.len() as u64);
        self.held.push_back(Some(ready.clone()));
        self.outstanding += 1;
        Some((tag, ready))
    }

    pub(super) fn settle(&mut self, tag: DeliveryTag) -> Option<Ready> {
        let at = usize::try_from(tag.0.checked_sub(self.first_tag)?).ok()?;
        let ready = self.held.get_mut(at)?.take()?;
        self.outstanding -= 1;
        while let Some(None) = self.held.front() {
            self.held.pop_front();
            self.first_tag += 1;
        }
        Some(ready)
    }

    /// Settles everything up to and with `tag`; an unknown tag settles nothing.
    pub(super) fn settle_to(&mut self, tag: DeliveryTag) -> Option<Vec<Ready>> {
        let count = usize::try_from(tag.0.checked_sub(self.first_tag)?).ok()?.checked_add(1)?;
        if count > self.held.len() {
            return None;
        }
        self.first_tag += count as u64;
        let settled: Vec<Ready> = self.held.drain(..count).flatten().collect();
        self.outstanding -= settled.len();
        Some(settled)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::deliver::{Fields, Guard};

    fn ready(offset: u64) -> Ready {
        let guard = Arc::new(Guard::Copy(Box::default()));
        let (offset, from, fields) = (Offset(offset), offset, Fields::default());
        Ready { offset, from, redelivered: false, guard, fields, damage: None }
    }

    fn hand_with(messages: u64) -> Hand {
        let mut hand = Hand::new(10);
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
        let offsets: Vec<u64> = settled.iter().map(|ready| ready.offset.0).collect();
        assert_eq!(offsets, [0, 2, 3]);
        assert!(hand.settle_to(DeliveryTag(4)).is_none());
        assert!(hand.settle_to(DeliveryTag(6)).is_none());
        assert!(hand.settle(DeliveryTag(5)).is_some());
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
