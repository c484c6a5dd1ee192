//! The stretches of a set in increasing order: a sorted row in chunks.
//!
//! Finding, inserting and removing cost two binary searches and a move within one chunk, however
//! many stretches there are; a place once found is reached again without a search.
//!
//! D1. No chunk is empty or longer than [`CHUNK_MAX`].
//! D2. Stretches do not overlap, and no page is shared by two of them.

use super::stretch::Stretch;

/// Stretches of a chunk.
const CHUNK_MAX: usize = 128;

/// The stretches of a set.
#[derive(Debug, Clone, Default)]
pub(super) struct Directory {
    chunks: Vec<Vec<Stretch>>,
}

/// The place of a stretch; good until the next change of the directory, wrong but harmless after.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    chunk: u32,
    index: u32,
}

impl Place {
    #[inline]
    fn new(chunk: usize, index: usize) -> Self {
        let narrow = |number| u32::try_from(number).expect("chunks fit the memory");
        Self { chunk: narrow(chunk), index: narrow(index) }
    }

    #[inline]
    fn chunk(self) -> usize {
        self.chunk as usize
    }

    #[inline]
    fn index(self) -> usize {
        self.index as usize
    }
}

impl Directory {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    #[inline]
    pub(super) fn get(&self, place: Place) -> Option<&Stretch> {
        self.chunks.get(place.chunk())?.get(place.index())
    }

    #[inline]
    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut Stretch> {
        self.chunks.get_mut(place.chunk())?.get_mut(place.index())
    }

    pub(super) fn first(&self) -> Option<&Stretch> {
        self.chunks.first()?.first()
    }

    pub(super) fn last(&self) -> Option<&Stretch> {
        self.chunks.last()?.last()
    }

    pub(super) fn last_place(&self) -> Option<Place> {
        let chunk = self.chunks.len().checked_sub(1)?;
        Some(Place::new(chunk, self.chunks[chunk].len() - 1))
    }

    /// The last stretch that starts at or before `offset`.
    #[inline]
    pub(super) fn locate(&self, offset: u64) -> Option<Place> {
        let chunk = if self.chunks.len() == 1 {
            0
        } else {
            self.chunks.partition_point(|chunk| chunk[0].start() <= offset).checked_sub(1)?
        };
        let stretches = self.chunks.get(chunk)?;
        let index =
            stretches.partition_point(|stretch| stretch.start() <= offset).checked_sub(1)?;
        Some(Place::new(chunk, index))
    }

    /// The place after `place`; the first one after none.
    #[inline]
    pub(super) fn after(&self, place: Option<Place>) -> Option<Place> {
        let Some(Place { chunk, index }) = place else {
            return (!self.is_empty()).then_some(Place::default());
        };
        let next = Place { chunk, index: index + 1 };
        if next.index() < self.chunks[next.chunk()].len() {
            return Some(next);
        }
        let next = Place { chunk: chunk + 1, index: 0 };
        (next.chunk() < self.chunks.len()).then_some(next)
    }

    /// Where the stretch after `place` starts; `u64::MAX` if there is none.
    #[inline]
    pub(super) fn start_after(&self, place: Option<Place>) -> u64 {
        self.after(place).and_then(|next| self.get(next)).map_or(u64::MAX, Stretch::start)
    }

    /// Puts a stretch after `place` (first of all after none) and returns where it stands.
    pub(super) fn insert_after(&mut self, place: Option<Place>, stretch: Stretch) -> Place {
        let Some(place) = place else { return self.insert_at(0, 0, stretch) };
        let (mut chunk, mut index) = (place.chunk(), place.index() + 1);
        if index == CHUNK_MAX && chunk + 1 == self.chunks.len() {
            // Grows at its end: the chunks before stay full.
            (chunk, index) = (chunk + 1, 0);
            self.chunks.push(Vec::new());
        }
        self.insert_at(chunk, index, stretch)
    }

    fn insert_at(&mut self, mut chunk: usize, mut index: usize, stretch: Stretch) -> Place {
        if self.chunks.is_empty() {
            self.chunks.push(Vec::new());
        }
        if self.chunks[chunk].len() == CHUNK_MAX {
            let upper = self.chunks[chunk].split_off(CHUNK_MAX / 2);
            self.chunks[chunk].shrink_to_fit();
            self.chunks.insert(chunk + 1, upper);
            if index > CHUNK_MAX / 2 {
                (chunk, index) = (chunk + 1, index - CHUNK_MAX / 2);
            }
        }
        self.chunks[chunk].insert(index, stretch);
        Place::new(chunk, index)
    }

    /// Removes one stretch; all places are then to be found anew.
    pub(super) fn remove(&mut self, place: Place) {
        self.chunks[place.chunk()].remove(place.index());
        self.mend(place.chunk());
    }

    /// Joins a chunk that has become small with a neighbour, or gives its spare memory back.
    fn mend(&mut self, chunk: usize) {
        let len = self.chunks[chunk].len();
        if len * 4 > self.chunks[chunk].capacity() {
            return;
        }
        for lower in [chunk.wrapping_sub(1), chunk] {
            let upper = lower.wrapping_add(1);
            let neighbour = if lower == chunk { upper } else { lower };
            let Some(other) = self.chunks.get(neighbour) else { continue };
            if len + other.len() <= CHUNK_MAX / 2 {
                let mut stretches = self.chunks.remove(upper);
                self.chunks[lower].append(&mut stretches);
                return;
            }
        }
        if len == 0 {
            self.chunks.remove(chunk);
        } else {
            self.chunks[chunk].shrink_to(len * 2);
        }
    }

    /// Removes the stretches that start in the range; returns the largest end of a run among them.
    pub(super) fn remove_between(&mut self, start: u64, end: u64) -> Option<u64> {
        let mut chunk = self.locate(start).map_or(0, Place::chunk);
        let mut run_end = None;
        while self.chunks.get(chunk).is_some_and(|stretches| stretches[0].start() < end) {
            let stretches = &mut self.chunks[chunk];
            let from = stretches.partition_point(|stretch| stretch.start() < start);
            let to = stretches.partition_point(|stretch| stretch.start() < end);
            for stretch in stretches.drain(from..to) {
                if let Stretch::Run { end, .. } = stretch {
                    run_end = Some(end);
                }
            }
            if stretches.is_empty() {
                self.chunks.remove(chunk);
            } else {
                chunk += 1;
            }
        }
        if let Some(last) = chunk.min(self.chunks.len()).checked_sub(1) {
            self.mend(last);
        }
        run_end
    }

    /// Removes the stretches that end at or before `offset`.
    pub(super) fn remove_below(&mut self, offset: u64) {
        let passed = |chunk: &Vec<Stretch>| chunk.last().is_none_or(|last| last.end() <= offset);
        self.chunks.drain(..self.chunks.partition_point(passed));
        if let Some(chunk) = self.chunks.first_mut() {
            chunk.drain(..chunk.partition_point(|stretch| stretch.end() <= offset));
            self.mend(0);
        }
    }

    /// Removes the stretches that start at or after `offset`.
    pub(super) fn remove_from(&mut self, offset: u64) {
        while let Some(chunk) = self.chunks.last_mut() {
            chunk.truncate(chunk.partition_point(|stretch| stretch.start() < offset));
            if !chunk.is_empty() {
                return self.mend(self.chunks.len() - 1);
            }
            self.chunks.pop();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stretch> {
        self.chunks.iter().flatten()
    }

    /// The stretches from `place` on.
    pub(super) fn iter_from(&self, place: Place) -> impl Iterator<Item = &Stretch> {
        let first = self.chunks.get(place.chunk()).map_or(&[][..], |chunk| &chunk[place.index()..]);
        first.iter().chain(self.chunks.iter().skip(place.chunk() + 1).flatten())
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let stretches: usize = self.chunks.iter().map(Vec::capacity).sum();
        self.chunks.capacity() * size_of::<Vec<Stretch>>()
            + stretches * size_of::<Stretch>()
            + self.iter().map(Stretch::heap_bytes).sum::<usize>()
    }
}

#[cfg(test)]
impl Directory {
    /// Asserts D1; the owner sees to D2.
    pub(super) fn check(&self) {
        let sizes = self.chunks.iter().map(Vec::len);
        assert!(sizes.into_iter().all(|len| (1..=CHUNK_MAX).contains(&len)), "D1");
    }
}
