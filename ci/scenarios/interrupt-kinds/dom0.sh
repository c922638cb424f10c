. /bed/lib/leases.sh
. /bed/lib/errors.sh

# carries NAME CHIP PATTERN COMMAND: the interrupts are of this kind, and grow by the work.
carries() {
    guest_must "$1" 20 "kind_is $2 '$3'"
    remember "$1" "irq_sum '$3'"
    guest_must "$1" 60 "$4"
    check "$1: $2 interrupts of $3 come" grows "$1" "irq_sum '$3'"
}

# line_of BDF: its interrupt line.
line_of() { cat "/sys/bus/pci/devices/$1/irq"; }

step "boot pcidom with the devices in its pool"
assignable "$disk0" "$disk1" "$net0" "$net0_port" "$net1" "$net1_port" "$card0" "$card0_port" "$sata0" "$sata0_port"
check "$disk1 and $net1 have the same line" [ "$(line_of "$disk1")" = "$(line_of "$net1")" ]
start_daemon
start_pcidom "$disk0" "$disk1" "$net0" "$net0_port" "$net1" "$net1_port" "$card0" "$card0_port" "$sata0" "$sata0_port"

step "a drive by MSI-X, a disk by MSI, a card by MSI-X and INTx"
create_guest g1 --paused --script guest.sh
attach g1 "$disk0"
attach g1 "$net0"
attach g1 "$sata0"
xl unpause g1
guest_ready g1
guest_must g1 60 'nvme_wait disk0 50'
carries g1 -pcifront-msi-x 'nvme[0-9]+q' 'nvme_read disk0 0 4'
carries g1 -pcifront-msi-x 'nvme[0-9]+q' 'nvme_verify disk0 8 4'
guest_must g1 60 'modprobe ahci && modprobe sd_mod && wait_until 20 sata_disk sata0'
carries g1 -pcifront-msi ahci 'nvme_read sata0 0 4'
carries g1 -pcifront-msi ahci 'nvme_verify sata0 8 4'
for mode in 2:-pcifront-msi-x 0:-pcifront; do
    guest_must g1 60 "card_uses ${mode%%:*}"
    carries g1 "${mode#*:}" ' eth' 'net_ping 3'
    wait_for "pcidom, the daemon and Xen name the same pirqs" 20 views_agree g1
done

step "a conventional card, which has INTx only"
detach g1 "$net0"
attach g1 "$card0"
guest_must g1 60 'modprobe 8139cp && net_up'
carries g1 -pcifront ' eth' 'net_ping 3'
check "no request of g1 timed out" pciback_was_prompt g1

step "a guest without MSI: a drive and a card on one line"
create_guest g2 --paused --script guest.sh --cmdline pci=nomsi
attach g2 "$disk1"
attach g2 "$net1"
xl unpause g2
guest_ready g2
guest_must g2 60 'nvme_wait disk1 50'
guest_must g2 60 net_up
guest_must g2 20 "one_line 'nvme[0-9]+q' ' eth'"
carries g2 -pcifront 'nvme[0-9]+q' 'nvme_read disk1 0 4'
carries g2 -pcifront ' eth' 'net_ping 3'
guest_must g2 20 'io_start disk1 8'
guest_must g2 60 'net_ping 10'
guest_must g2 60 'io_advances 10'
guest_must g2 60 'io_stop'

step "one of the two on the line goes, the other works on"
detach g2 "$net1"
guest_must g2 60 'nvme_verify disk1 12 2'
guest_must g2 20 "kind_is -pcifront 'nvme[0-9]+q'"

step "another guest gets the card, not the line, which is the first guest's"
create_guest g3 --script guest.sh
attach g3 "$net1"
check "status says so" status_says "without its interrupt line"
guest_must g3 60 net_up
carries g3 -pcifront-msi-x ' eth' 'net_ping 3'
guest_must g3 60 card_wants_line
guest_must g3 20 "kernel_log_has 'Failed to obtain physical IRQ'"
check "Xen has no interrupt for g3" not has_pirq "$(domid g3)"
detach g3 "$net1"

step "it gets the line when a person says so, and both work by it"
check "attach --share-line" pcidomctl attach --share-line g3 "$net1"
guest_must g3 60 'card_uses 0'
carries g3 -pcifront ' eth' 'net_ping 3'
guest_must g2 20 'io_start disk1 8'
carries g3 -pcifront ' eth' 'net_ping 10'
guest_must g2 60 'io_advances 10'
guest_must g2 60 'io_stop'
carries g2 -pcifront 'nvme[0-9]+q' 'nvme_read disk1 0 4'
detach g3 "$net1"
guest_must g2 60 'nvme_verify disk1 4 2'
detach g2 "$disk1"
check "no request of g2 timed out" pciback_was_prompt g2
check "no request of g3 timed out" pciback_was_prompt g3

step "the end"
xl destroy g1
xl destroy g2
xl destroy g3
ends g1 30
ends g2 30
ends g3 30
for device in "$disk0" "$disk1" "$net0" "$net1" "$card0" "$sata0"; do
    wait_for "$device is free" 20 device_is_free "$device"
    check "Xen has no message interrupt of $device any more" has_no_msi "$device"
done
check "leases: no number was used twice, all have ended" leases_are_sound all-ended
check "no IOMMU fault" no_vtd_fault
check "no zombie is left" no_zombies
