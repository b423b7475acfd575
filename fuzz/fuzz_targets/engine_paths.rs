#![no_main]

#[path = "../../crates/engine/tests/properties/hostile/mod.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::targets::engine_paths(data));
