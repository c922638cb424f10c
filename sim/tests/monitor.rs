//! The monitor, typed on pcidom's console while a guest uses its device.

use std::time::Duration;

use pcidom_sim::Scene;
use pcidom_sim::scene::NVME;

/// Types a line on pcidom's console and gives what it shows within a second.
fn ask(scene: &mut Scene, line: &str) -> String {
    let terminal = scene.pcidom.borrow().terminal();
    terminal.borrow_mut().output.clear();
    terminal.borrow_mut().input.extend(format!("{line}\r").bytes());
    scene.world.run_for(Duration::from_secs(1));
    let shown = terminal.borrow().output.clone();
    let echo = format!("pcidom> {line}\r\n");
    assert!(shown.starts_with(&echo), "{shown}");
    shown.replacen(&echo, "", 1)
}

#[test]
fn people_can_ask_what_is_lent_while_it_is_used() {
    let mut scene = Scene::ready(1, 2);
    assert!(ask(&mut scene, "loans").contains("0 loan(s)"));
    let guest = scene.lend("guest", 0);
    assert!(scene.guest_uses(&guest, NVME));
    let domain = guest.borrow().domain_id();
    let shown = ask(&mut scene, "pool");
    assert!(shown.contains(&format!(": loan 0 to domain {domain}, Lent")), "{shown}");
    assert!(shown.contains(": free, in quarantine\r\n2 device(s)"), "{shown}");
    let shown = ask(&mut scene, "guests");
    assert!(shown.contains("1 guest(s)") && shown.contains("MSI-X(3)"), "{shown}");
    let shown = ask(&mut scene, "loans");
    assert!(shown.contains("1 loan(s)") && shown.contains("0000:01:00.0"), "{shown}");
    let shown = ask(&mut scene, "leases");
    assert!(shown.contains("MSI-X(3), pirqs "), "{shown}");
    let shown = ask(&mut scene, "ring");
    for part in [
        "loan 0: 0000:01:00.0 Prepare",
        "0000:01:00.0 reset",
        ": link to state 4",
        ": 3 lease(s) asked",
        ": 3 lease(s) granted",
        ": enable MSI-X 0000:00:00.0: ok, ",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(ask(&mut scene, "ring 2").lines().count(), 2);
    assert!(ask(&mut scene, "help").contains("ring [COUNT]"));
    assert!(ask(&mut scene, "nonsense").contains("not a command"));
    assert!(ask(&mut scene, "log loud").contains("log off|error"));
    assert_eq!(ask(&mut scene, "log debug pciback"), "pciback logs at DEBUG\r\n");
    scene.check();
}

#[test]
fn a_dump_shows_a_device_and_holds_nobody_up() {
    let mut scene = Scene::ready(2, 1);
    let guest = scene.lend("guest", 0);
    let shown = ask(&mut scene, "dump 01:00.0");
    assert!(scene.guest_uses(&guest, NVME));
    assert_eq!(guest.borrow().state().timeouts(), 0);
    for part in
        ["000: 36 1b 10 00", "0x000 VENDOR_ID 0x1b36", "0x004 COMMAND 0x", "MSIX_CONTROL"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(ask(&mut scene, "dump 02:00.0").contains("is not a device of the pool"));
    assert!(ask(&mut scene, "dump 2").contains("not a PCI address"));
    scene.check();
}

#[test]
fn a_slow_console_gets_everything_in_order_and_nothing_runs_ahead_of_it() {
    let mut scene = Scene::ready(3, 1);
    let whole = ask(&mut scene, "dump 01:00.0");
    let terminal = scene.pcidom.borrow().terminal();
    terminal.borrow_mut().output.clear();
    terminal.borrow_mut().room = 0;
    terminal.borrow_mut().input.extend(b"dump 01:00.0\r");
    scene.world.run_for(Duration::from_secs(1));
    assert_eq!(terminal.borrow().output, "");
    for _ in 0..whole.len() / 100 {
        terminal.borrow_mut().room = 200;
        scene.world.run_for(Duration::from_millis(50));
    }
    assert_eq!(terminal.borrow().output, format!("pcidom> dump 01:00.0\r\n{whole}"));
    scene.check();
}

#[test]
fn ctrl_c_ends_a_dump() {
    let mut scene = Scene::ready(4, 1);
    let terminal = scene.pcidom.borrow().terminal();
    terminal.borrow_mut().input.extend(b"dump 01:00.0\r\x03");
    scene.world.run_for(Duration::from_secs(1));
    assert!(terminal.borrow().output.ends_with("^C\r\n"));
    assert!(ask(&mut scene, "dump 01:00.0").contains("VENDOR_ID"));
}
