#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| inn_fuzz::node_session(data));
