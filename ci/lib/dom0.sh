# Functions for scenarios, run in dom0 by its busybox shell. A scenario that returns
# has passed, unless a `check` failed on the way; `need`, `wait_for` and `fail` end it.
. /bed/env
set -eu

CONSOLES=/var/log/xen/console
FAILED=/tmp/bed-failed

# scratch_is FOLDER: where the functions below keep what a command has said; for what runs at the
# same time as something else. $OUT is what a command in a guest has said.
scratch_is() {
    SCRATCH=$1
    mkdir -p "$SCRATCH"
    OUT=$SCRATCH/guest.out
}
scratch_is /tmp

# ---- reporting ----

# step TEXT: begins the next part of the scenario.
step() { echo "@@BED step $*"; }

# note TEXT: a remark for the person who watches.
note() { echo "@@BED note $*"; }

# fail TEXT: ends the scenario as failed, and says so even where a check keeps what is printed.
exec 3>&1
fail() {
    echo "@@BED failed $*" >&3
    touch "$FAILED"
    exit 1
}

# passes TEXT COMMAND...: runs the command and reports; its output is shown if it fails.
passes() {
    what=$1
    shift
    if "$@" > "$SCRATCH/check.out" 2>&1; then
        echo "@@BED ok $what"
    else
        echo "@@BED failed $what"
        echo "command: $*"
        tail -n 40 "$SCRATCH/check.out"
        touch "$FAILED"
        return 1
    fi
}

# check TEXT COMMAND...: the command must succeed; if not, the scenario goes on, but has
# failed.
check() { passes "$@" || true; }

# need TEXT COMMAND...: the same, but if the command fails the scenario ends.
need() { passes "$@" || exit 1; }

# not COMMAND...: succeeds if the command fails.
not() { ! "$@"; }

# bed_end: called after the scenario; without it nothing has passed.
bed_end() { touch /tmp/bed-done; }

# ---- waiting ----

# now: the clock in milliseconds, in NOW; without starting a program.
now() {
    read -r NOW _ < /proc/uptime
    # Without the dot, which two digits follow, and without zeroes in front.
    NOW=${NOW%.*}${NOW#*.}0
    NOW=${NOW#"${NOW%%[1-9]*}"}
}
now_ms() { now && echo "$NOW"; }

# pause MILLISECONDS: two or three digits of them; without starting a program.
NEVER=/tmp/never
[ -e "$NEVER" ] || mkfifo "$NEVER"
exec 8<> "$NEVER"
pause() {
    case $1 in
        ??) read -r -t "0.0$1" -u 8 _ || true ;;
        *) read -r -t "0.$1" -u 8 _ || true ;;
    esac
}

# Each look costs dom0 time that whatever is waited for may need, so pauses grow.
SHORTEST_PAUSE=50
LONGEST_PAUSE=400

# wait_for TEXT SECONDS COMMAND...: until the command succeeds; fails the scenario when
# the time is over. Polls, since shell commands have no event to wait for.
wait_for() {
    wait_what=$1
    now
    wait_until=$((NOW + $2 * 1000))
    wait_seconds=$2
    wait_pause=$SHORTEST_PAUSE
    shift 2
    until "$@" > "$SCRATCH/wait.out" 2>&1; do
        now
        if [ "$NOW" -gt "$wait_until" ]; then
            tail -n 20 "$SCRATCH/wait.out"
            fail "waited $wait_seconds s for: $wait_what"
        fi
        pause "$wait_pause"
        wait_pause=$((wait_pause < LONGEST_PAUSE ? wait_pause + wait_pause / 8 : wait_pause))
    done
    echo "@@BED ok $wait_what"
}

# ---- guests ----

# follow NAME: copies the guest's console to the serial port, each line marked, so that
# one log holds everything in order, and survives a crash.
follow() { bed-probe follow "$CONSOLES/guest-$1.log" "$1" & }

# Without what Debian's kernel does at its start and no test is about, with warnings only on the
# console (dmesg has all): that took a tenth of `two-guests`. And without a watch on the TSC,
# which complains of a host that is busy. Without the certificates, modules' signatures are not
# checked, which taints the kernel.
FAST_BOOT='init_on_alloc=0 lsm= rodata=off rcupdate.rcu_expedited=1 nowatchdog tsc=nowatchdog mitigations=off loglevel=5 noreplace-smp cryptomgr.notests initcall_blacklist=jent_mod_init,crypto_kdf108_init,init_kprobe_trace,load_system_certificate_list'

# create_guest NAME [--paused] [--mem MIB] [--vcpus N] [--cmdline TEXT] [--script FILE]
# ['key = value' ...]: a PV Linux guest. --cmdline adds to its kernel's command line. --script
# names a guest*.sh of the scenario, whose functions the guest then has. Without --paused it
# returns when the guest takes commands.
create_guest() {
    name=$1
    shift
    paused='' memory=192 vcpus=1 more='' script=''
    : > "/tmp/$name.extra"
    while [ $# -gt 0 ]; do
        case $1 in
            --paused) paused=-p ;;
            --mem) memory=$2; shift ;;
            --vcpus) vcpus=$2; shift ;;
            --cmdline) more=$2; shift ;;
            --script) script=$2; shift ;;
            *) echo "$1" >> "/tmp/$name.extra" ;;
        esac
        shift
    done
    {
        cat << CFG
name = "$name"
type = "pv"
kernel = "/bed/disks/vmlinux"
ramdisk = "/bed/disks/initrd"
cmdline = "console=hvc0 rdinit=/init iommu=soft swiotlb=8192 $FAST_BOOT bed.name=$name bed.script=$script $more"
memory = $memory
vcpus = $vcpus
on_poweroff = "destroy"
on_reboot = "destroy"
on_crash = "destroy"
CFG
        # A stock `pci=` brings these itself; without it they must be asked for.
        grep -q '^pci' "/tmp/$name.extra" || printf 'passthrough = "enabled"\ne820_host = 1\n'
        cat "/tmp/$name.extra"
    } > "/tmp/$name.cfg"
    rm -f "$CONSOLES/guest-$name.log"
    # shellcheck disable=SC2086 # empty or one word
    xl create $paused "/tmp/$name.cfg" || fail "xl create $name"
    know_domid "$name"
    follow "$name"
    [ -n "$paused" ] || guest_ready "$name"
}

# guest_ready NAME [SECONDS]: waits until the guest takes commands.
guest_ready() { guest_log_wait "$1" '@@READY' "${2:-90}"; }

# guest_log NAME: the guest's console so far.
guest_log() { tr -d '\r' < "$CONSOLES/guest-$1.log"; }

# guest_log_has NAME REGEX: whether the guest's console shows it.
guest_log_has() { grep -qE -- "$2" "$CONSOLES/guest-$1.log"; }

# guest_log_wait NAME REGEX SECONDS
guest_log_wait() { need "$1 shows $2" bed-probe shows "$CONSOLES/guest-$1.log" "$2" "$3"; }

# domid NAME: of the last domain with this name that the scenario created; it stays known
# when the domain is gone.
domid() {
    if [ -e "/tmp/domid.$1" ]; then
        read -r domid_of < "/tmp/domid.$1"
        echo "$domid_of"
    else
        xl domid "$1"
    fi
}
know_domid() { xl domid "$1" > "/tmp/domid.$1"; }

# guest_exists NAME: whether xl list shows it by its name.
guest_exists() { xenstore-exists "/local/domain/$(domid "$1")/name"; }

# send NAME TEXT: types a line into a domain's console.
send() {
    send_domid=''
    [ ! -e "/tmp/domid.$1" ] || read -r send_domid < "/tmp/domid.$1"
    [ -n "$send_domid" ] || send_domid=$(xl domid "$1")
    [ -e "/tmp/tty.$send_domid" ] ||
        xenstore-read "/local/domain/$send_domid/console/tty" > "/tmp/tty.$send_domid"
    read -r tty < "/tmp/tty.$send_domid"
    printf '%s\n' "$2" > "$tty"
}

# send_guest NAME COMMAND: gives the guest a command and does not wait for it; its number
# is in SEQUENCE.
send_guest() {
    # In a file, since a subshell may ask and a guest must never see a number twice.
    SEQUENCE=0
    [ ! -e "/tmp/sequence.$1" ] || read -r SEQUENCE < "/tmp/sequence.$1"
    SEQUENCE=$((SEQUENCE + 1))
    echo "$SEQUENCE" > "/tmp/sequence.$1"
    send "$1" "$SEQUENCE $2"
}

# guest_run NAME SECONDS COMMAND: runs a command in the guest; its exit status is the
# result, its output is in the file $OUT.
guest_run() {
    send_guest "$1" "$3"
    result=0
    bed-probe answer "$CONSOLES/guest-$1.log" "$SEQUENCE" "$2" "$OUT" || result=$?
    [ "$result" -ne 125 ] || fail "$1 did not finish within $2 s: $3"
    [ "$result" -ne 126 ] || fail "what $1 answered can't be read"
    return "$result"
}

# guest_value NAME COMMAND: runs a quick command in the guest and prints its last line.
guest_value() { guest_run "$1" 20 "quietly $2" > /dev/null && tail -n 1 "$OUT"; }

# guest_must NAME SECONDS COMMAND: a check that the command succeeds in the guest.
guest_must() { check "$1: $3" guest_run "$1" "$2" "$3"; }

# grows NAME COMMAND: the number the command prints in the guest grew since it was last
# asked for with `remember NAME COMMAND`.
remember() { REMEMBERED=$(guest_value "$1" "$2"); }
grows() {
    value=$(guest_value "$1" "$2")
    echo "before $REMEMBERED, now $value"
    [ "$value" -gt "$REMEMBERED" ]
}

# ---- devices and pcidom ----

# assignable BDF...: takes the devices from dom0's drivers. Of a port, after what is below it.
assignable() {
    for bdf in "$@"; do
        if [ "$(driver_of "$bdf")" = pcieport ]; then
            echo "$bdf" > /sys/bus/pci/drivers/pcieport/unbind
        fi
        xl pci-assignable-add "$bdf" || fail "xl pci-assignable-add $bdf"
    done
}

driver_of() { basename "$(readlink "/sys/bus/pci/devices/$1/driver")"; }

# start_image KERNEL BDF...: boots an image as the domain pcidom with these devices as
# its pool, with the shipped configuration otherwise, and the lines in PCIDOM_EXTRA.
start_image() {
    kernel=$1
    shift
    pool=''
    for bdf in "$@"; do pool="$pool\"$bdf\","; done
    {
        # The shipped file, with this pool, and with the serial port it offers.
        grep -vE '^ *(pci|kernel|ioports) *=' /etc/xen/pcidom.cfg
        echo 'ioports = [ "2f8-2ff" ]'
        echo "${PCIDOM_EXTRA:-}"
        echo "kernel = \"$kernel\""
        echo "pci = [${pool%,}]"
    } > /tmp/pcidom.cfg
    rm -f "$CONSOLES/guest-pcidom.log"
    xl create /tmp/pcidom.cfg || fail "xl create pcidom"
    know_domid pcidom
    follow pcidom
}

# pcidom_image: the image of the build, or the one the person gave.
pcidom_image() {
    if [ -e /bed/images/pcidom ]; then echo /bed/images/pcidom; else echo /boot/pcidom; fi
}

# start_pcidom BDF...: boots pcidom with these devices and waits until it is ready.
start_pcidom() {
    start_image "$(pcidom_image)" "$@"
    wait_for "pcidom is ready" 60 pcidom_state_is ready
}

pcidom_state_is() {
    [ "$(xenstore-read "/local/domain/$(domid pcidom)/data/pcidom/state")" = "$1" ]
}

# start_daemon: starts pcidomctl's daemon and waits until it answers. PCIDOMCTL names another
# program for it.
start_daemon() {
    "${PCIDOMCTL:-pcidomctl}" daemon > /var/log/xen/pcidom.log 2>&1 &
    DAEMON=$!
    wait_for "the daemon answers" 30 pcidomctl status
}

# attach GUEST BDF: lends the device; ends the scenario if that is refused.
attach() { need "attach $2 to $1" pcidomctl attach "$1" "$2"; }

# detach GUEST BDF
detach() { need "detach $2 from $1" pcidomctl detach "$1" "$2"; }

# device_is_free BDF: pcidomctl says that the device can be lent.
device_is_free() {
    is_free=$(pcidomctl status) || return 1
    case $is_free in
        *"$1 free"*) ;;
        *) echo "$is_free"; return 1 ;;
    esac
}

# frontend_path GUEST: the XenStore folder of the guest's PCI link.
frontend_path() { echo "/local/domain/$(domid "$1")/device/pci/0"; }

# backend_is_pcidom GUEST: the guest's PCI frontend has pcidom as its peer, and none in
# dom0.
backend_is_pcidom() {
    peer=$(xenstore-read "$(frontend_path "$1")/backend-id")
    echo "backend-id is $peer, pcidom is $(domid pcidom)"
    [ "$peer" = "$(domid pcidom)" ] || return 1
    not xenstore-exists "/local/domain/0/backend/pci/$(domid "$1")"
}

# memory_at_most NAME MIB
memory_at_most() {
    has=$(xl list | awk -v n="$1" '$1 == n { print $3 }')
    echo "$1 has $has MiB"
    [ "$has" -le "$2" ]
}

# ends NAME SECONDS: waits until the domain is gone for good.
ends() { need "$1 is gone" bed-probe gone "/local/domain/$(domid "$1")/name" "$2"; }

# shuts_down NAME SECONDS: waits until the domain has shut down, or is gone. libxl then waits
# ten seconds for each device of dom0's pciback, since a dead domain answers nobody.
shuts_down() {
    wait_for "$1 has shut down" "$2" has_shut_down "$1"
    ENDING="$ENDING $1 "
}
ENDING=''
has_shut_down() { not guest_runs "$1"; }
guest_runs() { xl list | awk -v n="$1" '$1 == n && $5 !~ /s|d/ { f = 1 } END { exit !f }'; }

# ---- what a guest must be able to do with a lent device ----

# number_is_at_least NAME MINIMUM COMMAND: the number the command prints in the guest.
number_is_at_least() {
    value=$(guest_value "$1" "$3") || return 1
    echo "$3: $value"
    [ "$value" -ge "$2" ]
}

# number_is_at_most NAME MAXIMUM COMMAND: likewise.
number_is_at_most() {
    value=$(guest_value "$1" "$3") || return 1
    echo "$3: $value, at most $2"
    [ "$value" -le "$2" ]
}

# drive_works NAME SERIAL OFFSET_MIB: reads, writes, reads back, by MSI-X.
drive_works() {
    guest_must "$1" 60 "nvme_wait $2 50"
    check "$1: the drive has two MSI-X vectors" number_is_at_least "$1" 2 'msix_vectors nvme'
    remember "$1" 'irq_sum nvme'
    guest_must "$1" 60 "nvme_read $2 0 2"
    guest_must "$1" 60 "nvme_verify $2 $3 2"
    check "$1: the drive's interrupts come" grows "$1" 'irq_sum nvme'
}

# network_works NAME: pings QEMU's gateway, by MSI-X.
network_works() {
    guest_must "$1" 60 'net_up'
    check "$1: the card has MSI-X vectors" number_is_at_least "$1" 1 'msix_vectors eth'
    remember "$1" 'irq_sum eth'
    guest_must "$1" 40 'net_ping 3'
    check "$1: the card's interrupts come" grows "$1" 'irq_sum eth'
}

# pciback_was_prompt NAME: no operation of the guest's pcifront timed out.
pciback_was_prompt() {
    guest_run "$1" 20 'kernel_log_has "pciback not responding"' && return 1
    not guest_log_has "$1" 'pciback not responding'
}

. /bed/lib/xen.sh
