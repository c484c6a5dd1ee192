//! See [`fanlog_fuzz::recover`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fanlog_fuzz::recover::run(bytes));
