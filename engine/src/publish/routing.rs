//! A publisher's way from exchanges and keys to routes, by what it remembers.

use std::sync::{Arc, PoisonError};

use super::{
    Publisher,
    records::{Routes, Whole},
};
use crate::{
    Durability, Error, Message, Result, copies, dead_letter,
    gate::{self, Gate},
    route::{Holds, RouteCache, Routed},
};

impl Publisher {
    /// The route of a message to all of its queues but those that are full, and those of the copies
    /// that are made for them, of what is `stored` of it.
    ///
    /// # Errors
    ///
    /// [`Error::QueueFull`] if there is neither, or if it is not alone.
    pub(super) fn route_past<'a>(
        &self,
        messages: &[Message<'a>],
        stored: &[Message<'a>],
        whole: Whole<'_>,
        full: &'a [Arc<Gate>],
        letters: &mut Vec<dead_letter::Refused<'a>>,
    ) -> Result<(Routes, Option<u64>)> {
        let core = &*self.shared.core;
        let refused = || {
            core.stats.refused(full.len());
            gate::refused(full)
        };
        let ([message], true) = (messages, whole.divisible) else { return Err(refused()) };
        let transient = message.durability == Durability::Transient;
        let (exchange, key, headers) = (message.exchange, message.routing_key, message.headers);
        // Should the topology change meanwhile, ids of queues still mean the same, or nothing.
        let routed = core.route_without((exchange, key, headers), transient, false, |_| {
            full.iter().map(|gate| gate.id).collect()
        })?;
        for gate in full {
            letters.extend(dead_letter::Refused::of(core, gate, &stored[0])?);
        }
        let mut all = vec![routed];
        all.extend(letters.iter().map(|letter| Some(letter.routed.clone())));
        // Of several versions one is not that of now, and then they are routed again.
        let version = all.iter().flatten().map(|routed| routed.version).min();
        Ok((Routes::Many(all), Some(version.ok_or_else(refused)?)))
    }

    /// Routes of all messages, under one version of the topology, if there are any.
    pub(super) fn route_all(&self, messages: &[Message<'_>]) -> Result<(Routes, Option<u64>)> {
        if let [message] = messages {
            let (routed, version) = self.route(message)?;
            return Ok((Routes::One(routed), Some(version)));
        }
        'again: loop {
            let mut list = Vec::with_capacity(messages.len());
            let mut all_of = None;
            for message in messages {
                let (routed, version) = self.route(message)?;
                if *all_of.get_or_insert(version) != version {
                    self.forget();
                    continue 'again;
                }
                list.push(routed);
            }
            return Ok((Routes::Many(list), all_of));
        }
    }

    /// The route of a message, `None` if it is to be dropped, and the version of the topology under
    /// which that is so.
    pub(super) fn route(&self, message: &Message<'_>) -> Result<(Option<Routed>, u64)> {
        let core = &*self.shared.core;
        let (exchange, key) = (message.exchange, message.routing_key);
        let version = core.topology_version();
        let transient = message.durability == Durability::Transient;
        let shared = &self.shared;
        let cache = if transient { &shared.transient_cache } else { &shared.cache };
        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        let plain = message.headers.is_empty() || !copies::may_be_in(message.headers);
        let known = if plain { cache.find(exchange, key) } else { None };
        if let Some(routed) = known.filter(|found| found.version == version) {
            return Ok((Some(routed.clone()), version));
        }
        match core.route(exchange, key, message.headers, transient) {
            Ok(entry) => {
                let routed = entry.routed.clone();
                if routed.holds == Holds::ForKey {
                    cache.remember(entry);
                }
                let version = routed.version;
                Ok((Some(routed), version))
            }
            Err(Error::Unroutable { .. }) if !message.mandatory => Ok((None, version)),
            Err(error) => {
                if matches!(error, Error::Unroutable { .. }) {
                    core.stats.unroutable();
                }
                Err(error)
            }
        }
    }

    fn forget(&self) {
        for cache in [&self.shared.cache, &self.shared.transient_cache] {
            *cache.lock().unwrap_or_else(PoisonError::into_inner) = RouteCache::default();
        }
    }
}
