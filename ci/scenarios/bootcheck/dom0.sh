IMG=$(pcidom_image)
mk() { cat > /tmp/p.cfg <<C
name = "pcidom"
type = "pv"
kernel = "$IMG"
memory = $1
vcpus = 1
passthrough = "enabled"
ioports = ["2f8-2ff"]
extra = "$2"
on_crash = "destroy"
C
}
step "memory=8, debug"
mk 8 loglevel=debug
rm -f "$CONSOLES/guest-pcidom.log"
xl create /tmp/p.cfg || fail create
know_domid pcidom
follow pcidom
sleep 3
xl list
xl shutdown pcidom
sleep 3
xl list
echo "console:"; cat $CONSOLES/guest-pcidom.log
xl destroy pcidom
for m in 4 3; do
step "memory=$m, no uart"
mk $m ""
grep -v ioports /tmp/p.cfg > /tmp/q.cfg
rm -f "$CONSOLES/guest-pcidom.log"
if xl create /tmp/q.cfg; then
sleep 2
xl list
cat $CONSOLES/guest-pcidom.log
xl destroy pcidom
fi
done
step "pool"
assignable "$disk0"
mk 8 loglevel=debug
echo "pci = [\"$disk0\"]" >> /tmp/p.cfg
rm -f "$CONSOLES/guest-pcidom.log"
xl create /tmp/p.cfg || fail create2
know_domid pcidom
follow pcidom
sleep 6
xl list
xenstore-ls -f | grep -i pcidom
echo "console:"; cat $CONSOLES/guest-pcidom.log
xl shutdown pcidom
sleep 3
xl list
cat /var/log/xen/xl-pcidom.log
tail -20 /var/log/xen/console/hypervisor.log
