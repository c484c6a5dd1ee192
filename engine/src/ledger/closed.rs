//! Routes that no message takes any more. One is dropped once no segment has a message of it, so that
//! neither memory nor checkpoints grow with what was bound, published to and unbound again.
//!
//! A route is *closed* once one of its groups has no member: publishers know of no such group, and a
//! later one has an id of its own. So nothing behind the record that closed it has this route, and
//! what segments have of it only becomes less. A closed route stays while a segment has messages of it,
//! acked or not: whoever reads that segment asks whose they are.
//!
//! D1. A route is dropped only if no listed segment has a message of it; a checkpoint from before lists
//!     it as well as the segments that had any.
//! D2. What its queues were sent over it, and they have not left yet, is added to what they have left:
//!     depths stay what they were.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fanlog_segment_format::{GroupId, Offset, RouteId, SegmentId, checkpoint::Checkpoint};

use super::{Ledger, count};
use crate::log::{Log, segment::Segment};

/// Footers that are read for one checkpoint; the next one goes on from there.
const FOOTERS_MAX: usize = 16;

/// Closed routes, and a file that is known to have messages of each.
#[derive(Debug, Default)]
pub(super) struct Closed(BTreeMap<RouteId, Option<(SegmentId, u32)>>);

impl Closed {
    pub(super) fn add(&mut self, route: RouteId) {
        self.0.entry(route).or_default();
    }
}

/// A closed route whose messages are looked for.
#[derive(Debug)]
pub(crate) struct Missing {
    pub(crate) route: RouteId,
    pub(crate) groups: Arc<[GroupId]>,
    /// Its messages are not before this offset, ..
    from: Offset,
    /// .. nor at or past this one.
    to: Offset,
    seen: Option<(SegmentId, u32)>,
}

fn file_of(segment: &Segment) -> (SegmentId, u32) {
    (segment.id(), segment.header.generation)
}

impl Missing {
    fn may_be_in(&self, segment: &Segment) -> bool {
        self.seen.is_none()
            && segment.first_offset() < self.to
            && segment.end_offset().is_none_or(|end| end > self.from)
    }

    fn looked_for(&mut self, segment: &Segment, routes: Option<&[RouteId]>) {
        if routes.is_none_or(|routes| routes.binary_search(&self.route).is_ok()) {
            self.seen = Some(file_of(segment));
            self.from = self.from.max(segment.first_offset());
        } else {
            self.from = segment.end_offset().unwrap_or(self.to).max(self.from);
        }
    }

    /// Whether no segment has a message of it.
    pub(crate) fn is_nowhere(&self, segments: &[Arc<Segment>]) -> bool {
        self.seen.is_none() && !segments.iter().any(|segment| self.may_be_in(segment))
    }
}

/// Looks for messages of these routes, as far as is worth the while. Nothing is rewritten meanwhile.
pub(crate) fn look(log: &Log, segments: &[Arc<Segment>], missing: &mut [Missing]) {
    let mut footers = FOOTERS_MAX;
    for segment in segments {
        if !missing.iter().any(|one| one.may_be_in(segment)) {
            continue;
        }
        if segment.is_sealed() {
            let Some(left) = footers.checked_sub(1) else { return };
            footers = left;
        }
        // What can't be read may have any of them.
        let routes = count::routes(log, segment).ok();
        for one in missing.iter_mut().filter(|one| one.may_be_in(segment)) {
            one.looked_for(segment, routes.as_deref());
        }
    }
}

impl Ledger {
    /// Finds the closed ones among the routes of a checkpoint.
    pub(super) fn find_closed(&mut self, checkpoint: &Checkpoint) {
        for group in self.groups.values_mut() {
            group.members = 0;
        }
        for member in checkpoint.queues.iter().flat_map(|queue| &queue.members) {
            if let Some(group) = self.groups.get_mut(&member.group).filter(|_| member.to.is_none())
            {
                group.members += 1;
            }
        }
        let closed = self.routes.iter().filter(|(_, route)| self.is_closed(&route.groups));
        self.closed = Closed(closed.map(|(&id, _)| (id, None)).collect());
    }

    /// Whether no message takes a route with these groups any more. One without groups is of transient
    /// messages of an earlier epoch.
    pub(super) fn is_closed(&self, groups: &[GroupId]) -> bool {
        let is_led_to = |group| self.groups.get(group).is_some_and(|group| group.members > 0);
        groups.is_empty() || !groups.iter().all(is_led_to)
    }

    /// More, or fewer, queues are members of a group.
    pub(super) fn gains_members(&mut self, group: GroupId, members: i64) {
        let Some(group) = self.groups.get_mut(&group) else { return };
        group.members = group.members.saturating_add_signed(members);
        if group.members == 0 {
            group.routes.iter().for_each(|&route| self.closed.add(route));
        }
    }

    /// The closed routes of which none of these segments is known to have a message.
    pub(crate) fn missing(&mut self, segments: &[Arc<Segment>]) -> Vec<Missing> {
        if self.closed.0.is_empty() {
            return Vec::new();
        }
        self.closed.0.retain(|route, _| self.routes.contains_key(route));
        let listed: BTreeSet<_> = segments.iter().map(|segment| file_of(segment)).collect();
        let closed = self.closed.0.iter();
        let unseen = closed.filter(|(_, seen)| seen.is_none_or(|file| !listed.contains(&file)));
        let missing = unseen.filter_map(|(&route, _)| {
            let found = self.routes.get(&route)?;
            let (groups, from, to) = (Arc::clone(&found.groups), found.from, found.to);
            Some(Missing { route, groups, from, to, seen: None })
        });
        missing.collect()
    }

    /// Takes note of what was found.
    pub(crate) fn looked_for(&mut self, missing: &[Missing]) {
        for one in missing {
            if let Some(route) = self.routes.get_mut(&one.route) {
                route.from = one.from;
                self.closed.0.insert(one.route, one.seen);
            }
        }
    }

    /// Drops closed routes of which no segment has a message. No checkpoint is being put together.
    pub(crate) fn drop_routes(&mut self, routes: &[RouteId], log: &Log) {
        debug_assert!(self.capturing.is_none(), "T1: what is captured does not go");
        let mut groups = BTreeSet::new();
        for id in routes {
            self.closed.0.remove(id);
            let Some(route) = self.routes.remove(id) else { continue };
            for queue in self.holders_of(&route.groups) {
                let mut state = queue.ledger();
                if route.groups.iter().any(|&group| state.is_member(group)) {
                    let since = route.counted.less(state.base(*id));
                    state.add_left(since);
                    state.retain_bases(|base| base.route != *id);
                }
            }
            groups.extend(route.groups.iter().copied());
        }
        for id in groups {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            group.routes.retain(|route| self.routes.contains_key(route));
            if group.entry.is_none() && group.routes.is_empty() {
                self.groups.remove(&id);
            }
        }
        log.forget_routes(routes);
    }
}
