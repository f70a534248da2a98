#!/bin/sh
# First process of a measured guest. The first character is what the stopwatch waits for (tools/vmbench/src/serial.rs); with the word
# bench=load on the kernel's command line the guest then measures its disk and its network device, and says one `@QUANTITY VALUE` a line.
# The disk with a file system has the tools, the other one is measured. With bench=hotplug it says what comes (tools/vmguest/src/arrivals.rs),
# with bench=state that it runs (tools/vmguest/src/beats.rs).
echo @
/bin/busybox --install -s /bin
mount -t proc proc /proc
case "$(cat /proc/cmdline)" in
# The kernel makes variables of words that it does not know.
*bench=state*) exec vmguest beats "$fill" "$busy" ;;
*bench=load* | *bench=hotplug*) ;;
*) while true; do sleep 1000; done ;;
esac
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module"; done </modules/order

if grep -q bench=hotplug /proc/cmdline; then
	# It goes on until something fails, which is then the last that the guest says.
	failure=$(vmguest arrivals 1024 2>&1 >/dev/console)
	echo "@$failure, after: $(dmesg | tail -n 4 | tr '\n' ';')"
	while true; do sleep 1000; done
fi

# Devices appear a moment after their driver.
tries=0
until [ "$(ls -d /dev/vd? 2>/dev/null | wc -l)" = 2 ] && [ -e /sys/class/net/eth0 ] || [ $tries -ge 200 ]; do
	usleep 50000
	tries=$((tries + 1))
done
for disk in /dev/vd?; do
	mount -t ext4 -o ro "$disk" /mnt 2>/dev/null || data=$disk
done
mount --bind /dev /mnt/dev
mount --bind /proc /mnt/proc
mount --bind /sys /mnt/sys
mount -t tmpfs tmpfs /mnt/tmp
export PATH=/usr/bin:/bin DATA="$data"

# Fields of the terse format, version 3: 3 name, 7 and 8 KiB/s and IOPS of reading, 48 and 49 of writing.
chroot /mnt fio --output-format=terse --terse-version=3 /bench.fio | awk -F';' '
	$3 ~ /^random-read/ { print "@" $3 " " $8 }
	$3 ~ /^random-write/ { print "@" $3 " " $49 }
	$3 ~ /^sequential-read/ { print "@" $3 " " $7 / 1024 }
	$3 ~ /^sequential-write/ { print "@" $3 " " $48 / 1024 }'

ip link set lo up
ip addr add 10.203.0.2/24 dev eth0
ip link set eth0 up
# The first bytes open the way: ARP, the route, the peer's socket.
rate() { chroot /mnt iperf3 -c 10.203.0.1 -t 5 -O 1 -f m "$@" | awk '/receiver/ { print $7 }'; }
echo "@send $(rate)"
echo "@receive $(rate -R)"
echo "@done"
while true; do sleep 1000; done
