//! Names of files: any name is one of the store's, and the only one of its file, or is a stranger's.

use fanlog_segment_format::{FileName, SegmentId, TemporaryOf};

/// Reads `bytes` as a name; makes names of the numbers in them and reads those.
pub fn run(bytes: &[u8]) {
    if let Ok(name) = std::str::from_utf8(bytes)
        && let Some(file) = FileName::parse(name)
    {
        assert_eq!(file.to_string(), name, "a file has one name");
    }
    let Some((number, rest)) = bytes.split_first_chunk::<8>() else { return };
    let number = u64::from_le_bytes(*number);
    let generation = rest.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let segment = SegmentId(number);
    let mut files = vec![
        FileName::of_segment(segment, generation),
        FileName::Free(number),
        FileName::Checkpoint(number),
        FileName::Temporary(TemporaryOf::Checkpoint(number)),
        FileName::Lock,
    ];
    if generation > 0 {
        files.push(FileName::Temporary(TemporaryOf::Rewritten(segment, generation)));
    }
    for file in files {
        assert_eq!(FileName::parse(&file.to_string()), Some(file), "a name is of its file");
    }
}
