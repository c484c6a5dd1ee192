//! Counting segments anew of which it is not known how much is acked.
//!
//! A count that could not be kept exact, after damage say, is marked and says nothing: its segment is kept
//! whatever is acked. The keeper looks for such, and counts one at a step.
//!
//! U1. No lock is held while a segment is looked through; what was found counts only if nothing of the
//!     segment changed meanwhile. If that happens again and again, the ledger is held for one time.
//! U2. One that can't be read stays as it is until the store is opened again.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fanlog_segment_format::SegmentId;

use crate::{Result, core::Core, ledger::recount::Shares, log::segment::Segment};

/// Such segments are looked for this often.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// After so many times in vain nothing may change while it is counted.
const TRIES: u32 = 3;

/// What the keeper knows of uncounted segments.
#[derive(Debug, Default)]
pub(crate) struct CountAnew(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// None was found then.
    looked: Option<Duration>,
    unreadable: HashSet<SegmentId>,
    tries: u32,
}

impl CountAnew {
    /// Counts one segment anew, if there is one to be counted. Says whether there was.
    pub(crate) fn step(&self, core: &Core) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = core.clock.now();
        if state.looked.is_some_and(|looked| now < looked + LOOK_AFTER) {
            return false;
        }
        let found = core.ledger().uncounted(&state.unreadable);
        let segment = found.and_then(|id| {
            core.log.segments().into_iter().find(|one| one.id() == id && one.is_sealed())
        });
        let Some(segment) = segment else {
            state.looked = Some(now);
            return false;
        };
        match count(core, &segment, state.tries < TRIES) {
            Ok(true) => state.tries = 0,
            Ok(false) => {
                state.tries += 1;
                // Whoever acks there has a while.
                state.looked = Some(now);
            }
            Err(_) => {
                state.unreadable.insert(segment.id());
            }
        }
        true
    }
}

/// Counts a segment; says whether that counts.
fn count(core: &Core, segment: &Arc<Segment>, aside: bool) -> Result<bool> {
    let _settled = core.keeper.settle(core);
    if aside {
        let Some(stamp) = core.ledger().stamp(segment.id()) else { return Ok(false) };
        let holders = |groups: &[_]| core.ledger().holders_of(groups);
        let shares = Shares::of(&core.log, segment, holders)?;
        return Ok(core.ledger().replace_count(stamp, segment, shares));
    }
    let mut ledger = core.ledger();
    let Some(stamp) = ledger.stamp(segment.id()) else { return Ok(false) };
    let shares = Shares::of(&core.log, segment, |groups| ledger.holders_of(groups))?;
    Ok(ledger.replace_count(stamp, segment, shares))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Config, ConsumerOptions, Engine, Message, clock::ManualClock, storage::MemoryStorage,
    };

    struct Store {
        engine: Engine,
        clock: Arc<ManualClock>,
    }

    impl Store {
        /// Several segments, two queues; every third message of one is acked.
        fn new() -> Self {
            let (disk, clock) = (MemoryStorage::new(), Arc::new(ManualClock::new()));
            let config = Config { stepped: true, segment_bytes_max: 64 << 10, ..Config::default() };
            let time = Arc::clone(&clock);
            let engine = Engine::open_on(Arc::new(disk), time, config).unwrap();
            for queue in ["a", "b"] {
                engine.declare_queue(queue).unwrap();
            }
            for _ in 0..60 {
                for queue in ["a", "b"] {
                    let message = Message::new("", queue, &[1; 2000]);
                    engine.publisher().publish_confirmed(&message).unwrap();
                }
            }
            let store = Self { engine, clock };
            store.ack("a", |number| number % 3 == 0);
            store.settle();
            store
        }

        fn settle(&self) {
            while self.engine.step().unwrap() {}
        }

        fn ack(&self, queue: &str, acked: impl Fn(usize) -> bool) {
            let consumer = self.engine.consume(queue, ConsumerOptions::prefetch(0)).unwrap();
            let all: Vec<_> =
                std::iter::from_fn(|| consumer.recv_timeout(Duration::ZERO).unwrap()).collect();
            for (number, one) in all.into_iter().enumerate() {
                if acked(number) {
                    one.ack().unwrap().wait().unwrap();
                }
            }
        }

        fn second(&self) -> Arc<Segment> {
            Arc::clone(&self.engine.core().log.segments()[1])
        }

        fn forget(&self, segment: &Segment) {
            self.engine.core().ledger().count_off(vec![(segment.id(), None)]);
            assert_eq!(self.uncounted(), 1);
        }

        fn uncounted(&self) -> u64 {
            let report = self.engine.check(&mut |_| {}).unwrap();
            assert!(report.problems.is_empty(), "{report:?}");
            report.uncounted
        }
    }

    #[test]
    fn a_segment_that_is_not_counted_is_counted_while_the_store_is_open() {
        let store = Store::new();
        let segment = store.second();
        store.forget(&segment);
        store.clock.advance(Duration::from_secs(1));
        store.settle();
        assert_eq!(store.uncounted(), 0);
        // So it is given back once all is acked, a purge included.
        store.ack("a", |_| true);
        store.engine.purge_queue("b").unwrap();
        store.engine.reclaim(&mut |_| {}).unwrap();
        assert!(store.engine.core().log.segments().iter().all(|one| one.id() != segment.id()));
        assert_eq!(store.uncounted(), 0);
    }

    #[test]
    fn what_changes_while_it_is_counted_makes_it_count_again() {
        let store = Store::new();
        let (segment, core) = (store.second(), store.engine.core());
        store.forget(&segment);
        let stamp = core.ledger().stamp(segment.id()).unwrap();
        let holders = |groups: &[_]| core.ledger().holders_of(groups);
        let shares = Shares::of(&core.log, &segment, holders).unwrap();
        store.ack("b", |number| number % 2 == 0);
        assert!(!core.ledger().replace_count(stamp, &segment, shares));
        assert_eq!(store.uncounted(), 1);
        for aside in [true, false] {
            assert!(count(core, &segment, aside).unwrap());
            assert_eq!(store.uncounted(), 0);
            store.forget(&segment);
        }
    }
}
