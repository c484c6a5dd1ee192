//! Durable writes through `io_uring`: a large batch goes to the disk in pieces, several at once.
//!
//! Owns a few rings, each used by one caller at a time, who waits for all that was put into it. In:
//! an open direct file and bytes. Out: how many of them, from the first on, are durable. A write of
//! one piece gains nothing from a ring and makes its one system call without it.
//!
//! W1. [`Rings::write_durably`] returns only once the kernel is done with every piece that it was
//!     given: until then the caller's borrow keeps the bytes alive, and in place.

#![expect(unsafe_code, reason = "a submission names memory by its address")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

use io_uring::{IoUring, Probe, opcode, types};
use rustix::io::ReadWriteFlags;

use super::super::ALIGNMENT;

/// A piece. Smaller ones cost more calls to the device than they gain.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces under way at the most; a larger batch has larger pieces.
const PIECES_MAX: usize = 8;

/// Rings that nobody uses at the moment.
pub(super) struct Rings {
    idle: Mutex<Vec<IoUring>>,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rings")
    }
}

impl Rings {
    /// Makes the first ring.
    ///
    /// # Errors
    ///
    /// The system has none, or forbids it: containers often do.
    pub(super) fn new() -> io::Result<Self> {
        let ring = ring()?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Write::CODE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Self { idle: Mutex::new(vec![ring]) })
    }

    /// Writes `bytes` at `position`; returns how many of them are durable, counted from the first.
    /// `None` if it should be written without a ring: it is small, or there is none to be had, or the
    /// kernel was interrupted.
    ///
    /// # Errors
    ///
    /// That of the first piece. Any of the bytes may be on the disk.
    pub(super) fn write_durably(
        &self,
        file: &File,
        position: u64,
        bytes: &[u8],
    ) -> Option<io::Result<usize>> {
        if bytes.len() < 2 * PIECE_BYTES {
            return None;
        }
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut ring = match idle {
            Some(ring) => ring,
            None => ring().ok()?,
        };
        let (answers, drained) = write_pieces(&mut ring, file, position, bytes);
        // One that still has entries would do them with the next write's.
        if drained {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(ring);
        }
        durable_prefix(&answers, bytes.len())
    }
}

fn ring() -> io::Result<IoUring> {
    IoUring::builder().build(u32::try_from(PIECES_MAX).expect("a few"))
}

/// Bytes of each piece but the last: whole blocks.
fn piece_bytes(bytes: usize) -> usize {
    bytes.div_ceil(PIECES_MAX).next_multiple_of(ALIGNMENT).max(PIECE_BYTES)
}

/// What the kernel answered for each piece: a count of bytes, or an error's number, negated.
type Answers = [Option<i32>; PIECES_MAX];

/// Writes all pieces and waits for them. Says also whether the ring took all that was put into it.
fn write_pieces(ring: &mut IoUring, file: &File, position: u64, bytes: &[u8]) -> (Answers, bool) {
    let fd = types::Fd(file.as_raw_fd());
    let flags = ReadWriteFlags::DSYNC.bits().cast_signed();
    let mut at = position;
    let mut pushed = 0;
    for piece in bytes.chunks(piece_bytes(bytes.len())) {
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let entry = opcode::Write::new(fd, piece.as_ptr(), length)
            .offset(at)
            .rw_flags(flags)
            .build()
            .user_data(pushed as u64);
        // SAFETY: file and bytes are borrowed until this function returns, and it returns only when
        // the kernel has answered all entries that it took, and takes no more (W1): what it has not
        // taken goes with the ring, as the caller drops one that is not drained.
        if unsafe { ring.submission().push(&entry) }.is_err() {
            break;
        }
        at += u64::from(length);
        pushed += 1;
    }
    wait_for_all(ring, pushed)
}

/// W1. Submits what was pushed and waits until all that the kernel took is answered.
fn wait_for_all(ring: &mut IoUring, pushed: usize) -> (Answers, bool) {
    let mut answers = [None; PIECES_MAX];
    let (mut taken, mut answered, mut refused) = (0, 0, false);
    while answered < taken || (taken < pushed && !refused) {
        match ring.submit_and_wait(1) {
            Ok(count) => taken += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                refused = true;
                // It may only be asked for answers that are on their way by themselves.
                std::thread::yield_now();
            }
        }
        for answer in ring.completion() {
            let piece = usize::try_from(answer.user_data()).unwrap_or(usize::MAX);
            if let Some(slot) = answers.get_mut(piece) {
                *slot = Some(answer.result());
            }
            answered += 1;
        }
    }
    (answers, taken == pushed)
}

/// How many bytes are durable from the first one on; `None` if the first piece is to be tried again.
fn durable_prefix(answers: &Answers, bytes: usize) -> Option<io::Result<usize>> {
    let piece_bytes = piece_bytes(bytes);
    let mut durable = 0;
    for answer in answers {
        let Some(answer) = *answer else { break };
        match usize::try_from(answer) {
            Ok(written) => {
                durable += written;
                if written < piece_bytes {
                    break;
                }
            }
            Err(_) if durable > 0 => break,
            Err(_) => {
                let error = io::Error::from_raw_os_error(answer.saturating_neg());
                let again = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock];
                return (!again.contains(&error.kind())).then_some(Err(error));
            }
        }
    }
    (durable > 0).then_some(Ok(durable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(of: &[i32]) -> Answers {
        let mut answers = [None; PIECES_MAX];
        for (slot, answer) in answers.iter_mut().zip(of) {
            *slot = Some(*answer);
        }
        answers
    }

    #[test]
    fn pieces_are_whole_blocks_and_no_more_than_a_ring_takes() {
        for bytes in (2 * PIECE_BYTES..80 << 20).step_by(ALIGNMENT * 17) {
            let piece = piece_bytes(bytes);
            assert!(piece.is_multiple_of(ALIGNMENT) && bytes.div_ceil(piece) <= PIECES_MAX);
        }
    }

    #[test]
    fn what_counts_ends_at_the_first_piece_that_is_not_whole() {
        let (piece, bytes) = (PIECE_BYTES, 3 * PIECE_BYTES);
        let whole = i32::try_from(piece).unwrap();
        let durable = |of: &[i32]| durable_prefix(&answers(of), bytes).map(Result::unwrap);
        assert_eq!(durable(&[whole, whole, whole]), Some(3 * piece));
        assert_eq!(durable(&[whole, 4096, whole]), Some(piece + 4096));
        assert_eq!(durable(&[whole, -5, whole]), Some(piece));
        assert_eq!(durable(&[whole]), Some(piece));
        // Interrupted: to be tried again, as is what no ring took.
        assert_eq!(durable(&[-4, whole, whole]), None);
        assert_eq!(durable(&[]), None);
        let failed = durable_prefix(&answers(&[-28, whole]), bytes).unwrap();
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
