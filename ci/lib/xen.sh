# What Xen itself says: its log and its debug keys, taken and read.

# How much of Xen's log was taken so far. In a file, since a subshell may take some.
XEN_MARK=/tmp/xen-mark

# xen_log_begins_anew: Xen's own log is empty; what it had is in FILE.
xen_log_begins_anew() { xl dmesg -c > "$1"; }

# no_vtd_fault: Xen has logged no fault of the IOMMU since boot.
no_vtd_fault() { not grep_xen 'DMAR: ?\[|DMAR: reason|fault addr'; }
grep_xen() { xl dmesg | grep -iE "$1"; }

# xen_debug_keys KEY: presses a debug key; what Xen printed since the last one is in the file
# $KEYS. xl dmesg keeps all of it.
KEYS=/tmp/xen-keys.txt
xen_debug_keys() {
    bed-probe keys "$1" "$XEN_MARK" > "$KEYS" || fail "Xen's debug key $1"
    # Of nothing, any check that something is not there would hold.
    [ -s "$KEYS" ] || fail "Xen printed nothing for the debug key $1"
}

# device_owner BDF: who owns the device, as key Q shows it: a domid, or IO while it is in
# quarantine.
device_owner() {
    xen_debug_keys Q
    owner_of "$1"
}
owner_of() {
    sed -nE "s/^\(XEN\) $1 - (d\[?|Dom)([0-9A-Za-z]+).*/\2/p" "$KEYS" | tail -n 1
}

# owned_by BDF OWNER
owned_by() {
    xen_debug_keys Q
    owner_in_keys "$1" "$2"
}

# owner_in_keys BDF OWNER: by the last `xen_debug_keys Q`.
owner_in_keys() {
    owner=$(owner_of "$1")
    echo "owner of $1 is '$owner', expected '$2'"
    [ "$owner" = "$2" ]
}

# take_rights: asks Xen for every domain's permissions (key q), which the functions below
# then look at.
RIGHTS=/tmp/xen-rights.txt
take_rights() {
    xen_debug_keys q
    cp "$KEYS" "$RIGHTS"
}

# rangesets DOMID: the domain's permissions, like `I/O Memory { fe400-fe403 }`, one line each.
rangesets() {
    awk -v d="$1" '
        / Rangesets belonging to domain / { mine = ($0 ~ "domain " d ":"); next }
        mine && /[{]/ { sub(/^[(]XEN[)] */, ""); print; next }
        { mine = 0 }
    ' "$RIGHTS"
}

# rangeset DOMID NAME: its ranges, one `LOW HIGH` line each, decimal.
rangeset() {
    # Xen prints all but interrupts in hex.
    [ "$2" = Interrupts ] && base='' || base=0x
    for range in $(rangesets "$1" | grep "^$2 " | sed 's/.*{\(.*\)}.*/\1/' | tr ',' ' '); do
        echo "$((${base}${range%-*})) $((${base}${range#*-}))"
    done
}

# device_needs BDF: what the device consists of, as `LOW HIGH RANGESET` lines, decimal.
device_needs() {
    # Six BARs and the ROM. Of the flags, bit 9 is memory and bit 8 is ports.
    needs_left=7
    while [ "$needs_left" -gt 0 ] && read -r low high flags; do
        needs_left=$((needs_left - 1))
        if [ "$((flags & 0x200))" -ne 0 ]; then
            echo "$((low >> 12)) $((high >> 12)) I/O Memory"
        elif [ "$((flags & 0x100))" -ne 0 ]; then
            echo "$((low)) $((high)) I/O Ports"
        fi
    done < "/sys/bus/pci/devices/$1/resource"
    read -r gsi < "/sys/bus/pci/devices/$1/irq"
    echo "$gsi $gsi Interrupts"
}

# rights DOMID BDF: for each part of the device, whether the domain has a right to `all`,
# `some` or `none` of it.
rights() {
    take_rights
    device_needs "$2" > /tmp/device.needs
    # Xen prints all but interrupts in hex.
    awk -v d="$1" '
        function number(digits, base,    n, i) {
            for (i = 1; i <= length(digits); i++)
                n = n * base + index("0123456789abcdef", substr(digits, i, 1)) - 1
            return n + 0
        }
        NR == FNR {
            low[NR] = $1; high[NR] = $2; held[NR] = "none"; parts = NR
            sub(/^[0-9]+ [0-9]+ /, ""); name[NR] = $0
            next
        }
        / Rangesets belonging to domain / { mine = ($0 ~ "domain " d ":"); next }
        mine && /[{]/ {
            sub(/^[(]XEN[)] */, "")
            split($0, half, /[{}]/)
            set = half[1]; sub(/ +$/, "", set)
            listed = listed || set == "I/O Memory"
            base = set == "Interrupts" ? 10 : 16
            gsub(/ /, "", half[2])
            ranges = split(half[2], range, ",")
            for (r = 1; r <= ranges; r++) {
                ends = split(range[r], end, "-")
                from = number(end[1], base); to = number(end[ends], base)
                for (n = 1; n <= parts; n++) {
                    if (name[n] != set) continue
                    if (from <= low[n] && to >= high[n]) held[n] = "all"
                    else if (from <= high[n] && to >= low[n] && held[n] == "none") held[n] = "some"
                }
            }
            next
        }
        { mine = 0 }
        END {
            # A domain Xen does not list would look like one without rights.
            if (!listed) { print "Xen lists no domain " d; exit 1 }
            for (n = 1; n <= parts; n++) printf "%s: %s %x-%x\n", held[n], name[n], low[n], high[n]
        }
    ' /tmp/device.needs "$RIGHTS"
}

# has_rights DOMID BDF: the domain may use all of the device.
has_rights() {
    rights "$1" "$2" > /tmp/rights.out || { cat /tmp/rights.out; return 1; }
    cat /tmp/rights.out
    not grep -v '^all: ' /tmp/rights.out
}

# has_no_rights DOMID BDF: the domain may use no part of the device.
has_no_rights() {
    rights "$1" "$2" > /tmp/rights.out || { cat /tmp/rights.out; return 1; }
    cat /tmp/rights.out
    grep -q '^none: ' /tmp/rights.out && not grep -v '^none: ' /tmp/rights.out
}

# config_pages BDF...: the pages where firmware's MCFG table has their config space, one per
# line, decimal. They must be in its first entry.
config_pages() {
    base=0
    for byte in $(od -An -v -tu1 -j44 -N8 /sys/firmware/acpi/tables/MCFG | tr -s ' ' '\n' | tac); do
        base=$((base * 256 + byte))
    done
    for device in "$@"; do
        echo "$device" | tr ':.' '  ' | {
            read -r _ bus slot function
            echo $(((base >> 12) + 0x$bus * 256 + 0x$slot * 8 + 0x$function))
        }
    done | sort -n
}

# only_reads_config DOMID BDF...: of all there is, the domain may use COM2 and the config
# space pages of these devices, which Xen maps read-only.
only_reads_config() {
    take_rights
    rangesets "$1"
    pages=$(rangeset "$1" 'I/O Memory' | while read -r low high; do seq "$low" "$high"; done)
    domain=$1
    shift
    [ "$pages" = "$(config_pages "$@")" ] && [ -z "$(rangeset "$domain" Interrupts)" ] &&
        [ "$(rangeset "$domain" 'I/O Ports')" = "$((0x2f8)) $((0x2ff))" ] &&
        rangesets "$domain" | grep -q '^I/O Memory'
}

# pirqs_of DOMID: the interrupts that key i shows as bound by the domain.
pirqs_of() {
    xen_debug_keys i
    grep -E "[ ,]d$1: *[0-9]+\(" "$KEYS"
}

# has_pirq DOMID: whether the domain has bound any pirq.
has_pirq() { pirqs_of "$1"; }

# no_zombies: xl list shows no dead, dying or nameless domain, or none that stays: Xen frees a dead
# domain's memory for a while after xl has forgotten it.
DYING_MS=10000
no_zombies() {
    now
    zombies_until=$((NOW + DYING_MS))
    while zombies; do
        now
        [ "$NOW" -lt "$zombies_until" ] || return 1
        pause "$LONGEST_PAUSE"
    done
}

# zombies: whether there is one; prints the list.
zombies() {
    # A list that can't be had may hold one.
    xl list > /tmp/domains || return 0
    cat /tmp/domains
    awk -v ending="$ENDING" '
        NR > 1 && ($1 == "(null)" || $5 ~ /d/ || ($5 ~ /[sc]/ && index(ending, " " $1 " ") == 0)) { f = 1 }
        END { exit !f }' /tmp/domains
}
