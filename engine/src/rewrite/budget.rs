//! How much rewriting may write: a share of what was published, more when space is short.

/// Bytes rewritten for each thousand published, while space is plenty.
const SHARE: u64 = 500;
/// The same when there is no space left.
const SHARE_MAX: u64 = 4000;
/// From this part of the space being free on, in thousandths, it is plenty.
const PLENTY: u64 = 250;
/// Up to this part waste is not let be any more.
const SHORT: u64 = 100;

/// How much room the store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// So many thousandths of what it has and could have are free.
    Free(u64),
    /// The log waits for space.
    None,
}

impl Room {
    pub(super) fn of(free_bytes: u64, used_bytes: u64) -> Self {
        let (free, used) = (u128::from(free_bytes), u128::from(used_bytes));
        let thousandths = free * 1000 / (free + used).max(1);
        Self::Free(u64::try_from(thousandths).unwrap_or(1000))
    }

    /// Whether rewriting is not to wait until it gains more.
    pub(super) fn is_short(self) -> bool {
        match self {
            Self::Free(thousandths) => thousandths < SHORT,
            Self::None => true,
        }
    }

    /// Bytes that may be rewritten for each thousand published; `None`: as many as it takes.
    fn share(self) -> Option<u64> {
        match self {
            Self::Free(thousandths) => {
                let missing = PLENTY.saturating_sub(thousandths);
                Some(SHARE + (SHARE_MAX - SHARE) * missing / PLENTY)
            }
            Self::None => None,
        }
    }
}

/// What was published and rewritten, in bytes of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Budget {
    /// Published before the store was opened, and never rewritten since.
    pub(super) found: u64,
    /// Published since.
    pub(super) published: u64,
    /// Rewritten since.
    pub(super) rewritten: u64,
}

impl Budget {
    /// Whether it has room for so many bytes more.
    pub(super) fn allows(&self, bytes: u64, room: Room) -> bool {
        room.share().is_none_or(|share| {
            let published = u128::from(self.found) + u128::from(self.published);
            let rewritten = u128::from(self.rewritten) + u128::from(bytes);
            rewritten * 1000 <= published * u128::from(share)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLENTY_FREE: Room = Room::Free(900);

    #[test]
    fn half_of_what_is_published_may_be_rewritten_while_space_is_plenty() {
        let budget = Budget { found: 1000, published: 1000, rewritten: 900 };
        assert!(budget.allows(100, PLENTY_FREE));
        assert!(!budget.allows(101, PLENTY_FREE));
    }

    #[test]
    fn the_share_rises_as_space_falls_and_has_no_bound_where_there_is_none() {
        let shares = [1000, 250, 100, 50, 0].map(|free| Room::Free(free).share().unwrap());
        assert_eq!(shares, [500, 500, 2600, 3300, 4000]);
        assert!(Budget::default().allows(u64::MAX, Room::None));
        assert!(Room::None.is_short() && Room::Free(99).is_short() && !Room::Free(100).is_short());
    }

    #[test]
    fn room_is_what_is_free_of_all_that_could_be_used() {
        assert_eq!(Room::of(1, 3), Room::Free(250));
        assert_eq!(Room::of(u64::MAX, u64::MAX), Room::Free(500));
        assert_eq!(Room::of(0, 0), Room::Free(0));
    }

    proptest! {
        #[test]
        fn no_sequence_of_works_passes_the_share(works in prop::collection::vec((1..1000_u64, 0..1000_u64), 0..50)) {
            let mut budget = Budget::default();
            for (published, bytes) in works {
                budget.published += published;
                if budget.allows(bytes, PLENTY_FREE) {
                    budget.rewritten += bytes;
                }
                prop_assert!(2 * budget.rewritten <= budget.published);
            }
        }
    }
}
