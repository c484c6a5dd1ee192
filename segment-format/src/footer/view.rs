//! Questions to a footer that was checked.

use super::layout::FooterLayout;
use super::{
    BATCH_ENTRY, DUE_ENTRY, DUE_EXPIRY, FooterBatch, NUMBER_ENTRY, ROUTE_DENSE, ROUTE_ENTRY,
    RouteSummary,
};
use crate::number::usize_of;
use crate::wire::{u32_at, u64_at};
use crate::{BatchNumber, Offset, RouteId};

/// A view of the bytes of a checked footer.
///
/// Messages, batches, routes, controls and dues are numbered from 0 within the segment. An
/// accessor that is asked for a number at or past its count returns zeros; it never panics.
#[derive(Debug, Clone, Copy)]
pub struct Footer<'a> {
    bytes: &'a [u8],
    layout: &'a FooterLayout,
}

impl<'a> Footer<'a> {
    #[inline]
    pub(super) fn new(bytes: &'a [u8], layout: &'a FooterLayout) -> Self {
        Self { bytes, layout }
    }

    /// Returns the plain numbers behind the view.
    pub fn layout(&self) -> &'a FooterLayout {
        self.layout
    }

    /// How many messages the segment has.
    #[inline]
    pub fn messages(&self) -> u32 {
        self.layout.counts.messages
    }

    /// The first offset that the segment stands for, whether the message is still there or not.
    #[inline]
    pub fn first_offset(&self) -> Offset {
        self.layout.first_offset
    }

    /// The offset after the last that the segment stands for.
    #[inline]
    pub fn end_offset(&self) -> Offset {
        self.layout.end_offset
    }

    /// The offset of message `i`.
    #[inline]
    pub fn offset_of(&self, i: u32) -> Offset {
        if i >= self.messages() {
            return Offset(0);
        }
        let delta =
            if self.layout.counts.dense { i } else { self.number(self.layout.sections.deltas, i) };
        Offset(self.layout.first_offset.0.saturating_add(u64::from(delta)))
    }

    /// The number of the message with that offset, or `None` if the segment does not have it.
    #[inline]
    pub fn index_of(&self, offset: Offset) -> Option<u32> {
        let index = self.lower_bound(offset);
        (index < self.messages() && self.offset_of(index) == offset).then_some(index)
    }

    /// The number of the first message at or behind that offset; `messages()` if there is none.
    #[inline]
    pub fn lower_bound(&self, offset: Offset) -> u32 {
        let delta = offset.0.saturating_sub(self.layout.first_offset.0);
        if self.layout.counts.dense {
            return u32::try_from(delta).unwrap_or(u32::MAX).min(self.messages());
        }
        let deltas = self.layout.sections.deltas;
        partition_point(self.messages(), |i| u64::from(self.number(deltas, i)) < delta)
    }

    /// The byte of the file at which the record of message `i` starts.
    #[inline]
    pub fn position_of(&self, i: u32) -> u32 {
        if i >= self.messages() {
            return 0;
        }
        self.number(self.layout.sections.positions, i)
    }

    /// How many routes the messages have.
    #[inline]
    pub fn routes(&self) -> u32 {
        self.layout.counts.routes
    }

    /// Route `k`, in increasing order of their ids.
    #[inline]
    pub fn route(&self, k: u32) -> RouteSummary {
        self.route_entry(k).0
    }

    /// The number of the `j`-th message of route `k`.
    ///
    /// For many messages of one route take [`route_messages`](Self::route_messages).
    #[inline]
    pub fn route_message(&self, k: u32, j: u32) -> u32 {
        let (route, start, _) = self.route_entry(k);
        if j >= route.messages {
            0
        } else if route.dense {
            j
        } else {
            self.listed(start, j)
        }
    }

    /// The numbers of all messages of route `k`, increasing.
    pub fn route_messages(&self, k: u32) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        let footer = *self;
        let (route, start, _) = self.route_entry(k);
        (0..usize_of(route.messages)).map(move |j| {
            let j = u32::try_from(j).unwrap_or(u32::MAX);
            if route.dense { j } else { footer.listed(start, j) }
        })
    }

    /// How many messages of route `k` have a number below `message`.
    ///
    /// So it is the `j` of the first message of the route that is not before that one.
    pub fn route_lower_bound(&self, k: u32, message: u32) -> u32 {
        let (route, start, _) = self.route_entry(k);
        if route.dense {
            return message.min(route.messages);
        }
        partition_point(route.messages, |j| self.listed(start, j) < message)
    }

    /// The number of the route with that id, or `None` if no message has it.
    #[inline]
    pub fn find_route(&self, route: RouteId) -> Option<u32> {
        let k = partition_point(self.routes(), |k| self.route(k).route < route);
        (k < self.routes() && self.route(k).route == route).then_some(k)
    }

    /// How many batches the segment has.
    #[inline]
    pub fn batches(&self) -> u32 {
        self.layout.counts.batches
    }

    /// Batch `k`, in the order of the file.
    #[inline]
    pub fn batch(&self, k: u32) -> FooterBatch {
        if k >= self.batches() {
            return FooterBatch::default();
        }
        let at = entry(self.layout.sections.batches, k, BATCH_ENTRY);
        FooterBatch {
            position: self.u32(at),
            total_bytes: self.u32(at.saturating_add(4)),
            first_message: self.u32(at.saturating_add(8)),
            number: BatchNumber(self.u64(at.saturating_add(16))),
        }
    }

    /// The number of the last batch that starts at or before that byte of the file; 0 if none does.
    #[inline]
    pub fn batch_of_position(&self, position: u32) -> u32 {
        partition_point(self.batches(), |k| self.batch(k).position <= position).saturating_sub(1)
    }

    /// How many control records the segment has.
    #[inline]
    pub fn controls(&self) -> u32 {
        self.layout.counts.controls
    }

    /// The byte of the file at which control record `k` starts.
    #[inline]
    pub fn control(&self, k: u32) -> u32 {
        if k >= self.controls() {
            return 0;
        }
        self.number(self.layout.sections.controls, k)
    }

    /// How many due and expiry times the messages have.
    #[inline]
    pub fn dues(&self) -> u32 {
        self.layout.counts.dues
    }

    /// Due or expiry time `k` in microseconds since 1970, and the message; increasing.
    #[inline]
    pub fn due(&self, k: u32) -> (u64, u32) {
        if k >= self.dues() {
            return (0, 0);
        }
        let at = entry(self.layout.sections.dues, k, DUE_ENTRY);
        (self.u64(at), self.u32(at.saturating_add(8)))
    }

    /// Whether time `k` is that of an expiry.
    #[inline]
    pub fn is_expiry(&self, k: u32) -> bool {
        k < self.dues() && self.due_kind(k) == DUE_EXPIRY
    }

    /// How many of the due and expiry times are `time_us` or earlier.
    pub fn dues_until(&self, time_us: u64) -> u32 {
        partition_point(self.dues(), |k| self.due(k).0 <= time_us)
    }

    /// Whether a message has a priority other than 0.
    #[inline]
    pub fn has_priorities(&self) -> bool {
        self.layout.counts.priorities
    }

    /// The priority of message `i`.
    #[inline]
    pub fn priority_of(&self, i: u32) -> u8 {
        if !self.has_priorities() || i >= self.messages() {
            return 0;
        }
        let at = entry(self.layout.sections.priorities, i, 1);
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// The earliest time of a message, in microseconds since 1970; 0 if there is no message.
    pub fn min_time_us(&self) -> u64 {
        self.layout.min_time_us
    }

    /// The latest time of a message, in microseconds since 1970; 0 if there is no message.
    pub fn max_time_us(&self) -> u64 {
        self.layout.max_time_us
    }

    /// The byte of the file behind the last batch.
    pub fn log_end(&self) -> u64 {
        self.layout.log_end
    }

    /// The number of the last batch of the segment.
    pub fn last_batch(&self) -> BatchNumber {
        self.layout.last_batch
    }

    /// The checksum of the last batch, which the first of the next segment repeats.
    pub fn checksum(&self) -> u32 {
        self.layout.checksum
    }

    /// What entry `k` of the dues says beside time and message.
    #[inline]
    pub(super) fn due_kind(&self, k: u32) -> u32 {
        self.u32(entry(self.layout.sections.dues, k, DUE_ENTRY).saturating_add(12))
    }

    /// The summary of route `k`, where its list starts, and its flags.
    #[inline]
    pub(super) fn route_entry(&self, k: u32) -> (RouteSummary, u32, u32) {
        if k >= self.routes() {
            return Default::default();
        }
        let at = entry(self.layout.sections.routes, k, ROUTE_ENTRY);
        let flags = self.u32(at.saturating_add(20));
        let summary = RouteSummary {
            route: RouteId(self.u32(at)),
            messages: self.u32(at.saturating_add(4)),
            bytes: self.u64(at.saturating_add(8)),
            dense: flags & ROUTE_DENSE != 0,
        };
        (summary, self.u32(at.saturating_add(16)), flags)
    }

    /// The `j`-th number of the list that starts at entry `start` of the lists.
    #[inline]
    pub(super) fn listed(&self, start: u32, j: u32) -> u32 {
        self.number(self.layout.sections.lists, start.saturating_add(j))
    }

    #[inline]
    fn number(&self, section: usize, index: u32) -> u32 {
        self.u32(entry(section, index, NUMBER_ENTRY))
    }

    #[inline]
    fn u32(&self, at: usize) -> u32 {
        u32_at(self.bytes, at).unwrap_or(0)
    }

    #[inline]
    fn u64(&self, at: usize) -> u64 {
        u64_at(self.bytes, at).unwrap_or(0)
    }
}

#[inline]
fn entry(section: usize, index: u32, bytes: usize) -> usize {
    section.saturating_add(usize_of(index).saturating_mul(bytes))
}

/// Returns the first of `0..count` for which `before` is false.
#[inline]
fn partition_point(count: u32, before: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        if before(middle) {
            low = middle.saturating_add(1);
        } else {
            high = middle;
        }
    }
    low
}
