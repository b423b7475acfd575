#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| datadog_traceroute_server::fuzzing::policy(data));
