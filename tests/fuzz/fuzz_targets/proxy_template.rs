#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tbot::fuzzing::proxy_template(data));
