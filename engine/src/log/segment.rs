//! One segment of the log, as the engine knows it while the store is open.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use fanlog_segment_format::{
    BatchNumber, LogPosition, Offset, SegmentId, file_name::FileName, footer::FooterBuilder,
    header::SegmentHeader, layout::SEGMENT_HEADER_BYTES,
};

use super::{index::BatchIndex, sealed::SealedReader};
use crate::storage::StorageFile;

const OPEN_END: u64 = u64::MAX;

fn name_of(header: &SegmentHeader) -> String {
    FileName::of_segment(header.segment, header.generation).to_string()
}

/// A segment: where it lies, which offsets it holds, and, until it has a footer, its index.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) name: String,
    /// The file, held open while batches may still be written to, or read back from, it.
    file: Mutex<Option<Arc<dyn StorageFile>>>,
    /// One past its last offset; `OPEN_END` while it is the active segment. Set once by the
    /// committer.
    end_offset: AtomicU64,
    /// One past its last batch, in bytes. Grows; written by the committer alone.
    log_end: AtomicU64,
    /// Number and checksum of its last batch, for the footer.
    last_batch: AtomicU64,
    last_checksum: AtomicU32,
    /// Index of its batches, in order. Taken away once the footer is on disk.
    batches: RwLock<Vec<Arc<BatchIndex>>>,
    sealed: AtomicBool,
    /// Its bytes, where it is not in a file: salvaged in a store that is only read.
    in_memory: OnceLock<Vec<u8>>,
    /// The map that readers share, while one is alive anywhere: the guard on the file.
    pub(crate) reader: Mutex<Weak<SealedReader>>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({}, {}..)", self.header.segment, self.header.first_offset)
    }
}

impl Segment {
    /// A segment without batches, yet.
    pub(crate) fn open(header: SegmentHeader, file: Arc<dyn StorageFile>) -> Self {
        Self {
            name: name_of(&header),
            file: Mutex::new(Some(file)),
            end_offset: AtomicU64::new(OPEN_END),
            log_end: AtomicU64::new(SEGMENT_HEADER_BYTES as u64),
            last_batch: AtomicU64::new(0),
            last_checksum: AtomicU32::new(header.previous),
            batches: RwLock::new(Vec::new()),
            sealed: AtomicBool::new(false),
            in_memory: OnceLock::new(),
            reader: Mutex::new(Weak::new()),
            header,
        }
    }

    /// A sealed segment, as a checkpoint or its footer describes it.
    pub(crate) fn sealed(header: SegmentHeader, end_offset: Offset, log_end: u64) -> Self {
        Self {
            name: name_of(&header),
            file: Mutex::new(None),
            end_offset: AtomicU64::new(end_offset.0),
            log_end: AtomicU64::new(log_end),
            last_batch: AtomicU64::new(0),
            last_checksum: AtomicU32::new(0),
            batches: RwLock::new(Vec::new()),
            sealed: AtomicBool::new(true),
            in_memory: OnceLock::new(),
            reader: Mutex::new(Weak::new()),
            header,
        }
    }

    pub(crate) fn id(&self) -> SegmentId {
        self.header.segment
    }

    pub(crate) fn first_offset(&self) -> Offset {
        self.header.first_offset
    }

    /// Whether it ended without a message: the next one starts at the same offset then.
    pub(crate) fn is_empty(&self) -> bool {
        self.end_offset() == Some(self.first_offset())
    }

    /// One past the last offset; `None` for the active segment.
    pub(crate) fn end_offset(&self) -> Option<Offset> {
        let end = self.end_offset.load(Ordering::Acquire);
        (end != OPEN_END).then_some(Offset(end))
    }

    /// One past the last batch: where the next one would start.
    pub(crate) fn log_end(&self) -> u64 {
        self.log_end.load(Ordering::Acquire)
    }

    /// Where in the log this segment ends.
    pub(crate) fn end_position(&self) -> LogPosition {
        LogPosition { segment: self.id(), position: self.log_end() }
    }

    /// Says that it has no file, but these bytes.
    pub(crate) fn keep_in_memory(&self, bytes: Vec<u8>) {
        self.in_memory.get_or_init(|| bytes);
    }

    pub(crate) fn in_memory(&self) -> Option<&[u8]> {
        self.in_memory.get().map(Vec::as_slice)
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// The open file, while there is one.
    pub(crate) fn file(&self) -> Option<Arc<dyn StorageFile>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a batch that is now in the file.
    pub(crate) fn push(&self, index: Arc<BatchIndex>, checksum: u32) {
        let end = index.position + u64::from(index.total_bytes);
        self.last_batch.store(index.number.0, Ordering::Relaxed);
        self.last_checksum.store(checksum, Ordering::Relaxed);
        self.log_end.store(end, Ordering::Release);
        self.batches.write().unwrap_or_else(PoisonError::into_inner).push(index);
    }

    /// Says that no further batch comes.
    pub(crate) fn close(&self, end_offset: Offset) {
        self.end_offset.store(end_offset.0, Ordering::Release);
    }

    /// The first wanted batch that holds `offset` or lies behind it.
    pub(crate) fn find_batch(
        &self,
        offset: Offset,
        wanted: &dyn Fn(&BatchIndex) -> bool,
    ) -> Option<Arc<BatchIndex>> {
        let batches = || self.batches.read().unwrap_or_else(PoisonError::into_inner);
        let first = batches().partition_point(|batch| batch.end_offset() <= offset);
        // `wanted` takes a queue's lock, under which others look at the batches: one at a time.
        (first..).map_while(|at| batches().get(at).cloned()).find(|batch| wanted(batch))
    }

    /// Heap bytes of the index kept in memory.
    pub(crate) fn index_bytes(&self) -> usize {
        let batches = self.batches.read().unwrap_or_else(PoisonError::into_inner);
        batches.iter().map(|batch| batch.heap_bytes()).sum()
    }

    /// The footer, made from the index in memory: where in the file it goes, and its bytes.
    pub(crate) fn encode_footer(&self) -> (u64, Vec<u8>) {
        let batches = self.batches.read().unwrap_or_else(PoisonError::into_inner);
        let mut footer = FooterBuilder::new(&self.header);
        let mut first_message = 0;
        for batch in batches.iter() {
            batch.add_to(&mut footer, first_message);
            first_message += batch.messages();
        }
        let last = BatchNumber(self.last_batch.load(Ordering::Relaxed));
        footer.end(self.log_end(), last, self.last_checksum.load(Ordering::Relaxed));
        (footer.start(), footer.encode())
    }

    /// Says that the footer is on disk: from here on the file is read through a map.
    pub(crate) fn seal(&self) {
        self.sealed.store(true, Ordering::Release);
        self.batches.write().unwrap_or_else(PoisonError::into_inner).clear();
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What each route has in the part of the segment that is not sealed.
    pub(crate) fn batches(&self) -> Vec<Arc<BatchIndex>> {
        self.batches.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
