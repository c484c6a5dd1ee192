//! Tests of the format, through the public functions only.

#![expect(clippy::cast_possible_truncation, reason = "the sizes in these tests are small")]

mod checksum;
mod damage;
mod footer;
mod golden;
mod random;
mod round_trip;
mod samples;
mod strategies;
mod table;
