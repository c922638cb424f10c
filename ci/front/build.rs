//! The program is linked as a PV image.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    pcidom_link::image("bed-front");
}
