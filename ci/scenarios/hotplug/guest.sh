# frontend_again: takes the link from the PCI frontend, which holds the module as long as it has
# one, unloads it, and loads it again.
frontend_again() {
    echo pci-0 > /sys/bus/xen/drivers/pcifront/unbind || return 1
    wait_until 10 modprobe -r xen-pcifront && has_devices 0 && modprobe xen-pcifront
}
