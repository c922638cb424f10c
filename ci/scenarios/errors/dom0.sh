. /bed/lib/errors.sh

# with_version MINOR COMMAND...: with another Xen's number.
with_version() {
    echo "$1" > /tmp/minor
    mount -o bind /tmp/minor /sys/hypervisor/version/minor
    shift
    with_code=0
    "$@" || with_code=$?
    umount /sys/hypervisor/version/minor
    return "$with_code"
}

# without_record GUEST COMMAND...: as if libxl had written nothing down.
without_record() {
    record=$(ls /var/lib/xen/userdata-d."$(domid "$1")".*.libxl-json)
    mv "$record" /tmp/record
    shift
    with_code=0
    "$@" || with_code=$?
    mv /tmp/record "$record"
    return "$with_code"
}

# says_paused GUEST: attach succeeds, and says that the guest has to run first.
says_paused() {
    pcidomctl attach "$1" "$disk0" > /tmp/paused.out || return 1
    cat /tmp/paused.out
    grep -F "$1 is paused and has not connected yet" /tmp/paused.out && grep -F 'xl unpause' /tmp/paused.out
}

step "the daemon does not start"
row "no daemon runs" 1 'the daemon does not run' 'start it with: pcidomctl daemon' pcidomctl attach g1 "$disk0"
row "a daemon without root" 1 "can't be" 'as root' without_root pcidomctl daemon
row "no libxenctrl for this Xen" 1 "libxenctrl of Xen 4.99 can't be loaded" 'apt install xen-utils-4.99' with_version 99 pcidomctl daemon
check "an unknown Xen is named" grep -qF 'pcidomctl knows Xen 4.17 to 4.20, and this is 4.99' /tmp/row.said
mkdir /tmp/other
cp /usr/lib/x86_64-linux-gnu/libxentoollog.so.1 /tmp/other/libxenctrl.so.4.99
row "a libxenctrl without a function" 1 'lacks xc_interface_open' 'it knows Xen 4.17 to 4.20' with_version 99 env LD_LIBRARY_PATH=/tmp/other pcidomctl daemon

step "no pcidom runs"
assignable "$disk0" "$disk1"
start_daemon
changes
row "a second daemon" 1 'runs already' 'name them with --pcidom' pcidomctl daemon
row "a verb without root" 1 'is for root only' 'run pcidomctl as root' without_root pcidomctl status
create_guest g1
changes
row "no pcidom runs" 1 'no domain named pcidom runs' 'xl create pcidom.cfg' pcidomctl attach g1 "$disk0"
row "--pcidom names none" 1 'the daemon serves pcidom, not nonsense' 'pcidomctl daemon --pcidom nonsense' pcidomctl attach --pcidom nonsense g1 "$disk0"

step "guests and devices that do not fit"
start_pcidom "$disk0"
wait_for "the device is free" 20 device_is_free "$disk0"
changes
row "malformed device" 2 'malformed PCI_SPEC_STRING "01:00"' '[DDDD:]BB:SS.F' pcidomctl attach g1 01:00
row "malformed device to detach" 2 'malformed PCI_SPEC_STRING "nonsense"' 'pcidomctl status' pcidomctl detach g1 nonsense
row "malformed command" 2 'required arguments' 'Usage: pcidomctl attach' pcidomctl attach g1
row "unknown guest" 1 'there is no domain nobody' 'xl list' pcidomctl attach nobody "$disk0"
row "unknown guest to detach from" 1 'there is no domain nobody' 'xl list' pcidomctl detach nobody "$disk0"
row "dom0 is no guest" 1 'Domain-0 is no guest' 'xl list' pcidomctl attach 0 "$disk0"
row "not in the pool" 1 'is not in the pool' "xl pci-assignable-add $disk1" pcidomctl attach g1 "$disk1"
row "no such device" 1 'is not in the pool' 'xl pci-assignable-add 0000:7f:00.0' pcidomctl attach g1 7f:00.0
row "no such device to detach" 1 "$disk0 is not lent to g1" 'pcidomctl list' pcidomctl detach g1 "$disk0"

small_guest g2 pv
row "neither passthrough nor e820_host" 1 'g2 was created without passthrough="enabled" and e820_host=1' 'create it anew' pcidomctl attach g2 "$disk0"
row "the same, and libxl's record is gone" 1 'g2 was created without an IOMMU context' 'passthrough="enabled" and e820_host=1' without_record g2 pcidomctl attach g2 "$disk0"
xl destroy g2
small_guest g3 pv 'e820_host = 1' 'passthrough = "disabled"'
row "no passthrough" 1 'g3 was created without passthrough="enabled",' 'create it anew' pcidomctl attach g3 "$disk0"
xl destroy g3
small_guest g4 pv 'passthrough = "enabled"'
row "no e820_host" 1 'g4 was created without e820_host=1,' 'create it anew' pcidomctl attach g4 "$disk0"
xl destroy g4
small_guest g5 pv "pci = [\"$disk1\"]"
row "stock pci=" 1 'g5 has devices from dom0 (pci= in its config)' 'write passthrough="enabled" and e820_host=1' pcidomctl attach g5 "$disk0"

step "guests that do not connect"
guest_must g1 20 'rmmod xen-pcifront'
changes
row "a guest that runs without pcifront" 1 'g1 did not connect in 5 s' 'look at xl console g1' pcidomctl attach --wait 5 g1 "$disk0"
check "the guest has no right to it" has_no_rights "$(domid g1)" "$disk0"
check "the device is in quarantine" owned_by "$disk0" IO
guest_must g1 20 'modprobe xen-pcifront'
attach g1 "$disk0"
# Its driver may still be at work: nothing must change while the row is tried.
guest_must g1 60 'nvme_wait disk0 50'
changes
row "lent already, to the same guest" 1 "$disk0 is lent (guest g1)" "pcidomctl detach g1 $disk0" pcidomctl attach g1 "$disk0"
detach g1 "$disk0"
create_guest g7 --paused --mem 128
need "a paused guest is lent a device" says_paused g7
changes
row "lent already, to another guest" 1 "$disk0 is lent (guest g7)" "pcidomctl detach g7 $disk0" pcidomctl attach g1 "$disk0"
detach g7 "$disk0"
xl destroy g7

step "several pcidoms"
stop_daemon
small_guest a pv
small_guest b pv
pcidomctl daemon --pcidom a --pcidom b >> /var/log/xen/pcidom.log 2>&1 &
DAEMON=$!
wait_for "the daemon answers" 30 pcidomctl status
changes
for verb in attach detach; do
    row "$verb: several pcidoms run and none is named" 1 'several pcidoms run (a, b)' '--pcidom NAME' pcidomctl $verb g1 "$disk0"
done
row "list: several pcidoms run and none is named" 1 'several pcidoms run (a, b)' '--pcidom NAME' pcidomctl list
xl destroy b
wait_for "the only one that runs needs no name" 20 pcidomctl list
stop_daemon
check "no fault of the IOMMU" no_vtd_fault
check "no error in the daemon's log" not logged ERROR
