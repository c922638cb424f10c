//! Link arguments of PV images, for build scripts.
//!
//! They make a static, non-relocatable ELF out of an ordinary host build, so that neither
//! another target nor rustflags are needed.

use std::path::Path;

const ARGUMENTS: [&str; 9] = [
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

/// Tells cargo how to link the program `bin` of this package as a PV image.
pub fn image(bin: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../linker.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    for argument in ARGUMENTS {
        println!("cargo:rustc-link-arg-bin={bin}={argument}");
    }
    println!("cargo:rustc-link-arg-bin={bin}=-Wl,-T,{}", script.display());
}
