//! Who waits for which batch, and how far the log is confirmed.
//!
//! One number that only grows, `finished`, says which batches are confirmed; a ring of slots holds
//! those that sleep until theirs is. Finishing a batch wakes the sleepers of its slot and nobody
//! else: one futex wake for the whole batch.
//!
//! W1. A waiter leaves when its batch is finished or the engine has ended, never otherwise.
//! W2. `finished` and the end are stored before the slot's lock is taken to wake; a waiter checks
//!     both under that lock. So no wake-up is lost.

use std::{
    sync::{
        Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use event_listener::Event;

use crate::{Error, Result};

const SLOTS: usize = 64;

#[derive(Debug, Default)]
struct Slot {
    sleepers: Mutex<usize>,
    wake: Condvar,
    event: Event,
}

/// Sleeping places of those who wait for a number that only grows.
#[derive(Debug)]
pub(crate) struct Confirms {
    /// Batches below it are confirmed.
    finished: AtomicU64,
    end: OnceLock<Error>,
    /// Why no batch can be confirmed for now, where waiters are to be told rather than wait.
    stalled: Mutex<Option<Error>>,
    slots: [Slot; SLOTS],
}

impl Confirms {
    pub(crate) fn new(finished: u64) -> Self {
        Self {
            finished: AtomicU64::new(finished),
            end: OnceLock::new(),
            stalled: Mutex::new(None),
            slots: std::array::from_fn(|_| Slot::default()),
        }
    }

    /// Batches below it are confirmed.
    pub(crate) fn finished(&self) -> u64 {
        self.finished.load(Ordering::Acquire)
    }

    /// Confirms every batch below `finished` and wakes those who wait for the newly confirmed.
    pub(crate) fn advance(&self, finished: u64) {
        let before = self.finished.fetch_max(finished, Ordering::AcqRel);
        let newly = finished.saturating_sub(before).min(SLOTS as u64);
        for number in finished - newly..finished {
            self.wake(&self.slots[slot_of(number)]);
        }
    }

    /// Ends all waiting: what is not confirmed by now never will be. The first reason stays.
    pub(crate) fn end(&self, reason: Error) {
        self.end.get_or_init(|| reason);
        for slot in &self.slots {
            self.wake(slot);
        }
    }

    /// Tells those who wait, and those who come, that nothing is confirmed for now; they may wait
    /// again. `None` ends that.
    pub(crate) fn stall(&self, reason: Option<Error>) {
        let told = reason.is_some();
        *self.stalled.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        if told {
            for slot in &self.slots {
                self.wake(slot);
            }
        }
    }

    /// The outcome, or why there is none for now.
    fn outcome_or_stall(&self, batch: u64) -> Option<Result<()>> {
        let stalled = || self.stalled.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.outcome(batch).or_else(|| stalled().map(Err))
    }

    /// Why waiting ended, if it has.
    pub(crate) fn ended(&self) -> Option<&Error> {
        self.end.get()
    }

    #[expect(clippy::unused_self, reason = "a method reads as what it does to the confirms")]
    fn wake(&self, slot: &Slot) {
        if *slot.sleepers.lock().unwrap_or_else(PoisonError::into_inner) > 0 {
            slot.wake.notify_all();
        }
        slot.event.notify(usize::MAX);
    }

    /// The outcome of a batch, if there is one yet.
    pub(crate) fn outcome(&self, batch: u64) -> Option<Result<()>> {
        if self.finished.load(Ordering::Acquire) > batch {
            return Some(Ok(()));
        }
        self.end.get().map(|error| Err(error.clone()))
    }

    /// Sleeps until the batch has an outcome, or until `timeout` has passed.
    pub(crate) fn wait(&self, batch: u64, timeout: Option<Duration>) -> Result<()> {
        self.wait_until(batch, timeout, Self::outcome_or_stall)
    }

    /// The same, sleeping on where others are told that nothing is confirmed for now.
    pub(crate) fn wait_through_stalls(&self, batch: u64, timeout: Option<Duration>) -> Result<()> {
        self.wait_until(batch, timeout, Self::outcome)
    }

    fn wait_until(
        &self,
        batch: u64,
        timeout: Option<Duration>,
        look: fn(&Self, u64) -> Option<Result<()>>,
    ) -> Result<()> {
        if let Some(outcome) = look(self, batch) {
            return outcome;
        }
        let deadline = timeout.and_then(deadline_after);
        let slot = &self.slots[slot_of(batch)];
        let mut sleepers = slot.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        *sleepers += 1;
        let outcome = loop {
            if let Some(outcome) = look(self, batch) {
                break outcome;
            }
            sleepers = match deadline {
                None => slot.wake.wait(sleepers).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(instant_now());
                    if left.is_zero() {
                        break Err(Error::Timeout);
                    }
                    let woken = slot.wake.wait_timeout(sleepers, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        };
        *sleepers -= 1;
        outcome
    }

    /// Waits without a thread of its own. Dropping the future gives nothing up: wait again.
    pub(crate) async fn wait_async(&self, batch: u64) -> Result<()> {
        loop {
            if let Some(outcome) = self.outcome_or_stall(batch) {
                return outcome;
            }
            let listener = self.slots[slot_of(batch)].event.listen();
            if let Some(outcome) = self.outcome_or_stall(batch) {
                return outcome;
            }
            listener.await;
        }
    }
}

fn slot_of(number: u64) -> usize {
    usize::try_from(number % SLOTS as u64).expect("less than the number of slots")
}

/// When a wait of `timeout` ends; `None` for one that ends beyond what an `Instant` can hold.
pub(crate) fn deadline_after(timeout: Duration) -> Option<Instant> {
    instant_now().checked_add(timeout)
}

/// The time against which sleeping is measured: the condition variables' own clock.
pub(crate) fn instant_now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn a_waiter_leaves_when_its_batch_is_confirmed_and_not_before() {
        let confirms = Arc::new(Confirms::new(10));
        let other = Arc::clone(&confirms);
        let waiter = thread::spawn(move || other.wait(11, None));
        confirms.advance(11);
        assert!(!waiter.is_finished() || confirms.outcome(11).is_none());
        confirms.advance(12);
        waiter.join().unwrap().unwrap();
    }

    #[test]
    fn the_end_reaches_every_waiter_but_not_what_was_confirmed_before() {
        let confirms = Arc::new(Confirms::new(1));
        let waiters: Vec<_> = (1..70)
            .map(|number| {
                let confirms = Arc::clone(&confirms);
                thread::spawn(move || confirms.wait(number, None))
            })
            .collect();
        confirms.advance(2);
        confirms.end(Error::Closed);
        let outcomes: Vec<_> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
        assert!(outcomes[0].is_ok());
        assert!(outcomes[1..].iter().all(|outcome| matches!(outcome, Err(Error::Closed))));
    }

    #[test]
    fn a_time_out_leaves_the_outcome_open() {
        let confirms = Confirms::new(0);
        let waited = confirms.wait(0, Some(Duration::from_millis(1)));
        assert!(matches!(waited, Err(Error::Timeout)));
        confirms.advance(1);
        confirms.wait(0, Some(Duration::ZERO)).unwrap();
    }
}
