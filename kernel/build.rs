//! Link arguments of the image; the library needs none.
//!
//! They make a static, non-relocatable ELF out of an ordinary host build, so that neither
//! another target nor rustflags are needed.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_IMAGE").is_none() {
        return;
    }
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let script = here.join("../linker.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    let arguments = [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        // Comes after the compiler's own -pie and wins.
        "-no-pie",
        "-Wl,--gc-sections",
        // Functions with the same code become one. Rust promises no function an address of its
        // own, so nothing may tell them apart. Only lld, which the toolchain links with, can.
        "-Wl,--icf=all",
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=0x1000",
        "-Wl,-z,noexecstack",
    ];
    for argument in arguments {
        println!("cargo:rustc-link-arg-bin=pcidom={argument}");
    }
    println!("cargo:rustc-link-arg-bin=pcidom=-Wl,-T,{}", script.display());
}
