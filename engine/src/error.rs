//! What can go wrong, and where.
//!
//! One enum for the whole engine. Each variant carries what a person needs to act: file, byte,
//! expected and found. [`Error::kind`] is coarse: a kind exists only where a caller would act
//! differently. Errors are cheap to clone, because one failed sync is told to every waiter.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fanlog_segment_format::{DecodeError, Offset};

use crate::{Cancellation, Confirm};

/// A result with the engine's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name, size or setting is outside its limits; correct the call.
    Usage,
    /// The exchange, queue, consumer or delivery tag does not exist.
    NotFound,
    /// Another has it: a consumer, or whatever a delete on condition found. Try again when that is
    /// gone, or under another tag.
    InUse,
    /// The engine ended the consumer's subscription; subscribe anew.
    Cancelled,
    /// It exists with other properties.
    Mismatch,
    /// No queue is bound that would take the message; nothing was stored.
    Unroutable,
    /// A queue has no room for the message, and does not get it; publish again when consumers have
    /// made room.
    QueueFull,
    /// The message or batch is over its limit; nothing was stored.
    TooLarge,
    /// Buffers are full and the store was opened with `WhenFull::Fail`; try again.
    Full,
    /// The disk, or the limit set for the store, is full; publishing resumes when space is back.
    OutOfSpace,
    /// The time-out passed; the outcome is still open.
    Timeout,
    /// The engine, or the consumer, was closed.
    Closed,
    /// A write or sync failed; the store takes nothing more until it is opened again.
    Poisoned,
    /// Another process (or handle) has the store open.
    Locked,
    /// Bytes that were durable no longer decode.
    Corrupt,
    /// Written by a newer version; left untouched.
    UnsupportedVersion,
    /// The operating system refused a call.
    Io,
    /// The store is open for reading only.
    ReadOnly,
}

/// A call on a file, as named in [`Error::Io`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileOp {
    /// Opening an existing file.
    Open,
    /// Creating a file.
    Create,
    /// Reading bytes.
    Read,
    /// Writing bytes.
    Write,
    /// Making a file's bytes durable.
    Sync,
    /// Making a directory's names durable.
    SyncDirectory,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Reserving a file's blocks.
    Allocate,
    /// Mapping a file into memory.
    Map,
    /// Listing a directory.
    List,
    /// Asking how much space is free.
    Space,
    /// Taking the lock.
    Lock,
    /// Starting a thread.
    Spawn,
}

impl fmt::Display for FileOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Create => "create",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::SyncDirectory => "sync of the directory",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::Allocate => "allocation",
            Self::Map => "map",
            Self::List => "listing",
            Self::Space => "query of free space",
            Self::Lock => "lock",
            Self::Spawn => "start of a thread",
        })
    }
}

/// Everything that an engine call can fail with.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name is empty where it may not be, or too long.
    #[error("{what} name {name:?} is {found} bytes long, allowed are 1 to {limit}")]
    Name {
        /// `"exchange"`, `"queue"`, `"routing key"` or `"consumer tag"`.
        what: &'static str,
        /// The name as given, cut to 64 characters.
        name: String,
        /// Its length in bytes.
        found: usize,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// A call that the thing it names does not allow.
    #[error("{what}: {why}")]
    Refused {
        /// What was asked.
        what: String,
        /// Why it can't be.
        why: String,
    },
    /// A setting of [`Config`](crate::Config) is outside its range.
    #[error("setting {setting} is {found}, allowed is {allowed}")]
    Setting {
        /// The field's name.
        setting: &'static str,
        /// Its value.
        found: String,
        /// The allowed range.
        allowed: String,
    },
    /// The named thing does not exist.
    #[error("no {what} named {name:?}")]
    NotFound {
        /// `"exchange"`, `"queue"`, `"binding"`, `"publisher"`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A named publisher was forgotten, for others or for its age: whether a message of it is stored
    /// already is not known any more.
    #[error("publisher {name:?} was forgotten, and what it has published")]
    PublisherEvicted {
        /// Its name.
        name: String,
    },
    /// The delivery tag is not in the consumer's hands: never given, or settled before.
    #[error("consumer {consumer:?} holds no delivery with tag {tag}")]
    UnknownTag {
        /// The consumer's tag.
        consumer: String,
        /// The delivery tag.
        tag: u64,
    },
    /// The queue has a consumer of that tag; nothing was changed.
    #[error("queue {queue:?} has a consumer {tag:?} already")]
    TagInUse {
        /// The queue.
        queue: String,
        /// The consumer's tag.
        tag: String,
    },
    /// Another consumer is in the way; nothing was changed.
    #[error(
        "queue {queue:?} can't be consumed{}, {holder:?} does so{}",
        if *exclusive { "" } else { " exclusively" },
        if *exclusive { " exclusively" } else { "" }
    )]
    InUse {
        /// The queue.
        queue: String,
        /// The tag of a consumer that has it.
        holder: String,
        /// Whether that one is exclusive; else the one that was refused wanted to be.
        exclusive: bool,
    },
    /// The engine ended the subscription.
    #[error("consumer {consumer:?} of queue {queue:?} was cancelled with {unacked} unacked: {why}")]
    Cancelled {
        /// The consumer's tag.
        consumer: String,
        /// The queue.
        queue: String,
        /// Deliveries that it held then, fetched and not settled.
        unacked: u64,
        /// Why.
        why: Cancellation,
    },
    /// An argument of a declaration has the wrong type or is outside its range. Nothing was changed.
    #[error("argument {argument} is {found}, allowed is {allowed}")]
    Argument {
        /// Its name, as it is stored.
        argument: String,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: String,
    },
    /// It was declared before, with another argument.
    #[error("{what} {name:?} exists with {argument} = {existing}, asked for was {asked}")]
    Mismatch {
        /// `"exchange"` or `"queue"`.
        what: &'static str,
        /// Its name.
        name: String,
        /// The argument that differs.
        argument: String,
        /// The value it has.
        existing: String,
        /// The value asked for.
        asked: String,
    },
    /// A headers exchange has to look at the message's headers, and they are no valid
    /// [`Table`](crate::Table). Nothing was stored.
    #[error("the headers of the message are no valid table: {source}")]
    Headers {
        /// What is wrong with them, and where.
        source: DecodeError,
    },
    /// A header by which a sender chooses further routing keys is no array of texts. Nothing was stored.
    #[error("header {header:?} of the message is {found}: it has to be an array of texts")]
    HeaderType {
        /// `CC` or `BCC`.
        header: &'static str,
        /// Its value, or that of its elements that is none, shortened.
        found: String,
    },
    /// It was to be deleted only if nobody needs it, and somebody does. Nothing was changed.
    #[error("{what} {name:?} is still used: it has {by}")]
    StillUsed {
        /// `"exchange"` or `"queue"`.
        what: &'static str,
        /// Its name.
        name: String,
        /// `"bindings"`, `"consumers"` or `"messages"`.
        by: &'static str,
    },
    /// No queue is bound for this key; nothing was stored.
    #[error("exchange {exchange:?} has no queue for routing key {routing_key:?}")]
    Unroutable {
        /// The exchange published to.
        exchange: String,
        /// The routing key.
        routing_key: String,
    },
    /// Queues that refuse what they have no room for
    /// ([`Overflow::RejectPublish`](crate::Overflow::RejectPublish)) did not get the message.
    #[error(
        "no room in {queues:?}: {}",
        if stored.is_some() { "only other queues got it" } else { "no other queue got it" }
    )]
    QueueFull {
        /// Their names.
        queues: Vec<String>,
        /// The confirm of the message for all other queues; `None`: there were none, and it was not
        /// stored.
        stored: Option<Confirm>,
    },
    /// A date or a delay that no clock of 64 bits of microseconds reaches; nothing was stored.
    #[error("{what}: {asked:?} lead beyond the end of time, 584,542 years after 1970")]
    BeyondTime {
        /// `"due time"`.
        what: &'static str,
        /// The delay, or the date as time since 1970.
        asked: Duration,
    },
    /// Over a size limit; nothing was written.
    #[error("{what} has {found} bytes, the limit is {limit}")]
    TooLarge {
        /// `"message"`, `"batch"`, `"properties"`, `"headers"`.
        what: &'static str,
        /// Its bytes.
        found: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// `buffer_bytes_max` are appended and unconfirmed.
    #[error("{unconfirmed} bytes are unconfirmed, the limit is {limit}")]
    Full {
        /// Bytes appended and not yet confirmed.
        unconfirmed: usize,
        /// `buffer_bytes_max`.
        limit: usize,
    },
    /// No space for another segment; publishing resumes by itself when there is. A message, batch or
    /// transaction larger than `buffer_bytes_max` and than a segment gets it as well where there is no
    /// room for it beside what is kept for getting space back, and promised to others: nothing was
    /// accepted then. What was accepted has its room.
    #[error("no space for segment {segment}: {reason}")]
    OutOfSpace {
        /// The number of the segment that could not be prepared.
        segment: u64,
        /// The system's words.
        reason: String,
    },
    /// The time-out passed first. The publish, or ack, is in doubt; wait on it again.
    #[error("timed out; the outcome is still open")]
    Timeout,
    /// The engine or the consumer was closed.
    #[error("closed")]
    Closed,
    /// A write or sync failed earlier. Nothing more is accepted until the store is opened again.
    #[error("the store is poisoned by an earlier failure: {cause}")]
    Poisoned {
        /// The failure.
        cause: Arc<Error>,
    },
    /// Another process, or another handle of this one, holds the store.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The directory holds no store and `create` is off.
    #[error("{} holds no fanlog store", path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// Bytes that were durable no longer decode. Nothing on disk was changed.
    #[error("corrupt: {} at byte {position}: {source}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: u64,
        /// What was expected and found.
        source: DecodeError,
    },
    /// A file that must be there is not, or is not what it must be. Nothing on disk was changed.
    #[error("damaged store: {} at byte {position}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: u64,
        /// What is wrong.
        problem: String,
    },
    /// Written by a newer version of fanlog. Left untouched.
    #[error("{}: format version not supported: {source}", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The versions.
        source: DecodeError,
    },
    /// The operating system refused a call.
    #[error("{op} failed on {}: {source}", path.display())]
    Io {
        /// The call.
        op: FileOp,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The store was opened for reading only.
    #[error("the store is open for reading only")]
    ReadOnly,
    /// The log holds no further numbers of this kind.
    #[error("{what} numbers are used up")]
    Exhausted {
        /// What is numbered.
        what: &'static str,
    },
    /// The offset is past the end of what can be read.
    #[error("offset {offset} is not stored")]
    NotStored {
        /// The offset.
        offset: Offset,
    },
}

impl Error {
    pub(crate) fn io(op: FileOp, path: PathBuf, source: io::Error) -> Self {
        Self::Io { op, path, source: Arc::new(source) }
    }

    /// Turns a decoder's error into one that names the file: a newer version stays apart.
    pub(crate) fn decode(path: PathBuf, start: u64, source: DecodeError) -> Self {
        if source.is_version() {
            return Self::UnsupportedVersion { path, source };
        }
        Self::Corrupt { path, position: start + source.position(), source }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Name { .. }
            | Self::Setting { .. }
            | Self::Argument { .. }
            | Self::Headers { .. }
            | Self::HeaderType { .. }
            | Self::Refused { .. }
            | Self::BeyondTime { .. } => ErrorKind::Usage,
            Self::NotFound { .. }
            | Self::UnknownTag { .. }
            | Self::PublisherEvicted { .. }
            | Self::NoStore { .. }
            | Self::NotStored { .. } => ErrorKind::NotFound,
            Self::TagInUse { .. } | Self::InUse { .. } | Self::StillUsed { .. } => ErrorKind::InUse,
            Self::Cancelled { .. } => ErrorKind::Cancelled,
            Self::Mismatch { .. } => ErrorKind::Mismatch,
            Self::Unroutable { .. } => ErrorKind::Unroutable,
            Self::QueueFull { .. } => ErrorKind::QueueFull,
            Self::TooLarge { .. } | Self::Exhausted { .. } => ErrorKind::TooLarge,
            Self::Full { .. } => ErrorKind::Full,
            Self::OutOfSpace { .. } => ErrorKind::OutOfSpace,
            Self::Timeout => ErrorKind::Timeout,
            Self::Closed => ErrorKind::Closed,
            Self::Poisoned { .. } => ErrorKind::Poisoned,
            Self::Locked { .. } => ErrorKind::Locked,
            Self::Corrupt { .. } | Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::UnsupportedVersion { .. } => ErrorKind::UnsupportedVersion,
            Self::Io { .. } => ErrorKind::Io,
            Self::ReadOnly => ErrorKind::ReadOnly,
        }
    }

    /// The file that the error speaks of, where there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Locked { path }
            | Self::NoStore { path }
            | Self::Corrupt { path, .. }
            | Self::Damaged { path, .. }
            | Self::UnsupportedVersion { path, .. }
            | Self::Io { path, .. } => Some(path),
            Self::Poisoned { cause } => cause.path(),
            _ => None,
        }
    }

    /// The byte in that file, where that has a meaning.
    pub fn position(&self) -> Option<u64> {
        match self {
            Self::Corrupt { position, .. } | Self::Damaged { position, .. } => Some(*position),
            Self::Poisoned { cause } => cause.position(),
            _ => None,
        }
    }
}
