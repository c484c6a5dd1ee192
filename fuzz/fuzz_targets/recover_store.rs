//! See [`fanlog_fuzz::recover`].
#![no_main]

use fanlog_fuzz::recover::{Case, run};

libfuzzer_sys::fuzz_target!(|input: Case| run(&input));
