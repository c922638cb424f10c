# The only PCI device that the guest has.
the_device() { for device in /sys/bus/pci/devices/*; do echo "$device"; done | head -n 1; }

# drivers_come 1, drivers_come 0: a device that comes gets its driver, or stays without. To take
# the driver away afterwards would be a race with one that is about to begin.
drivers_come() { echo "$1" > /sys/bus/pci/drivers_autoprobe; }

# no_driver: nothing in the guest uses it.
no_driver() { [ ! -e "$(the_device)/driver" ]; }

config_dump() { od -An -v -tx1 "$(the_device)/config"; }
config_sweep() { bed-probe sweep "$(the_device)/config" "$1"; }

# config_sweep_denied: one write that no device lets through, of Cache Line Size's neighbour.
config_sweep_denied() { setpci -s "$(basename "$(the_device)")" LATENCY_TIMER=40; }
