//! What is remembered of routes: by one publisher, and by all of them together.
//!
//! Both hold the same entries, so a publisher that finds one among those of all takes it over without
//! a copy.

use std::sync::{Arc, Mutex, PoisonError};

use super::Routed;

/// Slots of a publisher: so many at first, and at the most.
const SLOTS: usize = 64;
const SLOTS_MAX: usize = 4096;
/// How much it grows at a time.
const GROWTH: usize = 4;
/// All publishers together: 16 locks, so that they seldom meet.
const SHARDS: usize = 16;
const SHARD_SLOTS: usize = 1024;

/// A key of an exchange, and its route.
#[derive(Debug)]
pub(crate) struct Entry {
    hash: u32,
    exchange_bytes: usize,
    /// Exchange and key.
    names: Box<str>,
    pub(crate) routed: Routed,
}

impl Entry {
    pub(crate) fn new(exchange: &str, key: &str, routed: Routed) -> Arc<Self> {
        let names = [exchange, key].concat().into();
        let hash = hash(exchange, key);
        Arc::new(Self { hash, exchange_bytes: exchange.len(), names, routed })
    }

    fn is_of(&self, hash: u32, exchange: &str, key: &str) -> bool {
        let (own_exchange, own_key) = self.names.as_bytes().split_at(self.exchange_bytes);
        self.hash == hash
            && same(own_exchange, exchange.as_bytes())
            && same(own_key, key.as_bytes())
    }
}

/// A direct-mapped cache: exchange and key to the route of some topology version.
///
/// Bounded: 64 slots at first, 4,096 at the most. An entry goes when another key falls on its slot; it
/// grows when as many went so as it has slots. A route of an old version is found out under the append
/// lock and looked up again.
#[derive(Debug, Default)]
pub(crate) struct RouteCache {
    /// Made when there is something to remember.
    slots: Option<Slots>,
    /// Entries that went although they were not old, since it grew.
    displaced: usize,
}

impl RouteCache {
    pub(crate) fn find(&self, exchange: &str, key: &str) -> Option<&Routed> {
        let entry = self.slots.as_ref()?.find(hash(exchange, key), exchange, key)?;
        Some(&entry.routed)
    }

    pub(crate) fn remember(&mut self, entry: Arc<Entry>) {
        let slots = self.slots.get_or_insert_with(|| Slots::new(SLOTS));
        let version = entry.routed.version;
        let before = slots.put(entry);
        self.displaced += usize::from(before.is_some_and(|old| old.routed.version == version));
        if self.displaced > slots.0.len() && slots.0.len() < SLOTS_MAX {
            self.displaced = 0;
            slots.grow();
        }
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
    pub(crate) fn find(&self, exchange: &str, key: &str, version: u64) -> Option<Arc<Entry>> {
        let hash = hash(exchange, key);
        let shard = self.shards[hash as usize % SHARDS].lock();
        let shard = shard.unwrap_or_else(PoisonError::into_inner);
        if shard.version != version {
            return None;
        }
        shard.slots.as_ref()?.find(hash, exchange, key).cloned()
    }

    pub(crate) fn remember(&self, entry: Arc<Entry>) {
        let version = entry.routed.version;
        let shard = self.shards[entry.hash as usize % SHARDS].lock();
        let mut shard = shard.unwrap_or_else(PoisonError::into_inner);
        if shard.version > version {
            return;
        }
        if shard.version < version {
            *shard = Shard { version, slots: None };
        }
        drop(shard.slots.get_or_insert_with(|| Slots::new(SHARD_SLOTS)).put(entry));
    }
}

/// Entries by the upper bits of their hashes: the lower ones tell the shard.
#[derive(Debug)]
struct Slots(Vec<Option<Arc<Entry>>>);

impl Slots {
    fn new(slots: usize) -> Self {
        Self(std::iter::repeat_with(|| None).take(slots).collect())
    }

    fn place(&self, hash: u32) -> usize {
        hash as usize / SHARDS % self.0.len()
    }

    fn find(&self, hash: u32, exchange: &str, key: &str) -> Option<&Arc<Entry>> {
        let known = self.0[self.place(hash)].as_ref()?;
        known.is_of(hash, exchange, key).then_some(known)
    }

    /// Puts an entry into its slot; returns what was there.
    fn put(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let at = self.place(entry.hash);
        self.0[at].replace(entry)
    }

    fn grow(&mut self) {
        let old = std::mem::replace(self, Self::new(self.0.len() * GROWTH));
        for entry in old.0.into_iter().flatten() {
            drop(self.put(entry));
        }
    }
}

/// Whether two names are equal. They are short: a plain loop beats a call to `memcmp`,
/// whose masked loads were a tenth of a publisher's time.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a == b)
}

/// FNV-1a over both names: spreads keys over the slots, nothing more.
fn hash(exchange: &str, key: &str) -> u32 {
    let hash = exchange
        .bytes()
        .chain([0])
        .chain(key.bytes())
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash >> 16 ^ hash
}
