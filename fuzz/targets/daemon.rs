//! libFuzzer's program for the target `daemon`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pcidom_fuzz::daemon::run(data));
