//! Changes of exchanges, queues and bindings.

use fanlog::{Change, Engine, ExchangeKind};

use super::{Work, World};
use crate::model::{
    BRIEF, HEADS, ODD, PAST, RANKED, Topology, binding_arguments, exchange_options, queue_options,
};

const QUEUES: [&str; 7] = ["a", "b", "c", "d", "e", RANKED, BRIEF];
/// Those that have no options.
const PLAIN: usize = 5;
const EXCHANGES: [(&str, ExchangeKind); 5] = [
    ("fan", ExchangeKind::Fanout),
    ("dir", ExchangeKind::Direct),
    ("top", ExchangeKind::Topic),
    (HEADS, ExchangeKind::Headers),
    (ODD, ExchangeKind::Direct),
];
/// Those that a plain world has.
const PLAIN_EXCHANGES: usize = 3;

impl World {
    pub(super) fn alter(
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
        self.alter(&format!("declare {name}"), next, |engine| {
            engine.declare_exchange_with(name, kind, &exchange_options(name))
        })
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
        let arguments = binding_arguments(next.exchanges[exchange], key);
        self.alter(&format!("bind {queue} {exchange} {key}"), next, |engine| {
            engine.bind_with(queue, exchange, key, &arguments)
        })
    }

    fn unbind(&mut self, queue: &str, exchange: &str, key: &str) -> Work {
        let mut next = self.model.topology.clone();
        next.bindings.remove(&(queue.to_owned(), exchange.to_owned(), key.to_owned()));
        let arguments = binding_arguments(next.exchanges[exchange], key);
        self.alter(&format!("unbind {queue} {exchange} {key}"), next, |engine| {
            engine.unbind_with(queue, exchange, key, &arguments)
        })
    }

    /// Binds an exchange to an exchange, or to itself, or undoes that.
    fn bind_exchange(&mut self) -> Work {
        let (from, kind) = self.any_exchange();
        let (to, _) = self.any_exchange();
        let key = self.binding_key(kind);
        let mut next = self.model.topology.clone();
        if !next.exchanges.contains_key(from) || !next.exchanges.contains_key(to) {
            return self.change_many();
        }
        let arguments = binding_arguments(kind, key);
        let binding = (to.to_owned(), from.to_owned(), key.to_owned());
        if next.exchange_bindings.remove(&binding) {
            return self.alter(&format!("unbind {to} from {from} {key}"), next, |engine| {
                engine.unbind_exchange(to, from, key, &arguments)
            });
        }
        next.exchange_bindings.insert(binding);
        self.alter(&format!("bind {to} to {from} {key}"), next, |engine| {
            engine.bind_exchange(to, from, key, &arguments)
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
            ExchangeKind::Headers => &["all:a", "all:ab", "any:bc", "any:", "all:"],
            ExchangeKind::Topic => &["#", "*", "k0.#", "#.k1", "k0.*.k1", "k0", "k2.#.#"],
            _ => &["k0", "k1", "k2"],
        };
        keys[self.random.place(keys.len())]
    }

    /// A queue with bindings, or several, in one change.
    fn change_many(&mut self) -> Work {
        let mut next = self.model.topology.clone();
        let mut changes = Vec::new();
        let options: Vec<_> = EXCHANGES.iter().map(|(name, _)| exchange_options(name)).collect();
        let mut bindings = Vec::new();
        for name in QUEUES.into_iter().take(PLAIN) {
            if !next.queues.contains_key(name) {
                next.queues.insert(name.to_owned(), self.model.new_queue(name));
                changes.push(Change::declare_queue(name));
            }
        }
        let known = self.exchanges();
        for ((name, kind), options) in EXCHANGES.into_iter().zip(&options).take(known) {
            if !next.exchanges.contains_key(name) {
                next.exchanges.insert(name.to_owned(), kind);
                changes.push(Change::DeclareExchangeWith { name, kind, options });
            }
            let key = self.binding_key(kind);
            let queue = QUEUES[self.random.place(PLAIN)];
            next.bindings.insert((queue.to_owned(), name.to_owned(), key.to_owned()));
            bindings.push((queue, name, key, binding_arguments(kind, key)));
        }
        for (queue, exchange, routing_key, arguments) in &bindings {
            changes.push(Change::BindWith { queue, exchange, routing_key, arguments });
        }
        self.alter(&format!("change {changes:?}"), next, |engine| engine.change(&changes))
    }

    /// How many exchanges come and go.
    fn exchanges(&self) -> usize {
        if self.plan.wide { EXCHANGES.len() } else { PLAIN_EXCHANGES }
    }

    fn any_exchange(&mut self) -> (&'static str, ExchangeKind) {
        EXCHANGES[self.random.place(self.exchanges())]
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
                let (name, kind) = self.any_exchange();
                self.declare_exchange(name, kind)
            }
            4..7 => {
                let queue = self.any_queue();
                let (exchange, kind) = self.any_exchange();
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
                // That of the past is undone elsewhere, or not.
                let bindings = self.model.topology.bindings.iter();
                let bindings: Vec<_> = bindings.filter(|(_, of, _)| of != PAST).cloned().collect();
                if bindings.is_empty() {
                    return self.change_many();
                }
                let (queue, exchange, key) = bindings[self.random.place(bindings.len())].clone();
                self.unbind(&queue, &exchange, &key)
            }
            9 => {
                let names = QUEUES.iter().map(|name| (*name).to_owned());
                let there = |name: &String| self.model.topology.queues.contains_key(name);
                let names: Vec<String> = names.filter(there).collect();
                if names.len() < 3 {
                    return self.change_many();
                }
                let name = names[self.random.place(names.len())].clone();
                self.delete_queue(&name)
            }
            10 if self.random.chance(40) => {
                let (name, _) = self.any_exchange();
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
