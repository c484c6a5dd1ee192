//! A sealed segment, mapped: its footer used in place, its batches checked when first read.

use std::{
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use fanlog_segment_format::{
    batch::open_batch,
    footer::{Footer, FooterLayout},
    layout::{BLOCK_BYTES, MESSAGE_HEAD_BYTES},
    record::{MessageRecord, RecordHead},
};

use super::{segment::Segment, view::Damage};
use crate::{
    Error, Result,
    check::Problem,
    error::FileOp,
    storage::{Access, Map, Purpose, Storage},
};

const UNREAD: u8 = 0;
const GOOD: u8 = 1;
const BAD: u8 = 2;

/// A map of a sealed segment. While one is alive its file is neither written nor truncated.
#[derive(Debug)]
pub(crate) struct SealedReader {
    pub(crate) segment: Arc<Segment>,
    path: PathBuf,
    map: Map,
    layout: FooterLayout,
    footer: Range<usize>,
    /// Per batch: not looked at yet, checksum right, checksum wrong.
    checked: Box<[AtomicU8]>,
}

impl SealedReader {
    /// Maps the file and checks its footer.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file can't be mapped or read, [`Error::Corrupt`] if the footer is.
    pub(crate) fn open(storage: &dyn Storage, segment: Arc<Segment>) -> Result<Self> {
        let path = storage.path(&segment.name);
        let failed = |op| {
            let path = path.clone();
            move |source| Error::io(op, path, source)
        };
        let map = storage
            .open(&segment.name, Access::Read, Purpose::Plain)
            .and_then(|file| file.map())
            .map_err(failed(FileOp::Map))?;
        let header = segment.header;
        let last = map.len().saturating_sub(BLOCK_BYTES);
        map.populate(last..map.len()).map_err(failed(FileOp::Read))?;
        let file_bytes = map.len() as u64;
        let range = Footer::locate(&map[last..], file_bytes, header.store, header.segment)
            .map_err(|source| Error::decode(path.clone(), last as u64, source))?;
        let footer = to_usize(range.start)..to_usize(range.end);
        map.populate(footer.clone()).map_err(failed(FileOp::Read))?;
        let layout = Footer::parse(&map[footer.clone()], &header)
            .map_err(|source| Error::decode(path.clone(), range.start, source))?;
        let batches = layout.view(&map[footer.clone()]).batches();
        let checked = (0..batches).map(|_| AtomicU8::new(UNREAD)).collect();
        Ok(Self { segment, path, map, layout, footer, checked })
    }

    /// The footer, in place.
    pub(crate) fn footer(&self) -> Footer<'_> {
        self.layout.view(&self.map[self.footer.clone()])
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The record of message `number`, checked.
    ///
    /// # Errors
    ///
    /// What is damaged, and where: this message alone, if the record's own checksum tells so.
    pub(crate) fn message(&self, number: u32) -> Result<MessageRecord<'_>, Damage> {
        let footer = self.footer();
        let position = footer.position_of(number) as usize;
        let offset = footer.offset_of(number);
        let at = footer.batch_of_position(footer.position_of(number));
        let decoded = if self.batch_is_good(&footer, at) {
            MessageRecord::decode(&self.map[position..]).ok().map(|(record, _)| record)
        } else {
            self.salvage(position)
        };
        match decoded {
            Some(record) if record.offset == offset => Ok(record),
            _ => Err(Damage { offset, path: self.path.clone(), position: position as u64 }),
        }
    }

    /// A record of a batch whose checksum is wrong: good if its own is right.
    fn salvage(&self, position: usize) -> Option<MessageRecord<'_>> {
        // Populated before it is touched: the batch may be bad because a page can't be read.
        let head = position..position.checked_add(MESSAGE_HEAD_BYTES)?;
        self.map.populate(head).ok()?;
        let bytes = self.map.get(position..)?;
        let head = RecordHead::peek(bytes).ok()?;
        let record = bytes.get(..head.padded as usize)?;
        self.map.populate(position..position + record.len()).ok()?;
        super::batch::salvage(record, self.segment.header.store)
    }

    /// Checks every batch; what is wrong with each.
    pub(crate) fn check_batches(&self) -> Vec<Problem> {
        let footer = self.footer();
        let header = &self.segment.header;
        let mut problems = Vec::new();
        for at in 0..footer.batches() {
            let batch = footer.batch(at);
            let position = u64::from(batch.position);
            let range = batch.position as usize..(batch.position + batch.total_bytes) as usize;
            let checked = match self.map.populate(range.clone()) {
                Ok(()) => open_batch(&self.map[range], header.store, header.segment, position)
                    .err()
                    .map(|error| error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(text) = checked {
                problems.push(Problem { path: self.path.clone(), position, text });
            }
        }
        problems
    }

    /// Whether a batch's checksum is right: found out the first time that it is read.
    fn batch_is_good(&self, footer: &Footer<'_>, at: u32) -> bool {
        let state = &self.checked[at as usize];
        match state.load(Ordering::Acquire) {
            GOOD => return true,
            BAD => return false,
            _ => {}
        }
        let batch = footer.batch(at);
        let range = batch.position as usize..(batch.position + batch.total_bytes) as usize;
        let header = &self.segment.header;
        let position = u64::from(batch.position);
        // Populated first: a page that the disk can't deliver is an error here, not a SIGBUS.
        let good = self.map.populate(range.clone()).is_ok()
            && open_batch(&self.map[range], header.store, header.segment, position).is_ok();
        state.store(if good { GOOD } else { BAD }, Ordering::Release);
        good
    }
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("a map's length fits usize")
}
