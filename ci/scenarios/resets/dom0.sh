. /bed/lib/errors.sh

FUNCTIONS="$disk0 $net0 $disk1 $net1 $net2 $card0 $net3 $net4"
# In the pool, but for the one of net3.
PORTS="$net0_port $disk1_port $net2_port $card0_port $net4_port"

# Cache Line Size: nothing but a reset clears it, and pcidom never writes it back.
MARK=40
# shellcheck disable=SC2046 # words
mark() { setpci $(of_each "CACHE_LINE_SIZE=$MARK" "$@"); }
cleared() { [ "$(setpci -s "$1" CACHE_LINE_SIZE)" = 00 ]; }

# of_each REGISTER BDF...: what setpci has to be told, which is not started for each of them.
of_each() {
    register=$1
    shift
    for function in "$@"; do printf -- '-s %s %s ' "$function" "$register"; done
}

# only_cleared BDF...: these functions have been reset, and no other.
only_cleared() {
    # shellcheck disable=SC2046,SC2086 # words, and a list
    setpci $(of_each CACHE_LINE_SIZE $FUNCTIONS) > /tmp/lines
    for function in $FUNCTIONS; do
        read -r line <&6 || { echo "$function does not answer"; return 1; }
        case " $* " in
            *" $function "*) [ "$line" = 00 ] || { echo "$function was not reset: $line"; return 1; } ;;
            *) [ "$line" = "$MARK" ] || { echo "$function was reset, too: $line"; return 1; } ;;
        esac
    done 6< /tmp/lines
}

# says WORDS COMMAND...: the command works and says that.
says() {
    words=$1
    shift
    "$@" > /tmp/says.out 2>&1 || { cat /tmp/says.out; return 1; }
    cat /tmp/says.out
    grep -qE -- "$words" /tmp/says.out
}

# resets WORDS OPTIONS BDF ALSO...: a reset on demand says WORDS, and resets BDF and ALSO only.
resets() {
    words=$1 options=$2 target=$3
    shift 2
    # shellcheck disable=SC2086 # lists
    mark $FUNCTIONS
    # shellcheck disable=SC2086
    check "pcidomctl reset $target $options: $words" says "$words" pcidomctl reset "$target" $options
    note "$(tail -n 1 /tmp/says.out)"
    check "that reset $*, and nothing else" only_cleared "$@"
    for function in "$@"; do
        check "$function decodes, and is no bus master" quiet "$function"
    done
}

# quiet BDF: memory decode is on, bus mastering off, and the BARs are there.
quiet() {
    setpci -s "$1" COMMAND BASE_ADDRESS_0 > /tmp/quiet
    { read -r command && read -r bars; } < /tmp/quiet || return 1
    read -r bar0 < "/tmp/bar0.$1"
    echo "COMMAND $command, BAR0 $bars, was $bar0"
    [ $((0x$command & 6)) -eq 2 ] && [ "$bars" = "$bar0" ]
}

# dump FILE: the config spaces of everything, one after the other, as the hardware has them.
dump() {
    spaces=''
    for function in $FUNCTIONS $PORTS; do spaces="$spaces /sys/bus/pci/devices/$function/config"; done
    # shellcheck disable=SC2086 # a list
    od -Ax -tx1 -v $spaces > "$1"
}

# refused WORDS COMMAND...: fails with these words, and no config space has changed by one byte.
refused() {
    words=$1
    shift
    dump /tmp/before.dump
    if "$@" > /tmp/refused.out 2>&1; then
        echo "it was not refused"
        return 1
    fi
    cat /tmp/refused.out
    dump /tmp/after.dump
    diff /tmp/before.dump /tmp/after.dump && grep -qE -- "$words" /tmp/refused.out
}
# refuses WORDS COMMAND...: the check of it.
refuses() {
    refused_words=$1
    shift
    check "$* is refused: $refused_words" refused "$refused_words" "$@"
    note "$(tail -n 1 /tmp/refused.out)"
}

# late ACCESS: a time of bed-probe late, in microseconds, from the output of a guest.
late() { sed -n "s/^@@BENCH late\/$1 \([0-9]*\)[0-9][0-9][0-9]$/\1/p" "$OUT" | tail -n 1; }

step "boot pcidom with eight functions and five ports in its pool"
# shellcheck disable=SC2086
assignable $FUNCTIONS $PORTS
start_daemon
# Ports first: libxl resets the switch's, and what is below does not answer meanwhile.
# shellcheck disable=SC2086
start_pcidom $PORTS $FUNCTIONS
for function in $FUNCTIONS; do
    wait_for "$function is free" 30 device_is_free "$function"
    setpci -s "$function" BASE_ADDRESS_0 > "/tmp/bar0.$function"
done
pcidomctl status

step "what each device can do, and what goes along"
resets "function level reset" '' "$disk0"
resets "slot reset at $net0_port" '' "$net0"
check "its power states were tried, and did nothing" grep -q 'power state reset had no effect' /tmp/says.out
resets "secondary bus reset at $net0_port" '--method bus' "$net0"
resets "function level reset" '' "$disk1"
resets "slot reset at $disk1_port" '' "$net1" "$disk1"
resets "secondary bus reset at $disk1_port" '--method bus' "$disk1" "$net1"
resets "slot reset at $net2_port" '' "$net2"
resets "secondary bus reset at $net2_port" '--method bus' "$net2"
resets "secondary bus reset at $card0_port" '' "$card0"
resets "secondary bus reset at $net4_port" '' "$net4"

step "the same without a reset keeps the register"
# The first one starts while the second is made.
create_guest g1 --paused --script guest.sh
xl unpause g1
create_guest g2 --script guest.sh
guest_ready g1
# shellcheck disable=SC2086
mark $FUNCTIONS
refuses "$net3_port" pcidomctl attach g1 "$net3"
check "lent without a reset, since a person says so" pcidomctl attach g1 "$net3,no-strict-reset=1"
check "status says so" status_says 'no-strict-reset|without a reset'
guest_must g1 60 card_works
detach g1 "$net3"
check "no function was reset" only_cleared

step "what is refused, before anything is touched"
attach g1 "$disk0"
drive_works g1 disk0 4
refuses "$net3_port" pcidomctl reset --method bus "$net3"
refuses 'af|Advanced' pcidomctl reset --method af "$net0"
refuses 'slot' pcidomctl reset --method slot "$net4"
refuses 'port' pcidomctl reset "$net0_port"
refuses 'not in' pcidomctl reset 0000:00:1f.2
refuses "$disk0.*g1|g1.*$disk0" pcidomctl reset "$disk0"
attach g2 "$net1"
# Its driver changes registers until it is done.
guest_must g2 60 card_works
refuses "$net1.*g2|g2.*$net1" pcidomctl reset --method bus "$disk1"
check "g1's drive has noticed nothing" guest_run g1 60 'nvme_verify disk0 8 2'
guest_must g2 60 card_works

step "a neighbour that is lent is taken along when a person insists"
check "pcidomctl reset --force" says "secondary bus reset at $disk1_port" \
    pcidomctl reset --method bus --force "$disk1"
check "its driver finds the card again" guest_run g2 90 'modprobe -r e1000e && modprobe e1000e && card_works'
detach g2 "$net1"

step "a function that is not in the pool stops slot and bus reset"
check "xl pci-detach" xl pci-detach pcidom "$net1"
refuses "$net1" pcidomctl reset --method slot "$disk1"
check "xl pci-attach" xl pci-attach pcidom "$net1"
wait_for "$net1 is free" 30 device_is_free "$net1"

step "through XenStore, for other toolstacks"
# shellcheck disable=SC2086
mark $FUNCTIONS
xenstore-write /tool/pcidom/reset/me "$net4 method=bus"
answered() { xenstore-read /tool/pcidom/reset/me/result | grep -vx running; }
wait_for "there is a result" 30 answered
cat /tmp/wait.out
check "it is good" grep -q '^ok ' /tmp/wait.out
check "the reset happened" only_cleared "$net4"
xenstore-rm /tool/pcidom/reset/me

step "a guest drives each of them"
attach g2 "$disk1"
drive_works g2 disk1 8
detach g2 "$disk1"
for card in "$net0" "$net1" "$net2" "$net4"; do
    mark "$card"
    attach g2 "$card"
    check "$card was reset before the loan" cleared "$card"
    guest_must g2 60 card_works
    mark "$card"
    detach g2 "$card"
    check "$card was reset after it" cleared "$card"
done
attach g2 "$card0"
guest_must g2 60 'modprobe 8139cp && card_works'
detach g2 "$card0"

step "while a reset waits, another guest is served"
late_of() { guest_must g1 60 'quietly bed-probe late /sys/bus/pci/devices/*/config 100'; }
begun() { guest_log pcidom | grep -c "$card0 is to be reset"; }
has_begun() { [ "$(begun)" -gt "$1" ]; }
# Whatever else goes on in an emulated machine makes it slower, never faster: the best round tells,
# and where one was never left alone, further rounds may be.
best() { sort -n "$1" | head -n 1; }
twice() {
    alone=$(best "/tmp/alone.$1") busy=$(best "/tmp/busy.$1")
    echo "99 of 100 ${1}s: $alone us alone, $busy us beside resets"
    [ "$busy" -le $((alone * 2)) ]
}
beside=0
for round in 1 2 3 4 5 6 7 8 9 10 11 12; do
    late_of
    late read >> /tmp/alone.read
    late write >> /tmp/alone.write
    before=$(begun) || true
    rm -f /tmp/reset.over
    # On a conventional bus it waits for a second.
    (pcidomctl reset "$card0" > /tmp/reset.out 2>&1 || true; touch /tmp/reset.over) &
    resetting=$!
    wait_for "round $round: a reset has begun" 10 has_begun "$before"
    late_of
    if [ ! -e /tmp/reset.over ]; then
        late read >> /tmp/busy.read
        late write >> /tmp/busy.write
        beside=$((beside + 1))
    fi
    wait "$resetting" || true
    check "round $round: it was reset" grep 'secondary bus reset' /tmp/reset.out
    if [ "$beside" -ge 3 ] && twice read && twice write; then break; fi > /tmp/twice.out
done
check "$beside rounds were measured while a reset waited" [ "$beside" -ge 3 ]
for access in read write; do
    check "99 of 100 ${access}s take at most twice as long" twice "$access"
    note "$(cat /tmp/check.out)"
done

step "a guest dies with a device that its slot resets"
attach g2 "$net0"
guest_must g2 60 card_works
mark "$net0"
xl destroy g2
ends g2 30
wait_for "$net0 is free" 30 device_is_free "$net0"
check "$net0 was reset" cleared "$net0"
check "by its slot" grep -E "$net0 -> g2 .*returned, reset: slot reset" /var/log/xen/pcidom.log

step "the end"
detach g1 "$disk0"
check "no request of g1 timed out" pciback_was_prompt g1
xl destroy g1
ends g1 30
check "no IOMMU fault" no_vtd_fault
check "no zombie is left" no_zombies
