//! Conversions between sizes, in one place: each either cannot lose anything or says that it may.

const _: () = assert!(usize::BITS >= 32 && usize::BITS <= 64);

/// Widens; lossless, as no supported machine has less than 32 bits.
#[inline]
#[expect(clippy::as_conversions, reason = "lossless: usize has at least 32 bits")]
pub(crate) const fn usize_of(n: u32) -> usize {
    n as usize
}

/// Widens; lossless, as no supported machine has more than 64 bits.
#[inline]
#[expect(clippy::as_conversions, reason = "lossless: usize has at most 64 bits")]
pub(crate) const fn u64_of(n: usize) -> u64 {
    n as u64
}

/// Narrows a size that the caller has bounded.
#[inline]
#[track_caller]
pub(crate) fn u32_of(n: usize) -> u32 {
    u32::try_from(n).expect("the caller bounds this size")
}

/// Narrows; what does not fit becomes the largest value, which no slice has.
#[inline]
pub(crate) fn usize_saturating(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
