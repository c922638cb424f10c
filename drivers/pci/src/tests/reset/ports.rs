//! Slot and secondary bus resets of everything below a port.

use core::time::Duration;

use super::{Done, Failed, Plan, scan};
use crate::address::Sbdf;
use crate::fake::{FakeBackend, FakeFunction, FakeTree, Fault};
use crate::function::{Buses, Function};
use crate::reset::{
    BUS_RESET_HOLD, BUS_RESET_WAIT, CONVENTIONAL_WAIT, Method, READY_BOUND, ResetError,
    reset,
};

/// The functions of the tree: a port, and what is below it.
pub(super) const PORT: &str = "0000:00:02.0";
pub(super) const BELOW: [&str; 2] = ["0000:02:00.0", "0000:02:00.1"];

pub(super) fn at(text: &str) -> Sbdf {
    text.parse().unwrap()
}

/// A network card of two functions in a slot, everything armed. Device Control and BARs have
/// values that a reset loses.
pub(super) fn card() -> FakeTree {
    let port = FakeFunction::port_like(2, 2, true);
    let mut port = FakeBackend::new(at(PORT), port);
    port.arms().quirks = vec![(0x3e, 2), (0x68, 2), (0x6a, 2)];
    let mut all = vec![port];
    for (n, below) in (0..).zip(BELOW) {
        let mut nic = FakeFunction::builder(0x8086, 0x1521, 0x02_0000, 1);
        nic.subsystem(0x8086, 0x0001)
            .put(0x0e, &[0x80])
            .memory_bar(0, 0x2_0000, false)
            .io_bar(2, 0x20)
            .losing_pm(0xc8)
            .msix(0xa0, 5, 0, 0, 0, 0x2000)
            .af(0x70)
            .pcie(0xe0, true);
        let bar = 0xfe64_0000 + 0x2_0000 * n;
        let registers = [(0x10, bar), (0x18, 0xc000), (0x04, 0x0003), (0xe8, 0x2810)];
        let mut nic = nic.build(&registers);
        nic.set_ready_after(Duration::from_millis(120));
        let mut nic = FakeBackend::new(at(below), nic).armed(Some(0xe0));
        nic.arms().quirks.push((0x74, 1));
        all.push(nic);
    }
    FakeTree::new(all)
}

pub(super) fn scanned(tree: &mut FakeTree, device: &str) -> Function {
    let found = tree.run_at(at(device), |config| async move { scan(&config).await }).0;
    found.unwrap()
}

/// A plan for both functions of the card; the first one alone for its own methods.
pub(super) fn plan(tree: &mut FakeTree, method: Method) -> Plan {
    let of_port = method.is_of_port();
    let below = if of_port { &BELOW[..] } else { &BELOW[..1] };
    let functions = below.iter().map(|device| scanned(tree, device)).collect();
    let port = of_port.then(|| scanned(tree, PORT));
    tree.backends_mut().iter_mut().for_each(|backend| {
        backend.hardware_mut().take_writes();
    });
    Plan { methods: vec![method], functions, port }
}

pub(super) fn run(tree: &mut FakeTree, plan: &Plan) -> (Result<Done, Failed>, Duration) {
    let plan = plan.clone();
    tree.run_at(at(BELOW[0]), |config| async move {
        reset(&config, &plan).await.map_err(|failed| *failed)
    })
}

/// The bytes of all functions.
pub(super) fn bytes(tree: &FakeTree) -> Vec<Vec<u8>> {
    tree.backends().iter().map(|backend| backend.hardware().bytes().to_vec()).collect()
}

/// The writes that reached the port.
fn port_writes(tree: &mut FakeTree) -> Vec<(u16, u32)> {
    let port = tree.get_mut(at(PORT)).unwrap();
    let writes = port.hardware_mut().take_writes();
    writes.iter().map(|(register, value)| (register.offset(), *value)).collect()
}

#[test]
fn a_port_is_scanned_with_its_buses_and_its_slot() {
    let mut tree = card();
    let port = scanned(&mut tree, PORT);
    assert_eq!(port.buses, Some(Buses { secondary: 2, subordinate: 2 }));
    assert!(Method::Slot.is_in(&port) && Method::SecondaryBus.is_in(&port));
    assert!(port.is_above(at(BELOW[1])) && !port.is_above(at(PORT)));
    let text = port.to_string();
    assert!(text.ends_with(", port of buses 02 to 02, hot-plug slot"), "{text}");
    let plain = FakeFunction::port_like(3, 5, false);
    let mut plain = FakeTree::new(vec![FakeBackend::new(at(PORT), plain)]);
    let port = scanned(&mut plain, PORT);
    assert!(!Method::Slot.is_in(&port) && Method::SecondaryBus.is_in(&port));
    let inside = |bus| port.is_above(Sbdf::new(0, bus, 0, 0).unwrap());
    assert_eq!([2, 3, 5, 6].map(inside), [false, true, true, false]);
    assert!(!port.is_above(Sbdf::new(1, 4, 0, 0).unwrap()));
}

#[test]
fn a_bus_reset_brings_both_functions_back_as_they_were_scanned() {
    let mut tree = card();
    let fresh = bytes(&tree);
    let plan = plan(&mut tree, Method::SecondaryBus);
    for below in BELOW {
        // Used by a guest: bus master, MSI-X, its own Device Control.
        let hardware = tree.get_mut(at(below)).unwrap().hardware_mut();
        hardware.set_bytes(0x04, &[0x07, 0x04]);
        hardware.set_bytes(0xa2, &[0x04, 0x80]);
        hardware.set_bytes(0xe8, &[0x10, 0x58]);
    }
    let (result, time) = run(&mut tree, &plan);
    assert_eq!(result.unwrap().method, Some(Method::SecondaryBus));
    assert_eq!(port_writes(&mut tree), [(0x3e, 0x40), (0x3e, 0)]);
    let port = tree.get_mut(at(PORT)).unwrap();
    assert_eq!(port.hardware().alarms(), 1, "the slot's events were on");
    port.hardware_mut().set_bytes(0x6a, &[0, 0]);
    assert_eq!(bytes(&tree), fresh);
    for below in BELOW {
        assert_eq!(tree.get_mut(at(below)).unwrap().hardware().resets(), 1);
    }
    // 100 ms, and then 1 + 2 + 4 + 8 + 16 until 120 have passed.
    let polled = Duration::from_millis(31);
    assert_eq!(time, BUS_RESET_HOLD + BUS_RESET_WAIT + polled);
}

#[test]
fn a_slot_reset_causes_no_event_and_leaves_the_slot_as_it_was() {
    let mut tree = card();
    let fresh = bytes(&tree);
    let plan = plan(&mut tree, Method::Slot);
    let (result, _) = run(&mut tree, &plan);
    assert_eq!(result.unwrap().method, Some(Method::Slot));
    assert_eq!(tree.get_mut(at(PORT)).unwrap().hardware().alarms(), 0);
    assert_eq!(bytes(&tree), fresh);
    assert_eq!(
        port_writes(&mut tree),
        [(0x68, 0), (0x3e, 0x40), (0x3e, 0), (0x6a, 0x0118), (0x68, 0x1028)]
    );
}

#[test]
fn a_conventional_bus_gets_a_second() {
    let mut tree = card();
    let plan = plan(&mut tree, Method::SecondaryBus);
    let mut plan = plan;
    // To a bridge to PCI, and to one that knows nothing of PCI Express.
    for kind in [Some(7), None] {
        let port = plan.port.as_mut().unwrap();
        port.pcie = port.pcie.zip(kind).map(|(mut pcie, kind)| {
            pcie.port_type = kind;
            pcie
        });
        let (result, time) = run(&mut tree, &plan);
        assert!(result.is_ok());
        assert_eq!(time, BUS_RESET_HOLD + CONVENTIONAL_WAIT);
    }
}

#[test]
fn a_port_that_is_not_armed_resets_nothing_and_nothing_is_lost() {
    let mut tree = card();
    let fresh = bytes(&tree);
    tree.get_mut(at(PORT)).unwrap().arms().quirks.clear();
    let mut plan = plan(&mut tree, Method::Slot);
    plan.methods.push(Method::SecondaryBus);
    let (result, _) = run(&mut tree, &plan);
    let done = result.unwrap();
    assert_eq!(done.method, None);
    let told: Vec<String> = done.useless.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "slot reset had no effect on 0000:02:00.0",
            "secondary bus reset had no effect on 0000:02:00.0"
        ]
    );
    assert_eq!(bytes(&tree), fresh);
}

#[test]
fn a_port_that_does_not_take_the_bit_resets_nothing_even_without_marks() {
    let mut tree = card();
    let plan = plan(&mut tree, Method::SecondaryBus);
    tree.get_mut(at(PORT)).unwrap().arms().quirks.clear();
    for below in BELOW {
        // They show nothing: Cache Line Size is read-only.
        let backend = tree.get_mut(at(below)).unwrap();
        backend.hardware_mut().forbid(0x0c);
    }
    assert_eq!(run(&mut tree, &plan).0.unwrap().method, None);
}

#[test]
fn half_a_reset_is_none_and_both_halves_are_restored() {
    for (n, below) in BELOW.into_iter().enumerate() {
        let mut tree = card();
        let fresh = bytes(&tree);
        let plan = plan(&mut tree, Method::Slot);
        let half = tree.get_mut(at(below)).unwrap().hardware_mut();
        half.set_fault(Fault::Ignores(Method::SecondaryBus));
        let (result, _) = run(&mut tree, &plan);
        let done = result.unwrap();
        assert_eq!((done.method, done.useless[0].at), (None, at(below)));
        assert_eq!(bytes(&tree), fresh);
        let resets = |n: usize| tree.backends()[n + 1].hardware().resets();
        assert_eq!((resets(n), resets(1 - n)), (0, 1));
    }
}

#[test]
fn a_neighbour_that_does_not_come_back_is_named_and_all_are_waited_for_together() {
    let mut tree = card();
    let plan = plan(&mut tree, Method::SecondaryBus);
    for below in BELOW {
        let hardware = tree.get_mut(at(below)).unwrap().hardware_mut();
        hardware.set_ready_after(Duration::from_secs(50));
    }
    let gone = tree.get_mut(at(BELOW[1])).unwrap().hardware_mut();
    gone.set_fault(Fault::NeverReady);
    let (result, time) = run(&mut tree, &plan);
    let failed = result.unwrap_err();
    assert_eq!(failed.at, at(BELOW[1]));
    assert!(matches!(failed.error, ResetError::NotReady { .. }), "{failed}");
    assert!(time < READY_BOUND + Duration::from_secs(2), "{time:?}");
}

#[test]
fn a_bus_that_was_left_in_reset_is_let_out_of_it_first() {
    let mut tree = card();
    let fresh = bytes(&tree);
    let plan = plan(&mut tree, Method::Slot);
    let port = tree.get_mut(at(PORT)).unwrap();
    port.hardware_mut().set_bytes(0x3e, &[0x40]);
    let (result, _) = run(&mut tree, &plan);
    assert_eq!(result.unwrap().method, Some(Method::Slot));
    assert_eq!(bytes(&tree), fresh);
}

#[test]
fn a_function_that_answers_nothing_is_brought_back_by_the_port() {
    for method in [Method::Slot, Method::SecondaryBus] {
        for hung in [&BELOW[..1], &BELOW[1..], &BELOW[..]] {
            let mut tree = card();
            let fresh = bytes(&tree);
            let plan = plan(&mut tree, method);
            for below in hung {
                let hardware = tree.get_mut(at(below)).unwrap().hardware_mut();
                hardware.set_bytes(0x04, &[0x07, 0x04]);
                hardware.set_fault(Fault::Hangs);
            }
            let (result, time) = run(&mut tree, &plan);
            let done = result.unwrap();
            assert_eq!((done.method, done.proven), (Some(method), true));
            assert!(time < Duration::from_secs(1), "nothing to wait for: {time:?}");
            tree.get_mut(at(PORT)).unwrap().hardware_mut().set_bytes(0x6a, &[0, 0]);
            assert_eq!(bytes(&tree), fresh, "{method} {hung:?}");
        }
    }
    // Its own methods can't even be started, and that is said.
    for method in Method::ALL.into_iter().filter(|method| !method.is_of_port()) {
        let mut tree = card();
        let plan = plan(&mut tree, method);
        let hardware = tree.get_mut(at(BELOW[0])).unwrap().hardware_mut();
        hardware.set_fault(Fault::Hangs);
        let failed = run(&mut tree, &plan).0.unwrap_err();
        assert!(matches!(failed.error, ResetError::Silent { .. }), "{failed}");
    }
}

#[test]
fn a_reset_that_a_function_can_not_show_is_not_called_proven() {
    for method in Method::ALL {
        let mut tree = card();
        let plan = plan(&mut tree, method);
        assert!(run(&mut tree, &plan).0.unwrap().proven, "{method}");
        // One that shows nothing is enough.
        let mute = BELOW[plan.functions.len() - 1];
        tree.get_mut(at(mute)).unwrap().hardware_mut().forbid(0x0c);
        let done = run(&mut tree, &plan).0.unwrap();
        assert_eq!((done.method, done.proven), (Some(method), false));
    }
}
