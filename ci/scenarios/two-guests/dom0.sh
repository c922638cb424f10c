# logged_nothing_since LINES: g2's kernel has no more of them; else its last ones are shown.
logged_nothing_since() {
    number_is_at_most g2 "$1" kernel_lines && return
    guest_run g2 20 'dmesg | tail -n 10'
    return 1
}

step "boot pcidom with two drives in its pool"
assignable "$disk0" "$disk1"
start_daemon
start_pcidom "$disk0" "$disk1"
check "pcidom has 8 MiB" memory_at_most pcidom 8

step "lend one drive cold, the other to a running guest"
create_guest g1 --paused
attach g1 "$disk0"
xl unpause g1
create_guest g2
attach g2 "$disk1"
guest_ready g1
drive_works g1 disk0 4
drive_works g2 disk1 4
check "g1's PCI backend is pcidom" backend_is_pcidom g1
check "g2's PCI backend is pcidom" backend_is_pcidom g2

step "both guests do I/O"
guest_must g1 20 'io_start disk0 8'
guest_must g2 20 'io_start disk1 8'
guest_must g1 60 'io_advances 50'
guest_must g2 60 'io_advances 50'
lines_before=$(guest_value g2 kernel_lines)

step "destroy one guest in the middle of it"
xl destroy g1
ends g1 30
guest_must g2 60 'io_advances 50'
guest_must g2 60 'io_advances 50'
check "no zombie is left" no_zombies

step "the other guest has noticed nothing"
check "g2's kernel has logged nothing new" logged_nothing_since "$lines_before"
check "no request of g2 timed out" pciback_was_prompt g2
guest_must g2 60 'io_stop'

step "the drive of the destroyed guest goes to a third one"
create_guest g3
wait_for "the pool has the drive back" 20 device_is_free "$disk0"
attach g3 "$disk0"
drive_works g3 disk0 12
check "no request of g3 timed out" pciback_was_prompt g3
drive_works g2 disk1 4
check "g2's kernel has still logged nothing new" logged_nothing_since "$lines_before"
check "no IOMMU fault" no_vtd_fault
