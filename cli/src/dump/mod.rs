//! `fanlog dump`: every structure of a store's files, for people and for programs.

mod checkpoint;
mod file;
mod item;
mod record;
mod segment;

use std::path::PathBuf;

use clap::Args;
use fanlog::{
    Error,
    storage::{LockError, RealStorage, Storage},
};
use fanlog_segment_format::{Checkpoint, DecodeError, FileName, SegmentId, StoreId};

use self::{
    file::File,
    item::Item,
    segment::{Segment, Shown, store_of},
};
use crate::{
    failure::{Failure, Status},
    output::Output,
};

/// Show what stands in the files of a store: checkpoints, headers, batches, records, footers.
///
/// Reads the files as they are, without recovery, and writes nothing. Each structure is a line: the
/// byte at which it starts, what it is, its fields; with --json an object. What is damaged is named
/// on standard error and in its place, and the dump goes on behind it; it then ends with status 3.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct DumpCommand {
    /// Directory of the store
    pub(crate) dir: PathBuf,
    /// Only the segment of this number, and no checkpoint
    #[arg(long, value_name = "N", conflicts_with = "checkpoint")]
    segment: Option<u64>,
    /// Only records: messages and control records
    #[arg(long, group = "what")]
    records: bool,
    /// Only headers of segments and batches, and footers
    #[arg(long, group = "what")]
    batches: bool,
    /// Only checkpoints
    #[arg(long, group = "what")]
    checkpoint: bool,
    /// Show payloads and lists whole, instead of their first 64 bytes or 16 entries
    #[arg(long)]
    payload: bool,
    /// Print each structure as a JSON object on a line of its own
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  fanlog dump orders
  fanlog dump orders --checkpoint
  fanlog dump orders --segment 42 --batches
  fanlog dump orders --records --payload --json";

impl DumpCommand {
    pub(crate) fn run(&self) -> Result<Status, Failure> {
        let storage =
            RealStorage::open_read_only(&self.dir).map_err(|error| self.failed(&error))?;
        let lock = FileName::Lock.to_string();
        let _lock = match storage.lock_read_only(&lock) {
            Ok(lock) => lock,
            Err(LockError::Held) => {
                return Err(Error::Locked { path: storage.path(&lock) }.into());
            }
            Err(LockError::Io(error)) => return Err(self.failed(&error)),
        };
        let files = Files::list(&storage).map_err(|error| self.failed(&error))?;
        if files.checkpoints.is_empty() && files.segments.is_empty() {
            return Err(Error::NoStore { path: self.dir.clone() }.into());
        }
        let mut dump = Dump {
            storage: &storage,
            output: Output::new(),
            json: self.json,
            whole: self.payload,
            status: Status::Fine,
            file: String::new(),
        };
        self.dump(&files, &mut dump)?;
        dump.output.flush()?;
        Ok(dump.status)
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        if error.kind() == std::io::ErrorKind::NotFound {
            return Error::NoStore { path: self.dir.clone() }.into();
        }
        Failure::io(&self.dir.to_string_lossy(), error)
    }

    fn dump(&self, files: &Files, dump: &mut Dump<'_>) -> Result<(), Failure> {
        if self.segment.is_none() && !self.batches && !self.records {
            for name in &files.checkpoints {
                dump.checkpoint(name)?;
            }
        }
        if self.checkpoint {
            return Ok(());
        }
        let wanted = |id: SegmentId| self.segment.is_none_or(|number| number == id.0);
        let mut segments = files.segments.iter().filter(|(id, _, _)| wanted(*id)).peekable();
        if let (None, Some(number)) = (segments.peek(), self.segment) {
            return Err(Failure::usage(format!("there is no segment {number}")));
        }
        let store = files.store(dump.storage);
        let shown = match (self.batches, self.records) {
            (true, _) => Shown::Batches,
            (_, true) => Shown::Records,
            _ => Shown::All,
        };
        for (id, _, name) in segments {
            let Some(file) = dump.open(name)? else { continue };
            Segment::new(file, *id, store, shown).dump(dump)?;
        }
        Ok(())
    }
}

/// Names of the files that are part of the store, in order.
struct Files {
    checkpoints: Vec<String>,
    segments: Vec<(SegmentId, u32, String)>,
}

impl Files {
    fn list(storage: &dyn Storage) -> std::io::Result<Self> {
        let (mut checkpoints, mut segments) = (Vec::new(), Vec::new());
        for entry in storage.list()?.into_iter().filter(|entry| entry.is_file) {
            match FileName::parse(&entry.name) {
                Some(FileName::Checkpoint(number)) => checkpoints.push((number, entry.name)),
                Some(FileName::Segment(id)) => segments.push((id, 0, entry.name)),
                Some(FileName::Rewritten(id, generation)) => {
                    segments.push((id, generation, entry.name));
                }
                _ => {}
            }
        }
        checkpoints.sort_unstable();
        segments.sort_unstable();
        Ok(Self { checkpoints: checkpoints.into_iter().map(|(_, name)| name).collect(), segments })
    }

    /// The store that the segments belong to, by the first of them that says.
    fn store(&self, storage: &dyn Storage) -> Option<StoreId> {
        self.segments
            .iter()
            .find_map(|(_, _, name)| File::open(storage, name).ok().as_mut().and_then(store_of))
    }
}

/// A dump under way.
struct Dump<'a> {
    storage: &'a dyn Storage,
    output: Output,
    json: bool,
    /// Payloads and lists are shown whole.
    whole: bool,
    status: Status,
    /// The file that was named last.
    file: String,
}

impl Dump<'_> {
    /// Opens a file; one that can't be opened is told of.
    fn open<'n>(&mut self, name: &'n str) -> Result<Option<File<'n>>, Failure> {
        match File::open(self.storage, name) {
            Ok(file) => Ok(Some(file)),
            Err(error) => {
                self.tell(name, 0, None, &error.to_string(), false)?;
                Ok(None)
            }
        }
    }

    fn checkpoint(&mut self, name: &str) -> Result<(), Failure> {
        let Some(file) = self.open(name)? else { return Ok(()) };
        let length = usize::try_from(file.bytes).unwrap_or(usize::MAX);
        let bytes = match file.read(0, length) {
            Ok(bytes) => bytes,
            Err(error) => return self.damaged(&file, 0, Some(file.bytes), &error.to_string()),
        };
        let checkpoint = match Checkpoint::decode(&bytes) {
            Ok(checkpoint) => checkpoint,
            Err(error) => return self.undecoded(&file, 0, Some(file.bytes), &error),
        };
        drop(bytes);
        for item in checkpoint::items(&checkpoint, self.whole) {
            self.item(&file, &item)?;
        }
        Ok(())
    }

    /// Shows a structure, under the name of its file.
    fn item(&mut self, file: &File<'_>, item: &Item) -> Result<(), Failure> {
        self.named(file.name)?;
        item.print(file.name, self.json, &mut self.output)
    }

    fn named(&mut self, name: &str) -> Result<(), Failure> {
        if self.json || self.file == name {
            return Ok(());
        }
        name.clone_into(&mut self.file);
        self.output.line(&format!("{name}:"))
    }

    /// Names what could not be read as what it should be.
    fn damaged(
        &mut self,
        file: &File<'_>,
        position: u64,
        bytes: Option<u64>,
        text: &str,
    ) -> Result<(), Failure> {
        self.tell(file.name, position, bytes, text, false)
    }

    /// The same; what a newer version wrote is not damage.
    fn undecoded(
        &mut self,
        file: &File<'_>,
        position: u64,
        bytes: Option<u64>,
        error: &DecodeError,
    ) -> Result<(), Failure> {
        self.tell(file.name, position, bytes, &error.to_string(), error.is_version())
    }

    fn tell(
        &mut self,
        name: &str,
        position: u64,
        bytes: Option<u64>,
        text: &str,
        newer: bool,
    ) -> Result<(), Failure> {
        let path = self.storage.path(name);
        let (what, failure) = if newer {
            ("unsupported", Failure::unsupported(&path, text))
        } else {
            ("damaged", Failure::damaged(&path, position, text))
        };
        // Damage counts for more than what is only newer.
        if self.status != Status::Damaged {
            self.status = failure.status();
        }
        let item = Item::new(what, position).with_some("bytes", bytes).with("text", text);
        self.named(name)?;
        item.print(name, self.json, &mut self.output)?;
        failure.tell(&path);
        Ok(())
    }
}
