# The only PCI device that the guest has.
the_device() { for device in /sys/bus/pci/devices/*; do echo "$device"; done | head -n 1; }

# without_drivers: no device that comes gets one. To take it away afterwards would be a race with
# a driver that is about to begin.
without_drivers() { rmmod nvme && rmmod e1000e; }

# no_driver: nothing in the guest uses it.
no_driver() { [ ! -e "$(the_device)/driver" ]; }

config_dump() { od -An -v -tx1 "$(the_device)/config"; }
config_sweep() { bed-probe sweep "$(the_device)/config" "$1"; }

# config_sweep_denied: one write that no device lets through, of Cache Line Size's neighbour.
config_sweep_denied() { setpci -s "$(basename "$(the_device)")" LATENCY_TIMER=40; }
