//! A sealed segment, mapped: its footer used in place, its batches checked when first read.

use std::{
    ops::Range,
    path::{Path, PathBuf},
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

use super::{
    gather::{Known, rebuild_footer},
    segment::Segment,
    view::Damage,
};
use crate::{
    Error, Result,
    check::Problem,
    error::FileOp,
    storage::{Access, AlignedBuffer, Map, Purpose, Storage},
};

const UNREAD: u8 = 0;
const GOOD: u8 = 1;
const BAD: u8 = 2;

/// Where a footer's bytes are.
#[derive(Debug)]
enum FooterBytes {
    /// In the file.
    Mapped(Range<usize>),
    /// In memory, made from the batches: what was wrong with those in the file.
    Rebuilt(Box<[u8]>, Error),
}

/// A map of a sealed segment. While one is alive its file is neither written nor truncated.
#[derive(Debug)]
pub(crate) struct SealedReader {
    pub(crate) segment: Arc<Segment>,
    path: PathBuf,
    map: Map,
    layout: FooterLayout,
    footer: FooterBytes,
    /// Per batch: not looked at yet, checksum right, checksum wrong.
    checked: Box<[AtomicU8]>,
}

impl SealedReader {
    /// Maps the file and checks its footer. One that is damaged is made anew from the batches, in
    /// memory, if they are all there: no message is left out.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file can't be mapped or read, [`Error::Corrupt`] if the footer is damaged
    /// and something else as well.
    pub(crate) fn open(storage: &dyn Storage, segment: Arc<Segment>) -> Result<Self> {
        let path = storage.path(&segment.name);
        let map = if let Some(bytes) = segment.in_memory() {
            let mut copy = AlignedBuffer::zeroed(bytes.len());
            copy.copy_from_slice(bytes);
            Map::of_copy(copy)
        } else {
            storage
                .open(&segment.name, Access::Read, Purpose::Plain)
                .and_then(|file| file.map())
                .map_err(|source| Error::io(FileOp::Map, path.clone(), source))?
        };
        let (layout, footer) = match find_footer(&map, &segment, &path) {
            Ok((layout, range)) => (layout, FooterBytes::Mapped(range)),
            Err(error) => {
                let (layout, bytes) = rebuild(&map, &segment, &path, &error)?;
                (layout, FooterBytes::Rebuilt(bytes, error))
            }
        };
        let batches = layout.view(footer.of(&map)).batches();
        let checked = (0..batches).map(|_| AtomicU8::new(UNREAD)).collect();
        Ok(Self { segment, path, map, layout, footer, checked })
    }

    /// What is wrong with the footer in the file, if it had to be made anew.
    pub(crate) fn footer_damage(&self) -> Option<&Error> {
        match &self.footer {
            FooterBytes::Mapped(_) => None,
            FooterBytes::Rebuilt(_, error) => Some(error),
        }
    }

    /// Reads all of the segment; the first thing that is wrong with it.
    pub(crate) fn damage(&self) -> Option<Error> {
        let path = || self.path.clone();
        let of_batch = |problem: Problem| {
            let Problem { position, text, .. } = problem;
            Error::Damaged { path: path(), position, problem: text }
        };
        let of_message = |number| {
            let Damage { offset, position, .. } = self.message(number).err()?;
            let problem = format!("message {offset} is damaged");
            Some(Error::Damaged { path: path(), position, problem })
        };
        self.footer_damage()
            .cloned()
            .or_else(|| self.check_batches().into_iter().next().map(of_batch))
            .or_else(|| (0..self.footer().messages()).find_map(of_message))
    }

    /// The footer, in place.
    pub(crate) fn footer(&self) -> Footer<'_> {
        self.layout.view(self.footer.of(&self.map))
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
            _ => Err(self.damage_of(number)),
        }
    }

    /// Says of message `number` that it is damaged.
    pub(crate) fn damage_of(&self, number: u32) -> Damage {
        let footer = self.footer();
        let position = u64::from(footer.position_of(number));
        Damage { offset: footer.offset_of(number), path: self.path.clone(), position }
    }

    /// Reads a batch as a whole, so that its records are at hand, and checks it.
    pub(crate) fn read_ahead(&self, batch: u32) {
        self.batch_is_good(&self.footer(), batch);
    }

    /// The bytes of message `number`'s record, not checked and without padding; `None` where they
    /// can't be read, or can't be a record of their batch.
    pub(crate) fn record_bytes(&self, number: u32) -> Option<&[u8]> {
        let footer = self.footer();
        let start = footer.position_of(number) as usize;
        let at = footer.batch_of_position(footer.position_of(number));
        let batch = footer.batch(at);
        let end = (batch.position + batch.total_bytes) as usize;
        if self.checked[at as usize].load(Ordering::Acquire) == GOOD {
            let bytes = self.map.get(start..end)?;
            return bytes.get(..RecordHead::peek(bytes).ok()?.length as usize);
        }
        let head = start..end.min(start + BLOCK_BYTES);
        // Populated before it is touched: a page that the disk can't deliver is an error here.
        self.map.populate(head.clone()).ok()?;
        let length = RecordHead::peek(self.map.get(start..end)?).ok()?.length as usize;
        if start + length > head.end {
            self.map.populate(start..start + length).ok()?;
        }
        self.map.get(start..start + length)
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

impl FooterBytes {
    fn of<'a>(&'a self, map: &'a Map) -> &'a [u8] {
        match self {
            Self::Mapped(range) => &map[range.clone()],
            Self::Rebuilt(bytes, _) => bytes,
        }
    }
}

/// The footer that stands in the file.
fn find_footer(map: &Map, segment: &Segment, path: &Path) -> Result<(FooterLayout, Range<usize>)> {
    let header = &segment.header;
    let unreadable = |source| Error::io(FileOp::Read, path.to_owned(), source);
    let last = map.len().saturating_sub(BLOCK_BYTES);
    map.populate(last..map.len()).map_err(unreadable)?;
    let range = Footer::locate(&map[last..], map.len() as u64, header.store, header.segment)
        .map_err(|source| Error::decode(path.to_owned(), last as u64, source))?;
    let footer = to_usize(range.start)..to_usize(range.end);
    map.populate(footer.clone()).map_err(unreadable)?;
    let layout = Footer::parse(&map[footer.clone()], header)
        .map_err(|source| Error::decode(path.to_owned(), range.start, source))?;
    let found = layout.view(&map[footer.clone()]).end_offset();
    match segment.end_offset() {
        Some(end) if end != found => {
            let problem = format!("its footer ends at offset {found}, the segment at {end}");
            Err(Error::Damaged { path: path.to_owned(), position: range.start, problem })
        }
        _ => Ok((layout, footer)),
    }
}

/// A footer from the batches, in place of one that is damaged; `error` if they are not all there.
fn rebuild(
    map: &Map,
    segment: &Segment,
    path: &Path,
    error: &Error,
) -> Result<(FooterLayout, Box<[u8]>)> {
    let header = segment.header;
    let file_bytes = map.len() as u64;
    let end_offset = segment.end_offset();
    let known = Known { header, end_offset, end_batch: None, file_bytes };
    let bytes = |range: Range<usize>| map.populate(range.clone()).ok().map(|()| &map[range]);
    let rebuilt = rebuild_footer(&bytes, &known)
        .map_err(|newer| Error::decode(path.to_owned(), newer.0, newer.1))?;
    let bytes = rebuilt.ok_or_else(|| error.clone())?.into_boxed_slice();
    let layout = Footer::parse(&bytes, &header).map_err(|_| error.clone())?;
    Ok((layout, bytes))
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("a map's length fits usize")
}
