//! Whatever both ends write.

use proptest::prelude::*;

use super::{Bed, NVME, set};
use pcidom_xenbus::{GrantRef, Port};

/// What either end may do at any moment.
fn step() -> impl Strategy<Value = (bool, String, String)> {
    let state = (0..10_u8).prop_map(|n| n.to_string());
    let text = prop_oneof![state, "[0-9]{1,12}", ".{0,6}", Just("7".to_string())];
    let front = prop_oneof![
        4 => Just("state".to_string()),
        1 => Just("pci-op-ref".to_string()),
        1 => Just("event-channel".to_string()),
        1 => Just("magic".to_string()),
    ];
    let back = prop_oneof![
        3 => Just("state".to_string()),
        1 => Just("num_devs".to_string()),
        1 => Just("dev-1".to_string()),
        2 => Just("state-0".to_string()),
        1 => Just("state-1".to_string()),
        1 => Just("vdev-0".to_string()),
    ];
    prop_oneof![
        3 => (Just(true), front, text.clone()),
        1 => (Just(false), back, text),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// `Bed::run` checks that nothing is mapped twice or disconnected twice, and that no
    /// event leads in circles.
    #[test]
    fn whatever_both_ends_write_a_sane_guest_can_connect_afterwards(
        steps in prop::collection::vec(step(), 0..40),
        map_fails in any::<bool>(),
    ) {
        let mut bed = Bed::connected();
        bed.map_fails = map_fails;
        for (is_front, key, value) in steps {
            if is_front {
                bed.guest(&[(&key, &value)]);
            } else {
                bed.toolstack(&[(&key, &value)]);
            }
        }
        // The guest's driver is loaded again; a toolstack would have made the directories.
        bed.map_fails = false;
        set(&mut bed.front, &[("pci-op-ref", "5"), ("event-channel", "6"), ("magic", "7")]);
        bed.guest_state("6");
        bed.toolstack(&[("state", "1"), ("num_devs", "1"), ("dev-0", NVME), ("state-0", "1")]);
        bed.guest_state("1");
        bed.guest_state("3");
        prop_assert_eq!(bed.mapped, Some((GrantRef(5), Port(6))));
        prop_assert_eq!((bed.back("state"), bed.back("state-0")), ("4", "3"));
    }
}
