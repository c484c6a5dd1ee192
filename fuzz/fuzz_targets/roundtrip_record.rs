//! See [`fanlog_fuzz::record`].
#![no_main]

use fanlog_fuzz::record::{Fields, run};

libfuzzer_sys::fuzz_target!(|input: Fields<'_>| run(&input));
