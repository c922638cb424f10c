. /bed/lib/agree.sh

# Carries out /bed/plan, which xtask/src/soak.rs made from a seed, and counts before and
# after it what Xen, XenStore and pcidom hold.

# ---- counting ----

# per_domain HEADING LINE: from $KEYS, how many lines match LINE below each domain's HEADING.
per_domain() {
    awk -v heading="$1" -v line="$2" '
        $0 ~ heading { match($0, /(domain |remote d)[0-9]+/); d = substr($0, RSTART, RLENGTH); gsub(/[^0-9]/, "", d); n[d] += 0; next }
        d != "" && $0 ~ line { n[d]++ }
        END { for (d in n) print d, n[d] }
    ' "$KEYS" | sort -n
}

# holdings FILE: what there is, one `WHAT WHO NUMBER` line each. Only domains that outlive
# the rounds are left then, so their numbers can be compared.
holdings() {
    {
        xen_debug_keys g
        per_domain 'grant-table for remote' '[[]0x[0-9a-f]+[]]' | sed 's/^/grants d/'
        xen_debug_keys e
        per_domain 'Event channel information for domain' ' [[][p0-9].*s=' | sed 's/^/event-channels d/'
        xen_debug_keys i
        grep -oE '[ ,]d[0-9]+: *[0-9]+\(' "$KEYS" | sed 's/[ ,]*\(d[0-9]*\):.*/\1/' | sort | uniq -c |
            awk '{ print "pirqs", $2, $1 }'
        xen_debug_keys q
        echo "domains xen $(grep -cE 'General information for domain' "$KEYS")"
        echo "domains xl $(xl list | tail -n +2 | wc -l)"
        # Without the report, which the last `status` made.
        bed-probe nodes / > "$1.xenstore"
        echo "xenstore nodes $(grep -cv '/report' "$1.xenstore")"
        pcidomctl status | grep -oE 'heap[^0-9]*[0-9]+' | sed 's/^\(heap\)[^0-9]*/\1 pcidom /' | head -n 1
    } > "$1"
    echo "free memory: $(xl info free_memory) MiB"
    cat "$1"
}

# ---- operations ----

device_of() { eval "echo \"\$$1\""; }

# first_time FILE TEXT: remembers the text, or compares it with what was remembered.
first_time() {
    [ -e "$1" ] || echo "$2" > "$1"
    [ "$(cat "$1")" = "$2" ]
}

# works GUEST DEVICE: reads a place of the drive, another one each time, and compares it with
# what it held the first time; the harness compares all of it with the image. Or pings.
works() {
    case $2 in
        net*)
            guest_must "$1" 60 net_up
            guest_must "$1" 40 'net_ping 1'
            ;;
        *)
            place=0
            [ ! -e "/tmp/place.$2" ] || read -r place < "/tmp/place.$2"
            place=$(((place + 1) % 64))
            echo "$place" > "/tmp/place.$2"
            guest_must "$1" 60 "nvme_wait $2 50"
            guest_must "$1" 60 "nvme_read $2 $place 1"
            check "$2 at $place MiB is what it was" \
                first_time "/tmp/held.$2.$place" "$(sed -n 's/^@@REGION [^ ]* [0-9]* [0-9]* //p' "$OUT")"
            ;;
    esac
}

all_free() { for device in disk0 disk1 disk2 net0; do device_is_free "$(device_of "$device")" || return 1; done; }

# ended GUEST: it and all its loans are gone.
ended() {
    ends "$1" 60
    for device in $(cat "/tmp/has.$1"); do
        wait_for "$device is free" 30 device_is_free "$(device_of "$device")"
    done
    rm -f "/tmp/has.$1"
}

# has GUEST DEVICE, has_not GUEST DEVICE: keep the list of a guest's devices.
has() { echo "$2" >> "/tmp/has.$1"; }
has_not() {
    grep -vx "$2" "/tmp/has.$1" > "/tmp/new.has.$1" || true
    mv "/tmp/new.has.$1" "/tmp/has.$1"
}

# gone GUEST DEVICE: the guest has noticed.
gone() {
    case $2 in
        net*) guest_must "$1" 90 'wait_until 30 no_card' ;;
        *) guest_must "$1" 90 "wait_until 30 no_drive $2" ;;
    esac
}

# let_go GUEST BDF: takes the device back. A guest on a busy host may need longer than the
# 10 s that pcidomctl gives it; whether it lets go at all is what matters here.
let_go() {
    pcidomctl detach "$1" "$2" && return
    note "a second detach of $2"
    device_is_free "$2" || pcidomctl detach "$1" "$2"
}

operation() {
    case $1 in
        create)
            create_guest "$2" --script guest.sh
            : > "/tmp/has.$2"
            ;;
        cold)
            create_guest "$2" --paused --script guest.sh
            : > "/tmp/has.$2"
            attach "$2" "$(device_of "$3")"
            has "$2" "$3"
            xl unpause "$2"
            guest_ready "$2"
            works "$2" "$3"
            ;;
        attach)
            attach "$2" "$(device_of "$3")"
            has "$2" "$3"
            works "$2" "$3"
            ;;
        detach)
            need "detach $3 from $2" let_go "$2" "$(device_of "$3")"
            has_not "$2" "$3"
            gone "$2" "$3"
            ;;
        rebind)
            case $3 in
                net*) guest_must "$2" 60 rebind_card ;;
                *) guest_must "$2" 60 "rebind_drive $3" ;;
            esac
            works "$2" "$3"
            ;;
        destroy)
            xl destroy "$2"
            ended "$2"
            ;;
        shutdown)
            send_guest "$2" 'poweroff -f'
            ended "$2"
            ;;
        *) fail "no such operation: $*" ;;
    esac
}

# ---- several things at a time ----

# lane FILE: carries out its operations, one after the other.
lane() {
    scratch_is "$1.scratch"
    # Not standard input: programs below would read from it.
    while read -r lane_verb lane_rest <&4; do
        note "$lane_verb $lane_rest"
        # shellcheck disable=SC2086 # words of the plan
        operation "$lane_verb" $lane_rest
    done 4< "$1"
}

# together: carries out the lanes, all at the same time.
together() {
    running=''
    for file in /tmp/lane.*[0-9]; do
        lane "$file" &
        running="$running $!"
    done
    for process in $running; do wait "$process" || BROKEN=yes; done
    # It has said why.
    [ -z "$BROKEN" ] || exit 1
    rm -r /tmp/lane.*
}
BROKEN=''

# agree GUEST DEVICE...: what the guest must have now; `-` for a guest: the free ones.
agree() {
    agree_guest=$1
    shift
    agree_devices=''
    for device in "$@"; do agree_devices="$agree_devices $(device_of "$device")"; done
    # shellcheck disable=SC2086 # a list
    if [ "$agree_guest" = - ]; then nobody_has $agree_devices; else agrees "$agree_guest" $agree_devices; fi
}

step "boot pcidom with four devices in its pool"
assignable "$disk0" "$disk1" "$disk2" "$net0" "$net0_port"
start_daemon
start_pcidom "$disk0" "$disk1" "$disk2" "$net0" "$net0_port"
# Each guest has its own console log; following hundreds of them would be work of its own.
follow() { :; }

step "one loan of each device, then count"
operation create warm
for device in disk0 disk1 disk2 net0; do operation attach warm "$device"; done
for device in disk1 disk2 net0; do operation detach warm "$device"; done
operation destroy warm
wait_for "all is free" 30 all_free
holdings /tmp/before

# log_begins_anew: Xen's, which is kept in a file.
log_begins_anew() {
    check "no IOMMU fault so far" no_vtd_fault
    xen_log_begins_anew "/var/log/xen/xl-dmesg-$done_rounds.txt"
}

rounds_end=$(($(now_ms) + ${SOAK_SECONDS:-86400} * 1000))
done_rounds=0
lanes=0
while read -r verb rest <&5; do
    case $verb in
        seed) note "seed $rest" ;;
        round)
            [ "$(now_ms)" -lt "$rounds_end" ] || break
            done_rounds=$rest
            lanes=0
            # Looking at all of a long log takes longer than the round.
            [ $((rest % 10)) -ne 0 ] || log_begins_anew
            step "round $rest"
            ;;
        lane) lanes=$((lanes + 1)) ;;
        together)
            together
            xen_debug_keys Q
            ;;
        agree)
            # shellcheck disable=SC2086 # names of the plan
            agree $rest
            ;;
        *) echo "$verb $rest" >> "/tmp/lane.$lanes" ;;
    esac
done 5< /bed/plan
note "$done_rounds rounds"
echo "$done_rounds" > /var/log/xen/soak-rounds

step "the rest ends, then count again"
for file in /tmp/has.*; do
    [ -e "$file" ] || continue
    operation destroy "${file#/tmp/has.}"
done
wait_for "all is free" 30 all_free
settled() {
    holdings /tmp/after
    diff /tmp/before /tmp/after
}
# Xen frees a dead domain a little after xl has forgotten it.
settle_until=$(($(now_ms) + 10000))
until settled > /tmp/settled.out || [ "$(now_ms)" -gt "$settle_until" ]; do pause 500; done
cat /tmp/settled.out
cp /tmp/before /tmp/after /tmp/before.xenstore /tmp/after.xenstore /var/log/xen/
check "Xen, XenStore and pcidom hold what they held before" diff /tmp/before /tmp/after
check "no zombie is left" no_zombies
check "no IOMMU fault" no_vtd_fault
