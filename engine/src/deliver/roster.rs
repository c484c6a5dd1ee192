//! Who consumes from a queue, and whose turn it is.
//!
//! R1. Consumers stand in the order of their priorities, highest first; equals as they came. Tags
//!     are unique.
//! R2. An exclusive consumer is the only one.
//! R3. A message goes to the highest priority at which somebody has credit; there, round-robin: each
//!     priority keeps its own turn, so what one has no bearing on the shares of another.
//! R4. With a single active consumer one gets everything until it goes. If one of a higher priority
//!     comes, the active one gets no more, and is followed once it has nothing left: so no two of
//!     them hold messages at a time.

use std::sync::{Arc, MutexGuard};

use super::{
    Ready,
    hand::Hand,
    shared::ConsumerShared,
    waited::{Since, earliest},
};
use crate::{Error, Result};

/// The consumers of one queue.
#[derive(Debug, Default)]
pub(super) struct Roster {
    consumers: Vec<Arc<ConsumerShared>>,
    levels: Vec<Level>,
    /// Whoever was dealt to last, where only one is.
    active: Option<Arc<ConsumerShared>>,
    /// When the one before it went, if there was one.
    active_since: Option<Since>,
}

/// Consumers of one priority: neighbours in the roster.
#[derive(Debug)]
struct Level {
    priority: i32,
    consumers: usize,
    /// Whose turn it is, of these.
    turn: usize,
}

impl Roster {
    pub(super) fn len(&self) -> usize {
        self.consumers.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<ConsumerShared>> {
        self.consumers.iter()
    }

    pub(super) fn has(&self, tag: &str) -> bool {
        self.consumers.iter().any(|consumer| &*consumer.tag == tag)
    }

    /// Whether one more consumer may come.
    ///
    /// # Errors
    ///
    /// [`Error::TagInUse`], [`Error::InUse`].
    pub(super) fn check(&self, queue: &str, tag: &str, exclusive: bool) -> Result<()> {
        let queue = || queue.to_owned();
        if self.has(tag) {
            return Err(Error::TagInUse { queue: queue(), tag: tag.to_owned() });
        }
        let in_the_way = self.consumers.first().filter(|first| exclusive || first.exclusive);
        in_the_way.map_or(Ok(()), |first| {
            let (holder, exclusive) = (first.tag.to_string(), first.exclusive);
            Err(Error::InUse { queue: queue(), holder, exclusive })
        })
    }

    pub(super) fn join(&mut self, consumer: Arc<ConsumerShared>) {
        let priority = consumer.priority;
        let at = self.consumers.partition_point(|other| other.priority >= priority);
        self.consumers.insert(at, consumer);
        let level = self.levels.partition_point(|level| level.priority > priority);
        match self.levels.get_mut(level).filter(|level| level.priority == priority) {
            Some(level) => level.consumers += 1,
            None => self.levels.insert(level, Level { priority, consumers: 1, turn: 0 }),
        }
    }

    pub(super) fn leave(&mut self, consumer: &ConsumerShared) {
        let Some(at) =
            self.consumers.iter().position(|other| std::ptr::eq(Arc::as_ptr(other), consumer))
        else {
            return;
        };
        if self.active().is_some_and(|active| std::ptr::eq(Arc::as_ptr(active), consumer)) {
            self.active_since = Some(Since::now(&consumer.core));
        }
        self.consumers.remove(at);
        self.active.take_if(|active| std::ptr::eq(Arc::as_ptr(active), consumer));
        let mut start = 0;
        for which in 0..self.levels.len() {
            let level = &mut self.levels[which];
            let place = at - start;
            if place < level.consumers {
                level.consumers -= 1;
                // Whoever comes next is still the next.
                level.turn -= usize::from(place < level.turn);
                if level.consumers == 0 {
                    self.levels.remove(which);
                }
                break;
            }
            start += level.consumers;
        }
        if self.consumers.is_empty() {
            *self = Self::default();
        }
    }

    /// Deals what `next` brings until it brings no more, nobody has credit, or `most` were dealt.
    /// Wakes those that got any and sleep. `next` may ask since when somebody has had credit.
    ///
    /// # Errors
    ///
    /// That of `next`, after which nothing more is dealt.
    pub(super) fn deal(
        &mut self,
        single: bool,
        mut most: usize,
        mut next: impl FnMut(&dyn Fn() -> Option<Since>) -> Result<Option<Ready>>,
    ) -> Result<()> {
        if single {
            return self.deal_to_active(most, next);
        }
        let mut hands: Vec<_> = self.consumers.iter().map(|consumer| consumer.hand()).collect();
        let mut fed = vec![false; hands.len()];
        let mut rest = (hands.as_mut_slice(), fed.as_mut_slice());
        let mut outcome = Ok(true);
        for level in &mut self.levels {
            let (hands, others) = rest.0.split_at_mut(level.consumers);
            let (fed, others_fed) = rest.1.split_at_mut(level.consumers);
            let mut next = |own: &dyn Fn() -> Option<Since>| {
                next(&|| earliest(others.iter().map(|hand| hand.since()).chain([own()])))
            };
            outcome = level.deal(hands, fed, &mut most, &mut next);
            if !matches!(outcome, Ok(true)) {
                break;
            }
            rest = (others, others_fed);
        }
        drop(hands);
        for (consumer, fed) in self.consumers.iter().zip(fed) {
            if fed {
                consumer.wake();
            }
        }
        outcome.map(drop)
    }

    /// Deals to one alone (R4).
    fn deal_to_active(
        &mut self,
        most: usize,
        mut next: impl FnMut(&dyn Fn() -> Option<Since>) -> Result<Option<Ready>>,
    ) -> Result<()> {
        let Some(active) = self.choose_active().cloned() else { return Ok(()) };
        let mut hand = active.hand();
        let active_since = self.active_since;
        let mut outcome = Ok(());
        let before = hand.outstanding();
        for _ in 0..hand.credit().min(most) {
            match next(&|| later(hand.since(), active_since)) {
                Ok(Some(ready)) => hand.put(ready),
                Ok(None) => break,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        let fed = hand.outstanding() > before;
        drop(hand);
        if fed {
            active.wake();
        }
        outcome
    }

    fn choose_active(&mut self) -> Option<&Arc<ConsumerShared>> {
        let first = self.consumers.first()?;
        match &self.active {
            Some(active) if active.priority >= first.priority => {}
            Some(active) if active.hand().outstanding() > 0 => return None,
            before => {
                if before.is_some() {
                    self.active_since = Some(Since::now(&first.core));
                }
                self.active = Some(Arc::clone(first));
            }
        }
        self.active.as_ref()
    }

    /// Since when some consumer has had credit, if one has; with a single active one, that one.
    pub(super) fn waited_since(&self, single: bool) -> Option<Since> {
        if single {
            return later(self.active()?.hand().since(), self.active_since);
        }
        earliest(self.consumers.iter().map(|consumer| consumer.hand().since()))
    }

    /// Whoever gets everything, or would if there was anything.
    pub(super) fn active(&self) -> Option<&Arc<ConsumerShared>> {
        self.active.as_ref().or_else(|| self.consumers.first())
    }
}

/// Since when somebody has had credit who was let in at another moment.
fn later(credit: Option<Since>, let_in: Option<Since>) -> Option<Since> {
    credit.map(|credit| let_in.map_or(credit, |let_in| credit.latest(let_in)))
}

impl Level {
    /// Deals to the hands of this priority; says whether there may be more. `next` may ask
    /// since when one of them has had credit.
    fn deal(
        &mut self,
        hands: &mut [MutexGuard<'_, Hand>],
        fed: &mut [bool],
        most: &mut usize,
        next: &mut impl FnMut(&dyn Fn() -> Option<Since>) -> Result<Option<Ready>>,
    ) -> Result<bool> {
        let mut credit = hands.iter().map(|hand| hand.credit()).sum::<usize>().min(*most);
        *most -= credit;
        while credit > 0 {
            let since = || earliest(hands.iter().map(|hand| hand.since()));
            let Some(ready) = next(&since)? else { return Ok(false) };
            // Someone has credit; at most one round finds them.
            while hands[self.turn % hands.len()].credit() == 0 {
                self.turn += 1;
            }
            let which = self.turn % hands.len();
            hands[which].put(ready);
            fed[which] = true;
            self.turn = which + 1;
            credit -= 1;
        }
        Ok(true)
    }
}
