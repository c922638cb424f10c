# What `cargo xtask demo` shows of the guest's view.
show_devices() { block lspci lspci -nn; }
show_interrupts() { block interrupts interrupts; }
interrupts() {
    head -n 1 /proc/interrupts
    irqs nvme
}
show_checksums() { block checksums nvme_verify disk0 12 2; }
