//! What a crash may leave, and the chance that decides it.

/// Size of what a disk writes whole or not at all, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// What a crash leaves of changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CrashMode {
    /// Nothing: only what is durable.
    LoseUnsynced,
    /// Everything, as after the death of the process alone.
    KeepAll,
    /// By chance: each write is kept, lost, or torn (some of its 512-byte sectors are kept), each
    /// growth and each change of a name kept or lost. A change of a name is never kept without the
    /// earlier ones of that name.
    Random,
}

/// Chance under a seed (the `SplitMix64` sequence).
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number below `bound`, evenly enough for a small one.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((self.next() >> 32) * bound) >> 32
    }

    pub(super) fn coin(&mut self) -> bool {
        self.below(2) == 1
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
