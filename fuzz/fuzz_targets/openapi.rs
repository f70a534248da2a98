//! See `tools/fuzz-targets/src/openapi.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::run("openapi", data));
