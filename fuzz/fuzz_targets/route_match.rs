//! See [`fanlog_fuzz::route`].
#![no_main]

use fanlog_fuzz::route::{Op, run};

libfuzzer_sys::fuzz_target!(|ops: Vec<Op>| run(&ops));
