# pcidom is a domain that never runs; what it would write is written from here. So all of
# this is the daemon, Xen and XenStore, and nothing else.

# play: does what pcidom is ordered to do, until the scenario ends.
play() {
    orders=/local/domain/$(domid pcidom)/pcidom/loans
    said=/local/domain/$(domid pcidom)/data/pcidom
    while pause 100; do
        for id in $(xenstore-list "$orders" 2> /dev/null); do
            order=$(xenstore-read "$orders/$id" 2> /dev/null) || continue
            gen=${order%% *}
            case $order in
                *phase=prepare*) report="$gen ready script" ;;
                *phase=ending*) report="$gen returned script" ;;
                *) continue ;;
            esac
            [ "$(xenstore-read "$said/loans/$id" 2> /dev/null)" = "$report" ] ||
                xenstore-write "$said/loans/$id" "$report"
        done
        query=$(xenstore-read "/local/domain/$(domid pcidom)/pcidom/query" 2> /dev/null) || continue
        xenstore-write "$said/report/uptime" 1 "$said/report/number" "$query"
    done
}

# ask_lease TEXT: as pcidom, for loan 0; prints the answer.
ask_lease() {
    xenstore-write "/local/domain/$(domid pcidom)/data/pcidom/requests/0" "$1"
    tries=0
    until answer=$(xenstore-read "/local/domain/$(domid pcidom)/pcidom/answers/0" 2> /dev/null) &&
        [ "${answer#"${1%% [mu]*}"}" != "$answer" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ] || return 1
        pause 50
    done
    echo "$answer"
}
answers() { ask_lease "$1" | tee /tmp/answer; grep -qE "$2" /tmp/answer; }

generation() { xenstore-read "/local/domain/$(domid pcidom)/pcidom/loans/0" | sed 's/ .*//'; }
says() { text=$1; shift; "$@" > /tmp/says.out 2>&1 || true; cat /tmp/says.out; grep -qF -- "$text" /tmp/says.out; }
logged() { grep -qE "$1" /var/log/xen/pcidom.log; }
status_says() { pcidomctl status | tee /tmp/status.out; grep -qE "$1" /tmp/status.out; }
exits() { wanted=$1; shift; code=0; "$@" || code=$?; [ "$code" = "$wanted" ]; }

step "without a daemon"
check "the tool says how to start it" says 'pcidomctl daemon' pcidomctl status
check "and fails with 1" exits 1 pcidomctl list
check "a malformed address is exit 2" exits 2 pcidomctl attach g1 nonsense
check "in xl's words" says 'attach: malformed PCI_SPEC_STRING "nonsense"' pcidomctl attach g1 nonsense

step "the daemon, and a pcidom with a device"
assignable "$disk0"
start_daemon
check "a second daemon is refused" says 'runs already' pcidomctl daemon
check "the socket is root's alone" test "$(stat -c %a /run/xen/pcidom.sock)" = 600
create_guest pcidom --paused "pci = [\"$disk0\"]"
wait_for "the device is in quarantine" 20 xenstore-exists "/local/domain/$(domid pcidom)/pcidom/pool/$(echo "$disk0" | sed 's/^\(..:\)/0000:\1/; s/[:.]/-/g')"
check "it is free" device_is_free "$disk0"
check "pciback lets its interrupts through" grep -F "$disk0" /sys/bus/pci/drivers/pciback/allow_interrupt_control
check "and its reset" grep -E '^.*:2:0000ffff' /sys/bus/pci/drivers/pciback/quirks
cat /sys/bus/pci/drivers/pciback/allow_interrupt_control
check "dom0 is no guest" says 'is no guest' pcidomctl attach Domain-0 "$disk0"
create_guest g1 --paused
check "nothing is lent before pcidom serves" says 'does not serve yet' pcidomctl attach g1 "$disk0"
xenstore-write "/local/domain/$(domid pcidom)/data/pcidom/state" ready
play &

step "a guest that has not started"
check "attach says so" says 'has not connected yet' pcidomctl attach g1 "$disk0"
check "the list has it" says "$disk0" pcidomctl list g1
check "status has it" status_says 'lent'
check "status has the report" status_says 'uptime: 1'
pcidomctl status --json
xenstore-ls -fp "/local/domain/$(domid pcidom)/backend"
xenstore-ls -fp "$(frontend_path g1)"

step "leases"
# Xen maps MSI-X only while memory decode is on, which is pcidom's part.
setpci -s "$disk0" COMMAND=2
check "two vectors" answers "$(generation) seq=1 map msix 0,1" 'ok [0-9]+,[0-9]+$'
check "not twice" answers "$(generation) seq=2 map msix 2" 'refused busy'
check "given back" answers "$(generation) seq=3 unmap" 'ok$'
check "mapped anew" answers "$(generation) seq=4 map msix 0" 'ok [0-9]+$'
check "not beyond the table" answers "$(generation) seq=5 map msix 2000" 'refused not-allowed'

step "the daemon is killed, the next one goes on"
kill -9 "$DAEMON"
start_daemon
check "it still knows the loan" status_says 'g1 .* lent +[0-9]+'
check "an old request is not served again" test "$(grep -c 'mapped 1 pirqs' /var/log/xen/pcidom.log)" = 0
check "given back to the new one" answers "$(generation) seq=6 unmap" 'ok$'
check "mapped by the new one" answers "$(generation) seq=7 map msix 0,1,2" 'ok [0-9,]+$'

step "the guest is destroyed"
xl destroy g1
wait_for "the device is free again" 20 device_is_free "$disk0"
check "its vectors were unmapped" logged 'unmapped 3 pirqs'
check "no zombie is left" no_zombies
check "nothing is left of the link" not xenstore-exists "/local/domain/$(domid pcidom)/backend/pci/$(domid g1)"

step "a guest whose pcidom never connects"
create_guest g2
setpci -s "$disk0" COMMAND=2
check "attach gives up and undoes it" says 'g2 did not' pcidomctl attach --wait 5 g2 "$disk0"
check "the device is free" device_is_free "$disk0"
check "the guest lives" guest_run g2 20 true

step "a guest without an IOMMU context"
cat > /tmp/g3.cfg << CFG
name = "g3"
type = "pv"
kernel = "/bed/disks/vmlinux"
ramdisk = "/bed/disks/initrd"
memory = 256
CFG
xl create -p /tmp/g3.cfg
check "is told what to write" says 'passthrough="enabled"' pcidomctl attach g3 "$disk0"
check "the device is free" device_is_free "$disk0"

step "back to dom0"
create_guest g4 --paused
attach g4 "$disk0"
check "taken back" pcidomctl detach g4 "$disk0"
attach g4 "$disk0"
check "taken back by force" pcidomctl detach -f g4 "$disk0"

step "pcidom is destroyed while the device is lent"
attach g4 "$disk0"
check "the guest may map it" has_rights "$(domid g4)" "$disk0"
# libxl's own messages: it finds the device deassigned already.
xl destroy pcidom
wait_for "the daemon noticed" 20 says 'no pcidom runs' pcidomctl status
check "the loan is over" logged 'g4 .*: over'
check "nothing is left of the link" not xenstore-exists "$(frontend_path g4)/state"
check "the guest lives" guest_exists g4
check "no error in its log" not logged ERROR
cat /var/log/xen/pcidom.log
