//! Acks of one queue that are in no record yet.
//!
//! In: messages that were settled. Out: control records, one for each segment in which something was
//! acked, as an ack record speaks of one segment.

use std::ops::Range;

use fanlog_segment_format::{Offset, QueueId, ack::AckBytes, control::Control};

use crate::{
    deliver::Claim,
    ledger::{ack_set::AckBatch, queue_ledger::Amount},
    log::Log,
};

/// What was acked in one segment.
#[derive(Debug, Clone, Copy)]
struct InSegment {
    /// Where the segment starts, or what of it is counted here.
    first: Offset,
    /// Offsets below it, from `first` on, were known to be in it.
    end: Offset,
    amount: Amount,
}

/// Acks that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct PendingAcks {
    acks: AckBatch,
    /// In order of offset.
    amounts: Vec<InSegment>,
}

impl PendingAcks {
    /// Adds an acked message: its ack covers the offsets before it that are not this queue's.
    pub(crate) fn insert(&mut self, log: &Log, claim: &Claim) {
        self.acks.insert(claim.from, claim.offset.0 + 1);
        self.note(log, claim.offset, claim.amount());
    }

    /// Adds all that the queue has in a stretch of the log; its messages there, one of which is at
    /// `offset`, lie in one segment.
    pub(crate) fn insert_all(
        &mut self,
        log: &Log,
        stretch: Range<Offset>,
        offset: Offset,
        amount: Amount,
    ) {
        self.acks.insert(stretch.start.0, stretch.end.0);
        self.note(log, offset, amount);
    }

    /// Counts an acked message with its segment.
    ///
    /// Parts stand in the order of the log and share no offset, though bounds change: a segment
    /// grows, several become one, and those that went into it are no longer told apart.
    fn note(&mut self, log: &Log, offset: Offset, amount: Amount) {
        let at = self.amounts.partition_point(|part| part.first <= offset);
        let next = self.amounts.get(at).map(|next| next.first);
        let mut from = Offset(0);
        if let Some(part) = at.checked_sub(1).and_then(|at| self.amounts.get_mut(at)) {
            if offset < part.end {
                part.amount = part.amount.plus(amount);
                return;
            }
            let (first, end) = log.bounds_at(offset);
            if first <= part.first {
                // It has grown since, or is one with what follows it.
                part.end = next.map_or(end, |next| end.min(next));
                part.amount = part.amount.plus(amount);
                return;
            }
            from = part.end;
        }
        let (first, end) = log.bounds_at(offset);
        let (first, end) = (first.max(from), next.map_or(end, |next| end.min(next)));
        self.amounts.insert(at, InSegment { first, end, amount });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.acks.is_empty()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.acks.heap_bytes()
    }

    /// Appends the records to `out`, and is empty then.
    pub(crate) fn drain(&mut self, queue: QueueId, log: &Log, out: &mut Vec<u8>) {
        if self.is_empty() {
            return;
        }
        let mut scratch = Vec::new();
        let amounts = std::mem::take(&mut self.amounts);
        let mut start = 0;
        for (at, part) in amounts.iter().enumerate() {
            let next = amounts.get(at + 1).map_or(u64::MAX, |next| next.first.0);
            // What lies between, and is not this queue's, goes with the later segment.
            let end = if next == u64::MAX { next } else { log.bounds_at(part.first).1.0.min(next) };
            scratch.clear();
            self.acks.encode_within(start, end, &mut scratch);
            let Amount { messages, bytes } = part.amount;
            let acks = AckBytes(&scratch);
            Control::Ack { queue, messages, bytes, acks }.encode(out);
            start = end;
        }
        self.acks.clear();
    }
}
