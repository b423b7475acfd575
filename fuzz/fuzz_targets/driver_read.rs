#![no_main]

#[path = "../../crates/wire/tests/wire/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|data: &[u8]| support::targets::driver_read(data));
