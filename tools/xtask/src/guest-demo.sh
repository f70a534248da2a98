#!/bin/sh
# First process on the demo's root disk; /dev, /proc and /sys come mounted. Words on the kernel's command line: agent=TTY
# serves commands there, address=A/N is the network device's, shell=TTY gives a person a shell.
/bin/busybox --install -s /bin
mount -t tmpfs tmpfs /tmp
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
hostname demo
export HOME=/root TERM=linux PATH=/bin

word() { sed -n "s|^\(.* \)*$1=\([^ ]*\).*|\2|p" /proc/cmdline; }

ip link set lo up
address=$(word address)
if [ -n "$address" ]; then
	ip addr add "$address" dev eth0
	ip link set eth0 up
fi
echo
echo "This is $(uname -sr) with $(nproc) CPUs, $(free -m | awk '/Mem/ {print $2}') MiB, root on $(awk '$2 == "/" {d = $1" ("$3")"} END {print d}' /proc/mounts)."
shell=$(word shell)
agent=$(word agent)
if [ -n "$shell" ]; then
	cd /root
	setsid -c sh -l </dev/"$shell" >/dev/"$shell" 2>&1
	sync
	poweroff -f
fi
while true; do /sbin/agent.sh "/dev/$agent"; usleep 100000; done &
while true; do wait; sleep 1000; done
