#![no_main]

#[path = "../../tests/fuzz/targets/mod.rs"]
#[allow(dead_code, reason = "what only the tests ask")]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::relay::check(bytes));
