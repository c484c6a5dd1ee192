//! See [`fanlog_fuzz::name`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fanlog_fuzz::name::run(bytes));
