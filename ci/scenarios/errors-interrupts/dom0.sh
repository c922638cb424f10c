. /bed/lib/errors.sh

step "a host without interrupt remapping"
assignable "$disk0"
start_daemon
check "the daemon's log says it" logged 'Xen runs without interrupt remapping'
check "status says it" status_says '^trouble: Xen runs without interrupt remapping'
start_pcidom "$disk0"
wait_for "the device is free" 20 device_is_free "$disk0"
create_guest g1
row "no interrupt remapping" 1 'Xen runs without interrupt remapping' 'pcidomctl daemon --allow-no-intremap' pcidomctl attach g1 "$disk0"

step "Xen's log has forgotten its beginning"
stop_daemon
xen_log_begins_anew /dev/null
start_daemon
row "the next daemon knows" 1 'Xen runs without interrupt remapping' '--allow-no-intremap' pcidomctl attach g1 "$disk0"
stop_daemon
xenstore-rm /tool/pcidom/remapping
start_daemon
row "nothing tells any more" 1 'no longer tells whether interrupts are remapped' 'xl debug-keys V' pcidomctl attach g1 "$disk0"
stop_daemon

step "a person says so"
pcidomctl daemon --allow-no-intremap >> /var/log/xen/pcidom.log 2>&1 &
DAEMON=$!
wait_for "the daemon answers" 30 pcidomctl status
check "status reminds" status_says '^trouble: .*--allow-no-intremap'
attach g1 "$disk0"

step "the drive wants two vectors, and the guest can have one"
wait_for "status says why" 40 status_says 'no MSI vectors left.*extra_guest_irqs='
check "the daemon's log says it, with the guest" logged '-> g1 .*no MSI vectors left.*extra_guest_irqs='
cat /tmp/status.out
guest_must g1 60 'nvme_wait disk0 50'
guest_must g1 60 'nvme_read disk0 0 2'
detach g1 "$disk0"
check "the device is free" device_is_free "$disk0"
