#!/bin/sh
# First process of a test guest. Words on the kernel's command line:
#   agent=TTY   serve commands on /dev/TTY (the other end is tools/vmtest/src/agent.rs)
#   root=DEV    mount DEV and hand over to its /sbin/init
#   shell=TTY   give a person a shell on /dev/TTY
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
while read -r module; do insmod "/modules/$module"; done </modules/order
hostname guest
export HOME=/root TERM=linux

word() { sed -n "s|^\(.* \)*$1=\([^ ]*\).*|\2|p" /proc/cmdline; }

# Devices appear a moment after their driver.
wait_for() {
	tries=0
	until [ -e "$1" ] || [ $tries -ge 200 ]; do
		usleep 50000
		tries=$((tries + 1))
	done
}

root=$(word root)
if [ -n "$root" ]; then
	wait_for "$root"
	mount -t ext4 -o rw "$root" /newroot
	umount /dev/pts
	mount --move /dev /newroot/dev
	mount --move /proc /newroot/proc
	mount --move /sys /newroot/sys
	exec switch_root /newroot /sbin/init
fi

mount -t tmpfs tmpfs /tmp
ip link set lo up

shell=$(word shell)
if [ -n "$shell" ]; then
	wait_for "/dev/$shell"
	while true; do setsid -c sh -l </dev/"$shell" >/dev/"$shell" 2>&1; done &
fi
agent=$(word agent)
if [ -n "$agent" ]; then
	wait_for "/dev/$agent"
	while true; do /agent.sh "/dev/$agent"; usleep 100000; done &
fi
# The first process must not end; it collects orphans while it waits.
while true; do wait; sleep 1000; done
