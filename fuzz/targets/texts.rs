//! libFuzzer's program for the target `texts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pcidom_fuzz::texts::run(data));
