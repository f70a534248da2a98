complete -c cloud-hypervisor -l config -d 'The whole VM in a JSON, TOML or YAML file, with the field names of the REST API; flags override its sections' -r -F
complete -c cloud-hypervisor -l kernel -d 'Kernel: a PVH ELF or a bzImage' -r -F
complete -c cloud-hypervisor -l firmware -d 'Firmware to boot instead of a kernel' -r -F
complete -c cloud-hypervisor -l fw-cfg-config -d 'What the fw_cfg device shows the firmware' -r
complete -c cloud-hypervisor -l initramfs -d 'Initial RAM disk' -r -F
complete -c cloud-hypervisor -l cmdline -d 'Kernel command line' -r
complete -c cloud-hypervisor -l cpus -d 'CPUs' -r
complete -c cloud-hypervisor -l memory -d 'RAM' -r
complete -c cloud-hypervisor -l memory-zone -d 'RAM in zones of its own backing' -r
complete -c cloud-hypervisor -l numa -d 'NUMA nodes' -r
complete -c cloud-hypervisor -l balloon -d 'Memory balloon' -r
complete -c cloud-hypervisor -l disk -d 'Disks' -r
complete -c cloud-hypervisor -l rate-limit-group -d 'Rate limits that disks share' -r
complete -c cloud-hypervisor -l net -d 'Network interfaces' -r
complete -c cloud-hypervisor -l rng -d 'Source of entropy' -r
complete -c cloud-hypervisor -l fs -d 'Shared directories' -r
complete -c cloud-hypervisor -l pmem -d 'Persistent memory' -r
complete -c cloud-hypervisor -l vsock -d 'Virtual sockets' -r
complete -c cloud-hypervisor -l vdpa -d 'vDPA devices' -r
complete -c cloud-hypervisor -l device -d 'VFIO devices' -r
complete -c cloud-hypervisor -l user-device -d 'vfio-user devices' -r
complete -c cloud-hypervisor -l generic-vhost-user -d 'Devices served over vhost-user' -r
complete -c cloud-hypervisor -l ivshmem -d 'Memory shared between VMs' -r
complete -c cloud-hypervisor -l tpm -d 'TPM 2.0' -r
complete -c cloud-hypervisor -l rtc -d 'Paravirtual clock' -r
complete -c cloud-hypervisor -l serial -d 'Serial port [default: null]' -r
complete -c cloud-hypervisor -l console -d 'Virtio console [default: tty]' -r
complete -c cloud-hypervisor -l debug-console -d 'Debug port [default: off]' -r
complete -c cloud-hypervisor -l platform -d 'What the machine says it is' -r
complete -c cloud-hypervisor -l pci-segment -d 'PCI segments' -r
complete -c cloud-hypervisor -l landlock-rules -d 'Files to be allowed besides' -r
complete -c cloud-hypervisor -l api-socket -d 'Socket of the REST API: a path, path=PATH, or fd=N for a descriptor that listens already' -r
complete -c cloud-hypervisor -l event-monitor -d 'Where event records go: path=PATH or fd=N' -r
complete -c cloud-hypervisor -l restore -d 'Restore a VM from a snapshot, unless there is a payload' -r
complete -c cloud-hypervisor -l gdb -d 'Wait for gdb to attach at a socket before the guest runs: path=PATH; in gdb, \'target remote PATH\'' -r
complete -c cloud-hypervisor -l seccomp -d 'What a system call leads to that the VMM has no use for' -r -f -a "true\t'The process names the call and dies'
false\t'There are no filters'
log\t'The kernel logs the call'
errno\t'The call fails'"
complete -c cloud-hypervisor -l log-file -d 'Write the log to a file instead of standard error' -r -F
complete -c cloud-hypervisor -l log-format -d 'What lines of the log look like: \'json\', or a text with tokens' -r
complete -c cloud-hypervisor -l watchdog -d 'Reset a guest that hangs'
complete -c cloud-hypervisor -l pvpanic -d 'Report the guest\'s panics'
complete -c cloud-hypervisor -l pvmemcontrol -d 'Let the guest advise on its memory'
complete -c cloud-hypervisor -l landlock -d 'Confine the VMM to the files it needs'
complete -c cloud-hypervisor -l no-shutdown -d 'Stay after the guest has powered off'
complete -c cloud-hypervisor -l check -d 'Print the whole configuration that the flags and the file come to, or everything that is wrong with it, and exit'
complete -c cloud-hypervisor -s v -d 'Log more: -v information, -vv debugging, -vvv everything'
complete -c cloud-hypervisor -s V -l version -d 'Print the version; with -v the features too'
complete -c cloud-hypervisor -s h -l help -d 'Print help (see more with \'--help\')'
