//! What is known of a message's earlier hand-outs: how many there were, and whether there may have
//! been more before the store was opened.

/// Set for a message that may have been handed out before the store was opened.
const BEFORE_OPENING: u32 = 1 << 31;

/// A message's earlier hand-outs, as far as they are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Earlier(u32);

impl Earlier {
    /// The largest count there is; it stays there.
    const COUNT_MAX: u32 = BEFORE_OPENING - 1;

    /// Of a message below the mark that opening found, and what is recorded of it.
    pub(super) fn before_opening(recorded: u32) -> Self {
        Self(BEFORE_OPENING | recorded.min(Self::COUNT_MAX))
    }

    /// How many are known for certain.
    pub(super) fn count(self) -> u32 {
        self.0 & Self::COUNT_MAX
    }

    /// There may have been one.
    pub(super) fn any(self) -> bool {
        self.0 != 0
    }

    /// It came back by the end of a process: a further hand-out is recorded before it happens, as it
    /// may be the end of this one.
    pub(super) fn may_be_fatal(self) -> bool {
        self.0 & BEFORE_OPENING != 0
    }

    /// After one more hand-out, which its process has survived.
    pub(super) fn again(self) -> Self {
        Self((self.count() + 1).min(Self::COUNT_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_stops_at_its_largest_value() {
        let most = Earlier::before_opening(u32::MAX);
        assert_eq!(most.count(), Earlier::COUNT_MAX);
        assert_eq!(most.again().count(), Earlier::COUNT_MAX);
        assert!(most.may_be_fatal() && !most.again().may_be_fatal());
    }

    #[test]
    fn what_may_have_been_handed_out_is_flagged_though_nothing_is_counted() {
        let flagged = Earlier::before_opening(0);
        assert!(flagged.any() && flagged.may_be_fatal());
        assert_eq!((flagged.count(), flagged.again().count()), (0, 1));
        assert!(!Earlier::default().any());
    }
}
