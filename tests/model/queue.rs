//! One queue: what it holds, in which order it comes, and what leaves it by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::Duration,
};

use fanlog::{Durability, Overflow, QueueOptions};

use crate::{
    consuming::{Moment, Roster},
    routing::{Binding, Headers, Ways},
};

/// Number of a stored message: how many were stored before it. Its copies have their own.
pub(crate) type Place = u64;

/// Whether a message is flagged as redelivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flag {
    No,
    Yes,
    /// It depends on how far the lease reached.
    Maybe,
}

/// Where a message of a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Queue,
    /// Dealt to a consumer, and not received.
    Inbox,
    /// Somebody has it.
    Hand,
}

/// Why a message left a queue otherwise than by an ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Rejected,
    Expired,
    MaxLength,
    DeliveryLimit,
}

impl Reason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

/// That a message left a queue for a reason, so often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Death {
    pub(crate) queue: String,
    pub(crate) reason: Reason,
    pub(crate) count: i64,
    /// Milliseconds that it brought as its own time to live.
    pub(crate) expiration: Option<String>,
}

/// A message in a queue. Its times count from the beginning.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    /// The place of the message that it is a copy of, or its own: its payload says so.
    pub(crate) birth: Place,
    pub(crate) bytes: usize,
    pub(crate) key: String,
    /// Further keys that are told.
    pub(crate) cc: &'static [&'static str],
    pub(crate) headers: Headers,
    pub(crate) priority: u8,
    pub(crate) durability: Durability,
    /// From when on it can be delivered.
    pub(crate) since: Duration,
    /// When its own time is over.
    pub(crate) expiry: Option<Duration>,
    /// The latest first.
    pub(crate) deaths: Vec<Death>,
    pub(crate) flag: Flag,
    /// How often it came back.
    pub(crate) returns: u32,
    pub(crate) at: At,
    /// Nobody ever had it.
    pub(crate) fresh: bool,
    /// It was there when the store was opened.
    pub(crate) old: bool,
    /// When it was published.
    pub(crate) published: Duration,
    /// How it came to the queues that got it.
    pub(crate) ways: Ways,
}

impl Entry {
    /// All keys that are told.
    pub(crate) fn keys(&self) -> Vec<&str> {
        std::iter::once(&*self.key).chain(self.cc.iter().copied()).collect()
    }

    /// Whether nobody has it.
    pub(crate) fn waits(&self) -> bool {
        self.at == At::Queue
    }
}

/// What left a queue.
pub(crate) type Gone = Vec<(Entry, Reason)>;

/// A queue: its messages in the order of their places.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    pub(crate) options: QueueOptions,
    /// It is what an exchange keeps, due or not.
    pub(crate) is_history: bool,
    /// How many were declared before it.
    pub(crate) number: u64,
    pub(crate) entries: Vec<Entry>,
    /// Of all that was published to it the bindings by which it came, as long as they are there.
    pub(crate) came: BTreeMap<Place, BTreeSet<Option<Binding>>>,
    /// A message of it may be handed out without a lease being asked for before.
    pub(crate) leased: bool,
    /// When it was used last, as far as its expiry goes.
    pub(crate) used: Duration,
    pub(crate) roster: Roster,
}

impl Queue {
    pub(crate) fn new(options: &QueueOptions, number: u64, now: Duration) -> Self {
        let options = options.clone();
        let (entries, roster) = (Vec::new(), Roster::default());
        let came = BTreeMap::new();
        Self { options, is_history: false, number, entries, came, leased: false, used: now, roster }
    }

    /// A message comes, as its last one.
    pub(crate) fn arrive(&mut self, name: &str, entry: Entry) {
        self.came.insert(entry.place, entry.ways.get(name).cloned().unwrap_or_default());
        self.entries.push(entry);
    }

    /// Whether a message came by a binding that it has had since.
    pub(crate) fn got(&self, place: Place) -> bool {
        self.came.get(&place).is_some_and(|ways| !ways.is_empty())
    }

    /// What is left of it when the store is opened.
    pub(crate) fn opened(&mut self, now: Duration) {
        (self.used, self.leased) = (now, false);
        self.roster = Roster::default();
        self.entries.retain(|entry| entry.durability != Durability::Transient);
        for entry in &mut self.entries {
            (entry.at, entry.old, entry.fresh) = (At::Queue, true, true);
        }
    }

    fn messages_max(&self) -> u64 {
        self.options.messages_max.unwrap_or(u64::MAX)
    }

    fn bytes_max(&self) -> u64 {
        self.options.bytes_max.unwrap_or(u64::MAX)
    }

    /// Whether what is too much is dropped from the head.
    pub(crate) fn drops_head(&self) -> bool {
        let bounded = self.options.messages_max.is_some() || self.options.bytes_max.is_some();
        bounded && self.options.overflow == Overflow::DropHead
    }

    /// Whether what it refuses is dead-lettered.
    pub(crate) fn dead_letters_refused(&self) -> bool {
        self.options.overflow == Overflow::RejectPublishDlx
    }

    /// Messages and bytes that nobody has, due or not.
    fn waiting(&self) -> (u64, u64) {
        let waiting = self.entries.iter().filter(|entry| entry.waits());
        waiting.fold((0, 0), |(messages, bytes), one| (messages + 1, bytes + one.bytes as u64))
    }

    /// Whether it has no room for so many more messages of these sizes.
    pub(crate) fn refuses(&self, more: &[usize]) -> bool {
        let (messages, bytes) = self.waiting();
        let messages = messages + more.len() as u64;
        let bytes = bytes + more.iter().sum::<usize>() as u64;
        self.options.overflow != Overflow::DropHead
            && (messages > self.messages_max() || bytes > self.bytes_max())
    }

    /// The priorities that it tells apart.
    fn levels(&self) -> RangeInclusive<u8> {
        0..=self.options.priority_max.unwrap_or(0)
    }

    fn level(&self, entry: &Entry) -> u8 {
        entry.priority.min(*self.levels().end())
    }

    fn take(&mut self, place: Place) -> Entry {
        let at = self.entries.iter().position(|entry| entry.place == place);
        self.entries.remove(at.expect("it is in the queue"))
    }

    fn take_all(&mut self, gone: Vec<(Place, Reason)>) -> Gone {
        gone.into_iter().map(|(place, reason)| (self.take(place), reason)).collect()
    }

    fn ready_in(&self, level: u8, now: Duration) -> impl Iterator<Item = &Entry> {
        let ready = move |entry: &&Entry| entry.waits() && (entry.since <= now || self.is_history);
        self.entries.iter().filter(ready).filter(move |entry| self.level(entry) == level)
    }

    /// What is ready, the next one first: of the highest priority, the first.
    fn ready(&self, now: Duration) -> impl Iterator<Item = &Entry> {
        self.levels().rev().flat_map(move |level| self.ready_in(level, now))
    }

    /// Whether a message's time is over.
    fn is_over_for(&self, entry: &Entry, now: Duration) -> bool {
        let ttl = self.options.message_ttl.map(|ttl| entry.since + ttl);
        ttl.into_iter().chain(entry.expiry).any(|expiry| expiry <= now)
    }

    /// Whether a consumer waited for a message when it became ready, which was in its own time: as if
    /// it was dealt in that moment.
    fn waited_for(&self, entry: &Entry) -> bool {
        let single = self.options.single_active_consumer;
        let lasted = entry.expiry.is_none_or(|expiry| expiry >= entry.since);
        let before = |since: Moment| {
            if entry.since > entry.published {
                since.time < entry.since
            } else {
                since.place <= entry.place
            }
        };
        entry.fresh && lasted && self.roster.waited_since(single).is_some_and(before)
    }

    /// Why a message is not delivered but leaves, if it does.
    fn verdict(&self, entry: &Entry, now: Duration) -> Option<Reason> {
        if self.is_over_for(entry, now) && !self.waited_for(entry) {
            return Some(Reason::Expired);
        }
        let limit = self.options.delivery_limit?;
        (entry.returns > limit).then_some(Reason::DeliveryLimit)
    }

    /// What may be looked at, in order.
    pub(crate) fn peek(&self, now: Duration) -> Vec<Place> {
        let stays = |entry: &&Entry| self.verdict(entry, now).is_none();
        self.ready(now).filter(stays).map(|entry| entry.place).collect()
    }

    /// The next message, and what leaves on the way to it.
    pub(crate) fn next(&mut self, now: Duration) -> (Option<Place>, Gone) {
        let mut gone = Vec::new();
        let mut next = None;
        let any = self.ready(now).next().is_some();
        self.leased |= any;
        for entry in self.ready(now) {
            let Some(reason) = self.verdict(entry, now) else {
                next = Some(entry.place);
                break;
            };
            gone.push((entry.place, reason));
        }
        (next, self.take_all(gone))
    }

    /// Drops the next of too many ready ones: of the highest priority, the first.
    pub(crate) fn shorten(&mut self, now: Duration) -> Gone {
        if !self.drops_head() {
            return Vec::new();
        }
        let (mut messages, mut bytes) = self.waiting();
        let mut gone = Vec::new();
        for entry in self.ready(now) {
            if messages <= self.messages_max() && bytes <= self.bytes_max() {
                break;
            }
            messages -= 1;
            bytes -= entry.bytes as u64;
            gone.push((entry.place, Reason::MaxLength));
        }
        self.take_all(gone)
    }

    /// What the background drops: of each priority the first ones, as long as they have to leave, and
    /// then what is too much. Where a consumer waits for such a first one it is dealt.
    pub(crate) fn trim(&mut self, moment: Moment, vague: &mut bool) -> Gone {
        let now = moment.time;
        let mut gone = self.expire(now);
        let waits = self.levels().any(|level| {
            let first = self.ready_in(level, now).next();
            first.is_some_and(|first| self.is_over_for(first, now) && self.waited_for(first))
        });
        if waits {
            *vague |= !self.leased;
            gone.extend(self.deal(moment));
            gone.extend(self.expire(now));
        }
        gone.extend(self.shorten(now));
        gone
    }

    /// Drops of each priority the first ones, as long as they have to leave.
    fn expire(&mut self, now: Duration) -> Gone {
        let mut gone = Vec::new();
        for level in self.levels() {
            let leaves = |entry: &Entry| Some((entry.place, self.verdict(entry, now)?));
            gone.extend(self.ready_in(level, now).map_while(leaves));
        }
        self.take_all(gone)
    }

    /// Drops what nobody has.
    pub(crate) fn purge(&mut self) -> u64 {
        let before = self.entries.len();
        self.entries.retain(|entry| !entry.waits());
        (before - self.entries.len()) as u64
    }

    /// Takes out a message that somebody has.
    pub(crate) fn settle(&mut self, place: Place) -> Entry {
        self.take(place)
    }

    /// A message that somebody has comes back.
    pub(crate) fn give_back(&mut self, place: Place) {
        let entry = self.entry(place);
        (entry.at, entry.flag, entry.fresh) = (At::Queue, Flag::Yes, false);
        entry.returns += 1;
    }

    /// A message of the queue.
    pub(crate) fn entry(&mut self, place: Place) -> &mut Entry {
        let entry = self.entries.iter_mut().find(|entry| entry.place == place);
        entry.expect("it is in its queue")
    }
}
