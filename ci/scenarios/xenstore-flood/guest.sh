DRIVER=/sys/bus/pci/drivers/nvme

# rebind_often SERIAL TIMES: unbinds and binds the drive's driver; each time it must be usable
# within 20 s.
rebind_often() {
    controller=$(find_nvme "$1") || return 1
    device=$(readlink -f "/sys/class/nvme/$controller/device")
    device=${device##*/}
    for round in $(seq "$2"); do
        echo "$device" > "$DRIVER/unbind" || { echo "unbind failed in round $round"; return 1; }
        echo "$device" > "$DRIVER/bind" || { echo "bind failed in round $round"; return 1; }
        nvme_wait "$1" 20 || { echo "not usable in round $round"; return 1; }
    done
}
