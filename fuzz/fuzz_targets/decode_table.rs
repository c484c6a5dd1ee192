//! See [`fanlog_fuzz::table`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fanlog_fuzz::table::run(bytes));
