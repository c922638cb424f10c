. /bed/lib/front.sh

# Without ROUNDS a short slice: one guest that goes through all attacks, and nothing is asked of
# the other's speed, which depends on what else the host has to do. With ROUNDS each attack by
# itself, so many rounds of each; 3 rounds take about six minutes.
#
# A control does not attack pcidom: `spin` burns its CPU, `noise` makes XenStore as busy as `states`
# and `nodes` do. Beside a guest that spins dom0 burns its own CPU as well (`busy`). `stock` does what
# `hog` does, as often, but is a guest of dom0's own pciback. What these cost the other guest is the
# price of XenStore, of the hardware and of an emulated machine, which pcidom can't lower; what is
# allowed begins there. `spin@2` has pcidom's own CPU, and only must not cost a time slice of Xen's
# for each read.
if [ -n "${ROUNDS:-}" ]; then
    CONTROLS="spin busy stock noise spin@2"
    ATTACKS=${ATTACKS:-port rewrite lies hog grants ports states nodes silent}
    LIMITS=yes
else
    CONTROLS=''
    ATTACKS=${ATTACKS:-all}
    ROUNDS=1
    LIMITS=no
fi
# Seconds that the drive is read in each measurement, reads at one time, accesses to config space.
SECONDS_EACH=1
AT_ONCE=4
ACCESSES=100
# So many times as slow as alone a config read may be beside a guest that computes on pcidom's own
# CPU, in percent: Xen lets a domain run for a millisecond, and a time slice has thirty.
SLOWEST_ON_ONE_CPU=2000
# So many times as slow a config read may be, and so much of the reads per second must be left,
# in percent.
SLOWEST=200
LEAST=90
# Lines that a log may grow by from one hostile guest to the next, whatever it does. pcidom lets a
# guest cause 64 in a row and one a second (kernel/src/machine/pace.rs); the rest are what a guest's
# coming and going causes, and a loan to the other guest.
PCIDOM_LINES=104
DAEMON_LINES=40
KERNEL_LINES=20
# Attacks in `all`.
ATTACKS_IN_ALL=8
# Longer than the scenario takes.
FOREVER=86400

DAEMON_LOG=/var/log/xen/pcidom.log
# Rows `ATTACK METRIC ALONE BESIDE PERCENT`.
HOSTILE=/var/log/xen/hostile.txt
: > "$HOSTILE"

# pin NAME CPU
pin() { xl vcpu-pin "$1" 0 "$2" "$2"; }

# ---- measuring ----

# sample FILE: the honest guest's figures are added to FILE.read, FILE.write and FILE.iops, in
# nanoseconds and per second.
sample() {
    guest_run g1 120 "quietly bed-probe access /sys/bus/pci/devices/*/config $ACCESSES" > /dev/null ||
        fail "g1: config space"
    sed -n 's/^@@BENCH access\/read \([0-9]*\).*/\1/p' "$OUT" >> "$1.read"
    sed -n 's/^@@BENCH access\/write \([0-9]*\).*/\1/p' "$OUT" >> "$1.write"
    guest_run g1 60 "quietly bed-probe drive /dev/nvme0n1 $SECONDS_EACH $AT_ONCE" > /dev/null || fail "g1: drive"
    sed -n "s/^@@BENCH iops\/$AT_ONCE \([0-9]*\).*/\1/p" "$OUT" >> "$1.iops"
}

# sample_alone: without the hostile guest, and after what it has left dom0 to do.
sample_alone() {
    xl pause enemy
    [ -z "$DOM0S_PART" ] || kill -STOP "$DOM0S_PART"
    wait_for "$attack: dom0 rests" 30 dom0_rests
    sample /tmp/alone
    [ -z "$DOM0S_PART" ] || kill -CONT "$DOM0S_PART"
    xl unpause enemy
}
# plays CONTROL: what dom0 does in it, in DOM0S_PART.
DOM0S_PART=''
plays() {
    case $1 in
        busy) while :; do :; done & ;;
        *) return ;;
    esac
    DOM0S_PART=$!
}
# dom0_rests: its CPU had nothing to do for four fifths of a moment, by hundredths of a second.
dom0_rests() {
    read -r _ _ _ _ idle_before _ < /proc/stat
    pause 250
    read -r _ _ _ _ idle_after _ < /proc/stat
    echo "idle for $((idle_after - idle_before)) of 25"
    [ $((idle_after - idle_before)) -ge 20 ]
}

# median FILE: of an even number, the lower of the two in the middle.
median() { sort -n "$1" | awk '{ n[NR] = $1 } END { print n[int((NR + 1) / 2)] }'; }

# percent METRIC: the median beside the attack, of that alone; also a row of the file.
percent() {
    alone=$(median "/tmp/alone.$1") beside=$(median "/tmp/beside.$1")
    PERCENT=$((beside * 100 / alone))
    echo "$attack $1 $alone $beside $PERCENT" >> "$HOSTILE"
    note "$attack: $1 $alone alone, $beside beside it: $PERCENT %"
    note "of $(xargs < "/tmp/alone.$1") alone, $(xargs < "/tmp/beside.$1") beside it"
}

# reads_are_prompt, drive_is_fast: beside the attack, by the control where there was one.
reads_are_prompt() {
    echo "$READ_PERCENT %, at most $SLOWEST % of $CONTROL_READ %"
    [ "$READ_PERCENT" -le $((SLOWEST * CONTROL_READ / 100)) ]
}
drive_is_fast() {
    echo "$IOPS_PERCENT %, at least $LEAST % of $CONTROL_IOPS %"
    [ "$IOPS_PERCENT" -ge $((LEAST * CONTROL_IOPS / 100)) ]
}
CONTROL_READ=100
CONTROL_IOPS=100
# control_is: what comes from nobody's attack, if that is worse than nothing; at its worst, since
# an emulated machine is now faster and now slower.
control_is() {
    worst=$(($(sort -n /tmp/beside.read | tail -n 1) * 100 / $(median /tmp/alone.read)))
    [ "$worst" -le "$CONTROL_READ" ] || CONTROL_READ=$worst
    worst=$(($(sort -n /tmp/beside.iops | head -n 1) * 100 / $(median /tmp/alone.iops)))
    [ "$worst" -ge "$CONTROL_IOPS" ] || CONTROL_IOPS=$worst
}

# ---- what must stay as it was ----

# count_lines: of the three logs, in PCIDOM_NOW, DAEMON_NOW, KERNEL_NOW, and when.
count_lines() {
    PCIDOM_NOW=$(guest_log pcidom | wc -l) DAEMON_NOW=$(wc -l < "$DAEMON_LOG") KERNEL_NOW=$(dmesg | wc -l)
    COUNTED=$(now_ms)
}

# logs_are_bounded: since the last time they have grown by what they may.
logs_are_bounded() {
    set -- "$PCIDOM_NOW" "$DAEMON_NOW" "$KERNEL_NOW" "$COUNTED"
    count_lines
    pcidom=$((PCIDOM_NOW - $1)) daemon=$((DAEMON_NOW - $2)) kernel=$((KERNEL_NOW - $3))
    seconds=$(((COUNTED - $4) / 1000))
    echo "lines in $seconds s: pcidom $pcidom, daemon $daemon, dom0's kernel $kernel"
    [ "$pcidom" -le $((PCIDOM_LINES + seconds)) ] && [ "$daemon" -le "$DAEMON_LINES" ] &&
        [ "$kernel" -le "$KERNEL_LINES" ]
}

# heap: bytes that pcidom has in use.
heap() { pcidomctl status | sed -n 's/.*heap[^0-9]*\([0-9][0-9]*\).*/\1/p' | head -n 1; }
heap_is() {
    has=$(heap)
    echo "heap: $has bytes, before: $1"
    [ -n "$has" ] && [ "$has" = "$1" ]
}

# ---- attacks ----

# turns: the lines that the hostile guest has printed, one for each turn of an attack.
turns() { guest_log enemy | grep '^@@FRONT hostile attack='; }

# attack_was_real: each attack had a turn, and tried something in one.
attack_was_real() {
    turns > /tmp/turns || return 1
    tail -n 12 /tmp/turns
    names=$(sed 's/.*attack=\([a-z]*\) .*/\1/' /tmp/turns | sort -u | wc -l)
    [ "$names" -eq "$1" ] && grep -q 'tries=[1-9]' /tmp/turns
}

# nothing_bad_was_taken: no key that is wrong has made a link.
nothing_bad_was_taken() {
    turns | grep -E 'attack=(grants|ports) ' > /tmp/keys || return 0
    tail -n 4 /tmp/keys
    not grep -v ' done=0 ' /tmp/keys
}

# sums ATTACK: what all its turns have done.
sums() {
    turns | sed 's/[a-z]*=//g' | awk -v a="$1" '
        $3 == a { t += $4; d += $5; r += $6; u += $7; n++ }
        END { if (n) print a ": " n " turns, " t " tries, " d " done, " r " refused, " u " unanswered" }'
}

# is_refused: a guest that never answers keeps what nobody takes by force.
is_refused() { not pcidomctl detach enemy "$disk1"; }

# it_is_taken: by force, unless a guest that plays with its nodes has ended its own loan.
it_is_taken() { pcidomctl detach --force enemy "$disk1" || device_is_free "$disk1"; }

# measure NAME[@CPU]: the hostile guest gets the second drive and begins; the other guest is
# measured with and without it, by turns.
measure() {
    attack=$1
    step "attack: $attack"
    rm -f /tmp/alone.* /tmp/beside.*
    kind=${attack%@*} line=''
    case $kind in
        busy) kind=spin ;;
        stock) kind=paced line="pci = [ \"$disk2\" ]" ;;
    esac
    create_front enemy "hostile=$kind seconds=$FOREVER" "$line"
    case $attack in *@*) pin enemy "${attack#*@}" ;; *) pin enemy 3 ;; esac
    [ "$attack" = stock ] || attach enemy "$disk1"
    xl unpause enemy
    guest_log_wait enemy '@@FRONT hostile begins' 60
    plays "$attack"
    for round in $(seq "$ROUNDS"); do
        # By turns, what goes first: the machine grows slower or faster over minutes.
        if [ $((round % 2)) = 1 ]; then
            sample /tmp/beside
            sample_alone
        else
            sample_alone
            sample /tmp/beside
        fi
    done
    [ -z "$DOM0S_PART" ] || kill "$DOM0S_PART"
    DOM0S_PART=''
    percent write
    percent read
    READ_PERCENT=$PERCENT
    percent iops
    IOPS_PERCENT=$PERCENT
}

# leaves: the hostile guest ends.
leaves() {
    xl destroy enemy
    ends enemy 30
    wait_for "$disk1 is free" 60 device_is_free "$disk1"
}

# assault ATTACK COUNT: measures it, then the drive is taken from the hostile guest and given to
# the other one, while the first goes on.
assault() {
    measure "$1"
    if [ "$LIMITS" = yes ]; then
        check "$attack: g1's config reads take at most twice as long as beside the controls" reads_are_prompt
        # Each time bus mastering or a power state changes QEMU makes the machine's memory map anew,
        # and holds the lock that its drives need, too: `stock` shows how much that is.
        check "$attack: g1's drive has nine tenths of what it has beside the controls" drive_is_fast
    fi
    wait_for "$attack: the attacks were made" 90 attack_was_real "$2"
    check "$attack: no wrong key has made a link" nothing_bad_was_taken
    for name in $(turns | sed 's/.*attack=\([a-z]*\) .*/\1/' | sort -u); do
        note "$(sums "$name")"
    done
    check "$attack: pcidom answers" pcidomctl status
    [ "$attack" != silent ] || check "$attack: it does not give its drive back" is_refused
    check "$attack: the drive is taken by force" it_is_taken
    wait_for "$disk1 is free" 60 device_is_free "$disk1"
    attach g1 "$disk1"
    guest_must g1 60 'nvme_wait disk1 50'
    guest_must g1 60 'nvme_verify disk1 2 1'
    detach g1 "$disk1"
    guest_must g1 30 'wait_until 20 has_devices 1'
    leaves
    check "$attack: no request of g1 timed out" pciback_was_prompt g1
    check "$attack: the logs have hardly grown" logs_are_bounded
    note "$attack: $(tail -n 1 /tmp/check.out)"
}

step "a CPU for each: dom0, g1, pcidom, and the hostile guest"
# It is pcidom that is measured, not who gets a CPU.
pin Domain-0 0
assignable "$disk0" "$disk1" "$disk2"
start_daemon
start_pcidom "$disk0" "$disk1"
pin pcidom 2
create_guest g1
pin g1 1
attach g1 "$disk0"
drive_works g1 disk0 4
# What pcidom keeps of a device that was lent it keeps before and after.
attach g1 "$disk1"
guest_must g1 60 'nvme_wait disk1 50'
detach g1 "$disk1"
guest_must g1 30 'wait_until 20 has_devices 1'

no_slice_is_lost() {
    echo "$READ_PERCENT %, at most $SLOWEST_ON_ONE_CPU %"
    [ "$READ_PERCENT" -le "$SLOWEST_ON_ONE_CPU" ]
}
for control in $CONTROLS; do
    measure "$control"
    case $control in
        *@*) check "$control: no read waits for a time slice" no_slice_is_lost ;;
        stock) wait_for "stock: the writes were made" 90 attack_was_real 1 && control_is ;;
        *) control_is ;;
    esac
    [ "$control" != stock ] || note "$(sums paced)"
    leaves
done
count_lines
HEAP=$(heap)
for attack_now in $ATTACKS; do
    case $attack_now in
        all) assault all "$ATTACKS_IN_ALL" ;;
        *) assault "$attack_now" 1 ;;
    esac
    wait_for "pcidom's heap is as before" 30 heap_is "$HEAP"
    note "$(cat /tmp/wait.out)"
done

step "nothing is left"
drive_works g1 disk0 8
check "pcidom was never restarted" not guest_log_has pcidom 'restart number'
check "pcidom has not panicked" not guest_log_has pcidom 'PANIC|TRAP'
detach g1 "$disk0"
check "no IOMMU fault" no_vtd_fault
xl destroy g1
ends g1 30
check "no zombie is left" no_zombies
