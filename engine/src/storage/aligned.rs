//! Memory that direct I/O accepts: it starts at a multiple of [`ALIGNMENT`].
//!
//! Safe code: more memory than asked for, and the place in it where the aligned part starts.

use std::fmt;
use std::hint;
use std::ops::{Deref, DerefMut};

/// The unit of direct I/O, in bytes: memory, positions and lengths are multiples of it.
pub const ALIGNMENT: usize = 4096;

/// A byte buffer of fixed size that starts at a multiple of [`ALIGNMENT`].
///
/// Its memory is touched when it is made, so that no later write to it waits for a page.
pub struct AlignedBuffer {
    memory: Box<[u8]>,
    start: usize,
    bytes: usize,
}

impl AlignedBuffer {
    /// Makes a buffer of `bytes` zeros. The length itself need not be a multiple of anything.
    ///
    /// # Panics
    ///
    /// If `bytes` is within 4 KiB of the largest size of an allocation.
    pub fn zeroed(bytes: usize) -> Self {
        let room = bytes.checked_add(ALIGNMENT).expect("an allocatable size");
        let mut memory = vec![0; room].into_boxed_slice();
        for page in memory.chunks_mut(ALIGNMENT) {
            // The black box keeps the store: zeroed memory is otherwise known to be zero already.
            page[0] = hint::black_box(0);
        }
        let start = memory.as_ptr().addr().wrapping_neg() % ALIGNMENT;
        Self { memory, start, bytes }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.bytes]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuffer").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_starts_at_a_multiple_of_the_alignment() {
        for bytes in [0, 1, 511, 4096, 4097, 1 << 20] {
            let buffer = AlignedBuffer::zeroed(bytes);
            assert_eq!(buffer.as_ptr().addr() % ALIGNMENT, 0, "{bytes}");
            assert_eq!(buffer.len(), bytes);
            assert!(buffer.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn what_is_written_is_read_and_survives_a_move() {
        let mut buffer = AlignedBuffer::zeroed(8192);
        buffer[0] = 1;
        buffer[8191] = 2;
        let moved = Box::new(buffer);
        assert_eq!((moved[0], moved[1], moved[8191]), (1, 0, 2));
        assert_eq!(moved.as_ptr().addr() % ALIGNMENT, 0);
    }
}
