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

step "a Linux guest gets the same drive"
create_guest g1
attach g1 "$disk0"
guest_must g1 60 'nvme_wait disk0 50'
guest_must g1 60 'nvme_read disk0 0 2'
check "Xen has message interrupts of the drive now, so the check above can fail" not has_no_msi "$disk0"
check "no request of the guest timed out" pciback_was_prompt g1
check "no IOMMU fault" no_vtd_fault
xl destroy g1
ends g1 30
check "no zombie is left" no_zombies
