//! Runs one input and says what happens, as `RUST_LOG=trace` or less has it:
//! `cargo run -p pcidom-fuzz --example replay -- TARGET FILE`.

use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    env_logger::init();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [target, file] = arguments.as_slice() else {
        return Err("which target, and which file?".into());
    };
    let (_, run) = pcidom_fuzz::TARGETS
        .iter()
        .find(|(name, _)| name == target)
        .ok_or("no such target")?;
    run(&fs::read(file)?);
    println!("nothing is wrong with it");
    Ok(())
}
