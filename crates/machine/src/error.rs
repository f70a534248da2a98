//! Why a machine could not be built.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::{StateError, VcpuError};

/// Why consoles cannot be opened.
#[derive(Debug, Error)]
pub enum ConsoleError {
    /// What stands at the other end.
    #[error(transparent)]
    Stream(#[from] stream::Error),
    /// The file, which would be emptied, has another use.
    #[error("'{}' of {console} would be emptied and is also {other}: name another file", .path.display())]
    Shared {
        /// The field that names it.
        console: String,
        /// Where it is.
        path: PathBuf,
        /// What else it is.
        other: String,
    },
}

/// Why a machine could not be built. Each names the part; its sources say why.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The plan has sections whose mechanism does not exist yet.
    #[error("Not implemented in this version: {}", .0.join(", "))]
    NotBuilt(Vec<String>),
    /// RAM does not leave room for devices.
    #[error(
        "{ram} bytes of RAM do not fit {phys_bits} physical address bits: lower memory or raise cpus.max_phys_bits"
    )]
    AddressSpace {
        /// Bytes of RAM.
        ram: u64,
        /// Address bits the guest sees.
        phys_bits: u8,
    },
    /// The address space cannot be dealt out.
    #[error(
        "There are no addresses for the BARs of PCI segment {segment} of {count}: use fewer segments (platform.num_pci_segments), lower \
         weights (pci_segments), or more cpus.max_phys_bits"
    )]
    Segments {
        /// The first without.
        segment: usize,
        /// How many there are.
        count: usize,
    },
    /// The host runs fewer vCPUs.
    #[error("This host runs at most {limit} vCPUs in one VM, not {wanted}: lower cpus.max_vcpus")]
    TooManyVcpus {
        /// vCPUs that there may be.
        wanted: u32,
        /// The hypervisor's limit.
        limit: u32,
    },
    /// Guest RAM.
    #[error("Memory manager error")]
    Ram(#[from] memory::RamError),
    /// The hypervisor.
    #[error("Error from CPU manager")]
    Hypervisor(#[from] hv::Error),
    /// The kernel or firmware.
    #[error("The payload cannot be loaded")]
    Payload(#[from] boot::LoadError),
    /// Firmware tables have no room for all the vCPUs that there may be.
    #[error("The firmware tables cannot describe {vcpus} vCPUs: lower cpus.max_vcpus")]
    Crowded {
        /// vCPUs that there may be.
        vcpus: u32,
        /// How much room there is.
        #[source]
        source: boot::acpi::AcpiError,
    },
    /// Firmware tables.
    #[error("The firmware tables cannot be written")]
    Tables(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no VM generation ID for it.
    #[error("The host has no random numbers for the VM generation ID: see that /dev/urandom can be read")]
    Random(#[source] std::io::Error),
    /// What the machine says it is.
    #[error("The machine's identity (section platform) makes no sense")]
    Identity(#[from] boot::smbios::SmbiosError),
    /// Threads or descriptors of the host.
    #[error("Cannot start the machine's threads")]
    Threads(#[source] std::io::Error),
    /// A device.
    #[error("Error from device manager")]
    Device(#[from] DeviceError),
    /// A saved state.
    #[error("The saved state does not fit this machine")]
    State(#[from] StateError),
}

/// A device that does not hold still.
#[derive(Debug, Error)]
#[error("Device '{id}' has not finished what is under way within {} s: look after its back end, then try again", limit.as_secs())]
pub struct LateDevice {
    /// The device's id.
    pub id: String,
    /// How long it was waited for.
    pub limit: Duration,
}

/// Why a machine could not be paused.
#[derive(Debug, Error)]
pub enum PauseError {
    /// A vCPU goes on.
    #[error("The vCPUs cannot be held")]
    Vcpu(#[from] VcpuError),
    /// A device goes on.
    #[error("The devices cannot be held")]
    Device(#[from] LateDevice),
}

/// Why the number of vCPUs could not be changed. It is as before then.
#[derive(Debug, Error)]
pub enum ResizeError {
    /// The guest has to let go of some first.
    #[error(
        "The guest still has vCPUs that it was asked to let go of: ask for {0} vCPUs again to remind it, or reboot the VM"
    )]
    Pending(u32),
    /// One that was there before does not come back.
    #[error("A vCPU cannot be taken into use again")]
    Vcpu(#[from] VcpuError),
    /// The hypervisor makes no more.
    #[error("A vCPU cannot be created")]
    Hypervisor(#[from] hv::Error),
    /// Threads of the host.
    #[error("A vCPU's thread cannot be started")]
    Threads(#[source] std::io::Error),
}

/// Why a disk keeps its size.
#[derive(Debug, Error)]
pub enum ResizeDiskError {
    /// There is none of this id whose size could be changed.
    #[error("There is no disk '{0}' to resize: see the ids in vm.info")]
    NoDisk(String),
    /// Its image.
    #[error("Disk resize error")]
    Image(#[from] block::ResizeError),
    /// Its requests do not end.
    #[error("The disk cannot be held")]
    Late(#[from] LateDevice),
}

/// Why RAM could not be changed.
#[derive(Debug, Error)]
pub enum PlugError {
    /// It cannot be had, or its place is taken.
    #[error("Memory manager error")]
    Ram(#[from] memory::RamError),
    /// The hypervisor refused.
    #[error("The guest's view of its RAM cannot be changed")]
    Hypervisor(#[from] hv::Error),
    /// Nothing was plugged there.
    #[error("No RAM begins at {0:#x}")]
    NoRam(u64),
}

/// Why RAM does not grow. It is as before then.
#[derive(Debug, Error)]
pub enum GrowError {
    /// The machine cannot have so much, or not in this step.
    #[error(transparent)]
    Refused(#[from] chipset::acpi::GrowthError),
    /// The machine that is built at the next reboot could not have so much.
    #[error("The VM could not boot again with this much RAM")]
    NextBoot(#[source] Box<BuildError>),
    /// The host does not give it.
    #[error(transparent)]
    Plug(#[from] PlugError),
}

/// Why a device could not be built or placed.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// Its id is that of another, perhaps one that the guest has not let go of yet.
    #[error("Device '{id}' is still there: choose another id, or wait for its event device-removed")]
    Exists {
        /// The device's id.
        id: String,
    },
    /// Its back end.
    #[error("Cannot build device '{id}'")]
    Build {
        /// The device's id.
        id: String,
        /// The device's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Its PCI place.
    #[error("Cannot place device '{id}'")]
    Place {
        /// The device's id.
        id: String,
        /// What is taken.
        #[source]
        source: pci::PlaceError,
    },
    /// The memory that it brings.
    #[error("Cannot give the guest the memory of device '{id}'")]
    Memory {
        /// The device's id.
        id: String,
        /// The hypervisor's reason.
        #[source]
        source: hv::Error,
    },
    /// Its addresses.
    #[error("Cannot attach device '{id}'")]
    Attach {
        /// The device's id.
        id: String,
        /// What is taken.
        #[source]
        source: device::Collision,
    },
}

impl DeviceError {
    /// [`DeviceError::Build`].
    pub(crate) fn build(id: &str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Build { id: id.into(), source: Box::new(source) }
    }
}
