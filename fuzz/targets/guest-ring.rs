//! libFuzzer's program for the target `guest-ring`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pcidom_fuzz::guest_ring::run(data));
