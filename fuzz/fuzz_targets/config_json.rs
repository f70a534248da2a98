//! See `tools/fuzz-targets/src/config_json.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::run("config_json", data));
