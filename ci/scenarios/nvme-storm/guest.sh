DRIVER=/sys/bus/pci/drivers/nvme

# controllers: the PCI addresses of all NVMe controllers, bound or not.
controllers() {
    for device in /sys/bus/pci/devices/*; do
        [ "$(cat "$device/class")" != 0x010802 ] || echo "${device##*/}"
    done
}

# name_of DEVICE: its name with the driver, like nvme0.
name_of() { ls "/sys/bus/pci/devices/$1/nvme" 2> /dev/null; }

# live DEVICE: its driver has set it up. Without a process, since it is asked often.
live() {
    for file in "/sys/bus/pci/devices/$1"/nvme/nvme*/state; do
        { read -r state < "$file"; } 2> /dev/null && [ "$state" = live ] || return 1
    done
}

# becomes_live DEVICE: within 20 s.
becomes_live() {
    for _ in $(seq 400); do
        ! live "$1" || return 0
        pause
    done
    return 1
}

# all_live COUNT: so many controllers, all set up.
all_live() {
    [ "$(controllers | wc -l)" -eq "$1" ] || return 1
    for device in $(controllers); do live "$device" || return 1; done
}

# has_vectors DEVICE COUNT: the controller's interrupts are so many MSI-X vectors, and no other.
has_vectors() {
    name=$(name_of "$1") || return 1
    all=$(grep -c "[ ,]${name}q[0-9]" /proc/interrupts)
    msix=$(grep -c -e "-pcifront-msi-x  *${name}q[0-9]*\$" /proc/interrupts)
    [ "$all" -eq "$2" ] && [ "$msix" -eq "$2" ]
}

# all_have_vectors COUNT
all_have_vectors() {
    cat /proc/interrupts
    for device in $(controllers); do
        has_vectors "$device" "$1" || { echo "$device has not $1 MSI-X vectors"; return 1; }
    done
}

# rebind_often DEVICE TIMES VECTORS: unbinds and binds its driver; each time the driver has to
# set the controller up within 20 s, with so many vectors.
rebind_often() {
    for round in $(seq "$2"); do
        echo "$1" > "$DRIVER/unbind" || { echo "$1: unbind failed in round $round"; return 1; }
        echo "$1" > "$DRIVER/bind" || { echo "$1: bind failed in round $round"; return 1; }
        becomes_live "$1" || { echo "$1 is not live in round $round"; return 1; }
        has_vectors "$1" "$3" || { echo "$1 has not $3 vectors in round $round"; return 1; }
    done
    echo "$2" > "$STATE/rebound.$1"
}

# storm TIMES VECTORS: all controllers at once, each at its own pace.
storm() {
    rm -f "$STATE"/rebound.*
    for device in $(controllers); do rebind_often "$device" "$1" "$2" & done
    wait
    for device in $(controllers); do
        [ "$(cat "$STATE/rebound.$device")" = "$1" ] || { irqs nvme; return 1; }
    done
}

# storm_within SECONDS TIMES VECTORS: the same, also with drivers that hang: within that time.
storm_within() {
    rm -f "$STATE/stormed"
    (
        wait_until 20 all_live 4 && storm "$2" "$3"
        echo "$?" > "$STATE/stormed"
    ) &
    wait_until "$1" test -s "$STATE/stormed" && [ "$(cat "$STATE/stormed")" = 0 ]
}

# no_trouble: the kernel has no complaint of pcifront, of interrupts or of a drive.
no_trouble() {
    ! kernel_log_has 'msix get err|get fake response|map irq failed|Failed to obtain|timeout|not responding|failed to'
}
