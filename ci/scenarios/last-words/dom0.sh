. /bed/lib/com2.sh

# crashes HOW BDF REGEX...: boots an image that fails so as soon as its device is ready, and
# looks for each regex on both consoles. It is destroyed while the next one boots, since libxl
# takes its time.
crashes() {
    crash_how=$1 crash_device=$2
    shift 2
    com2_from=$(com2_log | wc -l)
    PCIDOM_EXTRA="extra = \"crash=$crash_how\"
on_crash = \"preserve\""
    start_image /bed/images/pcidom-probe-bar "$crash_device"
    wait_for "crash=$crash_how: Xen knows of the crash" 60 crashed
    for regex in "$@"; do
        check "crash=$crash_how: the PV console shows $regex" guest_log_has pcidom "$regex"
        wait_for "crash=$crash_how: COM2 shows $regex" 10 com2_has_since "$com2_from" "$regex"
    done
    xl rename pcidom "crashed-$crash_how"
    xl destroy "crashed-$crash_how" &
}
# xl list: the fifth column, where `c` is a domain that has crashed.
crashed() { xl list pcidom | awk 'NR == 2 { print; f = $5 ~ /c/ } END { exit !f }'; }

step "a serial port"
com2_open
assignable "$disk0" "$disk1" "$disk2"
start_daemon

step "a panic"
crashes panic "$disk0" 'PANIC at kernel/src/image/probe.rs:[0-9]+: asked for by the command line' 'dom0: link to state 4'

step "a read where nothing is mapped"
crashes null "$disk1" 'TRAP 14 \(page fault\) at rip 0x[0-9a-f]+' 'address 0x8' '  from 0x[0-9a-f]+' 'dom0: link to state 4'

step "a stack that is too small"
# Xen has nowhere to put the trap's frame: it ends the domain, and only Xen's log says so.
crashes stack "$disk2"
check "Xen's log says why" grep_xen 'domain_crash_sync called from entry.S'
for how in panic null stack; do ends "crashed-$how" 40; done
check "no zombie is left" no_zombies
