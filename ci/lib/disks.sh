# The bed's own disks, at the chipset's own controller, 00:1f.2.

# bed_disk SERIAL: waits for the disk and links it as /bed/disks/SERIAL. Which sdX it became depends
# on which controller was probed first.
bed_disk() {
    tries=0
    until disk=$(bed_disk_name "$1") && [ -b "/dev/$disk" ]; do
        tries=$((tries + 1))
        if [ "$tries" -gt 200 ]; then
            echo "@@BED note there is no disk $1"
            return 1
        fi
        usleep 50000
    done
    # Only to a disk that is there: over a link to a folder, the next one would land in that folder.
    ln -sf "/dev/$disk" "/bed/disks/$1"
}

bed_disk_name() {
    for page in /sys/devices/pci0000:00/0000:00:1f.2/ata*/host*/target*/*/vpd_pg80; do
        grep -qas "$1" "$page" || continue
        basename "${page%/*}"/block/sd*
        return
    done
    return 1
}
