# kinds PATTERN: the interrupt chips of the lines that match.
kinds() { irqs "$1" | grep -oE -e '-pcifront[a-z-]*' | sort -u | xargs; }

# kind_is CHIP PATTERN: all of them are of this kind.
kind_is() {
    irqs "$2"
    [ "$(kinds "$2")" = "$1" ]
}

# one_line PATTERN PATTERN: one interrupt serves both.
one_line() {
    irqs "$1" > "$STATE/lines"
    cat "$STATE/lines"
    [ "$(wc -l < "$STATE/lines")" -eq 1 ] && grep -qE "$2" "$STATE/lines"
}

# card_uses MODE: loads the card's driver with its parameter: 0 INTx, 2 MSI-X.
# (1, MSI, is no use: QEMU 10's card fails its driver's test of it, in dom0 too.)
card_uses() {
    modprobe -r e1000e && modprobe e1000e "IntMode=$1" && net_up
}

# card_wants_line: loads its driver for INTx and opens it, without waiting for the link, which
# an interrupt would report.
card_wants_line() {
    modprobe -r e1000e && modprobe e1000e IntMode=0 && wait_until 20 net_interface || return 1
    ip link set "$(net_interface)" up
}
