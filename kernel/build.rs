//! The image is linked as one; the library needs no arguments.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_IMAGE").is_some() {
        pcidom_link::image("pcidom");
    }
}
