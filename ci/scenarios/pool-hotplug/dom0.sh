# `xl pci-detach` of a lent device is in pcidom-ends. All sequences, these and those that only
# the simulated host can force, are listed in sim/tests/pool_hotplug.rs.

back_path() { echo "/local/domain/0/backend/pci/$(domid pcidom)/0"; }
# The device itself: its entry in the bus's list goes before its driver has said its last word.
dom0_has_backend() { ls -d "/sys/devices/pci-$(domid pcidom)-0" "/sys/devices/xen-backend/pci-$(domid pcidom)-0" 2> /dev/null | grep .; }

# ---- what must be true ----

# status_has BDF...: the daemon has exactly these devices in the pool, and pcidom itself has
# scanned exactly these.
status_has() {
    pcidomctl status > /tmp/status.out || return 1
    awk -v wanted="$*" '
        function has(list, device) { if (device in list || !(device in in_pool)) exit 1; list[device] }
        BEGIN { count = split(wanted, device, " "); for (n in device) in_pool[device[n]] }
        /^  [0-9a-f][0-9a-f][0-9a-f][0-9a-f]:/ {
            if ($2 !~ /^(free|lent)/) exit 1
            has(daemon, $1); daemons++
        }
        /^    pool\/[0-9]+: / {
            if ($3 " " $4 != "1b36:0010 class") exit 1
            has(pcidom, $2); pcidoms++
        }
        END { if (daemons != count || pcidoms != count) exit 1 }
    ' /tmp/status.out && return
    cat /tmp/status.out
    return 1
}

# ends_are STATE: of both ends of the link to dom0.
ends_are() {
    states=$(xenstore-read "$(back_path)/state" "$(frontend_path pcidom)/state")
    # One a line.
    states=$(echo $states)
    echo "the backend and the frontend are in $states"
    [ "$states" = "$1 $1" ]
}

# node_is KEY VALUE: of the backend's directory.
node_is() {
    value=$(xenstore-read "$(back_path)/$1")
    echo "$1 is '$value', expected '$2'"
    [ "$value" = "$2" ]
}

# directory_has BDF...: the entries of the backend's directory are these, in this order, each
# exported in a place of its own, and nothing is behind them.
directory_has() {
    xenstore-ls "$(back_path)" > /tmp/directory
    cat /tmp/directory
    front=$(frontend_path pcidom)
    awk -F '"' -v front="$front" -v wanted="$*" '
        { split($1, name, " = "); value[name[1]] = $2 }
        END {
            count = split(wanted, device, " ")
            if (value["frontend"] != front || value["num_devs"] != count) exit 1
            for (n = 0; n < count; n++) {
                place = value["vdev-" n]
                if (value["dev-" n] != device[n + 1] || value["state-" n] != 3) exit 1
                if (place !~ /^0000:00:[01][0-9a-f][.]0[0-7]$/ || place in taken) exit 1
                taken[place]
            }
            if (("dev-" count) in value || ("vdev-" count) in value) exit 1
            if (("state-" count) in value || ("key-" count) in value) exit 1
        }
    ' /tmp/directory
}

directories_are_gone() {
    not xenstore-exists "$(back_path)" && not xenstore-exists "$(frontend_path pcidom)" &&
        not dom0_has_backend
}

# pool WHEN [BDF...]: the pool is exactly this, whoever is asked.
pool() {
    when=$1
    shift
    wait_for "$when: status has $*" 30 status_has "$@"
    if [ $# -eq 0 ]; then
        wait_for "$when: there is no link" 10 directories_are_gone
    else
        wait_for "$when: both ends are connected" 10 ends_are 4
        check "$when: the directory has $*" directory_has "$@"
        check "$when: dom0's kernel has a backend" dom0_has_backend
    fi
    check "$when: pcidom serves" pcidom_state_is ready
}

# lends NAME: the drive can be lent, read, and comes back.
lends() {
    eval "drive=\$$1"
    attach g1 "$drive"
    guest_must g1 60 "nvme_wait $1 50"
    guest_must g1 60 "nvme_read $1 0 2"
    detach g1 "$drive"
    wait_for "$drive is free" 20 device_is_free "$drive"
}

# busy NAME: the drive is lent, and g1 does I/O on it. goes_on: it still does. unused NAME: it
# is given back, and no I/O has failed.
busy() {
    eval "drive=\$$1"
    attach g1 "$drive"
    guest_must g1 60 "nvme_wait $1 50"
    guest_must g1 20 "io_start $1 8"
    goes_on
}
goes_on() { guest_must g1 60 'io_advances 50'; }
unused() {
    goes_on
    guest_must g1 60 'io_stop'
    eval "drive=\$$1"
    detach g1 "$drive"
    wait_for "$drive is free" 20 device_is_free "$drive"
}

comes() { check "xl pci-attach $1" xl pci-attach pcidom "$1"; }
leaves() { check "xl pci-detach $1" xl pci-detach pcidom "$1"; }

# ---- what xend wrote (Xen 4.2), node by node as it did; what it asked of Xen is left out,
# ---- since pcidom keeps no right to a device of its pool ----

xend_says() { xenstore-write "$(back_path)/$1" "$2"; }
xend_count() { xenstore-read "$(back_path)/num_devs"; }

# xend_create BDF...: a new link, in one transaction.
xend_create() {
    domain=$(domid pcidom) back=$(back_path) front=$(frontend_path pcidom)
    xenstore-write "$back" '' "$front" ''
    xenstore-chmod "$back" n0 "r$domain"
    xenstore-chmod "$front" "n$domain" r0
    nodes='' number=0
    for device in "$@"; do
        nodes="$nodes $back/dev-$number $device $back/uuid-$number u$device"
        nodes="$nodes $back/key-$number $device $back/vdevfn-$number 100"
        number=$((number + 1))
    done
    # shellcheck disable=SC2086 # pairs of words
    xenstore-write "$front/backend" "$back" "$front/backend-id" 0 "$front/state" 1 \
        $nodes "$back/num_devs" "$number" "$back/uuid" ulink "$back/domain" pcidom \
        "$back/frontend" "$front" "$back/frontend-id" "$domain" "$back/online" 1 "$back/state" 1
}

# xend_reconfigure: sets 7, waits for 4, and tidies up: entries in 5 go, others move up.
xend_reconfigure() {
    xend_says state 7
    wait_for "dom0's backend is in 4 again" 15 node_is state 4
    back=$(back_path) kept=0 number=0 count=$(xend_count)
    while [ "$number" -lt "$count" ]; do
        closing=no
        [ "$(xenstore-read "$back/state-$number")" != 5 ] || closing=yes
        if [ "$closing" = yes ] || [ "$kept" -ne "$number" ]; then
            for key in dev vdev state uuid opts vdevfn key; do
                held=$(xenstore-read "$back/$key-$number" 2> /dev/null) || continue
                xenstore-rm "$back/$key-$number"
                [ "$closing" = yes ] || xenstore-write "$back/$key-$kept" "$held"
            done
        fi
        [ "$closing" = yes ] || kept=$((kept + 1))
        number=$((number + 1))
    done
    xend_says num_devs "$kept"
}

# xend_attach BDF: one more, on a link that is there.
xend_attach() {
    number=$(xend_count)
    xend_says "dev-$number" "$1"
    xend_says "state-$number" 1
    xend_says "uuid-$number" "u$1"
    xend_says "key-$number" "$1"
    xend_says "vdevfn-$number" 100
    xend_says num_devs $((number + 1))
    xend_reconfigure
}

# xend_detach BDF: with the last one the link goes.
xend_detach() {
    number=0
    until node_is "dev-$number" "$1" > /dev/null; do
        number=$((number + 1))
        [ "$number" -lt "$(xend_count)" ] || fail "$1 is not in the directory"
    done
    xend_says "state-$number" 5
    xend_reconfigure
    [ "$(xend_count)" -eq 0 ] || return 0
    xend_says online 0
    xend_says state 5
    # xend did not wait for an answer; WAIT_FOR_CLOSED lets there be one.
    [ -z "${WAIT_FOR_CLOSED:-}" ] || wait_for "pcidom closes its end" 10 front_is_closed
    xend_removes_link
}
front_is_closed() { [ "$(xenstore-read "$(frontend_path pcidom)/state")" = 6 ]; }

xend_removes_link() {
    xenstore-rm "$(back_path)" "$(frontend_path pcidom)"
    wait_for "dom0's kernel has ended the backend" 10 not dom0_has_backend
}

# ---- xl ----

step "boot pcidom with one drive in its pool"
assignable "$disk0" "$disk1" "$disk2"
start_daemon
start_pcidom "$disk0"
create_guest g1
pool "one drive" "$disk0"
lends disk0

step "xl pci-attach of a second and a third"
comes "$disk1"
pool "two drives" "$disk0" "$disk1"
comes "$disk2"
pool "three drives" "$disk0" "$disk1" "$disk2"
lends disk1

step "xl pci-detach of the one in the middle, while the last one is busy"
busy disk2
leaves "$disk1"
pool "without the middle" "$disk0" "$disk2"
unused disk2

step "xl pci-detach of the last of them, then of all"
leaves "$disk2"
pool "the first" "$disk0"
lends disk0
leaves "$disk0"
pool "none"
for device in "$disk0" "$disk1" "$disk2"; do
    check "$device is in quarantine" owned_by "$device" IO
done

step "the first one after that"
comes "$disk1"
pool "the first after none" "$disk1"
lends disk1
comes "$disk0"
pool "one more" "$disk1" "$disk0"
lends disk0

step "all go and two come, one command after the other"
leaves "$disk1"
leaves "$disk0"
comes "$disk2"
comes "$disk0"
pool "two others" "$disk2" "$disk0"
lends disk2

step "a pcidom without a device"
leaves "$disk0"
leaves "$disk2"
pool "none, before its end"
xl destroy pcidom
ends pcidom 40
# Without a device in the configuration libxl makes a domain without an IOMMU context, unless
# told otherwise. With the first device it makes the link, and waits for nothing; before each
# further one it waits for Connected.
PCIDOM_EXTRA='passthrough = "enabled"'
start_pcidom
pool "no drive yet"
comes "$disk0"
pool "the first drive" "$disk0"
lends disk0
leaves "$disk0"
pool "no drive again"

# ---- xend ----

step "xend: the only drive comes, goes with Closing, and comes again"
for WAIT_FOR_CLOSED in yes ''; do
    xend_create "$disk0"
    pool "created by xend" "$disk0"
    lends disk0
    xend_detach "$disk0"
    pool "taken by xend"
done

step "xend: one of two goes while the other is busy, and comes again"
xend_create "$disk0" "$disk1"
pool "two created by xend" "$disk0" "$disk1"
busy disk1
for turn in first second; do
    xend_detach "$disk0"
    pool "$turn detach" "$disk1"
    goes_on
    xend_attach "$disk0"
    pool "$turn attach" "$disk1" "$disk0"
    goes_on
done

step "Connected again without Closing"
for said in 4 4 8 4; do
    xend_says state "$said"
    goes_on
done
pool "told Connected again" "$disk1" "$disk0"
unused disk1
lends disk0

step "xend: both go, one after the other, and come together"
xend_detach "$disk1"
pool "the second" "$disk0"
lends disk0
xend_detach "$disk0"
pool "both taken"
xend_create "$disk1" "$disk0"
pool "both again" "$disk1" "$disk0"
lends disk1

step "the directories go and come back while pcidom does not look"
xl pause pcidom
xend_removes_link
xend_create "$disk2" "$disk1"
wait_for "dom0's backend waits for pcidom" 15 node_is state 3
xl unpause pcidom
pool "after the pause" "$disk2" "$disk1"
lends disk2
lends disk1

step "the end"
xl destroy pcidom
ends pcidom 40
for device in "$disk0" "$disk1" "$disk2"; do
    check "$device is in quarantine" owned_by "$device" IO
done
check "pcidom was never restarted" not guest_log_has pcidom 'restart number'
check "no IOMMU fault" no_vtd_fault
check "no zombie is left" no_zombies
