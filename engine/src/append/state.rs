//! What the append lock guards: the open batch, those that are full, and who waits for what.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use fanlog_segment_format::{
    BatchNumber, Control, Offset, PublisherId,
    layout::{BATCH_HEADER_BYTES, BLOCK_BYTES, COMMIT_MARK_BYTES, align_up},
};

use super::{
    ACK_ROOM, BATCH_ROOM_MIN, GATE_BYTES, Need,
    arena::{ArenaPool, Loan, Region},
};
use crate::{Error, log::index::BatchIndex, supply::Promise};

/// Bytes of the record that says how far a named publisher got.
pub(crate) const SEQUENCE_BYTES: usize = 32;

/// A batch that takes no more messages.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) number: BatchNumber,
    pub(crate) first_offset: Offset,
    pub(crate) messages: u32,
    /// Calls of publishers that placed them.
    pub(crate) calls: u32,
    pub(crate) region: Region,
    /// Record bytes that publishers placed: what the batch counts as unconfirmed.
    pub(crate) placed: usize,
    /// Someone waits for it to be synced.
    pub(crate) sync: bool,
    /// Bytes of control records, acks included once they are in.
    pub(crate) control_bytes: usize,
    pub(crate) extras: Extras,
    /// Room on the disk, where it is larger than all that is kept.
    pub(crate) promise: Option<Promise>,
}

/// What messages add to a footer beside themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extras {
    /// Due and expiry times.
    pub(crate) times: usize,
    /// Whether one has a priority.
    pub(crate) prioritised: bool,
}

impl Extras {
    pub(crate) fn of(batch: &BatchIndex) -> Self {
        Self { times: batch.dues().len(), prioritised: batch.has_priorities() }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        let prioritised = self.prioritised || other.prioritised;
        Self { times: self.times + other.times, prioritised }
    }
}

impl Taken {
    /// Bytes that the batch has used of its region so far.
    pub(crate) fn filled(&self) -> usize {
        self.region.filled()
    }

    /// Room left for acks: the mark still has to fit.
    pub(crate) fn ack_room(&self) -> usize {
        self.region.room().saturating_sub(COMMIT_MARK_BYTES)
    }
}

#[derive(Debug)]
struct OpenBatch {
    number: BatchNumber,
    first_offset: Offset,
    messages: u32,
    calls: u32,
    sync: bool,
    control_bytes: usize,
    /// Kept for acks beyond the usual, when more are known to come.
    ack_room: usize,
    /// How far named publishers got in it, and when: written at its end.
    sequences: BTreeMap<PublisherId, (u64, u64)>,
    extras: Extras,
    promise: Option<Promise>,
    /// `None` until something is placed.
    region: Option<Region>,
}

impl OpenBatch {
    fn new(number: BatchNumber, first_offset: Offset) -> Self {
        Self {
            number,
            first_offset,
            messages: 0,
            calls: 0,
            sync: false,
            control_bytes: 0,
            ack_room: ACK_ROOM,
            sequences: BTreeMap::new(),
            extras: Extras::default(),
            promise: None,
            region: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.region.is_none()
    }
}

/// State under the append lock.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, set and cleared alone"
)]
pub(crate) struct Appender {
    open: OpenBatch,
    /// Rest of the arena in use: the next batch begins there.
    rest: Option<Region>,
    sealed: VecDeque<Taken>,
    next_offset: Offset,
    /// Version of the topology that messages must have been routed under (P3).
    pub(crate) version: u64,
    /// Record bytes placed and not yet confirmed.
    unconfirmed: usize,
    /// Record bytes placed and not yet taken by a committer.
    gathered: usize,
    /// Batches taken and not confirmed.
    pub(crate) in_flight: usize,
    /// Of these, not being written: they wait until the others are completed, or for space.
    pub(crate) held: usize,
    /// A committer found a batch that it can't write yet; what it waits for clears this.
    pub(crate) stalled: bool,
    /// Calls of publishers in the last batch that was confirmed: above one, they are not alone.
    pub(crate) last_calls: u32,
    /// When a sync, or a vouching mark, is due.
    pub(crate) idle_due: Option<Duration>,
    /// Committers that sleep until there is work.
    asleep: u32,
    /// Of these, notified and not yet awake.
    waking: u32,
    /// A publisher is committing by itself; it wakes a committer when it is done.
    pub(crate) leading: bool,
    /// Something must be committed although no message asks for it: a waited ack, a lease.
    pub(crate) urgent: bool,
    /// And it must be synced.
    pub(crate) urgent_sync: bool,
    /// When the acks that nobody waits for are due.
    pub(crate) acks_due: Option<Duration>,
    /// The committer that keeps the time sleeps until then; zero while it is awake, or if there is none.
    pub(crate) keeper_sleeps_until: Duration,
    /// Set while there is no segment to write to.
    pub(crate) out_of_space: Option<Error>,
    pub(crate) blocked: u32,
    /// Why nothing more is taken.
    pub(crate) end: Option<Error>,
    /// What publishers placed since the store was opened. Here, under a lock that they have anyway: a
    /// counter that all of them share would be one more line of memory to fight for.
    published: Published,
}

/// Messages, and the bytes of their payloads.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Published {
    pub(crate) messages: u64,
    pub(crate) payload_bytes: u64,
}

impl Appender {
    /// Nothing placed yet: the log goes on with this batch and offset.
    pub(crate) fn new(number: BatchNumber, next_offset: Offset) -> Self {
        Self {
            open: OpenBatch::new(number, next_offset),
            rest: None,
            sealed: VecDeque::new(),
            next_offset,
            version: 0,
            unconfirmed: 0,
            gathered: 0,
            in_flight: 0,
            held: 0,
            stalled: false,
            last_calls: 0,
            idle_due: None,
            asleep: 0,
            waking: 0,
            leading: false,
            urgent: false,
            urgent_sync: false,
            acks_due: None,
            keeper_sleeps_until: Duration::ZERO,
            out_of_space: None,
            blocked: 0,
            end: None,
            published: Published::default(),
        }
    }

    pub(super) fn has_room(&self, need: Need, max: usize) -> bool {
        self.out_of_space.is_none()
            && (self.unconfirmed == 0 || self.unconfirmed + need.bytes <= max)
    }

    pub(super) fn full(&self, limit: usize) -> Error {
        self.out_of_space.clone().unwrap_or(Error::Full { unconfirmed: self.unconfirmed, limit })
    }

    /// The offset that the next message gets.
    pub(crate) fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The batch that what is placed next goes to.
    pub(crate) fn open_number(&self) -> BatchNumber {
        self.open.number
    }

    /// The last batch that anything was placed in.
    pub(crate) fn last_placed(&self) -> Option<u64> {
        if self.open.is_empty() {
            self.open.number.0.checked_sub(1)
        } else {
            Some(self.open.number.0)
        }
    }

    pub(crate) fn unconfirmed(&self) -> usize {
        self.unconfirmed
    }

    /// Whether nothing waits to be committed.
    pub(crate) fn is_idle(&self) -> bool {
        self.sealed.is_empty() && self.open.is_empty()
    }

    /// Whether a committer that asks now would find a batch to write.
    pub(crate) fn can_commit(&self, now: Duration) -> bool {
        if self.stalled {
            return false;
        }
        match (self.in_flight - self.held, self.held) {
            (0, 1..) => true,
            (0, 0) => !self.leading && (!self.is_idle() || self.urgent || self.due(now)),
            (1, 0) => self.gathered >= GATE_BYTES,
            _ => false,
        }
    }

    /// Whether something is due that no message asks for.
    pub(crate) fn due(&self, now: Duration) -> bool {
        self.next_due().is_some_and(|due| due <= now)
    }

    /// When the next such thing is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        match (self.acks_due, self.idle_due) {
            (Some(acks), Some(idle)) => Some(acks.min(idle)),
            (acks, idle) => acks.or(idle),
        }
    }

    /// Whether a committer that asks is to take something: messages, or what is due.
    pub(crate) fn wants_commit(&self, alone: bool, now: Duration) -> bool {
        if alone {
            return !self.is_idle() || self.urgent || self.due(now);
        }
        !self.is_idle() && self.gathered >= GATE_BYTES
    }

    /// A committer goes to sleep.
    pub(crate) fn fall_asleep(&mut self) {
        self.asleep += 1;
    }

    /// It is awake again, for whatever reason.
    pub(crate) fn wake_up(&mut self) {
        self.asleep -= 1;
        self.waking = self.waking.saturating_sub(1);
    }

    /// Notes when a sync or a mark is due. Says whether that is sooner than was known.
    pub(crate) fn set_idle_due(&mut self, due: Option<Duration>) -> bool {
        let sooner = match (self.idle_due, due) {
            (None, Some(_)) => true,
            (Some(before), Some(due)) => due < before,
            (_, None) => false,
        };
        self.idle_due = due;
        sooner && self.asleep > 0
    }

    /// Whether a sleeping committer should be woken for what was just placed.
    ///
    /// If so, the caller notifies one.
    pub(crate) fn should_wake(&mut self) -> bool {
        let wanted = match (self.in_flight - self.held, self.held) {
            (0, 1..) => true,
            (0, 0) => !self.leading,
            (1, 0) => self.gathered >= GATE_BYTES,
            _ => false,
        };
        if self.asleep > self.waking && wanted && !self.stalled {
            self.waking += 1;
            return true;
        }
        false
    }

    /// Makes the open batch fit `need`, sealing it and beginning another where it does not.
    pub(crate) fn make_room(&mut self, pool: &Arc<ArenaPool>, need: Need) {
        let wanted = need.bytes + COMMIT_MARK_BYTES;
        if let Some(region) = &self.open.region {
            let sequences = self.open.sequences.len() * SEQUENCE_BYTES;
            if region.room() >= wanted + self.open.ack_room + sequences {
                return;
            }
            self.seal();
        }
        let whole = BATCH_HEADER_BYTES + wanted + self.open.ack_room;
        let mut region = match self.rest.take() {
            Some(rest) if rest.bytes() >= whole.max(BATCH_ROOM_MIN) => rest,
            _ => pool.take(align_up(whole, BLOCK_BYTES)),
        };
        region.extend(BATCH_HEADER_BYTES);
        self.open.region = Some(region);
    }

    /// Gives a message its offset; its record is what the caller writes next.
    pub(crate) fn place(&mut self, sync: bool) -> Offset {
        let offset = self.next_offset;
        self.next_offset = offset.next();
        self.open.messages += 1;
        self.open.sync |= sync;
        offset
    }

    /// Takes note of what a publisher placed, for the statistics.
    pub(crate) fn note_published(&mut self, messages: u32, payload_bytes: u64) {
        self.published.messages += u64::from(messages);
        self.published.payload_bytes += payload_bytes;
    }

    pub(crate) fn published(&self) -> Published {
        self.published
    }

    /// Takes note of a publisher's call, whose messages are placed next.
    pub(crate) fn note_call(&mut self) {
        self.open.calls += 1;
    }

    /// Takes note that room on the disk was promised to what is placed next, which is large.
    pub(crate) fn promised(&mut self, promise: Option<Promise>) {
        if promise.is_some() {
            self.open.promise = promise;
        }
    }

    /// Takes note of what the message placed last adds to a footer.
    pub(crate) fn note_extras(&mut self, extras: Extras) {
        self.open.extras = self.open.extras.plus(extras);
    }

    /// The open batch's bytes, to write a record of `bytes` at once.
    pub(crate) fn extend(&mut self, bytes: usize) -> &mut [u8] {
        self.unconfirmed += bytes;
        self.gathered += bytes;
        self.open.region.as_mut().expect("room was made").extend(bytes)
    }

    /// The open batch's next `bytes`, to be filled after the lock is given back.
    pub(crate) fn extend_loan(&mut self, bytes: usize) -> Loan {
        self.unconfirmed += bytes;
        self.gathered += bytes;
        self.open.region.as_mut().expect("room was made").extend_loan(bytes)
    }

    /// Places control records that were encoded by the caller.
    ///
    /// `membership`: they change who is a member of what, so they stand before every message of
    /// their batch (P2), and someone waits for them.
    pub(crate) fn control(&mut self, pool: &Arc<ArenaPool>, records: &[u8], membership: bool) {
        if membership && self.open.messages > 0 {
            self.seal();
        }
        self.make_room(pool, Need { bytes: records.len(), messages: 0 });
        self.extend(records.len()).copy_from_slice(records);
        self.open.sync |= membership;
        self.open.control_bytes += records.len();
    }

    /// Places ack records that belong to what is placed next, in the room that was made for both.
    pub(crate) fn acks(&mut self, records: &[u8]) {
        self.extend(records.len()).copy_from_slice(records);
        self.open.sync = true;
        self.open.control_bytes += records.len();
    }

    /// Makes the next batch that is written a synced one.
    pub(crate) fn sync_open(&mut self) {
        self.open.sync = true;
    }

    /// Notes how far a named publisher gets with what is placed next. Room for the record was made:
    /// [`SEQUENCE_BYTES`] with each message.
    pub(crate) fn reach(&mut self, publisher: PublisherId, sequence: u64, time_us: u64) {
        self.open.sequences.insert(publisher, (sequence, time_us));
    }

    /// Writes how far named publishers got: in the batch of their messages, whichever that became.
    fn write_sequences(&mut self) {
        if self.open.sequences.is_empty() {
            return;
        }
        let mut records = Vec::with_capacity(self.open.sequences.len() * SEQUENCE_BYTES);
        for (publisher, (sequence, time_us)) in std::mem::take(&mut self.open.sequences) {
            Control::PublisherSequence { publisher, sequence, time_us }.encode(&mut records);
        }
        self.extend(records.len()).copy_from_slice(&records);
        self.open.control_bytes += records.len();
    }

    /// Seals the open batch, if anything is in it, onto the queue of sealed ones.
    pub(crate) fn seal(&mut self) {
        if let Some(taken) = self.take_open(self.open.ack_room) {
            self.sealed.push_back(taken);
        }
    }

    /// Takes the oldest sealed batch.
    pub(crate) fn take_sealed(&mut self) -> Option<Taken> {
        self.sealed.pop_front()
    }

    /// Makes sure that the next open batch has `bytes` of room for acks.
    pub(crate) fn want_ack_room(&mut self, bytes: usize) {
        self.open.ack_room = self.open.ack_room.max(align_up(bytes, 8));
    }

    /// Takes the open batch, if it was begun.
    ///
    /// The rest of its region beyond the room for `ack_bytes` becomes the next batch's.
    pub(crate) fn take_open(&mut self, ack_bytes: usize) -> Option<Taken> {
        self.write_sequences();
        let mut region = self.open.region.take()?;
        let used = region.filled().saturating_add(ack_bytes).saturating_add(COMMIT_MARK_BYTES);
        if used < region.bytes() && !region.lent() {
            let rest = region.split_off(align_up(used, BLOCK_BYTES).min(region.bytes()));
            if rest.bytes() >= BATCH_ROOM_MIN {
                self.rest = Some(rest);
            }
        }
        let placed = region.filled() - BATCH_HEADER_BYTES;
        self.gathered -= placed;
        let taken = Taken {
            placed,
            number: self.open.number,
            first_offset: self.open.first_offset,
            messages: self.open.messages,
            calls: self.open.calls,
            region,
            sync: self.open.sync,
            control_bytes: self.open.control_bytes,
            extras: self.open.extras,
            promise: self.open.promise.take(),
        };
        self.open = OpenBatch::new(BatchNumber(self.open.number.0 + 1), self.next_offset);
        Some(taken)
    }

    /// Begins the open batch although nothing is placed: acks, or nothing, are all it carries.
    pub(crate) fn begin_empty(&mut self, pool: &Arc<ArenaPool>) {
        if self.open.is_empty() {
            self.make_room(pool, Need { bytes: 0, messages: 0 });
        }
    }

    /// Takes note that `bytes` of records are confirmed, or given up.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.unconfirmed -= bytes;
    }

    /// Whether a loan of the batch that is taken next is still being filled.
    pub(crate) fn next_is_lent(&self) -> bool {
        match self.sealed.front() {
            Some(taken) => taken.region.lent(),
            None => self.open.region.as_ref().is_some_and(Region::lent),
        }
    }
}
