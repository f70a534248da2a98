//! The kinds of device that sit in PCI slots: one line each.
//!
//! A line names the plan's kind and the module that builds it, which has `build(settings, context) -> Result<Built, impl Error>` and
//! `PROFILES`, what its threads and its building ask of the host. A device is its section in `config`, its folder, and its line here.

use config::plan::{Device, DeviceKind};
use pci::{BuildContext, Built};
use sandbox::Profile;

use crate::DeviceError;

macro_rules! devices {
    ($( $(#[$when:meta])? $kind:ident by $($module:ident)::+; )+) => {
        /// Builds a device; it has no place yet.
        pub(crate) fn build(device: &Device, context: &BuildContext<'_>) -> Result<Built, DeviceError> {
            match &device.kind {
                $( $(#[$when])? DeviceKind::$kind(settings) => $($module)::+::build(settings, context)
                    .map_err(|error| DeviceError::build(&device.id, error)), )+
            }
        }

        /// The profiles that each of the modules brings.
        const BROUGHT: &[fn() -> &'static [&'static Profile]] = &[ $( $(#[$when])? || $($module)::+::PROFILES ),+ ];
    };
}

devices! {
    Console by virtio_devices::console;
    Disk by virtio_devices::blk;
    Net by virtio_devices::net;
    Rng by virtio_devices::rng;
    Pmem by virtio_devices::pmem;
    Vsock by virtio_devices::vsock;
    Mem by virtio_devices::mem;
    Balloon by virtio_devices::balloon;
    Watchdog by virtio_devices::watchdog;
    Pvpanic by chipset::pvpanic;
    #[cfg(feature = "test-devices")]
    Echo by virtio_devices::echo;
}

/// What machines ask of the host beyond the control thread's own profile: the profiles of all threads that a machine starts, and what
/// building its devices asks of the thread that does it.
pub fn profiles() -> Vec<&'static Profile> {
    let own = [&crate::vcpus::PROFILE, &crate::build::PAYLOAD_LOADER];
    let brought = BROUGHT.iter().flat_map(|profiles| profiles()).chain(chipset::serial::PROFILES);
    own.into_iter().chain(brought.copied()).collect()
}
