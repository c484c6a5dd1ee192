//! Cursors of consumers, for peers that can store one but do not know what it is.

/// The next message of each consumer, and which of them are not stored yet.
#[derive(Debug)]
pub(crate) struct Cursors {
    next: Vec<u64>,
    moved: Vec<bool>,
}

impl Cursors {
    /// The cursors as they were stored.
    pub(crate) fn new(next: Vec<u64>) -> Cursors {
        let moved = vec![false; next.len()];
        Cursors { next, moved }
    }

    /// Number of the next message of `consumer`.
    pub(crate) fn next(&self, consumer: usize) -> u64 {
        self.next[consumer]
    }

    /// The consumer got all below `next`.
    pub(crate) fn advance(&mut self, consumer: usize, next: u64) {
        if next > self.next[consumer] {
            self.next[consumer] = next;
            self.moved[consumer] = true;
        }
    }

    /// Those that moved since the last call: consumer and its next message.
    pub(crate) fn take_moved(&mut self) -> Vec<(usize, u64)> {
        let moved = self.moved.iter_mut().enumerate().filter(|(_, moved)| **moved);
        let list = moved.map(|(consumer, moved)| {
            *moved = false;
            (consumer, self.next[consumer])
        });
        list.collect()
    }

    /// All below were acked by all.
    pub(crate) fn floor(&self) -> u64 {
        self.next.iter().copied().min().unwrap_or(0)
    }
}

/// Reads a number stored as eight bytes, the highest first, which is the order of stores' keys.
pub(crate) fn number(bytes: &[u8]) -> anyhow::Result<u64> {
    Ok(u64::from_be_bytes(bytes.try_into()?))
}
