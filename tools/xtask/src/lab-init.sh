#!/bin/sh
# First process of the lab. The root file system is the host's, read through 9p, under an overlay that keeps writes in
# memory; /scratch is a disk of this run. Ports of the virtio serial device: 1 output, 2 errors, 3 verdict; with the
# word lab.tty on the command line the virtio console is the command's terminal.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module" || echo "lab: $module does not load"; done </modules/order

word() { sed -n "s|.*$1=\([^ ]*\).*|\1|p" /proc/cmdline; }
share=$(word lab.share)

mkdir -p /host /layer /newroot
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=1048576,cache=loose host /host || echo "lab: no host files"
mount -t tmpfs tmpfs /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /newroot
mkdir -p /newroot/proc /newroot/sys /newroot/dev /newroot/run /newroot/scratch
mount -t proc proc /newroot/proc
mount -t sysfs sysfs /newroot/sys
mount -t devtmpfs devtmpfs /newroot/dev
mkdir -p /newroot/dev/pts /newroot/dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /newroot/dev/pts
mount -t tmpfs tmpfs /newroot/dev/shm
mount -t tmpfs tmpfs /newroot/run
mount -t ext4 /dev/vda /newroot/scratch || echo "lab: no scratch disk"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576,cache=none share "/newroot$share" || echo "lab: no share"
ln -sf /proc/self/fd /newroot/dev/fd
ip link set lo up
# The way to the host, where this run has one. No other address is reached: there is no route.
[ ! -e /sys/class/net/eth0 ] || { ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up; }
ulimit -n 65536

# A port can be open once only, so it is opened here and handed down.
exec 4>"$(echo /dev/vport*p1)" 5>"$(echo /dev/vport*p2)" 6>"$(echo /dev/vport*p3)"
if grep -q lab.tty /proc/cmdline; then
	setsid -c chroot /newroot /bin/sh "$share/command.sh" </dev/hvc0 >/dev/hvc0 2>&1 4>&- 5>&- 6>&-
else
	chroot /newroot /bin/sh "$share/command.sh" </dev/null >&4 2>&5 4>&- 5>&- 6>&-
fi
echo "exit $?" >&6
exec 4>&- 5>&- 6>&-
sync
poweroff -f
