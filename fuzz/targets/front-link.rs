//! libFuzzer's program for the target `front-link`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pcidom_fuzz::front_link::run(data));
