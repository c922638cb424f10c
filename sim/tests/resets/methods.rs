//! Each method from the order to the report.

use std::time::Duration;

use pcidom_pci::fake::Fault;
use pcidom_pci::reset::Method;
use pcidom_xenbus::DomId;

use super::{NOBODY, bytes, failed, hardware, node, obey, ready, resets, two_functions};

#[test]
fn each_method_works_from_the_order_to_the_report() {
    for method in Method::ALL {
        let mut scene = two_functions(&[method]);
        let (port, first, second) = (scene.device(0), scene.device(1), scene.device(2));
        let fresh = bytes(&scene);
        hardware(&scene, first, |nvme| nvme.set_bytes(0x42, &[0x40, 0x80]));
        let before = resets(&scene, second);
        let order =
            format!("phase=prepare guest={NOBODY} dev={first} port={port} below=2");
        let text = ready(obey(&mut scene, &order));
        let told = match method.is_of_port() {
            true => format!("{method} at {port} of {first} and {second}, "),
            false => format!("{method} of {first}, "),
        };
        let time = text.strip_prefix(&told).and_then(|rest| rest.strip_suffix(" ms"));
        let time: u64 = time.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
        assert!((20..1000).contains(&time), "{text}");
        assert_eq!(resets(&scene, second) - before, u32::from(method.is_of_port()));
        let alarms = hardware(&scene, port, |port| port.alarms());
        assert_eq!(alarms, 0, "{method}");
        assert_eq!(bytes(&scene), fresh, "{method}");
        scene.check_nothing_lent();
    }
}

#[test]
fn a_method_that_has_no_effect_is_told_and_the_port_is_used() {
    let mut scene = two_functions(&[Method::FunctionLevel]);
    let (port, first) = (scene.device(0), scene.device(1));
    hardware(&scene, first, |nvme| {
        nvme.set_fault(Fault::Ignores(Method::FunctionLevel));
    });
    let order = format!("phase=reset guest=0 dev={first} port={port} below=2");
    let text = ready(obey(&mut scene, &order));
    assert!(text.starts_with("secondary bus reset at 0000:00:02.0 of "), "{text}");
    let end = " ms, after function level reset had no effect on 0000:22:00.0";
    assert!(text.ends_with(end), "{text}");
    // And only what was asked for.
    let order = format!("phase=reset guest=0 dev={first} port={port} below=2 method=flr");
    assert_eq!(
        failed(obey(&mut scene, &order)),
        "no reset works: function level reset had no effect on 0000:22:00.0"
    );
    scene.check_nothing_lent();
}

#[test]
fn a_device_that_lost_its_bars_is_noticed_where_pcidom_can_look_past_dom0() {
    let mut scene = two_functions(&[Method::FunctionLevel]);
    let first = scene.device(1);
    hardware(&scene, first, |nvme| nvme.set_fault(Fault::LosesBars));
    let text = format!("phase=prepare guest={NOBODY} dev={first}");
    let reason = failed(obey(&mut scene, &text));
    assert!(reason.starts_with("Base Address Register (0x10) is 0x00000004"), "{reason}");
}

#[test]
fn a_port_is_reported_as_one() {
    let mut scene = two_functions(&[Method::Slot]);
    let dom0 = scene.world.store().connect(DomId::DOM0);
    dom0.write(&node(&scene, "pcidom/query"), "12345").unwrap();
    scene.world.run_for(Duration::from_secs(1));
    let text = dom0.read(&node(&scene, "data/pcidom/report/pool/0")).unwrap();
    assert!(text.starts_with("0000:00:02.0 1b36:000c class 06.04.00"), "{text}");
    assert!(text.contains(", port of buses 22 to 22, hot-plug slot"), "{text}");
}

#[test]
fn a_device_that_answers_nothing_is_brought_back_by_its_port() {
    for method in [Method::FunctionLevel, Method::Slot, Method::SecondaryBus] {
        let mut scene = two_functions(&[method]);
        let (port, first) = (scene.device(0), scene.device(1));
        let fresh = bytes(&scene);
        hardware(&scene, first, |nvme| nvme.set_fault(Fault::Hangs));
        let alone = format!("phase=reset guest=0 dev={first}");
        let reason = failed(obey(&mut scene, &alone));
        let silent = match method {
            Method::FunctionLevel => "0000:22:00.0 does not answer",
            _ => "the device can't reset itself",
        };
        assert_eq!(
            reason,
            format!(
                "no reset works: {silent}; no slot or bus reset: no port above it was named"
            )
        );
        let text = ready(obey(&mut scene, &format!("{alone} port={port} below=2")));
        let by = if method == Method::Slot { method } else { Method::SecondaryBus };
        assert!(text.starts_with(&format!("{by} at {port} of {first} and ")), "{text}");
        assert_eq!(bytes(&scene), fresh);
    }
}

#[test]
fn a_reset_that_does_not_show_is_answered_as_not_proven() {
    let mut scene = two_functions(&[Method::FunctionLevel]);
    let first = scene.device(1);
    hardware(&scene, first, |nvme| nvme.forbid(0x0c));
    let text = ready(obey(&mut scene, &format!("phase=reset guest=0 dev={first}")));
    assert!(text.ends_with(" ms, not proven"), "{text}");
}
