//! libFuzzer's program for the target `directories`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pcidom_fuzz::directories::run(data));
