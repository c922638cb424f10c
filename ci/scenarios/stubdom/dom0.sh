. /bed/lib/errors.sh

# start_stub: a PV Linux as the stub domain. No driver of its own may touch the drive: DMA would
# go through the owner's IOMMU context.
start_stub() { create_guest stub --cmdline 'module_blacklist=nvme'; }

# start_owner: paused, as a guest is while its stub domain gets what it starts with.
start_owner() { small_guest owner "$owner_type" 'passthrough = "enabled"' 'on_crash = "destroy"'; }

# may_use_line DOMID: by the last take_rights, the domain may bind the drive's line.
may_use_line() {
    line=$(cat "/sys/bus/pci/devices/$disk0/irq")
    rangeset "$1" Interrupts | while read -r low high; do
        if [ "$low" -le "$line" ] && [ "$high" -ge "$line" ]; then echo "line $line"; fi
    done | grep -q line
}

lend() {
    need "attach $disk0 to stub for owner" pcidomctl attach --owner owner stub "$disk0"
    check "$1: the drive is the owner's" owned_by "$disk0" "$(domid owner)"
    check "$1: the stub domain may map it" has_rights "$(domid stub)" "$disk0"
    check "$1: the owner's interrupts are its own" may_use_line "$(domid owner)"
    check "$1: the stub domain has no pirq" not has_pirq "$(domid stub)"
    check "$1: pcidom has no right to it" has_no_rights "$(domid pcidom)" "$disk0"
    wait_for "$1: XenStore: the link is the stub domain's" 10 nodes_agree stub "$disk0"
    check "$1: status shows both" status_says "owner: owner \($(domid owner)\)"
    guest_must stub 40 'wait_until 30 has_devices 1'
}

# is_over WHEN DOMAIN...: the drive is in quarantine and free, and these have nothing of it.
is_over() {
    when=$1
    shift
    wait_for "$when: $disk0 is free" 20 device_is_free "$disk0"
    check "$when: the drive is in quarantine" owned_by "$disk0" IO
    for domain in "$@"; do
        check "$when: $domain has no right to it" has_no_rights "$(domid "$domain")" "$disk0"
    done
}

. /bed/lib/agree.sh

step "the domains"
owner_type=pvh
if ! xl info | grep '^virt_caps' | grep -qwE 'hap|shadow'; then
    note "neither hap nor shadow in virt_caps, so the owner is a PV domain"
    owner_type=pv
fi
assignable "$disk0"
start_daemon
start_pcidom "$disk0"
start_stub
start_owner

step "what is refused"
row "the owner is dom0" 1 'Domain-0 is no guest' 'xl list' \
    pcidomctl attach --owner Domain-0 stub "$disk0"
small_guest plain "$owner_type" 'passthrough = "disabled"'
row "the owner has no IOMMU context" 1 'without an IOMMU context' 'passthrough="enabled"' \
    pcidomctl attach --owner plain stub "$disk0"
xl destroy plain
ends plain 30
small_guest idle pv 'passthrough = "enabled"' 'e820_host = 1'
row "the stub domain is paused" 1 'idle does not run' 'xl unpause' \
    pcidomctl attach --owner owner idle "$disk0"
xl destroy idle
ends idle 30

step "lent, and detached"
lend "lent"
changes
row "detach names the owner" 1 'by way of its stub domain stub' "pcidomctl detach stub $disk0" \
    pcidomctl detach owner "$disk0"
detach stub "$disk0"
is_over "detached" stub owner
guest_must stub 40 'wait_until 30 has_devices 0'

step "the daemon is started anew"
lend "lent again"
stop_daemon
start_daemon
check "status still shows both" status_says "owner: owner \($(domid owner)\)"
check "the drive is still the owner's" owned_by "$disk0" "$(domid owner)"

step "the owner is destroyed"
xl destroy owner
ends owner 30
is_over "after the owner" stub
guest_must stub 40 'wait_until 30 has_devices 0'

step "the stub domain is destroyed"
start_owner
lend "with another owner"
xl destroy stub
ends stub 30
is_over "after the stub domain" owner
xl destroy owner
ends owner 30

step "nothing is left"
check "no IOMMU fault" no_vtd_fault
check "no zombie is left" no_zombies
check "pcidom has not panicked" not guest_log_has pcidom 'PANIC|TRAP'
