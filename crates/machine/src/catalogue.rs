//! The kinds of device that sit in PCI slots: one line each.
//!
//! A line names the plan's kind and the module that builds it, which has `build(settings, context) -> Result<Built, impl Error>`. A device
//! is its section in `config`, its folder, and its line here.

use config::plan::{Device, DeviceKind};
use pci::{BuildContext, Built};

use crate::DeviceError;

macro_rules! devices {
    ($( $kind:ident by $($module:ident)::+; )+) => {
        /// Builds a device; it has no place yet.
        pub(crate) fn build(device: &Device, context: &BuildContext<'_>) -> Result<Built, DeviceError> {
            match &device.kind {
                $( DeviceKind::$kind(settings) => $($module)::+::build(settings, context)
                    .map_err(|error| DeviceError::build(&device.id, error)), )+
            }
        }
    };
}

devices! {
    Console by virtio_devices::console;
    Disk by virtio_devices::blk;
    Net by virtio_devices::net;
    Rng by virtio_devices::rng;
    Watchdog by virtio_devices::watchdog;
    Pvpanic by chipset::pvpanic;
}
