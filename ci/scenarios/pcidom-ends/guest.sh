# nvme_gone: the kernel has no NVMe controller and no PCI bus any more.
nvme_gone() { ! ls -d /sys/class/nvme/nvme* /sys/bus/pci/devices/* 2> /dev/null; }
