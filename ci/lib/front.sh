# The frontend of our own (ci/front) as a guest in place of Linux (`front = yes` in
# scenario.conf).

# create_front NAME [WORDS] [LINE]: a PV guest, paused; the words are its command line, and its
# configuration has that line more.
create_front() {
    cat > "/tmp/$1.cfg" << CFG
name = "$1"
type = "pv"
kernel = "/bed/images/bed-front"
extra = "${2:-}"
memory = 8
vcpus = 1
passthrough = "enabled"
e820_host = 1
on_poweroff = "destroy"
on_crash = "preserve"
${3:-}
CFG
    rm -f "$CONSOLES/guest-$1.log"
    xl create -p "/tmp/$1.cfg" || fail "xl create $1"
    know_domid "$1"
    follow "$1"
}
