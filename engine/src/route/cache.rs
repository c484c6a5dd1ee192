//! What is remembered of routes: by one publisher, and by all of them together.

use std::sync::{Mutex, PoisonError};

use super::Routed;

const SLOTS: usize = 64;
/// All publishers together: 16 locks, so that they seldom meet.
const SHARDS: usize = 16;
const SHARD_SLOTS: usize = 1024;

#[derive(Debug)]
struct Remembered {
    exchange: Box<str>,
    key: Box<str>,
    routed: Routed,
}

/// A small direct-mapped cache: exchange and key to the route of some topology version.
///
/// Bounded: 64 entries, each dropped when another key falls on its slot. A route of an old version
/// is found out under the append lock and looked up again.
#[derive(Debug, Default)]
pub(crate) struct RouteCache {
    /// Made when there is something to remember.
    slots: Option<Slots>,
}

impl RouteCache {
    pub(crate) fn find(&self, exchange: &str, key: &str) -> Option<Routed> {
        self.slots.as_ref()?.find(hash(exchange, key), exchange, key)
    }

    pub(crate) fn remember(&mut self, exchange: &str, key: &str, routed: Routed) {
        let slots = self.slots.get_or_insert_with(|| Slots::new(SLOTS));
        slots.remember(hash(exchange, key), exchange, key, routed);
    }
}

/// What publishers share, so that one with more keys than it remembers does not match each anew.
///
/// Bounded: 16,384 entries, made as they are needed; all are dropped when the topology changes.
#[derive(Debug)]
pub(crate) struct SharedRoutes {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    version: u64,
    slots: Option<Slots>,
}

impl Default for SharedRoutes {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl SharedRoutes {
    /// The route under this version of the topology, if it is remembered.
    pub(crate) fn find(&self, exchange: &str, key: &str, version: u64) -> Option<Routed> {
        let hash = hash(exchange, key);
        let shard = self.shards[hash % SHARDS].lock();
        let shard = shard.unwrap_or_else(PoisonError::into_inner);
        if shard.version != version {
            return None;
        }
        shard.slots.as_ref()?.find(hash / SHARDS, exchange, key)
    }

    pub(crate) fn remember(&self, exchange: &str, key: &str, routed: Routed) {
        let hash = hash(exchange, key);
        let shard = self.shards[hash % SHARDS].lock();
        let mut shard = shard.unwrap_or_else(PoisonError::into_inner);
        if shard.version > routed.version {
            return;
        }
        if shard.version < routed.version {
            *shard = Shard { version: routed.version, slots: None };
        }
        let slots = shard.slots.get_or_insert_with(|| Slots::new(SHARD_SLOTS));
        slots.remember(hash / SHARDS, exchange, key, routed);
    }
}

#[derive(Debug)]
struct Slots(Vec<Option<Remembered>>);

impl Slots {
    fn new(slots: usize) -> Self {
        Self(std::iter::repeat_with(|| None).take(slots).collect())
    }

    fn find(&self, hash: usize, exchange: &str, key: &str) -> Option<Routed> {
        let known = self.0[hash % self.0.len()].as_ref()?;
        (same(&known.exchange, exchange) && same(&known.key, key)).then(|| known.routed.clone())
    }

    fn remember(&mut self, hash: usize, exchange: &str, key: &str, routed: Routed) {
        let at = hash % self.0.len();
        self.0[at] = Some(Remembered { exchange: exchange.into(), key: key.into(), routed });
    }
}

/// Whether two names are equal. They are short: a plain loop beats a call to `memcmp`,
/// whose masked loads were a tenth of a publisher's time.
fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(a, b)| a == b)
}

/// FNV-1a over both names: spreads keys over the slots, nothing more.
fn hash(exchange: &str, key: &str) -> usize {
    let hash = exchange
        .bytes()
        .chain([0])
        .chain(key.bytes())
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 16 ^ hash) as usize
}
