# Runs the scenario in dom0, guards its time, saves the logs, says the verdict.
. /bed/env
. /bed/lib/disks.sh

sh -c '. /bed/lib/dom0.sh; . /bed/scenario/dom0.sh; bed_end' &
scenario=$!

# A scenario that hangs is ended here, while the logs can still be saved.
(
    sleep "$TIMEOUT"
    touch /tmp/bed-timeout
    kill "$scenario"
) &

wait "$scenario"
status=$?

verdict=FAILURE
[ "$status" -ne 0 ] || [ -e /tmp/bed-failed ] || [ ! -e /tmp/bed-done ] || verdict=SUCCESS
[ ! -e /tmp/bed-timeout ] || verdict=TIMEOUT
if [ "$verdict" = FAILURE ] && [ ! -e /tmp/bed-failed ]; then
    echo "@@BED failed the scenario stopped with exit status $status"
fi

# What a person wants to see after a run, whatever happened.
out=/tmp/results
mkdir -p "$out"
cp -r /var/log/xen/. "$out"/
cp /etc/xen/*.cfg /tmp/*.cfg "$out"/ 2> /dev/null
timeout 10 xl list > "$out/xl-list.txt" 2>&1
# Of a failure also how every interrupt is routed, masked and bound, for xl dmesg below.
[ "$verdict" = SUCCESS ] || timeout 10 xl debug-keys iMeQ
timeout 10 xl dmesg > "$out/xl-dmesg.txt" 2>&1
timeout 10 bed-probe nodes / > "$out/xenstore.txt" 2>&1
timeout 10 pcidomctl status > "$out/pcidomctl-status.txt" 2>&1
dmesg > "$out/dom0-dmesg.txt"
if bed_disk results; then
    tar -cf /tmp/results.tar -C "$out" . && cat /tmp/results.tar > /bed/disks/results && sync
    blockdev --flushbufs /bed/disks/results
fi
echo
echo "@@BED verdict $verdict"
