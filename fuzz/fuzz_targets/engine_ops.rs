//! See [`fanlog_fuzz::ops`].
#![no_main]

use fanlog_fuzz::ops::{Op, run};

libfuzzer_sys::fuzz_target!(|ops: Vec<Op>| run(&ops));
