# What is measured is a row `WHO METRIC NUMBER` in this file; `cargo xtask bench` makes the
# table of it. WHO is `stock` (guest of dom0's pciback), `pcidom` (guest of pcidom) or
# `alone` (pcidom itself). A line `text ...` is shown above the table.
BENCH=/var/log/xen/bench.txt
: > "$BENCH"
ROUNDS=${ROUNDS:-5}

row() { echo "$1 $2 $3" >> "$BENCH"; }
text() { echo "text $*" >> "$BENCH"; }
# rows WHO PREFIX FILE: the stopwatch's results in the file.
rows() { sed -n "s|^@@BENCH \([^ ]*\) \([0-9]*\) *\$|$1 $2\1 \2|p" "$3" >> "$BENCH"; }

# pin NAME CPU
pin() { xl vcpu-pin "$1" 0 "$2" "$2"; }

# cpu_time NAME: in seconds, as Xen counted it.
cpu_time() { xl vcpu-list "$1" | awk 'NR == 2 { print $NF == "all" ? $(NF - 3) : $6 }'; }

step "placement: dom0 and guests on CPU 0, pcidom on CPU 1"
xl sched-credit -s -r 0
pin Domain-0 0
assignable "$disk0" "$disk1" "$disk2" "$disk3"
start_daemon

step "from unpause to ready"
start_pcidom "$disk1"
for _ in $(seq "$ROUNDS"); do
    xl destroy pcidom
    ends pcidom 30
    xl create -p /tmp/pcidom.cfg
    know_domid pcidom
    pin pcidom 1
    bed-probe until "$CONSOLES/guest-pcidom.log" "pcidom: ready," 60 xl unpause pcidom > /tmp/ready.out ||
        fail "pcidom did not become ready"
    rows alone start/ /tmp/ready.out
done

step "one guest on dom0's pciback, one on pcidom"
create_guest stock "pci = [ \"$disk0\" ]"
create_guest lent --paused
attach lent "$disk1"
xl unpause lent
guest_ready lent
pin stock 0
pin lent 0
guest_must stock 60 'nvme_wait disk0 50'
guest_must lent 60 'nvme_wait disk1 50'
xl vcpu-list | sed 's/^/text /' >> "$BENCH"
for guest in stock lent; do
    guest_run "$guest" 20 "irqs nvme" > /dev/null
    kinds=$(awk '{ print $3 $4 }' "$OUT" | sort | uniq -c | xargs)
    text "the drive's interrupts in $guest: $kinds"
done

# config_space WHO GUEST
config_space() {
    guest_run "$2" 120 'quietly bed-probe config /sys/bus/pci/devices/*/config 200' > /dev/null ||
        fail "$2: config space"
    rows "$1" '' "$OUT"
}
# drive WHO GUEST
drive() {
    guest_run "$2" 60 'quietly bed-probe drive /dev/nvme0n1 3 1 && quietly bed-probe drive /dev/nvme0n1 3 4' > /dev/null ||
        fail "$2: drive"
    rows "$1" '' "$OUT"
}
for round in $(seq "$ROUNDS"); do
    step "round $round"
    # By turns, and whoever goes first goes last: the host grows slower or faster within seconds.
    config_space stock stock
    config_space pcidom lent
    config_space pcidom lent
    config_space stock stock
    if [ $((round % 2)) = 1 ]; then
        drive stock stock
        drive pcidom lent
    else
        drive pcidom lent
        drive stock stock
    fi
done
check "no request timed out" pciback_was_prompt lent

step "idle"
idle=30
before=$(cpu_time pcidom)
xentrace -D -e 0x21000 -T "$idle" /tmp/trace.bin > /tmp/xentrace.out 2>&1 || cat /tmp/xentrace.out
text "pcidom's CPU time over $idle idle seconds: from $before s to $(cpu_time pcidom) s"
bed-probe wakes /tmp/trace.bin "$(domid pcidom)" > /tmp/wakes.out && rows alone "idle$idle/" /tmp/wakes.out
# The same while the guest reads config space: a trace that never shows a wake-up proves nothing.
send_guest lent 'bed-probe config /sys/bus/pci/devices/*/config 200'
xentrace -D -e 0x21000 -T 2 /tmp/trace.bin > /tmp/xentrace.out 2>&1 || cat /tmp/xentrace.out
guest_log_wait lent "@@DONE $SEQUENCE " 120
bed-probe wakes /tmp/trace.bin "$(domid pcidom)" > /tmp/wakes.out && rows alone busy2/ /tmp/wakes.out
check "the trace shows wake-ups of a busy pcidom" grep -E '^@@BENCH wakes [1-9]' /tmp/wakes.out
rm -f /tmp/trace.bin
for guest in stock lent; do
    xl destroy "$guest"
    ends "$guest" 30
done
wait_for "the pool has the drive back" 20 device_is_free "$disk1"

# no_devices GUEST
no_devices() { guest_run "$1" 40 'no_devices() { [ -z "$(ls /sys/bus/pci/devices)" ]; }; wait_until 30 no_devices'; }
# until_visible WHO GUEST SERIAL COMMAND...: from the command until the guest has a device.
until_visible() {
    who=$1 guest=$2 serial=$3
    shift 3
    send_guest "$guest" "bed-probe present /sys/bus/pci/devices 60 && echo @@VISIBLE \$(ls /sys/bus/pci/devices)"
    number=$SEQUENCE
    guest_log_wait "$guest" "@@BEGIN $number" 20
    bed-probe until "$CONSOLES/guest-$guest.log" @@VISIBLE 60 "$@" > /tmp/attach.out || fail "$guest got no device"
    rows "$who" attach/ /tmp/attach.out
    guest_log_wait "$guest" "@@DONE $number " 20
    # Only so that the driver is at rest before the device goes.
    guest_run "$guest" 30 "nvme_wait $serial 20" || note "$guest: no drive $serial"
}

step "attaching to running guests"
create_guest hotstock
create_guest hotlent
pin hotstock 0
pin hotlent 0
# It takes a second and differs by a half, so it is done more often than the rest.
for round in $(seq $((2 * ROUNDS))); do
    note "round $round"
    until_visible stock hotstock disk0 xl pci-attach hotstock "$disk0"
    xl pci-detach hotstock "$disk0"
    no_devices hotstock
    until_visible pcidom hotlent disk1 pcidomctl attach hotlent "$disk1"
    pcidomctl detach hotlent "$disk1"
    no_devices hotlent
done
for guest in hotstock hotlent pcidom; do
    xl destroy "$guest"
    ends "$guest" 30
done

# serves MIB: whether a pcidom with so little memory serves the four guests.
serves() {
    sed -i "s/^ *memory *=.*/memory = $1/" /tmp/pcidom.cfg
    xl create /tmp/pcidom.cfg || return 1
    know_domid pcidom
    pin pcidom 1
    tries=0
    until pcidom_state_is ready 2> /dev/null; do
        tries=$((tries + 1))
        if [ "$tries" -gt 200 ] || ! guest_exists pcidom; then
            return 1
        fi
        pause 50
    done
    for number in 0 1 2 3; do
        eval "device=\$disk$number"
        pcidomctl attach "m$number" "$device" || return 1
        guest_run "m$number" 60 "nvme_wait disk$number 30 && nvme_read disk$number $1 1" || return 1
    done
    xl list pcidom
}

step "the least memory that serves four guests"
start_pcidom "$disk0" "$disk1" "$disk2" "$disk3"
check "pcidom is destroyed" xl destroy pcidom
ends pcidom 30
for number in 0 1 2 3; do create_guest "m$number"; done
for memory in ${MEMORIES:-2 3 4 5 6 7 8}; do
    note "memory = $memory"
    if serves "$memory"; then
        row alone memory/four-guests "$memory"
        break
    fi
    ! guest_exists pcidom || xl destroy pcidom
    ends pcidom 30
    for number in 0 1 2 3; do no_devices "m$number" > /dev/null; done
done
check "no IOMMU fault" no_vtd_fault
