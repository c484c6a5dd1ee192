//! Names of the files of a store. Canonical: each file has one name, all others are unknown.

use std::fmt;

use crate::SegmentId;

/// Fewest digits of a number in a file name.
const DIGITS_MIN: usize = 8;
const LOCK: &str = "fanlog.lock";

/// A file of a store, by its name. Whatever does not parse is not ours and is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// A segment as publishing wrote it: `00000042.seg`.
    Segment(SegmentId),
    /// A segment that was rewritten, and its generation: `00000042.3.seg`.
    Rewritten(SegmentId, u32),
    /// A file kept to become a segment: `free-00000007.seg`.
    Free(u64),
    /// A checkpoint: `00000003.ckpt`.
    Checkpoint(u64),
    /// A file that is being written and will be renamed: `00000042.seg.tmp`.
    Temporary(TemporaryOf),
    /// The lock file: `fanlog.lock`.
    Lock,
}

/// What a temporary file will become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TemporaryOf {
    /// `00000042.3.seg.tmp` becomes `00000042.3.seg`.
    Rewritten(SegmentId, u32),
    /// `00000003.ckpt.tmp` becomes `00000003.ckpt`.
    Checkpoint(u64),
}

impl FileName {
    /// The name of a segment's file.
    pub fn of_segment(segment: SegmentId, generation: u32) -> Self {
        if generation == 0 { Self::Segment(segment) } else { Self::Rewritten(segment, generation) }
    }

    /// Reads a name, or returns `None` if it is not exactly one that `Display` writes.
    pub fn parse(name: &str) -> Option<Self> {
        if name == LOCK {
            return Some(Self::Lock);
        }
        if let Some(rest) = name.strip_prefix("free-") {
            return Some(Self::Free(number(rest.strip_suffix(".seg")?)?));
        }
        if let Some(rest) = name.strip_suffix(".tmp") {
            return Some(Self::Temporary(match Self::parse(rest)? {
                Self::Rewritten(segment, generation) => TemporaryOf::Rewritten(segment, generation),
                Self::Checkpoint(checkpoint) => TemporaryOf::Checkpoint(checkpoint),
                Self::Segment(_) | Self::Free(_) | Self::Temporary(_) | Self::Lock => return None,
            }));
        }
        if let Some(rest) = name.strip_suffix(".seg") {
            if let Some((segment, generation)) = rest.split_once('.') {
                return Some(Self::Rewritten(SegmentId(number(segment)?), raised(generation)?));
            }
            return Some(Self::Segment(SegmentId(number(rest)?)));
        }
        Some(Self::Checkpoint(number(name.strip_suffix(".ckpt")?)?))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Segment(SegmentId(number)) => write!(f, "{number:0DIGITS_MIN$}.seg"),
            Self::Rewritten(SegmentId(number), generation) => {
                write!(f, "{number:0DIGITS_MIN$}.{generation}.seg")
            }
            Self::Free(number) => write!(f, "free-{number:0DIGITS_MIN$}.seg"),
            Self::Checkpoint(number) => write!(f, "{number:0DIGITS_MIN$}.ckpt"),
            Self::Temporary(TemporaryOf::Rewritten(segment, generation)) => {
                write!(f, "{}.tmp", Self::Rewritten(segment, generation))
            }
            Self::Temporary(TemporaryOf::Checkpoint(number)) => {
                write!(f, "{}.tmp", Self::Checkpoint(number))
            }
            Self::Lock => f.write_str(LOCK),
        }
    }
}

/// A generation above 0, without zeros in front.
fn raised(digits: &str) -> Option<u32> {
    let canonical = digits.bytes().all(|digit| digit.is_ascii_digit()) && !digits.starts_with('0');
    if canonical { digits.parse().ok() } else { None }
}

/// At least eight digits, no zeros in front of more than that, and within 64 bits.
fn number(digits: &str) -> Option<u64> {
    let canonical = digits.len() >= DIGITS_MIN
        && digits.bytes().all(|digit| digit.is_ascii_digit())
        && (digits.len() == DIGITS_MIN || !digits.starts_with('0'));
    if canonical { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, file: FileName) {
        assert_eq!(FileName::parse(name), Some(file));
        assert_eq!(file.to_string(), name);
    }

    #[test]
    fn each_file_has_one_name() {
        check("00000042.seg", FileName::Segment(SegmentId(42)));
        check("123456789.seg", FileName::Segment(SegmentId(123_456_789)));
        check("18446744073709551615.ckpt", FileName::Checkpoint(u64::MAX));
        check("free-00000007.seg", FileName::Free(7));
        check("00000003.ckpt", FileName::Checkpoint(3));
        check("00000003.ckpt.tmp", FileName::Temporary(TemporaryOf::Checkpoint(3)));
        check("00000042.3.seg", FileName::Rewritten(SegmentId(42), 3));
        check("123456789.10.seg", FileName::Rewritten(SegmentId(123_456_789), 10));
        let temporary = FileName::Temporary(TemporaryOf::Rewritten(SegmentId(42), 3));
        check("00000042.3.seg.tmp", temporary);
        check("fanlog.lock", FileName::Lock);
    }

    #[test]
    fn other_names_are_not_ours() {
        for name in [
            "",
            ".seg",
            "42.seg",
            "00000042.seg.tmp",
            "00000042.0.seg",
            "00000042.03.seg",
            "00000042..seg",
            "00000042.+3.seg",
            "00000042.3.4.seg",
            "00000042.4294967296.seg",
            "0000042.seg",
            "000000042.seg",
            "0123456789.seg",
            "+0000042.seg",
            "0000004a.seg",
            "00000042.SEG",
            "00000042.seg ",
            "00000042.seg.tmp.tmp",
            "free-00000042.seg.tmp",
            "free-00000042.ckpt",
            "free-free-00000042.seg",
            "fanlog.lock.tmp",
            "18446744073709551616.seg",
            "０0000042.seg",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }
}
