//! The word numbers, flags and codes that pcidom works with (`pcidom_xenbus::pciif`) against
//! the C structure, which `abi.rs` compares with Xen's headers.

use std::mem::offset_of;

use pcidom_xenbus::pciif::{
    AER_HANDLER, BACK_ACTIVE, FRONT_ACTIVE, MAX_MSIX_ENTRIES, OpError, command, word,
};
use xen_sys::{
    SH_INFO_MAX_VEC, XEN_PCI_ERR_access_denied, XEN_PCI_ERR_dev_not_found,
    XEN_PCI_ERR_invalid_offset, XEN_PCI_ERR_not_implemented, XEN_PCI_ERR_op_failed,
    XEN_PCI_OP_aer_detected, XEN_PCI_OP_aer_mmio, XEN_PCI_OP_aer_resume,
    XEN_PCI_OP_aer_slotreset, XEN_PCI_OP_conf_read, XEN_PCI_OP_conf_write,
    XEN_PCI_OP_disable_msi, XEN_PCI_OP_disable_msix, XEN_PCI_OP_enable_msi,
    XEN_PCI_OP_enable_msix, XEN_PCI_OP_enable_multi_msi, XEN_PCIB_AERHANDLER,
    XEN_PCIB_active, XEN_PCIF_active, xen_msix_entry, xen_pci_op, xen_pci_sharedinfo,
    xen_pcie_aer_op,
};

#[test]
fn words_are_where_the_structure_has_them() {
    let op = offset_of!(xen_pci_sharedinfo, op);
    let aer = offset_of!(xen_pci_sharedinfo, aer_op);
    let offsets = [
        (word::FLAGS, offset_of!(xen_pci_sharedinfo, flags)),
        (word::OP, op),
        (word::OP, op + offset_of!(xen_pci_op, cmd)),
        (word::OP_ERR, op + offset_of!(xen_pci_op, err)),
        // `load_op` counts the words between from `OP` on.
        (word::OP + 2, op + offset_of!(xen_pci_op, domain)),
        (word::OP + 3, op + offset_of!(xen_pci_op, bus)),
        (word::OP + 4, op + offset_of!(xen_pci_op, devfn)),
        (word::OP + 5, op + offset_of!(xen_pci_op, offset)),
        (word::OP + 6, op + offset_of!(xen_pci_op, size)),
        (word::OP_VALUE, op + offset_of!(xen_pci_op, value)),
        (word::MSIX, op + offset_of!(xen_pci_op, msix_entries)),
        (word::AER, aer),
        (word::AER, aer + offset_of!(xen_pcie_aer_op, cmd)),
        (word::AER_ERR, aer + offset_of!(xen_pcie_aer_op, err)),
        (word::AER + 2, aer + offset_of!(xen_pcie_aer_op, domain)),
        (word::AER + 3, aer + offset_of!(xen_pcie_aer_op, bus)),
        (word::AER + 4, aer + offset_of!(xen_pcie_aer_op, devfn)),
    ];
    for (word, offset) in offsets {
        assert_eq!(word * 4, offset);
    }
    assert_eq!(size_of::<xen_msix_entry>(), 4);
    assert_eq!(offset_of!(xen_msix_entry, vector), 0);
    assert_eq!(offset_of!(xen_msix_entry, entry), 2);
    assert_eq!(MAX_MSIX_ENTRIES, SH_INFO_MAX_VEC);
}

#[test]
fn flags_and_codes_are_the_same_numbers() {
    assert_eq!(
        [FRONT_ACTIVE, AER_HANDLER, BACK_ACTIVE],
        [XEN_PCIF_active, XEN_PCIB_AERHANDLER, XEN_PCIB_active]
    );
    assert_eq!(
        [
            command::CONF_READ,
            command::CONF_WRITE,
            command::ENABLE_MSI,
            command::DISABLE_MSI,
            command::ENABLE_MSIX,
            command::DISABLE_MSIX,
            command::AER_DETECTED,
            command::AER_RESUME,
            command::AER_MMIO,
            command::AER_SLOT_RESET,
            command::ENABLE_MULTI_MSI,
        ],
        [
            XEN_PCI_OP_conf_read,
            XEN_PCI_OP_conf_write,
            XEN_PCI_OP_enable_msi,
            XEN_PCI_OP_disable_msi,
            XEN_PCI_OP_enable_msix,
            XEN_PCI_OP_disable_msix,
            XEN_PCI_OP_aer_detected,
            XEN_PCI_OP_aer_resume,
            XEN_PCI_OP_aer_mmio,
            XEN_PCI_OP_aer_slotreset,
            XEN_PCI_OP_enable_multi_msi,
        ]
    );
    assert_eq!(
        [
            OpError::DevNotFound as i32,
            OpError::InvalidOffset as i32,
            OpError::AccessDenied as i32,
            OpError::NotImplemented as i32,
            OpError::OpFailed as i32,
        ],
        [
            XEN_PCI_ERR_dev_not_found,
            XEN_PCI_ERR_invalid_offset,
            XEN_PCI_ERR_access_denied,
            XEN_PCI_ERR_not_implemented,
            XEN_PCI_ERR_op_failed,
        ]
    );
}
