# What Xen itself says: its log and its debug keys, taken and read.

# xen_mark: from here on xen_new shows new lines of Xen's log only.
xen_mark() { XEN_MARK=$(xl dmesg | wc -l); }
xen_new() { xl dmesg | tail -n "+$((XEN_MARK + 1))"; }

# no_vtd_fault: Xen has logged no fault of the IOMMU since boot.
no_vtd_fault() { not grep_xen 'DMAR: ?\[|DMAR: reason|fault addr'; }
grep_xen() { xl dmesg | grep -iE "$1"; }

# xen_debug_keys KEY: presses a debug key; what Xen printed is in the file $KEYS.
KEYS=/tmp/xen-keys.txt
xen_debug_keys() {
    xen_mark
    xl debug-keys "$1"
    xen_new > "$KEYS"
    cp "$KEYS" "/var/log/xen/debug-key-$1-$(now_ms).txt"
}

# device_owner BDF: who owns the device, as key Q shows it: a domid, or IO while it is in
# quarantine.
device_owner() {
    xen_debug_keys Q
    sed -nE "s/^\(XEN\) $1 - (d\[?|Dom)([0-9A-Za-z]+).*/\2/p" "$KEYS" | tail -n 1
}

# owned_by BDF OWNER
owned_by() {
    owner=$(device_owner "$1")
    echo "owner of $1 is '$owner', expected '$2'"
    [ "$owner" = "$2" ]
}

# rangesets DOMID: the domain's permissions, as key q shows them: one line each, like
# `Interrupts { 24 }`.
rangesets() {
    xen_debug_keys q
    awk -v d="$1" '
        /General information for domain/ { mine = ($0 ~ "domain " d ":"); ranges = 0 }
        mine && /Rangesets belonging to domain/ { ranges = 1; next }
        mine && ranges && /[{]/ { sub(/^\(XEN\) */, ""); print; next }
        mine && ranges { ranges = 0 }
    ' "$KEYS"
}

# range_of DOMID NAME: what is inside the braces of one rangeset.
range_of() { rangesets "$1" | grep "^$2 " | cut -d '{' -f 2 | cut -d '}' -f 1; }

# range_has DOMID NAME HEX: whether the rangeset has this value (numbers are hex, except
# those of Interrupts, so give them the way Xen prints them).
range_has() {
    range_of "$1" "$2" | tr ',' '\n' | while IFS= read -r part; do
        part=$(echo "$part" | tr -d ' ')
        [ -n "$part" ] || continue
        low=${part%-*}
        high=${part#*-}
        if [ "$2" = Interrupts ]; then
            low=$((low)) high=$((high)) value=$(($3))
        else
            low=$((0x$low)) high=$((0x$high)) value=$((0x$3))
        fi
        if [ "$value" -ge "$low" ] && [ "$value" -le "$high" ]; then echo yes; fi
    done | grep -q yes
}

# bar_frames BDF: the first page frame of each memory BAR, in hex, from dom0's sysfs.
bar_frames() {
    while read -r start end flags; do
        # Bit 9 of the flags: memory. Only the six BARs come before the ROM.
        if [ "$((start))" -ne 0 ] && [ "$((flags & 0x200))" -ne 0 ]; then
            printf '%x\n' "$((start >> 12))"
        fi
        : "$end"
    done << RESOURCES
$(head -n 6 "/sys/bus/pci/devices/$1/resource")
RESOURCES
}

# bar_ports BDF: the first port of each I/O BAR, in hex.
bar_ports() {
    while read -r start end flags; do
        if [ "$((start))" -ne 0 ] && [ "$((flags & 0x100))" -ne 0 ]; then
            printf '%x\n' "$((start))"
        fi
        : "$end"
    done << RESOURCES
$(head -n 6 "/sys/bus/pci/devices/$1/resource")
RESOURCES
}

# has_rights DOMID BDF: the domain may use one of the device's BARs or its interrupt line.
has_rights() {
    found=1
    for frame in $(bar_frames "$2"); do
        if range_has "$1" 'I/O Memory' "$frame"; then echo "memory $frame"; found=0; fi
    done
    for port in $(bar_ports "$2"); do
        if range_has "$1" 'I/O Ports' "$port"; then echo "port $port"; found=0; fi
    done
    gsi=$(cat "/sys/bus/pci/devices/$2/irq")
    if range_has "$1" Interrupts "$gsi"; then echo "interrupt $gsi"; found=0; fi
    return "$found"
}

# pirqs_of DOMID: the interrupts that key i shows as bound by the domain.
pirqs_of() {
    xen_debug_keys i
    grep -E "[ ,]d$1: *[0-9]+\(" "$KEYS"
}

# has_pirq DOMID: whether the domain has bound any pirq.
has_pirq() { pirqs_of "$1"; }

# no_zombies: xl list shows no dead, dying or nameless domain.
no_zombies() {
    xl list
    not awk_zombie
}
awk_zombie() { xl list | awk 'NR > 1 && ($1 == "(null)" || $5 ~ /[scd]/) { f = 1 } END { exit !f }'; }
