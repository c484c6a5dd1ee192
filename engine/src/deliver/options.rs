//! How a consumer wants its messages.

/// What an unlimited prefetch is capped at: deliveries in a consumer's hands.
pub(crate) const PREFETCH_MAX: u32 = 65_536;

/// Settings of one consumer.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// A name for it, in statistics and errors: no two consumers of a queue have the same. At most
    /// 255 bytes; if empty, the default, the engine makes one up.
    pub tag: String,
    /// Messages that it may hold unacked, those in its inbox included. Default 256; 0 stands for
    /// the most there is, 65,536.
    pub prefetch: u32,
    /// Messages go to the consumers of the highest priority that have credit, round-robin among
    /// equals. Default 0; may be negative.
    pub priority: i32,
    /// It wants to be the only consumer: refused while there are others, and keeps others out while
    /// it is there. Not where the queue has a single active consumer. Default false.
    pub exclusive: bool,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self { tag: String::new(), prefetch: 256, priority: 0, exclusive: false }
    }
}

impl ConsumerOptions {
    /// Options with this prefetch.
    pub fn prefetch(prefetch: u32) -> Self {
        Self { prefetch, ..Self::default() }
    }

    pub(crate) fn prefetch_limit(&self) -> u32 {
        if self.prefetch == 0 { PREFETCH_MAX } else { self.prefetch.min(PREFETCH_MAX) }
    }
}
