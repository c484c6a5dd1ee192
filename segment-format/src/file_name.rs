//! Names of the files of a store. Canonical: each file has one name, all others are unknown.

use std::fmt;

use crate::SegmentId;

/// Fewest digits of a number in a file name.
const DIGITS_MIN: usize = 8;
const LOCK: &str = "fanlog.lock";

/// A file of a store, by its name. Whatever does not parse is not ours and is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// A segment: `00000042.seg`.
    Segment(SegmentId),
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
    /// `00000042.seg.tmp` becomes `00000042.seg`.
    Segment(SegmentId),
    /// `00000003.ckpt.tmp` becomes `00000003.ckpt`.
    Checkpoint(u64),
}

impl FileName {
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
                Self::Segment(segment) => TemporaryOf::Segment(segment),
                Self::Checkpoint(checkpoint) => TemporaryOf::Checkpoint(checkpoint),
                Self::Free(_) | Self::Temporary(_) | Self::Lock => return None,
            }));
        }
        if let Some(rest) = name.strip_suffix(".seg") {
            return Some(Self::Segment(SegmentId(number(rest)?)));
        }
        Some(Self::Checkpoint(number(name.strip_suffix(".ckpt")?)?))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Segment(SegmentId(number)) => write!(f, "{number:0DIGITS_MIN$}.seg"),
            Self::Free(number) => write!(f, "free-{number:0DIGITS_MIN$}.seg"),
            Self::Checkpoint(number) => write!(f, "{number:0DIGITS_MIN$}.ckpt"),
            Self::Temporary(TemporaryOf::Segment(segment)) => {
                write!(f, "{}.tmp", Self::Segment(segment))
            }
            Self::Temporary(TemporaryOf::Checkpoint(number)) => {
                write!(f, "{}.tmp", Self::Checkpoint(number))
            }
            Self::Lock => f.write_str(LOCK),
        }
    }
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
        check("00000042.seg.tmp", FileName::Temporary(TemporaryOf::Segment(SegmentId(42))));
        check("fanlog.lock", FileName::Lock);
    }

    #[test]
    fn other_names_are_not_ours() {
        for name in [
            "",
            ".seg",
            "42.seg",
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
