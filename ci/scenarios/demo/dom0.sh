step "boot pcidom with an NVMe drive in its pool"
assignable "$disk0"
start_daemon
start_pcidom "$disk0"
xl list

step "lend the drive to a guest that has not started yet"
create_guest g1 --paused --script guest.sh
attach g1 "$disk0"
xl unpause g1
guest_ready g1
check "the guest's PCI backend is pcidom, not dom0" backend_is_pcidom g1

step "the guest reads and writes the drive"
guest_must g1 20 'show_devices'
drive_works g1 disk0 4
guest_must g1 60 'show_checksums'
guest_must g1 20 'show_interrupts'

step "the guest loads its driver again"
guest_must g1 60 'modprobe -r nvme && modprobe nvme && nvme_wait disk0 50'
drive_works g1 disk0 8
guest_must g1 20 'show_interrupts'
check "no request of the guest timed out" pciback_was_prompt g1
check "pcidomctl lists the loan" sh -c "pcidomctl list | grep -F '$disk0'"
pcidomctl list
pcidomctl status

step "the guest powers off, and so does pcidom"
send_guest g1 'poweroff -f'
ends g1 40
xl shutdown pcidom
shuts_down pcidom 40
check "no IOMMU fault" no_vtd_fault
check "no zombie is left" no_zombies
