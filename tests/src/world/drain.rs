//! Emptying queues: all of it, most of it, what is ready.

use std::time::Duration;

use fanlog::clock::Clock;

use super::consume::Came;
use super::{Stop, Work, World};
use crate::model::{Acked, Fate, Id, LETTERS, OWN, QueueId, SHORT, SHORT_MAX, is_left};

impl World {
    pub(super) fn drain_some(&mut self) -> Work {
        let names: Vec<String> = self.model.topology.queues.keys().cloned().collect();
        if names.is_empty() {
            return Ok(());
        }
        if self.random.chance(40) {
            for name in names {
                self.drain(&name)?;
            }
            return Ok(());
        }
        let name = names[self.random.place(names.len())].clone();
        self.drain(&name)
    }

    /// All queues that anyone may purge but those that messages leave by themselves, and come to.
    fn queues_to_purge(&self) -> Vec<String> {
        let names = self.model.topology.queues.keys();
        let purged = |name: &&String| !is_left(name) && ![LETTERS, OWN].contains(&name.as_str());
        names.filter(purged).cloned().collect()
    }

    /// Acks most of what a queue has, and leaves some here and there: its segments get sparse.
    pub(super) fn thin_some(&mut self) -> Work {
        let names: Vec<String> = self.model.topology.queues.keys().cloned().collect();
        for name in names {
            let queue = self.model.topology.queues[&name];
            self.bury_all(Some(queue));
            self.note(|| format!("thin {name}"));
            let taker = self.taker(&name, 0)?;
            self.takers.push(taker);
            let at = self.takers.len() - 1;
            loop {
                let received = self.takers[at].consumer.recv_timeout(Duration::ZERO);
                let received = received.map_err(|error| self.failed("receive", error))?;
                self.settle_tickets()?;
                let Some(delivery) = received else { break };
                let id = self.came(queue, &Came::of(&delivery))?;
                if self.random.chance(5) {
                    self.takers[at].hands.insert(delivery.keep(), id);
                    continue;
                }
                let ack = delivery.ack().map_err(|error| self.failed("ack", error))?;
                self.set_acked(queue, &[id], Acked::Asked);
                self.acks.push((ack, queue, vec![id]));
            }
            self.settle_tickets()?;
        }
        Ok(())
    }

    /// Purges a queue that nobody consumes from: all that is confirmed goes, durably.
    pub(super) fn purge_some(&mut self) -> Work {
        let names = self.queues_to_purge();
        if names.is_empty() {
            return Ok(());
        }
        let name = self.one_of(&names);
        let queue = self.model.topology.queues[&name];
        let beside = self.plan.wide && self.random.chance(50);
        if !beside {
            self.bury_all(Some(queue));
        }
        self.wait_for_all()?;
        if beside {
            self.take_all_that_comes(queue)?;
        }
        let held = &self.model.queues[queue].entries;
        let mut ids = self.model.outstanding(queue);
        ids.retain(|id| !held[id].in_hands);
        self.note(|| format!("purge {name}: {}", ids.len()));
        // From here on they may be gone.
        self.set_acked(queue, &ids, Acked::Asked);
        let dropped = self.engine().purge_queue(&name);
        let dropped = dropped.map_err(|error| self.failed("purge", error))?;
        if dropped != ids.len() as u64 {
            return Err(Stop::Problem(format!(
                "purging {name} dropped {dropped} messages, expected were {}",
                ids.len()
            )));
        }
        self.set_acked(queue, &ids, Acked::Durable);
        self.counts.purges += 1;
        self.settle_tickets()
    }

    /// The consumers of a queue take what their prefetch lets them, and keep it.
    fn take_all_that_comes(&mut self, queue: QueueId) -> Work {
        // Whoever asks deals for all of them.
        let mut came = true;
        while std::mem::take(&mut came) {
            for at in 0..self.takers.len() {
                if self.takers[at].queue != queue {
                    continue;
                }
                let received = self.takers[at].consumer.recv_timeout(Duration::ZERO);
                let received = received.map_err(|error| self.failed("receive", error))?;
                let Some(delivery) = received else { continue };
                let id = self.came(queue, &Came::of(&delivery))?;
                self.takers[at].hands.insert(delivery.keep(), id);
                self.counts.purged_beside += 1;
                came = true;
            }
        }
        Ok(())
    }

    /// Empties a queue through one new consumer: everything comes, in order, and nothing else.
    ///
    /// # Errors
    ///
    /// If power is cut, or anything else comes.
    pub fn drain(&mut self, name: &str) -> Work {
        let queue = self.model.topology.queues[name];
        self.bury_all(Some(queue));
        self.wait_for_all()?;
        if name == SHORT {
            self.is_short_enough()?;
        }
        let mut expected = self.model.outstanding(queue);
        self.note(|| format!("drain {name}: {}", expected.len()));
        self.let_fall_due(&expected);
        let prefetch = [2, 50, 0][self.random.place(3)];
        let taker = self.taker(name, prefetch)?;
        let began_us = self.clock.wall_us();
        let mut got = Vec::new();
        let mut last = None;
        loop {
            let received = taker.consumer.recv_timeout(Duration::ZERO);
            let Some(delivery) = received.map_err(|error| self.failed("receive", error))? else {
                break;
            };
            let id = self.came_since(queue, &Came::of(&delivery), began_us)?;
            got.push(id);
            last = Some(delivery.ack().map_err(|error| self.failed("ack", error))?);
            self.set_acked(queue, &[id], Acked::Asked);
        }
        // What a slow disk took the time for, as the lease, may have outlasted what did not come.
        self.model.shown(self.clock.wall_us());
        let due_later = |id: &Id| self.model.sent[*id].due_us != 0;
        let in_order = |ids: &[Id]| ids.iter().copied().filter(|id| !due_later(id)).collect();
        let orders: [Vec<Id>; 2] = [in_order(&got), in_order(&expected)];
        if orders[0] == orders[1] {
            // What falls due at different times comes in the order in which it does.
            got.sort_by_key(|id| expected.iter().position(|other| other == id));
        }
        if is_left(name) {
            // Those whose life may be over come or don't.
            let lives = |id: &Id| !self.model.sent[*id].may_be_over;
            let alive = |ids: Vec<Id>| ids.into_iter().filter(lives).collect();
            (got, expected) = (alive(got), alive(expected));
        }
        if name == LETTERS {
            // Others came for the first time; all in the order in which they left their queue.
            let born = |id: &Id| match self.model.sent[*id].fate {
                Fate::Confirmed(offset) => offset,
                Fate::Pending | Fate::Lost => u64::MAX,
            };
            if !got.is_sorted_by_key(born) {
                return Err(Stop::Problem(format!("dead letters out of order: {got:?}")));
            }
            if expected.iter().all(|id| got.contains(id)) {
                expected.clone_from(&got);
            }
        }
        if got != expected && self.is_broken() {
            // What it waited for, a lease perhaps, did not come.
            return Err(self.failed("drain", "not all came"));
        }
        if got != expected {
            let wrong = got.iter().zip(&expected).position(|(got, expected)| got != expected);
            return Err(Stop::Problem(format!(
                "draining {name} brought {} messages, expected were {}; the first that differs is \
                 number {wrong:?}: {:?} and {:?}",
                got.len(),
                expected.len(),
                wrong.map(|at| got[at]),
                wrong.map(|at| expected[at]),
            )));
        }
        if let Some(ack) = last {
            ack.wait().map_err(|error| self.failed("ack", error))?;
            self.set_acked(queue, &got, Acked::Durable);
        }
        let view = self.engine().queue(name).map_err(|error| self.failed("look", error))?;
        let left = !is_left(name) && view.ready != 0;
        if left || view.unacked != 0 {
            return Err(Stop::Problem(format!("{name} was drained and shows {view:?}")));
        }
        Ok(())
    }

    /// Once the engine had time for it a queue has no more than it may have.
    fn is_short_enough(&mut self) -> Work {
        self.clock.advance(Duration::from_millis(200));
        self.model.shown(self.clock.wall_us());
        self.settle()?;
        let view = self.engine().queue(SHORT).map_err(|error| self.failed("look", error))?;
        if view.ready > SHORT_MAX as u64 {
            return Err(self.failed("look", format!("{SHORT} is too long: {view:?}")));
        }
        Ok(())
    }

    /// Moves time on until all of these are due.
    fn let_fall_due(&mut self, ids: &[Id]) {
        let last_us = ids.iter().map(|id| self.model.sent[*id].due_us).max().unwrap_or(0);
        if last_us > self.clock.wall_us() {
            self.clock.set_wall_us(last_us);
            self.model.shown(last_us);
            self.counts.waited_for_due += 1;
        }
    }

    /// Sets the date to one at which all that was ever published is due.
    pub fn let_all_fall_due(&mut self) {
        let all: Vec<Id> = (0..self.model.sent.len()).collect();
        self.let_fall_due(&all);
    }
}
