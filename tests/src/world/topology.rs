//! Changes of exchanges, queues and bindings.

use fanlog::{Change, Engine, ExchangeKind, Table};

use super::{Work, World};
use crate::model::{RANKED, Topology, queue_options};

const QUEUES: [&str; 6] = ["a", "b", "c", "d", "e", RANKED];
/// Those that have no options.
const PLAIN: usize = 5;
const EXCHANGES: [(&str, ExchangeKind); 3] =
    [("fan", ExchangeKind::Fanout), ("dir", ExchangeKind::Direct), ("top", ExchangeKind::Topic)];

impl World {
    fn alter(
        &mut self,
        what: &str,
        next: Topology,
        call: impl FnOnce(&Engine) -> fanlog::Result<()>,
    ) -> Work {
        self.note(|| what.to_owned());
        if next != self.model.topology {
            self.model.doubtful = Some(next.clone());
        }
        call(self.engine()).map_err(|error| self.failed(what, error))?;
        self.model.doubtful = None;
        self.model.topology = next;
        self.counts.topology_changes += 1;
        self.settle_tickets()
    }

    pub(super) fn declare_exchange(&mut self, name: &str, kind: ExchangeKind) -> Work {
        let mut next = self.model.topology.clone();
        next.exchanges.insert(name.to_owned(), kind);
        self.alter(&format!("declare {name}"), next, |engine| engine.declare_exchange(name, kind))
    }

    pub(super) fn declare_queue(&mut self, name: &str) -> Work {
        let mut next = self.model.topology.clone();
        if !next.queues.contains_key(name) {
            next.queues.insert(name.to_owned(), self.model.new_queue(name));
        }
        self.alter(&format!("declare queue {name}"), next, |engine| {
            engine.declare_queue_with(name, &queue_options(name)).map(drop)
        })
    }

    pub(super) fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Work {
        let mut next = self.model.topology.clone();
        next.bindings.insert((queue.to_owned(), exchange.to_owned(), key.to_owned()));
        self.alter(&format!("bind {queue} {exchange} {key}"), next, |engine| {
            engine.bind(queue, exchange, key)
        })
    }

    fn unbind(&mut self, queue: &str, exchange: &str, key: &str) -> Work {
        let mut next = self.model.topology.clone();
        next.bindings.remove(&(queue.to_owned(), exchange.to_owned(), key.to_owned()));
        self.alter(&format!("unbind {queue} {exchange} {key}"), next, |engine| {
            engine.unbind(queue, exchange, key)
        })
    }

    /// Binds an exchange to an exchange, or to itself, or undoes that.
    fn bind_exchange(&mut self) -> Work {
        let (from, kind) = EXCHANGES[self.random.place(3)];
        let (to, _) = EXCHANGES[self.random.place(3)];
        let key = self.binding_key(kind);
        let mut next = self.model.topology.clone();
        if !next.exchanges.contains_key(from) || !next.exchanges.contains_key(to) {
            return self.change_many();
        }
        let none = Table::new();
        let binding = (to.to_owned(), from.to_owned(), key.to_owned());
        if next.exchange_bindings.remove(&binding) {
            return self.alter(&format!("unbind {to} from {from} {key}"), next, |engine| {
                engine.unbind_exchange(to, from, key, &none)
            });
        }
        next.exchange_bindings.insert(binding);
        self.alter(&format!("bind {to} to {from} {key}"), next, |engine| {
            engine.bind_exchange(to, from, key, &none)
        })
    }

    fn delete_queue(&mut self, name: &str) -> Work {
        let next = self.model.topology.without_queue(name);
        let queue = self.model.topology.queues[name];
        // Some consumers die before their queue does, some after.
        if self.random.chance(50) {
            self.bury_all(Some(queue));
        }
        self.alter(&format!("delete queue {name}"), next, |engine| engine.delete_queue(name))?;
        self.bury_all(Some(queue));
        Ok(())
    }

    fn delete_exchange(&mut self, name: &str) -> Work {
        let next = self.model.topology.without_exchange(name);
        self.model.exchange_deleted = true;
        self.alter(&format!("delete {name}"), next, |engine| engine.delete_exchange(name))
    }

    /// A key, or pattern, to bind with.
    fn binding_key(&mut self, kind: ExchangeKind) -> &'static str {
        let keys: &[&str] = match kind {
            ExchangeKind::Fanout => &["", "k0"],
            ExchangeKind::Topic => &["#", "*", "k0.#", "#.k1", "k0.*.k1", "k0", "k2.#.#"],
            _ => &["k0", "k1", "k2"],
        };
        keys[self.random.place(keys.len())]
    }

    /// A queue with bindings, or several, in one change.
    fn change_many(&mut self) -> Work {
        let mut next = self.model.topology.clone();
        let mut changes = Vec::new();
        for name in QUEUES.into_iter().take(PLAIN) {
            if !next.queues.contains_key(name) {
                next.queues.insert(name.to_owned(), self.model.new_queue(name));
                changes.push(Change::declare_queue(name));
            }
        }
        for (name, kind) in EXCHANGES {
            if !next.exchanges.contains_key(name) {
                next.exchanges.insert(name.to_owned(), kind);
                changes.push(Change::DeclareExchange { name, kind });
            }
            let key = self.binding_key(kind);
            let queue = QUEUES[self.random.place(PLAIN)];
            next.bindings.insert((queue.to_owned(), name.to_owned(), key.to_owned()));
            changes.push(Change::Bind { queue, exchange: name, routing_key: key });
        }
        self.alter(&format!("change {changes:?}"), next, |engine| engine.change(&changes))
    }

    /// Any of the queues that come and go.
    fn any_queue(&mut self) -> &'static str {
        let known = if self.plan.wide { QUEUES.len() } else { PLAIN };
        QUEUES[self.random.place(known)]
    }

    pub(super) fn change_topology(&mut self) -> Work {
        match self.random.below(14) {
            0..3 => {
                let name = self.any_queue();
                self.declare_queue(name)
            }
            3 => {
                let (name, kind) = EXCHANGES[self.random.place(3)];
                self.declare_exchange(name, kind)
            }
            4..7 => {
                let queue = self.any_queue();
                let (exchange, kind) = EXCHANGES[self.random.place(3)];
                let key = self.binding_key(kind);
                let topology = &self.model.topology;
                if !topology.queues.contains_key(queue)
                    || !topology.exchanges.contains_key(exchange)
                {
                    return self.change_many();
                }
                self.bind(queue, exchange, key)
            }
            7..9 => {
                let bindings: Vec<_> = self.model.topology.bindings.iter().cloned().collect();
                if bindings.is_empty() {
                    return self.change_many();
                }
                let (queue, exchange, key) = bindings[self.random.place(bindings.len())].clone();
                self.unbind(&queue, &exchange, &key)
            }
            9 => {
                let names = self.queues_but_mortal();
                if names.len() < 3 {
                    return self.change_many();
                }
                let name = names[self.random.place(names.len())].clone();
                self.delete_queue(&name)
            }
            10 if self.random.chance(40) => {
                let (name, _) = EXCHANGES[self.random.place(3)];
                if !self.model.topology.exchanges.contains_key(name) {
                    return self.change_many();
                }
                self.delete_exchange(name)
            }
            12..14 => self.bind_exchange(),
            _ => self.change_many(),
        }
    }
}
