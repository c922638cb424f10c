# Interrupt leases, as the daemon's log tells them and as Xen's debug keys show them.

DAEMON_LOG=/var/log/xen/pcidom.log

# leases_are_sound [all-ended]: walks the log in order: no number of a guest is mapped while it
# is leased, none is unmapped that is not. With all-ended, none is leased at the end. Prints
# totals. Ends of domains need no line of their own: the daemon unmaps what they held.
leases_are_sound() {
    awk -v all_ended="${1:-}" '
        function each(action, list,    parts, n, i, key) {
            n = split(list, parts, ",")
            for (i = 1; i <= n; i++) {
                key = guest " pirq " parts[i]
                if (action == "mapped") {
                    if (key in leased) { print "mapped while leased: " key " in: " $0; wrong++ }
                    leased[key] = $0
                    mapped++
                } else {
                    if (!(key in leased)) { print "unmapped but not leased: " key " in: " $0; wrong++ }
                    delete leased[key]
                    unmapped++
                }
            }
        }
        match($0, /-> [^ ]+ \([0-9]+\): (un)?mapped [0-9]+ pirqs: /) {
            # GUEST (DOMID): VERB COUNT pirqs: LIST
            split(substr($0, RSTART + 3), word, " ")
            guest = word[1] " " word[2]
            list = substr($0, RSTART + RLENGTH)
            # What is in parentheses says what the numbers are for.
            gsub(/ *\([^)]*\)/, "", list)
            gsub(/[ \r]/, "", list)
            if (split(list, number, ",") != word[4]) { print "count is not right: " $0; wrong++ }
            each(word[3], list)
        }
        END {
            for (key in leased) { left++; if (all_ended) print "still leased: " key " since: " leased[key] }
            print mapped + 0 " mapped, " unmapped + 0 " unmapped, " left + 0 " leased, " wrong + 0 " wrong"
            exit !(mapped > 0 && !wrong && !(all_ended && left))
        }
    ' "$DAEMON_LOG"
}

# msis_of BDF: the interrupts Xen has for messages of the device, from debug key Q.
msis_of() {
    xen_debug_keys Q
    grep -F " $1 - " "$KEYS" > /tmp/device.line || { echo "Xen lists no $1"; return 1; }
    sed -n 's/.*MSIs < \([0-9 ]*\)>.*/\1/p' /tmp/device.line
}

# has_no_msi BDF: Xen knows the device, and has no message interrupt of it.
has_no_msi() {
    msis=$(msis_of "$1") || { echo "$msis"; return 1; }
    echo "message interrupts of $1: '$msis'"
    [ -z "$msis" ]
}

# views_agree GUEST: pcidom, the daemon's record and Xen say the same of the guest's leases:
# status sees no difference between the first two, and shows the very numbers that key i has.
# To be waited for, since Xen knows at once what a guest binds, the daemon when pcidom tells.
views_agree() {
    of=$(domid "$1")
    pcidomctl status | tee /tmp/status.out
    not grep -E 'trouble: pcidom holds' /tmp/status.out || return 1
    # Loan Gen Device Guest (domid) Phase Pirqs
    awk -v of="($of)" '$5 == of && $6 == "lent" && $7 != "-" { print $7 }' /tmp/status.out |
        tr ',' '\n' | sort -n > /tmp/pirqs.status
    xen_debug_keys i
    grep 'PCI-MSI' "$KEYS" | grep -oE "[ ,]d$of: *[0-9]+" | sed 's/.*: *//' | sort -n > /tmp/pirqs.xen
    echo "status: $(xargs < /tmp/pirqs.status); Xen: $(xargs < /tmp/pirqs.xen)"
    [ -s /tmp/pirqs.xen ] && cmp -s /tmp/pirqs.status /tmp/pirqs.xen && return
    note "not yet: status: $(xargs < /tmp/pirqs.status); Xen: $(xargs < /tmp/pirqs.xen)" >&3
    return 1
}
