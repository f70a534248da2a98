//! Devices that come to a VM and leave it: the plan is checked with them. If there is a machine, it gets them at once, or asks its guest
//! to let go of them; if not, the next boot builds the plan (`spec/rest-api.md` §4, §6; `spec/lifecycle.md` §11).

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

use api::{ApiError, Code, DeviceNode, PciDeviceInfo, With};
use config::plan::Extra;
use config::{DeviceConfig, NetConfig, Plan, VmConfig};
use machine::{BuildError, Consoles, Descriptors, Machine, RemoveError};

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
        let vm = self.created()?;
        let (mut plan, id) =
            vm.plan.check_more(extra).map_err(|problems| ApiError::from_problems(&problems))?;
        Consoles::check(&plan).map_err(|e| blame::consoles_failed(&e))?;
        let added = match &mut vm.machine {
            Some(machine) => Some(hot_add(machine, &mut plan, &id, &descriptors)?),
            None => None,
        };
        vm.plan = plan;
        if !descriptors.is_empty() {
            vm.descriptors.insert(id, descriptors);
        }
        self.plan_next_look(Instant::now());
        self.publish();
        Ok(added)
    }

    /// Takes a device's section out. The guest of a machine is asked to let go of the device, which works until it does.
    pub(crate) fn remove_device(&mut self, id: &str) -> Result<(), ApiError> {
        let vm = self.created()?;
        let id = id.strip_prefix(DeviceNode::TRANSPORT).unwrap_or(id);
        match (vm.plan.check_less(id), &mut vm.machine) {
            (Some(less), machine) => {
                let less = less.map_err(|problems| ApiError::from_problems(&problems))?;
                if let Some(machine) = machine {
                    machine.ask_back(id).map_err(|e| not_removed(&e))?;
                }
                vm.plan = less;
                vm.descriptors.remove(id);
            }
            (None, Some(machine)) => machine.ask_again(id).map_err(|e| not_removed(&e))?,
            (None, None) => return Err(not_removed(&RemoveError::Unknown(id.into()))),
        }
        self.publish();
        Ok(())
    }

    fn created(&mut self) -> Result<&mut Vm, ApiError> {
        self.vm.as_mut().ok_or_else(|| ApiError::new(Code::VmNotCreated, ["VM is not created".into()]))
    }

    /// Takes away the devices that the guest has ejected.
    pub(crate) fn part_with_ejected(&mut self) {
        let removed = self.machine().map(Machine::take_ejected).unwrap_or_default();
        self.tell_of_each("device-removed", &removed);
    }

    /// Tells once of each device that the guest has not let go of in time.
    pub(crate) fn tell_of_overdue(&mut self) {
        let overdue = self.machine().map(|machine| machine.take_overdue(Instant::now())).unwrap_or_default();
        for PciDeviceInfo { id, bdf } in &overdue {
            tracing::warn!("The guest has not let go of '{id}' ({bdf}) yet: vm.remove-device asks again");
        }
        self.tell_of_each("device-removal-overdue", &overdue);
    }

    fn tell_of_each(&self, event: &'static str, devices: &[PciDeviceInfo]) {
        if devices.is_empty() {
            return;
        }
        // Whoever hears of it finds it in vm.info.
        self.publish();
        for PciDeviceInfo { id, bdf } in devices {
            self.events.record("vm", event, &[("id", id), ("bdf", bdf)]);
        }
    }

    /// Drops the machine, if there is one. With it go the devices that its guest had not let go of yet.
    pub(crate) fn drop_machine(&mut self) -> bool {
        let Some(vm) = self.vm.as_mut() else { return false };
        (vm.restored, vm.guard) = (None, None);
        let was_released = vm.released.take().is_some();
        let Some(machine) = vm.machine.take() else { return was_released };
        let removals = machine.removals();
        let pager = vm.pager.take();
        drop(machine);
        drop(pager);
        self.tell_of_each("device-removed", &removals);
        true
    }

    /// How long the loop may wait for events: milliseconds until a removal is overdue or files are looked at, or -1.
    pub(crate) fn patience(&mut self) -> i32 {
        let overdue = self.machine().and_then(|machine| machine.next_overdue());
        overdue.into_iter().chain(self.next_look.0).min().map_or(-1, |at| {
            let left = at.saturating_duration_since(Instant::now());
            // Not a moment too early, which would be one round for nothing after the other.
            i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX)
        })
    }
}

/// Gives the machine the device `id` of the plan, which notes its slot.
fn hot_add(
    machine: &mut Machine,
    plan: &mut Plan,
    id: &str,
    descriptors: &[OwnedFd],
) -> Result<PciDeviceInfo, ApiError> {
    let not_built = || blame::build_failed(&BuildError::NotBuilt(plan.unbuilt().to_vec()));
    let device = plan.devices.iter().find(|device| device.id == id);
    let device = device.filter(|_| plan.unbuilt().is_empty()).ok_or_else(not_built)?;
    let added =
        machine.add(device, descriptors).map_err(|e| blame::add_failed(e, plan.grants().is_some()))?;
    machine.slots().for_each(|(id, slot)| plan.settle(id, slot));
    Ok(added)
}

fn not_removed(error: &RemoveError) -> ApiError {
    let code = match error {
        RemoveError::Unknown(_) => Code::NoSuchDevice,
        RemoveError::Kept(_) => Code::InvalidConfig,
        RemoveError::Pending(_) => Code::Pending,
    };
    ApiError::from_error(code, error)
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

pub(crate) fn inherit(number: RawFd) -> Result<OwnedFd, ApiError> {
    host::inherit::take(number).map_err(|e| {
        let why = format!("Descriptor {number} was not left open for this process, or is named twice");
        ApiError::from_error(Code::InvalidConfig, &e).within(&why)
    })
}
