lock_of() { echo "/libxl/pci/$(echo "$1" | tr ':.' '--')/domid"; }
unlocked() { not xenstore-exists "$(lock_of "$1")"; }

# timed TEXT COMMAND...: says how long it took, in TOOK as milliseconds.
timed() {
    timed_what=$1
    timed_from=$(now_ms)
    shift
    timed_result=0
    "$@" > /tmp/timed.out 2>&1 || timed_result=$?
    TOOK=$(($(now_ms) - timed_from))
    cat /tmp/timed.out
    note "$timed_what: exit status $timed_result after $TOOK ms"
    return "$timed_result"
}

# lend_busy: the first drive, to g1, which does I/O on it.
lend_busy() {
    attach g1 "$disk0"
    drive_works g1 disk0 4
    guest_must g1 20 'io_start disk0 8'
    guest_must g1 60 'io_advances 8'
}

# g1_lost_it WHEN: nobody has the first drive, and g1 knows.
g1_lost_it() {
    check "$1: g1 has no right to the drive" has_no_rights "$(domid g1)" "$disk0"
    check "$1: g1 has no pirq" not has_pirq "$(domid g1)"
    guest_must g1 70 'wait_until 60 nvme_gone'
    guest_must g1 70 'wait_until 60 io_ended'
    wait_for "$1: g1's directory is gone" 20 not xenstore-exists "$(frontend_path g1)"
}

# has_no_bars DOMID BDF: libxl leaves the line interrupt, which is shared anyway.
has_no_bars() {
    rights "$1" "$2" > /tmp/rights.out || return 1
    cat /tmp/rights.out
    not grep -E '^(all|some): I/O' /tmp/rights.out
}

serves_again() {
    xl domid pcidom > /tmp/domid.now 2> /dev/null || return 1
    [ "$(cat /tmp/domid.now)" != "$1" ] || return 1
    know_domid pcidom
    pcidom_state_is ready
}

step "boot pcidom with two drives in its pool"
assignable "$disk0" "$disk1"
start_daemon
start_pcidom "$disk0" "$disk1"
create_guest g1 --script guest.sh
create_guest other

step "xl pci-detach of a drive that is lent and busy"
lend_busy
check "xl pci-detach" timed "xl pci-detach" xl pci-detach pcidom "$disk0"
check "it was done within libxl's 10 s" [ "$TOOK" -lt 9500 ]
check "the drive is in quarantine" owned_by "$disk0" IO
g1_lost_it "after pci-detach"
check "no lock is left" unlocked "$disk0"
check "xl pci-attach" xl pci-attach pcidom "$disk0"
wait_for "the drive is in the pool again" 20 device_is_free "$disk0"

step "xl destroy pcidom, and xl pci-attach to another guest right after"
lend_busy
xl destroy pcidom > /tmp/destroy.out 2>&1 &
destroying=$!
refused=0
from=$(now_ms)
until xl pci-attach other "$disk0" > /tmp/pci-attach.out 2>&1; do
    refused=$((refused + 1))
    cat /tmp/pci-attach.out
    # Whatever libxl has given before it was refused is taken back.
    [ $(($(now_ms) - from)) -lt 40000 ] || fail "xl pci-attach never works"
done
note "xl pci-attach worked after $refused refusals and $(($(now_ms) - from)) ms"
check "the other guest owns the drive" owned_by "$disk0" "$(domid other)"
check "the other guest may use it" has_rights "$(domid other)" "$disk0"
wait "$destroying" || true
cat /tmp/destroy.out
ends pcidom 20
g1_lost_it "after xl destroy"
check "the daemon has no loan left" not xenstore-exists /tool/pcidom/loans/0
xl pci-detach other "$disk0"
check "the drive is in quarantine" owned_by "$disk0" IO
check "no zombie is left" no_zombies

step "xl create again, and the same guest gets the drive again"
start_pcidom "$disk0"
lend_busy

step "an attach that wins the race against the lock"
# What libxl does when somebody takes the lock away by hand.
xenstore-rm "$(lock_of "$disk0")"
xl pci-attach other "$disk0" && fail "the drive was given away while it was lent"
wait_for "the lock is there" 5 xenstore-exists "$(lock_of "$disk0")"
check "the other guest has no right to the drive" has_no_bars "$(domid other)" "$disk0"
check "g1 still owns it" owned_by "$disk0" "$(domid g1)"

step "xl save is not acknowledged"
check "xl save fails" not timed "xl save" xl save pcidom /tmp/pcidom.saved
note "xl save gave up after $TOOK ms"
check "xl's wait is bounded" [ "$TOOK" -lt 90000 ]
# xl finds no page tables it could save, and does not even ask. A toolstack that asks:
xenstore-write "/local/domain/$(domid pcidom)/control/shutdown" suspend
wait_for "the console says why" 5 guest_log_has pcidom 'suspend.* is not acknowledged'
pcidomctl status > /tmp/status.out
check "status says why" grep 'suspend.* is not acknowledged' /tmp/status.out
check "the guest's I/O goes on" guest_run g1 60 'io_advances 8'

step "pcidom crashes while the drive is busy"
before=$(domid pcidom)
bed-probe crash "$before"
wait_for "the drive is in quarantine" 20 owned_by "$disk0" IO
wait_for "another pcidom serves" 90 serves_again "$before"
g1_lost_it "after the crash"
wait_for "the drive is in the pool" 20 device_is_free "$disk0"
lend_busy

step "xl reboot pcidom"
before=$(domid pcidom)
timed "xl reboot" xl reboot pcidom
wait_for "another pcidom serves" 90 serves_again "$before"
check "the daemon asked g1 first" grep 'its driver is asked to let go' /var/log/xen/pcidom.log
g1_lost_it "after xl reboot"
lend_busy

step "xl shutdown pcidom"
timed "xl shutdown -w" xl shutdown -w pcidom
ends pcidom 60
check "the drive is in quarantine" owned_by "$disk0" IO
g1_lost_it "after xl shutdown"
check "no lock is left" unlocked "$disk0"
check "no zombie is left" no_zombies
check "no IOMMU fault" no_vtd_fault
