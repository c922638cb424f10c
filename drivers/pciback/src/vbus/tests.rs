use super::{PlaceError, Placing, RootText, VdevText, VirtualBus};
use pcidom_loan::BusPolicy;
use pcidom_pci::Sbdf;

fn placing(device: &str) -> Placing {
    Placing {
        device: device.parse().unwrap(),
        slot: None,
        policy: BusPolicy::Vpci,
        virtual_function: false,
        bridge: false,
    }
}

fn by(policy: BusPolicy) -> impl Fn(&str) -> Placing {
    move |device| Placing { policy, ..placing(device) }
}

fn place(bus: &mut VirtualBus, wanted: Placing) -> String {
    VdevText(bus.place(wanted).unwrap()).to_string()
}

#[test]
fn functions_of_one_physical_slot_share_a_virtual_slot() {
    let mut bus = VirtualBus::new();
    assert_eq!(place(&mut bus, placing("01:00.0")), "0000:00:00.00");
    assert_eq!(place(&mut bus, placing("02:00.1")), "0000:00:01.01");
    assert_eq!(place(&mut bus, placing("02:00.0")), "0000:00:01.00");
    assert_eq!(place(&mut bus, placing("01:00.3")), "0000:00:00.03");
    assert_eq!(place(&mut bus, placing("0001:01:00.0")), "0000:00:02.00");
}

#[test]
fn a_function_keeps_its_address_when_it_is_placed_again() {
    for policy in BusPolicy::ALL {
        let mut bus = VirtualBus::new();
        place(&mut bus, by(policy)("01:00.0"));
        let first = place(&mut bus, by(policy)("02:00.0"));
        assert_eq!(place(&mut bus, by(policy)("02:00.0")), first);
        let at = bus.address_of("02:00.0".parse().unwrap()).unwrap();
        assert_eq!(bus.at(at), "02:00.0".parse::<Sbdf>().ok());
    }
}

#[test]
fn virtual_functions_with_number_0_stand_alone() {
    let vf = |device| Placing { virtual_function: true, ..placing(device) };
    let mut bus = VirtualBus::new();
    assert_eq!(place(&mut bus, vf("01:10.0")), "0000:00:00.00");
    assert_eq!(place(&mut bus, vf("01:10.2")), "0000:00:01.02");
    assert_eq!(place(&mut bus, vf("01:10.3")), "0000:00:01.03");
}

#[test]
fn a_wished_slot_is_honoured_or_refused() {
    let wish = |device, slot| Placing { slot: Some(slot), ..placing(device) };
    let mut bus = VirtualBus::new();
    assert_eq!(place(&mut bus, wish("01:00.0", 5)), "0000:00:05.00");
    assert_eq!(bus.place(wish("02:00.0", 5)), Err(PlaceError::Taken(5)));
    assert_eq!(bus.place(wish("03:00.0", 32)), Err(PlaceError::Taken(32)));
    // The rest of a device goes where it is, or not at all.
    assert_eq!(bus.place(wish("01:00.1", 9)), Err(PlaceError::Bound(5)));
    assert_eq!(place(&mut bus, wish("01:00.1", 5)), "0000:00:05.01");
    assert_eq!(place(&mut bus, wish("02:00.0", 31)), "0000:00:1f.00");
}

#[test]
fn a_full_bus_refuses_one_more_and_takes_it_after_a_removal() {
    let mut bus = VirtualBus::new();
    for number in 0..32 {
        place(&mut bus, placing(&format!("{number:02x}:00.0")));
    }
    assert_eq!(bus.place(placing("20:00.0")), Err(PlaceError::Full(32)));
    // What is on it already has room for its other functions.
    assert_eq!(place(&mut bus, placing("07:00.5")), "0000:00:07.05");
    bus.remove("07:00.0".parse().unwrap());
    assert_eq!(bus.place(placing("20:00.0")), Err(PlaceError::Full(32)));
    bus.remove("07:00.5".parse().unwrap());
    assert_eq!(place(&mut bus, placing("20:00.0")), "0000:00:07.00");
}

#[test]
fn bridges_are_refused_by_every_policy() {
    for policy in BusPolicy::ALL {
        let bridge = Placing { bridge: true, ..by(policy)("00:1c.0") };
        assert_eq!(VirtualBus::new().place(bridge), Err(PlaceError::Bridge));
    }
}

#[test]
fn with_slots_every_function_is_function_0_of_its_own_slot() {
    let function = by(BusPolicy::Slot);
    let mut bus = VirtualBus::new();
    assert_eq!(place(&mut bus, function("02:00.3")), "0000:00:00.00");
    assert_eq!(place(&mut bus, function("02:00.0")), "0000:00:01.00");
    let wish = |device, slot| Placing { slot: Some(slot), ..function(device) };
    assert_eq!(place(&mut bus, wish("02:00.1", 7)), "0000:00:07.00");
    assert_eq!(bus.place(wish("03:00.0", 1)), Err(PlaceError::Taken(1)));
    bus.remove("02:00.3".parse().unwrap());
    assert_eq!(place(&mut bus, function("04:00.0")), "0000:00:00.00");
}

#[test]
fn with_slots_there_are_two_buses_and_each_is_a_root_of_its_own() {
    let function = by(BusPolicy::Slot);
    let mut bus = VirtualBus::new();
    let device = |n: u32| format!("{:02x}:00.{}", n / 8, n % 8);
    for n in 0..64 {
        let at = bus.place(function(&device(n))).unwrap();
        let expected = format!("0000:{:02x}:{:02x}.00", n / 32, n % 32);
        assert_eq!(VdevText(at).to_string(), expected);
        assert_eq!(RootText::of(at).to_string(), format!("0000:{:02x}", n / 32));
    }
    assert_eq!(bus.place(function(&device(64))), Err(PlaceError::Full(64)));
    bus.remove(device(40).parse().unwrap());
    assert_eq!(place(&mut bus, function(&device(64))), "0000:01:08.00");
}

#[test]
fn with_passthrough_the_address_is_the_physical_one_and_no_other() {
    let physical = by(BusPolicy::Passthrough);
    let mut bus = VirtualBus::new();
    for (device, vdev, root) in [
        ("0000:03:00.1", "0000:03:00.01", "0000:03"),
        ("0000:00:1f.2", "0000:00:1f.02", "0000:00"),
        ("0001:03:00.1", "0001:03:00.01", "0001:03"),
    ] {
        let at = bus.place(physical(device)).unwrap();
        assert_eq!(VdevText(at).to_string(), vdev);
        assert_eq!(RootText::of(at).to_string(), root);
    }
    let elsewhere = Placing { slot: Some(4), ..physical("04:00.0") };
    assert_eq!(bus.place(elsewhere), Err(PlaceError::Bound(0)));
}

#[test]
fn no_two_functions_have_one_address_even_if_policies_were_mixed() {
    let mut bus = VirtualBus::new();
    assert_eq!(place(&mut bus, placing("05:00.0")), "0000:00:00.00");
    let same = by(BusPolicy::Passthrough)("00:00.0");
    assert_eq!(bus.place(same), Err(PlaceError::Taken(0)));
    assert_eq!(place(&mut bus, by(BusPolicy::Slot)("06:00.0")), "0000:00:01.00");
}
