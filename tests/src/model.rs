//! The reference: what a store has to hold, kept in plain maps.
//!
//! Knows every message that was ever offered, what became of it, and for each queue which messages
//! were routed to it and whether they were acked. It never looks at the engine.

mod letters;
mod past;
mod special;
mod topology;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fanlog::QueueOptions;

pub use self::past::Bring;
pub use self::special::{
    BRIEF, HEADS, KEPT, LATE, LETTERS, LIFE, MORTAL, ODD, OTHERWISE, OWN, PAST, PAST_BYTES, RANKED,
    SHORT, SHORT_MAX, STRICT, STRICT_MAX, binding_arguments, exchange_options, is_left,
    message_headers, queue_options,
};
pub use self::topology::Topology;
use crate::random::mix;

/// Number of a message: its place among all that were offered, which its payload begins with.
pub type Id = usize;

/// Names of publishers. That with the place `n` here is publisher `1 + n`.
pub const NAMES: [&str; 2] = ["meter", "clock"];

/// Number of a queue: its place among all that ever were. One declared again is another one.
pub type QueueId = usize;

/// What became of a message that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Appended, its outcome not known: it may be stored or not.
    Pending,
    /// Confirmed, at this offset.
    Confirmed(u64),
    /// Refused, or gone with a crash: it must never be seen.
    Lost,
}

/// A message that was offered.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "plain facts of a message")]
pub struct Sent {
    /// Who published it: messages of one publisher are numbered, and stored, in one order.
    pub publisher: usize,
    /// The exchange that it was published to.
    pub exchange: Arc<str>,
    /// Its routing key.
    pub key: Arc<str>,
    /// The size of its payload.
    pub bytes: usize,
    /// Confirmed once the kernel has it.
    pub buffered: bool,
    /// Gone once the store is opened again.
    pub transient: bool,
    /// Of what a queue with priorities tells apart, it takes the highest that it has.
    pub priority: u8,
    /// Its number, if its publisher has a name.
    pub sequence: u64,
    /// When its life is over, if it has one: not before, surely from then on. Microseconds since 1970.
    pub over_us: Option<(u64, u64)>,
    /// A date was shown at which its life may have been over: it may have left its queue.
    pub may_be_over: bool,
    /// The copy that comes of it when it leaves its queue for that of dead letters.
    pub letter: Option<Id>,
    /// Not to come before: microseconds since 1970; 0 if it may come at once.
    pub due_us: u64,
    /// That date was shown since.
    pub fell_due: bool,
    /// What became of it.
    pub fate: Fate,
    /// The queues that it was routed to.
    pub queues: Vec<QueueId>,
}

/// How far a message is acked in one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    /// Not at all: it must come.
    No,
    /// Nobody waited for the ack: it must not come before a crash, and may come after one.
    Asked,
    /// Durably: it must never come again.
    Durable,
}

/// A message in one queue.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// How far it is acked.
    pub acked: Acked,
    /// A consumer had it: when it comes again, it is flagged.
    pub handed_out: bool,
    /// A consumer has it.
    pub in_hands: bool,
    /// How often it was handed out, as the engine has to know it.
    pub times: Times,
}

impl Entry {
    /// One that nobody had.
    fn new() -> Self {
        Self { acked: Acked::No, handed_out: false, in_hands: false, times: Times::default() }
    }
}

/// How often a message was handed out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// At the least; at the most. The same but for what an end left open.
    pub known: (u32, u32),
    /// So often according to the log, whether it was synced or not.
    recorded: u32,
    /// It was handed out since the store was opened.
    here: bool,
}

impl Times {
    /// It was handed out; `counted` times before, as the engine says.
    pub fn handed_out(&mut self, counted: u32, redelivered: bool) {
        if redelivered && !self.here {
            // It came back by an end, so this one was recorded before.
            self.recorded = counted + 1;
        }
        self.known = (counted + 1, counted + 1);
        self.here = true;
    }

    /// It was handed out, by threads that did not note how often.
    pub fn handed_out_somehow(&mut self) {
        self.known.1 = u32::MAX / 2;
    }

    /// The store was closed properly: all is recorded.
    pub fn closed(&mut self) {
        self.recorded = self.known.0;
    }

    /// The store was opened again.
    pub fn opened(&mut self, lost_nothing: bool) {
        self.recorded = if lost_nothing { self.recorded } else { 0 };
        // One that was counted, and did not get to a consumer any more.
        self.known = (self.recorded, self.known.1 + 1);
        self.here = false;
    }
}

/// A queue, deleted or not.
#[derive(Debug, Clone)]
pub struct QueueModel {
    /// Its name.
    pub name: Arc<str>,
    /// What was routed to it, in the order of publishing.
    pub entries: BTreeMap<Id, Entry>,
    /// It came and went while others published: what exactly it got is not known.
    pub lax: bool,
}

impl QueueModel {
    /// The options that it is declared with: they follow from its name.
    pub fn options(&self) -> QueueOptions {
        queue_options(&self.name)
    }
}

/// A transaction that was committed and not confirmed: all of it took place, or none.
#[derive(Debug, Clone)]
pub struct Doubt {
    /// What it publishes: at least one message.
    pub messages: Vec<Id>,
    /// What it acks.
    pub acks: Vec<(QueueId, Id)>,
}

/// All that a store has to hold, and all that it must not.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Every message that was ever offered.
    pub sent: Vec<Sent>,
    /// Every queue that ever was.
    pub queues: Vec<QueueModel>,
    /// The topology as far as it is confirmed.
    pub topology: Topology,
    /// What it is if the change under way takes place after all.
    pub doubtful: Option<Topology>,
    /// Transactions without an outcome yet.
    pub transactions: Vec<Doubt>,
    /// An exchange was deleted: the name of a message's exchange may be forgotten.
    pub exchange_deleted: bool,
    /// What was being brought back from the past when the store ended, if anything was.
    pub bringing: Option<Bring>,
    /// What publishers with names published, in the order of their numbers.
    pub named: [Vec<Id>; NAMES.len()],
    /// How far each of them was when the store was opened: of a message that went to queues alone that
    /// are gone nothing else is left.
    pub used: [u64; NAMES.len()],
    /// Messages that were rejected, and may be dead letters.
    pub rejected: BTreeSet<Id>,
    /// Something was misread while the store was opened: what was counted then may lack bytes.
    pub misread: bool,
    /// The highest epoch that an opening reported.
    pub epoch: u32,
}

impl Model {
    /// Makes room for a queue that is about to be declared.
    pub fn new_queue(&mut self, name: &str) -> QueueId {
        self.queues.push(QueueModel { name: name.into(), entries: BTreeMap::new(), lax: false });
        self.queues.len() - 1
    }

    /// Notes a message that is about to be published, and returns its number.
    pub fn offer(&mut self, exchange: &str, key: &str, bytes: usize, buffered: bool) -> Id {
        let queues = self.topology.route(exchange, key).unwrap_or_default();
        self.sent.push(Sent {
            publisher: 0,
            exchange: exchange.into(),
            key: key.into(),
            bytes,
            buffered,
            transient: false,
            priority: 0,
            sequence: 0,
            over_us: None,
            may_be_over: false,
            letter: None,
            due_us: 0,
            fell_due: true,
            fate: Fate::Lost,
            queues,
        });
        let id = self.sent.len() - 1;
        if exchange.is_empty() && is_left(key) {
            self.offer_mortal(id, bytes);
        }
        id
    }

    /// Notes that a message was appended: from now on it may be stored.
    pub fn appended(&mut self, id: Id) {
        self.sent[id].fate = Fate::Pending;
        for queue in self.sent[id].queues.clone() {
            self.queues[queue].entries.insert(id, Entry::new());
            self.over_length(queue);
        }
    }

    /// Notes that what published these messages is confirmed: if it was a transaction, so are its acks.
    pub fn committed(&mut self, messages: &[Id]) {
        let Some(at) = self.transactions.iter().position(|one| one.messages == messages) else {
            return;
        };
        for (queue, id) in self.transactions.swap_remove(at).acks {
            if let Some(entry) = self.queues[queue].entries.get_mut(&id) {
                entry.acked = Acked::Durable;
            }
        }
    }

    /// Notes that a message is gone.
    pub fn lost(&mut self, id: Id) {
        self.sent[id].fate = Fate::Lost;
        for queue in self.sent[id].queues.clone() {
            self.queues[queue].entries.remove(&id);
        }
    }

    /// Whether a queue has anything to hand out.
    pub fn has_outstanding(&self, queue: QueueId) -> bool {
        self.queues[queue].entries.values().any(|entry| entry.acked == Acked::No)
    }

    /// What a queue has to hand out, in order: neither acked nor about to be.
    pub fn outstanding(&self, queue: QueueId) -> Vec<Id> {
        let entries = &self.queues[queue].entries;
        let wanted = entries.iter().filter(|(_, entry)| entry.acked == Acked::No);
        let mut ids: Vec<Id> = wanted.map(|(id, _)| *id).collect();
        let highest = self.queues[queue].options().priority_max.unwrap_or(0);
        ids.sort_by_key(|id| {
            let offset = match self.sent[*id].fate {
                Fate::Confirmed(offset) => offset,
                Fate::Pending | Fate::Lost => u64::MAX,
            };
            (Reverse(self.sent[*id].priority.min(highest)), offset)
        });
        ids
    }

    /// Takes note of a date that the clock shows.
    pub fn shown(&mut self, wall_us: u64) {
        for sent in &mut self.sent {
            sent.fell_due |= sent.due_us <= wall_us;
            let Some((from_us, surely_us)) = &mut sent.over_us else { continue };
            if sent.fate == Fate::Pending {
                // It may have got its date just now.
                let life_us = u64::try_from(LIFE.as_micros()).unwrap_or(u64::MAX);
                let over_us = wall_us.saturating_add(life_us);
                (*from_us, *surely_us) = ((*from_us).min(over_us), (*surely_us).max(over_us));
            }
            sent.may_be_over |= *from_us <= wall_us;
        }
    }

    /// The store is opened again: what was transient is gone.
    pub fn forget_transient(&mut self) {
        for id in 0..self.sent.len() {
            if self.sent[id].transient && self.sent[id].fate != Fate::Lost {
                self.lost(id);
            }
        }
    }

    /// The store is opened again: queues that do not outlast that are gone. Says how many.
    pub fn forget_passing(&mut self) -> u64 {
        let mut gone = 0;
        for name in [BRIEF, OWN] {
            gone += u64::from(self.topology.queues.contains_key(name));
            self.topology = self.topology.without_queue(name);
            self.doubtful = self.doubtful.take().map(|next| next.without_queue(name));
        }
        gone
    }

    /// The store was opened at a date. Was it set back since a message fell due and was handed out,
    /// the engine takes it for one that was not, unless its count was recorded.
    pub fn opened_at(&mut self, wall_us: u64) {
        for queue in &mut self.queues {
            for (id, entry) in &mut queue.entries {
                if self.sent[*id].due_us > wall_us {
                    entry.handed_out &= entry.times.recorded > 0;
                }
            }
        }
    }

    /// The payload of a message.
    pub fn payload(&self, id: Id) -> Vec<u8> {
        payload(id, self.sent[id].bytes)
    }

    /// Which message these bytes are.
    ///
    /// # Errors
    ///
    /// If they are none's.
    pub fn recognise(&self, bytes: &[u8]) -> Result<Id, String> {
        let start = bytes.first_chunk::<8>().ok_or("a payload is too short to be anyone's")?;
        let id = usize::try_from(u64::from_le_bytes(*start)).unwrap_or(usize::MAX);
        if self.sent.get(id).is_none_or(|sent| sent.bytes != bytes.len()) {
            return Err(format!("a payload of {} bytes was never published", bytes.len()));
        }
        if self.payload(id) != bytes {
            return Err(format!("message {id} has wrong bytes"));
        }
        Ok(id)
    }
}

/// The bytes of message `id`: its number, then noise that only it has. At least 8 bytes.
pub fn payload(id: Id, bytes: usize) -> Vec<u8> {
    let mut made = Vec::with_capacity(bytes + 8);
    made.extend_from_slice(&(id as u64).to_le_bytes());
    let mut word = mix(id as u64 + 1);
    while made.len() < bytes {
        made.extend_from_slice(&word.to_le_bytes());
        word = mix(word.wrapping_add(1));
    }
    made.truncate(bytes.max(8));
    made
}
