//! The tool as a person runs it, where there is no Xen: exit codes and texts.

use std::process::Command;

#[track_caller]
#[expect(clippy::expect_used, reason = "a tool that can't be run is a failed test")]
fn fails(arguments: &[&str], code: i32, fragments: &[&str]) {
    let tool = env!("CARGO_BIN_EXE_pcidomctl");
    let output = Command::new(tool).args(arguments).output().expect("the tool runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    for fragment in fragments {
        assert!(text.contains(fragment), "{arguments:?}: {text}");
    }
}

#[test]
fn a_malformed_device_is_exit_2_in_xls_words() {
    for verb in ["attach", "detach"] {
        let text = format!("{verb}: malformed PCI_SPEC_STRING \"nonsense\"");
        fails(
            &[verb, "g1", "nonsense"],
            2,
            &[&text, "[DDDD:]BB:SS.F", "pcidomctl status"],
        );
    }
    // A reset takes an address and nothing after it.
    for device in ["nonsense", "01:00.0@3", "01:00.0,permissive=0"] {
        let text = format!("reset: malformed PCI_SPEC_STRING \"{device}\"");
        fails(&["reset", device], 2, &[&text, "[DDDD:]BB:SS.F"]);
    }
}

#[test]
fn a_command_that_makes_no_sense_is_exit_2() {
    fails(&["attach", "g1"], 2, &["Usage: pcidomctl attach"]);
    fails(&["reset"], 2, &["Usage: pcidomctl reset"]);
    let methods = "there are flr, af, pm, slot and bus";
    fails(&["reset", "01:00.0", "--method", "kick"], 2, &["kick", methods]);
    let policies = "there are vpci, slot and passthrough";
    fails(&["attach", "--bus", "isa", "g1", "01:00.0"], 2, &["isa", policies]);
    fails(&["fly"], 2, &["Usage: pcidomctl"]);
    fails(&[], 2, &["Usage: pcidomctl"]);
}

#[test]
fn an_option_of_xl_that_pcidom_does_not_have_is_exit_1() {
    let text = "pcidom takes power_mgmt=0 only";
    fails(&["attach", "g1", "01:00.0,power_mgmt=1"], 1, &[text]);
    let text = "no-strict-reset=2 is not supported";
    fails(&["attach", "g1", "01:00.0,no-strict-reset=2"], 1, &[text]);
}
