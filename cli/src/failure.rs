//! How a command fails: exit statuses and the one line on standard error.
//!
//! Owns the table from the engine's error kinds to words and exit statuses.

use std::{
    error::Error as _,
    fmt::Write as _,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use fanlog::ErrorKind;

use crate::output::one_line;

/// Exit status of the process, the same for every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Fine = 0,
    Usage = 2,
    Damaged = 3,
    OpenElsewhere = 4,
    InputOutput = 5,
    Version = 6,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// Why a command could not do what it was asked to.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// Whoever read our standard output has gone; there is nobody to tell.
    ReaderGone,
    /// Told as `error: <kind>: <file>: offset <n>: <text>`.
    Told(Box<Told>),
}

/// The parts of the error line.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    kind: &'static str,
    status: Status,
    path: Option<PathBuf>,
    position: Option<u64>,
    text: String,
}

impl Failure {
    /// Arguments that make no sense together, or with this store.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new("usage", Status::Usage, None, None, text.into())
    }

    /// Bytes at `position` of `path` that no longer read as they were written.
    pub(crate) fn damaged(path: &Path, position: u64, text: impl Into<String>) -> Self {
        let path = Some(path.to_path_buf());
        Self::new("corrupt", Status::Damaged, path, Some(position), text.into())
    }

    /// Bytes of `path` that a newer version of the format wrote.
    pub(crate) fn unsupported(path: &Path, text: impl Into<String>) -> Self {
        let path = Some(path.to_path_buf());
        Self::new("unsupported-version", Status::Version, path, None, text.into())
    }

    /// Something did not happen within its time.
    pub(crate) fn timeout(text: impl Into<String>) -> Self {
        Self::new("timeout", Status::InputOutput, None, None, text.into())
    }

    /// Reading or writing `place` (a standard stream, or something of the system) failed.
    pub(crate) fn io(place: &str, error: &io::Error) -> Self {
        let path = Some(PathBuf::from(place));
        Self::new("io", Status::InputOutput, path, None, error.to_string())
    }

    /// Writing to standard output failed: quietly when the reader has gone.
    pub(crate) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::ReaderGone
        } else {
            Self::io("standard output", error)
        }
    }

    fn new(
        kind: &'static str,
        status: Status,
        path: Option<PathBuf>,
        position: Option<u64>,
        text: String,
    ) -> Self {
        Self::Told(Box::new(Told { kind, status, path, position, text }))
    }

    /// Puts `context` in front of the text, as in `line 7: message too large`.
    pub(crate) fn context(mut self, context: &str) -> Self {
        if let Self::Told(told) = &mut self {
            told.text = format!("{context}: {}", told.text);
        }
        self
    }

    pub(crate) fn status(&self) -> Status {
        match self {
            Self::ReaderGone => Status::InputOutput,
            Self::Told(told) => told.status,
        }
    }

    /// The word for its kind, and its text.
    pub(crate) fn kind_and_text(&self) -> (&'static str, &str) {
        match self {
            Self::ReaderGone => ("io", "the reader of standard output has gone"),
            Self::Told(told) => (told.kind, &told.text),
        }
    }

    /// Whether the store is open in another process.
    pub(crate) fn is_open_elsewhere(&self) -> bool {
        self.status() == Status::OpenElsewhere
    }

    /// Prints the line on standard error; `dir` stands in for the file where there is none.
    pub(crate) fn tell(&self, dir: &Path) {
        let Self::Told(told) = self else { return };
        let line = format!("{}\n", told.line(dir));
        // Nobody is left to be told that standard error cannot be written.
        drop(io::stderr().lock().write_all(line.as_bytes()));
    }
}

impl Told {
    fn line(&self, dir: &Path) -> String {
        let path = self.path.as_deref().unwrap_or(dir).to_string_lossy();
        let mut line = format!("error: {}: {}: ", self.kind, one_line(&path));
        if let Some(position) = self.position {
            write!(line, "offset {position}: ").expect("a String takes every write");
        }
        line.push_str(&one_line(&self.text));
        line
    }
}

impl From<fanlog::Error> for Failure {
    fn from(error: fanlog::Error) -> Self {
        let (kind, status) = describe(error.kind());
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Self::new(kind, status, error.path().map(Path::to_path_buf), error.position(), text)
    }
}

fn describe(kind: ErrorKind) -> (&'static str, Status) {
    match kind {
        ErrorKind::Usage => ("usage", Status::Usage),
        ErrorKind::NotFound => ("not-found", Status::Usage),
        ErrorKind::Mismatch => ("mismatch", Status::Usage),
        ErrorKind::InUse => ("in-use", Status::OpenElsewhere),
        ErrorKind::Cancelled => ("cancelled", Status::InputOutput),
        ErrorKind::Unroutable => ("unroutable", Status::Usage),
        ErrorKind::Corrupt => ("corrupt", Status::Damaged),
        ErrorKind::Locked => ("locked", Status::OpenElsewhere),
        ErrorKind::UnsupportedVersion => ("unsupported-version", Status::Version),
        ErrorKind::TooLarge => ("too-large", Status::InputOutput),
        ErrorKind::Full => ("full", Status::InputOutput),
        ErrorKind::QueueFull => ("queue-full", Status::InputOutput),
        ErrorKind::Timeout => ("timeout", Status::InputOutput),
        ErrorKind::Closed => ("closed", Status::InputOutput),
        ErrorKind::Poisoned => ("poisoned", Status::InputOutput),
        ErrorKind::ReadOnly => ("read-only", Status::InputOutput),
        ErrorKind::OutOfSpace => ("out-of-space", Status::InputOutput),
        ErrorKind::Io => ("io", Status::InputOutput),
        _ => ("other", Status::InputOutput),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_kind_file_and_offset_and_stays_one_line() {
        let failure = Failure::damaged(Path::new("s/1.seg"), 4096, "bad\nchecksum");
        let Failure::Told(told) = failure else { panic!("told") };
        assert_eq!(
            told.line(Path::new("s")),
            "error: corrupt: s/1.seg: offset 4096: bad\\nchecksum"
        );
    }

    #[test]
    fn the_store_stands_in_for_a_missing_file() {
        let Failure::Told(told) = Failure::usage("why").context("line 2") else { panic!("told") };
        assert_eq!(told.line(Path::new("s")), "error: usage: s: line 2: why");
    }

    #[test]
    fn a_broken_pipe_is_told_to_nobody() {
        let gone = Failure::output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(gone, Failure::ReaderGone));
        let full = Failure::output(&io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.status(), Status::InputOutput);
    }
}
