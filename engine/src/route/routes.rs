//! Which set of binding groups has which route.

use std::collections::HashMap;

use fanlog_segment_format::{GroupId, RouteId};

/// The routes that were defined for sets of groups which still exist.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Those of one group, which most are.
    of_one: HashMap<GroupId, RouteId>,
    of_many: HashMap<Box<[GroupId]>, RouteId>,
    /// How many groups went since sets with them were looked for.
    gone: usize,
}

impl Routes {
    pub(super) fn get(&self, groups: &[GroupId]) -> Option<RouteId> {
        match groups {
            [group] => self.of_one.get(group).copied(),
            groups => self.of_many.get(groups).copied(),
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.of_one.len() + self.of_many.len()
    }

    pub(super) fn insert(&mut self, groups: &[GroupId], route: RouteId) {
        match *groups {
            [group] => self.of_one.insert(group, route),
            _ => self.of_many.insert(groups.into(), route),
        };
    }

    /// A group is gone: no message will go to it. Returns whether it is time to
    /// [`retain`](Self::retain).
    pub(super) fn remove(&mut self, group: GroupId) -> bool {
        self.of_one.remove(&group);
        self.gone += usize::from(!self.of_many.is_empty());
        self.gone > 1024 + self.of_many.len() / 2
    }

    /// Forgets sets of which a group is gone: no message goes to one of them any more.
    pub(super) fn retain(&mut self, exists: impl Fn(GroupId) -> bool) {
        self.of_one.retain(|&group, _| exists(group));
        self.of_many.retain(|groups, _| groups.iter().all(|&group| exists(group)));
        self.gone = 0;
    }
}
