. /bed/lib/com2.sh

pv_log() { guest_log pcidom; }
type_pv() { send pcidom "$1"; }
type_com2() { printf '%s\r' "$1" > "$COM2_PORT"; }

# shows CONSOLE LINE REGEX: whether the console shows the regex after that line.
shows() { "$1_log" | tail -n "+$(($2 + 1))" | grep -qE -- "$3"; }

# ask CONSOLE COMMAND REGEX...: types a command (pv, com2) and waits for each answer.
ask() {
    ask_on=$1 ask_what=$2 ask_from=$("$1_log" | wc -l)
    "type_$1" "$2"
    shift 2
    for regex in "$@"; do
        wait_for "$ask_on: $ask_what: $regex" 20 shows "$ask_on" "$ask_from" "$regex"
    done
}

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
    know_domid "crashed-$crash_how"
    xl destroy "crashed-$crash_how" &
}
# xl list: the fifth column, where `c` is a domain that has crashed.
crashed() { xl list pcidom | awk 'NR == 2 { print; f = $5 ~ /c/ } END { exit !f }'; }

step "a panic"
com2_open
assignable "$disk0" "$disk1" "$disk2" "$disk3"
start_daemon
crashes panic "$disk1" 'PANIC at kernel/src/image/probe.rs:[0-9]+: asked for by the command line' 'dom0: link to state 4'

step "a read where nothing is mapped"
crashes null "$disk2" 'TRAP 14 \(page fault\) at rip 0x[0-9a-f]+' 'address 0x8' '  from 0x[0-9a-f]+' 'dom0: link to state 4'

step "a stack that is too small"
# Xen has nowhere to put the trap's frame: it ends the domain, and only Xen's log says so.
crashes stack "$disk3"
check "Xen's log says why" grep_xen 'domain_crash_sync called from entry.S'

step "boot pcidom with a serial port and its interrupt"
before_com2=$(com2_log | wc -l)
PCIDOM_EXTRA='irqs = [ 3 ]'
start_pcidom "$disk0"
check "COM2 has its interrupt" not guest_log_has pcidom 'COM2 has no interrupt'

step "questions to an idle pcidom"
ask pv help '^pcidom> help' '^dump BDF' '^ring .COUNT'
ask com2 help '^pcidom> help' '^dump BDF' '^ring .COUNT'
ask pv pool "^$disk0 1b36:0010 .*: free, in quarantine" '^1 device'
ask com2 loans '^0 loan'
ask pv nonsense 'is not a command'
check "what is said on COM2 is not on the PV console" not shows pv 0 '> loans'
check "what is said on the PV console is not on COM2" not shows com2 0 'nonsense'
check "the log is on COM2 too" shows com2 "$before_com2" 'ready, 1 device'

step "questions while a guest does I/O"
create_guest g1 --paused
attach g1 "$disk0"
xl unpause g1
guest_ready g1
drive_works g1 disk0 4
guest_must g1 20 'io_start disk0 8'
ask pv pool ': loan 0 to domain .*Lent'
ask pv guests 'link=.*reads=[1-9]' '  0000:01:00.0 as .*MSI-X' '^1 guest'
ask com2 loans 'with domain .*Lent' '^1 loan'
ask com2 leases 'MSI-X.*pirqs [0-9]' '^1 loan'
ask pv "dump $disk0" '^000: 36 1b 10 00 ' '^0x004 COMMAND .*bus master' 'capability 0x11 MSI-X'
ask com2 "dump $disk0" '^000: 36 1b 10 00 ' '^0x004 COMMAND .*bus master' 'capability 0x11 MSI-X'
ask pv ring 'enable MSI-X .*: ok' 'lease.s. granted'
ask com2 'ring 5' 'port|ok|link'
ask pv 'log debug pciback' 'pciback logs at DEBUG'
ask pv 'log info' 'everything logs at INFO'
guest_must g1 60 'io_advances 50'
check "no request of the guest timed out" pciback_was_prompt g1
guest_must g1 60 'io_stop'

step "typing faster than answers come"
for n in 1 2 3 4 5 6; do type_pv "dump $disk0"; type_com2 "ring 40"; done
ask pv "loans" '^1 loan'
ask com2 "loans" '^1 loan'

step "the end"
detach g1 "$disk0"
ask pv "loans" '^0 loan'
ask pv 'ring 60' "$disk0 reset" 'link to state'
xl destroy g1
ends g1 30
xl shutdown pcidom
shuts_down pcidom 40
for how in panic null stack; do ends "crashed-$how" 40; done
check "no IOMMU fault" no_vtd_fault
check "no zombie is left" no_zombies
