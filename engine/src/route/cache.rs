//! What one publisher remembers of its routes.

use super::Routed;

const SLOTS: usize = 64;

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
#[derive(Debug)]
pub(crate) struct RouteCache {
    slots: Vec<Option<Remembered>>,
}

impl RouteCache {
    pub(crate) fn new() -> Self {
        Self { slots: std::iter::repeat_with(|| None).take(SLOTS).collect() }
    }

    pub(crate) fn find(&self, exchange: &str, key: &str) -> Option<Routed> {
        let known = self.slots[slot(exchange, key)].as_ref()?;
        (same(&known.exchange, exchange) && same(&known.key, key)).then_some(known.routed)
    }

    pub(crate) fn remember(&mut self, exchange: &str, key: &str, routed: Routed) {
        let known = Remembered { exchange: exchange.into(), key: key.into(), routed };
        self.slots[slot(exchange, key)] = Some(known);
    }
}

/// Whether two names are equal. They are short: a plain loop beats a call to `memcmp`,
/// whose masked loads were a tenth of a publisher's time.
fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(a, b)| a == b)
}

/// FNV-1a over both names: spreads keys over the slots, nothing more.
fn slot(exchange: &str, key: &str) -> usize {
    let hash = exchange
        .bytes()
        .chain([0])
        .chain(key.bytes())
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 16 ^ hash) as usize % SLOTS
}
