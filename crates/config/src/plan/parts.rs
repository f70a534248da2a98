//! The typed parts of a plan. All sizes are in bytes.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::cpus::CoreScheduling;
use crate::disk::ImageType;
use crate::mac::MacAddr;
use crate::pci::PciCommon;
use crate::plan::Topology;

/// Virtual CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpus {
    /// vCPUs present at boot, 1 to `max`.
    pub boot: u32,
    /// vCPUs there can be, up to 8192.
    pub max: u32,
    /// How the guest sees them grouped.
    pub topology: Topology,
    /// Upper bound of the guest's physical address width in bits.
    pub max_phys_bits: u8,
    /// The guest may run guests of its own.
    pub nested: bool,
    /// Hyper-V enlightenments.
    pub kvm_hyperv: bool,
    /// Advanced Matrix Extensions are shown.
    pub amx: bool,
    /// Who may share a physical core with a vCPU.
    pub core_scheduling: CoreScheduling,
    /// vCPU and the host CPUs it may run on.
    pub affinity: Vec<(u32, Vec<usize>)>,
}

/// Guest RAM: one zone or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// In the order of the configuration; a single `mem0` if it has none.
    pub zones: Vec<Zone>,
    /// RAM that may be added through ACPI while the machine runs, to its only zone. What is plugged through virtio-mem comes into the
    /// room of a zone.
    pub more: u64,
}

impl Memory {
    /// RAM at boot; the check has seen that it fits.
    pub fn total(&self) -> u64 {
        self.zones.iter().fold(0, |total, zone| total.saturating_add(zone.size))
    }

    /// The most RAM there can ever be.
    pub fn largest(&self) -> u64 {
        let rooms = self.zones.iter().map(|zone| zone.room);
        rooms.fold(self.total().saturating_add(self.more), u64::saturating_add)
    }
}

/// A part of guest RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Name.
    pub id: String,
    /// RAM at boot: a multiple of 4 KiB, and of the huge page size if one is given.
    pub size: u64,
    /// RAM that may be plugged while the machine runs: a multiple of 128 MiB.
    pub room: u64,
    /// Mapped `MAP_SHARED`: other processes can map it, and a backing file sees the guest's writes.
    pub shared: bool,
    /// What pages back it.
    pub pages: Pages,
    /// Backing file, or a directory in which an unlinked one is made.
    pub file: Option<PathBuf>,
    /// Host NUMA node the pages come from.
    pub host_numa_node: Option<u32>,
    /// The host may merge equal pages.
    pub mergeable: bool,
    /// All pages are touched before boot.
    pub prefault: bool,
    /// Swap space is reserved.
    pub reserve: bool,
}

impl Zone {
    /// A zone of private memory, with transparent huge pages and otherwise the defaults of its section.
    pub fn new(id: impl Into<String>, size: u64) -> Self {
        Self {
            id: id.into(),
            size,
            room: 0,
            shared: false,
            pages: Pages::Normal { thp: true },
            file: None,
            host_numa_node: None,
            mergeable: false,
            prefault: false,
            reserve: false,
        }
    }
}

/// What pages back a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// Pages of the usual size.
    Normal {
        /// Transparent huge pages are asked for.
        thp: bool,
    },
    /// Pages of hugetlbfs.
    Huge {
        /// A power of 2; the host's default when absent.
        size: Option<u64>,
    },
}

/// What the machine boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A kernel.
    Kernel {
        /// Its image.
        kernel: PathBuf,
        /// Its command line.
        cmdline: Option<String>,
        /// Its initial RAM disk.
        initramfs: Option<PathBuf>,
    },
    /// Firmware.
    Firmware {
        /// Its image.
        firmware: PathBuf,
    },
}

/// A PCI segment's shares of the addresses that all segments' BARs may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Of those below 4 GiB, from 1.
    pub memory32: u32,
    /// Of those for 64-bit BARs, from 1.
    pub memory64: u32,
}

/// Where a device stands on PCI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// One of [`crate::Plan::pci_segments`].
    pub segment: u16,
    /// Slot, up to 31; the first free one when absent.
    pub device: Option<u8>,
    /// Behind the virtual IOMMU.
    pub iommu: bool,
}

impl Place {
    pub(crate) fn of(pci: &PciCommon) -> Self {
        Self { segment: pci.pci_segment, device: pci.pci_device_id, iommu: pci.iommu }
    }
}

/// A device in a PCI slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Unique over all devices; what clients know it by.
    pub id: String,
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub kind: DeviceKind,
}

/// The kinds of device that can be built, each with its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the sections")]
pub enum DeviceKind {
    Console(Console),
    Disk(Disk),
    Net(Net),
    Rng(Rng),
    Pmem(crate::Pmem),
    Vsock(Vsock),
    Mem(Mem),
    Balloon(Balloon),
    Watchdog(Watchdog),
    Pvpanic(Pvpanic),
    #[cfg(feature = "test-devices")]
    Echo(crate::Echo),
}

/// A disk on an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Image file or block device.
    pub path: PathBuf,
    /// The guest may not write.
    pub readonly: bool,
    /// Opened with `O_DIRECT`.
    pub direct: bool,
    /// From 1 to the number of boot vCPUs.
    pub num_queues: u16,
    /// A power of 2, from 4.
    pub queue_size: u16,
    /// At most 20 bytes.
    pub serial: Option<String>,
    /// io_uring may be used.
    pub io_uring: bool,
    /// Linux AIO may be used.
    pub aio: bool,
    /// Discarded ranges are given back to the file system.
    pub sparse: bool,
    /// Format of the image.
    pub image_type: ImageType,
    /// The lock covers the whole file.
    pub full_lock: bool,
    /// Queue and the host CPUs its thread may run on.
    pub queue_affinity: Vec<(u16, Vec<usize>)>,
}

impl Disk {
    /// A disk on `path` with the defaults of its section.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            readonly: false,
            direct: false,
            num_queues: 1,
            queue_size: 128,
            serial: None,
            io_uring: true,
            aio: true,
            sparse: true,
            image_type: ImageType::Unknown,
            full_lock: false,
            queue_affinity: Vec::new(),
        }
    }
}

/// A network device on a tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Net {
    /// Name of the tap; the kernel picks one when absent.
    pub tap: Option<String>,
    /// Address and network mask given to the tap.
    pub ip: Option<(IpAddr, IpAddr)>,
    /// The guest's address.
    pub mac: MacAddr,
    /// The tap's address.
    pub host_mac: Option<MacAddr>,
    /// From 1280.
    pub mtu: Option<u16>,
    /// Receive and transmit queues, in pairs: 1 to 511, as a function has at most 1024 queues.
    pub queue_pairs: u16,
    /// A power of 2.
    pub queue_size: u16,
    /// TCP segmentation offload.
    pub offload_tso: bool,
    /// UDP fragmentation offload.
    pub offload_ufo: bool,
    /// Checksum offload.
    pub offload_csum: bool,
}

impl Net {
    /// A device with this address for the guest and the defaults of its section.
    pub fn new(mac: MacAddr) -> Self {
        Self {
            tap: None,
            ip: None,
            mac,
            host_mac: None,
            mtu: None,
            queue_pairs: 1,
            queue_size: 256,
            offload_tso: true,
            offload_ufo: true,
            offload_csum: true,
        }
    }
}

/// The entropy device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    /// Where the bytes come from.
    pub src: PathBuf,
}

/// The virtual socket device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vsock {
    /// The guest's address, from 3.
    pub cid: u32,
    /// Where clients of the host's ask for the guest. Those whom the guest asks for listen at this path with `_PORT` behind it.
    pub socket: PathBuf,
}

/// The device that plugs RAM into the zone whose id it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mem {
    /// Bytes that the guest is asked to plug: a multiple of 2 MiB, at most the zone's room.
    pub requested: u64,
    /// The NUMA node that the zone is in, if it is in one.
    pub node: Option<u8>,
}

/// The balloon, which takes memory from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balloon {
    /// Bytes that the guest is asked for; less than its RAM.
    pub size: u64,
    /// The guest takes memory back when it runs out of it.
    pub deflate_on_oom: bool,
    /// The guest says which of its pages are free.
    pub free_page_reporting: bool,
}

/// The watchdog. There is nothing to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watchdog;

/// The panic notification device. There is nothing to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pvpanic;

/// Where a console's characters go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stream {
    /// There is no such device.
    Off,
    /// Output is dropped, there is no input.
    Null,
    /// Standard output, which goes into raw mode if it is a terminal; input from standard input if that is a terminal.
    Tty,
    /// A new pseudo-terminal.
    Pty,
    /// Output goes to the end of this file, which is created or emptied; to a character device; or to a FIFO, which need not have a
    /// reader yet.
    File(PathBuf),
    /// A UNIX socket is bound here. One client at a time; a new one replaces the old.
    Socket(PathBuf),
}

/// The virtio console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Console {
    /// Never a socket.
    pub stream: Stream,
}

/// Strings of the SMBIOS tables. What is absent or empty has a default or is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the SMBIOS specification")]
pub struct Smbios {
    pub manufacturer: Option<String>,
    pub product_name: Option<String>,
    pub version: Option<String>,
    pub serial_number: Option<String>,
    /// 32 hexadecimal digits, with or without hyphens.
    pub uuid: Option<String>,
    pub family: Option<String>,
    pub sku_number: Option<String>,
    pub chassis_asset_tag: Option<String>,
    pub oem_strings: Vec<String>,
}
