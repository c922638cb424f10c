. /bed/lib/leases.sh
. /bed/lib/errors.sh

# How often each driver is unbound and bound.
ROUNDS=${ROUNDS:-4}
# A hang guard: a round takes one to a few seconds.
STORM_SECONDS=$((60 + ROUNDS * 8))
# A guest with two CPUs has a queue for each, and one for the controller itself: NVMe turns
# MSI-X on with one vector first, off, and on with these.
VECTORS=3

ALL="$disk0 $disk1 $disk2 $disk3"

# msi_lines: how many message interrupts of the whole machine key M shows.
msi_lines() {
    xen_debug_keys M
    grep -cE '^\(XEN\) +MSI' "$KEYS"
}

# as_before: Xen has no interrupt of the devices, by three keys that look at different tables.
as_before() {
    now=$(msi_lines) || true
    echo "message interrupts: $now, before: $BEFORE"
    [ "$now" = "$BEFORE" ] || return 1
    for device in $ALL; do has_no_msi "$device" || return 1; done
    for guest in "$@"; do not has_pirq "$(domid "$guest")" || return 1; done
}

# guest_with NAME DEVICE...: a new one is started with the devices, one that runs gets them.
guest_with() {
    guest=$1
    shift
    new=yes
    ! guest_runs "$guest" || new=''
    [ -z "$new" ] || create_guest "$guest" --paused --vcpus 2 --script guest.sh
    for device in "$@"; do attach "$guest" "$device"; done
    if [ -n "$new" ]; then
        xl unpause "$guest"
        guest_ready "$guest"
    fi
    guest_must "$guest" 60 "wait_until 50 all_live $#"
    guest_must "$guest" 20 "all_have_vectors $VECTORS"
}

# after_storm NAME DISK...: all its drives work.
after_storm() {
    guest=$1
    shift
    guest_must "$guest" 20 "all_have_vectors $VECTORS"
    guest_must "$guest" 20 no_trouble
    for disk in "$@"; do
        guest_must "$guest" 60 "nvme_read $disk 0 2"
        guest_must "$guest" 60 "nvme_verify $disk $PLACE 2"
    done
    check "$guest: pcidom, the daemon and Xen name the same pirqs" views_agree "$guest"
    check "$guest: no request timed out" pciback_was_prompt "$guest"
}

step "four controllers in one guest"
# Six virtual CPUs share two emulated ones: who serves goes first, as on any host that is full.
xl sched-credit -d Domain-0 -w 8192
# shellcheck disable=SC2086 # a list
assignable $ALL
start_daemon
# shellcheck disable=SC2086
start_pcidom $ALL
xl sched-credit -d pcidom -w 8192
BEFORE=$(msi_lines) || true
# shellcheck disable=SC2086
guest_with g1 $ALL
started=$(now_ms)
guest_must g1 "$STORM_SECONDS" "storm $ROUNDS $VECTORS"
note "$ROUNDS times in $(($(now_ms) - started)) ms"
PLACE=4
after_storm g1 disk0 disk1 disk2 disk3
for device in $ALL; do detach g1 "$device"; done
check "leases: no number was used twice, all have ended" leases_are_sound all-ended
note "$(tail -n 1 /tmp/check.out)"
check "Xen has no interrupt of the devices any more" as_before g1

step "two controllers in each of two guests"
guest_with g1 "$disk0" "$disk1"
guest_with g2 "$disk2" "$disk3"
started=$(now_ms)
send_guest g1 "storm $ROUNDS $VECTORS"
first=$SEQUENCE
guest_must g2 "$STORM_SECONDS" "storm $ROUNDS $VECTORS"
guest_log_wait g1 "@@DONE $first [0-9]+ *@" "$STORM_SECONDS"
check "g1: storm $ROUNDS $VECTORS" guest_log_has g1 "@@DONE $first 0@"
note "$ROUNDS times in $(($(now_ms) - started)) ms"
PLACE=8
after_storm g1 disk0 disk1
after_storm g2 disk2 disk3
detach g1 "$disk0"
detach g1 "$disk1"
detach g2 "$disk2"
# The last one ends with its guest.
xl destroy g2
ends g2 30
wait_for "$disk3 is free" 20 device_is_free "$disk3"
check "leases: no number was used twice, all have ended" leases_are_sound all-ended
note "$(tail -n 1 /tmp/check.out)"
check "Xen has no interrupt of the devices any more" as_before g1
check "no IOMMU fault" no_vtd_fault

step "the same with a daemon that answers from numbers it has unmapped before"
stop_daemon
cp "$DAEMON_LOG" /var/log/xen/pcidom-storm.log
PCIDOMCTL=/bed/tools/pcidomctl-cached-pirqs start_daemon
# A guest that starts with them waits for its drives for minutes.
for device in $ALL; do attach g1 "$device"; done
# A guest that hangs has failed as well.
storm_fails() {
    send_guest g1 "storm_within 10 2 $VECTORS"
    storm_status=0
    bed-probe answer "$CONSOLES/guest-g1.log" "$SEQUENCE" 20 /tmp/storm.out || storm_status=$?
    echo "status $storm_status: 1 if it failed, 125 if it hangs"
    [ "$storm_status" = 1 ] || [ "$storm_status" = 125 ]
}
check "the storm fails" storm_fails
note "$(tail -n 1 /tmp/check.out)"
# Time alone would fail it on a slow host. After the storms above `no_trouble` held.
check "the guest's kernel got no interrupt for some vectors" guest_log_has g1 'Failed to obtain physical IRQ'
check "the walk through the log sees numbers used twice" not leases_are_sound
note "$(tail -n 1 /tmp/check.out)"
xl destroy g1
ends g1 60
check "no zombie is left" no_zombies
