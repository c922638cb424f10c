//! Every structure, field, type and constant of xen-sys against Xen's own headers.
//!
//! `ctest` writes a C file that reports what the headers say and a Rust file that compares.
//! Both are built here and not by a build script, so that building the workspace needs no
//! headers; this test does, and fails without them.

use std::path::Path;
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// From `libxen-dev`, in an order that compiles.
const HEADERS: [&str; 14] = [
    "stddef.h",
    "xen/xen.h",
    "xen/event_channel.h",
    "xen/grant_table.h",
    "xen/sched.h",
    "xen/vcpu.h",
    "xen/physdev.h",
    "xen/version.h",
    "xen/elfnote.h",
    "xen/errno.h",
    "xen/io/console.h",
    "xen/io/xs_wire.h",
    "xen/io/xenbus.h",
    "xen/io/pciif.h",
];

/// What C has no name for.
const NOT_IN_C: [&str; 2] = ["STUB_SIZE", "MAX_POLL_PORTS"];

/// A structure that is an unnamed member in C, and how to name its type there.
const UNNAMED_IN_C: (&str, &str) =
    ("start_info_console", "__typeof__(((struct start_info *)0)->console.domU)");

/// Fields whose type is said in another way here: handles are pointers, text is bytes, a
/// member of a union stands for the union. Their size and offset are compared all the same.
const UNTYPED: [(&str, &str); 8] = [
    ("start_info", "magic"),
    ("start_info", "console"),
    ("gnttab_setup_table", "frame_list"),
    ("sched_poll", "ports"),
    ("xencons_interface", "in"),
    ("xencons_interface", "out"),
    ("xenstore_domain_interface", "req"),
    ("xenstore_domain_interface", "rsp"),
];

fn generator(out: &Path) -> ctest::TestGenerator {
    let mut generator = ctest::TestGenerator::new();
    generator.target(TARGET).edition(2024).out_dir(out);
    for header in HEADERS {
        generator.header(header);
    }
    generator
        .skip_const(|constant| NOT_IN_C.contains(&constant.ident()))
        .rename_struct_ty(|name| {
            (name == UNNAMED_IN_C.0).then(|| UNNAMED_IN_C.1.to_owned())
        })
        .skip_struct_field_type(|structure, field| {
            UNTYPED.contains(&(structure.ident(), field.ident()))
        });
    generator
}

#[expect(clippy::expect_used, reason = "a test's helper")]
fn run(what: &str, command: &mut Command) -> String {
    let output = command.output().expect(what);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{what}: {}\n{text}", output.status);
    text
}

#[test]
fn everything_is_as_in_xens_headers() {
    assert!(
        Path::new("/usr/include/xen/xen.h").exists(),
        "Xen's public headers are missing: install the package libxen-dev"
    );
    let out = tempfile::tempdir().unwrap();
    let out = out.path();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    generator(out).generate_files(&source, "compare.rs").unwrap();

    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    run(
        "C compiler",
        Command::new(compiler)
            .args(["-c", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"])
            .args(["-Wno-type-limits", "-Wno-pointer-sign"])
            // Without it the headers describe the interface of 2004.
            .arg("-D__XEN_INTERFACE_VERSION__=__XEN_LATEST_INTERFACE_VERSION__")
            .arg(out.join("compare.c"))
            .arg("-o")
            .arg(out.join("compare.o")),
    );
    let rustc = || {
        let mut rustc = Command::new(std::env::var("RUSTC").unwrap_or("rustc".into()));
        rustc.args(["--edition", "2024", "--cap-lints", "allow", "--out-dir"]).arg(out);
        rustc
    };
    run(
        "rustc of xen-sys",
        rustc().args(["--crate-name", "xen_sys", "--crate-type", "rlib"]).arg(&source),
    );
    let main = out.join("main.rs");
    std::fs::write(&main, "use xen_sys::*;\ninclude!(\"compare.rs\");\n").unwrap();
    run(
        "rustc of the comparison",
        rustc()
            .arg(&main)
            .arg("--extern")
            .arg(format!("xen_sys={}", out.join("libxen_sys.rlib").display()))
            .arg(format!("-Clink-arg={}", out.join("compare.o").display())),
    );
    let report = run("comparison", &mut Command::new(out.join("main")));
    println!("{report}");
}
