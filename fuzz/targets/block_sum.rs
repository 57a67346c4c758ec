#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| inn_fuzz::block_sum(data));
