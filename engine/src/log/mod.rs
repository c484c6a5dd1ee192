//! The log as readers see it: recent batches in memory, then the unsealed rest, then sealed files.
//!
//! Owns which segments there are and what of them is in memory. In: batches that are confirmed,
//! from `commit`; segments, from `commit` and `recovery`. Out: [`View`]s, by offset.
//!
//! L1. `visible` only grows, and a batch is in a segment's index before it is visible.
//! L2. The active segment is never mapped: behind the window it is read with aligned reads.
//! L3. A view keeps the memory, or the map, that it shows.

pub(crate) mod batch;
pub(crate) mod gather;
pub(crate) mod index;
pub(crate) mod sealed;
pub(crate) mod segment;
pub(crate) mod view;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use fanlog_segment_format::{GroupId, Offset, RouteId, StoreId, batch::open_batch};

use self::{
    batch::{Batch, ReadBackBytes},
    index::BatchIndex,
    sealed::SealedReader,
    segment::Segment,
    view::View,
};
use crate::{
    Error, Result,
    error::FileOp,
    storage::{Access, AlignedBuffer, Purpose, Storage},
};

/// Batches read back from the unsealed part, shared among the queues that read there now.
const READ_BACK_SHARED: usize = 8;

#[derive(Debug, Default)]
struct Window {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
}

/// What [`Log::seek`] found.
#[derive(Debug)]
pub(crate) enum Sought {
    View(View),
    /// No wanted message below this offset; there may be some later.
    Nothing(Offset),
}

/// What one segment has.
enum Found {
    View(View),
    /// No wanted message at or past the offset.
    Nothing,
    /// It was taken out.
    Gone,
}

fn has_wanted(index: &BatchIndex, wanted: &dyn Fn(RouteId) -> bool) -> bool {
    index.routes().iter().any(|count| wanted(count.route))
}

/// Where in the list these neighbours stand.
fn place_of(segments: &[Arc<Segment>], neighbours: &[Arc<Segment>]) -> Option<usize> {
    let same = |(one, other): (&Arc<Segment>, &Arc<Segment>)| Arc::ptr_eq(one, other);
    let stand = |part: &[Arc<Segment>]| part.iter().zip(neighbours).all(same);
    segments.windows(neighbours.len().max(1)).position(stand)
}

/// Readable side of the log.
#[derive(Debug)]
pub(crate) struct Log {
    storage: Arc<dyn Storage>,
    store: StoreId,
    window_bytes_max: usize,
    maps_max: usize,
    window: RwLock<Window>,
    window_bytes: AtomicUsize,
    segments: RwLock<Vec<Arc<Segment>>>,
    /// Where segments that were replaced by one started, as long as a kept checkpoint may list them.
    /// Taken after `segments`.
    splits: RwLock<BTreeSet<Offset>>,
    /// One past the last offset that may be delivered.
    visible: AtomicU64,
    routes: RwLock<HashMap<RouteId, Arc<[GroupId]>>>,
    maps: Mutex<VecDeque<Arc<SealedReader>>>,
    read_back: Mutex<VecDeque<Weak<Batch>>>,
    read_back_bytes: ReadBackBytes,
}

impl Log {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        store: StoreId,
        window_bytes_max: usize,
        maps_max: usize,
    ) -> Self {
        Self {
            storage,
            store,
            window_bytes_max,
            maps_max,
            window: RwLock::default(),
            window_bytes: AtomicUsize::new(0),
            segments: RwLock::default(),
            splits: RwLock::default(),
            visible: AtomicU64::new(0),
            routes: RwLock::default(),
            maps: Mutex::default(),
            read_back: Mutex::default(),
            read_back_bytes: ReadBackBytes::default(),
        }
    }

    /// One past the last offset that may be delivered.
    pub(crate) fn visible(&self) -> Offset {
        Offset(self.visible.load(Ordering::Acquire))
    }

    pub(crate) fn set_visible(&self, end: Offset) {
        self.visible.store(end.0, Ordering::Release);
    }

    /// Adds a confirmed batch: index first, window next, visible last.
    pub(crate) fn push(&self, segment: &Segment, batch: Arc<Batch>, checksum: u32) {
        segment.push(Arc::clone(&batch.index), checksum);
        let end = batch.index.end_offset();
        if batch.index.messages() > 0 {
            let mut window = self.window.write().unwrap_or_else(PoisonError::into_inner);
            window.bytes += batch.bytes.len();
            window.batches.push_back(batch);
            while window.bytes > self.window_bytes_max && window.batches.len() > 1 {
                let Some(oldest) = window.batches.pop_front() else { break };
                window.bytes -= oldest.bytes.len();
            }
            self.window_bytes.store(window.bytes, Ordering::Relaxed);
        }
        self.visible.store(end.0, Ordering::Release);
    }

    pub(crate) fn window_bytes(&self) -> usize {
        self.window_bytes.load(Ordering::Relaxed)
    }

    /// Forgets what is kept in memory for readers; views that are out stay.
    pub(crate) fn forget(&self) {
        *self.window.write().unwrap_or_else(PoisonError::into_inner) = Window::default();
        self.window_bytes.store(0, Ordering::Relaxed);
        self.maps.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn add_segment(&self, segment: Arc<Segment>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).push(segment);
    }

    /// Takes a segment out: from here on no view of it is made.
    pub(crate) fn retire_segment(&self, segment: &Arc<Segment>) {
        self.segments
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|other| !Arc::ptr_eq(other, segment));
        self.forget_map(segment);
    }

    /// Whether these segments stand side by side in the log.
    pub(crate) fn has_neighbours(&self, neighbours: &[Arc<Segment>]) -> bool {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        place_of(&segments, neighbours).is_some()
    }

    /// Puts one segment in the place of neighbours: from here on no view of them is made. Says
    /// whether they stood there, side by side; else nothing is changed.
    pub(crate) fn replace_segments(&self, old: &[Arc<Segment>], new: &Arc<Segment>) -> bool {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = place_of(&segments, old) else { return false };
        segments.splice(first..first + old.len(), [Arc::clone(new)]);
        let mut splits = self.splits.write().unwrap_or_else(PoisonError::into_inner);
        splits.extend(old.iter().skip(1).map(|segment| segment.first_offset()));
        drop(splits);
        drop(segments);
        for segment in old {
            self.forget_map(segment);
        }
        true
    }

    fn forget_map(&self, segment: &Arc<Segment>) {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        maps.retain(|reader| !Arc::ptr_eq(&reader.segment, segment));
    }

    /// Whether a view of a retired segment is still out; then its file may not be written again.
    pub(crate) fn is_mapped(&self, segment: &Segment) -> bool {
        // A view is made under the lock on `maps`, of segments that are not retired.
        let _maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = segment.reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.strong_count() > 0
    }

    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn define_route(&self, route: RouteId, groups: Arc<[GroupId]>) {
        self.routes.write().unwrap_or_else(PoisonError::into_inner).insert(route, groups);
    }

    /// Forgets routes of which no segment has a message.
    pub(crate) fn forget_routes(&self, routes: &[RouteId]) {
        let mut known = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        for route in routes {
            known.remove(route);
        }
        if known.len() < known.capacity() / 4 {
            known.shrink_to_fit();
        }
    }

    /// The binding groups that a route stands for.
    pub(crate) fn route_groups(&self, route: RouteId) -> Option<Arc<[GroupId]>> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).get(&route).cloned()
    }

    /// How many routes there are.
    pub(crate) fn route_count(&self) -> usize {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The next view, from `offset` on, that has messages of a wanted route.
    ///
    /// Batches in memory and their indexes are passed over without reading anything; of a sealed
    /// segment the footer is read.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] or [`Error::Corrupt`] if it had to be read from a file and could not.
    pub(crate) fn seek(&self, offset: Offset, wanted: &dyn Fn(RouteId) -> bool) -> Result<Sought> {
        let visible = self.visible();
        let mut from = offset;
        while from < visible {
            if let Some(found) = self.recent(from, visible, wanted) {
                return Ok(found);
            }
            let Some(segment) = self.segment_at(from) else { break };
            // Read before the segment is looked through: it may be ended, and sealed, meanwhile.
            let end = segment.end_offset();
            match (self.view_in(&segment, from, wanted)?, end) {
                (Found::View(view), _) => return Ok(Sought::View(view)),
                // Looked for again: what is live in it is in the file that took its place.
                (Found::Gone, _) => {}
                (Found::Nothing, Some(end)) => from = end.max(from.next()),
                (Found::Nothing, None) => break,
            }
        }
        Ok(Sought::Nothing(visible.max(offset)))
    }

    /// Looks for a wanted batch in the window. `None`: `offset` lies before it.
    fn recent(
        &self,
        offset: Offset,
        visible: Offset,
        wanted: &dyn Fn(RouteId) -> bool,
    ) -> Option<Sought> {
        let window = self.window.read().unwrap_or_else(PoisonError::into_inner);
        let first = window.batches.front()?;
        if offset < first.index.first_offset {
            return None;
        }
        let at = window.batches.partition_point(|batch| batch.index.end_offset() <= offset);
        let mut rest = window.batches.range(at..);
        let found = rest.find(|batch| has_wanted(&batch.index, wanted)).cloned();
        Some(found.map_or(Sought::Nothing(visible), |batch| Sought::View(View::Batch(batch))))
    }

    /// The offsets, half-open, of the segment that holds `offset`, as far as they are visible now.
    ///
    /// Of a merged segment, those of the one that went into it, as long as a kept checkpoint may list
    /// that one: what is written about them may be replayed from there.
    pub(crate) fn bounds_at(&self, offset: Offset) -> (Offset, Offset) {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let at = segments.partition_point(|segment| segment.first_offset() <= offset);
        let Some(segment) = at.checked_sub(1).and_then(|at| segments.get(at)) else {
            return (offset, offset.next());
        };
        let first = segment.first_offset();
        let end = segment.end_offset().unwrap_or_else(|| self.visible());
        let splits = self.splits.read().unwrap_or_else(PoisonError::into_inner);
        let split_before = splits.range(..=offset).next_back();
        let split_after = splits.range(offset.next()..).next();
        (
            split_before.map_or(first, |&split| split.max(first)),
            split_after.map_or(end, |&split| split.min(end)),
        )
    }

    /// No checkpoint lists a replaced segment that started there any more.
    pub(crate) fn forget_split(&self, first: Offset) {
        self.splits.write().unwrap_or_else(PoisonError::into_inner).remove(&first);
    }

    /// The first segment that does not end at or before `offset`.
    fn segment_at(&self, offset: Offset) -> Option<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let at = segments
            .partition_point(|segment| segment.end_offset().is_some_and(|end| end <= offset));
        segments.get(at).cloned()
    }

    /// The map of the segment that holds `offset`, if that is sealed.
    ///
    /// # Errors
    ///
    /// As [`Self::seek`].
    pub(crate) fn sealed_at(&self, offset: Offset) -> Result<Option<Arc<SealedReader>>> {
        loop {
            match self.segment_at(offset).filter(|segment| segment.is_sealed()) {
                None => return Ok(None),
                Some(segment) => {
                    // Taken out meanwhile: what is live in it is in the file that took its place.
                    if let Some(reader) = self.reader(&segment)? {
                        return Ok(Some(reader));
                    }
                }
            }
        }
    }

    fn view_in(
        &self,
        segment: &Arc<Segment>,
        offset: Offset,
        wanted: &dyn Fn(RouteId) -> bool,
    ) -> Result<Found> {
        if segment.is_sealed() {
            let Some(reader) = self.reader(segment)? else { return Ok(Found::Gone) };
            let footer = reader.footer();
            let stored = footer.lower_bound(offset) < footer.messages()
                && (0..footer.routes()).any(|at| wanted(footer.route(at).route));
            return Ok(if stored { Found::View(View::Sealed(reader)) } else { Found::Nothing });
        }
        let found = segment.find_batch(offset, &|index| has_wanted(index, wanted));
        match found {
            Some(index) => Ok(Found::View(View::Batch(self.read_back(segment, index)?))),
            // Sealed just now, its index given up for the footer.
            None if segment.is_sealed() => self.view_in(segment, offset, wanted),
            None => Ok(Found::Nothing),
        }
    }

    /// The map of a sealed segment: shared, the `maps_max` most recently used kept alive.
    ///
    /// `None` if the segment was taken out. Mapping and taking out exclude each other through the
    /// lock on `maps`, so a file that is written again is never mapped.
    pub(crate) fn reader(&self, segment: &Arc<Segment>) -> Result<Option<Arc<SealedReader>>> {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reader) = self.map(segment)? else { return Ok(None) };
        maps.retain(|other| !Arc::ptr_eq(other, &reader));
        maps.push_back(Arc::clone(&reader));
        if maps.len() > self.maps_max {
            maps.pop_front();
        }
        Ok(Some(reader))
    }

    /// As [`Self::reader`], for one look through it: it is not kept alive for others.
    pub(crate) fn reader_once(&self, segment: &Arc<Segment>) -> Result<Option<Arc<SealedReader>>> {
        let _maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        self.map(segment)
    }

    /// The map that is shared, or a new one. The caller has the lock on `maps`.
    fn map(&self, segment: &Arc<Segment>) -> Result<Option<Arc<SealedReader>>> {
        let mut shared = segment.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = shared.upgrade() {
            return Ok(Some(reader));
        }
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        if !segments.iter().any(|other| Arc::ptr_eq(other, segment)) {
            return Ok(None);
        }
        drop(segments);
        let reader = Arc::new(SealedReader::open(&*self.storage, Arc::clone(segment))?);
        *shared = Arc::downgrade(&reader);
        Ok(Some(reader))
    }

    /// Bytes of the maps that are kept.
    pub(crate) fn mapped_bytes(&self) -> u64 {
        let maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        maps.iter().map(|reader| reader.bytes().len() as u64).sum()
    }

    /// Bytes of the unsealed part that were read back and are still held.
    pub(crate) fn read_back_bytes(&self) -> usize {
        self.read_back_bytes.get()
    }

    /// Reads a batch of the unsealed part, or shares it with another queue that has it.
    fn read_back(&self, segment: &Segment, index: Arc<BatchIndex>) -> Result<Arc<Batch>> {
        let mut shared = self.read_back.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|batch| batch.strong_count() > 0);
        let known = shared.iter().filter_map(Weak::upgrade);
        for batch in known {
            if Arc::ptr_eq(&batch.index, &index) {
                return Ok(batch);
            }
        }
        let bytes = self.read_bytes(segment, &index)?;
        // Damaged since it was written: what is whole of it is delivered all the same.
        let damaged = open_batch(&bytes, self.store, index.segment, index.position)
            .is_err()
            .then(|| self.storage.path(&segment.name));
        let bytes = self.read_back_bytes.hold(bytes);
        let batch = Arc::new(Batch::read_back(index, bytes, self.store, damaged));
        if shared.len() == READ_BACK_SHARED {
            shared.pop_front();
        }
        shared.push_back(Arc::downgrade(&batch));
        Ok(batch)
    }

    /// Checks a batch of the unsealed part as it stands in its file.
    pub(crate) fn check_batch(&self, segment: &Segment, index: &BatchIndex) -> Result<()> {
        let bytes = self.read_bytes(segment, index)?;
        open_batch(&bytes, self.store, index.segment, index.position).map(drop).map_err(|source| {
            Error::decode(self.storage.path(&segment.name), index.position, source)
        })
    }

    fn read_bytes(&self, segment: &Segment, index: &BatchIndex) -> Result<AlignedBuffer> {
        let path = || self.storage.path(&segment.name);
        let file = match segment.file() {
            Some(file) => file,
            None => self
                .storage
                .open(&segment.name, Access::Read, Purpose::Log)
                .map_err(|source| Error::io(FileOp::Open, path(), source))?,
        };
        let mut bytes = AlignedBuffer::zeroed(index.total_bytes as usize);
        file.read_exact_at(index.position, &mut bytes)
            .map_err(|source| Error::io(FileOp::Read, path(), source))?;
        Ok(bytes)
    }
}
