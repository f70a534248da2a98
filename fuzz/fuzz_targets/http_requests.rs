//! See `tools/fuzz-targets/src/http_requests.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::run("http_requests", data));
