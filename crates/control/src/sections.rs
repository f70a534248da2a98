//! Devices that come to a VM and leave it before it boots: the plan is checked with them, and the next boot builds it
//! (`spec/rest-api.md` §6).

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use api::{ApiError, Code, PciDeviceInfo, With};
use config::plan::Extra;
use config::{DeviceConfig, NetConfig, Plan, VmConfig};
use machine::{Consoles, Descriptors};

use crate::control::Vm;
use crate::{Control, blame};

type Added = Result<Option<PciDeviceInfo>, ApiError>;

impl Control {
    /// Adds a section without descriptors.
    pub(crate) fn add(&mut self, extra: Extra) -> Added {
        self.add_with(extra, Vec::new())
    }

    pub(crate) fn add_net(&mut self, With { mut body, descriptors }: With<NetConfig>) -> Added {
        if descriptors.is_empty() {
            forget_net(&mut body);
        } else {
            body.fds = Some(descriptors.iter().map(AsRawFd::as_raw_fd).collect());
        }
        self.add_with(Extra::Net(body), descriptors)
    }

    pub(crate) fn add_device(&mut self, With { mut body, descriptors }: With<DeviceConfig>) -> Added {
        match descriptors.first() {
            Some(descriptor) => body.fd = Some(descriptor.as_raw_fd()),
            None => forget_device(&mut body),
        }
        self.add_with(Extra::Device(body), descriptors)
    }

    fn add_with(&mut self, extra: Extra, descriptors: Vec<OwnedFd>) -> Added {
        let vm = self.vm_at_rest("adding devices to a running VM")?;
        let (plan, id) = vm.plan.check_more(extra).map_err(|problems| ApiError::from_problems(&problems))?;
        Consoles::check(&plan).map_err(|e| blame::consoles_failed(&e))?;
        vm.plan = plan;
        if !descriptors.is_empty() {
            vm.descriptors.insert(id, descriptors);
        }
        self.publish();
        Ok(None)
    }

    pub(crate) fn remove_device(&mut self, id: &str) -> Result<(), ApiError> {
        let vm = self.vm_at_rest("removing devices from a running VM")?;
        let unknown = || {
            let why = format!("There is no device '{id}' to remove: see the ids in vm.info");
            ApiError::new(Code::NoSuchDevice, [why])
        };
        let less = vm.plan.check_less(id).ok_or_else(unknown)?;
        vm.plan = less.map_err(|problems| ApiError::from_problems(&problems))?;
        vm.descriptors.remove(id);
        self.publish();
        Ok(())
    }

    /// The VM, which no machine has been built from yet.
    fn vm_at_rest(&mut self, otherwise: &str) -> Result<&mut Vm, ApiError> {
        let vm = self
            .vm
            .as_mut()
            .ok_or_else(|| ApiError::new(Code::VmNotCreated, ["VM is not created".into()]))?;
        if vm.machine.is_some() {
            return Err(api::Command::not_implemented(otherwise));
        }
        Ok(vm)
    }
}

/// Descriptor numbers in JSON mean nothing to this process (`spec/rest-api.md` §4).
pub(crate) fn forget_descriptors(config: &mut VmConfig) {
    config.net.iter_mut().flatten().for_each(forget_net);
    config.devices.iter_mut().flatten().for_each(forget_device);
}

fn forget_net(net: &mut NetConfig) {
    if net.fds.take().is_some() {
        tracing::warn!("Ignoring 'fds' of a network device: descriptors do not travel inside JSON");
    }
}

fn forget_device(device: &mut DeviceConfig) {
    if device.fd.take().is_some() {
        tracing::warn!("Ignoring 'fd' of a device: descriptors do not travel inside JSON");
    }
}

/// Takes over the descriptors that flags name and the parent process left open.
///
/// # Errors
/// [`Code::InvalidConfig`] if nothing is open there, or another flag names it too.
pub(crate) fn inherit_descriptors(plan: &Plan) -> Result<Descriptors, ApiError> {
    let mut descriptors = Descriptors::new();
    let nets = plan.config().net.iter().flatten();
    for (net, fds) in nets.filter_map(|net| Some((net, net.fds.as_ref()?))) {
        let taken = fds.iter().map(|number| inherit(*number)).collect::<Result<_, _>>()?;
        descriptors.insert(net.pci.id.clone().unwrap_or_default(), taken);
    }
    Ok(descriptors)
}

fn inherit(number: RawFd) -> Result<OwnedFd, ApiError> {
    host::inherit::take(number).map_err(|e| {
        let why = format!("Descriptor {number} was not left open for this process, or is named twice");
        ApiError::from_error(Code::InvalidConfig, &e).within(&why)
    })
}
