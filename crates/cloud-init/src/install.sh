#!/bin/sh
# Installs Innkeeper's guest agent from the disk that this script is on, and
# starts it. cloud-init runs it in every boot: what is in place stays.
set -eu
here=$(dirname -- "$0")
changed=

# put SOURCE TARGET MODE: under another name first, so that the target is whole.
put() {
    cmp -s "$1" "$2" && return
    mkdir -p "$(dirname -- "$2")"
    cp "$1" "$2.new"
    chmod "$3" "$2.new"
    mv -f "$2.new" "$2"
    # Where SELinux is, a file has to have its own place's label.
    if command -v restorecon >/dev/null; then restorecon "$2" || :; fi
    changed=1
}

put "$here/inn-guest" /usr/local/sbin/inn-guest 755
if [ -d /run/systemd/system ]; then
    put "$here/inn-guest.service" /etc/systemd/system/inn-guest.service 644
    mkdir -p /etc/systemd/system/multi-user.target.wants
    ln -sf /etc/systemd/system/inn-guest.service /etc/systemd/system/multi-user.target.wants/
    if [ -n "$changed" ]; then
        systemctl daemon-reload
        # Not waited for: cloud-init is what the rest of the boot waits for.
        systemctl --no-block restart inn-guest.service
    else
        systemctl --no-block start inn-guest.service
    fi
elif ! pidof inn-guest >/dev/null 2>&1; then
    # No service of this init's: each boot starts it anew.
    setsid /usr/local/sbin/inn-guest serve </dev/null >>/var/log/inn-guest.log 2>&1 &
fi
