# Whether a guest's kernel, XenStore and Xen say the same of who has which device.

# agrees GUEST BDF...: the guest has exactly these, say its kernel, XenStore and Xen by the last
# `xen_debug_keys Q`.
agrees() {
    agrees_guest=$1
    shift
    guest_must "$agrees_guest" 40 "wait_until 30 has_devices $#"
    # The guest has a device a little before it says so.
    wait_for "XenStore: $agrees_guest has $#: $*" 10 nodes_agree "$agrees_guest" "$@"
    for device in "$@"; do
        check "Xen: $device is $agrees_guest's" owner_in_keys "$device" "$(domid "$agrees_guest")"
    done
}

# nobody_has BDF...: neither Xen, by the last `xen_debug_keys Q`, nor the daemon says that
# somebody has one of them.
nobody_has() {
    for device in "$@"; do
        check "Xen: $device is in quarantine" owner_in_keys "$device" IO
        check "$device is free" device_is_free "$device"
    done
}

# nodes_agree GUEST BDF...: the guest's link has an entry for each of the devices, in the state
# Initialised and with the place where the guest has it, and no other; both ends are
# Connected. Without devices there may be a link without entries, or none.
nodes_agree() {
    front=$(frontend_path "$1")
    shift
    back=$(xenstore-read "$front/backend") || [ $# -eq 0 ] || return 1
    # No link at all is right for a guest without devices, and for no other.
    if [ -z "$back" ]; then
        [ $# -eq 0 ]
        return
    fi
    printf '%s\n' "$@" | grep . | sort > /tmp/agree.wanted || true
    xenstore-ls "$back" > /tmp/agree.nodes || [ $# -eq 0 ] || return 1
    cat /tmp/agree.nodes
    awk -F '"' '
        { split($1, name, " = "); split(name[1], part, "-") }
        part[1] == "dev" { device[part[2]] = $2 }
        part[1] == "vdev" || part[1] == "state" && part[2] != "" { entry[part[2]] = 1 }
        part[1] == "state" && part[2] != "" { state[part[2]] = $2 }
        END { for (n in entry) print device[n] (state[n] == 3 ? "" : " in state " state[n]) }
    ' /tmp/agree.nodes | sort > /tmp/agree.found
    diff /tmp/agree.wanted /tmp/agree.found || return 1
    [ $# -eq 0 ] || connected "$front" "$back"
}
connected() { [ "$(xenstore-read "$1/state")" = 4 ] && [ "$(xenstore-read "$2/state")" = 4 ]; }
