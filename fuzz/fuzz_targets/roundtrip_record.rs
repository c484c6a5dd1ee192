//! See [`fanlog_fuzz::record`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fanlog_fuzz::record::run(bytes));
