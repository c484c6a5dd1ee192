//! Finds out whether a directory can be written directly: by doing it.
//!
//! A file is created, its name removed at once, and one aligned block written to it with the very
//! call that commits use. What a system says it can do is asked too, but believed only where it
//! says no. A crash between create and remove leaves an empty `probe-*.tmp`.

use std::fs::File;
use std::io;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FsWord, Mode, OFlags, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::super::{ALIGNMENT, AlignedBuffer};

/// Accepts direct writes, even unaligned ones, which then mean nothing.
const TMPFS_MAGIC: FsWord = 0x0102_1994;

/// What the probe found.
pub(super) enum Finding {
    /// Direct writes work with [`ALIGNMENT`].
    Works,
    /// They don't.
    Refused(&'static str),
    /// There was no room to try.
    DiskFull,
}

/// Tries a direct, durable write in `directory`.
pub(super) fn direct(directory: &File) -> io::Result<Finding> {
    if rustix::fs::fstatfs(directory)?.f_type == TMPFS_MAGIC {
        return Ok(Finding::Refused("a file system in memory"));
    }
    let file = match create(directory) {
        Ok(file) => file,
        Err(error) => return refusal(error, "the file system does not open files for it"),
    };
    if let Some(why) = alignment_refusal(&file)? {
        return Ok(Finding::Refused(why));
    }
    let block = AlignedBuffer::zeroed(ALIGNMENT);
    let parts = [io::IoSlice::new(&block)];
    let written =
        rustix::io::retry_on_intr(|| rustix::io::pwritev2(&file, &parts, 0, ReadWriteFlags::DSYNC));
    match written {
        // A file system that opens such a file and is full is so only for now.
        Ok(ALIGNMENT) | Err(Errno::NOSPC | Errno::DQUOT) => Ok(Finding::Works),
        Ok(_) => Ok(Finding::Refused("a block was written in part")),
        Err(error) => refusal(error, "a durable write of one block is refused"),
    }
}

/// Whether `file`, opened for direct reading, says that direct writes would be taken. Nothing is
/// written.
pub(super) fn looks_direct(directory: &File, file: &File) -> bool {
    let in_memory = rustix::fs::fstatfs(directory).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC);
    !in_memory && matches!(alignment_refusal(file), Ok(None))
}

/// Creates a direct file without a name.
fn create(directory: &File) -> Result<File, Errno> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::DIRECT;
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("probe-{}-{number}.tmp", process::id());
        let opened = rustix::fs::openat(directory, &*name, flags, Mode::RUSR | Mode::WUSR);
        match opened {
            // Left by a crash, or another machine's process of that number: take the next.
            Err(Errno::EXIST | Errno::INTR) => {}
            // The file may have been created before its file system found that it can't do this.
            Err(Errno::INVAL) => {
                return match rustix::fs::unlinkat(directory, &*name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => Err(Errno::INVAL),
                    Err(error) => Err(error),
                };
            }
            Err(error) => return Err(error),
            Ok(file) => {
                rustix::fs::unlinkat(directory, &*name, AtFlags::empty())?;
                return Ok(File::from(file));
            }
        }
    }
}

/// Returns why the alignment that `file` asks for is not ours; `None` if it is, or nothing is said.
fn alignment_refusal(file: &File) -> io::Result<Option<&'static str>> {
    let stat = match rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(stat) => stat,
        Err(Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return Ok(None);
    }
    let (memory, position) = (stat.stx_dio_mem_align as usize, stat.stx_dio_offset_align as usize);
    Ok(if memory == 0 || position == 0 {
        Some("the file system says that it has none")
    } else if !ALIGNMENT.is_multiple_of(memory) || !ALIGNMENT.is_multiple_of(position) {
        Some("its blocks are larger than 4 KiB")
    } else {
        None
    })
}

/// Tells a refusal from a failure.
fn refusal(error: Errno, why: &'static str) -> io::Result<Finding> {
    match error {
        Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS => Ok(Finding::Refused(why)),
        Errno::NOSPC | Errno::DQUOT => Ok(Finding::DiskFull),
        error => Err(error.into()),
    }
}
