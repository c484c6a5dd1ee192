//! The judge's books: what was confirmed, and what each platform saw.
//!
//! Knows nothing of engines and processes. In: confirms and reports. Out: what is missing, what is
//! wrong, and the figures.

use std::{collections::BTreeSet, ops::Range};

use super::{
    QUEUES,
    frames::{Confirmed, Seen},
};
use crate::{
    payload,
    sample::{Latencies, as_u64},
};

/// Books of a run.
#[derive(Debug)]
pub(crate) struct Judge {
    size: usize,
    messages: u64,
    /// From this number on messages were published slowly.
    paced_from: u64,
    confirmed: Vec<bool>,
    confirmed_count: u64,
    confirmed_rush: u64,
    /// Checksum of the payload and offset of the first copy, once a platform saw it.
    known: Vec<Option<Known>>,
    pub(crate) queues: [Queue; QUEUES.len()],
    /// Reports of a payload that is none of the stream or differs from it.
    pub(crate) corrupt: u64,
    /// Confirms of a number that was never to be published.
    pub(crate) strange_confirms: u64,
    /// Numbers of which a platform saw two copies: in doubt when the engine was killed, published
    /// again, and stored both times.
    pub(crate) stored_twice: BTreeSet<u64>,
    pub(crate) confirm: Latencies,
    pub(crate) confirm_paced: Latencies,
    pub(crate) deliver: Latencies,
    pub(crate) deliver_paced: Latencies,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    checksum: u32,
    offset: u64,
}

/// Books of one queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    seen: Vec<bool>,
    seen_count: u64,
    seen_rush: u64,
    /// Deliveries, each report counted.
    pub(crate) delivered: u64,
    /// Deliveries of messages that are not paced.
    pub(crate) delivered_rush: u64,
    /// Deliveries that the engine flagged as redelivered.
    pub(crate) redelivered: u64,
    /// Deliveries of a number that this queue had seen before.
    pub(crate) repeated: u64,
    /// Deliveries by consumer.
    pub(crate) by_consumer: Vec<u64>,
    /// Numbers that a dropped consumer held.
    pub(crate) held: Option<Vec<u64>>,
    /// Numbers on which the platform raised an alert.
    pub(crate) alerts: BTreeSet<u64>,
}

impl Judge {
    pub(crate) fn new(messages: u64, paced: u64, size: usize, consumers: u16) -> Judge {
        let length = usize::try_from(messages).expect("a number of messages that fits memory");
        let queue = || Queue {
            seen: vec![false; length],
            by_consumer: vec![0; usize::from(consumers)],
            ..Queue::default()
        };
        Judge {
            size,
            messages,
            paced_from: messages - paced,
            confirmed: vec![false; length],
            confirmed_count: 0,
            confirmed_rush: 0,
            known: vec![None; length],
            queues: [queue(), queue(), queue()],
            corrupt: 0,
            strange_confirms: 0,
            stored_twice: BTreeSet::new(),
            confirm: Latencies::default(),
            confirm_paced: Latencies::default(),
            deliver: Latencies::default(),
            deliver_paced: Latencies::default(),
        }
    }

    /// Books a confirm. A number may be confirmed again: it was in doubt and published twice.
    pub(crate) fn confirm(&mut self, confirm: Confirmed) {
        let Some(index) = self.index(confirm.number) else {
            self.strange_confirms += 1;
            return;
        };
        let paced = confirm.number >= self.paced_from;
        if !self.confirmed[index] {
            self.confirmed[index] = true;
            self.confirmed_count += 1;
            self.confirmed_rush += u64::from(!paced);
        }
        let latencies = if paced { &mut self.confirm_paced } else { &mut self.confirm };
        latencies.record_ns(confirm.latency_ns);
    }

    /// Books what a consumer of `queue` saw.
    pub(crate) fn seen(&mut self, queue: u8, consumer: u16, seen: Seen) {
        let Some(books) = self.queues.get_mut(usize::from(queue)) else {
            self.corrupt += 1;
            return;
        };
        books.delivered += 1;
        books.redelivered += u64::from(seen.redelivered);
        if let Some(count) = books.by_consumer.get_mut(usize::from(consumer)) {
            *count += 1;
        }
        let Some(index) = usize::try_from(seen.number).ok().filter(|_| seen.number < self.messages)
        else {
            self.corrupt += 1;
            return;
        };
        let size = self.size;
        let known = self.known[index].get_or_insert_with(|| Known {
            checksum: checksum(seen.number, size),
            offset: seen.offset,
        });
        let right = seen.intact
            && seen.checksum == known.checksum
            && usize::try_from(seen.length).is_ok_and(|length| length == size);
        if !right {
            self.corrupt += 1;
            return;
        }
        if seen.offset != known.offset {
            self.stored_twice.insert(seen.number);
        }
        let paced = seen.number >= self.paced_from;
        books.delivered_rush += u64::from(!paced);
        if std::mem::replace(&mut books.seen[index], true) {
            books.repeated += 1;
        } else {
            books.seen_count += 1;
            books.seen_rush += u64::from(!paced);
        }
        let latencies = if paced { &mut self.deliver_paced } else { &mut self.deliver };
        latencies.record_ns(u64::from(seen.latency_us) * 1_000);
    }

    fn index(&self, number: u64) -> Option<usize> {
        usize::try_from(number).ok().filter(|_| number < self.messages)
    }

    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// Numbers confirmed.
    pub(crate) fn confirmed(&self) -> u64 {
        self.confirmed_count
    }

    /// Numbers confirmed that were published as fast as possible.
    pub(crate) fn confirmed_rush(&self) -> u64 {
        self.confirmed_rush
    }

    /// Deliveries of all queues, of messages that were published as fast as possible.
    pub(crate) fn delivered_rush(&self) -> u64 {
        self.queues.iter().map(|queue| queue.delivered_rush).sum()
    }

    /// Whether all numbers below `paced_from`, or all, are confirmed and seen by every platform.
    pub(crate) fn complete(&self, paced_too: bool) -> bool {
        if paced_too {
            let all = |count: u64| count == self.messages;
            all(self.confirmed_count) && self.queues.iter().all(|queue| all(queue.seen_count))
        } else {
            let all = |count: u64| count == self.paced_from;
            all(self.confirmed_rush) && self.queues.iter().all(|queue| all(queue.seen_rush))
        }
    }

    /// How far the slowest of publishing and the platforms is.
    pub(crate) fn progress(&self) -> u64 {
        let seen = self.queues.iter().map(|queue| queue.seen_count);
        seen.fold(self.confirmed_count, u64::min)
    }

    /// Numbers in `range` that are not confirmed.
    pub(crate) fn unconfirmed(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for number in range {
            if self.index(number).is_some_and(|index| self.confirmed[index]) {
                continue;
            }
            match ranges.last_mut() {
                Some(last) if last.end == number => last.end += 1,
                _ => ranges.push(number..number + 1),
            }
        }
        ranges
    }

    /// Numbers that a platform saw although no confirm reached the judge.
    pub(crate) fn in_doubt_but_stored(&self) -> u64 {
        let pairs = self.confirmed.iter().zip(&self.known);
        as_u64(pairs.filter(|(confirmed, known)| !**confirmed && known.is_some()).count())
    }

    /// Confirmed numbers that the platform of `queue` never saw.
    pub(crate) fn lost_in(&self, queue: usize) -> Vec<u64> {
        let pairs = self.confirmed.iter().zip(&self.queues[queue].seen).zip(0..);
        pairs.filter(|((confirmed, seen), _)| **confirmed && !**seen).map(|(_, n)| n).collect()
    }

    /// Confirmed messages that a platform never saw, over all platforms.
    pub(crate) fn lost(&self) -> u64 {
        (0..QUEUES.len()).map(|queue| as_u64(self.lost_in(queue).len())).sum()
    }

    /// Messages that were held by a dropped consumer and then seen by no other.
    pub(crate) fn held_and_lost(&self) -> u64 {
        let lost = self.queues.iter().map(|queue| {
            let held = queue.held.iter().flatten();
            let gone =
                held.filter(|&&number| self.index(number).is_none_or(|index| !queue.seen[index]));
            as_u64(gone.count())
        });
        lost.sum()
    }

    /// Wrong results of the stream on which `queue` raised no alert, and alerts on right ones.
    pub(crate) fn alert_errors(&self, queue: usize) -> (u64, u64) {
        let alerts = &self.queues[queue].alerts;
        let planted = (0..self.messages).filter(|&number| payload::source_of(number).is_some());
        let missed = planted.filter(|number| !alerts.contains(number)).count();
        let is_false = |number: &&u64| payload::source_of(**number).is_none();
        (as_u64(missed), as_u64(alerts.iter().filter(is_false).count()))
    }

    /// Share of each consumer in the deliveries of `queue`.
    pub(crate) fn shares(&self, queue: usize) -> Vec<f64> {
        let books = &self.queues[queue];
        let share = |&count| {
            crate::sample::ratio(
                crate::sample::as_f64(count),
                crate::sample::as_f64(books.delivered),
            )
        };
        books.by_consumer.iter().map(share).collect()
    }
}

/// Checksum of the payload with that number, made anew.
fn checksum(number: u64, size: usize) -> u32 {
    let mut payload = vec![0; size];
    payload::fill(number, &mut payload);
    crc32fast::hash(&payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(number: u64) -> Seen {
        Seen {
            number,
            offset: number,
            checksum: checksum(number, 64),
            length: 64,
            latency_us: 1,
            redelivered: false,
            intact: true,
        }
    }

    fn judge() -> Judge {
        let mut judge = Judge::new(3, 1, 64, 2);
        for number in 0..3 {
            judge.confirm(Confirmed { number, latency_ns: 1 });
            for queue in 0..3 {
                judge.seen(queue, 0, seen(number));
            }
        }
        judge
    }

    #[test]
    fn a_complete_run_has_no_loss() {
        let judge = judge();
        assert!(judge.complete(true) && judge.complete(false));
        assert_eq!((judge.lost(), judge.corrupt), (0, 0));
        assert!(judge.stored_twice.is_empty());
    }

    #[test]
    fn a_confirmed_message_that_one_platform_misses_is_lost() {
        let mut judge = judge();
        judge.queues[1].seen[2] = false;
        assert_eq!(judge.lost(), 1);
        assert_eq!(judge.lost_in(1), [2]);
    }

    #[test]
    fn other_bytes_than_the_number_stands_for_are_corrupt() {
        let mut judge = judge();
        judge.seen(0, 1, Seen { checksum: 0, ..seen(1) });
        judge.seen(0, 1, Seen { length: 63, ..seen(1) });
        judge.seen(0, 1, Seen { intact: false, ..seen(1) });
        judge.seen(0, 1, Seen { number: 3, ..seen(1) });
        assert_eq!(judge.corrupt, 4);
    }

    #[test]
    fn copies_are_told_from_redeliveries_by_their_offset() {
        let mut judge = judge();
        judge.seen(0, 1, Seen { redelivered: true, ..seen(1) });
        assert!(judge.stored_twice.is_empty());
        judge.seen(0, 1, Seen { offset: 77, ..seen(1) });
        assert_eq!(judge.stored_twice.len(), 1);
        assert_eq!((judge.queues[0].repeated, judge.queues[0].redelivered), (2, 1));
        assert_eq!(judge.lost(), 0);
    }

    #[test]
    fn unconfirmed_numbers_come_as_ranges() {
        let mut judge = Judge::new(10, 0, 64, 1);
        for number in [0, 1, 5] {
            judge.confirm(Confirmed { number, latency_ns: 1 });
        }
        assert_eq!(judge.unconfirmed(0..10), [2..5, 6..10]);
    }
}
