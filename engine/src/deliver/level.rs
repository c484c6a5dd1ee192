//! One priority among those that a queue tells apart.

use crate::{log::view::View, queue::Queue};

/// Which messages of a queue a cursor stands for: those of one priority. A queue without priorities
/// has one level, which is that of every message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Level {
    priority: u8,
    max: u8,
}

impl Level {
    /// The levels of a queue, the lowest first.
    pub(super) fn all(queue: &Queue) -> impl Iterator<Item = Self> + use<> {
        let max = queue.options().priority_max.unwrap_or(0);
        (0..=max).map(move |priority| Self { priority, max })
    }

    fn matches(self, priority: u8) -> bool {
        priority.min(self.max) == self.priority
    }

    /// Whether a message of a view is of this level.
    pub(super) fn has(self, view: &View, number: u32) -> bool {
        self.max == 0 || self.matches(view.priority_of(number))
    }

    /// Whether a view may have a message of this level.
    pub(super) fn may_be_in(self, view: &View) -> bool {
        self.priority == 0 || view.has_priorities()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_above_the_highest_counts_as_the_highest() {
        let level = |priority| Level { priority, max: 3 };
        assert!(level(3).matches(3) && level(3).matches(255) && !level(2).matches(3));
        assert!(level(0).matches(0) && !level(0).matches(1));
        assert!([0, 1, 255].into_iter().all(|priority| Level::default().matches(priority)));
    }
}
