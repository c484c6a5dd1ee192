//! Queues that are bound from what an exchange keeps, and rewound; and the one that has an owner.

use std::collections::BTreeSet;

use fanlog::{Landed, Offset, StartAt, Table};

use super::{Stop, Work, World};
use crate::model::{Bring, Id, KEPT, LATE, OWN, PAST, Topology};

impl World {
    /// Binds a queue from the past, undoes that, or rewinds it.
    pub(super) fn bring_back(&mut self) -> Work {
        let name = [KEPT, LATE, LATE][self.random.place(3)];
        let binding = (name.to_owned(), PAST.to_owned(), String::new());
        let mut next = self.model.topology.clone();
        if !next.bindings.contains(&binding) {
            next.bindings.insert(binding);
            let landed = self.bring(name, next, |world, at| {
                world.engine().bind_from(name, PAST, "", &Table::new(), at)
            })?;
            self.counts.bound_late += landed.messages;
            return Ok(());
        }
        if name == LATE && self.random.chance(40) {
            next.bindings.remove(&binding);
            return self.alter("unbind late", next, |engine| engine.unbind(LATE, PAST, ""));
        }
        let landed = self.bring(name, next, |world, at| world.engine().rewind(name, at))?;
        self.counts.rewound += landed.messages;
        Ok(())
    }

    fn bring(
        &mut self,
        name: &str,
        next: Topology,
        call: impl FnOnce(&Self, StartAt) -> fanlog::Result<Landed>,
    ) -> Work<Landed> {
        let queue = self.model.topology.queues[name];
        self.bury_all(Some(queue));
        self.wait_for_all()?;
        let end = self.engine().stats().end_offset.0;
        let at = match self.random.below(3) {
            0 => StartAt::Earliest,
            _ => StartAt::Offset(Offset(self.random.below(end + 1))),
        };
        self.note(|| format!("bring back to {name}, {at:?}"));
        let bring = self.model.past_of(queue);
        self.model.bringing = Some(bring.clone());
        self.model.doubtful = Some(next.clone());
        let landed = call(self, at).map_err(|error| self.failed("bring back", error))?;
        (self.model.bringing, self.model.doubtful) = (None, None);
        self.model.topology = next;
        // All acks were in the log before: they say nothing of what came back.
        self.acks.retain(|(_, of, _)| *of != queue);
        let came = self.landed(&bring, at, landed).map_err(Stop::Problem)?;
        self.model.brought(queue, came);
        self.settle_tickets()?;
        Ok(landed)
    }

    /// What came, from where the engine says that what is kept begins.
    fn landed(&self, bring: &Bring, at: StartAt, landed: Landed) -> Result<BTreeSet<Id>, String> {
        let asked = match at {
            StartAt::Offset(offset) => offset.0,
            _ => 0,
        };
        let from = landed.offset.0;
        if from < asked || from > asked.max(self.model.kept_from()) {
            let kept = self.model.kept_from();
            return Err(format!("{at:?} landed at {landed:?}, all is kept from {kept} on"));
        }
        let came: BTreeSet<Id> = bring.may.range(from..).map(|(_, id)| *id).collect();
        if came.len() as u64 != landed.messages {
            return Err(format!("{landed:?}, and {} messages are kept from there", came.len()));
        }
        Ok(came)
    }

    /// Declares the queue that has an owner, and binds it; or the owner goes, and the queue with it.
    pub(super) fn own_or_leave(&mut self) -> Work {
        let mut next = self.model.topology.clone();
        if let Some(&queue) = next.queues.get(OWN) {
            self.note(|| "the owner goes".to_owned());
            if self.random.chance(50) {
                self.bury_all(Some(queue));
            }
            // Nobody is told when it is durable: it is not there after an end, whatever came of this.
            self.owner = None;
            self.bury_all(Some(queue));
            self.model.topology = next.without_queue(OWN);
            self.counts.owners_gone += 1;
            return self.settle();
        }
        next.queues.insert(OWN.to_owned(), self.model.new_queue(OWN));
        let mut owner = None;
        self.alter("declare own", next, |engine| {
            owner = Some(engine.declare_exclusive_queue(OWN, &fanlog::QueueOptions::default())?);
            Ok(())
        })?;
        self.owner = owner;
        for (exchange, key) in [("fan", ""), ("dir", "k1")] {
            if self.model.topology.exchanges.contains_key(exchange) {
                self.bind(OWN, exchange, key)?;
            }
        }
        Ok(())
    }
}
