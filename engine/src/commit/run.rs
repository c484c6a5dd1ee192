//! Who drives the commit: committer threads, whoever waits alone, or a test that steps.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{begin, complete};
use crate::core::Core;

/// Begins, writes and completes one batch, if there is one. Says whether there was.
pub(crate) fn commit_once(core: &Core) -> bool {
    let Some(job) = begin(core, core.clock.now()) else { return false };
    let outcome = job.run(core);
    complete(core, &job, outcome, core.clock.now());
    true
}

/// The body of a committer thread: commits while there is something to commit, then sleeps.
///
/// One of the threads keeps the time: it wakes for what is due although nobody asks.
pub(crate) fn run_committer(core: &Arc<Core>, keeps_time: bool) {
    loop {
        if commit_once(core) {
            continue;
        }
        let state = core.append.lock();
        if core.threads_stop() {
            return;
        }
        let now = core.clock.now();
        if state.can_commit(now) {
            continue;
        }
        let mut state = state;
        state.fall_asleep();
        let due = state.next_due().filter(|_| keeps_time);
        // No longer than acks may wait, so that the first of them need not wake anybody.
        let due = due.map(|due| due.min(now + core.config.ack_delay_max));
        if keeps_time {
            state.keeper_sleeps_until = due.unwrap_or(Duration::MAX);
        }
        let mut state = match due {
            // A stall ends by itself when what is in flight completes; the time only bounds it.
            Some(due) => {
                let left = due.saturating_sub(now).max(core.shortest_sleep());
                let woken = core.append.work.wait_timeout(state, left);
                let (mut state, woken) = woken.unwrap_or_else(PoisonError::into_inner);
                if woken.timed_out() {
                    state.stalled = false;
                }
                state
            }
            None => core.append.work.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.wake_up();
        if keeps_time {
            state.keeper_sleeps_until = Duration::ZERO;
        }
        drop(state);
    }
}
