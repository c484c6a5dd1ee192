//! See [`fanlog_fuzz::ops`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fanlog_fuzz::ops::run(bytes));
