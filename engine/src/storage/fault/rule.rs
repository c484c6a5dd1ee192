//! Which calls fail, and how.

use std::collections::HashMap;
use std::io;

/// A call of a storage or of its files, as rules and counters know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`write_at`](crate::storage::StorageFile::write_at), durable or not.
    Write,
    /// [`sync`](crate::storage::StorageFile::sync). A durable write is not one.
    Sync,
    /// [`read_at`](crate::storage::StorageFile::read_at).
    Read,
    /// [`create`](crate::storage::Storage::create).
    Create,
    /// [`open`](crate::storage::Storage::open).
    Open,
    /// [`rename`](crate::storage::Storage::rename).
    Rename,
    /// [`remove`](crate::storage::Storage::remove).
    Remove,
    /// [`link`](crate::storage::Storage::link).
    Link,
    /// [`links`](crate::storage::Storage::links).
    Links,
    /// [`sync_directory`](crate::storage::Storage::sync_directory).
    SyncDirectory,
    /// [`allocate`](crate::storage::StorageFile::allocate).
    Allocate,
    /// [`list`](crate::storage::Storage::list).
    List,
    /// [`map`](crate::storage::StorageFile::map).
    Map,
    /// [`lock`](crate::storage::Storage::lock) and
    /// [`lock_read_only`](crate::storage::Storage::lock_read_only).
    Lock,
    /// [`free_bytes`](crate::storage::Storage::free_bytes).
    FreeBytes,
    /// Every one of them.
    Any,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It fails with an error of this kind, without any effect.
    Error(io::ErrorKind),
    /// It fails with this error number of the operating system, without any effect.
    Os(i32),
    /// It has its effect and then reports an error of this kind.
    ErrorAfter(io::ErrorKind),
    /// It writes at most so many bytes, rounded down to whole blocks of the file, and says how many:
    /// perhaps none. Concerns [`Call::Write`] alone.
    ShortWrite(usize),
    /// A signal interrupts it, and it is made again inside, as the traits promise: callers see
    /// nothing. The second attempt is counted too.
    EintrOnce,
}

impl Fault {
    /// The error to report.
    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Os(code) => io::Error::from_raw_os_error(code),
            Self::Error(kind) | Self::ErrorAfter(kind) => io::Error::new(kind, "injected fault"),
            Self::ShortWrite(_) => io::ErrorKind::WriteZero.into(),
            Self::EintrOnce => io::ErrorKind::Interrupted.into(),
        }
    }
}

/// How often a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Times {
    /// To one call; then the rule is gone.
    #[default]
    Once,
    /// To every call from then on.
    Forever,
}

/// One rule: which calls fail, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultRule {
    /// The call concerned.
    pub call: Call,
    /// If given, only for names with this in it. A file has the name it was opened under; a rename
    /// has both its names; a call without a name never matches.
    pub name_contains: Option<String>,
    /// How many matching calls pass first. Default 0.
    pub skip: u64,
    /// What happens to those that follow.
    pub error: Fault,
    /// How many of those. Default once.
    pub times: Times,
}

impl FaultRule {
    /// Makes a rule for the next `call`, once, whatever the name.
    pub fn new(call: Call, error: Fault) -> Self {
        Self { call, name_contains: None, skip: 0, error, times: Times::Once }
    }

    /// Restricts the rule to names with `part` in them.
    pub fn name_contains(self, part: impl Into<String>) -> Self {
        Self { name_contains: Some(part.into()), ..self }
    }

    /// Lets `calls` matching calls pass first.
    pub fn skip(self, calls: u64) -> Self {
        Self { skip: calls, ..self }
    }

    /// Makes the rule stay.
    pub fn forever(self) -> Self {
        Self { times: Times::Forever, ..self }
    }

    fn matches(&self, call: Call, names: &[&str]) -> bool {
        let of_call = self.call == Call::Any || self.call == call;
        let possible = call == Call::Write || !matches!(self.error, Fault::ShortWrite(_));
        let of_name = match &self.name_contains {
            Some(part) => names.iter().any(|name| name.contains(part.as_str())),
            None => true,
        };
        of_call && possible && of_name
    }
}

/// The rules in force, and what was called.
#[derive(Debug, Default)]
pub(super) struct Rules {
    list: Vec<FaultRule>,
    counts: HashMap<Call, u64>,
    faults: u64,
    last: Option<Call>,
}

impl Rules {
    pub(super) fn add(&mut self, rule: FaultRule) {
        self.list.push(rule);
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    pub(super) fn count(&self, call: Call) -> u64 {
        match call {
            Call::Any => self.counts.values().sum(),
            call => self.counts.get(&call).copied().unwrap_or(0),
        }
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults
    }

    pub(super) fn last(&self) -> Option<Call> {
        self.last
    }

    /// Counts a call, and returns what is to happen to it.
    pub(super) fn strike(&mut self, call: Call, names: &[&str]) -> Option<Fault> {
        *self.counts.entry(call).or_default() += 1;
        let due = self.list.iter_mut().position(|rule| {
            let matches = rule.matches(call, names);
            let passes = matches && rule.skip > 0;
            rule.skip -= u64::from(passes);
            matches && !passes
        })?;
        let fault = self.list[due].error;
        if self.list[due].times == Times::Once {
            self.list.remove(due);
        }
        self.faults += 1;
        self.last = Some(call);
        if fault == Fault::EintrOnce {
            *self.counts.entry(call).or_default() += 1;
        }
        Some(fault)
    }
}
