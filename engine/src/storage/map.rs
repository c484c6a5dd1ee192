//! Read-only views of whole sealed files.
//!
//! Owns the only unsafe code of the storage: making a memory map. A [`Map`] keeps its file open, so
//! it outlives a rename or a removal. Pages are brought in by [`Map::populate`], which reports what
//! can't be read as an error; touching such a page otherwise kills the process (`SIGBUS`).
#![expect(unsafe_code, reason = "a memory map is only sound if nobody else writes the file")]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use memmap2::Mmap;

use super::aligned::{ALIGNMENT, AlignedBuffer};

/// Size of one read where pages are checked by reading them, in bytes.
const CHECK_BYTES: usize = 256 * 1024;

/// A read-only view of a whole sealed file.
///
/// It starts at a multiple of [`ALIGNMENT`] and stays readable after the file was renamed or
/// removed.
pub struct Map {
    view: View,
}

enum View {
    File { pages: Mmap, file: Arc<File> },
    Copy(AlignedBuffer),
}

impl Map {
    /// Maps all of `file` as it is now.
    pub(super) fn of_file(file: &Arc<File>) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self::of_copy(AlignedBuffer::zeroed(0)));
        }
        // SAFETY: the map is read-only, and its bytes do not change while it lives: only sealed
        // segments are mapped, which this process never writes or truncates again before the last
        // map of them is gone, and no other process does, as the directory of the store is locked.
        let pages = unsafe { Mmap::map(&**file)? };
        Ok(Self { view: View::File { pages, file: Arc::clone(file) } })
    }

    /// Makes a view of a copy of a file's bytes.
    pub(crate) fn of_copy(bytes: AlignedBuffer) -> Self {
        Self { view: View::Copy(bytes) }
    }

    /// Brings the bytes of `range` into memory, so that reading them soon after does not fault.
    ///
    /// A page evicted in between is read again when touched: read soon.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the range ends past the file; otherwise a page can't be read (damaged
    /// medium, or the file was cut short by someone else), and the range must not be touched.
    pub fn populate(&self, range: Range<usize>) -> io::Result<()> {
        if range.start > range.end || range.end > self.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("bytes {range:?} of a map of {} bytes", self.len()),
            ));
        }
        match &self.view {
            View::Copy(_) => Ok(()),
            View::File { .. } if range.is_empty() => Ok(()),
            View::File { pages, file } => populate(pages, file, range),
        }
    }
}

#[cfg(target_os = "linux")]
fn populate(pages: &Mmap, file: &File, range: Range<usize>) -> io::Result<()> {
    loop {
        match pages.advise_range(memmap2::Advice::PopulateRead, range.start, range.len()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Kernels before 5.14 do not know this advice.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return check_by_reading(file, range);
            }
            result => return result,
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn populate(_pages: &Mmap, file: &File, range: Range<usize>) -> io::Result<()> {
    check_by_reading(file, range)
}

/// Reads `range` in whole blocks, which direct files want, and forgets the bytes.
fn check_by_reading(file: &File, range: Range<usize>) -> io::Result<()> {
    let mut position = range.start - range.start % ALIGNMENT;
    let mut buffer =
        AlignedBuffer::zeroed(CHECK_BYTES.min((range.end - position).next_multiple_of(ALIGNMENT)));
    while position < range.end {
        match file.read_at(&mut buffer, position as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            // A read that ends inside a block met the end of the file, or was cut short: the next
            // one starts at the block again, and only the end of the file keeps it from passing.
            Ok(read) if read < ALIGNMENT && position + read < range.end => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(read) if position + read >= range.end => return Ok(()),
            Ok(read) => position += read - read % ALIGNMENT,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.view {
            View::File { pages, .. } => pages,
            View::Copy(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").field("bytes", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn file_of(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    #[test]
    fn a_map_shows_the_whole_file_and_populates_any_range_of_it() {
        let bytes: Vec<u8> = (0..10_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let map = Map::of_file(&file_of(&bytes)).unwrap();
        assert_eq!(&*map, &bytes[..]);
        for range in [0..0, 0..1, 5000..9000, 9999..10_000, 0..10_000, 10_000..10_000] {
            map.populate(range.clone()).unwrap();
            populate_by_reading(&map, range).unwrap();
        }
        assert_eq!(map.populate(0..10_001).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn an_empty_file_has_an_empty_map() {
        let map = Map::of_file(&file_of(b"")).unwrap();
        assert!(map.is_empty());
        map.populate(0..0).unwrap();
    }

    #[test]
    fn a_page_that_is_gone_is_an_error_and_not_a_signal() {
        let file = file_of(&vec![7; 64 * 1024]);
        let map = Map::of_file(&file).unwrap();
        map.populate(0..64 * 1024).unwrap();
        file.set_len(8192).unwrap();
        map.populate(0..8192).unwrap();
        assert!(map.populate(4096..12_288).is_err());
        assert!(populate_by_reading(&map, 4096..12_288).is_err());
        assert!(populate_by_reading(&map, 60_000..61_000).is_err());
    }

    #[test]
    fn a_map_outlives_the_name_of_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sealed");
        fs::write(&path, b"still here").unwrap();
        let map = Map::of_file(&Arc::new(File::open(&path).unwrap())).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(&*map, b"still here");
    }

    fn populate_by_reading(map: &Map, range: Range<usize>) -> io::Result<()> {
        let View::File { file, .. } = &map.view else { panic!("a map of a file") };
        check_by_reading(file, range)
    }
}
