#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tbot::fuzzing::v1_request(data));
