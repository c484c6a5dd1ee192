//! Seeds that once showed a bug.
