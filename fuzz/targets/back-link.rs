//! libFuzzer's program for the target `back-link`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pcidom_fuzz::back_link::run(data));
