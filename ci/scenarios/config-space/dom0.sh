# The dumps are compared on the host (xtask/src/bed/config.rs), by what the table that is in
# pcidom's image says of the device as dom0 saw it: nothing here knows a register.

DUMPS=/var/log/xen/config
mkdir -p "$DUMPS"

# raw NAME BDF WHEN: config space as the hardware has it.
raw() { od -An -v -tx1 "/sys/bus/pci/devices/$2/config" > "$DUMPS/$1.$3"; }

# swept NAME BDF OPTIONS PATTERN...: lent with these options, read, written all over, given back.
swept() {
    swept_name=$1 swept_device=$2 swept_options=$3
    shift 3
    need "attach $swept_device$swept_options to g1" pcidomctl attach g1 "$swept_device$swept_options"
    guest_must g1 40 'wait_until 30 has_devices 1'
    guest_must g1 20 no_driver
    raw "$swept_name" "$swept_device" before
    guest_must g1 20 'quietly config_dump'
    cp "$OUT" "$DUMPS/$swept_name.guest"
    for pattern in "$@"; do
        guest_must g1 180 "config_sweep $pattern"
        raw "$swept_name" "$swept_device" "after-$pattern"
    done
    echo "$swept_options" > "$DUMPS/$swept_name.options"
    detach g1 "$swept_device"
    guest_must g1 40 'wait_until 30 has_devices 0'
}

# denied_is_named: status names the register of a write that was denied, and what allows it.
denied_is_named() {
    pcidomctl status > /tmp/denied.out || return 1
    grep 'denied: LATENCY_TIMER, 1 byte at 0x0d, wanted 0x40' /tmp/denied.out | grep 'allow=LATENCY_TIMER'
}

step "boot pcidom with four kinds of devices in its pool"
all="$disk0 $net0 $net0_port $card0 $card0_port $sata0 $sata0_port"
# shellcheck disable=SC2086 # a list
assignable $all
start_daemon
# shellcheck disable=SC2086
start_pcidom $all
create_guest g1 --script guest.sh
guest_must g1 20 without_drivers

for name in disk0 net0 card0 sata0; do
    eval "device=\$$name"
    step "$name"
    swept "$name" "$device" '' ff 00 55 aa
done

step "net0, with all that people may allow"
# Each write reaches the hardware now and takes its time; these two write each bit both ways.
swept net0-permissive "$net0" ,permissive=1 55 aa

step "what was denied is named"
pcidomctl status
check "no request of g1 timed out" pciback_was_prompt g1
attach g1 "$disk0"
guest_must g1 60 'modprobe nvme; nvme_wait disk0 50'
guest_must g1 60 'nvme_read disk0 0 2'
guest_must g1 20 'config_sweep_denied'
check "by pcidomctl status, with the exception that would allow it" denied_is_named
xl destroy g1
ends g1 30
check "no IOMMU fault" no_vtd_fault
check "no zombie is left" no_zombies
