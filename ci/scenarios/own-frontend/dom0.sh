. /bed/lib/front.sh
. /bed/lib/leases.sh

# answers_are_expected: each line of the file `expected` is in the frontend's output, in this
# order, and nothing else is; a `*` in it stands for anything.
answers_are_expected() {
    guest_log front | sed -n 's/^@@FRONT op=\([^ ]*\) *\(.*\)$/\1 \2/p' | sed 's/ *$//' > /tmp/answers
    grep -v '^#' /bed/scenario/expected | grep . > /tmp/expected
    wrong=0
    exec 4< /tmp/answers
    while IFS= read -r wanted; do
        IFS= read -r got <&4 || got='(nothing)'
        # shellcheck disable=SC2254 # a pattern on purpose
        case $got in
            $wanted) ;;
            *)
                echo "expected: $wanted"
                echo "got:      $got"
                wrong=$((wrong + 1))
                ;;
        esac
    done < /tmp/expected
    while IFS= read -r got <&4; do
        echo "not expected: $got"
        wrong=$((wrong + 1))
    done
    exec 4<&-
    echo "$(grep -c . /tmp/answers) answers, $wrong wrong"
    [ "$wrong" -eq 0 ]
}

step "boot pcidom, and the frontend in place of Linux"
assignable "$disk0" "$net0" "$net0_port"
start_daemon
start_pcidom "$disk0" "$net0" "$net0_port"
create_front front
attach front "$disk0"
attach front "$net0"
xl unpause front

step "it asks everything"
guest_log_wait front '@@FRONT (done|failed)' 120
check "each answer is as the protocol has it" answers_are_expected
for device in "$disk0" "$net0"; do
    check "Xen has no message interrupt of $device any more" has_no_msi "$device"
done
check "leases so far: each number is mapped once at a time, and all have ended" leases_are_sound all-ended
check "pcidom still answers" pcidomctl status

step "it ends with interrupts on"
xl shutdown -F front || true
guest_log_wait front 'op=last/card-stays-on err=0 ' 30
ends front 30
for device in "$disk0" "$net0"; do
    wait_for "$device is free" 30 device_is_free "$device"
    check "Xen has no message interrupt of $device any more" has_no_msi "$device"
done
check "leases: all have ended" leases_are_sound all-ended
check "pcidom was never restarted" not guest_log_has pcidom 'restart number'
check "pcidom has not panicked" not guest_log_has pcidom 'PANIC|TRAP'

step "Linux gets both, before it starts"
create_guest g1 --paused
attach g1 "$disk0"
attach g1 "$net0"
xl unpause g1
guest_ready g1
check "the guest's PCI backend is pcidom, not dom0" backend_is_pcidom g1
guest_must g1 20 'lspci -nn'
check "Xen has message interrupts of the drive now, so the checks above can fail" not has_no_msi "$disk0"

step "both work at once"
drive_works g1 disk0 4
guest_must g1 20 'io_start disk0 8'
network_works g1
guest_must g1 40 'io_advances 30'
guest_must g1 60 'io_stop'
guest_must g1 20 'irqs "nvme|eth"'

step "both drivers are loaded again"
guest_must g1 60 'modprobe -r nvme && modprobe nvme && nvme_wait disk0 50'
drive_works g1 disk0 4
guest_must g1 60 'modprobe -r e1000e && modprobe e1000e'
network_works g1
check "no request of the guest timed out" pciback_was_prompt g1

step "the end"
xl destroy g1
ends g1 30
xl shutdown pcidom
shuts_down pcidom 40
check "no IOMMU fault" no_vtd_fault
check "no zombie is left" no_zombies
