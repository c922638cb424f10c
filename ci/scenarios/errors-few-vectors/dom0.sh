. /bed/lib/errors.sh

step "a drive that wants two vectors, and a guest that can have one"
assignable "$disk0"
start_daemon
start_pcidom "$disk0"
create_guest g1
attach g1 "$disk0"
wait_for "status says why" 40 status_says 'no MSI vectors left.*extra_guest_irqs='
check "the daemon's log says it, with the guest" logged '-> g1 .*no MSI vectors left.*extra_guest_irqs='
cat /tmp/status.out
detach g1 "$disk0"
check "the device is free" device_is_free "$disk0"
