. /bed/lib/errors.sh

# xl_refuses: xl does not create a pcidom whose pool has a device.
xl_refuses() {
    grep -v '^pci *=' /etc/xen/pcidom.cfg > /tmp/pool.cfg
    echo "pci = [\"$disk0\"]" >> /tmp/pool.cfg
    not xl create -p /tmp/pool.cfg > /tmp/xl.out 2>&1 || return 1
    cat /tmp/xl.out
    grep -i passthrough /tmp/xl.out
}

step "a host without an IOMMU"
check "Xen has none" not sh -c 'xl info | grep pv_directio'
check "xl takes no device" not xl pci-assignable-add "$disk0"
start_daemon
check "the daemon's log says it" logged 'Xen runs without an IOMMU'
check "status says it" status_says '^trouble: Xen runs without an IOMMU'
small_guest g1 pv
row "no IOMMU" 1 'Xen runs without an IOMMU' 'look for pv_directio in xl info' pcidomctl attach g1 "$disk0"
check "xl starts no pcidom with devices" xl_refuses
