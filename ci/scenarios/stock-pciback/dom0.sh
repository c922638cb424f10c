# Proves the bed without any of the project's code: what fails here is not pcidom's fault.
step "dom0 is up"
xl list
check "the IOMMU remaps interrupts" grep_xen 'Interrupt Remapping enabled|interrupt remapping enabled'

step "give both devices to a guest, the stock way"
assignable "$disk0" "$net0"
create_guest g1 "pci = [ \"$disk0\", \"$net0\" ]"

step "the drive works"
guest_must g1 60 "nvme_wait disk0 50"
guest_must g1 20 "lspci -nn"
guest_must g1 60 "nvme_read disk0 0 4"
guest_must g1 60 "nvme_verify disk0 8 4"
guest_must g1 20 "irqs nvme"
guest_must g1 20 "io_start disk0 12"
guest_must g1 40 "io_advances 30"
guest_must g1 40 "io_stop"

step "the network card works"
network_works g1

step "Xen knows the owner"
check "the guest owns the drive" owned_by "$disk0" "$(domid g1)"
check "the guest may use it" has_rights "$(domid g1)" "$disk0"
check "the guest has interrupts" has_pirq "$(domid g1)"
check "no IOMMU fault" no_vtd_fault

step "the guest goes"
xl destroy g1
ends g1 20
check "the drive is in quarantine" owned_by "$disk0" IO
check "no zombie is left" no_zombies
