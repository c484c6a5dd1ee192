//! What a directory takes on the disk.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

/// Bytes of the blocks of all files below `dir`: what a file was made longer by without being
/// written is not in it. A file that goes away meanwhile counts as nothing.
pub(crate) fn bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        bytes +=
            if metadata.is_dir() { self::bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}
