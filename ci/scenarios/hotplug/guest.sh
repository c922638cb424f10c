# frontend_again: unloads the PCI frontend under the drivers, and loads it again.
frontend_again() { wait_until 10 modprobe -r xen-pcifront && has_devices 0 && modprobe xen-pcifront; }
