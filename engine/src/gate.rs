//! Queues that refuse what they have no room for (`reject-publish`, `reject-publish-dlx`): all others cost nothing here.
//!
//! Owns what was placed for each such queue. In: publishes, before they are placed, and what was placed.
//! Out: the queues that are full. A route carries the gates of its queues, if it has any.
//!
//! F1. A gate has counted all that was placed for its queue: what is ready there is that, less what
//!     is settled, in somebody's hands, or on its way out. So what is not confirmed yet counts too.
//! F2. A publisher looks before it takes the append lock, and counts after it: so each thread that
//!     publishes at the same moment may put one call's messages beyond the limit, and no more.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use fanlog_segment_format::QueueId;

use crate::{
    Error, Overflow, QueueOptions, core::Core, ledger::queue_ledger::Amount, queue::Queue,
};

/// The gates of a route, each once.
pub(crate) type Gates = Arc<[Arc<Gate>]>;

/// Where a queue lets in what it has room for.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) id: QueueId,
    name: Arc<str>,
    messages_max: u64,
    bytes_max: u64,
    /// Exchange, and key if not their own, of what it refuses.
    dead_letters: Option<(String, Option<String>)>,
    /// All that was placed for the queue since it was declared.
    placed: Mutex<Amount>,
    /// Found when its declaration is confirmed: until then nothing of it is settled.
    queue: OnceLock<Weak<Queue>>,
}

impl PartialEq for Gate {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Gate {}

impl Gate {
    /// The gate of a queue, if it has one.
    pub(crate) fn of(id: QueueId, name: &Arc<str>, options: &QueueOptions) -> Option<Arc<Self>> {
        let limited = options.messages_max.is_some() || options.bytes_max.is_some();
        let refuses = options.overflow != Overflow::DropHead;
        let dead_lettered = options.overflow == Overflow::RejectPublishDlx;
        let exchange = options.dead_letter_exchange.clone().filter(|_| dead_lettered);
        (limited && refuses).then(|| {
            Arc::new(Self {
                id,
                name: Arc::clone(name),
                messages_max: options.messages_max.unwrap_or(u64::MAX),
                bytes_max: options.bytes_max.unwrap_or(u64::MAX),
                dead_letters: exchange.map(|name| (name, options.dead_letter_key.clone())),
                placed: Mutex::default(),
                queue: OnceLock::new(),
            })
        })
    }

    fn placed(&self) -> MutexGuard<'_, Amount> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where what it refuses goes instead: the exchange, and the key if it is not the message's own.
    pub(crate) fn dead_letters(&self) -> Option<(&str, Option<&str>)> {
        self.dead_letters.as_ref().map(|(exchange, key)| (exchange.as_str(), key.as_deref()))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// At opening: the queue, and all that it was sent before.
    pub(crate) fn opened(&self, queue: &Arc<Queue>, sent: Amount) {
        *self.placed() = sent;
        self.queue.get_or_init(|| Arc::downgrade(queue));
    }

    /// Takes note of a message that was placed for the queue.
    pub(crate) fn count(&self, payload_bytes: usize) {
        let mut placed = self.placed();
        *placed = placed.plus(Amount { messages: 1, bytes: payload_bytes as u64 });
    }

    /// Takes note of messages of the past that were brought into the queue.
    pub(crate) fn brought(&self, amount: Amount) {
        let mut placed = self.placed();
        *placed = placed.plus(amount);
    }

    fn queue(&self, core: &Core) -> Option<Arc<Queue>> {
        if let Some(queue) = self.queue.get() {
            return queue.upgrade();
        }
        let queue = core.ledger().queue(self.id)?;
        self.queue.get_or_init(|| Arc::downgrade(&queue));
        Some(queue)
    }

    /// Whether the queue is within its limits with so much more.
    fn has_room(&self, core: &Core, more: Amount) -> bool {
        let fits = |there: Amount| {
            // The size of a message whose bytes are damaged is not known, so its ack counts none.
            let there = if there.messages == 0 { Amount::default() } else { there };
            let all = there.plus(more);
            all.messages <= self.messages_max && all.bytes <= self.bytes_max
        };
        let Some(queue) = self.queue(core) else { return fits(*self.placed()) };
        if fits(self.placed().less(queue.settled())) {
            return true;
        }
        // What consumers hold does not count.
        let dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        dispatch.get().is_some_and(|dispatch| fits(dispatch.ready_of(&queue, || *self.placed())))
    }
}

/// The gates that have no room for all of these messages together, of which each is given by the gates
/// that it comes to and the length of its payload.
pub(crate) fn full<'a>(
    core: &Core,
    messages: impl Iterator<Item = (&'a Gates, usize)>,
) -> Vec<Arc<Gate>> {
    let mut asked: Vec<(&Arc<Gate>, Amount)> = Vec::new();
    for (gates, payload_bytes) in messages {
        let one = Amount { messages: 1, bytes: payload_bytes as u64 };
        for gate in gates.iter() {
            match asked.iter_mut().find(|(other, _)| other.id == gate.id) {
                Some((_, amount)) => *amount = amount.plus(one),
                None => asked.push((gate, one)),
            }
        }
    }
    asked.retain(|(gate, amount)| !gate.has_room(core, *amount));
    asked.into_iter().map(|(gate, _)| Arc::clone(gate)).collect()
}

/// The names of their queues.
pub(crate) fn names(gates: &[Arc<Gate>]) -> Vec<String> {
    gates.iter().map(|gate| gate.name.to_string()).collect()
}

/// Says that queues are full, and nothing was stored.
pub(crate) fn refused(gates: &[Arc<Gate>]) -> Error {
    Error::QueueFull { queues: names(gates), stored: None }
}
