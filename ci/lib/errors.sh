# Rows of docs/errors.md: a command that fails says cause and next command, and has changed
# nothing.

# what_is_lent: all that a failed command must not change: the nodes of loans and links,
# every device's owner in Xen, and the daemon's status.
what_is_lent() {
    # By itself: of nothing and nothing `diff` would say that they are the same.
    bed-probe nodes /tool/pcidom '/local/domain/*/pcidom' '/local/domain/*/backend/pci' '/local/domain/*/device/pci' \
        > /tmp/lent.nodes || fail "XenStore's nodes can't be listed"
    grep -vE '^/tool/pcidom/generation|^/local/domain/[0-9]+/(pcidom/query|backend/pci =)|^/local/domain/[0-9]+/device/pci =' \
        /tmp/lent.nodes || true
    xen_debug_keys Q
    grep -oE '[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7] - (d\[?[0-9A-Za-z]+|Dom[0-9A-Za-z]+)' "$KEYS" || true
    # Without pcidom's own counters, which go on.
    pcidomctl status --json 2>&1 | sed '/"report": {/,/^ *}/d'
}

# row NAME CODE CAUSE NEXT COMMAND...: the command ends with this exit code, its message has
# both texts, and all is as it was: after the last row, unless something `changes` between.
changes() { rm -f /tmp/row.after; }
row() {
    row_name=$1 row_code=$2 row_cause=$3 row_next=$4
    shift 4
    if [ -e /tmp/row.after ]; then
        mv /tmp/row.after /tmp/row.before
    else
        what_is_lent > /tmp/row.before
    fi
    said_code=0
    "$@" > /tmp/row.said 2>&1 || said_code=$?
    what_is_lent > /tmp/row.after
    echo "$row_name: exit $said_code: $(cat /tmp/row.said)"
    check "$row_name" row_holds
}
row_holds() {
    echo "exit code $said_code, expected $row_code"
    [ "$said_code" = "$row_code" ] || return 1
    echo "cause: $row_cause"
    grep -qF -- "$row_cause" /tmp/row.said || return 1
    echo "next: $row_next"
    grep -qF -- "$row_next" /tmp/row.said || return 1
    diff /tmp/row.before /tmp/row.after
}

# without_root COMMAND...: as a user that is nobody.
without_root() {
    grep -q '^nobody:' /etc/passwd 2> /dev/null || echo 'nobody:x:65534:65534::/:/bin/sh' >> /etc/passwd
    su -s /bin/sh nobody -c "$*"
}

# stop_daemon: and waits until it has ended.
stop_daemon() {
    changes
    kill "$DAEMON"
    wait "$DAEMON" || true
}

# small_guest NAME TYPE [LINE...]: a configuration as short as people write it.
small_guest() {
    changes
    printf 'name = "%s"\ntype = "%s"\nkernel = "/bed/disks/vmlinux"\nmemory = 128\n' "$1" "$2" > "/tmp/$1.cfg"
    small_name=$1
    shift 2
    for line in "$@"; do echo "$line" >> "/tmp/$small_name.cfg"; done
    need "xl create -p $small_name" xl create -p "/tmp/$small_name.cfg"
    know_domid "$small_name"
}
status_says() { pcidomctl status | tee /tmp/status.out; grep -qE "$1" /tmp/status.out; }
logged() { grep -qE -- "$1" /var/log/xen/pcidom.log; }
