//! See [`fanlog_fuzz::footer`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fanlog_fuzz::footer::run(bytes));
