. /bed/lib/front.sh
. /bed/lib/leases.sh

# How often the driver is unbound and bound in each part.
REBINDS=${ROUNDS:-10}
# A hang guard: one takes one to a few seconds.
REBIND_SECONDS=$((REBINDS * 8))
# A driver that is bound turns MSI-X on, off, and on with all its vectors; unbound, off.
EXCHANGES=$((REBINDS * 4))
# A fifth of the 1.5 s in which a guest's request must be answered, in milliseconds. pcidom
# counts in bounds, and this is one of them.
LIMIT=300
# On a host that is busy itself they take longer without any flood, too: then a flood may make
# them so many times as slow at most.
TIMES=3
# Fewer requests per rebind were no flood.
FLOOD=$((REBINDS * 100))
# Lines that a log may have more than without a flood: the flooder's own link, and chance.
MORE_LINES=40
# Longer than the scenario takes.
FOREVER=86400

# leases_told: pcidom's words on the lease requests of g1 are in $SAID.
SAID=/tmp/leases.said
leases_told() {
    pcidomctl status --json > /tmp/status.json
    sed -n "s/.*\"guests\/$(domid g1)\/leases\": \"\(.*\)\".*/\1/p" /tmp/status.json > "$SAID"
    grep . "$SAID"
}

# within_ms: in which time 99 of 100 were answered.
within_ms() { sed -n 's/.* 99 of 100 within \([0-9]*\) ms.*/\1/p' "$SAID"; }

# leases_are_prompt: all of them were measured and answered, 99 of 100 within the limit.
leases_are_prompt() {
    cat "$SAID"
    count=$(sed -n 's/^\([0-9]*\) exchanges.*/\1/p' "$SAID")
    within=$(within_ms)
    most=$((UNDISTURBED * TIMES > LIMIT ? UNDISTURBED * TIMES : LIMIT))
    echo "${count:=0} exchanges, at least $EXCHANGES; within ${within:=none} ms, at most $most"
    [ "$count" -ge "$EXCHANGES" ] && [ "$within" -le "$most" ] && ! grep 'not answered' "$SAID"
}

# log_lines: of the daemon and of pcidom's console, so far.
log_lines() { echo $(($(wc -l < "$DAEMON_LOG") + $(guest_log pcidom | wc -l))); }

# logs_are_bounded: the part has logged hardly more than the one without a flood.
logs_are_bounded() {
    echo "$LOGGED lines, $QUIET without a flood, $MORE_LINES more are allowed"
    [ "$LOGGED" -le $((QUIET + MORE_LINES)) ]
}

# flood_requests NAME: how many XenStore has answered so far.
flood_requests() {
    guest_log "$1" | sed -n 's/^@@FRONT flood requests=\([0-9]*\) .*/\1/p' | tail -n 1
}

# flood_was_real NAME: it has made enough requests since $BEFORE.
flood_was_real() {
    requests=$(($(flood_requests "$1") - BEFORE))
    echo "$requests requests, at least $FLOOD"
    [ "$requests" -ge "$FLOOD" ]
}

# measure PART OFFSET_MIB [FLOODER]: g1 gets the drive, rebinds its driver, uses it and gives it
# back. pcidom counts anew each time, since this is g1's only loan.
measure() {
    part=$1 offset=$2 flooder=${3:-}
    attach g1 "$disk0"
    guest_must g1 60 'nvme_wait disk0 50'
    [ -z "$flooder" ] || BEFORE=$(flood_requests "$flooder")
    lines=$(log_lines) started=$(now_ms)
    guest_must g1 "$REBIND_SECONDS" "rebind_often disk0 $REBINDS"
    took=$(($(now_ms) - started)) LOGGED=$(($(log_lines) - lines))
    if [ -n "$flooder" ]; then
        check "$part: it is a flood" flood_was_real "$flooder"
        note "$(tail -n 1 /tmp/check.out)"
    fi
    wait_for "$part: pcidom tells of g1's leases" 30 leases_told
    note "$part: $(cat "$SAID"); $REBINDS rebinds in $took ms, $LOGGED lines logged"
    [ -n "$flooder" ] || UNDISTURBED=$(within_ms)
    check "$part: lease requests are answered in time" leases_are_prompt
    drive_works g1 disk0 "$offset"
    check "$part: no request of g1 timed out" pciback_was_prompt g1
    detach g1 "$disk0"
}

# flooding NAME: it has begun, and XenStore answers it.
flooding() { guest_log_wait "$1" '@@FRONT flood requests=[1-9]' 60; }

step "rebinds without a flood"
# It is XenStore that is measured, not who gets one of two emulated CPUs: who serves goes first.
xl sched-credit -d Domain-0 -w 8192
assignable "$disk0" "$disk1"
start_daemon
start_pcidom "$disk0" "$disk1"
xl sched-credit -d pcidom -w 8192
create_guest g1 --script guest.sh
measure "no flood" 2
QUIET=$LOGGED

step "a guest without a device floods XenStore"
create_front stranger "flood=$FOREVER"
xl unpause stranger
flooding stranger
measure "flood of a stranger" 4 stranger
check "the logs have not grown by it" logs_are_bounded
note "$(tail -n 1 /tmp/check.out)"
xl destroy stranger
ends stranger 30

step "a guest with a device floods XenStore and its own link"
create_front borrower "link=yes flood=$FOREVER"
attach borrower "$disk1"
xl unpause borrower
flooding borrower
measure "flood of a guest with a device" 6 borrower
check "the logs have not grown by it" logs_are_bounded
note "$(tail -n 1 /tmp/check.out)"
# In the middle of it.
xl destroy borrower
ends borrower 30
wait_for "$disk1 is free" 30 device_is_free "$disk1"

step "nothing is left"
attach g1 "$disk0"
drive_works g1 disk0 8
detach g1 "$disk0"
check "leases: no number was used twice, all have ended" leases_are_sound all-ended
for device in "$disk0" "$disk1"; do
    check "Xen has no message interrupt of $device any more" has_no_msi "$device"
done
check "pcidom was never restarted" not guest_log_has pcidom 'restart number'
check "pcidom has not panicked" not guest_log_has pcidom 'PANIC|TRAP'
check "no IOMMU fault" no_vtd_fault
xl destroy g1
ends g1 30
check "no zombie is left" no_zombies
