# nobody_owns WHEN: both devices are in quarantine, and pcidom may do nothing with them.
nobody_owns() {
    for device in "$disk0" "$net0" "$net0_port"; do
        check "$1: $device is in quarantine" owned_by "$device" IO
    done
    nothing_for_pcidom "$1"
}

nothing_for_pcidom() {
    for device in "$disk0" "$net0" "$net0_port"; do
        check "$1: pcidom has no right to $device" has_no_rights "$(domid pcidom)" "$device"
    done
    check "$1: beyond its serial port pcidom may only read config space" \
        only_reads_config "$(domid pcidom)" "$disk0" "$net0" "$net0_port"
    check "$1: pcidom has no pirq" not has_pirq "$(domid pcidom)"
    # Kept for people: which vectors there are.
    xen_debug_keys M
}

guest_owns() {
    for device in "$disk0" "$net0"; do
        check "$1: the guest owns $device" owned_by "$device" "$(domid g1)"
        check "$1: the guest may use $device" has_rights "$(domid g1)" "$device"
    done
    check "$1: the guest has pirqs" has_pirq "$(domid g1)"
    nothing_for_pcidom "$1"
}

step "in the pool only"
assignable "$disk0" "$net0" "$net0_port"
start_daemon
start_pcidom "$disk0" "$net0" "$net0_port"
nobody_owns "in the pool"

step "lent"
create_guest g1
attach g1 "$disk0"
attach g1 "$net0"
guest_must g1 60 'nvme_wait disk0 50'
guest_must g1 60 'net_up'
guest_owns "lent"

step "detached"
detach g1 "$disk0"
detach g1 "$net0"
nobody_owns "detached"
check "detached: the guest may not use the drive" has_no_rights "$(domid g1)" "$disk0"
check "detached: the guest may not use the card" has_no_rights "$(domid g1)" "$net0"

step "lent again"
attach g1 "$disk0"
attach g1 "$net0"
guest_must g1 60 'nvme_wait disk0 50'
guest_must g1 60 'net_up'
guest_owns "lent again"

step "the guest is destroyed"
xl destroy g1
ends g1 30
for device in "$disk0" "$net0"; do
    wait_for "the pool has $device back" 20 device_is_free "$device"
done
nobody_owns "after the guest"
check "no IOMMU fault" no_vtd_fault

step "an image that tries to map a drive's registers"
# Without devices libxl has nothing to wait for when the domain ends.
xl pci-detach pcidom "$net0"
xl pci-detach pcidom "$disk0"
xl shutdown pcidom
ends pcidom 40
start_image /bed/images/pcidom-probe-bar "$disk0"
guest_log_wait pcidom 'probe-bar: .*EPERM' 60
check "no zombie is left" no_zombies
