//! What happens to a device when its guest ends.

use std::time::Duration;

use pcidom_pci::regs::command as bits;
use pcidom_sim::xen::DOM_IO;
use pcidom_xenbus::pciif::{RawOp, command};

use super::Raw;

#[test]
fn xsa_302_a_dead_guests_device_goes_to_quarantine_without_dma_and_never_to_dom0() {
    let mut raw = Raw::new(4);
    let (device, guest) = (raw.device(), raw.guest);
    let enable = RawOp { cmd: command::ENABLE_MSIX, value: 2, ..RawOp::default() };
    assert_eq!(raw.op(enable, &[0, 1]).err, 0);
    assert_eq!(raw.write(4, 2, (bits::MEMORY | bits::BUS_MASTER).into()), 0);
    let xen = raw.scene.world.xen().clone();
    assert!(xen.is_master(device));
    raw.scene.xl.destroy_at_once(guest);
    let mut quarantined = false;
    for _ in 0..50_000 {
        raw.scene.world.run_for(Duration::from_micros(100));
        let owner = xen.owner(device).unwrap();
        assert!(owner == guest || owner == DOM_IO, "it is {owner}'s");
        quarantined |= owner == DOM_IO;
        assert!(!quarantined || owner == DOM_IO, "it went back");
        assert!(owner == guest || !xen.is_master(device), "DMA in quarantine");
    }
    assert!(quarantined);
    raw.scene.check_nothing_lent();
}
