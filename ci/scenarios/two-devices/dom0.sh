step "boot pcidom with both devices in its pool"
assignable "$disk0" "$net0" "$net0_port"
start_daemon
start_pcidom "$disk0" "$net0" "$net0_port"

step "lend both to a guest that has not started yet"
create_guest g1 --paused
attach g1 "$disk0"
attach g1 "$net0"
xl unpause g1
guest_ready g1
check "the guest's PCI backend is pcidom, not dom0" backend_is_pcidom g1
guest_must g1 20 'lspci -nn'

step "both work at once"
drive_works g1 disk0 4
guest_must g1 20 'io_start disk0 8'
network_works g1
guest_must g1 40 'io_advances 30'
guest_must g1 60 'io_stop'
guest_must g1 20 'irqs "nvme|eth"'

step "both drivers are loaded again"
guest_must g1 60 'modprobe -r nvme && modprobe nvme && nvme_wait disk0 50'
drive_works g1 disk0 4
guest_must g1 60 'modprobe -r e1000e && modprobe e1000e'
network_works g1
check "no request of the guest timed out" pciback_was_prompt g1

step "the end"
xl destroy g1
ends g1 30
xl shutdown pcidom
shuts_down pcidom 40
check "no IOMMU fault" no_vtd_fault
check "no zombie is left" no_zombies
