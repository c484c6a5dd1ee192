//! One queue: its durable state, the acks that wait to be written, and its delivery.
//!
//! Three locks, so that none is held across the work of another: the committer takes `ledger` and
//! `dirty`, never `dispatch`, under which a consumer may read from the disk.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
};

use fanlog_segment_format::{
    CountList, DecodeError, GroupId, Offset, QueueId, ack::AckBytes, checkpoint::QueueEntry,
    control::Control,
};

use crate::{
    QueueOptions,
    ack::DirtyQueues,
    deliver::{Claim, Dispatch, Sleepers},
    history::HISTORY,
    ledger::{
        ack_set::AckBatch,
        queue_ledger::{Amount, QueueLedger},
    },
    log::Log,
    on_demand::OnDemand,
    pending::PendingAcks,
};

/// What consumers did since the last ack record of the queue.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    acks: PendingAcks,
    purge: Option<Box<Purge>>,
    /// All that was acked or purged, written or not: what the ledger will count as acked.
    settled: Amount,
    /// Acks that transactions write, not known to be confirmed yet.
    committing: OnDemand<Vec<Committing>>,
    /// One past the lease that delivery wants: everything below that may be handed out.
    lease: Option<NonZeroU64>,
    /// How often messages that came back were handed out, where that is not written yet.
    counts: OnDemand<BTreeMap<u64, u32>>,
    /// One past the commit that will carry this, if the queue is on its list.
    listed: Option<NonZeroU64>,
}

/// Delivery counts that go with one commit at the most.
const COUNTS_MAX: usize = 1 << 16;

/// What is dropped: everything below `to` but what is kept.
#[derive(Debug)]
struct Purge {
    to: Offset,
    amount: Amount,
    kept: AckBatch,
}

/// The number of the batch that a transaction is in, once it has its place.
pub(crate) type Place = Arc<AtomicU64>;

/// No place yet.
pub(crate) const NO_PLACE: u64 = u64::MAX;

/// What a transaction acks.
#[derive(Debug)]
struct Committing {
    place: Place,
    acks: AckBatch,
}

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    /// Its group in the default exchange.
    pub(crate) group: GroupId,
    pub(crate) name: Arc<str>,
    /// What it was declared with; `None` if that is plain.
    options: Option<Box<QueueOptions>>,
    ledger: Mutex<QueueLedger>,
    dirty: Mutex<Dirty>,
    /// Copy of the ledger's mark, for delivery.
    mark: AtomicU64,
    /// The mark that recovery found: what is below it may have been handed out before.
    recovered_mark: AtomicU64,
    /// Made when the first consumer comes.
    pub(crate) dispatch: Mutex<OnDemand<Dispatch>>,
    pub(crate) sleepers: Sleepers,
    /// Somebody waits until a lease or a delivery count of its own is in the log.
    awaits_log: AtomicBool,
    /// When its consumers are looked at next.
    look_due: AtomicU64,
    gone: AtomicBool,
    /// It is what an exchange keeps: no user knows of it.
    is_history: bool,
    /// Whether it is held still: one of the values of `Hold`.
    hold: AtomicU8,
}

/// Whether a queue goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// As ever.
    Free,
    /// Nothing is dealt from it, and nothing leaves it, until what is under way with it is done.
    Held,
    /// Messages of the past came into it: its cursors begin anew.
    Rewound,
}

impl Queue {
    pub(crate) fn new(
        id: QueueId,
        group: GroupId,
        name: &str,
        options: Option<Box<QueueOptions>>,
        is_history: bool,
        ledger: QueueLedger,
    ) -> Self {
        // Nothing before its first offset is ever handed out: closing need not say so.
        let recovered_mark = ledger.mark;
        Self {
            id,
            group,
            name: name.into(),
            options,
            mark: AtomicU64::new(ledger.mark.0),
            dirty: Mutex::new(Dirty { settled: ledger.acked, ..Dirty::default() }),
            ledger: Mutex::new(ledger),
            recovered_mark: AtomicU64::new(recovered_mark.0),
            dispatch: Mutex::default(),
            sleepers: Sleepers::default(),
            awaits_log: AtomicBool::new(false),
            look_due: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            is_history,
            hold: AtomicU8::new(Hold::Free as u8),
        }
    }

    /// A queue as a checkpoint describes it.
    ///
    /// # Errors
    ///
    /// If its options do not decode.
    pub(crate) fn from_entry(entry: &QueueEntry, ledger: QueueLedger) -> Result<Self, DecodeError> {
        let options = QueueOptions::stored(entry.flags, &entry.arguments)?;
        let is_history = entry.flags & HISTORY != 0;
        Ok(Self::new(entry.id, entry.group, &entry.name, options, is_history, ledger))
    }

    /// What it was declared with.
    pub(crate) fn options(&self) -> &QueueOptions {
        self.options.as_deref().unwrap_or(QueueOptions::plain())
    }

    /// Whether it is what an exchange keeps.
    pub(crate) fn is_history(&self) -> bool {
        self.is_history
    }

    /// Whether it goes on.
    pub(crate) fn hold(&self) -> Hold {
        match self.hold.load(Ordering::Acquire) {
            hold if hold == Hold::Held as u8 => Hold::Held,
            hold if hold == Hold::Rewound as u8 => Hold::Rewound,
            _ => Hold::Free,
        }
    }

    pub(crate) fn set_hold(&self, hold: Hold) {
        self.hold.store(hold as u8, Ordering::Release);
    }

    /// Messages of the past came into it; everything below `mark` may have been handed out.
    pub(crate) fn rewound(&self, mark: Offset) {
        self.mark.store(mark.0, Ordering::SeqCst);
        self.recovered_mark.store(mark.0, Ordering::Relaxed);
        self.set_hold(Hold::Rewound);
    }

    /// Whether a transaction that has no place yet, or none that is below `confirmed`, acks some of
    /// it.
    pub(crate) fn is_committing(&self, confirmed: u64) -> bool {
        let mut dirty = self.dirty();
        dirty.forget_committed(confirmed);
        dirty.committing.get().is_some()
    }

    /// The bits that stand for what is not in its table of arguments.
    pub(crate) fn flags(&self) -> u32 {
        self.options().flags() | if self.is_history { HISTORY } else { 0 }
    }

    /// The durable state. Held for moments only.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, QueueLedger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dirty(&self) -> MutexGuard<'_, Dirty> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything below it may be handed out.
    pub(crate) fn mark(&self) -> Offset {
        Offset(self.mark.load(Ordering::Acquire))
    }

    /// Takes note of a delivery mark that is in the log. Says whether anyone but a consumer waited
    /// for it.
    pub(crate) fn grant(&self, offset: Offset) -> bool {
        self.ledger().mark = offset;
        self.mark.store(offset.0, Ordering::SeqCst);
        self.was_awaited()
    }

    /// Whether a message of this offset may have been handed out before the store was opened.
    pub(crate) fn was_handed_out(&self, offset: Offset) -> bool {
        offset.0 < self.recovered_mark.load(Ordering::Relaxed)
    }

    /// After replay: what the marks said counts as handed out from now on, as far as it is stored.
    pub(crate) fn recovered(&self, end: Offset) {
        let settled = self.ledger().acked;
        self.dirty().settled = settled;
        self.recovered_mark.store(self.mark().min(end).0, Ordering::Relaxed);
    }

    /// What is below it may have been in somebody's hands before the store was opened.
    pub(crate) fn recovered_mark(&self) -> Offset {
        Offset(self.recovered_mark.load(Ordering::Relaxed))
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Takes note of acks. Returns the number of the commit that will make them durable.
    ///
    /// `from..=offset` holds a message and the offsets before it that are not this queue's.
    pub(crate) fn ack(
        self: &Arc<Self>,
        list: &DirtyQueues,
        log: &Log,
        messages: &[Claim],
    ) -> (u64, bool) {
        let mut dirty = self.dirty();
        for claim in messages {
            dirty.acks.insert(log, claim);
            dirty.settled = dirty.settled.plus(claim.amount());
        }
        self.enlist(dirty, list)
    }

    /// Takes note that all that it has in a stretch of the log is acked; its messages there, one of
    /// which is at `offset`, lie in one segment. Returns whether that is the first that anyone waits
    /// to be written.
    pub(crate) fn ack_all(
        self: &Arc<Self>,
        list: &DirtyQueues,
        log: &Log,
        stretch: Range<Offset>,
        offset: Offset,
        amount: Amount,
    ) -> bool {
        let mut dirty = self.dirty();
        dirty.acks.insert_all(log, stretch, offset, amount);
        dirty.settled = dirty.settled.plus(amount);
        self.enlist(dirty, list).1
    }

    /// Drops everything below `to` but what is `kept`. Of `sent`, what the queue got below `to`
    /// without what is kept, all that nobody settled yet is dropped: how much that is, and the
    /// number of the commit that will make it durable. `None`: there was nothing to drop. Batches
    /// below `confirmed` are confirmed.
    pub(crate) fn purge(
        self: &Arc<Self>,
        list: &DirtyQueues,
        to: Offset,
        sent: Amount,
        mut kept: AckBatch,
        confirmed: u64,
    ) -> Option<(Amount, u64, bool)> {
        let mut dirty = self.dirty();
        let dropped = sent.less(dirty.settled);
        if dropped.messages == 0 {
            return None;
        }
        // What a transaction acks is counted by its own record, which may come after this one in
        // the log, or never: until then it is not the purge's.
        dirty.forget_committed(confirmed);
        for (start, end) in
            dirty.committing.get().into_iter().flatten().flat_map(|one| one.acks.runs())
        {
            kept.insert(start, end);
        }
        dirty.settled = dirty.settled.plus(dropped);
        // One that waits already is part of this: what it kept was acked since, or is kept still,
        // or came back and is dropped now.
        let before = dirty.purge.take().map_or(Amount::default(), |before| before.amount);
        dirty.purge = Some(Box::new(Purge { to, amount: before.plus(dropped), kept }));
        let (commit, first) = self.enlist(dirty, list);
        Some((dropped, commit, first))
    }

    /// Takes note of messages that a transaction is about to ack: they count as settled from here
    /// on. Batches below `confirmed` are confirmed.
    pub(crate) fn commit_begins(&self, claims: &[Claim], place: &Place, confirmed: u64) {
        let mut acks = AckBatch::default();
        let mut dirty = self.dirty();
        dirty.forget_committed(confirmed);
        for claim in claims {
            acks.insert(claim.offset.0, claim.offset.0 + 1);
            dirty.settled = dirty.settled.plus(claim.amount());
        }
        dirty.committing.make().push(Committing { place: Arc::clone(place), acks });
    }

    /// Undoes [`Queue::commit_begins`]: the transaction got no place.
    pub(crate) fn commit_failed(&self, claims: &[Claim], place: &Place) {
        let mut dirty = self.dirty();
        for claim in claims {
            dirty.settled = dirty.settled.less(claim.amount());
        }
        if let Some(committing) = dirty.committing.get_mut() {
            committing.retain(|one| !Arc::ptr_eq(&one.place, place));
        }
    }

    /// All that was acked or purged, written or not.
    pub(crate) fn settled(&self) -> Amount {
        self.dirty().settled
    }

    /// Asks for a lease: everything below `offset` may be handed out once it is in the log.
    pub(crate) fn want_lease(self: &Arc<Self>, list: &DirtyQueues, offset: Offset) {
        let mut dirty = self.dirty();
        dirty.lease = NonZeroU64::new(offset.0.saturating_add(1));
        self.enlist(dirty, list);
    }

    /// Wants delivery counts written: how often each of these messages was handed out. Returns
    /// whether they are the first that anyone waits to be written.
    pub(crate) fn want_counts(
        self: &Arc<Self>,
        list: &DirtyQueues,
        counts: impl IntoIterator<Item = (Offset, u32)>,
    ) -> bool {
        let mut dirty = self.dirty();
        dirty.counts.make().extend(counts.into_iter().map(|(offset, count)| (offset.0, count)));
        self.enlist(dirty, list).1
    }

    /// When the queue's consumers are looked at next, in nanoseconds; 0: they are not.
    pub(crate) fn look_due(&self) -> &AtomicU64 {
        &self.look_due
    }

    /// Says, before it looks, that somebody is going to wait for something to be in the log.
    pub(crate) fn awaits_log(&self) {
        self.awaits_log.store(true, Ordering::SeqCst);
    }

    /// After something came to be in the log: whether anybody waited. Whoever did not see it has
    /// said before, under the same lock, that it waits.
    fn was_awaited(&self) -> bool {
        self.awaits_log.swap(false, Ordering::SeqCst)
    }

    /// Whether it is in the log that the message was handed out so often. If not, whoever sleeps
    /// from here on is woken when more is.
    pub(crate) fn is_counted(&self, offset: Offset, count: u32) -> bool {
        self.awaits_log();
        self.delivery_count(offset) >= count
    }

    /// How often the message is recorded to have been handed out.
    pub(crate) fn delivery_count(&self, offset: Offset) -> u32 {
        self.ledger().counts.of(offset.0)
    }

    /// Takes note of delivery counts that are in the log. Says whether anyone waited for one.
    pub(crate) fn counted(&self, entries: CountList<'_>) -> bool {
        let mut ledger = self.ledger();
        let QueueLedger { counts, acks, .. } = &mut *ledger;
        counts.record(entries, acks);
        drop(ledger);
        self.was_awaited()
    }

    /// Puts the queue on the next commit's list. Returns the commit's number, and whether the list
    /// was empty.
    fn enlist(
        self: &Arc<Self>,
        mut dirty: MutexGuard<'_, Dirty>,
        list: &DirtyQueues,
    ) -> (u64, bool) {
        if let Some(commit) = dirty.listed {
            return (commit.get() - 1, false);
        }
        let (commit, first) = list.push(Arc::clone(self));
        dirty.listed = NonZeroU64::new(commit + 1);
        (commit, first)
    }

    /// Takes what waits, as control records appended to `out`.
    pub(crate) fn drain(self: &Arc<Self>, list: &DirtyQueues, log: &Log, out: &mut Vec<u8>) {
        let mut dirty = self.dirty();
        dirty.listed = None;
        dirty.acks.drain(self.id, log, out);
        if let Some(purge) = dirty.purge.take() {
            let Purge { to, amount: Amount { messages, bytes }, kept } = *purge;
            let mut set = Vec::new();
            kept.encode(&mut set);
            let kept = AckBytes(&set);
            Control::Purge { queue: self.id, to, messages, bytes, kept }.encode(out);
        }
        if let Some(lease) = dirty.lease.take() {
            let offset = Offset(lease.get() - 1);
            Control::DeliveryMark { queue: self.id, offset }.encode(out);
        }
        if let Some(counts) = dirty.counts.get_mut() {
            let rest = match counts.keys().nth(COUNTS_MAX).copied() {
                Some(offset) => counts.split_off(&offset),
                None => BTreeMap::new(),
            };
            let entries: Vec<(u64, u32)> = std::mem::replace(counts, rest).into_iter().collect();
            let entries = CountList::from_slice(&entries);
            Control::DeliveryCount { queue: self.id, entries }.encode(out);
            if counts.is_empty() {
                dirty.counts.forget();
            } else {
                self.enlist(dirty, list);
            }
        }
    }

    /// Heap bytes of the acks that are not in the log yet.
    pub(crate) fn unwritten_heap_bytes(&self) -> usize {
        let dirty = self.dirty();
        dirty.acks.heap_bytes() + dirty.counts.get().map_or(0, |counts| counts.len() * 20)
    }
}

impl Dirty {
    /// Forgets transactions whose batch, below `confirmed`, is confirmed: the ledger has their acks.
    fn forget_committed(&mut self, confirmed: u64) {
        let Some(committing) = self.committing.get_mut() else { return };
        committing.retain(|one| one.place.load(Ordering::Acquire) >= confirmed);
        if committing.is_empty() {
            self.committing.forget();
        }
    }
}
