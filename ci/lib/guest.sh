# Functions for commands in guests, run by the guest's busybox shell.

STATE=/tmp/io
mkdir -p "$STATE"

# uptime_s: whole seconds since the guest's boot, in NOW.
uptime_s() {
    read -r NOW _ < /proc/uptime
    NOW=${NOW%.*}
}

# quietly COMMAND...: what it prints is data, and the kernel, which shares the console, may not
# print its warnings into it; `dmesg` has them. Of a command that begins with it nothing else
# is between @@BEGIN and @@DONE.
quietly() {
    read -r loudness _ < /proc/sys/kernel/printk
    echo 1 > /proc/sys/kernel/printk
    quiet_result=0
    "$@" || quiet_result=$?
    echo "$loudness" > /proc/sys/kernel/printk
    return "$quiet_result"
}

# Looks come a twentieth of a second after one another, without starting a program.
[ -e "$STATE/never" ] || mkfifo "$STATE/never"
exec 8<> "$STATE/never"
pause() { read -r -t 0.05 -u 8 _ || true; }

# wait_until SECONDS COMMAND...: polls until the command succeeds.
wait_until() {
    uptime_s
    wait_end=$((NOW + $1))
    shift
    until "$@" > /dev/null 2>&1; do
        uptime_s
        if [ "$NOW" -ge "$wait_end" ]; then
            echo "gave up waiting for: $*"
            return 1
        fi
        pause
    done
}

# has_devices COUNT: so many PCI devices, and no more.
has_devices() {
    ls /sys/bus/pci/devices
    [ "$(ls /sys/bus/pci/devices | wc -l)" -eq "$1" ]
}

# ---- drives ----

# find_nvme SERIAL: the controller with this serial number, like nvme0.
find_nvme() {
    for controller in /sys/class/nvme/nvme*; do
        if [ "$(tr -d ' ' < "$controller/serial" 2> /dev/null)" = "$1" ] &&
            [ "$(cat "$controller/state")" = live ]; then
            controller=${controller##*/}
            [ -b "/dev/${controller}n1" ] || continue
            echo "$controller"
            return 0
        fi
    done
    echo "no NVMe drive $1"
    return 1
}

# nvme_wait SERIAL SECONDS: until the drive is usable.
nvme_wait() { wait_until "$2" find_nvme "$1"; }

# nvme_disk SERIAL: a node for its block device, of an NVMe drive or of a SATA disk. Not the
# one in /dev: that goes with the drive, and dd would then make a file in its place, which
# keeps the next drive from having a node at all.
nvme_disk() {
    disk=$(sata_disk "$1") || disk=$(find_nvme "$1")n1
    number=$(cat "/sys/class/block/$disk/dev" 2> /dev/null) || return 1
    node=$STATE/$disk.$number
    [ -b "$node" ] || mknod "$node" b "${number%:*}" "${number#*:}" || return 1
    echo "$node"
}

sata_disk() {
    for disk in /sys/block/sd*; do
        # The page with the serial number.
        grep -qas "$1" "$disk/device/vpd_pg80" || continue
        echo "${disk##*/}"
        return 0
    done
    return 1
}

hash_of() { sha256sum | cut -d ' ' -f 1; }

# region SERIAL OFFSET LENGTH SHA256: tells the harness what the drive must hold there
# after the run.
region() { quietly echo "@@REGION $1 $2 $3 $4"; }

# nvme_read SERIAL OFFSET_MIB LENGTH_MIB: reads past the page cache and reports it.
nvme_read() {
    disk=$(nvme_disk "$1") || return 1
    sum=$(dd if="$disk" bs=1M skip="$2" count="$3" iflag=direct 2> /dev/null | hash_of)
    region "$1" "$(($2 << 20))" "$(($3 << 20))" "$sum"
}

# nvme_verify SERIAL OFFSET_MIB LENGTH_MIB: writes random data and reads it back, both
# past the page cache.
nvme_verify() {
    disk=$(nvme_disk "$1") || return 1
    data=/tmp/random.$1
    dd if=/dev/urandom of="$data" bs=1M count="$3" 2> /dev/null || return 1
    dd if="$data" of="$disk" bs=1M seek="$2" oflag=direct conv=notrunc 2> /dev/null ||
        { echo "writing failed"; return 1; }
    wrote=$(hash_of < "$data")
    read_back=$(dd if="$disk" bs=1M skip="$2" count="$3" iflag=direct 2> /dev/null | hash_of)
    rm "$data"
    echo "wrote $wrote"
    echo "read  $read_back"
    region "$1" "$(($2 << 20))" "$(($3 << 20))" "$wrote"
    [ "$wrote" = "$read_back" ]
}

# What a round of io_start writes: random numbers take the CPU that the scenario waits for.
IO_BYTES=262144
IO_PER_MIB=4

# io_start SERIAL OFFSET_MIB: writes and reads back, in four places by turns, until io_stop.
# Counts rounds and errors.
io_start() {
    rm -f "$STATE/stop" "$STATE/finished" "$STATE"/written.*
    echo 0 > "$STATE/rounds"
    echo 0 > "$STATE/errors"
    # Each command has a shell of its own.
    echo "$1 $2" > "$STATE/places"
    (
        rounds=0
        errors=0
        while [ ! -e "$STATE/stop" ]; do
            if ! io_round "$1" "$(($2 + rounds % 4))" "$STATE/written.$((rounds % 4))" \
                > "$STATE/last" 2>&1; then
                cat "$STATE/last"
                # What a drive holds that went away in the middle, nobody knows.
                rm -f "$STATE/written.$((rounds % 4))"
                errors=$((errors + 1))
                echo "$errors" > "$STATE/errors"
                # A drive that is gone would fill the log.
                [ "$errors" -lt 5 ] || break
            fi
            rounds=$((rounds + 1))
            echo "$rounds" > "$STATE/rounds"
        done
        touch "$STATE/finished"
    ) &
}

# io_round SERIAL OFFSET_MIB FILE: writes something new, which FILE has then, and reads it back; and
# reads 2 MiB more, so that of a drive with a limit (`drive.throttling.bps-total`) the guest waits for
# it most of the time.
io_round() {
    disk=$(nvme_disk "$1") || return 1
    dd if=/dev/urandom of="$3" bs="$IO_BYTES" count=1 || return 1
    block=$(($2 * IO_PER_MIB))
    dd if="$3" of="$disk" bs="$IO_BYTES" seek="$block" oflag=direct conv=notrunc || return 1
    dd if="$disk" bs="$IO_BYTES" skip="$block" count=1 iflag=direct | cmp - "$3" || return 1
    dd if="$disk" of=/dev/null bs=1M count=2 iflag=direct
}

# io_rounds, io_errors: how many so far.
io_rounds() { cat "$STATE/rounds"; }
io_errors() { cat "$STATE/errors"; }
io_at_least() { [ "$(io_rounds)" -ge "$1" ]; }

# io_advances SECONDS: a further round ends within the time.
io_advances() { wait_until "$1" io_at_least "$(($(io_rounds) + 2))"; }

# io_ended: the loop has ended, since its drive is gone.
io_ended() { [ -e "$STATE/finished" ]; }

# io_stop: ends the loop, reports what the drive must hold, fails if there were errors.
io_stop() {
    touch "$STATE/stop"
    wait_until 30 test -e "$STATE/finished" || return 1
    read -r serial first < "$STATE/places"
    for place in 0 1 2 3; do
        written=$STATE/written.$place
        [ ! -e "$written" ] ||
            region "$serial" "$(((first + place) << 20))" "$IO_BYTES" "$(hash_of < "$written")"
    done
    echo "$(io_rounds) rounds, $(io_errors) errors"
    [ "$(io_errors)" -eq 0 ] && [ "$(io_rounds)" -gt 0 ]
}

# ---- interrupts ----

# irqs PATTERN: the lines of /proc/interrupts whose device name matches.
irqs() { grep -E "$1" /proc/interrupts; }

# irq_sum PATTERN: how many of these interrupts came so far.
irq_sum() {
    irqs "$1" | awk '{ for (i = 2; $i ~ /^[0-9]+$/; i++) sum += $i } END { print sum + 0 }'
}

# msix_vectors PATTERN: how many of these are MSI-X vectors of pcifront.
msix_vectors() { irqs "$1" | grep -c -e '-pcifront-msi-x'; }

# ---- network ----

# net_interface BDF_SUFFIX: the interface of the first PCI network card.
net_interface() {
    for device in /sys/class/net/*/device; do
        # Without a card this is the pattern itself.
        [ -e "$device" ] || continue
        interface=${device%/device}
        echo "${interface##*/}"
        return 0
    done
    return 1
}

# net_up: brings the card up on QEMU's user-mode network.
net_up() {
    wait_until 20 net_interface || return 1
    interface=$(net_interface)
    ip link set "$interface" up
    ip addr flush dev "$interface"
    ip addr add 10.0.2.15/24 dev "$interface"
    wait_until 20 grep -q 1 "/sys/class/net/$interface/carrier"
}

# net_ping COUNT: pings the network's gateway.
net_ping() { ping -c "$1" -i 0.2 -W 5 10.0.2.2; }

# ---- for people ----

# block NAME COMMAND...: output that `cargo xtask demo` shows under a heading.
block() {
    block_name=$1
    shift
    echo "@@BEGIN $block_name"
    "$@"
    echo "@@END $block_name"
}

# kernel_lines: how many lines the kernel has logged, without those on its random numbers, which
# come when enough has happened.
kernel_lines() { dmesg | grep -vc '] random: '; }

# kernel_log_has REGEX
kernel_log_has() { dmesg | grep -E "$1"; }
