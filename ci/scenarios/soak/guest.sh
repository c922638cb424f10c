# The PCI device of a drive or of the network card, as the guest numbers it.
device_of_drive() {
    controller=$(find_nvme "$1") || return 1
    basename "$(readlink -f "/sys/class/nvme/$controller/device")"
}
device_of_card() { basename "$(readlink -f "/sys/class/net/$(net_interface)/device")"; }

# rebind DRIVER DEVICE
rebind() {
    echo "rebind $1 $2"
    echo "$2" > "/sys/bus/pci/drivers/$1/unbind" && echo "$2" > "/sys/bus/pci/drivers/$1/bind"
}
rebind_drive() { rebind nvme "$(device_of_drive "$1")"; }
rebind_card() { rebind e1000e "$(device_of_card)"; }

no_drive() { not find_nvme "$1"; }
no_card() { not ls -d /sys/class/net/*/device; }
not() { ! "$@"; }
