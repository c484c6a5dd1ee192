//! The peers: one adapter a file, all behind [`Peer`].
//!
//! An adapter uses its peer as the peer's documentation says, at the durability that is asked of
//! all: a publish is synced when it returns, an ack when [`Peer::sync_acks`] returns. One that can't
//! do that is listed with what it does instead ([`Kind::durable`]). Where a peer knows no consumers
//! the adapter gives each a cursor if the peer can store one, else a copy of every message.
//!
//! P1. A consumer gets every message once, in the order of publishing, also over a reopening.
//! P2. Nothing is kept in memory that the peer would not keep, but what an index of it needs.

use std::path::Path;

use anyhow::Result;

mod cursors;

mod commitlog;
mod fanlog;
mod fjall;
mod kafko;
mod lmdb;
mod mrecordlog;
mod okaywal;
mod persistent_queue;
mod queue_file;
mod raft_engine;
mod redb;
mod sqlite;
mod wal_db;
pub(crate) mod walrus;
mod yaque;

/// Sees the payload of each delivered message.
pub(crate) type Seen<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

/// An open store with one publisher and so many consumers.
pub(crate) trait Peer {
    /// Publishes messages to every consumer. On return they are synced, as far as the peer can.
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()>;

    /// Publishes without end, as many unconfirmed at a time as `window`, until `next` gives no more
    /// payloads; on return all are synced. By default batches of `window`.
    fn stream(&mut self, window: usize, next: &mut dyn FnMut(&mut Vec<u8>) -> bool) -> Result<()> {
        let mut payloads = vec![Vec::new(); window];
        loop {
            let mut filled = 0;
            while filled < window && next(&mut payloads[filled]) {
                filled += 1;
            }
            if filled == 0 {
                return Ok(());
            }
            let slices: Vec<&[u8]> = payloads[..filled].iter().map(Vec::as_slice).collect();
            self.publish(&slices)?;
        }
    }

    /// Gives consumer `consumer` its next messages, about `max` of them, shows them to `seen` and
    /// acks them. Returns how many there were. The acks may wait for [`Peer::sync_acks`].
    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize>;

    /// On return all acks are synced, as far as the peer can.
    fn sync_acks(&mut self) -> Result<()>;

    /// Waits for what opening left to the background, so that it is not measured with what follows.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Gives back the space of what all consumers have acked, by the means that the peer has.
    fn trim(&mut self) -> Result<()> {
        Ok(())
    }

    /// Closes the store.
    fn close(self: Box<Self>) -> Result<()>;
}

/// Opens the store in a directory, created if it is new, with so many consumers.
pub(crate) type Open = fn(&Path, usize) -> Result<Box<dyn Peer>>;

/// What is to be known of a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// Name in options, tables and reports.
    pub(crate) name: &'static str,
    /// Package whose version is shown; the lock file has it.
    pub(crate) package: &'static str,
    /// What a publish is when it returns: "synced", or what it is instead.
    pub(crate) durable: &'static str,
    /// What a consumer has of its own: "queue", "cursor" or "copy".
    pub(crate) consumer: &'static str,
    /// Most messages that it takes in one call, where a batch is no more than a loop: such a peer
    /// is left out of larger batches.
    pub(crate) batch_max: usize,
    /// Whether it takes part only where disk and opening are looked at: the same engine as another.
    pub(crate) variant: bool,
    /// Whether what is published after a reopening reaches consumers that were up to date before.
    pub(crate) goes_on: bool,
    /// How to open it.
    pub(crate) open: Open,
}

/// A publish that returned is on the disk.
const SYNCED: &str = "synced";
/// It is where a power cut takes it, whatever was asked for.
const NOT_SYNCED: &str = "NOT synced";

/// Every peer of this build; fanlog is the first.
pub(crate) const ALL: &[Kind] = &[
    kind("fanlog", "fanlog", SYNCED, "queue", fanlog::open),
    Kind { variant: true, ..kind("fanlog-small", "fanlog", SYNCED, "queue", fanlog::open_small) },
    kind("fjall", "fjall", SYNCED, "cursor", fjall::open),
    kind("redb", "redb", SYNCED, "cursor", redb::open),
    kind("sqlite", "rusqlite", SYNCED, "cursor", sqlite::open),
    kind("lmdb", "heed", SYNCED, "cursor", lmdb::open),
    kind("raft-engine", "raft-engine", SYNCED, "cursor", raft_engine::open),
    kind("okaywal", "okaywal", SYNCED, "cursor", okaywal::open),
    kind("wal-db", "wal-db", SYNCED, "cursor", wal_db::open),
    Kind { goes_on: false, ..kind("walrus", "walrus-rust", SYNCED, "copy", walrus::open) },
    kind("kafko", "kafko", "synced by hand", "cursor", kafko::open),
    kind("queue-file", "queue-file", SYNCED, "copy", queue_file::open),
    Kind {
        batch_max: 1,
        ..kind("persistent-queue", "persistent-queue", SYNCED, "copy", persistent_queue::open)
    },
    kind("mrecordlog", "mrecordlog", NOT_SYNCED, "copy", mrecordlog::open),
    kind("commitlog", "commitlog", NOT_SYNCED, "cursor", commitlog::open),
    kind("yaque", "yaque", NOT_SYNCED, "copy", yaque::open),
];

const fn kind(
    name: &'static str,
    package: &'static str,
    durable: &'static str,
    consumer: &'static str,
    open: Open,
) -> Kind {
    Kind {
        name,
        package,
        durable,
        consumer,
        batch_max: usize::MAX,
        variant: false,
        goes_on: true,
        open,
    }
}

impl Kind {
    /// The peer of that name.
    pub(crate) fn named(name: &str) -> Result<&'static Kind> {
        let found = ALL.iter().find(|kind| kind.name == name);
        found.ok_or_else(|| anyhow::anyhow!("there is no peer {name} in this build"))
    }

    /// Whether a publish that returned survives a power cut.
    pub(crate) fn syncs(&self) -> bool {
        self.durable != NOT_SYNCED
    }

    /// Its version, as the lock file has it.
    pub(crate) fn version(&self) -> &'static str {
        let lock = include_str!("../../Cargo.lock");
        let mut lines = lock.lines();
        let name = format!("name = \"{}\"", self.package);
        lines.find(|line| *line == name);
        let line = lines.next().unwrap_or_default();
        line.strip_prefix("version = \"").map_or("unknown", |rest| rest.trim_end_matches('"'))
    }
}
