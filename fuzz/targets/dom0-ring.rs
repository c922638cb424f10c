//! libFuzzer's program for the target `dom0-ring`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pcidom_fuzz::dom0_ring::run(data));
