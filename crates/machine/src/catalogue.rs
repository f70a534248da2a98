//! The devices that sit in PCI slots, one line each, in the order in which slots are given out (`spec/devices.md` §6).
//!
//! A line names the plan's section and the function that builds what the section describes.

use std::os::fd::OwnedFd;

use block::{Format, LockRange, OpenOptions};
use chipset::pvpanic::PvpanicFunction;
use config::plan::Place;
use config::{ImageType, Plan};
use pci::BarKind;
use stream::Stream;
use virtio::VirtioDevice;
use virtio_devices::{blk, console, net, rng, watchdog};

use crate::functions::Functions;
use crate::{Descriptors, DeviceError};

const CONSOLE: &str = "__console";
const RNG: &str = "__rng";
const WATCHDOG: &str = "__watchdog";
const PVPANIC: &str = "__pvpanic";

/// What a line builds from.
pub(crate) struct Order<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) descriptors: &'a Descriptors,
    pub(crate) console: Option<Stream>,
}

type Build = fn(&mut Functions, &Order<'_>) -> Result<(), DeviceError>;

/// All lines: section and builder.
pub(crate) const CATALOGUE: [(&str, Build); 6] = [
    ("console", attach_console),
    ("disks", attach_disks),
    ("net", attach_nets),
    ("rng", attach_rng),
    ("watchdog", attach_watchdog),
    ("pvpanic", attach_pvpanic),
];

/// Devices whose slot the user may choose, by id.
pub(crate) fn places(plan: &Plan) -> impl Iterator<Item = (&str, &Place)> {
    let console = std::iter::once((CONSOLE, &plan.console.place));
    let rng = std::iter::once((RNG, &plan.rng.place));
    let disks = plan.disks.iter().map(|disk| (disk.id.as_str(), &disk.place));
    let nets = plan.nets.iter().map(|net| (net.id.as_str(), &net.place));
    console.chain(disks).chain(nets).chain(rng)
}

fn boxed<D: VirtioDevice + 'static, E: std::error::Error + Send + Sync + 'static>(
    id: &str,
    built: Result<D, E>,
) -> Result<Box<dyn VirtioDevice>, DeviceError> {
    match built {
        Ok(device) => Ok(Box::new(device)),
        Err(error) => Err(DeviceError::build(id, error)),
    }
}

fn attach_console(functions: &mut Functions, order: &Order<'_>) -> Result<(), DeviceError> {
    let Some(stream) = order.console.clone() else { return Ok(()) };
    let config = console::Config { id: CONSOLE.into(), stream };
    let front = console::build(config).map_err(|e| DeviceError::build(CONSOLE, e))?;
    functions.resizer = Some(front.resizer());
    functions.attach_virtio(Box::new(front), BarKind::Memory64)
}

fn attach_disks(functions: &mut Functions, order: &Order<'_>) -> Result<(), DeviceError> {
    for disk in &order.plan.disks {
        let image = OpenOptions {
            path: disk.path.clone(),
            readonly: disk.readonly,
            direct: disk.direct,
            io_uring: disk.io_uring,
            sparse: disk.sparse,
            format: (disk.image_type == ImageType::Raw).then_some(Format::Raw),
            lock: Some(if disk.full_lock { LockRange::Whole } else { LockRange::Bytes }),
        };
        let config = blk::Config {
            id: disk.id.clone(),
            image,
            num_queues: disk.num_queues,
            queue_size: disk.queue_size,
            serial: disk.serial.clone(),
            affinity: disk.queue_affinity.clone(),
        };
        let device = blk::build(&config).map_err(|e| DeviceError::build(&disk.id, e))?;
        functions.found.note_image(&disk.id, device.disk().format());
        functions.attach_virtio(Box::new(device), BarKind::Memory32)?;
    }
    Ok(())
}

fn attach_nets(functions: &mut Functions, order: &Order<'_>) -> Result<(), DeviceError> {
    for net in &order.plan.nets {
        let config = net::Config {
            id: net.id.clone(),
            tap: net.tap.clone(),
            ip: net.ip.zip(net.mask),
            mac: net.mac.0,
            host_mac: net.host_mac.map(|mac| mac.0),
            mtu: net.mtu,
            queue_pairs: net.num_queues / 2,
            queue_size: net.queue_size,
            offload_tso: net.offload_tso,
            offload_ufo: net.offload_ufo,
            offload_csum: net.offload_csum,
        };
        // The machine works on duplicates: the next one, after a reboot, needs the descriptors again.
        let kept = order.descriptors.get(&net.id).map_or(&[][..], Vec::as_slice);
        let opened = kept.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>();
        let opened = opened.map_err(|e| DeviceError::build(&net.id, e))?;
        let device = net::build(&config, opened).map_err(|e| DeviceError::build(&net.id, e))?;
        functions.found.note_tap(&net.id, device.tap_name());
        functions.attach_virtio(Box::new(device), BarKind::Memory64)?;
    }
    Ok(())
}

fn attach_rng(functions: &mut Functions, order: &Order<'_>) -> Result<(), DeviceError> {
    let device = boxed(RNG, rng::build(rng::Config { id: RNG.into(), src: order.plan.rng.src.clone() }))?;
    functions.attach_virtio(device, BarKind::Memory64)
}

fn attach_watchdog(functions: &mut Functions, order: &Order<'_>) -> Result<(), DeviceError> {
    if !order.plan.watchdog {
        return Ok(());
    }
    let device = boxed(
        WATCHDOG,
        watchdog::build(watchdog::Config { id: WATCHDOG.into(), events: functions.events().clone() }),
    )?;
    functions.attach_virtio(device, BarKind::Memory64)
}

fn attach_pvpanic(functions: &mut Functions, order: &Order<'_>) -> Result<(), DeviceError> {
    if !order.plan.pvpanic {
        return Ok(());
    }
    let events = functions.events().clone();
    functions.attach_plain(PVPANIC, PvpanicFunction::BAR_SIZE, |address, bar| {
        PvpanicFunction::new(address, bar, events)
    })
}
