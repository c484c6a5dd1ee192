//! Page-aligned buffers that are filled, written to disk and read from, without being copied.
//!
//! An arena is one block of memory. It is cut into *regions*, one per batch, each with a single
//! writer. A region hands out its bytes front to back: at once ([`Region::extend`]), or as a
//! [`Loan`] that a publisher fills outside the append lock. Once no loan is out, the region is
//! frozen into [`Frozen`], which many readers share. When the last region of an arena is gone its
//! memory goes back to the [`ArenaPool`], so that no page is touched for the first time twice:
//! that costs more than writing it to the disk.
//!
//! A1. Regions of an arena never overlap: they come into being only by cutting one that covers it.
//! A2. Bytes of a region that were handed out by `extend` or `extend_loan` are not handed out
//!     again while a loan is out: the cursor only grows.
//! A3. A frozen region is never written again.

#![expect(
    unsafe_code,
    reason = "publishers fill disjoint parts of one aligned buffer while earlier parts are read \
              and written to disk; safe code would copy every message once more"
)]

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    fmt,
    ops::Deref,
    ptr::NonNull,
    slice,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use fanlog_segment_format::layout::BLOCK_BYTES;

/// Arenas that are multiples of this are aligned to it, so that they can lie in huge pages.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A line of the processor's cache.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINE_BYTES: usize = 64;
/// What is fetched ahead ends here: two messages on, as larger ones are copied outside the lock.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const FETCH_BYTES_MAX: usize = 8 << 10;

/// Memory of an arena: owned, aligned to [`BLOCK_BYTES`] at the least, every page touched.
struct Memory {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory is owned by this value alone and has no thread affinity.
unsafe impl Send for Memory {}
// SAFETY: `Memory` itself gives no access; `Region`, `Loan` and `Frozen` do, under A1 to A3.
unsafe impl Sync for Memory {}

impl Memory {
    fn layout(bytes: usize) -> Layout {
        let align =
            if bytes.is_multiple_of(HUGE_PAGE_BYTES) { HUGE_PAGE_BYTES } else { BLOCK_BYTES };
        Layout::from_size_align(bytes, align).expect("both are powers of two")
    }

    fn new(bytes: usize) -> Self {
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES), "arenas are whole blocks");
        let layout = Self::layout(bytes);
        // SAFETY: `layout` has a size above zero, asserted above.
        let raw = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(raw) else { handle_alloc_error(layout) };
        let memory = Self { start, bytes };
        memory.want_huge_pages();
        // SAFETY: the allocation has `bytes` bytes, is owned here, and nothing else refers to it.
        unsafe { start.write_bytes(0, bytes) };
        memory
    }

    /// Asks for huge pages, before the first touch: filling them from the cold, and handing them to
    /// the device, costs a quarter less. Without them all works the same.
    fn want_huge_pages(&self) {
        // Miri knows no advice.
        #[cfg(all(target_os = "linux", not(miri)))]
        if self.bytes.is_multiple_of(HUGE_PAGE_BYTES) {
            let advice = rustix::mm::Advice::LinuxHugepage;
            // SAFETY: the range is the allocation, owned here; the advice does not change its
            // contents. It may be refused: then the pages are small.
            let _refused =
                unsafe { rustix::mm::madvise(self.start.as_ptr().cast(), self.bytes, advice) };
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout; regions hold the arena that owns this.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.bytes)) };
    }
}

/// Keeps the memory of arenas for reuse and knows how much is out.
#[derive(Debug)]
pub(crate) struct ArenaPool {
    arena_bytes: usize,
    kept_max: usize,
    idle: Mutex<Vec<Memory>>,
    /// Bytes of all arenas that are in use: by the appender, in flight, in the window, by readers.
    out_bytes: AtomicUsize,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.bytes)
    }
}

impl ArenaPool {
    /// A pool of arenas of `arena_bytes`, keeping at most `kept_bytes_max` idle, with
    /// `ready_bytes` allocated and touched at once.
    pub(crate) fn new(arena_bytes: usize, kept_bytes_max: usize, ready_bytes: usize) -> Arc<Self> {
        let kept_max = (kept_bytes_max / arena_bytes).max(2);
        let ready = (ready_bytes / arena_bytes).clamp(1, kept_max);
        let idle = (0..ready).map(|_| Memory::new(arena_bytes)).collect();
        Arc::new(Self { arena_bytes, kept_max, idle: Mutex::new(idle), out_bytes: 0.into() })
    }

    /// A region that covers a whole arena of at least `bytes`.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Region {
        let wanted = bytes.next_multiple_of(BLOCK_BYTES).max(self.arena_bytes);
        let idle = if wanted == self.arena_bytes {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
        } else {
            None
        };
        let memory = idle.unwrap_or_else(|| Memory::new(wanted));
        self.out_bytes.fetch_add(memory.bytes, Ordering::Relaxed);
        let end = memory.bytes;
        let arena = Arc::new(Arena { memory: Some(memory), pool: Arc::downgrade(self) });
        Region { arena, start: 0, filled: 0, end, loans: None }
    }

    /// Bytes of all arenas in use.
    pub(crate) fn out_bytes(&self) -> usize {
        self.out_bytes.load(Ordering::Relaxed)
    }

    fn give_back(&self, memory: Memory) {
        self.out_bytes.fetch_sub(memory.bytes, Ordering::Relaxed);
        if memory.bytes != self.arena_bytes {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.kept_max {
            idle.push(memory);
        }
    }
}

struct Arena {
    /// `None` only while dropping.
    memory: Option<Memory>,
    pool: Weak<ArenaPool>,
}

impl Arena {
    fn at(&self, position: usize) -> NonNull<u8> {
        let memory = self.memory.as_ref().expect("present until dropped");
        assert!(position <= memory.bytes, "A1: a region lies inside its arena");
        // SAFETY: at most one past the end of the allocation, checked above.
        unsafe { memory.start.add(position) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let (Some(memory), Some(pool)) = (self.memory.take(), self.pool.upgrade()) {
            pool.give_back(memory);
        }
    }
}

/// The only writer of a range of an arena.
pub(crate) struct Region {
    arena: Arc<Arena>,
    start: usize,
    /// Everything before it was handed out.
    filled: usize,
    end: usize,
    /// Loans that are out. Allocated with the first one.
    loans: Option<Arc<AtomicUsize>>,
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({}..{}, filled to {})", self.start, self.end, self.filled)
    }
}

impl Region {
    /// Bytes handed out so far.
    pub(crate) fn filled(&self) -> usize {
        self.filled - self.start
    }

    /// Bytes of the whole region.
    pub(crate) fn bytes(&self) -> usize {
        self.end - self.start
    }

    /// Bytes not handed out yet.
    pub(crate) fn room(&self) -> usize {
        self.end - self.filled
    }

    /// Hands out the next `bytes`, to be written at once.
    ///
    /// # Panics
    ///
    /// If there is no room: the caller checks [`Region::room`].
    pub(crate) fn extend(&mut self, bytes: usize) -> &mut [u8] {
        let start = self.advance(bytes);
        // SAFETY: `start..start + bytes` lies in this region (checked in `advance`), was never
        // handed out before (A2), and this region is its only writer (A1); the borrow of `self`
        // keeps it so. The memory is initialised: zeroed at allocation.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), bytes) }
    }

    /// Hands out the next `bytes` to be filled by another thread, or later.
    pub(crate) fn extend_loan(&mut self, bytes: usize) -> Loan {
        let start = self.advance(bytes);
        let loans = self.loans.get_or_insert_with(|| Arc::new(AtomicUsize::new(0)));
        loans.fetch_add(1, Ordering::Relaxed);
        Loan { _arena: Arc::clone(&self.arena), start, bytes, loans: Arc::clone(loans) }
    }

    fn advance(&mut self, bytes: usize) -> NonNull<u8> {
        assert!(bytes <= self.room(), "the caller checks the room");
        let start = self.arena.at(self.filled);
        self.filled += bytes;
        self.fetch_ahead(bytes);
        start
    }

    /// Has the memory of the next message but one brought to this processor, if they are all of the
    /// size of this one: its lines were last in use by the device, or by another processor. Without
    /// this the unlocking waits for them: a stream of 1 KiB messages is a seventh slower. The very next
    /// one is too near: it comes before its lines do.
    fn fetch_ahead(&self, bytes: usize) {
        // Miri knows no hints.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        for at in (bytes..(2 * bytes).min(self.room()).min(FETCH_BYTES_MAX)).step_by(LINE_BYTES) {
            use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            let line = self.arena.at(self.filled + at);
            // SAFETY: a hint: nothing is read or written, whatever the address is.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast()) };
        }
    }

    /// Whether a loan is still being filled.
    pub(crate) fn lent(&self) -> bool {
        // Acquire: what the last loan wrote is seen by whoever finds none left.
        self.loans.as_ref().is_some_and(|loans| loans.load(Ordering::Acquire) > 0)
    }

    /// Everything from the region's start to `bytes`, handed out or not.
    ///
    /// # Panics
    ///
    /// If a loan is out, or the region is smaller.
    pub(crate) fn head(&mut self, bytes: usize) -> &mut [u8] {
        assert!(!self.lent(), "A2: no loan may be out");
        assert!(bytes <= self.bytes(), "A1: within the region");
        let start = self.arena.at(self.start);
        // SAFETY: inside this region, whose only writer this is (A1); no loan is out, and earlier
        // `extend` borrows have ended because `self` is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), bytes) }
    }

    /// Cuts the region: this one keeps the first `bytes`, the rest is returned, empty.
    pub(crate) fn split_off(&mut self, bytes: usize) -> Region {
        assert!(bytes <= self.bytes() && bytes >= self.filled(), "A1: only unused bytes are cut");
        let at = self.start + bytes;
        let rest = Region {
            arena: Arc::clone(&self.arena),
            start: at,
            filled: at,
            end: self.end,
            loans: None,
        };
        self.end = at;
        rest
    }

    /// Gives up writing: from here on the bytes are shared and do not change.
    ///
    /// # Panics
    ///
    /// If a loan is out.
    pub(crate) fn freeze(self) -> Frozen {
        assert!(!self.lent(), "A3: no loan may be out");
        Frozen { arena: self.arena, start: self.start, end: self.end }
    }
}

/// Part of a region, being filled outside the append lock. Dropping it says that it is filled.
pub(crate) struct Loan {
    _arena: Arc<Arena>,
    start: NonNull<u8>,
    bytes: usize,
    loans: Arc<AtomicUsize>,
}

// SAFETY: a loan is the only access to its bytes (A2), and the arena it holds keeps them allocated.
unsafe impl Send for Loan {}

impl Loan {
    /// The bytes to fill.
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range was handed out once, to this loan (A2); the region neither reads nor
        // freezes it while the loan counts; the arena is held, the memory initialised.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // Release: pairs with the acquire in `Region::lent`.
        self.loans.fetch_sub(1, Ordering::Release);
    }
}

/// Bytes of an arena that no longer change, shared.
#[derive(Clone)]
pub(crate) struct Frozen {
    arena: Arc<Arena>,
    start: usize,
    end: usize,
}

impl Deref for Frozen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.arena.at(self.start);
        // SAFETY: inside the arena (A1), held; never written again (A3).
        unsafe { slice::from_raw_parts(start.as_ptr(), self.end - self.start) }
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frozen({}..{})", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 4 * BLOCK_BYTES;

    #[test]
    fn memory_is_aligned_and_goes_back_to_the_pool() {
        let pool = ArenaPool::new(BYTES, 4 * BYTES, BYTES);
        let mut region = pool.take(1);
        assert_eq!(region.head(1).as_ptr().align_offset(BLOCK_BYTES), 0);
        assert_eq!(pool.out_bytes(), BYTES);
        let first = region.head(1).as_ptr() as usize;
        let frozen = region.freeze();
        let copy = frozen.clone();
        drop(frozen);
        assert_eq!(pool.out_bytes(), BYTES);
        drop(copy);
        assert_eq!(pool.out_bytes(), 0);
        assert_eq!(pool.take(1).head(1).as_ptr() as usize, first);
    }

    #[test]
    fn regions_cut_from_one_arena_do_not_touch_each_other() {
        let pool = ArenaPool::new(BYTES, BYTES, BYTES);
        let mut first = pool.take(1);
        first.extend(10).fill(1);
        let mut second = first.split_off(BLOCK_BYTES);
        second.extend(BLOCK_BYTES).fill(2);
        let first = first.freeze();
        assert_eq!(&first[..10], &[1; 10]);
        assert!(first[10..].iter().all(|&byte| byte == 0));
        assert_eq!(first.len(), BLOCK_BYTES);
        assert!(second.freeze()[..BLOCK_BYTES].iter().all(|&byte| byte == 2));
    }

    #[test]
    fn a_loan_is_filled_by_another_thread_before_the_region_freezes() {
        let pool = ArenaPool::new(BYTES, BYTES, BYTES);
        let mut region = pool.take(1);
        region.extend(8).fill(1);
        let mut loan = region.extend_loan(100);
        region.extend(8).fill(3);
        assert!(region.lent());
        std::thread::spawn(move || loan.as_mut().fill(2)).join().unwrap();
        assert!(!region.lent());
        let frozen = region.freeze();
        assert_eq!((frozen[7], frozen[8], frozen[107], frozen[108]), (1, 2, 2, 3));
    }

    #[test]
    #[should_panic(expected = "no loan may be out")]
    fn a_region_with_a_loan_out_is_not_frozen() {
        let pool = ArenaPool::new(BYTES, BYTES, BYTES);
        let mut region = pool.take(1);
        let _loan = region.extend_loan(1);
        region.freeze();
    }

    #[test]
    fn an_arena_larger_than_usual_is_not_kept() {
        let pool = ArenaPool::new(BYTES, 4 * BYTES, BYTES);
        drop(pool.take(BYTES + 1));
        assert_eq!(pool.out_bytes(), 0);
        assert_eq!(pool.take(BYTES + 1).bytes(), BYTES + BLOCK_BYTES);
    }
}
