//! Names of queues that are declared without one.

use fanlog_segment_format::{Epoch, StoreId};

use super::Tables;

/// As in `RabbitMQ`: nobody else gives such a name.
const PREFIX: &str = "amq.gen-";
/// Of 128 bits, 6 bits each.
const DIGITS: u32 = 22;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Tables {
    /// Makes up a name that no queue of this store has or had, and lets the next declaration have it.
    pub(crate) fn make_name(&mut self, store: StoreId, epoch: Epoch) -> String {
        let name = loop {
            let name = name(store, epoch, self.names_made);
            self.names_made += 1;
            if !self.queue_ids.contains_key(name.as_str()) {
                break name;
            }
        };
        self.granted = Some(name.clone());
        name
    }
}

/// The name with this number under an epoch: another one for each, as both are mixed in by steps that
/// can be undone.
fn name(store: StoreId, epoch: Epoch, number: u64) -> String {
    let [low, high] = [0, 8].map(|at| {
        let half = store.0[at..].first_chunk().expect("a store's id has two halves");
        u64::from_le_bytes(*half)
    });
    let low = mixed(low.wrapping_add(number));
    let high = mixed(high.wrapping_add(epoch.0.into()) ^ low);
    let bits = u128::from(high) << 64 | u128::from(low);
    let digit = |at: u32| {
        let six = (bits << (6 * at)) >> 122;
        char::from(ALPHABET[usize::try_from(six).unwrap_or_default()])
    };
    PREFIX.chars().chain((0..DIGITS).map(digit)).collect()
}

/// `SplitMix64`'s last steps: one to one.
fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_number_under_each_epoch_has_a_name_of_its_own() {
        let store = StoreId(*b"0123456789abcdef");
        let mut names = HashSet::new();
        for epoch in 0..100 {
            for number in 0..100 {
                let name = name(store, Epoch(epoch), number);
                assert!(name.len() == 30 && name.starts_with(PREFIX), "{name}");
                assert!(names.insert(name));
            }
        }
    }
}
