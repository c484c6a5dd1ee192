//! Counters, always on: plain atomics at the borders of the stages, read as one snapshot.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crossbeam::utils::CachePadded;
use fanlog_segment_format::Offset;

use crate::{dead_letter::Reason, storage::Backend};

type Counter = CachePadded<AtomicU64>;

/// Counters since the store was opened, gauges as they are now.
///
/// The fields are read one after another, not at one instant.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Stats {
    /// How bytes reach the disk, as chosen when the store was opened.
    pub backend: Backend,
    /// Messages appended.
    pub published_messages: u64,
    /// Their payload bytes.
    pub published_bytes: u64,
    /// Messages confirmed.
    pub confirmed_messages: u64,
    /// Messages of named publishers that were stored before: confirmed, not stored again.
    pub repeated_messages: u64,
    /// Named publishers that were forgotten for others or for their age.
    pub publishers_evicted: u64,
    /// Messages refused because no queue was bound for them.
    pub unroutable_messages: u64,
    /// Optional messages that no queue got: confirmed and dropped.
    pub unroutable_dropped: u64,
    /// Batches confirmed.
    pub batches: u64,
    /// Of these, written by a publisher's own thread.
    pub inline_batches: u64,
    /// Batches whose write found no space, or that stood behind one: they were written again.
    pub batches_written_again: u64,
    /// Bytes of batches written: heads, records, marks, padding.
    pub log_bytes_written: u64,
    /// Bytes written beside them: segment headers, footers, checkpoints, preparation of segments.
    pub other_bytes_written: u64,
    /// Synced writes and syncs of the log's files.
    pub syncs: u64,
    /// Messages handed to consumers.
    pub delivered_messages: u64,
    /// Of these, flagged as redelivered.
    pub redelivered_messages: u64,
    /// Messages acked.
    pub acked_messages: u64,
    /// Messages dropped by purges.
    pub purged_messages: u64,
    /// Messages that left a queue because their time was over.
    pub expired_messages: u64,
    /// Messages that left a queue because it was too long.
    pub overflowed_messages: u64,
    /// Messages that a queue refused because it was full, once for each such queue.
    pub refused_messages: u64,
    /// Messages that left a queue because they came back too often.
    pub over_delivered_messages: u64,
    /// Copies that were published to dead-letter exchanges.
    pub dead_lettered_messages: u64,
    /// Segments of the log.
    pub segments: u64,
    /// Segments prepared and not in use yet.
    pub segments_ready: u64,
    /// Segments whose blocks were used again.
    pub segments_recycled: u64,
    /// Segments whose files were removed.
    pub segments_deleted: u64,
    /// Segments whose live messages were copied to another file, which took their place.
    pub segments_rewritten: u64,
    /// Of these, those of which several became one.
    pub segments_merged: u64,
    /// Bytes of the files that took their place.
    pub rewritten_bytes: u64,
    /// Segments that are left as they are because something in them is damaged.
    pub segments_left_alone: u64,
    /// Bytes of files that were removed or could not be reused while readers hold them.
    pub deleted_but_held_bytes: u64,
    /// How long ago the oldest message was published that some queue has not durably acked, what only
    /// a history keeps left out; `None`
    /// if there is none, or its bytes are damaged. Which message that is was found at most a second
    /// ago: it is looked for when somebody asks and the log has changed.
    pub oldest_unacked_age: Option<Duration>,
    /// Bytes of the segment file that this message keeps from being given back; 0 if there is none.
    pub oldest_unacked_pinned_bytes: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Recent batches kept in memory, in bytes.
    pub window_bytes: u64,
    /// Memory behind the window that readers hold, in bytes.
    pub pinned_bytes: u64,
    /// Appended and not yet confirmed, in bytes.
    pub unconfirmed_bytes: u64,
    /// Sealed segments mapped for readers, in bytes.
    pub mapped_bytes: u64,
    /// Index of what is not sealed yet, in bytes.
    pub index_bytes: u64,
    /// A write or sync failed: nothing more is accepted.
    pub poisoned: bool,
    /// Every message below it survives a power cut.
    pub durable_offset: Offset,
    /// Every message below it may be delivered.
    pub end_offset: Offset,
    /// Microseconds from the start of a batch's write to its confirm.
    pub commit_us: Histogram,
    /// Bytes per batch.
    pub batch_bytes: Histogram,
}

/// A distribution: its quantiles are upper ends of buckets at most 12.5 % wide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many values.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// The largest.
    pub max: u64,
    /// Half of them are at most this.
    pub p50: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// 999 of 1,000 are at most this.
    pub p999: u64,
}

const STEPS: u64 = 8;
const BUCKETS: usize = 62 * 8;

/// Log-linear buckets: eight to each power of two.
#[derive(Debug)]
pub(crate) struct Distribution {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Distribution {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, sum: AtomicU64::new(0), max: AtomicU64::new(0) }
    }
}

impl Distribution {
    pub(crate) fn record(&self, value: u64) {
        self.buckets[bucket_of(value)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
        self.max.fetch_max(value, Ordering::Relaxed);
    }

    fn snapshot(&self) -> Histogram {
        let counts: Vec<u64> =
            self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let count: u64 = counts.iter().sum();
        let max = self.max.load(Ordering::Relaxed);
        let quantile = |per_mille: u64| {
            let wanted = (count * per_mille).div_ceil(1000);
            let mut seen = 0;
            let at = counts.iter().position(|&here| {
                seen += here;
                seen >= wanted && wanted > 0
            });
            at.map_or(0, |at| bucket_end(at).min(max))
        };
        let sum = self.sum.load(Ordering::Relaxed);
        Histogram { count, sum, max, p50: quantile(500), p99: quantile(990), p999: quantile(999) }
    }
}

fn bucket_of(value: u64) -> usize {
    if value < STEPS {
        return usize::try_from(value).expect("less than eight");
    }
    let power = u64::from(value.ilog2());
    let step = (value >> (power - 3)) - STEPS;
    usize::try_from((power - 2) * STEPS + step).map_or(BUCKETS - 1, |at| at.min(BUCKETS - 1))
}

fn bucket_end(at: usize) -> u64 {
    let at = at as u64;
    if at < STEPS {
        return at;
    }
    let power = at / STEPS + 2;
    ((at % STEPS + STEPS + 1) << (power - 3)) - 1
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    confirmed_messages: Counter,
    repeated: Counter,
    publishers_evicted: Counter,
    unroutable_messages: Counter,
    unroutable_dropped: Counter,
    batches: AtomicU64,
    inline_batches: AtomicU64,
    written_again: AtomicU64,
    log_bytes: AtomicU64,
    other_bytes: AtomicU64,
    syncs: AtomicU64,
    delivered: Counter,
    redelivered: Counter,
    acked: Counter,
    purged: Counter,
    expired: Counter,
    overflowed: Counter,
    refused: Counter,
    over_delivered: Counter,
    dead_lettered: Counter,
    recycled: AtomicU64,
    deleted: AtomicU64,
    rewritten: AtomicU64,
    merged: AtomicU64,
    rewritten_bytes: AtomicU64,
    checkpoints: AtomicU64,
    consumers: AtomicU64,
    durable_offset: AtomicU64,
    pub(crate) commit_us: Distribution,
    pub(crate) batch_bytes: Distribution,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Counters {
    pub(crate) fn repeated(&self) {
        add(&self.repeated, 1);
    }

    pub(crate) fn publishers_evicted(&self, publishers: u64) {
        add(&self.publishers_evicted, publishers);
    }

    pub(crate) fn refused(&self, queues: usize) {
        add(&self.refused, queues as u64);
    }

    pub(crate) fn unroutable(&self) {
        add(&self.unroutable_messages, 1);
    }

    pub(crate) fn unroutable_dropped(&self, messages: usize) {
        add(&self.unroutable_dropped, messages as u64);
    }

    pub(crate) fn confirmed(&self, messages: u64) {
        add(&self.confirmed_messages, messages);
        add(&self.batches, 1);
    }

    pub(crate) fn inline_batch(&self) {
        add(&self.inline_batches, 1);
    }

    pub(crate) fn written_again(&self, batches: u64) {
        add(&self.written_again, batches);
    }

    pub(crate) fn log_written(&self, bytes: u64) {
        add(&self.log_bytes, bytes);
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        read(&self.log_bytes)
    }

    pub(crate) fn batches(&self) -> u64 {
        read(&self.batches)
    }

    pub(crate) fn other_written(&self, bytes: u64) {
        add(&self.other_bytes, bytes);
    }

    pub(crate) fn synced(&self) {
        add(&self.syncs, 1);
    }

    pub(crate) fn delivered(&self, messages: u64, redelivered: u64) {
        add(&self.delivered, messages);
        if redelivered > 0 {
            add(&self.redelivered, redelivered);
        }
    }

    pub(crate) fn acked(&self, messages: u64) {
        add(&self.acked, messages);
    }

    /// A message left its queue otherwise than by an ack.
    pub(crate) fn left(&self, reason: Reason) {
        match reason {
            Reason::Rejected => add(&self.acked, 1),
            Reason::Expired => add(&self.expired, 1),
            Reason::MaxLength => add(&self.overflowed, 1),
            Reason::DeliveryLimit => add(&self.over_delivered, 1),
        }
    }

    pub(crate) fn dead_lettered(&self, messages: u64) {
        add(&self.dead_lettered, messages);
    }

    pub(crate) fn purged(&self, messages: u64) {
        add(&self.purged, messages);
    }

    pub(crate) fn recycled(&self) {
        add(&self.recycled, 1);
    }

    pub(crate) fn deleted(&self) {
        add(&self.deleted, 1);
    }

    /// So many neighbours became one file of so many bytes.
    pub(crate) fn rewritten(&self, segments: u64, bytes: u64) {
        add(&self.rewritten, segments);
        add(&self.merged, if segments > 1 { segments } else { 0 });
        add(&self.rewritten_bytes, bytes);
    }

    /// Segments whose files were removed, those whose files were recycled, and rewritten ones.
    pub(crate) fn given_back(&self) -> [u64; 3] {
        [read(&self.deleted), read(&self.recycled), read(&self.rewritten)]
    }

    pub(crate) fn checkpointed(&self) {
        add(&self.checkpoints, 1);
    }

    pub(crate) fn next_consumer(&self) -> u64 {
        self.consumers.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn durable(&self, offset: Offset) {
        self.durable_offset.fetch_max(offset.0, Ordering::Release);
    }

    pub(crate) fn durable_offset(&self) -> Offset {
        Offset(self.durable_offset.load(Ordering::Acquire))
    }

    /// The counters; gauges are filled in by the caller.
    pub(crate) fn snapshot(&self, backend: Backend) -> Stats {
        Stats {
            backend,
            published_messages: 0,
            published_bytes: 0,
            confirmed_messages: read(&self.confirmed_messages),
            repeated_messages: read(&self.repeated),
            publishers_evicted: read(&self.publishers_evicted),
            unroutable_messages: read(&self.unroutable_messages),
            unroutable_dropped: read(&self.unroutable_dropped),
            batches: read(&self.batches),
            inline_batches: read(&self.inline_batches),
            batches_written_again: read(&self.written_again),
            log_bytes_written: read(&self.log_bytes),
            other_bytes_written: read(&self.other_bytes),
            syncs: read(&self.syncs),
            delivered_messages: read(&self.delivered),
            redelivered_messages: read(&self.redelivered),
            acked_messages: read(&self.acked),
            purged_messages: read(&self.purged),
            expired_messages: read(&self.expired),
            overflowed_messages: read(&self.overflowed),
            refused_messages: read(&self.refused),
            over_delivered_messages: read(&self.over_delivered),
            dead_lettered_messages: read(&self.dead_lettered),
            segments: 0,
            segments_ready: 0,
            segments_recycled: read(&self.recycled),
            segments_deleted: read(&self.deleted),
            segments_rewritten: read(&self.rewritten),
            segments_merged: read(&self.merged),
            rewritten_bytes: read(&self.rewritten_bytes),
            segments_left_alone: 0,
            deleted_but_held_bytes: 0,
            oldest_unacked_age: None,
            oldest_unacked_pinned_bytes: 0,
            checkpoints: read(&self.checkpoints),
            window_bytes: 0,
            pinned_bytes: 0,
            unconfirmed_bytes: 0,
            mapped_bytes: 0,
            index_bytes: 0,
            poisoned: false,
            durable_offset: self.durable_offset(),
            end_offset: Offset(0),
            commit_us: self.commit_us.snapshot(),
            batch_bytes: self.batch_bytes.snapshot(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_that_ends_at_or_above_it_and_within_an_eighth() {
        for value in (0..5000).chain((13..60).map(|power| 1 << power)) {
            let end = bucket_end(bucket_of(value));
            assert!(end >= value && end <= value + value / 8 + 1, "{value} -> {end}");
        }
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let distribution = Distribution::default();
        (1..=1000).for_each(|value| distribution.record(value));
        let found = distribution.snapshot();
        assert_eq!((found.count, found.sum, found.max), (1000, 500_500, 1000));
        assert!((500..=563).contains(&found.p50), "{}", found.p50);
        assert!((990..=1000).contains(&found.p99), "{}", found.p99);
        assert_eq!(Distribution::default().snapshot(), Histogram::default());
    }
}
