. /bed/lib/agree.sh

# holds BDF...: g1 has exactly these, and nobody has the others.
holds() {
    xen_debug_keys Q
    agrees g1 "$@"
    others=''
    for device in "$disk0" "$disk1" "$disk2"; do
        case " $* " in *" $device "*) ;; *) others="$others $device" ;; esac
    done
    # shellcheck disable=SC2086 # a list
    nobody_has $others
}

step "one before the start, then the second and the third"
assignable "$disk0" "$disk1" "$disk2"
start_daemon
start_pcidom "$disk0" "$disk1" "$disk2"
create_guest g1 --paused --script guest.sh
attach g1 "$disk0"
xl unpause g1
guest_ready g1
holds "$disk0"
attach g1 "$disk1"
holds "$disk0" "$disk1"
attach g1 "$disk2"
holds "$disk0" "$disk1" "$disk2"
for disk in disk0 disk1 disk2; do drive_works g1 "$disk" 4; done

step "the one in the middle goes, the first, the last"
guest_must g1 20 'io_start disk2 8'
detach g1 "$disk1"
holds "$disk0" "$disk2"
detach g1 "$disk0"
holds "$disk2"
guest_must g1 60 'io_advances 8'
guest_must g1 60 io_stop
detach g1 "$disk2"
holds

step "the first after the last"
attach g1 "$disk1"
holds "$disk1"
attach g1 "$disk0"
holds "$disk0" "$disk1"
guest_must g1 60 'nvme_wait disk0 50'
guest_must g1 60 'nvme_verify disk0 10 2'

step "its frontend is unloaded and loaded again"
guest_must g1 60 frontend_again
holds "$disk0" "$disk1"
drive_works g1 disk0 12
detach g1 "$disk1"
holds "$disk0"

step "two at the same time"
pcidomctl attach g1 "$disk1" > /tmp/attach1.out 2>&1 &
first=$!
pcidomctl attach g1 "$disk2" > /tmp/attach2.out 2>&1 &
second=$!
wait "$first" && first=good || first=bad
wait "$second" && second=good || second=bad
cat /tmp/attach1.out /tmp/attach2.out
check "both are attached" [ "$first $second" = "good good" ]
holds "$disk0" "$disk1" "$disk2"

step "a guest that does not answer"
xl pause g1
check "detach says so" not pcidomctl detach g1 "$disk2"
cat /tmp/check.out
check "detach -f does it" pcidomctl detach -f g1 "$disk2"
check "the drive is in quarantine" owned_by "$disk2" IO
xl unpause g1
wait_for "$disk2 is free" 20 device_is_free "$disk2"
guest_must g1 60 'nvme_verify disk0 6 2'
xl destroy g1
ends g1 30
for device in "$disk0" "$disk1" "$disk2"; do
    wait_for "$device is free" 20 device_is_free "$device"
done

step "a second pcidom is the guest of the first"
{
    grep -vE '^ *(name|pci|kernel|ioports|irqs) *=' /etc/xen/pcidom.cfg
    echo 'name = "second"'
    echo "kernel = \"$(pcidom_image)\""
    echo 'passthrough = "enabled"'
    echo 'e820_host = 1'
} > /tmp/second.cfg
xl create -p /tmp/second.cfg || fail "xl create second"
know_domid second
follow second
attach second "$disk0"
attach second "$disk1"
xl unpause second
guest_log_wait second 'ready, 2 device' 60
check "it has found both" guest_log_has second '1b36:0010'
check "XenStore: second has both" nodes_agree second "$disk0" "$disk1"
detach second "$disk1"
check "XenStore: second has one" nodes_agree second "$disk0"
xl destroy second
ends second 30
wait_for "$disk0 is free" 20 device_is_free "$disk0"

step "nothing is left"
check "no IOMMU fault" no_vtd_fault
check "no zombie is left" no_zombies
check "pcidom has not panicked" not guest_log_has pcidom 'PANIC|TRAP'
