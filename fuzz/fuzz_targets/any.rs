//! The target that the variable `FUZZ_TARGET` names, one of `fuzz_targets::TARGETS`. One program for all of them: it is built once, and a
//! new target needs nothing here.

#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<&fuzz_targets::Target> =
    LazyLock::new(|| fuzz_targets::target(&std::env::var("FUZZ_TARGET").unwrap_or_default()));

libfuzzer_sys::fuzz_target!(|data: &[u8]| (TARGET.run)(data));
