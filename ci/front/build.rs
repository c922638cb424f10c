//! Link arguments of a PV image: those of pcidom (kernel/build.rs), which says why.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let script = here.join("../../linker.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    let arguments = [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--gc-sections",
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=0x1000",
        "-Wl,-z,noexecstack",
    ];
    for argument in arguments {
        println!("cargo:rustc-link-arg-bin=bed-front={argument}");
    }
    println!("cargo:rustc-link-arg-bin=bed-front=-Wl,-T,{}", script.display());
}
