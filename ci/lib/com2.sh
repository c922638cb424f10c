# What pcidom's serial port has said, and the serial card in dom0 that is wired to it (`com2 =
# yes` in scenario.conf).
COM2_LOG=/var/log/xen/com2.log

# com2_open: keeps what comes in $COM2_LOG; the card is $COM2_PORT then.
com2_open() {
    COM2_PORT=/dev/$(find /sys/bus/pci/devices/0000:00:1e.0/ -name 'ttyS*' | sed 's/.*\///' | head -n 1)
    note "the serial card is $COM2_PORT"
    stty -F "$COM2_PORT" 115200 raw -echo
    cat "$COM2_PORT" > "$COM2_LOG" &
}
com2_log() { tr -d '\r' < "$COM2_LOG"; }
# com2_has_since LINE REGEX: whether it shows the regex after that line.
com2_has_since() { com2_log | tail -n "+$(($1 + 1))" | grep -qE -- "$2"; }
